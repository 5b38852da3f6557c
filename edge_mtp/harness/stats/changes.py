"""The change from one estimate to another.

By square-and-add: the distances of the two intervals' ends from their values are added as squares, less a term for the
correlation of the two (Newcombe, 1998, Statistics in Medicine 17:2635, method 10; Zou and Donner, 2008, ibid. 27:1693,
for any figure). Quotients are treated the same way, on logarithms. Without a correlation the two count as unrelated,
which makes the interval too wide rather than too narrow where the items are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy.typing as npt

from edge_mtp.harness.stats.statistics import ClusteredShare, Estimate

Figure: TypeAlias = Estimate | float  # with its interval, or without one
# By item: what a figure is the sum of, and what that sum is divided by.
Parts: TypeAlias = Mapping[str, tuple[float, float]]


def value_of(figure: Figure) -> float:
    return figure.value if isinstance(figure, Estimate) else figure


def difference(b: Figure, a: Figure, correlation: float = 0.0) -> Figure:
    """B less A; without an interval where one of them has none."""
    if not isinstance(a, Estimate) or not isinstance(b, Estimate):
        return value_of(b) - value_of(a)
    middle = b.value - a.value
    return Estimate(
        middle,
        middle - _reach(b.value - b.low, a.high - a.value, correlation),
        middle + _reach(b.high - b.value, a.value - a.low, correlation),
    )


def share_difference(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    base_numerators: npt.ArrayLike,
    base_denominators: npt.ArrayLike,
) -> Estimate:
    """The share of the first two less that of the last two, the same clusters having been measured both ways.

    The two intervals by square-and-add with the correlation of the estimates between clusters. Arguments as for
    `statistics.share`.
    """
    one, base = ClusteredShare(numerators, denominators), ClusteredShare(base_numerators, base_denominators)
    scale = math.sqrt(float((one.influence**2).sum() * (base.influence**2).sum()))
    related = float((one.influence * base.influence).sum()) / scale if scale else 0.0
    found = difference(one.estimate, base.estimate, related)
    assert isinstance(found, Estimate)
    return Estimate(found.value, max(-1.0, found.low), min(1.0, found.high))


def quotient(b: Figure, a: Figure, correlation: float = 0.0) -> Figure | None:
    """B over A; None where A is not above 0 or B is below."""
    top, bottom = value_of(b), value_of(a)
    if bottom <= 0 or top < 0:
        return None
    if not isinstance(a, Estimate) or not isinstance(b, Estimate):
        return top / bottom
    if top == 0:
        return Estimate(0.0, 0.0, b.high / a.low if a.low > 0 else math.inf)
    on_logs = difference(_logs(b), _logs(a), correlation)
    assert isinstance(on_logs, Estimate)
    return Estimate(top / bottom, math.exp(on_logs.low), math.exp(on_logs.high) if on_logs.high < 700 else math.inf)


def less_one(ratio: Figure) -> Figure:
    """A ratio as the change that it is."""
    return ratio.scaled(1, -1) if isinstance(ratio, Estimate) else ratio - 1


def negated(figure: Estimate) -> Estimate:
    return Estimate(-figure.value, -figure.high, -figure.low)


def reciprocal(of: Estimate) -> Estimate:
    """Of a figure above 0."""
    return Estimate(1 / of.value, 1 / of.high, 1 / of.low if of.low > 0 else math.inf)


def complement(of: Estimate) -> Estimate:
    """What a share leaves of 1."""
    return Estimate(1 - of.value, 1 - of.high, 1 - of.low)


def correlation(one: Parts, other: Parts) -> float:
    """Of two ratios of sums over the same items."""
    pulls = _pulls(one), _pulls(other)
    together = sum(pull * pulls[1][item] for item, pull in pulls[0].items() if item in pulls[1])
    scale = math.prod(math.sqrt(sum(pull * pull for pull in each.values())) for each in pulls)
    return together / scale if scale else 0.0


def _pulls(parts: Parts) -> dict[str, float]:
    """Each item's part in the deviation of the ratio."""
    top, bottom = (sum(each[i] for each in parts.values()) for i in (0, 1))
    return {item: part[0] - part[1] * top / bottom for item, part in parts.items()} if bottom else {}


def _reach(a: float, b: float, correlation: float) -> float:
    if math.isinf(a) or math.isinf(b):
        return math.inf
    return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))


def _logs(of: Estimate) -> Estimate:
    return Estimate(*(math.log(x) if x > 0 else -math.inf for x in (of.value, of.low, of.high)))
