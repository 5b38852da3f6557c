"""What the verbs that measure arms have in common: answerers, the results file, progress."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from edge_mtp.device.put import TransferProgress
    from edge_mtp.engine import Engine
    from edge_mtp.harness.ask.answerer import Answerer
    from edge_mtp.harness.ask.arm import Arm
    from edge_mtp.harness.ask.item import Item
    from edge_mtp.harness.record.results import Results, ResultsWriter, Run


def open_results(
    path: Path, run: Run, items: Mapping[str, Item], *, resume: bool
) -> tuple[ResultsWriter, Results | None]:
    """A writer of a new results file, or with `resume` of one that is there, and what that holds already.

    Raises EdgeMtpError where the file is of another run or other items, is there without `resume`, or cannot be
    written.
    """
    from edge_mtp.harness.record.provenance import check_resumable
    from edge_mtp.harness.record.results import ResultsWriter, read_results

    if not (resume and path.exists()):
        return ResultsWriter.create(path, run, items), None
    old = read_results(path)
    check_resumable(old.run, run, str(path))
    _check_items(old, items, path)
    return ResultsWriter.resume(path), old


def _check_items(old: Results, items: Mapping[str, Item], path: Path) -> None:
    """Raises EdgeMtpError where the items of the results are not these."""
    before = {name: item.to_json() for name, item in old.items.items()}
    now = json.loads(json.dumps({name: item.to_json() for name, item in items.items()}))
    if before != now:
        other = next((name for name in [*now, *before] if before.get(name) != now.get(name)), "")
        raise EdgeMtpError(f"results '{path}' are of other prompts: '{other}' changed; give another --output")


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Around a run that writes to `path`: what ends it says how to go on, where there is something to go on with."""
    try:
        yield
    except (EdgeMtpError, KeyboardInterrupt) as error:
        is_error = isinstance(error, EdgeMtpError)
        if not path.exists():
            if is_error:
                raise
            raise KeyboardInterrupt("Interrupted before anything was measured.") from None
        cure = f"{path} holds what was answered: go on with --resume -o {shlex.quote(str(path))}"
        raise EdgeMtpError(f"{error}; {cure}") if is_error else KeyboardInterrupt(f"Interrupted; {cure}") from None


@contextmanager
def measured_engine(bundle: Path, device: str, *, threads: int | None) -> Iterator[Engine]:
    """`open_engine`; what is shown of files on their way is gone when the engine is there."""
    from edge_mtp.cli.device_progress import device_progress, notice_for
    from edge_mtp.engine import open_engine

    with device_progress(1) as report:
        engine = open_engine(bundle, device, threads=threads, notice=notice_for(device), report=report(device))
    with engine:
        yield engine


def open_answerers(stack: ExitStack, arms: list[Arm], *, margins: bool, began: float | None = None) -> list[Answerer]:
    """An answerer for each arm, in their order; they end with `stack`. `began`: when the run did, in monotonic time;
    now, by default."""
    from edge_mtp.cli.device_progress import device_progress, notice_for
    from edge_mtp.harness.ask.litert_lm_engine import open_litert_lm_engines
    from edge_mtp.harness.ask.runner_engine import open_runner_engines

    began = time.monotonic() if began is None else began
    ours = [arm for arm in arms if arm.engine == "ours"]
    stock = [arm for arm in arms if arm.engine == "litert-lm"]
    opening = True
    with device_progress(len({arm.device for arm in arms})) as shown:

        def report(name: str) -> TransferProgress:
            show = shown(name)
            # An engine that is started again later finds its files there, and a bar of the run itself on the screen.
            return lambda progress: show(progress) if opening else None

        answerers: list[Answerer] = [
            *stack.enter_context(
                open_runner_engines(ours, margins=margins, began=began, notice=notice_for, report=report)
            ),
            *(stack.enter_context(open_litert_lm_engines(stock, began=began)) if stock else []),
        ]
    opening = False
    by_label = {answerer.arm.label: answerer for answerer in answerers}
    return [by_label[arm.label] for arm in arms]


def are_tiny(arms: Iterable[Arm]) -> bool:
    """Whether all run the built-in tiny model, which knows no prompts but its own."""
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.harness.ask.tiny_pair import is_tiny

    return all(is_tiny(Bundle(path)) for path in {arm.path for arm in arms})


def by_id(sets: Iterable[tuple[str, Iterable[Item]]]) -> dict[str, Item]:
    """The items of some sets, each with its name. Raises EdgeMtpError where two have one id."""
    items: dict[str, Item] = {}
    for name, of_set in sets:
        for item in of_set:
            if item.id in items:
                raise EdgeMtpError(f"'{name}': item '{item.id}' is there twice; give each item an id of its own")
            items[item.id] = item
    return items


def results_path(kind: str, output: Path | None, *, resume: bool) -> Path:
    """Where results go. Raises UsageError where there is nothing named to go on with."""
    if resume and output is None:
        raise click.UsageError("--resume goes on with the results in --output; name them.")
    return output or Path(time.strftime(f"{kind}-%Y%m%d-%H%M%S.jsonl"))


def tell(path: Path, *, as_json: bool) -> None:
    """What the results at `path` say, on standard output.

    Raises EdgeMtpError where an arm refused all that it was asked: it was not measured, whatever the others were.
    """
    from edge_mtp.harness.analyse.analysis import analyse
    from edge_mtp.harness.record.results import read_results
    from edge_mtp.harness.tell.summary_table import show

    analysis = analyse(read_results(path))
    if as_json:
        click.echo(json.dumps({"results": str(path), **analysis.to_json()}))
    else:
        show(analysis)
        click.echo()
        click.echo(shown(f"results in {path}; see them with: edge-mtp report {shlex.quote(str(path))}"))
    for arm, reason in analysis.refused.items():
        raise EdgeMtpError(f"arm '{arm}' refused everything: {reason}")


def command_line() -> str:
    """The command that this is, to be given again."""
    return shlex.join(["edge-mtp", *sys.argv[1:]])
