"""What a machine that is not this one must be able to do for us: run programs and take files.

Over it lies everything that does not care how the machine is reached: `RemoteDevice` and what it is made of.
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
    """A program that has ended. `exit_code` as the shell tells it: 128 + n after signal n."""

    exit_code: int
    output: bytes
    errors: bytes


class Link(ABC):
    """An open connection to one machine. Methods may be called from several threads.

    All raise EdgeMtpError, one line with the cure, when the machine is out of reach or refuses, and never wait
    longer than their `timeout_s` without a sign of life.
    """

    name: str  # as a person would ask for it: a serial, host:port, user@board

    @abstractmethod
    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        """Runs a program to its end. A list is quoted word by word; a string is given to the shell as it is."""

    @abstractmethod
    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Starts a program whose streams stay connected. It ends when the link does."""

    @abstractmethod
    def append(self, chunks: Iterator[bytes], path: str) -> None:
        """Writes `chunks` behind the end of the file `path`, which is made if need be. What arrived stays there
        when the link breaks."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection; harmless when it is closed."""

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def quote(command: Sequence[str]) -> str:
    """One shell word for each of `command`, whatever is in it: spaces, quotes, `$()`, newlines."""
    return " ".join(shlex.quote(word) for word in command)
