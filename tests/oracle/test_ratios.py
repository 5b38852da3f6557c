"""Medians of paired ratios: against scipy and brute force, and over simulated experiments whose truth is known."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from simulated_times import NOISES, draw

from edge_mtp.harness.stats import ratios
from edge_mtp.harness.stats.statistics import Estimate

EXPERIMENTS = 10_000
# Coverage may miss its bounds by what so many experiments leave to chance: two standard errors at 95 %.
CHANCE = 2 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)

times = st.floats(1e-3, 1e9)
figures = st.lists(st.floats(-5, 5), min_size=1, max_size=60)
many_figures = st.lists(st.floats(-5, 5), min_size=ratios.LEAST_ITEMS, max_size=60)


# -- what is computed -----------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.tuples(times, times, st.booleans()), min_size=1, max_size=6), min_size=1, max_size=9))
def test_item_figures_are_medians_of_the_rounds_that_are_there(items: list[list[tuple[float, float, bool]]]) -> None:
    """A round that one arm lacks is left out, whichever arm it is; rounds need not be equally many."""
    rounds = max(map(len, items))
    base, arm = np.full((2, len(items), rounds), np.nan)
    expected = []
    for row, pairs in enumerate(items):
        for column, (one, other, lacks) in enumerate(pairs):
            base[row, column], arm[row, column] = one, (math.nan if lacks else other)
        kept = [math.log(one / other) for one, other, lacks in pairs if not lacks]
        expected.append(statistics.median(kept) if kept else math.nan)
    assert ratios.item_figures(base, arm) == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
    assert ratios.item_figures(arm, base) == pytest.approx([-x for x in expected], rel=1e-9, abs=1e-9, nan_ok=True)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=40))
def test_a_paired_ratio_is_the_median_of_its_pairs(
    pairs: list[tuple[float, float]],
) -> None:
    found = ratios.paired_ratio(*zip(*pairs, strict=True))
    logs = sorted(math.log(one / other) for one, other in pairs)
    assert math.log(found.median) == pytest.approx(statistics.median(logs), abs=1e-9)
    assert (found.coverage, found.pairs) == (0.95, len(pairs))
    if len(pairs) < ratios.LEAST_ITEMS:
        assert (found.low, found.high) == (0, math.inf)
        assert found.to_json()["high"] is None
        return
    assert logs[0] - 1e-9 <= math.log(found.low) <= math.log(found.high) <= logs[-1] + 1e-9
    assert found.to_json()["high"] == found.high


@given(many_figures)
def test_the_interval_lies_between_the_exact_ones_around_its_level(values: list[float]) -> None:
    """Order statistics of depth d hold the median unless fewer than d items lie on one side: scipy's binomial. Between
    the depths around 95 % ends are interpolated at the share that gives 95 % of these chances."""
    n, ordered = len(values), sorted(values)

    def holds(depth: int) -> float:
        return 1 - 2 * float(scipy.stats.binom.cdf(depth - 1, n, 0.5))

    outer = max(depth for depth in range(1, n // 2 + 1) if holds(depth) >= 0.95)
    inwards = (holds(outer) - 0.95) / (holds(outer) - holds(outer + 1))
    low = (1 - inwards) * ordered[outer - 1] + inwards * ordered[outer]
    high = (1 - inwards) * ordered[n - outer] + inwards * ordered[n - outer - 1]

    found = ratios.median_ratio(values)
    assert math.log(found.value) == pytest.approx(np.median(values), abs=1e-9)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high), abs=1e-9)
    # scipy's interval is the exact one, which is never narrower.
    exact = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert exact.low - 1e-9 <= math.log(found.low) <= math.log(found.high) <= exact.high + 1e-9


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=ratios.LEAST_ITEMS - 1))
def test_so_few_items_have_no_interval(values: list[float]) -> None:
    """Of five, not even smallest to largest holds the median in 95 %."""
    assert 1 - 2 * scipy.stats.binom.cdf(0, len(values), 0.5) < 0.95
    found = ratios.median_ratio(values)
    assert (found.low, found.high) == (0.0, math.inf)
    assert math.log(found.value) == pytest.approx(np.median(values), abs=1e-9)
    assert ratios.verdict(found, len(values)).startswith("not enough data")


@given(figures, st.randoms(use_true_random=False), st.floats(-3, 3))
def test_what_a_median_does_not_depend_on(values: list[float], random: Any, shift: float) -> None:
    found = ratios.median_ratio(values)
    shuffled = random.sample(values, len(values))
    assert ratios.median_ratio(shuffled) == found
    swapped = ratios.median_ratio([-x for x in values])
    assert swapped.value == pytest.approx(1 / found.value)
    assert swapped.high == pytest.approx(1 / found.low if found.low else math.inf)
    assert swapped.low == pytest.approx(1 / found.high if found.high < math.inf else 0.0)
    moved = ratios.median_ratio([x + shift for x in values])
    assert (moved.value, moved.low, moved.high) == pytest.approx(
        tuple(x * math.exp(shift) for x in (found.value, found.low, found.high))
    )


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-5, 5)))
def test_many_samples_at_once_are_each_alone(samples: Any) -> None:
    value, low, high = ratios.medians(samples)
    for row, sample in enumerate(samples):
        alone = ratios.median_ratio(sample)
        together = [math.exp(x) for x in (value[row], low[row], high[row])]
        assert together == pytest.approx([alone.value, alone.low, alone.high])


@pytest.mark.parametrize("items", [6, 33, 1600, 20_000])
def test_levels_are_exact_for_many_items(items: int) -> None:
    """Ranks as values: the ends then say between which order statistics they lie, and how far."""
    _, low, _ = ratios.medians(np.arange(1.0, items + 1))
    depth = math.floor(float(low))
    beyond = [2 * float(scipy.stats.binom.cdf(d - 1, items, 0.5)) for d in (depth, depth + 1)]
    level = beyond[0] + (float(low) - depth) * (beyond[1] - beyond[0])
    assert level == pytest.approx(0.05, rel=1e-6)


# -- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "items", "verdict"),
    [
        (Estimate(1.2, 1.001, 1.4), 30, "faster"),
        (Estimate(0.97, 0.95, 0.999), 30, "slower"),
        (Estimate(1.0, 0.99, 1.02), 30, "no difference within 2%"),
        (Estimate(1.0, 1 / 1.031, 1.01), 30, "no difference within 4%"),
        (Estimate(1.0, 1.0, 1.0), 30, "no difference within 1%"),
        (Estimate(1.0, 1.0, 1.03), 30, "no difference within 3%"),
        (Estimate(1.004, 1.001, 1.006), 30, "no difference within 1%"),
        (Estimate(0.996, 0.991, 0.999), 30, "no difference within 1%"),
        (Estimate(1.006, 1.001, 1.011), 30, "faster"),
        (Estimate(1.0, 1 / 1.049, 1.0), 30, "no difference within 5%"),
        (Estimate(1.5, 0.0, math.inf), 4, "not enough data: 4 of about 6 items"),
        (Estimate(1.0, 0.9, 1 / 0.9), 40, "not enough data: 40 of about 390 items"),
    ],
)
def test_verdicts(ratio: Estimate, items: int, verdict: str) -> None:
    assert ratios.verdict(ratio, items) == verdict


@given(many_figures)
def test_verdicts_turn_round_with_the_arms(values: list[float]) -> None:
    opposite = {"faster": "slower", "slower": "faster"}
    said = ratios.verdict(ratios.median_ratio(values), len(values))
    swapped = ratios.verdict(ratios.median_ratio([-x for x in values]), len(values))
    assert swapped.split(":")[0] == opposite.get(said, said).split(":")[0]


@given(st.floats(0.9, 1.1), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.integers(1, 500))
@example(1.06, 0.001, 0.0583, 27)  # a lower end that nearly reaches above 1, a short upper one
def test_undecided_ratios_need_more_items_than_there_are(value: float, up: float, down: float, items: int) -> None:
    """However far from one another the interval's ends lie."""
    ratio = Estimate(value, value * math.exp(-down), value * math.exp(up))
    if ratios.verdict(ratio, items).startswith("not enough data"):
        assert ratios.needed(ratio, items) > items


def test_the_end_that_leaves_it_open_says_how_many_items_are_needed() -> None:
    """The end towards 1 for a difference, and both for none: that away from 1 has less room."""
    times_more = ((scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) / scipy.stats.norm.ppf(0.975)) ** 2
    different = Estimate(1.2, 1.2 * math.exp(-2 * math.log(1.2)), 1.2001)
    assert ratios.needed(different, 100) == pytest.approx(100 * times_more * 4, rel=0.05)
    alike = Estimate(1.01, 1.01 * math.exp(-0.02), 1.01 * math.exp(2 * math.log(1.05 / 1.01)))
    assert ratios.needed(alike, 100) == pytest.approx(100 * times_more * 4, rel=0.05)


@pytest.mark.parametrize("faster", [1.0, 1.01, 1.04, 1.1])
def test_as_many_items_as_are_said_to_be_needed_settle_it(faster: float) -> None:
    """With about 80 % power; the usual interval of 16 items stands for theirs."""
    generator, spread = np.random.default_rng(3), 0.2
    few = ratios.medians(generator.normal(0.0, spread, (EXPERIMENTS, 16)))
    half = float(np.median(few.high - few.low)) / 2
    items = ratios.needed(Estimate(faster, faster * math.exp(-half), faster * math.exp(half)), 16)
    found = ratios.medians(generator.normal(math.log(faster), spread, (500, items)))
    said = [ratios.verdict(Estimate(*map(math.exp, each)), items) for each in zip(*found, strict=True)]
    settled = np.mean([not words.startswith("not enough data") for words in said])
    assert 0.7 <= settled <= 0.93


# -- how often it is right ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("effect", ["no item effect", "varied items", "two kinds of items"])
@pytest.mark.parametrize(("items", "rounds"), [(8, 4), (11, 2), (20, 3), (64, 6), (200, 2)])
def test_intervals_cover(noise: str, effect: str, items: int, rounds: int) -> None:
    """Within 93.5 and 98 %. The truth at 8 items is 97.7 %, so that chance is given more experiments to even out."""
    faster, experiments = 1.25, max(EXPERIMENTS, 800_000 // items)
    pairs = draw(np.random.default_rng(0), experiments, items, rounds, noise, effect, faster)
    _, low, high = ratios.medians(ratios.item_figures(*pairs))
    covered = ((low <= math.log(faster)) & (math.log(faster) <= high)).mean()
    assert 0.935 <= covered <= 0.98


@pytest.mark.parametrize(("items", "at_least"), [(8, 0.925), (20, 0.935), (64, 0.935), (200, 0.935)])
def test_kinds_far_apart_are_covered(items: int, at_least: float) -> None:
    """Hardly an item lies where the median does, between the kinds: interpolating there, the worst is the chance of the
    inner order statistics, 93.0 % at 8 items."""
    pairs = draw(np.random.default_rng(0), EXPERIMENTS, items, 3, "drift", "two kinds far apart", 1.25)
    _, low, high = ratios.medians(ratios.item_figures(*pairs))
    assert at_least <= ((low <= math.log(1.25)) & (math.log(1.25) <= high)).mean() <= 0.98


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("items", "rounds"), [(8, 2), (10, 4), (20, 3), (50, 6), (200, 2)])
def test_equal_arms_are_called_so(noise: str, items: int, rounds: int) -> None:
    """False alarms stay at most nominal: 5 % in all, half of it to either side."""
    pairs = draw(np.random.default_rng(items + 1), EXPERIMENTS, items, rounds, noise, "no item effect", 1.0)
    _, low, high = ratios.medians(ratios.item_figures(*pairs))
    assert (low > 0).mean() <= 0.025 + CHANCE / math.sqrt(2)
    assert (high < 0).mean() <= 0.025 + CHANCE / math.sqrt(2)
    assert ((low > 0) | (high < 0)).mean() <= 0.05 + CHANCE


@pytest.mark.parametrize("items", [8, 21, 80])
def test_skewed_items_are_covered(items: int) -> None:
    """Most items gain a little, some a lot. What the median is, a very long run says."""

    def measured(generator: np.random.Generator, experiments: int, items: int) -> Any:
        gain = generator.exponential(0.2, (experiments, items, 1))
        slowness = generator.normal(0.0, 0.03, (2, experiments, items, 3))
        return ratios.item_figures(np.exp(slowness[0]), np.exp(slowness[1] - gain))

    truth = float(np.median(measured(np.random.default_rng(5), 1, 1_000_000)))
    _, low, high = ratios.medians(measured(np.random.default_rng(6), EXPERIMENTS, items))
    assert 0.935 <= ((low <= truth) & (truth <= high)).mean() <= 0.98


def test_an_arm_3_percent_slower_is_found() -> None:
    """In nine of ten benchmarks of 60 items and 3 rounds whose answers vary by 5 %; in the usual 30, in two of three.
    Hardly ever the other way round."""
    found = {}
    for items in (30, 60):
        pairs = draw(np.random.default_rng(8), EXPERIMENTS, items, 3, "log-normal", "no item effect", 1 / 1.03)
        _, low, high = ratios.medians(ratios.item_figures(*pairs))
        found[items] = (high < 0).mean()
        assert (low > 0).mean() < 0.001
    assert found[30] > 0.66
    assert found[60] > 0.9
