"""What a person sees of a long export."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LINE_EVERY_S = 10.0


@contextmanager
def export_progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, now and then a line elsewhere; both on stderr, with percent and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<28}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("check checkpoints", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _lines() -> Callable[[str, float], None]:
    started = time.monotonic()
    last = ("", started)

    def line(what: str, done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if what == last[0] and now - last[1] < LINE_EVERY_S:
            return
        last = (what, now)
        elapsed = now - started
        left = f", {elapsed * (1 - done) / done:.0f} s left" if done > 0.02 else ""
        click.echo(f"[{done:4.0%}] {what} ({elapsed:.0f} s{left})", err=True)

    return line
