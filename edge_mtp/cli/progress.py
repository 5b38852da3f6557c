"""What a person sees of a long export."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def export_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a plain line a stage elsewhere; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        started = time.monotonic()

        def line(stage: str, done: int, total: int) -> None:
            click.echo(f"[{done + 1}/{total}] {stage} ({time.monotonic() - started:.0f} s)", err=True)

        yield line
        return
    columns = (
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("check checkpoints", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield show
