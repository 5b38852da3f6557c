"""How fast each arm answered, and what its drafts did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from edge_mtp.formats.tool_calls import CALL_CLOSE
from edge_mtp.harness.analyse.drafts import counted
from edge_mtp.harness.analyse.energy import energy
from edge_mtp.harness.analyse.replies import last_answers
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.arm import baseline_of
from edge_mtp.harness.record.results import Results, Sample
from edge_mtp.harness.score.drafter_fit import FirstDrafts, first_drafts
from edge_mtp.harness.stats import ratios, statistics
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.summary import count_by_source, count_drafts

Question: TypeAlias = "tuple[str, int, int]"  # item, round, turn


@dataclass(frozen=True)
class Distribution:
    """Quantiles of a time in milliseconds, over `count` of them."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class DraftPosition:
    """Drafts at one position, from 1: of the steps that reached it, the share that accepted it too."""

    position: int
    reached: int
    accepted: int
    share: Estimate


@dataclass(frozen=True)
class Latency:
    """The answers of one arm to the items of one kind, or of all kinds (`kind` None).

    Failed answers count only in `failed` and `failed_share`. A figure is None where there is too little to tell, or
    where the engine does not tell it.

    Times: `token` is a step's time over the tokens that it gave out, once for each token. `first_token` is the time to
    the first token. `first_answer` is the time to the first token outside of thoughts; `thoughts` counts the answers
    with thoughts. `call` is the time to the token that closes the first tool call.

    Rates are sums over sums, with intervals over items: `prefill_tokens_per_s` (prompt tokens without cached ones),
    `decode_tokens_per_s` (tokens after each answer's first) and `tokens_per_verify`.

    Drafts: only drafts count that a token given out answers; a draft beyond a text's end is neither right nor wrong.
    `first_drafts` are the drafter's drafts that came first in their step; they tell whether it fits its target
    (`misfit`). `planned` is the share of steps by the K asked of the drafter. Energy is None unless the battery could
    tell; `energy_note` says why.
    """

    arm: str
    kind: str | None
    answers: int
    failed: int
    failed_share: Estimate | None
    tokens: int
    first_token: Distribution | None
    call: Distribution | None
    token: Distribution | None
    prefill_tokens_per_s: Estimate | None
    decode_tokens_per_s: Estimate | None
    tokens_per_verify: Estimate | None
    acceptance: list[DraftPosition]
    sources: dict[str, tuple[int, int]]  # verified and accepted drafts, by where they came from
    planned: dict[int, float]
    peak_rss_bytes: int | None
    peak_anonymous_bytes: int | None
    energy_mj_per_token: float | None
    energy_note: str
    first_answer: Distribution | None = None
    thoughts: int = 0
    first_drafts: FirstDrafts | None = None


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


def latencies(results: Results) -> list[Latency]:
    """For each arm over all kinds, then for each kind that it was asked; in the order of arms and of first appearance.

    Of an item that was asked again after a cut run, the last answer counts.
    """
    samples: dict[str, list[Sample]] = {}
    for sample in results.samples:
        samples.setdefault(sample.device, []).append(sample)
    rows = []
    for arm in results.run.arms:
        answers = list(_answers(results, arm.label).values())
        on_device = samples.get(arm.device, [])
        rows.append(_latency(arm.label, None, answers, on_device))
        for kind in _kinds(results):
            if of_kind := [answer for answer in answers if results.items[answer.item].kind == kind]:
                rows.append(_latency(arm.label, kind, of_kind, on_device))
    return rows


def speed_ups(results: Results) -> list[SpeedUp]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline; each measure over all
    kinds and, for decode, by kind. A measure without a pair is left out."""
    run = results.run
    answers = {arm.label: _answers(results, arm.label) for arm in run.arms}
    rows = []
    for arm in run.arms:
        sibling = baseline_of(arm, run.arms)
        bases = dict.fromkeys(([sibling.label] if sibling else []) + [run.baseline])
        for base in bases:
            if base == arm.label:
                continue
            for measure in MEASURES:
                pairs = _paired(answers[base], answers[arm.label], measure)
                for kind in (None, *(_kinds(results) if measure == "decode" else ())):
                    row = _speed_up(results, arm.label, base, kind, measure, pairs)
                    rows += [row] if row else []
    return rows


# -- one arm --------------------------------------------------------------------------------------------------------


def _answers(results: Results, arm: str) -> dict[Question, Answer]:
    """The answers of an arm, failed ones included."""
    return {(answer.item, answer.round, answer.turn): answer for answer in last_answers(results.of(arm))}


def _kinds(results: Results) -> list[str]:
    return list(dict.fromkeys(item.kind for item in results.items.values()))


def _count(answer: Answer) -> int:
    return len(answer.tokens) or answer.count


def _latency(arm: str, kind: str | None, asked: Sequence[Answer], samples: Sequence[Sample]) -> Latency:
    answers = [answer for answer in asked if answer.is_complete]
    decoded = [answer for answer in answers if _decode(answer) is not None]
    prefilled = [answer for answer in answers if answer.prefill_us > 0]
    verifies = [(answer.item, step) for answer in answers for step in answer.steps if step.kind == "v"]
    steps = [step for answer in answers for step in answer.steps]
    planned = Counter(step.planned for step in steps)
    sources = count_by_source((step.tokens, step.source, step.accepted) for _, step in verifies)
    used = energy(answers, samples)
    return Latency(
        arm=arm,
        kind=kind,
        answers=len(answers),
        failed=len(asked) - len(answers),
        failed_share=_share_of_items((answer.item, not answer.is_complete) for answer in asked),
        tokens=sum(map(_count, answers)),
        first_token=_distribution([answer.first_token_us for answer in answers if answer.first_token_us > 0]),
        call=_distribution([answer.call_us for answer in answers if answer.call_us is not None]),
        token=_distribution([step.total_us / step.tokens for step in steps for _ in range(step.tokens)]),
        prefill_tokens_per_s=_rate((a.item, a.prompt_tokens - a.reused_tokens, a.prefill_us / 1e6) for a in prefilled),
        decode_tokens_per_s=_rate((a.item, _count(a) - 1, (a.total_us - a.first_token_us) / 1e6) for a in decoded),
        tokens_per_verify=_rate((item, step.tokens, 1) for item, step in verifies),
        acceptance=_acceptance(verifies),
        sources={name: (of.verified, of.accepted) for name, of in sources.items()},
        planned={k: planned[k] / len(steps) for k in sorted(planned)},
        peak_rss_bytes=max((a.rss_bytes for a in answers if a.rss_bytes is not None), default=None),
        peak_anonymous_bytes=max((a.anonymous_bytes for a in answers if a.anonymous_bytes is not None), default=None),
        energy_mj_per_token=used.mj_per_token,
        energy_note=used.note,
        first_answer=_distribution([answer.first_answer_us for answer in answers if answer.first_answer_us]),
        thoughts=sum(bool(answer.reasoning) for answer in answers),
        first_drafts=_first_drafts(verifies),
    )


def _distribution(times_us: Sequence[float]) -> Distribution | None:
    if not times_us:
        return None
    return Distribution(len(times_us), *(float(q) for q in np.quantile(times_us, [0.5, 0.95, 0.99]) / 1e3))


def _rate(parts: Iterable[tuple[str, float, float]]) -> Estimate | None:
    """The sum of the second parts over that of the third, with its interval over the items that the first name."""
    of_item: dict[str, list[tuple[float, float]]] = {}
    for item, top, bottom in parts:
        of_item.setdefault(item, []).append((top, bottom))
    # Exact sums in an order of their own: nothing depends on the order of the records.
    columns = [tuple(map(math.fsum, zip(*of_item[item], strict=True))) for item in sorted(of_item)]
    return statistics.mean(*zip(*columns, strict=True)) if columns else None


def _share_of_items(found: Iterable[tuple[str, bool]]) -> Estimate | None:
    """How often something is so, of all that the first parts, items, name; what is so in one round is in the next."""
    of_item: dict[str, list[bool]] = {}
    for item, is_so in found:
        of_item.setdefault(item, []).append(is_so)
    counts = [of_item[item] for item in sorted(of_item)]
    return statistics.share([sum(each) for each in counts], [len(each) for each in counts]) if of_item else None


def _acceptance(verifies: Sequence[tuple[str, StepFigures]]) -> list[DraftPosition]:
    of_item: dict[str, list[StepFigures]] = {item: [] for item in sorted({item for item, _ in verifies})}
    for item, step in verifies:
        of_item[item].append(step)
    drafts = counted(list(of_item.values()), max((len(step.source) for _, step in verifies), default=0))
    width = int((drafts.reached.sum(axis=0) > 0).sum())  # nobody reaches a position behind one that nobody reached
    return [
        DraftPosition(
            position=j + 1,
            reached=int(reached.sum()),
            accepted=int(accepted.sum()),
            share=statistics.share(accepted, reached),
        )
        for j, (reached, accepted) in enumerate(zip(drafts.reached.T[:width], drafts.accepted.T[:width], strict=True))
    ]


def _first_drafts(verifies: Sequence[tuple[str, StepFigures]]) -> FirstDrafts | None:
    told: dict[str, list[bool]] = {}
    for item, step in verifies:
        counts = count_drafts(step.tokens, len(step.source), step.accepted)
        if step.source.startswith("d") and counts.reached:
            told.setdefault(item, []).append(counts.accepted > 0)
    return first_drafts([sum(told[item]) for item in sorted(told)], [len(told[item]) for item in sorted(told)])


# -- two arms -------------------------------------------------------------------------------------------------------


def _decode(answer: Answer) -> tuple[float, int] | None:
    after_first = answer.total_us - answer.first_token_us
    return (after_first, _count(answer) - 1) if _count(answer) > 1 and answer.first_token_us > 0 < after_first else None


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
    "decode": _decode,
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
    return _count(answer) or answer.whole


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
