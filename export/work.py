"""The progress of an export."""

from __future__ import annotations

import time

from edge_mtp.progress import Progress


class Work:
    """How much of an export is done, and the seconds that each kind of work took.

    `plan` has the amount of work of each section. `begin` and `add` pass the share that is done to `progress`.
    """

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.plan: dict[str, float] = {}
        self._progress = progress
        self._done = self._planned = 0.0
        self._kind, self._what, self._since = "", "", time.monotonic()

    def begin(self, kind: str, what: str) -> None:
        now = time.monotonic()
        if self._kind:
            self.seconds[self._kind] = self.seconds.get(self._kind, 0.0) + now - self._since
        self._kind, self._what, self._since = kind, what, now
        self.add(0)

    def section(self, name: str) -> None:
        """Begin a section: all sections before it are done, and `add` stops at the end of its own plan."""
        self._done = self._planned
        self._planned += self.plan[name]

    def add(self, amount: float) -> None:
        self._done = min(self._done + amount, self._planned)
        self._progress(self._what, self._done / (sum(self.plan.values()) or 1.0))

    def end(self) -> None:
        self.begin("", self._what)
        self._progress(self._what, 1.0)
