"""What tells a right accelerator from a wrong one, and a fast one from a slow one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_parts import PassCosts, ask, best_rate, difference, reads, speed_up, take

RANDOM = np.random.default_rng(5)
VALUES = RANDOM.standard_normal((4, 64)).astype(np.float32)


def test_rounding_is_no_difference() -> None:
    rounded = VALUES.astype(np.float16).astype(np.float32)
    assert difference(VALUES, VALUES) == difference(VALUES, rounded) == difference(VALUES, rounded, logits=True) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros_like(VALUES),  # an output that stayed unwritten
        VALUES[::-1],  # rows of another position
        RANDOM.standard_normal(VALUES.shape).astype(np.float32),
        np.where(np.arange(64) == 13, np.nan, VALUES),
        np.where(np.arange(64) == 13, np.inf, VALUES),
    ],
    ids=["zeros", "swapped rows", "garbage", "nan", "infinite"],
)
def test_garbage_is_one(wrong: np.ndarray) -> None:
    assert difference(VALUES, wrong).startswith("the values")


def test_a_single_wrong_row_shows() -> None:
    wrong = VALUES.copy()
    wrong[2] = RANDOM.standard_normal(64)
    assert difference(VALUES, wrong)


def test_another_token_counts_only_if_it_is_much_less_likely() -> None:
    logits = np.zeros((2, 64), np.float32)
    logits[:, 3], logits[:, 5] = 10, 9.8
    close, far = logits.copy(), logits.copy()
    close[1, 5] = 10.1
    assert difference(logits, close, logits=True) == ""
    far[:, 7], far[:, 3] = 1.9, 1.8  # every value is within a fifth of the largest, but for the winner
    assert difference(logits, far, logits=True)
    logits[:, 5] = 9
    tied = logits.copy()
    tied[1, 3], tied[1, 5] = 9.4, 9.5
    assert difference(logits, tied, logits=True) == "the values choose another token in row 1"


@given(
    plain=st.floats(1, 1e6),
    steps=st.dictionaries(st.integers(1, 15), st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), max_size=5),
    acceptance=st.floats(0, 1),
)
def test_the_best_rate_is_that_of_the_best_length(
    plain: float, steps: dict[int, tuple[float, float]], acceptance: float
) -> None:
    rates = [1000 / plain]
    rates += [
        1000 * sum(acceptance**i for i in range(length + 1)) / (draft + verify)
        for length, (draft, verify) in steps.items()
    ]
    assert best_rate(plain, steps, acceptance) == pytest.approx(max(rates))


def test_a_gpu_that_verifies_slowly_ends_on_the_best_of_all() -> None:
    """8.7 tokens a second without drafts and 3.0 with them, as of one phone (LiteRT-LM, issue 2227)."""
    cpu = {3: (12e3, 150e3)}
    slow_gpu = best_rate(115e3, {3: (40e3, 800e3)}, 0.7)
    assert slow_gpu == pytest.approx(8.7e-3, rel=0.01)  # its plain steps, not its drafts
    assert best_rate(100e3, cpu, 0.7) > slow_gpu
    assert best_rate(200e3, {3: (12e3, 600e3)}, 0.7) < slow_gpu


CPU = PassCosts(100e3, {3: (10e3, 140e3)})
PLAIN_GPU = PassCosts(62e3, {3: (20e3, 500e3)})  # right for plain steps alone


def test_how_much_faster_is_kept_for_each_acceptance() -> None:
    for acceptance in (0.0, 0.05, 0.333, 0.7, 0.98, 1.0):
        assert speed_up(CPU, PLAIN_GPU, acceptance) == pytest.approx(
            PLAIN_GPU.rate(acceptance) / CPU.rate(acceptance), rel=0.01
        )
    assert speed_up(CPU, CPU, 0.5) == 1


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (" ".join(["1.5"] * 42), True),
        (" ".join(["1.5"] * 41), False),
        (" ".join(["1.5"] * 43), False),
        (" ".join(["1.5"] * 41 + ["nan"]), False),
        (" ".join(["1.5"] * 41 + ["0"]), False),
        (" ".join(["1.5"] * 41 + ["-2"]), False),
        ("", False),
    ],
)
def test_a_damaged_line_counts_as_none(line: str, good: bool) -> None:
    assert reads(line) == good


def test_the_fastest_at_the_acceptance_that_texts_had_is_taken() -> None:
    assert take(CPU, PLAIN_GPU, 0, 0, decoded=False) == (False, False)
    assert take(CPU, PLAIN_GPU, 300, 270, decoded=True) == (False, False)
    assert take(CPU, PLAIN_GPU, 300, 60, decoded=True) == (True, False)
    assert take(CPU, CPU, 0, 0, decoded=False) == (False, False), "of equal ones, the CPU"


def test_where_texts_had_no_drafts_the_next_ones_have_some() -> None:
    """Its plain steps are a bit faster than the CPU with drafts of the acceptance that an unknown pair has."""
    gpu = PassCosts(55e3, PLAIN_GPU.steps)
    assert take(CPU, gpu, 0, 0, decoded=False) == (True, False)
    assert take(CPU, gpu, 0, 0, decoded=True) == (False, True), "the CPU shows what drafts are worth"
    assert take(CPU, gpu, 100, 95, decoded=True) == (False, False)
    assert take(CPU, gpu, 100, 60, decoded=True) == (True, False)
    useless = PassCosts(100e3, {3: (90e3, 400e3)})
    assert take(useless, gpu, 0, 0, decoded=True) == (True, False), "there it would draft nothing either"


def test_a_child_answers() -> None:
    assert ask("echo faster 2; echo noise >&2", 20) == ("faster 2\n", "")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo half; kill -SEGV $$", "it crashed (signal 11)"),
        ("kill -ABRT $$", "it crashed (signal 6)"),
        ("exit 3", "it ended with status 3"),
    ],
)
def test_a_child_that_fails_says_how(script: str, fault: str) -> None:
    assert ask(script, 20)[1] == fault


def test_a_child_that_hangs_is_ended() -> None:
    began = time.monotonic()
    assert ask("echo begun; exec sleep 300", 1) == ("begun\n", "it took more than 1 s")
    assert time.monotonic() - began < 60


def test_endless_output_is_cut() -> None:
    output, fault = ask("exec yes", 1)
    assert len(output) <= 1 << 16
    assert fault == "it took more than 1 s"
