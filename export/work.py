"""How far an export is, and how long each kind of work took."""

from __future__ import annotations

import time
from collections.abc import Callable

# Called as an export goes on: what it does, and the share of all the work that is done, 0 to 1.
Progress = Callable[[str, float], None]


class Work:
    """How much of an export is done, and how long each kind of work took.

    `plan` has the amount of work of each section, of which `begin` and `add` tell `report` the share.
    """

    def __init__(self, report: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.plan: dict[str, float] = {}
        self._report = report
        self._done = self._planned = 0.0
        self._kind, self._what, self._since = "", "", time.monotonic()

    def begin(self, kind: str, what: str) -> None:
        now = time.monotonic()
        if self._kind:
            self.seconds[self._kind] = self.seconds.get(self._kind, 0.0) + now - self._since
        self._kind, self._what, self._since = kind, what, now
        self.add(0)

    def section(self, name: str) -> None:
        """Begin a section: what was planned before it is done, and no more than it plans will be added."""
        self._done = self._planned
        self._planned += self.plan[name]

    def add(self, amount: float) -> None:
        self._done = min(self._done + amount, self._planned)
        self._report(self._what, self._done / (sum(self.plan.values()) or 1.0))

    def end(self) -> None:
        self.begin("", self._what)
        self._report(self._what, 1.0)
