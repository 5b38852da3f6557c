"""Why an arm that drafts parts from its plain sibling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from edge_mtp.harness.analyse.paired_calls import PairedCalls
from edge_mtp.harness.analyse.partings import Parting, partings_of
from edge_mtp.harness.analyse.replies import Replies
from edge_mtp.harness.ask.arm import Arm, baseline_of
from edge_mtp.harness.score.partings import Cause
from edge_mtp.harness.score.score import Score

# Margins this small beside a usual one are ties, which rounding may break either way.
TIE = 0.1


def cause_of(
    pair: PairedCalls, arms: Sequence[Arm], replies: Replies, scores: Mapping[str, Mapping[str, Score]]
) -> tuple[Cause | None, str]:
    """Why an arm parts from its plain sibling, and the evidence in words; nothing for other pairs.

    As in `numerics`: where the same arm with blank drafts parts at the same places, the graphs round differently; where
    the blank arm says something else, the drafts did it. This holds for graphs of one width. A verify graph of another
    width rounds differently too, but that breaks only ties. So without a blank arm margins can only suggest a cause.
    """
    sibling = baseline_of(pair.arm, arms)
    if not pair.partings or sibling is None or sibling.label != pair.base.label:
        return None, ""
    if pair.arm.mtp == "blank":
        return "numerics", "No draft was verified, so the graphs round differently (numerics)."
    blank = next((arm for arm in arms if arm.mtp == "blank" and arm.is_sibling(pair.arm)), None)
    names = [] if blank is None else [each.item for each in pair.partings if each.item in scores[blank.label]]
    if blank is None or not names:
        _, words = _ties(pair.partings, pair)
        tells = "An arm with mtp=blank tells rounding from drafts that were wrongly kept."
        return None, f"{words}. {tells}" if words else tells
    both = replies[pair.arm.label], replies[blank.label]
    apart = partings_of(names, both, (scores[pair.arm.label], scores[blank.label]))
    if not apart:
        return "numerics", "With blank drafts they part alike, so the graphs round differently (numerics)."
    found = f"With blank drafts {len(apart)} of {len(names)} say otherwise"
    ties, words = (False, "") if pair.arm.draft_length == blank.draft_length else _ties(apart, pair)
    if ties is None:
        return (
            None,
            f"{found}, at other draft lengths; mtp={blank.draft_length} tells rounding from wrongly kept drafts.",
        )
    if ties:
        return "numerics", f"{found}. {words} (numerics)."
    reason = "a draft was kept that should not have been, or a rejected one left something behind (accept or rollback)"
    return "accept or rollback", ". ".join(filter(None, [found, words])) + f": {reason}."


def _ties(partings: Sequence[Parting], pair: PairedCalls) -> tuple[bool | None, str]:
    """Whether all partings lie where two logits nearly tied, and that in words; None where margins do not tell.

    Margins are of the model's own logits. A token that is sampled, or chosen among those that a grammar allows, may be
    far from the largest; a wide margin then says nothing.
    """
    margins = [abs(margin) for parting in partings for margin in parting.margins if margin is not None]
    if not margins or not pair.margins or pair.arm.temperature > 0:
        return None, ""
    widest, usual = max(margins), median(pair.margins)
    if widest <= TIE * usual:
        return True, f"There two logits lie within {widest:.2g} (usually {usual:.2g}), and rounding breaks such ties"
    if pair.arm.constrained:
        return None, ""
    return False, f"There one logit leads by up to {widest:.2g} (usually {usual:.2g}), more than rounding moves"
