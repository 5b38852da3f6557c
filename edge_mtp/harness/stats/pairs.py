"""Paired comparison of two ways to run the same request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, with a distribution-free interval of at least `coverage` for that median.

    The interval lies between two order statistics of the pairs (David & Nagaraja, Order Statistics, 7.1); with
    fewer than six pairs none reaches 95 % and `coverage` says what the widest, minimum to maximum, does reach.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], coverage: float = 0.95) -> Ratio:
    """The ratio of two arms measured in pairs, at least one pair of positive values."""
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    n = len(ratios)
    rank, reached = 0, 1 - 2 * 0.5**n
    while 2 * (rank + 1) < n:
        narrower = 1 - 2 * sum(math.comb(n, i) for i in range(rank + 2)) / 2**n
        if narrower < coverage:
            break
        rank, reached = rank + 1, narrower
    return Ratio(median(ratios), ratios[rank], ratios[n - 1 - rank], reached, n)


def interleave(arms: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measurements of each arm over `rounds`, the order reversed every other round (ABBA), so that a drift of the
    machine's speed falls on all arms alike. Result: [arm][round].
    """
    results: list[list[float]] = [[] for _ in arms]
    for number in range(rounds):
        order = range(len(arms)) if number % 2 == 0 else reversed(range(len(arms)))
        for arm in order:
            results[arm].append(arms[arm]())
    return results
