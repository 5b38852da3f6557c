"""Changes between estimates: against Newcombe's method drawn as a triangle, and against themselves turned round."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_mtp.harness.stats.changes import (
    Parts,
    complement,
    correlation,
    difference,
    negated,
    quotient,
    reciprocal,
    share_difference,
)
from edge_mtp.harness.stats.statistics import Estimate, share

PARTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9), st.integers(0, 9)), min_size=2, max_size=40
)
POSITIVE = st.floats(1e-3, 1e3)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, value, high = sorted(draw(st.tuples(POSITIVE, POSITIVE, POSITIVE)))
    return Estimate(value, low, high)


def approximately(estimate: Estimate) -> object:
    return pytest.approx((estimate.value, estimate.low, estimate.high), rel=1e-9, abs=1e-9)


def ends(estimate: object) -> tuple[float, float, float]:
    assert isinstance(estimate, Estimate)
    return estimate.value, estimate.low, estimate.high


@given(PARTS)
def test_related_shares_are_newcombes(drawn: list[tuple[int, int, int, int]]) -> None:
    trials, right, base_trials, base_right = (list(column) for column in zip(*drawn, strict=True))
    right = [min(pair) for pair in zip(right, trials, strict=True)]
    base_right = [min(pair) for pair in zip(base_right, base_trials, strict=True)]

    def parts(top: list[int], bottom: list[int]) -> Parts:
        return {str(i): (float(x), float(y)) for i, (x, y) in enumerate(zip(top, bottom, strict=True))}

    def residuals(top: list[int], bottom: list[int]) -> Any:
        return np.array(top) * sum(bottom) - np.array(bottom) * sum(top)

    def third_side(a: float, b: float) -> float:
        """Of the triangle whose angle between `a` and `b` has the correlation as its cosine."""
        return abs(complex(a, 0) - b * cmath.exp(1j * math.acos(max(-1.0, min(1.0, r)))))

    x, y = residuals(right, trials), residuals(base_right, base_trials)
    r = float(np.corrcoef(x, y)[0, 1]) if x.any() and y.any() else 0.0
    p, q = share(right, trials), share(base_right, base_trials)
    value = sum(right) / sum(trials) - sum(base_right) / sum(base_trials)
    low = value - third_side(p.value - p.low, q.high - q.value)
    high = value + third_side(p.high - p.value, q.value - q.low)

    related = correlation(parts(right, trials), parts(base_right, base_trials))
    assert related == pytest.approx(r, abs=1e-9)
    assert ends(difference(p, q, related)) == pytest.approx((value, low, high), abs=1e-6)
    found = share_difference(right, trials, base_right, base_trials)
    assert ends(found) == pytest.approx((value, max(-1.0, low), min(1.0, high)), abs=1e-6)


@given(estimates(), estimates(), st.floats(-1, 1))
def test_turned_round(a: Estimate, b: Estimate, related: float) -> None:
    forth, back = difference(b, a, related), difference(a, b, related)
    assert isinstance(back, Estimate)
    assert ends(forth) == approximately(negated(back))
    forth, back = quotient(b, a, related), quotient(a, b, related)
    assert isinstance(forth, Estimate)
    assert isinstance(back, Estimate)
    assert ends(forth) == approximately(reciprocal(back))
    assert forth.low <= forth.value * (1 + 1e-9)
    assert forth.high >= forth.value * (1 - 1e-9)


@given(st.floats(10, 20), st.floats(0, 5))
def test_nothing_changes_between_one_figure_and_itself(value: float, half: float) -> None:
    even = Estimate(value, value - half, value + half)
    assert ends(difference(even, even, 1.0)) == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)
    even = Estimate(value, value / (1 + half), value * (1 + half))
    assert ends(quotient(even, even, 1.0)) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


@given(POSITIVE, POSITIVE)
def test_without_intervals(a: float, b: float) -> None:
    assert difference(b, a) == b - a
    assert quotient(b, a) == b / a
    assert difference(Estimate(b, b, b), a) == b - a


def test_zero_and_no_end() -> None:
    half = Estimate(0.5, 0.4, 0.6)
    assert quotient(half, Estimate(0.0, 0.0, 0.1)) is None
    assert quotient(half, 0.0) is None
    assert ends(quotient(Estimate(0.0, 0.0, 0.1), half)) == (0.0, 0.0, 0.25)
    assert ends(quotient(half, Estimate(0.5, 0.0, math.inf)))[1:] == (0.0, math.inf)
    assert ends(difference(half, Estimate(0.5, 0.0, math.inf)))[1] == -math.inf


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_a_share_leaves(a: float, b: float, c: float) -> None:
    low, value, high = sorted((a, b, c))
    assume(low <= high)
    left = complement(Estimate(value, low, high))
    assert left.low <= left.value <= left.high
    assert ends(complement(left)) == pytest.approx((value, low, high))
