"""How fast each arm answered, and what its drafts did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_mtp.harness.analyse.drafts import counted
from edge_mtp.harness.analyse.energy import energy
from edge_mtp.harness.analyse.replies import answers_to, decode_time, kinds_of, token_count
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.record.results import Results, Sample
from edge_mtp.harness.score.drafter_fit import FirstDrafts, first_drafts
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.summary import count_by_source, count_drafts


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


def latencies(results: Results) -> list[Latency]:
    """For each arm over all kinds, then for each kind that it was asked; in the order of arms and of first appearance.

    Of an item that was asked again after a cut run, the last answer counts.
    """
    samples: dict[str, list[Sample]] = {}
    for sample in results.samples:
        samples.setdefault(sample.device, []).append(sample)
    rows = []
    for arm in results.run.arms:
        answers = list(answers_to(results, arm.label).values())
        on_device = samples.get(arm.device, [])
        rows.append(_latency(arm.label, None, answers, on_device))
        for kind in kinds_of(results):
            if of_kind := [answer for answer in answers if results.items[answer.item].kind == kind]:
                rows.append(_latency(arm.label, kind, of_kind, on_device))
    return rows


def _latency(arm: str, kind: str | None, asked: Sequence[Answer], samples: Sequence[Sample]) -> Latency:
    answers = [answer for answer in asked if answer.is_complete]
    decoded = [answer for answer in answers if decode_time(answer) is not None]
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
        tokens=sum(map(token_count, answers)),
        first_token=_distribution([answer.first_token_us for answer in answers if answer.first_token_us > 0]),
        call=_distribution([answer.call_us for answer in answers if answer.call_us is not None]),
        token=_distribution([step.total_us / step.tokens for step in steps for _ in range(step.tokens)]),
        prefill_tokens_per_s=_rate((a.item, a.prompt_tokens - a.reused_tokens, a.prefill_us / 1e6) for a in prefilled),
        decode_tokens_per_s=_rate((a.item, token_count(a) - 1, (a.total_us - a.first_token_us) / 1e6) for a in decoded),
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
