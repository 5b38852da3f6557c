"""Progress of long work on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from edge_mtp.progress import Progress
from edge_mtp.safe_text import shown

LINE_EVERY_S = 10.0


@contextmanager
def export_progress() -> Iterator[Progress]:
    """Takes the current work and the share done, 0 to 1. Elsewhere than on a terminal a line every 10 s."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=console, transient=True) as bar:
        task = bar.add_task("check checkpoints", total=1.0)
        yield lambda what, done: bar.update(task, description=shown(what), completed=done)


@contextmanager
def count_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Takes the number done and their total. Elsewhere than on a terminal a line every tenth, and at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(done: int, total: int) -> None:
            if done % max(1, total // 10) == 0 or done == total:
                click.echo(f"{what}: {done} of {total}", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Takes a stage, the number done in it and their total. Elsewhere than on a terminal a line a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(stage: str, done: int, total: int) -> None:
            if done == 0:
                click.echo(shown(f"{stage}: 0 of {total}"), err=True)

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            for other, task in tasks.items():
                bars.update(task, visible=other == stage)
            if stage not in tasks:
                tasks[stage] = bars.add_task(shown(stage), total=total)
            bars.update(tasks[stage], completed=done)

        yield update


def _lines() -> Progress:
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
        click.echo(shown(f"[{done:4.0%}] {what} ({elapsed:.0f} s{left})"), err=True)

    return line
