"""The time of a run."""

from __future__ import annotations

import time


class Clock:
    """Seconds since a run began, `offset_s` of them before this one went on with it."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.began = time.monotonic() - offset_s

    def now(self) -> float:
        return time.monotonic() - self.began

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
