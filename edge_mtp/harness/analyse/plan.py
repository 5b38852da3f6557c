"""At what acceptance MTP pays on a device, and with how many drafts, from the measured costs of its steps.

A step with K drafts gives E = 1 + a_1 + a_1 a_2 + ... + a_1 ... a_K tokens on average. a_j is the share of drafts j
that are right where all drafts before them are (Leviathan et al., arXiv 2211.17192). The step costs as much as `cost`
plain steps, so it decodes E / cost times as fast. The cost does not depend on which drafts are right: random weights
have the plan of trained ones, and only real replies tell which acceptance to read it at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.drafts import counted
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.step_times import StepTimes
from edge_mtp.harness.score.drafter_fit import first_drafts, misfit
from edge_mtp.harness.stats.figures import count_of
from edge_mtp.harness.stats.ratios import medians
from edge_mtp.harness.stats.statistics import Estimate, share

SCHEMA = 1


def expected_tokens(acceptance: Sequence[float], draft_length: int) -> float:
    """E, the tokens of an average step with `draft_length` drafts.

    `acceptance` by position, each 0 to 1, at least one; beyond its end the last one holds.
    """
    tokens = reach = 1.0
    for position in range(draft_length):
        reach *= acceptance[min(position, len(acceptance) - 1)]
        tokens += reach
    return tokens


def break_even(cost: float, draft_length: int) -> float | None:
    """The acceptance, the same at every position, at which a step with `draft_length` drafts (1 or more) gives as many
    tokens as it costs plain steps; exact to the last bit. 0 where it cannot lose; None where it always does."""
    if cost <= 1.0:
        return 0.0
    if cost > draft_length + 1:
        return None
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if expected_tokens([middle], draft_length) < cost:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class BreakEven:
    """An acceptance with its interval; None: beyond 1, never."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StepCost:
    """Steps with `draft_length` drafts. `draft_us` is the drafter, for all of them; `verify_us` the rest of the step.

    `cost` is the whole step in plain steps. All are medians over rounds, with 95 % intervals (`ratios.medians`).
    """

    draft_length: int
    draft_us: Estimate
    verify_us: Estimate
    cost: Estimate

    @property
    def break_even(self) -> BreakEven:
        return BreakEven(*(break_even(c, self.draft_length) for c in (self.cost.value, self.cost.low, self.cost.high)))

    def gain(self, acceptance: Sequence[float]) -> Estimate:
        """How many times as fast as plain decoding at that acceptance; the interval is the cost's."""
        tokens = expected_tokens(acceptance, self.draft_length)
        return Estimate(tokens / self.cost.value, tokens / self.cost.high, tokens / self.cost.low)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "break_even": asdict(self.break_even)}


@dataclass(frozen=True)
class DrafterAcceptance:
    """Shares of right drafts by position, where all drafts before them are right; the last holds beyond its position.

    `measured` are their intervals over `prompts`; empty where the shares are only assumed. `misfit` is then a sentence
    where the drafter does not fit its target.
    """

    label: str
    by_position: Sequence[float]
    measured: Sequence[Estimate] = ()
    prompts: int = 0
    misfit: str | None = None


@dataclass(frozen=True)
class BestDraftLength:
    """The K, 1 or more, that gains most at an acceptance. `pays`: its interval lies above 1, below, or around."""

    draft_length: int
    gain: Estimate

    @property
    def pays(self) -> Literal["yes", "no", "unclear"]:
        if self.gain.low > 1.0:
            return "yes"
        return "no" if self.gain.high < 1.0 else "unclear"


@dataclass(frozen=True)
class ContextCosts:
    """Steps at one length of context, by K ascending; at least one. `plain_us`: a plain step."""

    context: int
    plain_us: Estimate
    steps: Sequence[StepCost]

    def best(self, acceptance: Sequence[float]) -> BestDraftLength:
        choices = [BestDraftLength(step.draft_length, step.gain(acceptance)) for step in self.steps]
        return max(choices, key=lambda choice: choice.gain.value)

    @property
    def easiest(self) -> StepCost | None:
        """The step that pays at the lowest acceptance; None where none ever does."""
        paying = [(at, step) for step in self.steps if (at := step.break_even.value) is not None]
        return min(paying, key=lambda each: each[0])[1] if paying else None


@dataclass(frozen=True)
class Plan:
    """What was measured, and the acceptances that it is read at."""

    costs: Sequence[ContextCosts]
    acceptances: Sequence[DrafterAcceptance]

    def verdict(self, costs: ContextCosts) -> list[str]:
        """Sentences: whether MTP can pay at all, and at each acceptance with which K."""
        misfits = [f"{of.label}: {of.misfit}." for of in self.acceptances if of.misfit is not None]
        return [_whether(costs), *(_which(costs, acceptance) for acceptance in self.acceptances), *misfits]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "acceptances": [asdict(acceptance) for acceptance in self.acceptances],
            "contexts": [
                {
                    "context": costs.context,
                    "plain_us": costs.plain_us.to_json(),
                    "steps": [step.to_json() for step in costs.steps],
                    "gains": [self._gains(costs, acceptance) for acceptance in self.acceptances],
                    "verdict": self.verdict(costs),
                }
                for costs in self.costs
            ],
        }

    def _gains(self, costs: ContextCosts, acceptance: DrafterAcceptance) -> Mapping[str, Any]:
        best = costs.best(acceptance.by_position)
        return {
            "label": acceptance.label,
            "by_draft_length": {step.draft_length: step.gain(acceptance.by_position).to_json() for step in costs.steps},
            "best": best.draft_length,
            "pays": best.pays,
        }


def _whether(costs: ContextCosts) -> str:
    step = costs.easiest
    if step is None:
        return "MTP cannot pay: even where every draft is right, a step costs more plain steps than it gives tokens."
    drafts, at = count_of(step.draft_length, "draft"), step.break_even
    if at.value == 0.0:
        return f"MTP pays at any acceptance: a step with {drafts} costs no more than a plain one."
    return f"MTP can pay: from an acceptance of {at.value:.2f} on ({spoken_range(at)}), with {drafts} a step."


def _which(costs: ContextCosts, acceptance: DrafterAcceptance) -> str:
    best = costs.best(acceptance.by_position)
    gain = f"{best.gain.value:.2f}x ({best.gain.low:.2f}x to {best.gain.high:.2f}x)"
    at = f"At the acceptance of {acceptance.label}" if acceptance.measured else f"At {acceptance.label}"
    if best.pays == "no":
        return f"{at}: decode plainly; the best that drafts is K = {best.draft_length}, {gain}."
    if best.pays == "unclear":
        return f"{at}: K = {best.draft_length} cannot be told from plain decoding, {gain}."
    return f"{at}: K = {best.draft_length}, {gain}."


def spoken_range(at: BreakEven) -> str:
    """The interval of a break-even as a person reads it."""
    low, high = ("never" if bound is None else f"{bound:.2f}" for bound in (at.low, at.high))
    return low if low == high else f"{low} to {high}"


def costs_of(times: StepTimes) -> ContextCosts:
    """What steps cost, from their times. `cost` pairs what was measured in one round; with fewer than six rounds no
    interval has an end."""
    plain = [each.whole_us for each in times.rounds[0]]
    return ContextCosts(
        times.context,
        _over_rounds(plain),
        [
            StepCost(
                k,
                _over_rounds([each.draft_us for each in rounds]),
                _over_rounds([each.whole_us - each.draft_us for each in rounds]),
                _over_rounds([each.whole_us / unit for each, unit in zip(rounds, plain, strict=True)]),
            )
            for k, rounds in times.rounds.items()
            if k
        ],
    )


def _over_rounds(values: Sequence[float]) -> Estimate:
    return Estimate(*(float(each) for each in medians(np.array(values))))


def acceptance_of(answers: Sequence[Answer], draft_length: int, label: str) -> DrafterAcceptance:
    """How often the drafter was right in replies with `draft_length` drafts a step, one reply a prompt.

    Intervals over prompts. Raises EdgeMtpError where the replies are too short to draft in.
    """
    drafts = counted([answer.steps for answer in answers], draft_length)
    # Nobody reaches a position behind one that is never accepted.
    shares = [
        share(accepted, reached)
        for accepted, reached in zip(drafts.accepted.T, drafts.reached.T, strict=True)
        if reached.sum()
    ]
    if not shares:
        raise EdgeMtpError(f"the replies to {label} are too short for a draft; use prompts with longer ones")
    asked = drafts.reached[:, 0] > 0
    first = first_drafts(drafts.accepted[asked, 0].tolist(), drafts.reached[asked, 0].tolist())
    assert first is not None  # else there are no shares
    return DrafterAcceptance(label, [each.value for each in shares], shares, len(answers), misfit(first))
