"""When a drafter is named as one that does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edge_mtp.acceptance import CAUSES, DOUBT, LEAST_ACCEPTANCE, recall, remember, unfit, warning
from edge_mtp.cli.inspect import inspect
from edge_mtp.cli.transcript import summary_lines
from edge_mtp.device import Outcome
from edge_mtp.summary import summarize


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


def test_a_reply_names_the_drafter() -> None:
    outcome = Outcome("0", "length", 4, 0, 0, 9, 10.0, 90.0, first_drafts=2_000, first_accepted=3)
    assert summary_lines(summarize([], outcome))[-1] == warning(2_000, 3)
    assert "does not fit" not in "".join(summary_lines(summarize([], Outcome("0", "length", 4, 0, 0, 9, 10.0, 90.0))))


def test_inspect_names_it_after_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic_bundle: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def shown() -> str:
        return CliRunner().invoke(inspect, [str(synthetic_bundle)], catch_exceptions=False).output

    assert "first drafts" not in shown()
    remember(synthetic_bundle, 2_000, 1_900)
    assert "first drafts that were right in runs so far: 1,900 of 2,000" in shown()
    assert CAUSES not in shown()
    remember(synthetic_bundle, 3_000, 2)
    assert CAUSES in shown()


def test_what_is_no_entry_of_a_bundle_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"LITERTLM")
    assert recall(bundle) is None
    remember(bundle, 10, 5)
    assert recall(bundle) == (10, 5)
    (entry,) = (tmp_path / "cache" / "edge-mtp" / "acceptance").iterdir()
    for garbage in ("", "[1]", "[1, 2]", "{}", '["a", "b"]', "[null, 1]", "\xff"):
        entry.write_text(garbage, "latin-1")
        assert recall(bundle) is None, garbage
    remember(bundle, 10, 5)
    os.utime(bundle, ns=(1, 1))  # another file now
    assert recall(bundle) is None
    remember(tmp_path / "gone", 1, 1)
    assert recall(tmp_path / "gone") is None
