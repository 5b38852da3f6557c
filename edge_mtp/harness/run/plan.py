"""At what acceptance MTP pays on a device, and with how many drafts, from the measured costs of its steps.

A step with K drafts gives E = 1 + a_1 + a_1 a_2 + ... + a_1 ... a_K tokens on average, a_j being the share of drafts j
that are right where those before them were (Leviathan et al., arXiv 2211.17192), and costs as much as `cost` plain
steps. So it decodes E / cost times as fast. What a step costs does not depend on which drafts are right: the plan of
random weights is that of trained ones, and only real replies tell at which acceptance to read it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any, Literal, NamedTuple, Protocol

from edge_mtp.device import Outcome, Request, Step
from edge_mtp.engine import Engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Ready
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.score.drafter_fit import first_drafts, misfit
from edge_mtp.harness.stats.pairs import paired_ratio
from edge_mtp.harness.stats.statistics import Estimate, share

SCHEMA = 1
STEPS = 6  # of a request that count
WARM_UP = 2  # steps at the start of a request: the first cannot draft, the next finds the caches of another graph
CONTEXTS = (128, 1024)
# What contexts are filled with where there are no prompts; what it says matters to no cost but that of experts.
FILLER = (
    "The ferry leaves at a quarter past seven, and again at noon when the wind allows it. Buy the tickets the day"
    " before: the office by the harbour closes early, and the machine takes no notes. On the island a bus waits for"
    " every boat; it goes by the village and the old lighthouse to the northern beach, where there is shade, fresh"
    " water and a kiosk that sells bread, fruit and postcards. Write down whom to call if the last boat is full."
)

# Called with what is being measured, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


class Generates(Protocol):
    """What of a runner is needed here."""

    @property
    def ready(self) -> Ready: ...
    def generate(self, request: Request) -> Generator[Step | Outcome, None, None]: ...


# -- what costs and acceptance come to --------------------------------------------------------------------------------


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

    `cost` is the whole step in plain steps. All are medians over rounds, with order-statistic 95 % intervals.
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
class Acceptance:
    """Shares of right drafts by position, given that those before were right; the last holds beyond its position.

    `measured` are their intervals over `prompts`, empty where somebody only supposes them; `misfit` is then a sentence
    where the drafter does not fit its target.
    """

    label: str
    by_position: Sequence[float]
    measured: Sequence[Estimate] = ()
    prompts: int = 0
    misfit: str | None = None


@dataclass(frozen=True)
class Choice:
    """The K that gains most at an acceptance, of those that draft. `pays`: the gain's interval lies above 1, below it,
    or around it."""

    draft_length: int
    gain: Estimate

    @property
    def pays(self) -> Literal["yes", "no", "unclear"]:
        if self.gain.low > 1.0:
            return "yes"
        return "no" if self.gain.high < 1.0 else "unclear"


@dataclass(frozen=True)
class Costs:
    """Steps at one length of context, by K ascending; at least one. `plain_us`: a plain step."""

    context: int
    plain_us: Estimate
    steps: Sequence[StepCost]

    def best(self, acceptance: Sequence[float]) -> Choice:
        choices = [Choice(step.draft_length, step.gain(acceptance)) for step in self.steps]
        return max(choices, key=lambda choice: choice.gain.value)

    @property
    def easiest(self) -> StepCost | None:
        """The step that pays at the lowest acceptance; None where none ever does."""
        paying = [(at, step) for step in self.steps if (at := step.break_even.value) is not None]
        return min(paying, key=lambda each: each[0])[1] if paying else None


@dataclass(frozen=True)
class Plan:
    """What was measured, and the acceptances that it is read at."""

    costs: Sequence[Costs]
    acceptances: Sequence[Acceptance]

    def verdict(self, costs: Costs) -> list[str]:
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

    def _gains(self, costs: Costs, acceptance: Acceptance) -> Mapping[str, Any]:
        best = costs.best(acceptance.by_position)
        return {
            "label": acceptance.label,
            "by_draft_length": {step.draft_length: step.gain(acceptance.by_position).to_json() for step in costs.steps},
            "best": best.draft_length,
            "pays": best.pays,
        }


def _whether(costs: Costs) -> str:
    step = costs.easiest
    if step is None:
        return "MTP cannot pay: even where every draft is right, a step costs more plain steps than it gives tokens."
    k, at = step.draft_length, step.break_even
    if at.value == 0.0:
        return f"MTP pays at any acceptance: a step with {_drafts(k)} costs no more than a plain one."
    return f"MTP can pay: from an acceptance of {at.value:.2f} on ({spoken_range(at)}), with {_drafts(k)} a step."


def _which(costs: Costs, acceptance: Acceptance) -> str:
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


def _drafts(count: int) -> str:
    return "1 draft" if count == 1 else f"{count} drafts"


# -- measuring --------------------------------------------------------------------------------------------------------


def tokens_needed(draft_length: int) -> int:
    """Context that measuring up to `draft_length` drafts takes up behind the prompt."""
    return (WARM_UP + STEPS) * (draft_length + 1)


def check_drafter(ready: Ready, bundle: str, draft_lengths: Sequence[int]) -> None:
    """Raises EdgeMtpError where the bundle cannot draft, or not so much."""
    if ready.max_draft_length == 0:
        raise EdgeMtpError(
            f"{bundle}: no verify graph (exported with --lean?), so there is nothing to plan; export it again"
        )
    if not ready.has_drafter:
        raise EdgeMtpError(f"{bundle}: no drafter, so there is nothing to plan; export the checkpoint with its drafter")
    beyond = next((k for k in draft_lengths if k > ready.max_draft_length), None)
    if beyond is not None:
        raise EdgeMtpError(
            f"draft length {beyond} is beyond the {ready.max_draft_length} that this bundle verifies; use 1 to"
            f" {ready.max_draft_length}"
        )


def chosen_contexts(ready: Ready, wanted: Sequence[int] | None, draft_length: int) -> list[int]:
    """The prompt lengths to measure at, ascending: `wanted`, or those of `CONTEXTS` that fit, or the longest that does.

    Raises EdgeMtpError where one does not fit.
    """
    room = ready.context_length - tokens_needed(draft_length)
    if room < 1:
        raise EdgeMtpError(
            f"the bundle's context of {ready.context_length} tokens is too short to measure {draft_length} drafts in;"
            " choose fewer with --draft-length"
        )
    if wanted is None:
        return [context for context in CONTEXTS if context <= room] or [room]
    beyond = next((context for context in wanted if context > room), None)
    if beyond is not None:
        raise EdgeMtpError(
            f"context {beyond} and the {tokens_needed(draft_length)} tokens of the steps to be measured do not fit the"
            f" bundle's {ready.context_length}; use 1 to {room}"
        )
    return sorted(set(wanted))


def measure_costs(
    runner: Generates,
    text: Sequence[int],
    context: int,
    draft_lengths: Sequence[int] | None = None,
    *,
    rounds: int,
    progress: Progress = lambda what, done, total: None,
) -> Costs:
    """The costs of steps behind a prompt of `context` tokens, `text` over and over.

    A round measures plain steps, those of every K, and all of them once more the other way round: a device that slows
    down evenly slows the mean of both alike. `cost` pairs what was measured in one round; with fewer than six `rounds`
    no interval reaches 95 %. `draft_lengths` None or empty: all that the bundle drafts.

    Raises EdgeMtpError where the drafter does not give so many drafts.
    """
    prompt = list(itertools.islice(itertools.cycle(text), context))
    wanted = sorted(set(draft_lengths)) if draft_lengths else range(1, runner.ready.max_draft_length + 1)
    what = f"steps at {context} tokens of context"
    lengths = [0]
    progress(f"{what}: warm-up", 0, len(wanted))
    _steps(runner, prompt, 0)  # for nobody's figures, like all of the warm-up: the prompt is cached, graphs are ready
    for done, k in enumerate(wanted, 1):
        if _steps(runner, prompt, k):
            lengths.append(k)
        elif draft_lengths:
            raise EdgeMtpError(f"the drafter of this bundle does not give {_drafts(k)}; choose another --draft-length")
        progress(f"{what}: warm-up", done, len(wanted))
    if len(lengths) == 1:
        raise EdgeMtpError(
            "the drafter of this bundle proposes nothing; see 'edge-mtp check --numerics', or export again"
        )
    rounds_of: dict[int, list[_Round]] = {k: [] for k in lengths}
    for number in range(rounds):
        progress(what, number, rounds)
        passes = [(k, _steps(runner, prompt, k)) for k in (*lengths, *reversed(lengths))]
        for k in lengths:
            rounds_of[k].append(_round([steps for of, steps in passes if of == k]))
    progress(what, rounds, rounds)

    plain = [each.whole_us for each in rounds_of[0]]
    return Costs(
        context,
        _over_rounds(plain),
        [
            StepCost(
                k,
                _over_rounds([each.draft_us for each in rounds_of[k]]),
                _over_rounds([each.whole_us - each.draft_us for each in rounds_of[k]]),
                _over_rounds([each.whole_us for each in rounds_of[k]], plain),
            )
            for k in lengths[1:]
        ],
    )


class _Round(NamedTuple):
    """What a step of some K took in one round, there and back."""

    draft_us: float
    whole_us: float


def _round(passes: Sequence[Sequence[Step]]) -> _Round:
    """The mean of the passes' medians."""
    return _Round(
        mean(median(step.draft_us for step in steps) for steps in passes),
        mean(median(step.total_us for step in steps) for steps in passes),
    )


def _steps(runner: Generates, prompt: Sequence[int], draft_length: int) -> list[Step]:
    """`STEPS` steps with so many drafts, as warm as in the midst of a reply, whatever the text; none where the drafter
    does not give so many."""
    request = Request(prompt, tokens_needed(draft_length), draft_length=draft_length, draft_sources=("drafter",))
    found: list[Step] = []
    with contextlib.closing(runner.generate(request)) as events:
        for event in events:
            if isinstance(event, Step) and event.step >= WARM_UP and len(event.draft) == draft_length:
                found.append(event)
                if len(found) == STEPS:
                    break
    return found


def _over_rounds(values: Sequence[float], units: Sequence[float] | None = None) -> Estimate:
    """Median of `values`, each in the unit of its round."""
    ratio = paired_ratio(values, units or [1.0] * len(values))
    return Estimate(ratio.median, ratio.low, ratio.high)


def measure_acceptance(
    engine: Engine,
    items: Sequence[Item],
    draft_length: int,
    *,
    max_tokens: int,
    label: str,
    progress: Progress = lambda what, done, total: None,
) -> Acceptance:
    """How often the drafter is right in greedy replies to the items' first turns, with `draft_length` drafts a step.

    Replies are not held to a grammar: it is the drafter's own share that is wanted. Intervals over prompts.
    Raises EdgeMtpError where the replies are too short to draft in.
    """
    from edge_mtp.harness.run.quality import count_drafts

    replies = []
    for done, item in enumerate(items):
        progress("replies", done, len(items))
        reply = engine.chat(
            item.turns[0].messages,
            tools=item.tools,
            max_tokens=max_tokens,
            draft_length=draft_length,
            draft_sources=("drafter",),
            constrained=False,
        ).wait()
        replies.append(reply.steps)
    progress("replies", len(items), len(items))
    drafts = count_drafts(replies, draft_length)
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
    return Acceptance(label, [each.value for each in shares], shares, len(items), misfit(first))
