"""What the verbs that measure arms have in common: contenders, the results file, progress."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge_mtp.device.put import Report
    from edge_mtp.harness.arm import Arm
    from edge_mtp.harness.contender import Contender
    from edge_mtp.harness.item import Item
    from edge_mtp.harness.results import Results, ResultsWriter, Run


def open_results(
    path: Path, run: Run, items: Mapping[str, Item], *, resume: bool
) -> tuple[ResultsWriter, Results | None]:
    """A writer of a new results file, or with `resume` of one that is there, and what that holds already.

    Raises EdgeMtpError where the file is of another run, or is there without `resume`.
    """
    from edge_mtp.harness.provenance import check_resumable
    from edge_mtp.harness.results import ResultsWriter, read_results

    if not (resume and path.exists()):
        return ResultsWriter.create(path, run, items), None
    old = read_results(path)
    check_resumable(old.run, run, str(path))
    return ResultsWriter.resume(path), old


def open_contenders(stack: ExitStack, arms: list[Arm], *, margins: bool, began: float | None = None) -> list[Contender]:
    """A contender for each arm, in their order; they end with `stack`. `began`: when the run did, in monotonic time;
    now, by default."""
    from edge_mtp.cli.device_progress import device_progress, notice_for
    from edge_mtp.harness.ours import open_ours
    from edge_mtp.harness.stock import open_stock

    began = time.monotonic() if began is None else began
    ours = [arm for arm in arms if arm.engine == "ours"]
    stock = [arm for arm in arms if arm.engine == "litert-lm"]
    opening = True
    with device_progress(len({arm.device for arm in arms})) as shown:

        def report(name: str) -> Report:
            show = shown(name)
            # An engine that is started again later finds its files there, and a bar of the run itself on the screen.
            return lambda progress: show(progress) if opening else None

        contenders: list[Contender] = [
            *stack.enter_context(open_ours(ours, margins=margins, began=began, notice=notice_for, report=report)),
            *(stack.enter_context(open_stock(stock, began=began)) if stock else []),
        ]
    opening = False
    by_label = {contender.arm.label: contender for contender in contenders}
    return [by_label[arm.label] for arm in arms]


def command_line() -> str:
    """The command that this is, to be given again."""
    return shlex.join(["edge-mtp", *sys.argv[1:]])


@contextmanager
def questions_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every tenth of the way elsewhere; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(done: int, total: int) -> None:
            if done % max(1, total // 10) == 0 and done < total:
                click.echo(f"{done} of {total} answered", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
