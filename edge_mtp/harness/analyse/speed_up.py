"""How many times as fast an arm is as another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge_mtp.formats.tool_calls import CALL_CLOSE
from edge_mtp.harness.analyse.replies import Question, answers_to, decode_time, kinds_of, token_count
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import baseline_of, held_against
from edge_mtp.harness.record.results import Results
from edge_mtp.harness.stats import ratios, statistics
from edge_mtp.harness.stats.statistics import Estimate


@dataclass(frozen=True)
class ItemSpeed:
    """One item: its time under the base arm over that under the arm (above 1: the arm is faster)."""

    item: str
    kind: str
    ratio: float


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast an arm is as another on the same items.

    `measure`: decode (time per token after the first), first_token, first_answer (time to the first token behind a
    thought), call (time to a complete tool call) or total.

    `ratio` is the median over items of each item's median over rounds of paired ratios, on logarithms, with an interval
    over items (`edge_mtp.harness.stats.ratios`). A round of an item counts where both arms answered it, with the turns
    that both answered. `slower` is the share of items on which the arm is slower. Decode and first_token compare all
    replies; first_answer compares replies with the same thoughts, call replies with the same first call, and total
    replies of equal length. `verdict` says how many items are left out.

    `verdict` in words: faster, slower, no difference within X%, or not enough data with about how many items would be.
    Each verdict is right with 95 % on its own; of many, some are wrong.
    """

    arm: str
    base: str
    kind: str | None
    measure: str
    ratio: Estimate
    items: list[ItemSpeed]
    slower: Estimate
    verdict: str


def speed_ups(results: Results) -> list[SpeedUp]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline; each measure over all
    kinds and, for decode, by kind. A measure without a pair is left out."""
    run = results.run
    answers = {arm.label: answers_to(results, arm.label) for arm in run.arms}
    rows = []
    for arm in run.arms:
        bases = (baseline_of(arm, run.arms), held_against(arm, run.arm(run.baseline), run.arms))
        for base in dict.fromkeys(each.label for each in bases if each is not None):
            for measure in MEASURES:
                pairs = _paired(answers[base], answers[arm.label], measure)
                for kind in (None, *(kinds_of(results) if measure == "decode" else ())):
                    row = _speed_up(results, arm.label, base, kind, measure, pairs)
                    rows += [row] if row else []
    return rows


def _first_token(answer: Answer) -> tuple[float, int] | None:
    return (answer.first_token_us, 1) if answer.first_token_us > 0 else None


def _first_answer(answer: Answer) -> tuple[float, int] | None:
    """Without a thought it is the first token, and nothing of its own."""
    return (answer.first_answer_us, 1) if answer.reasoning and answer.first_answer_us else None


def _call(answer: Answer) -> tuple[float, int] | None:
    return (answer.call_us, 1) if answer.call_us else None


def _total(answer: Answer) -> tuple[float, int] | None:
    return (answer.total_us, 1) if answer.total_us > 0 else None


# Of an answer: a time, and over how many it is divided; None where it has none.
MEASURES: dict[str, Callable[[Answer], tuple[float, int] | None]] = {
    "decode": decode_time,
    "first_token": _first_token,
    "first_answer": _first_answer,
    "call": _call,
    "total": _total,
}


def _thought(answer: Answer) -> str:
    return answer.reasoning


def _first_call(answer: Answer) -> str | None:
    return answer.whole.partition(CALL_CLOSE)[0] if answer.call_us else None


def _length(answer: Answer) -> int | str:
    return token_count(answer) or answer.whole


# What replies must have in common where a longer one takes longer, which is no matter of speed; and that in words.
ALIKE: dict[str, tuple[Callable[[Answer], object], str]] = {
    "first_answer": (_thought, "with the same thoughts"),
    "call": (_first_call, "whose first calls are the same"),
    "total": (_length, "whose replies are as long"),
}


class _Pairs(NamedTuple):
    """By item, for each round that both arms answered: the times of the base and of the arm. `unlike` items have
    replies in every round that are not to be compared (`ALIKE`), and so no pair."""

    times: dict[str, list[tuple[float, float]]]
    unlike: set[str]


def _paired(base: Mapping[Question, Answer], arm: Mapping[Question, Answer], measure: str) -> _Pairs:
    asked: dict[tuple[str, int], list[tuple[Answer, Answer]]] = {}
    for question in sorted(base.keys() & arm.keys()):
        if base[question].is_complete and arm[question].is_complete:
            asked.setdefault(question[:2], []).append((base[question], arm[question]))
    figure = MEASURES[measure]
    times: dict[str, list[tuple[float, float]]] = {}
    unlike = set()
    alike = ALIKE[measure][0] if measure in ALIKE else None
    for (item, _), turns in asked.items():
        figures = [(one, other) for pair in turns if (one := figure(pair[0])) and (other := figure(pair[1]))]
        if not figures:
            continue
        if alike is not None and any(alike(one) != alike(other) for one, other in turns):
            unlike.add(item)
            continue
        sums = np.array(figures).sum(axis=0)  # of the base and the arm: [time, over how many]
        measured = sums[:, 0] / sums[:, 1]
        times.setdefault(item, []).append((float(measured[0]), float(measured[1])))
    return _Pairs(times, unlike - times.keys())


def _speed_up(results: Results, arm: str, base: str, kind: str | None, measure: str, pairs: _Pairs) -> SpeedUp | None:
    items = [item for item in results.items.values() if item.id in pairs.times and kind in (None, item.kind)]
    if not items:
        return None
    times = np.full((2, len(items), max(len(pairs.times[item.id]) for item in items)), np.nan)
    for row, item in enumerate(items):
        measured = pairs.times[item.id]
        times[:, row, : len(measured)] = np.transpose(measured)
    figures = ratios.item_figures(*times)
    ratio = ratios.median_ratio(figures)
    words = ratios.verdict(ratio, len(items))
    if pairs.unlike:
        words += f" (the {len(items)} of {len(items) + len(pairs.unlike)} items {ALIKE[measure][1]})"
    return SpeedUp(
        arm=arm,
        base=base,
        kind=kind,
        measure=measure,
        ratio=ratio,
        items=[ItemSpeed(item.id, item.kind, math.exp(figure)) for item, figure in zip(items, figures, strict=True)],
        slower=statistics.wilson(int((figures < 0).sum()), len(items)),
        verdict=words,
    )
