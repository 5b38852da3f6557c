"""How many times as fast one arm is as another: medians of paired log-ratios, their intervals, and what they say.

An item is what was drawn independently; its figure is the median over rounds of the logarithm of paired ratios, and
the ratio of two arms is the median over items. Its 95 % interval lies between order statistics of the items' figures:
where no two of them reach 95 % exactly, linearly between the neighbours that reach more and less (Beran and Hall, 1993,
JRSS B 55:643). In simulation, whatever the noise, it covers 94 to 98 % and equal arms are said to differ in at most 5 %
(8 to 200 items); 93 % of eight items of two kinds that lie far apart. Of a bootstrap over items the percentiles cover
91 to 95 % at 8 to 20 items and the smoothed ones 92 to 99 %; the exact order statistics up to 99 %, being wider; those
that Hettmansperger and Sheather (1986) interpolate 90 to 96 %. `benchmarks/interval_coverage.py` repeats it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mtp.harness.stats.figures import about
from edge_mtp.harness.stats.statistics import NORMAL, Estimate, Z

LEAST_ITEMS = 6  # with fewer, smallest to largest figure does not reach 95 %: 93.75 % at 5
MARGIN = 0.05  # a change of speed that is called none where it is surely smaller
POWER = 0.8
COVERAGE = 0.95

Floats = npt.NDArray[np.float64]


class Medians(NamedTuple):
    """Medians [...] of samples and their intervals; infinite both ways where there are fewer than `LEAST_ITEMS`."""

    value: Floats
    low: Floats
    high: Floats


def item_figures(base: npt.ArrayLike, arm: npt.ArrayLike) -> Floats:
    """Each item's median over rounds of log(base / arm), above 0 where the arm is faster.

    Args:
        base, arm: [..., items, rounds] paired times above 0; NaN in either leaves a pair out.

    Returns:
        [..., items], NaN for an item without a pair.
    """
    logarithms = np.log(np.asarray(base, float)) - np.log(np.asarray(arm, float))
    ordered = np.sort(logarithms, axis=-1)  # NaN last
    count = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
    middle = [np.take_along_axis(ordered, np.maximum(count - 1 + i, 0) // 2, axis=-1) for i in (0, 1)]
    figures: Floats = ((middle[0] + middle[1]) / 2)[..., 0]
    return figures


def medians(figures: npt.ArrayLike) -> Medians:
    """The median over the last axis with its interval, of many samples at once.

    Args:
        figures: [..., items], at least one item and no NaN.
    """
    ordered = np.sort(np.asarray(figures, float), axis=-1)
    items = ordered.shape[-1]
    value = (ordered[..., (items - 1) // 2] + ordered[..., items // 2]) / 2
    if items < LEAST_ITEMS:
        return Medians(value, np.full_like(value, -np.inf), np.full_like(value, np.inf))
    outer, inwards = _depth(items)

    def between(first: Floats, second: Floats) -> Floats:
        return first + inwards * (second - first)

    low = between(ordered[..., outer - 1], ordered[..., outer])
    high = between(ordered[..., items - outer], ordered[..., items - outer - 1])
    return Medians(value, low, high)


def median_ratio(figures: npt.ArrayLike) -> Estimate:
    """The ratio whose logarithm is the median of an arm's `item_figures` [items]; 0 to infinity if they are too few."""
    value, low, high = (float(x) for x in medians(figures))
    return Estimate(math.exp(value), math.exp(low), math.exp(high))


@dataclass(frozen=True)
class PairedRatio:
    """The median of so many `pairs` of figures, one divided by the other, and its interval of `coverage`.

    With fewer than `LEAST_ITEMS` pairs the interval reaches from 0 to infinity.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """An infinite end is null."""
        return {**asdict(self), "high": self.high if math.isfinite(self.high) else None}


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> PairedRatio:
    """How two arms that were measured in pairs compare: at least one pair of figures above 0."""
    found = median_ratio(np.log(np.asarray(numerators, float)) - np.log(np.asarray(denominators, float)))
    return PairedRatio(found.value, found.low, found.high, COVERAGE, len(numerators))


def verdict(ratio: Estimate, items: int) -> str:
    """What a ratio over `items` items says: faster, slower, no difference within a percentage, or not enough data.

    A ratio that is 1.00 where it is printed is no difference that counts, even where 1 is excluded.
    """
    if round(ratio.value, 2) != 1:
        if ratio.low > 1:
            return "faster"
        if ratio.high < 1:
            return "slower"
    reach = max(ratio.high, 1 / ratio.low) - 1 if ratio.low > 0 else math.inf
    if reach <= MARGIN:
        return f"no difference within {max(1, math.ceil(100 * reach - 1e-9))}%"
    return f"not enough data: {items} of about {needed(ratio, items)} items"


def needed(ratio: Estimate, items: int) -> int:
    """About how many items would settle a ratio that `items` do not settle, with `POWER`.

    It assumes that the measured ratio is the true one and that further items vary as these do. A ratio is settled when
    it is shown not to be 1, or to be 1 within `MARGIN`; the easier of the two counts. The result is more than `items`
    and at least `LEAST_ITEMS`, in two digits.
    """
    if items < LEAST_ITEMS or not math.isfinite(ratio.high) or ratio.low <= 0:
        return max(LEAST_ITEMS, items + 1)
    effect, margin = abs(math.log(ratio.value)), math.log1p(MARGIN)
    up, down = math.log(ratio.high / ratio.value), math.log(ratio.value / ratio.low)
    inwards, outwards = (down, up) if ratio.value > 1 else (up, down)  # towards 1 and away from it
    # How many times as long as allowed each way to settle it finds the interval.
    excess = [inwards / effect] if effect > 0 else []
    if effect < margin:
        excess.append(max(outwards / (margin - effect), inwards / (margin + effect)))
    # An end is to lie that many of its standard errors before what it must not touch.
    count = max(LEAST_ITEMS, items + 1, items * (min(excess) * (Z + NORMAL.inv_cdf(POWER)) / Z) ** 2)
    return about(count)


@functools.cache
def _depth(items: int) -> tuple[int, float]:
    """The depth d, from 1, of the narrowest pair of order statistics (the d-th from either end) that holds the median
    in `COVERAGE` or more, and how far, 0 to 1, the interval's ends lie from there towards depth d + 1.

    The pair misses the median when fewer than d items lie on one of its sides: 2 P(Binomial(items, 1/2) < d).
    """
    whole = 1 << items
    depth, below, ways = 0, 0, 1  # ways to choose `depth` of the items; `below`: those of fewer
    missed = 0.0
    while True:
        below += ways
        beyond = 2 * below / whole
        if beyond > 1 - COVERAGE:
            return depth, (1 - COVERAGE - missed) / (beyond - missed)
        depth, ways, missed = depth + 1, ways * (items - depth) // (depth + 1), beyond
