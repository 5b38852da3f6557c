"""Quantiles over items: their values against `Latency`, their intervals by simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from synthetic_results import synthetic_results

from edge_mtp.harness.analyse.latency import latencies
from edge_mtp.harness.analyse.times import Timed, times
from edge_mtp.harness.stats.quantiles import LEAST_ITEMS, Times, quantile, quantile_change

LEVELS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def test_values_are_those_of_latencies() -> None:
    results = synthetic_results(3, crashes=3)
    for latency in latencies(results):
        if latency.kind is not None:
            continue
        for what in ("first_token", "call", "token"):
            values, items = times(results, latency.arm, what)
            distribution = getattr(latency, what)
            assert len(values) == distribution.count
            for name, level in LEVELS.items():
                assert quantile(values, items, level).value == pytest.approx(getattr(distribution, name))


def drawn(
    generator: np.random.Generator, items: int, rounds: int, spread: float, noise: float, base: np.ndarray | None = None
) -> Times:
    """Lognormal times: items differ by `spread`, rounds of one by `noise`."""
    base = generator.normal(0.0, spread, items) if base is None else base
    values = np.exp(base[:, None] + generator.normal(0.0, noise, (items, rounds))).ravel()
    return values, [str(i) for i in np.repeat(np.arange(items), rounds)]


@pytest.mark.parametrize(("items", "rounds", "level"), [(28, 3, 0.5), (100, 3, 0.95), (300, 1, 0.95)])
def test_intervals_cover(items: int, rounds: int, level: float) -> None:
    generator = np.random.default_rng(7)
    truth = math.exp(NormalDist().inv_cdf(level) * math.hypot(0.6, 0.1))
    found = [quantile(*drawn(generator, items, rounds, 0.6, 0.1), level) for _ in range(1000)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.93 <= covered <= 0.99  # 1.4 points are two standard errors of the simulation


@pytest.mark.parametrize(("items", "rounds", "level"), [(28, 3, 0.5), (28, 3, 0.95), (100, 1, 0.95)])
def test_changes_cover(items: int, rounds: int, level: float) -> None:
    """Two arms on the same items, one 10 % slower."""
    generator = np.random.default_rng(8)
    covered, seen = 0, 0
    for _ in range(150):
        base = generator.normal(0.0, 0.6, items)
        a, b = (drawn(generator, items, rounds, 0.6, 0.05, base) for _ in range(2))
        change = quantile_change((1.1 * b[0], b[1]), a, level, is_relative=True)
        covered += change.low <= 0.1 <= change.high
        seen += change.low > 0
    assert covered >= 0.92 * 150
    assert seen > 0.3 * 150  # not by being endless


@pytest.mark.parametrize("what", ["first_token", "call", "token"])
def test_equal_arms_have_not_changed(what: Timed) -> None:
    results = synthetic_results(1, items=84, rounds=1)
    same = times(results, results.run.baseline, what)
    for is_relative in (False, True):
        change = quantile_change(same, same, 0.95, is_relative=is_relative)
        assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0)


def test_a_weighted_resample_is_the_repeated_one() -> None:
    """A change by which every time doubles is known exactly, whatever is resampled, and so is one by 5 ms."""
    values, items = drawn(np.random.default_rng(2), LEAST_ITEMS, 3, 1.0, 1.0)
    for level in LEVELS.values():
        doubled = quantile_change((2 * values, items), (values, items), level, is_relative=True)
        assert (doubled.value, doubled.low, doubled.high) == pytest.approx((1.0, 1.0, 1.0))
        later = quantile_change((values + 5, items), (values, items), level, is_relative=False)
        assert (later.value, later.low, later.high) == pytest.approx((5.0, 5.0, 5.0))


def test_too_few_items_tell_nothing() -> None:
    values, items = drawn(np.random.default_rng(2), LEAST_ITEMS - 1, 3, 1.0, 1.0)
    change = quantile_change((2 * values, items), (values, items), 0.5, is_relative=True)
    assert (change.value, change.low, change.high) == (1.0, -1.0, math.inf)
    alone = quantile(values[:3], items[:3], 0.5)
    assert (alone.low, alone.high) == (0.0, math.inf)


def test_the_upper_end_of_a_high_quantile_takes_items() -> None:
    generator = np.random.default_rng(5)
    assert quantile(*drawn(generator, 60, 1, 1.0, 0.1), 0.95).high == math.inf
    assert quantile(*drawn(generator, 80, 1, 1.0, 0.1), 0.95).high < math.inf
