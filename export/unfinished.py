"""The folder of an unfinished export: the next export to the same output goes on from it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType
from typing import TextIO

from edge_mtp.errors import EdgeMtpError
from edge_mtp.output_file import destination


class Parts:
    """`.NAME.parts` beside the output NAME, locked by one export at a time.

    Files in `folder` are kept for the next export, so each must be usable at any moment; files in `scratch` are not
    kept. The next export to the same output finds the folder. If its `identity` (all that decides the bytes of the
    bundle) is the same, the export goes on from there; if not, it empties the folder.

    The folder goes when the export ends, also when it ends with a refusal. It stays after an interrupt, when the disk
    or the memory ran out, and when the process was killed; an empty folder never stays.

    Args:
        output: the file that the export makes; only `publish` touches it.
        identity: text that changes with anything that would change the files in the folder.
        needed: the most bytes of disk that the export takes, the folder included.

    Raises:
        EdgeMtpError: on entering, the place does not allow it or an export is at work there; on leaving, it replaces
            an OSError or MemoryError.
        KeyboardInterrupt: on leaving, with a text for the user; it replaces one without.
    """

    def __init__(self, output: Path, identity: str, needed: int) -> None:
        self.output = output
        self._target = destination(output)
        self.folder = self._target.parent / f".{self._target.name}.parts"
        self.scratch = self.folder / "scratch"
        self._identity = identity
        self._needed = needed
        self._lock: TextIO | None = None

    def __enter__(self) -> Parts:
        if self.output.is_dir():
            raise EdgeMtpError(f"output {self.output} is a directory: give the name of a file in it")
        if self.output.exists() and not self.output.is_file():
            raise EdgeMtpError(f"output {self.output} is a device or a pipe, which a bundle would replace: name a file")
        try:
            self._lock = self._acquire()
            known = self.folder / "identity"
            goes_on = known.is_file() and known.read_text(encoding="utf-8") == self._identity
            if not goes_on:
                self._empty()
            try:
                self._renew_scratch()
                self._check_disk()
                if not goes_on:
                    known.write_text(self._identity, encoding="utf-8")
            except BaseException:
                self._leave(keep=goes_on)
                raise
        except OSError as error:
            raise EdgeMtpError(
                f"output {self.output} cannot be written ({error.strerror}): choose a directory you may write to"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keep = isinstance(error, (KeyboardInterrupt, OSError, MemoryError)) and self._bytes() > 0
        self._leave(keep)
        afterwards = "the same command goes on where it was" if keep else "nothing was finished"
        afterwards += f"; remove {self.folder} to start afresh" * keep
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted: {afterwards}") from error
        if isinstance(error, MemoryError):
            raise EdgeMtpError(f"memory ran out, close other programs: {afterwards}") from error
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cure = f"make room in {self.output.parent}" if full else "see that it can be written"
            raise EdgeMtpError(f"{self.output}: {error.strerror}, {cure}: {afterwards}") from error

    def publish(self, finished: Path) -> None:
        """Move a file of the folder to the output. The output is whole even if the power fails meanwhile."""
        with finished.open("rb") as file:
            os.fsync(file.fileno())
        finished.replace(self._target)

    def _acquire(self) -> TextIO:
        while True:
            try:
                self.folder.mkdir(exist_ok=True)
            except FileExistsError:
                raise self._foreign() from None
            try:
                status = self.folder.lstat()
                # The folder gets emptied and written to, so refuse a link, and a folder in which others may put links.
                if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                    raise self._foreign()
                lock = (self.folder / "lock").open("a")
            except FileNotFoundError:  # another export has just ended and removed the folder
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise EdgeMtpError(
                    f"another export is writing {self.output}: wait for it or choose another name"
                ) from None
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()

    def _foreign(self) -> EdgeMtpError:
        return EdgeMtpError(f"{self.folder} is no folder of yours, and the export works in it: remove it")

    def _leave(self, keep: bool) -> None:
        assert self._lock is not None, "entered"
        with self._lock:
            if keep:
                shutil.rmtree(self.scratch, ignore_errors=True)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _renew_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()

    def _bytes(self) -> int:
        """Bytes on the disk of the files that a next export can use."""
        own = {"lock", "identity"}
        return sum(p.stat().st_blocks * 512 for p in self.folder.iterdir() if p.is_file() and p.name not in own)

    def _check_disk(self) -> None:
        needed, free = self._needed - self._bytes(), shutil.disk_usage(self.folder).free
        if free < needed:
            raise EdgeMtpError(
                f"{self.folder.parent} has {free >> 20} MiB free, the export needs {-(-needed >> 20)} MiB:"
                " make room or write elsewhere"
            )
