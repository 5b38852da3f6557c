"""How a measurement tells a person how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called with how much is done, and of how much.
CountProgress: TypeAlias = Callable[[int, int], None]
# Called with the name of a stage, how much of it is done, and of how much.
StageProgress: TypeAlias = Callable[[str, int, int], None]


class RunProgress:
    """What a person sees of a run that takes long; the default is nothing."""

    def step(self, done: float, total: float, what: str) -> None:
        """So much of the run is done: answers, or seconds of a sustained run. The last call says that all of it is."""

    def note(self, line: str) -> None:
        """Something happened that a person wants to know."""
