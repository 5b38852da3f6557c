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
    """Of the verify steps whose first draft is the drafter's, over so many `prompts`: how many there were, in how many
    it was right, and that as a share, with its interval over prompts."""

    prompts: int
    drafted: int
    accepted: int
    share: Estimate


def first_drafts(accepted: Sequence[int], drafted: Sequence[int]) -> FirstDrafts | None:
    """From the first drafts of each prompt, of which there is at least one; None without a prompt."""
    if not drafted:
        return None
    return FirstDrafts(len(drafted), sum(drafted), sum(accepted), statistics.share(accepted, drafted))


def misfit(first: FirstDrafts) -> str | None:
    """A sentence where the drafter does not fit its target, beyond doubt; else None.

    The exact test of `edge_mtp.acceptance` takes drafts for independent, which those of one prompt are not. So there
    must be `LEAST_PROMPTS`, and the interval over them must lie below the bar too, but where no draft was right at all.
    In simulation it names a drafter that is never right always, one that is right in 0.3 % of its first drafts 7 of 10
    times at the least; and one that is right in 8 % (hostile text) 2 of 1,000 times at the most, with an intra-prompt
    correlation of 0.1 (tests/oracle/test_latency.py).
    """
    if first.prompts < LEAST_PROMPTS or (first.accepted and first.share.high >= LEAST_ACCEPTANCE):
        return None
    return warning(first.drafted, first.accepted)
