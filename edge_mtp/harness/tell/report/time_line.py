"""The time line of a report: one reply, step by step, under several arms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from edge_mtp.formats.drafting import SOURCE_OF_LETTER
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.stats.figures import milliseconds
from edge_mtp.harness.tell.report.drawing import MOST_LETTERS, TEXT, WIDE, caption, new_figure, ticks
from edge_mtp.harness.tell.report.svg import Chart, Key, chart, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCE_NAMES = {"d": "the drafter", "l": "look-up", "g": "the grammar"}
STEP_KEYS = {
    "own": "the target's own token",
    "drafter": "accepted from the drafter",
    "lookup": "from look-up",
    "grammar": "from the grammar",
    "rejected": "rejected",
}
_CELL = 15  # CSS pixels, the height of a token


class Lane(NamedTuple):
    """One answer on a time line."""

    label: str
    answer: Answer


def draw_time_line(name: str, title: str, lanes: Sequence[Lane]) -> Chart:
    """One reply under some arms on the same clock: a column a step, as wide as the step took.

    Above the line stand the tokens that it gave out, accepted drafts first, then the target's own; below it the drafts
    that were rejected. The line is dark for the part of the time that went into drafting.
    """
    end = max(sum(step.total_us for step in lane.answer.steps) for lane in lanes) / 1000
    pixel = end / WIDE
    tips: dict[str, str] = {}
    tall = [_above(lane.answer.steps) for lane in lanes]
    deep = [_below(lane.answer.steps) for lane in lanes]
    with new_figure(WIDE, 42 + sum(36 + _CELL * (up + down) for up, down in zip(tall, deep, strict=True))) as (
        figure,
        axes,
    ):
        y = 0.0
        for number, lane in enumerate(lanes):
            steps = lane.answer.steps
            caption(axes, y + 14, lane.label, _lane_figure(steps), MOST_LETTERS * 2)
            line, at = y + 24 + _CELL * tall[number], 0.0
            for index, (step, words) in enumerate(zip(steps, told(lane), strict=True)):
                width = step.total_us / 1000
                gid = f"step-{number}-{index}"
                tips[gid] = words
                _column(axes, gid, at, max(width - 2 * pixel, 0.7 * width), line, step, pixel)
                at += width
            y = line + 12 + _CELL * deep[number]
        axes.set_ylim(y, 0)
        axes.set_xlim(0, end)
        ticks(axes, 0, end, False)
        axes.set_xlabel("milliseconds since the prompt was read")
        axes.grid(axis="x")
        said = "; ".join(f"{lane.label}: {_lane_figure(lane.answer.steps)}" for lane in lanes)
        drawn = chart(figure, name, title, f"One reply, step by step. {said}.", tips)
        roles = {role for lane in lanes for step in lane.answer.steps for role in _roles(step)}
        return replace(drawn, keys=tuple(Key(role, text, "box") for role, text in STEP_KEYS.items() if role in roles))


def _above(steps: Sequence[StepFigures]) -> int:
    return max(step.tokens for step in steps)


def _below(steps: Sequence[StepFigures]) -> int:
    return max(len(step.source) - step.accepted for step in steps)


def _lane_figure(steps: Sequence[StepFigures]) -> str:
    total_ms = sum(step.total_us for step in steps) / 1000
    return f"{sum(step.tokens for step in steps)} tokens, {len(steps)} steps, {milliseconds(total_ms)} ms"


def _roles(step: StepFigures) -> list[str]:
    """Of each token that a step gave out, then of each rejected draft."""
    kept = min(step.accepted, step.tokens)
    accepted = [SOURCE_OF_LETTER.get(source, "drafter") for source in step.source.ljust(kept)[:kept]]
    return accepted + ["own"] * (step.tokens - kept) + ["rejected"] * (len(step.source) - step.accepted)


def _column(axes: Axes, gid: str, at: float, width: float, line: float, step: StepFigures, pixel: float) -> None:
    """A step from time `at` on, its line at height `line`."""
    for row, role in enumerate(_roles(step)[: step.tokens]):
        source = step.source[row : row + 1]
        y = line - _CELL * (row + 0.5) - 3
        axes.barh(y, width, _CELL - 2, at, color=colour(role), linewidth=0, zorder=2, gid=gid)
        if role in ("lookup", "grammar") and width > 9 * pixel:
            axes.text(at + width / 2, y, source, color=colour("paper"), ha="center", va="center", fontsize=TEXT - 2)
    for row in range(len(step.source) - step.accepted):
        y = line + _CELL * (row + 0.5) + 4
        inset = min(pixel, 0.1 * width)
        axes.barh(
            y, width - 2 * inset, _CELL - 4, at + inset, color="none", edgecolor=colour("rejected"), linewidth=1.3,
            zorder=2, gid=gid,
        )  # fmt: skip
    drafting = width * step.draft_us / step.total_us if step.total_us else 0.0
    axes.barh(line, width, 3, at, color=colour("line"), linewidth=0, zorder=2, gid=gid)
    axes.barh(line, drafting, 3, at, color=colour("ink"), linewidth=0, zorder=3, gid=gid)


def told(lane: Lane) -> list[str]:
    """What each step of a lane says of itself."""
    begins = itertools.accumulate((step.total_us / 1000 for step in lane.answer.steps), initial=0.0)
    return [_told(index, *each) for index, each in enumerate(zip(lane.answer.steps, begins, strict=False), 1)]


def _told(number: int, step: StepFigures, at: float) -> str:
    when, took = f"Step {number} at {milliseconds(at)} ms", f"{milliseconds(step.total_us / 1000)} ms"
    if step.kind == "p":
        return f"{when}: plain, 1 token in {took}"
    origins = ", ".join(
        f"{step.source.count(letter)} from {name}" for letter, name in SOURCE_NAMES.items() if letter in step.source
    )
    drafting = f"{milliseconds(step.draft_us / 1000)} ms"
    return (
        f"{when}: {len(step.source)} drafts ({origins or 'blank rows'}), {step.accepted} accepted, "
        f"{step.tokens} tokens in {took}, of which drafting {drafting}"
    )
