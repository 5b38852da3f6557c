"""Standard input by lines, at a terminal or in a pipe."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click


class InterruptedTwice(KeyboardInterrupt):
    """Ctrl-C once more, while a reply was stopping."""


class Lines:
    """Standard input by lines. At a terminal, if `decorated`, with prompts, a history and its own Ctrl-C."""

    def __init__(self, *, decorated: bool) -> None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        self.terminal = decorated and sys.stdin.isatty() and sys.stdout.isatty()
        if self.terminal:
            with suppress(ImportError):  # not everywhere; then lines cannot be edited
                import readline  # noqa: F401

    def read(self, prompt: str) -> str | None:
        """The next line, None at the end. At a terminal Ctrl-C drops the line that is being typed."""
        if not self.terminal:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        while True:
            try:
                return input(prompt)
            except EOFError:
                click.echo()
                return None
            except KeyboardInterrupt:
                click.echo()

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """At a terminal: gives a function that tells whether Ctrl-C was pressed; a second Ctrl-C interrupts."""
        noted = False

        def note(number: int, frame: FrameType | None) -> None:
            nonlocal noted
            if noted:
                raise InterruptedTwice
            noted = True

        if not self.terminal:
            yield lambda: False
            return
        previous = signal.signal(signal.SIGINT, note)
        try:
            yield lambda: noted
        finally:
            signal.signal(signal.SIGINT, previous)
