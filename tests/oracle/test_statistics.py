"""Statistics of two arms on the same items, against scipy, statsmodels, enumeration and 10,000 simulated runs."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables, multitest, power, proportion

from edge_mtp.harness.stats import changes, statistics

RUNS = 10_000
Ints = npt.NDArray[np.int64]


class Drawn(NamedTuple):
    """Simulated runs, each [RUNS, clusters]."""

    lost: Ints
    gained: Ints
    items: Ints


def draw(clusters: int, size: float, correlation: float, lost: float, gained: float, seed: int = 0) -> Drawn:
    """Runs on clusters of 1 or more items, `size` on average, whose chances of a loss and of a gain vary between
    clusters (Dirichlet) as the intra-cluster correlation says."""
    generator = np.random.default_rng(seed)
    items = 1 + generator.poisson(size - 1, (RUNS, clusters))
    chances = np.broadcast_to([lost, gained, 1 - lost - gained], (RUNS, clusters, 3))
    if correlation:
        chances = generator.standard_gamma(chances * (1 - correlation) / correlation)
        chances = chances / chances.sum(-1, keepdims=True)
    losing, gaining = chances[..., 0], chances[..., 1]
    losses = generator.binomial(items, losing)
    gains = generator.binomial(items - losses, np.clip(gaining / np.maximum(1 - losing, 1e-300), 0, 1))
    return Drawn(losses, gains, items)


def intervals(drawn: Drawn) -> Any:
    """[RUNS, 2]"""
    found = (statistics.paired_difference(*run) for run in zip(*drawn, strict=True))
    return np.array([(each.low, each.high) for each in found])


# -- the interval ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 2000))
def test_tango_is_the_score_test_turned_over(lost: int, gained: int, same: int) -> None:
    """At either end the score statistic, with the likelihood maximized by scipy, is that of 95 %."""
    items = lost + gained + same
    found = statistics.tango(lost, gained, items)

    def deviation(difference: float) -> float:
        def unlikeliness(losing: float) -> float:
            chances = np.array([losing, losing + difference, 1 - 2 * losing - difference])
            return float(-scipy.special.xlogy([lost, gained, same], np.maximum(chances, 1e-300)).sum())

        ends = max(0.0, -difference), (1 - difference) / 2
        losing = scipy.optimize.minimize_scalar(unlikeliness, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        variance = items * (2 * losing + difference - difference**2)
        return float((gained - lost - items * difference) / math.sqrt(variance))

    assert found.value == (gained - lost) / items
    assert deviation(found.low) == pytest.approx(1.96, abs=5e-3)
    assert deviation(found.high) == pytest.approx(-1.96, abs=5e-3)


def test_tango_has_ends_where_every_item_differs() -> None:
    all_lost, all_gained = statistics.tango(5, 0, 5), statistics.tango(0, 5, 5)
    assert (all_lost.value, all_lost.low) == (-1, -1)
    assert (all_gained.low, all_gained.high) == (-all_lost.high, 1)
    assert -1 < all_lost.high < 0


@given(st.integers(0, 12), st.integers(0, 12), st.integers(300, 600))
def test_items_that_are_their_own_clusters_are_independent(lost: int, gained: int, items: int) -> None:
    column = np.arange(items)
    found = statistics.paired_difference(column < lost, column >= items - gained, np.ones(items))
    expected = statistics.tango(lost, gained, items)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02 * width)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40), st.integers(2, 9))
def test_saying_everything_again_tells_nothing(answers: list[tuple[bool, bool]], times: int) -> None:
    """Clusters of so many copies of an item are worth one item each."""
    lost, gained = (
        np.array(column, int) for column in zip(*((a and not b, b and not a) for a, b in answers), strict=True)
    )
    assume(0 < (lost + gained).sum() < len(answers))
    once = statistics.paired_difference(lost, gained, np.ones(len(answers)))
    often = statistics.paired_difference(times * lost, times * gained, np.full(len(answers), times))
    assert (once.value, once.low, once.high) == pytest.approx((often.value, often.low, often.high))


def test_equal_answers_are_worth_an_item_a_cluster() -> None:
    z2 = statistics.Z**2
    found = statistics.paired_difference(np.zeros(1000), np.zeros(1000), np.full(1000, 3))
    assert found.high == -found.low == pytest.approx(z2 / (1000 + z2), rel=0.01)
    assert statistics.paired_difference([0], [0], [100]) == statistics.Estimate(0, -1, 1)


@pytest.mark.parametrize(
    ("clusters", "size", "correlation", "lost", "gained"),
    [
        (400, 1, 0, 0.01, 0.01),
        (596, 2.7, 0.2, 0.015, 0.005),  # the tiny pair's largest split
        (150, 2.7, 0.2, 0.03, 0.01),
        (40, 10, 0.1, 0.03, 0.01),
        (20, 20, 0.05, 0.05, 0.03),
    ],
)
def test_the_interval_covers(clusters: int, size: float, correlation: float, lost: float, gained: float) -> None:
    low, high = intervals(draw(clusters, size, correlation, lost, gained)).T
    truth = gained - lost
    assert 0.935 <= np.mean((low <= truth) & (truth <= high)) <= 0.98
    # Each end is a bound of its own. The lower one is what `not inferior` is said by.
    assert np.mean(low > truth) <= 0.033
    assert np.mean(high < truth) <= 0.033


def test_a_bootstrap_over_clusters_would_call_losses_none() -> None:
    """And so would `share_difference`: why `paired_difference` is neither."""
    drawn, truth = draw(40, 10, 0.1, 0.03, 0.01), -0.02
    generator = np.random.default_rng(1)
    weights = generator.multinomial(40, np.full(40, 1 / 40), 400).T
    resampled = (drawn.gained - drawn.lost) @ weights / (drawn.items @ weights)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    assert np.mean((low <= truth) & (truth <= high)) < 0.92
    assert np.mean(low > truth) > 0.06
    above = 0
    for lost, gained, items in itertools.islice(zip(*drawn, strict=True), 4000):
        right = lost + generator.binomial(items - lost - gained, 0.85)
        above += changes.share_difference(right - lost + gained, items, right, items).low > truth
    assert above / 4000 > 0.035


# -- tests ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_statsmodels(counts: tuple[int, int]) -> None:
    found = statistics.wilson(*counts)
    assert (found.low, found.high) == pytest.approx(proportion.proportion_confint(*counts, method="wilson"), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60))
def test_one_item_a_cluster_is_mcnemars_test(lost: int, gained: int) -> None:
    signs = np.arange(lost + gained + 3)
    found = statistics.clustered_mcnemar(signs < lost, (signs >= lost) & (signs < lost + gained))
    expected = contingency_tables.mcnemar([[3, lost], [gained, 0]], exact=True).pvalue
    assert found == pytest.approx(expected, rel=1e-9)
    assert found == pytest.approx(statistics.mcnemar(lost, gained), rel=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_clusters_are_swapped_whole(counts: list[tuple[int, int]]) -> None:
    """As trying every swap says."""
    net = [gained - lost for lost, gained in counts]
    sums = [abs(sum(map(int.__mul__, net, signs))) for signs in itertools.product((1, -1), repeat=len(net))]
    expected = np.mean([each >= abs(sum(net)) for each in sums])
    assert statistics.clustered_mcnemar(*zip(*counts, strict=True)) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert statistics.holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1].tolist())


def test_equal_arms_are_seldom_told_apart_where_items_cluster() -> None:
    drawn = draw(150, 2.7, 0.2, 0.02, 0.02)
    found = [statistics.clustered_mcnemar(lost, gained) for lost, gained, _ in zip(*drawn, strict=True)]
    assert 0.01 < np.mean(np.array(found) <= 0.05) <= 0.05
    apart = [
        statistics.mcnemar(lost, gained) for lost, gained in zip(drawn.lost.sum(1), drawn.gained.sum(1), strict=True)
    ]
    assert np.mean(np.array(apart) <= 0.05) > 0.06  # that of independent items


def test_of_several_equal_arms_none_is_told_apart_after_holm() -> None:
    """Three arms against one base, in which a twentieth of the answers is drawn anew; 100 templates of four items."""
    generator = np.random.default_rng(0)
    chance = np.repeat(generator.beta(8, 2, (RUNS, 100)), 4, axis=1)
    common = generator.random(chance.shape) < chance

    def answers() -> npt.NDArray[np.bool_]:
        return np.where(generator.random(chance.shape) < 0.05, generator.random(chance.shape) < chance, common)

    def by_cluster(column: npt.NDArray[np.bool_]) -> Ints:
        return column.reshape(RUNS, 100, 4).sum(-1)

    base, p_values = answers(), np.empty((RUNS, 3))
    for index in range(3):
        arm = answers()
        counts = zip(by_cluster(base & ~arm), by_cluster(arm & ~base), strict=True)
        p_values[:, index] = [statistics.clustered_mcnemar(lost, gained) for lost, gained in counts]
    assert (p_values.min(1) <= 0.05).mean() > 0.06
    adjusted = np.array([statistics.holm(run) for run in p_values.tolist()])
    assert 0.01 < (adjusted.min(1) <= 0.05).mean() <= 0.05


# -- how many items -------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.5), st.floats(-1, 1).filter(lambda x: abs(x) > 0.02))
def test_items_for_mcnemar_are_statsmodels(discordance: float, part: float) -> None:
    change = part * discordance
    found = statistics.mcnemar_items(discordance, change)
    expected = power.normal_sample_size_one_tail(
        abs(change), 0.8, 0.025, math.sqrt(discordance), math.sqrt(discordance - change**2)
    )
    assert found == pytest.approx(max(expected, 6 / discordance))


@given(st.floats(0.001, 0.5), st.floats(-1, 1), st.floats(0.005, 0.1))
def test_items_for_non_inferiority_are_statsmodels(discordance: float, part: float, margin: float) -> None:
    change = part * discordance
    found = statistics.non_inferiority_items(discordance, change, margin)
    if change <= -margin:
        assert found == math.inf
        return
    spread = math.sqrt(discordance - change**2)
    expected = power.normal_sample_size_one_tail(change + margin, 0.8, 0.025, spread, spread)
    assert found >= expected * (1 - 1e-9)
    if found > expected * (1 + 1e-9):  # what it takes when no item differs
        assert statistics.tango(0, 0, found).low == pytest.approx(-margin)


def test_a_net_change_of_one_point_takes_1567_items() -> None:
    assert round(statistics.mcnemar_items(0.02, 0.01)) == 1567
    assert statistics.mcnemar_items(0.02, 0.0) == math.inf


@pytest.mark.parametrize(("discordance", "change"), [(0.02, -0.01), (0.06, 0.02), (0.1, -0.05)])
def test_so_many_items_find_a_change_four_times_in_five(discordance: float, change: float) -> None:
    items = math.ceil(statistics.mcnemar_items(discordance, change))
    lost, gained = simulated(items, discordance, change)
    found = {pair: statistics.mcnemar(*pair) <= 0.05 for pair in set(zip(lost, gained, strict=True))}
    assert 0.75 <= np.mean([found[pair] for pair in zip(lost, gained, strict=True)]) <= 0.84


@pytest.mark.parametrize(("discordance", "change"), [(0.02, 0.0), (0.05, 0.0), (0.03, 0.005)])
def test_so_many_items_rule_a_loss_out_four_times_in_five(discordance: float, change: float) -> None:
    items = math.ceil(statistics.non_inferiority_items(discordance, change, 0.01))
    assert 0.75 <= held(items, discordance, change) <= 0.84
    # And a loss of the margin is seldom ruled out with as many.
    assert held(items, discordance, -0.01) <= 0.03


def held(items: int, discordance: float, change: float) -> float:
    """The share of runs in which a loss of a point is ruled out."""
    lost, gained = simulated(items, discordance, change)
    found = {pair: statistics.tango(*pair, items).low > -0.01 for pair in set(zip(lost, gained, strict=True))}
    return float(np.mean([found[pair] for pair in zip(lost, gained, strict=True)]))


def simulated(items: int, discordance: float, change: float) -> tuple[list[int], list[int]]:
    chances = [(discordance - change) / 2, (discordance + change) / 2, 1 - discordance]
    lost, gained, _ = np.random.default_rng(0).multinomial(items, chances, RUNS).T.tolist()
    return lost, gained
