"""Quantiles of times with intervals, over items: the tokens and rounds of one item are not independent of one another.

The interval of a quantile at level q holds the times at which the share of times below them is q within its own
standard error between items (Woodruff, 1952, Journal of the American Statistical Association 47:635). Beyond the data
it has no end: the upper end of a 95 % quantile takes 73 items. In simulation it covers 94 to 98 % (28 to 600 items of
one or three times each; quantiles of 50, 95 and 99 %). The change of a quantile between two arms on the same items is
better known than either quantile: percentiles of a bootstrap over items cover 94 to 99 % there.
`tests/oracle/test_quantiles.py` repeats part of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.harness.stats.statistics import Estimate, t_quantile

Times = tuple[npt.NDArray[np.float64], Sequence[str]]  # [n], and the item of each

LEAST_ITEMS = 10  # of a bootstrap
RESAMPLES = 2000
_MOST_WEIGHTS = 40_000_000  # of all resamples of an arm; long runs make do with fewer


def quantile(values: npt.NDArray[np.float64], items: Sequence[str], q: float) -> Estimate:
    """The quantile of `values` [n], at least one; `items` [n] names the item of each. 0 to infinity for one item."""
    value = float(np.quantile(values, q))
    names, of = np.unique(np.asarray(items), return_inverse=True)
    if len(names) < 2:
        return Estimate(value, 0.0, math.inf)
    count = np.bincount(of, minlength=len(names))
    below = np.bincount(of, values <= value, minlength=len(names))
    pull = (below - below.sum() / len(values) * count) / len(values)
    variance = max(float((pull**2).sum()) * len(names) / (len(names) - 1), q * (1 - q) / len(values))
    half = t_quantile(len(names) - 1) * math.sqrt(variance)
    low = float(np.quantile(values, q - half)) if q > half else 0.0
    high = float(np.quantile(values, q + half)) if q + half < 1 else math.inf
    return Estimate(value, low, high)


def quantile_change(b: Times, a: Times, q: float, *, is_relative: bool) -> Estimate:
    """The quantile of `b` less that of `a`, or what it is more as a fraction of it: times above 0 on the same items.

    Of fewer than `LEAST_ITEMS` the interval is unbounded.
    """
    value = _change(np.quantile(b[0], q), np.quantile(a[0], q), is_relative)
    names = {name: row for row, name in enumerate(sorted({*a[1], *b[1]}))}
    if len(names) < LEAST_ITEMS:
        return Estimate(float(value), -1.0 if is_relative else -math.inf, math.inf)
    most = max(len(a[0]), len(b[0]))
    resamples = max(200, min(RESAMPLES, _MOST_WEIGHTS // most))
    weights = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    resampled = [_weighted(times, np.asarray([names[item] for item in items]), weights, q) for times, items in (b, a)]
    changes = _change(resampled[0], resampled[1], is_relative)
    low, high = np.nanquantile(changes, [0.025, 0.975])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _change(b: Any, a: Any, is_relative: bool) -> Any:
    return b / a - 1 if is_relative else b - a


def _weighted(
    values: npt.NDArray[np.float64], of: npt.NDArray[np.int64], weights: npt.NDArray[np.int64], q: float
) -> npt.NDArray[np.float64]:
    """The quantile [resamples] of `values` [n], whose item numbers are `of` [n] and whose repetitions are `weights`
    [resamples, items]; NaN for a resample without values.
    """
    order = np.argsort(values)
    values, of = values[order], of[order]
    found = np.full(len(weights), np.nan)
    for row, repeated in enumerate(weights):
        ends = np.cumsum(repeated[of])
        if ends[-1] > 0:
            at = (ends[-1] - 1) * q
            below, above = values[np.searchsorted(ends, [math.floor(at), math.ceil(at)], side="right")]
            found[row] = below + (above - below) * (at - math.floor(at))
    return found
