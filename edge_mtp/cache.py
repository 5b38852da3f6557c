"""The cache of files that edge-mtp can make again.

Anything may lie under an entry's name: a folder, a link, a pipe, a truncated or changed file. That is no error: the
entry counts as missing, and a new one replaces it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

SUM_BYTES = 32


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/edge-mtp`, else `~/.cache/edge-mtp`. It may not exist yet, and is safe to delete at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-mtp"


def kept(path: Path) -> bytes | None:
    """The content that `keep` wrote to `path`; None if the file is missing or is not what `keep` wrote."""
    try:
        # Opening never waits (for a pipe, say) and follows no link.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read()
    except OSError:
        return None
    content = data[SUM_BYTES:]
    return content if data[:SUM_BYTES] == hashlib.sha256(content).digest() else None


def keep(path: Path, content: bytes) -> None:
    """Writes the sha256 of `content` and then `content`, atomically. Does nothing if the file cannot be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            replace_entry(part, path)
        finally:
            part.unlink(missing_ok=True)


def replace_entry(part: Path, path: Path) -> None:
    """Moves the file `part` to the entry `path`, and replaces whatever is there. Raises OSError."""
    clear_entry(path)
    part.replace(path)


def clear_entry(path: Path) -> None:
    """Removes a folder, which a file cannot replace, and a link, so that nothing writes through it."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


@contextlib.contextmanager
def exclusive(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Locks a folder against other processes that call this for the same folder.

    If another process has the lock, calls `waiting`, then waits until that process releases it or dies. On a file
    system without such locks, nothing is locked. Raises OSError if the folder does not exist.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
