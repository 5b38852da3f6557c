"""Logit processors and log-probabilities against numpy, transformers and the definitions they name."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_parts import Processors, Refused, describe_choice
from numpy.typing import NDArray
from scipy.special import log_softmax

MAX_DRAFTS = 31  # proposal.h


def reference(
    logits: NDArray[np.float32],
    prompt: list[int],
    output: list[int],
    *,
    bias: dict[int, float],
    suppress: list[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> NDArray[np.float32]:
    """docs/verify-op.md's processors 1 and 2 over the whole row, in their order."""
    row: NDArray[np.float32] = logits.copy()
    for token, value in bias.items():
        row[token] += np.float32(value)
    for token in {*prompt, *output}:
        factor = np.float32(repetition)
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    # "mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence" (OpenAI's API reference)
    for token, count in Counter(output).items():
        row[token] = np.float64(row[token]) - (count * np.float64(np.float32(frequency)) + np.float32(presence))
    row[suppress] = -np.inf
    return row


def draw_case(rng: np.random.Generator, vocabulary: int) -> dict[str, Any]:
    def some(most: int) -> list[int]:
        return [int(t) for t in rng.integers(0, vocabulary, rng.integers(0, most))]

    def sometimes(value: float, off: float) -> float:
        return float(value) if rng.random() < 0.6 else off

    return {
        "bias": {token: float(rng.normal(0, 5)) for token in some(5)},
        "suppress": some(4),
        "repetition": sometimes(rng.choice([0.5, 1.1, 1.3, 2.0, 100.0]), 1.0),
        "presence": sometimes(rng.normal(0, 2), 0.0),
        "frequency": sometimes(rng.normal(0, 2), 0.0),
    }


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), vocabulary=st.sampled_from([1, 2, 7, 50, 1000]))
def test_any_history_of_pushes_and_pops_equals_the_reference(seed: int, vocabulary: int) -> None:
    rng = np.random.default_rng(seed)
    processors = Processors(vocabulary)
    for _request in range(2):  # the second must see nothing of the first
        case = draw_case(rng, vocabulary)
        prompt = [int(t) for t in rng.integers(0, vocabulary, rng.integers(0, 60))]
        output: list[int] = []
        takeable = 0
        processors.begin(prompt, **case)
        for _ in range(int(rng.integers(0, 25))):
            if rng.random() < 0.4:
                count = int(rng.integers(0, takeable + 1))
                processors.pop(count)
                del output[len(output) - count :]
                takeable -= count
            else:
                for token in rng.integers(0, vocabulary, rng.integers(1, 12)):
                    processors.push(int(token))
                    output.append(int(token))
                    takeable = min(takeable + 1, MAX_DRAFTS)
            logits = (rng.standard_normal(vocabulary) * rng.choice([1.0, 30.0])).astype(np.float32)
            logits[rng.random(vocabulary) < 0.05] = -np.inf
            np.testing.assert_array_equal(processors.applied(logits), reference(logits, prompt, output, **case))


def test_repetition_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    rng = np.random.default_rng(1)
    for penalty in (0.7, 1.0, 1.2, 3.0):
        for _ in range(20):
            history = rng.integers(0, 300, 40)
            logits = (rng.standard_normal(300) * 8).astype(np.float32)
            processors = Processors(300)
            processors.begin(history[:25].tolist(), repetition=penalty)
            for token in history[25:].tolist():
                processors.push(token)
            theirs = RepetitionPenaltyLogitsProcessor(penalty=penalty)(
                torch.from_numpy(history)[None], torch.from_numpy(logits.copy())[None]
            )
            np.testing.assert_array_equal(processors.applied(logits), theirs[0].numpy())


def test_the_order_is_bias_repetition_presence_frequency_suppression() -> None:
    processors = Processors(4)
    processors.begin([0], bias={0: -3.0, 1: 5.0, 2: 9.0}, suppress=[2], repetition=2.0, presence=0.25, frequency=0.5)
    for token in (1, 1):
        processors.push(token)
    logits = np.array([1, 3, 1, 1], np.float32)
    # 0: (1 - 3) * 2, prompt only; 1: (3 + 5) / 2 - 0.25 - 2 * 0.5; 2: suppressed in spite of its bias; 3: untouched.
    assert processors.applied(logits).tolist() == [-4.0, 2.75, -math.inf, 1.0]


def test_pushing_after_taking_back_more_than_the_last_drafts_is_refused() -> None:
    processors = Processors(8)
    processors.begin([], presence=1.0)
    with pytest.raises(Refused, match="cannot take back 1"):
        processors.pop(1)
    for token in range(40):
        processors.push(token % 8)
    processors.pop(MAX_DRAFTS)
    with pytest.raises(Refused, match="cannot take back 1 tokens; at most 0"):
        processors.pop(1)
    with pytest.raises(Refused, match="cannot take back -1"):
        processors.pop(-1)


@pytest.mark.parametrize(
    ("prompt", "processing", "message"),
    [
        ([], {"bias": {9: 1.0}}, "token 9 is outside the vocabulary of 9"),
        ([], {"bias": {-1: 1.0}}, "token -1"),
        ([], {"bias": {1: math.nan}}, "'logit_bias' is nan"),
        ([], {"bias": {1: math.inf}}, "'logit_bias' is inf"),
        ([], {"suppress": [9]}, "token 9"),
        ([9], {"repetition": 1.5}, "prompt: token 9"),
        ([], {"repetition": 0.0}, "'repetition_penalty' is 0.000000; give a number above 0"),
        ([], {"repetition": -1.0}, "above 0"),
        ([], {"repetition": math.nan}, "above 0"),
        ([], {"repetition": math.inf}, "'repetition_penalty' is inf"),
        ([], {"presence": math.nan}, "'presence_penalty' is nan"),
        ([], {"frequency": -math.inf}, "'frequency_penalty' is -inf"),
    ],
)
def test_what_no_request_may_ask_is_refused(prompt: list[int], processing: dict[str, Any], message: str) -> None:
    processors = Processors(9)
    processors.begin([3], presence=1.0)
    with pytest.raises(Refused, match=message):
        processors.begin(prompt, **processing)
    with pytest.raises(Refused, match="output: token 9 is outside"):
        processors.push(9)
    processors.push(3)  # a refusal changes nothing
    assert processors.applied(np.zeros(9, np.float32))[3] == -1.0


# -- log-probability and margin -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), count=st.one_of(st.integers(1, 70), st.integers(1, 5000)))
def test_log_probability_and_margin_equal_numpy(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(count) * rng.choice([0.0, 0.1, 3.0, 40.0, 1e4])).astype(np.float32)
    if rng.random() < 0.3:
        logits = np.round(logits)
    if rng.random() < 0.3:
        logits[rng.random(count) < 0.5] = -np.inf
    if not np.isfinite(logits).any():
        logits[rng.integers(0, count)] = 1.0
    token = int(rng.choice(np.flatnonzero(np.isfinite(logits))))
    logprob, margin = describe_choice(logits, token)
    expected = log_softmax(logits.astype(np.float64))[token]
    # What the contract says of the sum, and the rounding of the answer to float32.
    assert logprob == pytest.approx(expected, rel=2e-7, abs=2e-7)
    top = np.sort(logits)[::-1]
    expected_margin = float(top[0] - top[1]) if count > 1 else math.inf
    assert margin == min(expected_margin, float(np.finfo(np.float32).max))


def test_log_probabilities_at_the_full_vocabulary_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(262144) * 2).astype(np.float32)
    sample = rng.choice(262144, 50, replace=False)
    expected = log_softmax(logits.astype(np.float64))
    for token in sample.tolist():
        assert describe_choice(logits, token)[0] == pytest.approx(expected[token], rel=2e-7)


@pytest.mark.parametrize(
    ("logits", "token", "logprob", "margin"),
    [
        ([5.0], 0, 0.0, np.finfo(np.float32).max),
        ([1.0, 1.0], 1, -math.log(2), 0.0),
        ([math.inf, math.inf, 3.0], 1, -math.log(2), 0.0),  # select draws among those at +inf
        ([math.inf, 1.0], 0, 0.0, np.finfo(np.float32).max),
        ([0.0, -math.inf], 1, -np.finfo(np.float32).max, np.finfo(np.float32).max),
        ([3e38, -3e38], 1, -np.finfo(np.float32).max, np.finfo(np.float32).max),
    ],
)
def test_infinities_leave_finite_figures(logits: list[float], token: int, logprob: float, margin: float) -> None:
    found = describe_choice(np.array(logits, np.float32), token)
    assert found[0] == pytest.approx(logprob, rel=1e-6)
    assert found[1] == margin
