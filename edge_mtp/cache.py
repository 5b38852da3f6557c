"""Where edge-mtp keeps what it can make again.

What stands under an entry's name may be anything: a folder, a link, a pipe, a file that was cut or changed. That is no
error, only an entry that is not there, and the next one takes its place.
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
    """`$XDG_CACHE_HOME/edge-mtp`, else `~/.cache/edge-mtp`; it may not exist yet. Safe to delete at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-mtp"


def kept(path: Path) -> bytes | None:
    """What `keep` wrote to `path`; None where that is not what lies there."""
    try:
        # Never waits, as for a pipe, and follows no link.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read()
    except OSError:
        return None
    content = data[SUM_BYTES:]
    return content if data[:SUM_BYTES] == hashlib.sha256(content).digest() else None


def keep(path: Path, content: bytes) -> None:
    """Writes `content` behind its sha256, whole or not at all. Where it cannot be kept, nothing happens."""
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
    """Puts the file `part` in the place of the entry `path`, whatever stands there. Raises OSError."""
    clear_entry(path)
    part.replace(path)


def clear_entry(path: Path) -> None:
    """Removes what no file could take the place of: a folder, and a link before it is written through."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


@contextlib.contextmanager
def exclusive(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a folder against other processes that ask for the same.

    Where one has it, `waiting` is called, and this waits until that process is done or dead. A file system without such
    locks holds nobody off. Raises OSError where there is no such folder.
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
