"""When a drafter is named as one that does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edge_mtp.acceptance import CAUSES, DOUBT, LEAST_ACCEPTANCE, unfit, warning


@given(st.integers(1, 20_000), st.floats(0.0, 0.06))
def test_is_the_exact_binomial_test(drafted: int, share: float) -> None:
    accepted = int(drafted * share)
    p = binomtest(accepted, drafted, LEAST_ACCEPTANCE, "less").pvalue
    if abs(p / DOUBT - 1) > 1e-6:
        assert unfit(drafted, accepted) == (p < DOUBT)


@given(st.integers(0, 5_000_000), st.floats(LEAST_ACCEPTANCE, 1.0))
def test_never_names_a_drafter_at_the_bar_or_above(drafted: int, share: float) -> None:
    assert not unfit(drafted, min(drafted, int(drafted * share) + 1))


def test_names_one_that_is_never_right_as_soon_as_that_is_beyond_doubt() -> None:
    assert [drafted for drafted in range(400) if unfit(drafted, 0)] == list(range(152, 400))
    assert unfit(1_000_000, 20_000)
    assert not unfit(0, 0)


def test_refuses_counts_that_cannot_be() -> None:
    for drafted, accepted in ((1, 2), (3, -1)):
        with pytest.raises(ValueError, match="cannot have been right"):
            unfit(drafted, accepted)


def test_the_sentence_has_the_figures_and_the_causes() -> None:
    said = warning(2_000, 3)
    assert said is not None
    assert "3 of its 2,000" in said
    assert CAUSES in said
    assert warning(2_000, 200) is None
