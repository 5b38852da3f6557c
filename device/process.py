"""A running program, on this machine or on a device."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from edge_mtp.errors import EdgeMtpError

DIAGNOSTICS_BYTES = 16 << 10  # of standard error that are kept, from its end


class Process(ABC):
    """One running program. Reading, writing and killing may happen in different threads.

    When the link breaks, `lines` ends, and `wait` then raises EdgeMtpError with the cause.
    """

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process's number on the machine where it runs."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Writes all of `data` to standard input. Raises BrokenPipeError when the program no longer reads it."""

    @abstractmethod
    def close_input(self) -> None:
        """Closes standard input; harmless when it is already closed."""

    @abstractmethod
    def lines(self) -> Iterator[bytes]:
        """Yields the lines of standard output until it ends."""

    @abstractmethod
    def wait(self, timeout_s: float) -> int:
        """Waits for the exit code, or minus the number of the signal that ended the program. Raises TimeoutError, or
        EdgeMtpError when the link is lost."""

    @abstractmethod
    def kill(self) -> None:
        """Kills the program on the machine where it runs; harmless when it has already ended."""

    @abstractmethod
    def diagnostics(self) -> str:
        """The last part of what the program has written to standard error so far."""

    @abstractmethod
    def close(self) -> None:
        """Releases resources on this machine after the process has ended."""


class LocalProcess(Process):
    """A child process on this machine. Raises EdgeMtpError when it cannot be started."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        except OSError as error:
            self._errors.close()
            raise EdgeMtpError(f"cannot start '{command[0]}': {error.strerror}; reinstall edge-mtp") from error

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, data: bytes) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(data)
            self._child.stdin.flush()
        except ValueError as error:  # already closed on this side
            raise BrokenPipeError(str(error)) from error

    def close_input(self) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def lines(self) -> Iterator[bytes]:
        assert self._child.stdout is not None
        yield from self._child.stdout

    def wait(self, timeout_s: float) -> int:
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s:.0f} s") from error

    def kill(self) -> None:
        self._child.kill()

    def diagnostics(self) -> str:
        file = self._errors.fileno()
        # No seek and read: the program shares this file's position and writes there.
        start = max(0, os.fstat(file).st_size - DIAGNOSTICS_BYTES)
        return os.pread(file, DIAGNOSTICS_BYTES, start).decode(errors="replace")

    def close(self) -> None:
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._errors.close()
