"""A run's analysis at a terminal: readable in 80 columns and without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_mtp.harness.analyse.analysis import NO_SPEED, Analysis, refusal
from edge_mtp.harness.analyse.latency import Distribution
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.stats.figures import NONE, factor, interval, milliseconds, percent, points, rate
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.headline import SIGNS, Headline, headlines, is_identical
from edge_mtp.safe_text import shown, shown_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_ERRORS = 3


def show(analysis: Analysis) -> None:
    """Prints the summary on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in summary(analysis):
        console.print(part)


def summary(analysis: Analysis) -> list[RenderableType]:
    """Speed, tool calls, and what they say of each pair of arms; what was not measured is left out, as is the speed of
    an eval."""
    from rich.text import Text

    parts: list[RenderableType] = []
    if table := _speed_table(analysis):
        parts.append(table)
    if table := _calls_table(analysis):
        parts.append(table)
    found = headlines(analysis)
    if found:
        parts.append(_pairs_table(found))
        told = {each.arm: each.echoes for each in analysis.calls if each.echoes is not None}
        if told:
            parts.append(Text(shown(f"MTP changed no word of {'; '.join(told)}.")))
        parts += [
            Text(shown(f"{each.arm} against {each.base}: {each.calls.explanation}"))
            for each in found
            if each.calls is not None and told.get(each.arm) != each.base
        ]
    parts += [Text(shown(refusal(arm, reason))) for arm, reason in analysis.refused.items()]
    if not parts:
        return [Text("no arm has answered anything yet")]
    parts += [Text(shown(f"{arm}: {sentence}")) for arm, sentence in analysis.misfits.items()]
    if analysis.run.simulated is not None:
        parts.insert(0, Text(simulated_notice(analysis.run.simulated), style="bold"))
    return parts if analysis.run.measures_speed else [*parts, Text(NO_SPEED)]


def simulated_notice(acceptance: float) -> str:
    return (
        f"SIMULATED: no drafter made these drafts. Plain text was replayed as drafts, {percent(acceptance)} of them "
        "right, so speeds say what a drafter of that acceptance would bring, and nothing of this one."
    )


def _speed_table(analysis: Analysis) -> Table | None:
    latencies = [each for each in analysis.latencies if each.kind is None and each.answers]
    if not latencies or not analysis.run.measures_speed:
        return None
    thinks = any(each.thoughts for each in latencies)
    rows = [
        [
            each.arm,
            _median(each.first_token),
            *([_median(each.first_answer)] if thinks else []),
            _median(each.call),
            _estimate(each.decode_tokens_per_s),
            _per_verify(each.tokens_per_verify),
            str(each.failed),
        ]
        for each in latencies
    ]
    answer = ["first of answer ms"] if thinks else []
    header = ["arm", "first token ms", *answer, "call ms", "tokens/s", "tokens a verify", "failed"]
    return _table("Speed (medians, 95% intervals)", header, rows)


def _calls_table(analysis: Analysis) -> Table | None:
    if not analysis.calls:
        return None
    rows = []
    for each in (each for each in analysis.calls if each.echoes is None):
        worst = sorted((e for e in each.errors if e.primary), key=lambda e: -e.primary)
        more = sum(e.primary for e in worst[MOST_ERRORS:])
        named = [f"{e.label}\u00a0{e.primary}" for e in worst[:MOST_ERRORS]] + ([f"other\u00a0{more}"] if more else [])
        exact = f"{percent(each.exact.value)}\n{interval(each.exact, 1, 100)}"
        rows.append(
            [each.arm, f"{each.items:,}", exact, percent(each.lenient_share.value), ", ".join(named) or "nothing"]
        )
    return _table("Tool calls", ["arm", "items", "exact", "forgiving", "what goes wrong first"], rows)


def _pairs_table(found: list[Headline]) -> Table:
    has_speed = any(each.speed is not None for each in found)
    rows = []
    for each in found:
        row = [each.arm, each.base]
        if has_speed:
            row += _speed_cells(each)
        calls = each.calls
        rows.append([*row, f"{SIGNS[each.calls_tone]} {calls.verdict}\n{_difference(calls)}" if calls else NONE])
    header = ["arm", "against", *(["speed-up", "slower"] if has_speed else []), "tool calls"]
    return _table("One arm against another", header, rows)


def _speed_cells(each: Headline) -> list[str]:
    speed = each.speed
    if speed is None:
        return [NONE, NONE]
    return [
        f"{SIGNS[each.speed_tone]} {factor(speed.ratio.value)}\n{interval(speed.ratio, 2)}",
        percent(speed.slower.value),
    ]


def _difference(calls: Comparison) -> str:
    return "word for word" if is_identical(calls) else points(calls.difference)


def _table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    for index, name in enumerate(header):
        is_words = index == 0 or name in ("against", "tool calls", "what goes wrong first")
        table.add_column(name, justify="left" if is_words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown_lines(cell)) for cell in row))  # as it is: a label may look like markup
    return table


def _median(distribution: Distribution | None) -> str:
    return NONE if distribution is None else milliseconds(distribution.p50)


def _estimate(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{rate(estimate.value)}\n{rate(estimate.low)} to {rate(estimate.high)}"


def _per_verify(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{estimate.value:.2f}\n{interval(estimate, 2)}"
