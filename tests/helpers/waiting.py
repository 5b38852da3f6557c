"""Waiting for what happens elsewhere: in another thread or in a process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], within_s: float = 60.0, every_s: float = 0.002) -> None:
    """Waits, as long as a loaded machine may take."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def ends(pid: int, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(pid)


def children(pid: int) -> list[int]:
    """Of a process, and of those."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *children(int(path.parent.name))]
    return found
