"""Progress of files on their way to devices, on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edge_mtp.harness.stats.figures import size
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from edge_mtp.device.put import Transfer, TransferProgress

LINE_EVERY_S = 10.0


@contextmanager
def device_progress(names: int) -> Iterator[Callable[[str], TransferProgress]]:
    """Gives each device, by its name, a callback for its transfers; `names` is the number of devices. One device has a
    bar at a terminal; otherwise there is a line every 10 s with the device's name.
    """
    import sys

    if names > 1 or not sys.stderr.isatty():
        yield transfer_lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<28}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}

    def report(transfer: Transfer) -> None:
        bars.start()  # not before there is something to show: it takes the cursor away
        if transfer.what not in tasks:
            tasks[transfer.what] = bars.add_task(shown(transfer.what))
        bars.update(tasks[transfer.what], completed=transfer.done_bytes, total=transfer.total_bytes)

    try:
        yield lambda name: report
    finally:
        if tasks:
            bars.stop()


def transfer_lines(name: str) -> TransferProgress:
    """A callback that prints a line with the device's name every 10 s."""
    told: dict[str, float] = {}
    lock = threading.Lock()

    def report(transfer: Transfer) -> None:
        now = time.monotonic()
        with lock:
            first = told.setdefault(transfer.what, now) == now
            # What is over within a moment needs no line.
            if first or now - told[transfer.what] < LINE_EVERY_S:
                return
            told[transfer.what] = now
        rate = f", {size(round(transfer.bytes_per_s))}/s" if transfer.bytes_per_s else ""
        left = f", {transfer.seconds_left:.0f} s left" if transfer.seconds_left is not None else ""
        click.echo(shown(f"[{name}] {transfer.what} {transfer.fraction:.0%}{rate}{left}"), err=True)

    return report


def notice_for(name: str) -> Callable[[str], None]:
    """Writes to stderr what a device waits for."""
    return lambda line: click.echo(shown(line if name in line else f"[{name}] {line}"), err=True)
