"""Bytes both ways between this machine and one service of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Stream(ABC):
    """One thread may read while another writes; `close` wakes both.

    Reading and writing raise EdgeMtpError, one line with the cause, when the link breaks.
    """

    chunk_bytes: int  # the best size of one write

    @abstractmethod
    def read(self) -> bytes | bytearray:
        """Waits for data and returns it, at least one byte; empty at the end of the stream."""

    @abstractmethod
    def write(self, head: bytes, body: bytes | memoryview = b"") -> None:
        """Sends all of `head`, then all of `body`. Raises BrokenPipeError when the other side has ended the stream."""

    @abstractmethod
    def close(self) -> None:
        """Ends the stream on both sides; harmless when it has already ended."""
