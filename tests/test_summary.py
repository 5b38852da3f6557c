"""Figures of a trace, and paired ratios, against independent reckonings."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_mtp.compare import interleave, paired_ratio
from edge_mtp.device import Outcome, Step
from edge_mtp.summary import summarize


def make_step(accepted: int, drafted: int, count: int, total_us: float, index: int = 0) -> Step:
    return Step(
        request="r", step=index, kind="verify" if drafted else "plain", position=index, tokens=[7] * count,
        draft=[7] * drafted, confidence=[0.5] * drafted, accepted=accepted, draft_us=1.0, embed_us=1.0,
        verify_us=1.0, select_us=0.0, total_us=total_us,
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7), st.floats(1, 1e6)), max_size=40))
def test_summary_counts_what_the_steps_did(shapes: list[tuple[int, int, float]]) -> None:
    verifies = [make_step(min(a, k), k, min(a, k) + 1, us) for k, a, us in shapes]
    steps = [make_step(0, 0, 1, 500.0), *verifies]
    tokens = sum(len(s.tokens) for s in steps)
    summary = summarize(steps, Outcome("r", "length", 10, tokens, 1500.0, 0.0))

    assert summary.time_to_first_token_s == pytest.approx(0.002)
    assert summary.verify_steps == len(verifies)
    if not verifies:
        assert summary.tokens_per_s is None
        assert summary.tokens_per_verify is None
        return
    assert summary.tokens_per_verify == pytest.approx(np.mean([s.accepted + 1 for s in verifies]))
    assert summary.tokens_per_s == pytest.approx((tokens - 1) / sum(s.total_us for s in verifies) * 1e6)
    for j, share in enumerate(summary.acceptance):
        reached = [s for s in verifies if len(s.draft) > j and s.accepted >= j]
        assert summary.acceptance_counts[j] == len(reached)
        assert share == pytest.approx(np.mean([s.accepted > j for s in reached]))


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_interval_covers_by_the_binomial_law(pairs: int, coverage: float) -> None:
    ratio = paired_ratio([float(i + 1) for i in range(pairs)], [1.0] * pairs, coverage)
    low = int(ratio.low) - 1  # ratios are 1..pairs, so a value tells its rank
    reached = 1 - 2 * stats.binom.cdf(low, pairs, 0.5)
    assert ratio.coverage == pytest.approx(max(reached, 0.0), abs=1e-9)
    assert ratio.low + ratio.high == pairs + 1
    if ratio.coverage < coverage:
        assert low == 0  # the widest there is
    elif 2 * (low + 2) <= pairs:
        assert 1 - 2 * stats.binom.cdf(low + 1, pairs, 0.5) < coverage  # no narrower one would do


def test_interval_holds_its_coverage_on_skewed_ratios() -> None:
    rng = random.Random(3)
    true_median = math.exp(0.0)
    hits = 0
    for _ in range(2000):
        ratio = paired_ratio([rng.lognormvariate(0, 1) for _ in range(15)], [1.0] * 15)
        hits += ratio.low <= true_median <= ratio.high
    assert hits / 2000 > 0.93  # exact coverage for 15 pairs is 0.965


def test_interleave_reverses_every_other_round() -> None:
    order: list[str] = []

    def arm(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = interleave([lambda: arm("a"), lambda: arm("b")], 4)
    assert "".join(order) == "abbaabba"
    assert results == [[1, 4, 5, 8], [2, 3, 6, 7]]
