"""What quantization costs: bundles of one family against a reference, on the same conversations.

Of each bundle: its size, and what a step reads of it; how far its next-token distributions are from the reference's;
its exact tool calls; and how many of its drafts it accepts. A bundle of the reference's pair differs by quantization
alone, one of another checkpoint also by what was trained. Conclusions are about the checkpoints and the conversations
measured.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.family import Relation, origin_of, relation, source_of
from edge_mtp.formats.inventory import inventory_of
from edge_mtp.formats.manifest import Recipe
from edge_mtp.formats.tool_calls import ToolCallSyntaxError, parse_calls
from edge_mtp.harness.analyse.drafts import Drafts, counted
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.tiny_pair import is_tiny
from edge_mtp.harness.record.bundle_answers import BundleAnswers, LogitDistance
from edge_mtp.harness.score.gold import Gold
from edge_mtp.harness.stats import changes, statistics
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.json_file import finite

SCHEMA = 1
# A loss smaller than this is called none: of a share of accepted drafts, and relative to the tokens per verify.
MARGIN = 0.02
# With fewer prompts nothing is said to hold: a failure on one prompt in twenty is likelier than not to be missed by 13,
# and missed by 50 once in thirteen times.
LEAST_PROMPTS = 50

Array = npt.NDArray[Any]

# By relation, what figures hold beside the cost of quantization.
_BESIDE: dict[Relation, str] = {
    "same target, another drafter": "another drafter, so acceptance holds what its training changed, too",
    "another checkpoint": "another checkpoint, so KL and losses hold what its training changed, too",
    "not known": "from files that it does not name, so KL and losses may hold what training changed, too",
}


@dataclass(frozen=True)
class LogitDivergence:
    """Next-token distributions on the reference's replies, at every token of them, given the same tokens before.

    `kl`: mean KL(reference || bundle) in nats a token; `kl_p99` its 99th percentile over tokens. `agreement`: share of
    tokens whose likeliest choice is the reference's. Intervals over prompts.
    """

    tokens: int
    kl: Estimate
    kl_p99: float
    agreement: Estimate


@dataclass(frozen=True)
class ExactCalls:
    """Replies that make exactly the gold calls and stop. `lost` are right in the reference alone, `gained` here alone;
    `p_value` McNemar's, exact, that losing is as likely as gaining."""

    exact: int
    prompts: int
    share: Estimate
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class JudgedChange:
    """This bundle less the reference, on the same prompts, and that in words."""

    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class DraftPosition:
    """Drafts at one position, from 1: of the steps that `reached` it (all drafts before it accepted, the text not yet
    over), the share that accepted it too. `change` is None in the reference, and where the reference never got."""

    position: int
    reached: int
    accepted: int
    share: Estimate
    change: JudgedChange | None


@dataclass(frozen=True)
class DraftAcceptance:
    """Drafting at one K. Only tokens given out count: what the drafter says beyond a text's end is neither right nor
    wrong. `tokens_per_verify` is their number over the `verify_steps`, 1 to K + 1."""

    draft_length: int
    verify_steps: int
    positions: list[DraftPosition]
    tokens_per_verify: Estimate
    change: JudgedChange | None


@dataclass(frozen=True)
class Measurement:
    """One bundle. Sizes in bytes; `recipe` as its manifest has it; `divergence` is None in the reference, `calls`
    where no item has gold, `acceptance` empty where the bundle cannot draft or no reply was long enough.

    `checkpoint`: the name of the target that it was exported from, and `relation` what it has in common with the
    reference's. `read` and `draft_read`: bytes of weights that a decode step reads, and a step of the drafter.
    `unfinished` replies met no stop token: one that goes round in circles weighs as many usual ones in acceptance.
    Of `other_prompts` its chat template made other tokens than the reference's."""

    label: str
    file: str
    checkpoint: str | None
    relation: Relation
    recipe: Recipe | None
    bytes: int
    sections: dict[str, int]
    read: int
    draft_read: int
    unfinished: int
    other_prompts: int
    divergence: LogitDivergence | None
    calls: ExactCalls | None
    acceptance: list[DraftAcceptance]


@dataclass(frozen=True)
class QualityReport:
    """Bundles of one family, the first being the reference, exported from `pair`. `to_json` is schema `SCHEMA`; an
    infinite bound is null."""

    pair: str
    prompts: int
    source: str
    max_tokens: int
    versions: dict[str, str]
    measurements: list[Measurement]

    @property
    def reference(self) -> Measurement:
        return self.measurements[0]

    @property
    def caption(self) -> str:
        """What the figures are about: it stands with every table and plot."""
        return (
            f"{self.pair}; {self.prompts} prompts ({self.source}), greedy, at most {self.max_tokens} tokens each;"
            f" reference {self.reference.label}. 95% intervals over prompts; {MARGIN:.0%} is the margin of 'holds'."
            f" Conclusions are about {self._about} and these prompts.{''.join(f' {note}' for note in self.notes)}"
        )

    @property
    def _about(self) -> str:
        return "this pair" if all(m.relation == "same pair" for m in self.measurements) else "these checkpoints"

    @property
    def notes(self) -> list[str]:
        """What some bundles' figures hold beside quantization, a sentence each."""
        found = []
        for kind, what in _BESIDE.items():
            if labels := [m.label for m in self.measurements[1:] if m.relation == kind]:
                found.append(f"{', '.join(labels)}: {what}.")
        for m in self.measurements:
            if m.other_prompts:
                found.append(f"{m.label}: its chat template makes other tokens of {m.other_prompts} prompts.")
        return found

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = finite({"schema": SCHEMA, **asdict(self), "caption": self.caption})
        return value


def quality_of(
    bundles: Sequence[BundleAnswers], items: Sequence[Item], *, source: str, pair: str | None = None, max_tokens: int
) -> QualityReport:
    """The quality of each bundle against the first.

    Args:
        bundles: what each answered to the first turns of `items`, the reference first.
        source: what the report calls the items.
        pair: what it calls the pair; None takes it from the bundles' manifest.
        max_tokens: the most tokens that a reply had.
    """
    reference = bundles[0]
    return QualityReport(
        pair=pair or pair_name(reference.bundle),
        prompts=len(items),
        source=source,
        max_tokens=max_tokens,
        versions={name: importlib.metadata.version(name) for name in ("edge-mtp", "ai-edge-litert")},
        measurements=[_measurement(each, reference, items) for each in bundles],
    )


def pair_name(bundle: Bundle) -> str:
    """The pair that a bundle was exported from: the tiny one by name, others by the hashes of their weights."""
    source = source_of(bundle)
    if source is None:
        return "a pair that the bundles do not name"
    if is_tiny(bundle):
        return "the tiny pair that comes with edge-mtp"
    hashes = [hashlib.sha256(json.dumps(source[role], sort_keys=True).encode()) for role in ("target", "drafter")]
    return "the pair of target {} and drafter {} (hashes of their files)".format(*(h.hexdigest()[:12] for h in hashes))


def _measurement(of: BundleAnswers, reference: BundleAnswers, items: Sequence[Item]) -> Measurement:
    sections: dict[str, int] = {}
    for section in of.bundle.sections:
        name = section.model_type or section.type
        sections[name] = sections.get(name, 0) + section.size
    base = _drafts(reference)
    replies, inventory = _replies(of), inventory_of(of.bundle)
    return Measurement(
        label=of.label,
        file=Path(of.bundle.path).name,
        checkpoint=origin_of(of.bundle),
        relation="same pair" if of is reference else relation(of.bundle, reference.bundle),
        recipe=(of.bundle.manifest or {}).get("recipe"),
        bytes=of.bundle.size,
        sections=sections,
        read=inventory.decode_read,
        draft_read=inventory.draft_read,
        unfinished=sum(answer.finish != "stop" for answer in replies),
        other_prompts=of.other_prompts,
        divergence=None if of.distances is None else _divergence(of.distances),
        calls=_calls(_right(replies, items), _right(_replies(reference), items)),
        acceptance=[
            acceptance(drafts, None if of is reference else base.get(length))
            for length, drafts in _drafts(of).items()
            if drafts.steps.sum()
        ],
    )


def _replies(of: BundleAnswers) -> Sequence[Answer]:
    """Of the smallest K: the text is the same at each."""
    return of.answers[min(of.answers)]


def _drafts(of: BundleAnswers) -> dict[int, Drafts]:
    """By K, where it drafts."""
    return {
        length: counted([answer.steps for answer in answers], length)
        for length, answers in of.answers.items()
        if length
    }


def _divergence(distances: Sequence[LogitDistance]) -> LogitDivergence:
    counts = [len(each.kl) for each in distances]
    return LogitDivergence(
        tokens=sum(counts),
        kl=statistics.mean([each.kl.sum() for each in distances], counts),
        kl_p99=float(np.quantile(np.concatenate([each.kl for each in distances]), 0.99)),
        agreement=statistics.share([each.agreed for each in distances], counts),
    )


def _right(replies: Sequence[Answer], items: Sequence[Item]) -> list[bool | None]:
    """Of each reply whether it stops and makes exactly the gold calls; None where the item has no gold."""
    return [_is_right(reply, item.turns[0].gold) for reply, item in zip(replies, items, strict=True)]


def _is_right(reply: Answer, gold: Gold | None) -> bool | None:
    if gold is None:
        return None
    try:
        return reply.finish == "stop" and gold.matches(parse_calls(reply.text))
    except ToolCallSyntaxError:
        return False


def _calls(right: Sequence[bool | None], of_reference: Sequence[bool | None]) -> ExactCalls | None:
    pairs = [(ours, theirs) for ours, theirs in zip(right, of_reference, strict=True) if ours is not None]
    if not pairs:
        return None
    exact = sum(bool(ours) for ours, _ in pairs)
    lost = sum(bool(theirs) and not ours for ours, theirs in pairs)
    gained = sum(bool(ours) and not theirs for ours, theirs in pairs)
    return ExactCalls(
        exact, len(pairs), statistics.wilson(exact, len(pairs)), lost, gained, statistics.mcnemar(lost, gained)
    )


def acceptance(drafts: Drafts, base: Drafts | None) -> DraftAcceptance:
    """The figures of some drafts (at least one verify step), and their change from `base`, of the same prompts."""
    length = drafts.draft_length
    positions = []
    for j in range(length):
        reached, accepted = drafts.reached[:, j], drafts.accepted[:, j]
        if not reached.sum():
            break
        change = None
        if base is not None and base.reached[:, j].sum():
            change = compare(
                changes.share_difference(accepted, reached, base.accepted[:, j], base.reached[:, j]),
                MARGIN,
                int(((reached > 0) & (base.reached[:, j] > 0)).sum()),
                percent=True,
            )
        share = statistics.share(accepted, reached)
        positions.append(DraftPosition(j + 1, int(reached.sum()), int(accepted.sum()), share, change))

    # Of the K tokens that a step can give out beyond the first, the share that it did: a mean of clustered shares.
    def beyond(d: Drafts) -> tuple[Array, Array]:
        return d.tokens - d.steps, length * d.steps

    per_verify = statistics.share(*beyond(drafts)).scaled(length, 1.0)
    change = None
    if base is not None and base.steps.sum():
        difference = changes.share_difference(*beyond(drafts), *beyond(base)).scaled(length)
        was = float(base.tokens.sum() / base.steps.sum())
        change = compare(difference, MARGIN * was, int(((drafts.steps > 0) & (base.steps > 0)).sum()))
    return DraftAcceptance(length, int(drafts.steps.sum()), positions, per_verify, change)


def compare(difference: Estimate, margin: float, prompts: int, *, percent: bool = False) -> JudgedChange:
    """A difference in words: holds, drops, or cannot tell.

    It holds where the whole interval lies above a loss of `margin` and there are `LEAST_PROMPTS` or more; else it drops
    where the whole interval lies below 0.

    A loss of exactly the margin is said to hold about 2 % of the time, up to 8 % where one prompt in 20 has all of it.
    """

    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.2f}"

    if difference.low >= -margin and prompts >= LEAST_PROMPTS:
        verdict = "holds"
    elif difference.high < 0:
        verdict = f"drops by {shown(-difference.high)}..{shown(-difference.low)}" + (" points" if percent else "")
    else:
        verdict = f"cannot tell at n={prompts}"
    return JudgedChange(difference, verdict)
