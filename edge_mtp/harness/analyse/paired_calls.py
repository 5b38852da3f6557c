"""What two arms said to the same items, counted: the figures behind a comparison of their tool calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from edge_mtp.harness.analyse.calls import cluster_sums
from edge_mtp.harness.analyse.partings import partings_of
from edge_mtp.harness.analyse.replies import Replies, said
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.score.score import Score
from edge_mtp.harness.stats import statistics

MARGIN = 0.01  # a loss of exact calls that is called none
ALPHA = 0.05

Verdict = Literal["same", "better", "worse", "not enough data"]


class PairedCalls:
    """What an arm and its base said to the same items, counted."""

    def __init__(
        self,
        arm: Arm,
        base: Arm,
        items: Mapping[str, Item],
        replies: Replies,
        scores: Mapping[str, Mapping[str, Score]],
    ) -> None:
        self.arm, self.base, self.items = arm, base, items
        self.scores = scores[arm.label], scores[base.label]
        ours, theirs = replies[arm.label], replies[base.label]
        self.partings = partings_of(items, (ours, theirs), self.scores)
        self.is_identical = all(said(ours[name]) == said(theirs[name]) for name in items)
        self.right = tuple([of[name].is_right for name in items] for of in self.scores)
        lost = [theirs and not ours for ours, theirs in zip(*self.right, strict=True)]
        gained = [ours and not theirs for ours, theirs in zip(*self.right, strict=True)]
        self.lost, self.gained = sum(lost), sum(gained)
        clusters = [item.cluster for item in items.values()]
        sums = cluster_sums(clusters, lost), cluster_sums(clusters, gained), cluster_sums(clusters, [1] * len(clusters))
        self.p_value = statistics.clustered_mcnemar(*sums[:2])
        self.difference = statistics.paired_difference(*sums)
        self.design_effect = statistics.design_effect(*sums) if len(sums[0]) > 1 else float(len(clusters))
        self.margins = [margin for name in items for answer in theirs[name].values() for margin in answer.margins]

    @property
    def is_non_inferior(self) -> bool:
        return self.difference.low > -MARGIN

    def changed_labels(self, verdict: Verdict) -> Counter[str | None]:
        """The primary labels of the items that the arm has lost, or of those that it has gained."""
        wrong, right = self.scores if verdict == "worse" else reversed(self.scores)
        return Counter(wrong[name].primary for name in self.items if right[name].is_right and not wrong[name].is_right)

    def verdict(self, p_adjusted: float) -> Verdict:
        if self.is_identical:
            return "same"
        if p_adjusted <= ALPHA:
            return "worse" if self.difference.value < 0 else "better"
        return "same" if self.is_non_inferior else "not enough data"

    def needed(self, comparisons: int) -> int:
        """About how many items settle the comparison one way or the other, whichever takes fewer.

        Where few items are there none of them may differ, so half a differing item is added.
        """
        items = len(self.items)
        change = self.difference.value
        discordance = max(abs(change), (self.lost + self.gained + 0.5) / (items + 1))
        independent = min(
            statistics.mcnemar_items(discordance, change, alpha=ALPHA / max(1, comparisons)),
            statistics.non_inferiority_items(discordance, change, MARGIN),
        )
        return max(items + 1, math.ceil(independent * self.design_effect))
