"""The figures of a result compared with another, or of the arms of one run with their plain siblings.

Answers to the same items are paired (`matching`). Summaries, and results without common items, are compared as
unrelated estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_mtp.harness.analyse.matching import Matching, Pair
from edge_mtp.harness.analyse.metrics import METRICS, Metric, comparison_of, latency_of, speed_up_of
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.analyse.side import Side
from edge_mtp.harness.analyse.times import times
from edge_mtp.harness.stats.changes import Figure, correlation, difference, less_one, negated, quotient, reciprocal
from edge_mtp.harness.stats.quantiles import quantile_change
from edge_mtp.harness.stats.ratios import median_ratio
from edge_mtp.harness.stats.statistics import Estimate

SCHEMA = 1
# What the table of a pair shows, where it was measured.
TABLE = (
    "speed", "decode", "prefill", "first_token", "first_token.p95", "first_answer", "call", "token.p95", "speedup",
    "acceptance[1]", "tokens_per_verify", "memory.rss", "failed", "toolcall.exact", "toolcall.lenient", "same_text",
    "changed_text",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A metric of a pair. `change`: B less A, in the metric's unit, or as a fraction of A where `is_relative`; for a
    metric that is itself of A and B, its figure. `better` is None where that cannot be told."""

    metric: str
    a: Figure | None
    b: Figure | None
    change: Figure | None
    is_relative: bool
    better: bool | None


class Versus(Matching):
    """B compared with A, metric by metric."""

    def own(self, side: Side, metric: Metric, arm: str, kind: str | None, position: int | None) -> Figure | None:
        """The figure of an arm itself, or against its plain sibling; None where it was not measured."""
        base = self.sibling(side, arm) if metric.scope == "sibling" else None
        if metric.scope == "pair" or (metric.scope == "sibling" and base is None):
            return None
        return metric.look(side.place(arm, base, kind, position))

    def between(self, metric: Metric, pair: Pair, kind: str | None) -> Figure | None:
        """The figure of B's arm against A's, of a metric that holds an arm against another."""
        joint = self.joint(pair)
        if joint is not None:
            return metric.look(joint.place(*self.names(pair), kind))
        inverted = {
            "speed": ("decode", False),
            "speed.first_token": ("first_token", True),
            "speed.first_answer": ("first_answer", True),
            "speed.call": ("call", True),
        }
        name, is_time = inverted.get(metric.name.replace("speedup", "speed"), (None, False))
        if name is None:
            return None
        a, b = (
            self.own(side, METRICS[name], arm, kind, None) for side, arm in zip((self.a, self.b), pair, strict=True)
        )
        return None if a is None or b is None else quotient(a, b) if is_time else quotient(b, a)

    def change(
        self, metric: Metric, pair: Pair, kind: str | None, position: int | None, is_relative: bool
    ) -> Figure | None:
        """From A to B: B less A in the metric's unit, or as a fraction of A. None where one was not measured, or A is
        0 and the change relative."""
        joint = self.joint(pair)
        if joint is not None and is_relative and metric.paired:
            found = speed_up_of(joint.place(*self.names(pair), kind), metric.paired)
            if found is not None:
                return less_one(found.ratio if metric.better == "higher" else reciprocal(found.ratio))
        if joint is not None and metric.name.startswith("toolcall."):
            said = comparison_of(joint.place(*self.names(pair), kind))
            if said is not None and not said.partings and said.lost == said.gained == 0:
                return Estimate(0.0, 0.0, 0.0)  # word for word the same
            if said is not None and not is_relative and metric.name in ("toolcall.exact", "toolcall.error"):
                return said.difference if metric.better == "higher" else negated(said.difference)
        a_side, b_side = self.common or (self.a, self.b)
        if is_relative and metric.name.startswith("speedup"):
            paired = self._speed_ups_paired(a_side, b_side, metric, pair, kind)
            if paired is not None:
                return less_one(paired)
        a = self.own(a_side, metric, pair.a, kind, position)
        b = self.own(b_side, metric, pair.b, kind, position)
        if a is None or b is None:
            return None
        if metric.quantile is not None and a_side.results is not None and b_side.results is not None:
            what, level = metric.quantile
            at = b_side.place(pair.b, None, kind), a_side.place(pair.a, None, kind)
            known = [times(place.results, place.arm, what) for place in at if place.results is not None]
            return quantile_change(known[0], known[1], level, is_relative=is_relative)
        related = 0.0
        if metric.parts is not None and self.common is not None:
            parts = [metric.parts(side.place(arm, None, kind)) for side, arm in ((b_side, pair.b), (a_side, pair.a))]
            related = correlation(*parts)
        if not is_relative:
            return difference(b, a, related)
        ratio = quotient(b, a, related)
        return None if ratio is None else less_one(ratio)

    def comparison(self, pair: Pair) -> Comparison | None:
        """What can be said of the tool calls of a pair, where its answers are paired."""
        joint = self.joint(pair)
        return None if joint is None else comparison_of(joint.place(*self.names(pair)))

    def rows(self, pair: Pair) -> list[Row]:
        """The main metrics that were measured on both sides, over what both sides answered."""
        a_side, b_side = self.common or (self.a, self.b)
        rows = []
        for name in TABLE:
            metric, position = METRICS[name.removesuffix("[1]")], 1 if name.endswith("[1]") else None
            if (metric.is_speed and not self.measures_speed) or (name == "first_answer" and not self._thinks(pair)):
                continue
            if metric.scope == "pair":
                if self.is_one_run and self.sibling(self.b, pair.b) == pair.a:
                    continue  # speedup and same_text say it
                figure = self.between(metric, pair, None)
                neutral = 1.0 if metric.name == "speed" else 0.0
                better = None if figure is None else _is_better(_less(figure, neutral), metric)
                row = Row(name, None, None, figure, False, better)
            else:
                a = self.own(a_side, metric, pair.a, None, position)
                b = self.own(b_side, metric, pair.b, None, position)
                is_relative = metric.quantity.name != "share"
                change = self.change(metric, pair, None, position, is_relative)
                better = None if change is None else _is_better(change, metric)
                row = Row(name, a, b, change, is_relative, better)
            if row.change is not None or row.a is not None or row.b is not None:
                rows.append(row)
        return rows

    def _thinks(self, pair: Pair) -> bool:
        """Whether one of the two had thoughts: without any the first token is the answer's."""
        told = (latency_of(side.place(arm)) for side, arm in zip((self.a, self.b), pair, strict=True))
        return any(each is not None and each.thoughts for each in told)

    def _speed_ups_paired(
        self, a_side: Side, b_side: Side, metric: Metric, pair: Pair, kind: str | None
    ) -> Estimate | None:
        """B's speed-up over its plain sibling, over that of A over its own: the median over items in both."""
        measure = metric.name.partition(".")[2] or "decode"
        ratios = []
        for side, arm in ((a_side, pair.a), (b_side, pair.b)):
            base = self.sibling(side, arm)
            found = None if base is None else speed_up_of(side.place(arm, base, kind), measure)
            ratios.append({} if found is None else {each.item: each.ratio for each in found.items})
        shared = [item for item in ratios[1] if item in ratios[0]]
        return median_ratio([math.log(ratios[1][item] / ratios[0][item]) for item in shared]) if shared else None


def _less(figure: Figure, by: float) -> Figure:
    return figure.scaled(1, -by) if isinstance(figure, Estimate) else figure - by


def _is_better(change: Figure, metric: Metric) -> bool | None:
    """Whether a change is for the better, where its interval leaves no doubt."""
    if not isinstance(change, Estimate) or change.low <= 0 <= change.high:
        return None
    return (change.low > 0) == (metric.better == "higher")
