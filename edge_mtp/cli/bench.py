"""`edge-mtp bench`: how fast every arm answers the same prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.cli.arm_options import ArmChoice, arm_options, words
from edge_mtp.cli.device_progress import notice_for
from edge_mtp.cli.measuring import (
    are_tiny,
    by_id,
    command_line,
    open_answerers,
    open_results,
    results_path,
    resumable,
    tell,
)
from edge_mtp.cli.option_groups import GroupedCommand, option_group
from edge_mtp.formats.defaults import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from edge_mtp.harness.ask.arm import Arm
    from edge_mtp.harness.ask.item import Item
    from edge_mtp.harness.record.results import Results, ResultsWriter
    from edge_mtp.harness.run.bench import Schedule
    from edge_mtp.harness.run.cool_down import Limits
    from edge_mtp.harness.run.progress import RunProgress

DEFAULT_ROUNDS = 4
LEVELS = ("light", "moderate", "severe", "off")
LINE_EVERY_S = 10.0

_work = option_group("Workload")
_order = option_group("Schedule")
_heat = option_group("Heat")
_output = option_group("Output")


def _limit(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str | None, float] | None:
    """A sensor's name or None, and degrees Celsius."""
    if value is None:
        return None
    name, found, celsius = value.rpartition("=")
    try:
        degrees = float(celsius)
    except ValueError:
        degrees = 0.0
    if not 0 < degrees < 200 or (found and not name):
        raise click.BadParameter(f"'{value}' is not [SENSOR=]CELSIUS, such as 42 or skin=38.5")
    return name or None, degrees


@click.command(cls=GroupedCommand)
@_work(
    "--workload", "workloads", multiple=True, metavar="NAMES|FILE",
    help="A comma list of chat, tool_call, summarise, code, copy, multi_turn, long_prompt, all, tiny; or a JSONL file"
    " (docs/suites.md); may be repeated. Default: all, or tiny for the built-in tiny model, which knows no other.",
)  # fmt: skip
@_work("--limit", type=click.IntRange(1), metavar="N", help="Use only the first N prompts of each workload.")
@_work("--max-tokens", type=click.IntRange(1), default=DEFAULT_MAX_TOKENS, show_default=True, metavar="N",
       help="Most tokens in a reply.")  # fmt: skip
@arm_options(mtp="off,auto")
@_order("--rounds", type=click.IntRange(1), default=DEFAULT_ROUNDS, show_default=True, metavar="N",
        help="How often each arm answers each prompt.")  # fmt: skip
@_order("--warm-up", type=click.IntRange(0), default=1, show_default=True, metavar="N",
        help="Answers of each arm, for each shape of prompt, to discard first.")  # fmt: skip
@_order("--sustained", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
        help="Repeat the prompts without a pause for this time, instead of --rounds.")  # fmt: skip
@_order("--simulate-acceptance", "acceptance", type=click.FloatRange(0, 1), metavar="A",
        help="Simulate a drafter whose drafts are right with this probability: replay the plain text.")  # fmt: skip
@_heat("--thermal", type=click.Choice(LEVELS), default="light", show_default=True,
       help="Wait while the device's thermal status is at this level or worse.")  # fmt: skip
@_heat("--max-temperature", callback=_limit, metavar="[SENSOR=]CELSIUS",
       help="Wait while this sensor is hotter; default SENSOR: the skin, or else the processor.")  # fmt: skip
@_heat("--cool-down", type=click.FloatRange(0), default=0.0, show_default=True, metavar="SECONDS",
       help="Pause before each answer.")  # fmt: skip
@_output("--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
         help="The JSONL file for the results; default: bench-DATE-TIME.jsonl.")  # fmt: skip
@_output("--resume", is_flag=True, help="Continue an interrupted run whose results are in --output.")
@_output("--json", "as_json", is_flag=True, help="Print the analysis as one JSON object instead of text.")
def bench(
    workloads: tuple[str, ...],
    limit: int | None,
    max_tokens: int,
    rounds: int,
    warm_up: int,
    sustained: float | None,
    acceptance: float | None,
    thermal: str,
    max_temperature: tuple[str | None, float] | None,
    cool_down: float,
    output: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how fast a model answers: every arm answers the same prompts, in turn.

    Arms take turns on each prompt, and the order is reversed each time, so a machine that slows down slows all arms
    alike. The command times first tokens, decoding and tool calls, counts drafts and reads sensors. It compares arms by
    the ratios of their times on the same prompt.

    \b
    edge-mtp bench --mtp off,auto,3 --engine ours,litert-lm
    edge-mtp bench --bundle model.litertlm --device pixel --workload chat,tool_call --cool-down 5 -o results.jsonl
    edge-mtp bench --bundle model.litertlm --device pixel --sustained 20
    edge-mtp report results.jsonl
    """
    path = results_path("bench", output, resume=resume)
    if sustained is not None:
        _check_sustained()
    from edge_mtp.harness.ask.simulated_drafts import plain_siblings
    from edge_mtp.harness.record.provenance import new_run
    from edge_mtp.harness.run.bench import Schedule
    from edge_mtp.harness.run.cool_down import STATUSES, Limits

    arms, baseline = ArmChoice.take(options).resolve()
    plain = plain_siblings(arms) if acceptance is not None else []
    workloads = workloads or ("tiny" if are_tiny(arms) else "all",)
    items = by_id((name, _items(name, limit)) for name in workloads)
    settings = {
        "items": len(items), "limit": limit, "rounds": rounds, "max_tokens": max_tokens, "warm_up": warm_up,
        "cool_down_s": cool_down, "thermal": thermal, "max_temperature": max_temperature and list(max_temperature),
        "sustained_min": sustained,
    }  # fmt: skip
    if sustained is not None:
        for name in ("rounds", "cool_down_s", "thermal", "max_temperature"):
            settings[name] = None
    run = new_run(
        "bench", arms, baseline, command=command_line(), suite=", ".join(workloads), settings=settings,
        simulated=acceptance, notice=notice_for,
    )  # fmt: skip
    schedule = Schedule(rounds, max_tokens, warm_up, cool_down, None if sustained is None else sustained * 60)
    sensor, celsius = max_temperature or (None, None)
    limits = Limits(None if thermal == "off" else STATUSES.index(thermal), celsius, sensor)
    writer, old = open_results(path, run, items, resume=resume)
    with resumable(path), writer:
        _measure(arms, plain, items, writer, schedule, limits, acceptance, old)
    tell(path, as_json=as_json)


def _measure(
    arms: list[Arm],
    plain: list[Arm],
    items: dict[str, Item],
    writer: ResultsWriter,
    schedule: Schedule,
    limits: Limits,
    acceptance: float | None,
    old: Results | None,
) -> None:
    from edge_mtp.harness.ask.simulated_drafts import SimulatedDrafts
    from edge_mtp.harness.run import bench as harness
    from edge_mtp.harness.run.cool_down import CoolDown
    from edge_mtp.harness.run.sensor_log import Clock, SensorLog, reader

    with ExitStack() as stack:
        clock = Clock(_last_moment(old))
        opened = open_answerers(stack, [*arms, *plain], margins=False, began=clock.began)
        answerers, siblings = opened[: len(arms)], opened[len(arms) :]
        devices = dict.fromkeys(answerer.arm.device for answerer in answerers)
        readers = {name: reader([each for each in answerers if each.arm.device == name]) for name in devices}
        sensor_logs = [stack.enter_context(SensorLog(name, read, clock)) for name, read in readers.items()]
        prepared: dict[str, Any] = {}
        if acceptance is not None:
            prepared["prepare"] = SimulatedDrafts(siblings, acceptance, max_tokens=schedule.max_tokens).give
        harness.bench(
            answerers,
            list(items.values()),
            writer,
            schedule,
            clock=clock,
            cool_downs=[CoolDown(log.device, limits, log.latest, clock) for log in sensor_logs],
            sensor_logs=sensor_logs,
            answered=old.answers if old is not None else (),
            progress=stack.enter_context(_shown_progress()),
            **prepared,
        )


def _check_sustained() -> None:
    source = click.get_current_context().get_parameter_source
    for name in ("rounds", "cool_down", "thermal", "max_temperature"):
        if source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"--sustained runs without rounds and pauses, so {option} contradicts it; drop one.")


def _items(name: str, limit: int | None) -> list[Item]:
    """Those of a comma list of workloads, or of a file."""
    from edge_mtp.harness.ask.suites import workload

    return workload([name] if name.endswith(".jsonl") else words(name), limit)


def _last_moment(old: Results | None) -> float:
    """Seconds since the run began, up to its last record."""
    if old is None:
        return 0.0
    ends = [answer.at_s + answer.total_us / 1e6 for answer in old.answers]
    return max([0.0, *ends, *(sample.at_s for sample in old.samples), *(p.at_s + p.seconds for p in old.pauses)])


@contextmanager
def _shown_progress() -> Iterator[RunProgress]:
    """A bar on a terminal, now and then a line elsewhere; both on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from edge_mtp.harness.run.progress import RunProgress

    console = Console(stderr=True, highlight=False)

    class Lines(RunProgress):
        def __init__(self) -> None:
            self._due = 0.0

        def step(self, done: float, total: float, what: str) -> None:
            if time.monotonic() >= self._due or done >= total:
                self._due = time.monotonic() + LINE_EVERY_S
                click.echo(f"[{done / total:4.0%}] {what}", err=True)

        def note(self, line: str) -> None:
            click.echo(line, err=True)

    class Bar(RunProgress):
        def __init__(self, bars: Bars) -> None:
            self._bars = bars
            self._task = bars.add_task("", total=None)

        def step(self, done: float, total: float, what: str) -> None:
            self._bars.update(self._task, completed=done, total=total, description=escape(what))

        def note(self, line: str) -> None:
            self._bars.console.print(line, markup=False)

    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        yield Bar(bars)
