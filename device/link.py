"""The interface to another machine: it runs programs and takes files.

`RemoteDevice` and its parts are built on it, so they work the same however the machine is reached.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from edge_mtp.device.process import Process


@dataclass(frozen=True)
class Completed:
    """A program that has ended. `exit_code` is the shell's: 128 + n after signal n."""

    exit_code: int
    output: bytes
    errors: bytes


class Link(ABC):
    """An open connection to one machine. Methods may be called from several threads.

    All raise EdgeMtpError, one line with the remedy, when the machine is out of reach or refuses. None waits longer
    than its `timeout_s` for a sign of life.
    """

    name: str  # as the user writes it: a serial, host:port, user@board

    @abstractmethod
    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        """Runs a program to its end. A list is quoted word by word; a string is given to the shell as it is."""

    @abstractmethod
    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Starts a program whose streams stay connected. It ends when the link does."""

    @abstractmethod
    def append(self, chunks: Iterator[bytes], path: str) -> None:
        """Appends `chunks` to the file `path`, which is created if it does not exist. Data that arrived before the link
        breaks stays there."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection; harmless when it is already closed."""

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def quote(command: Sequence[str]) -> str:
    """Quotes each part of `command` as one shell word, even with spaces, quotes, `$()` or newlines in it."""
    return " ".join(shlex.quote(word) for word in command)
