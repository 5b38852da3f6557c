"""Whether the drafter of an arm fits its target, from its first drafts over many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_mtp.acceptance import LEAST_ACCEPTANCE, warning
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate

LEAST_PROMPTS = 8  # before a drafter is said not to fit


@dataclass(frozen=True)
class FirstDrafts:
    """The verify steps whose first draft is the drafter's, over some `prompts`: in how many it was right.

    `share` is `accepted` over `drafted`, with an interval over prompts.
    """

    prompts: int
    drafted: int
    accepted: int
    share: Estimate


def first_drafts(accepted: Sequence[int], drafted: Sequence[int]) -> FirstDrafts | None:
    """The counts of all prompts, from those of each prompt that has a first draft; None without one."""
    if not drafted:
        return None
    return FirstDrafts(len(drafted), sum(drafted), sum(accepted), statistics.share(accepted, drafted))


def misfit(first: FirstDrafts) -> str | None:
    """A sentence where the drafter surely does not fit its target; else None.

    The exact test of `edge_mtp.acceptance` assumes independent drafts, but the drafts of one prompt are not. So there
    must be `LEAST_PROMPTS`, and unless no draft at all was right, the interval over prompts must lie below the bar too.
    In simulation it always names a drafter that is never right, and names one that is right in 0.3 % of its first
    drafts at least 7 times in 10; it names one that is right in 8 % (hostile text) at most 2 times in 1,000, at an
    intra-prompt correlation of 0.1 (tests/oracle/test_latency.py).
    """
    if first.prompts < LEAST_PROMPTS or (first.accepted and first.share.high >= LEAST_ACCEPTANCE):
        return None
    return warning(first.drafted, first.accepted)
