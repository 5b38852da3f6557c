"""The C core against the numpy reference, and its sampling against the exact distribution."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import numpy_select as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_build import NATIVE, part
from native_select import Core
from native_select import core as native_core
from numpy.typing import NDArray
from scipy import stats

SAMPLE, MASK = reference.SAMPLE, reference.MASK


BUILDS = ["select", "select_baseline"]


@pytest.fixture(scope="session", params=BUILDS, ids=["native", "baseline"])
def core(request: pytest.FixtureRequest) -> Core:
    """The core as built, and without the scans that only some machines run."""
    return native_core(request.param)


def words_of(vocab: int) -> int:
    return (vocab + 31) // 32


# ---- random cases -----------------------------------------------------------------------------------------

VOCABULARIES = st.one_of(
    st.integers(1, 70),
    st.sampled_from([31, 32, 33, 63, 64, 65, 127, 128, 1023, 1024, 1025, 1056, 2047, 4096, 4097]),
    st.integers(1, 6000),
)


def draw_logits(rng: np.random.Generator, rows: int, vocab: int) -> NDArray[np.float32]:
    """Rows with ties, wide and narrow spreads, and now and then NaN and infinities in any place."""
    logits = rng.standard_normal((rows, vocab)) * rng.choice([0.0, 0.3, 2.0, 10.0, 1e4, 1e38])
    if rng.random() < 0.4:
        logits = np.round(logits)
    logits = logits.clip(-3.4e38, 3.4e38).astype(np.float32)
    for value, chance in ((np.nan, 0.1), (np.inf, 0.1), (-np.inf, 0.2), (-0.0, 0.1)):
        if rng.random() < chance:
            share = rng.choice([0.5 / vocab, 0.1, 0.9, 1.0])
            logits[rng.random((rows, vocab)) < share] = value
    return logits


def draw_mask(rng: np.random.Generator, rows: int, vocab: int) -> NDArray[np.int32]:
    """Rows that are random, nearly empty, nearly full, empty or full; bits past the vocabulary are set at random."""
    kinds = rng.choice(["random", "sparse", "dense", "empty", "full"], rows, p=[0.3, 0.3, 0.2, 0.1, 0.1])
    share = {"random": 0.5, "sparse": 2.0 / vocab, "dense": 0.99, "empty": 0.0, "full": 1.0}
    bits = rng.random((rows, words_of(vocab) * 32)) < np.array([share[str(k)] for k in kinds])[:, None]
    bits[:, vocab:] = rng.random(bits[:, vocab:].shape) < 0.5
    return np.packbits(bits, axis=1, bitorder="little").view("<i4").astype(np.int32)


def draw_parameters(rng: np.random.Generator, vocab: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    control = np.zeros(8, np.int32)
    control[0] = rng.integers(0, 4)
    control[1] = rng.choice([0, 0, 1, 2, 5, 64, vocab, 2**31 - 1])
    control[2:5] = rng.integers(-(2**31), 2**31, 3)
    scalars = np.zeros(4, np.float32)
    scalars[0] = rng.choice([0.3, 1.0, 1.5, 1e-30, 1e30, 0.05])
    scalars[1] = rng.choice([1.0, 1.0, 0.95, 0.5, 1e-6, rng.uniform(0.01, 1)])
    scalars[2] = rng.choice([0.0, 0.0, 0.05, 0.5, 0.999])
    if rng.random() < 0.1:
        target = rng.integers(0, 4)
        if target == 0:
            control[rng.integers(5, 8)] = rng.integers(1, 100)
        elif target == 1:
            control[0] |= 4 << rng.integers(0, 29)
        elif target == 2:
            control[1] = -1
        else:
            scalars[rng.integers(0, 4)] = rng.choice([np.nan, -1.0, 2.0, np.inf, 0.0])
    return control, scalars


def check_verify(core: Core, rng: np.random.Generator, rows: int, vocab: int) -> None:
    logits = draw_logits(rng, rows, vocab)
    control, scalars = draw_parameters(rng, vocab)
    token_mask = draw_mask(rng, rows, vocab) if control[0] & MASK else None
    # The draft that is accepted everywhere, then one that stops somewhere.
    draft = np.array([choice(row, logits, control, scalars, token_mask) for row in range(rows - 1)], np.int32)
    if rows > 1 and rng.random() < 0.6:
        draft[rng.integers(0, rows - 1)] = rng.choice([-1, rng.integers(0, vocab)])
    expected = reference.verify(logits, draft, control, scalars, token_mask)
    found = core.verify(logits, draft, control, scalars, token_mask)
    if found != (expected.n_accepted, expected.tokens):
        assert expected.margin < 1e-9, (found, expected, control, scalars)


def choice(
    row: int,
    logits: NDArray[np.float32],
    control: NDArray[np.int32],
    scalars: NDArray[np.float32],
    token_mask: NDArray[np.int32] | None,
) -> int:
    mask = None if token_mask is None else token_mask[row]
    return reference.select(logits[row], control, scalars, mask, int(control[4]) + row).token


@settings(max_examples=4000, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), rows=st.integers(1, 9), vocab=VOCABULARIES)
def test_verify_equals_the_reference(core: Core, seed: int, rows: int, vocab: int) -> None:
    check_verify(core, np.random.default_rng(seed), rows, vocab)


@pytest.mark.parametrize("seed", range(12))
def test_verify_equals_the_reference_at_the_full_vocabulary(core: Core, seed: int) -> None:
    check_verify(core, np.random.default_rng(seed), rows=1 + seed % 3, vocab=262144 - seed % 2)


@settings(max_examples=1500, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), count=VOCABULARIES, offset=st.integers(0, 7))
def test_draft_equals_the_reference(core: Core, seed: int, count: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    logits = draw_logits(rng, 1, count)[0]
    ids = rng.permutation(count * 3)[:count].astype(np.int32)
    control, scalars = draw_parameters(rng, count)
    expected = reference.draft(logits, ids, control, scalars, offset)
    token, confidence = core.draft(logits, ids, control, scalars, offset)
    if token != expected.token:
        assert expected.margin < 1e-9, (token, expected)
    elif expected.margin > 1e-9:
        assert confidence == pytest.approx(expected.probability, rel=1e-6, abs=1e-12)


def test_select_is_the_row_that_verify_selects(core: Core) -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        vocab = int(rng.integers(1, 300))
        logits = draw_logits(rng, 1, vocab)
        control, scalars = draw_parameters(rng, vocab)
        mask = draw_mask(rng, 1, vocab)
        selected = core.select(logits[0], control, scalars, mask[0], int(control[4]))
        n_accepted, tokens = core.verify(logits, np.zeros(0, np.int32), control, scalars, mask)
        assert selected == (tokens[0] if n_accepted == 0 else n_accepted)


# ---- single rules, stated ---------------------------------------------------------------------------------


def greedy(flags: int = 0) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    control = np.zeros(8, np.int32)
    control[0] = flags
    return control, np.array([1, 1, 0, 0], np.float32)


def test_the_lowest_id_wins_a_tie(core: Core) -> None:
    logits = np.zeros((1, 3000), np.float32)
    logits[0, [1500, 2900, 1400]] = 7.0
    assert core.verify(logits, np.zeros(0, np.int32), *greedy(), None) == (0, [1400])


def test_errors_of_rows_never_reached_do_not_exist(core: Core) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[:, 5] = 1.0
    logits[2] = np.nan
    mask = np.full((3, 2), -1, np.int32)
    mask[1] = 0
    control, scalars = greedy(MASK)
    assert core.verify(logits, np.array([6, 5], np.int32), control, scalars, mask) == (0, [5, -1, -1])
    assert core.verify(logits, np.array([5, 5], np.int32), control, scalars, mask) == (-2, [5, -1, -1])
    mask[1] = -1
    assert core.verify(logits, np.array([5, 5], np.int32), control, scalars, mask) == (-1, [5, 5, -1])
    mask[2] = 1, 0
    logits[2, 0] = -3.0
    assert core.verify(logits, np.array([5, 5], np.int32), control, scalars, mask) == (2, [5, 5, 0])


def test_a_draft_of_minus_one_is_never_accepted(core: Core) -> None:
    logits = np.zeros((4, 8), np.float32)
    assert core.verify(logits, np.array([0, -1, 0], np.int32), *greedy(), None) == (1, [0, 0, -1, -1])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {3, 5, 40, 41}),
        (3, 1.0, {3, 5, 40}),  # exactly three, the lowest ids of the tie
        (0, 0.5, {3, 5}),  # two of four equal weights reach one half exactly
        (0, 0.50001, {3, 5, 40}),
        (3, 0.7, {3, 5, 40}),  # 0.7 of what top-k left: top-k comes first
        (0, 1e-9, {3}),
    ],
)
def test_where_the_cuts_fall_among_equal_logits(core: Core, top_k: int, top_p: float, kept: set[int]) -> None:
    logits = np.full(64, -np.inf, np.float32)
    logits[[3, 5, 40, 41]] = 2.5
    control = np.array([SAMPLE, top_k, 1, 0, 0, 0, 0, 0], np.int32)
    scalars = np.array([0.7, top_p, 0, 0], np.float32)
    assert {core.select(logits, control, scalars, None, position) for position in range(200)} == kept


@pytest.mark.parametrize("vocab", [1, 4, 33, 1024, 5000])
def test_a_nan_is_found_in_every_place(core: Core, vocab: int) -> None:
    for place in range(0, vocab, max(1, vocab // 200)):
        logits = np.zeros((1, vocab), np.float32)
        logits[0, place] = np.nan
        assert core.verify(logits, np.zeros(0, np.int32), *greedy(), None)[0] == reference.NAN


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        # Known answers that Random123 (D. E. Shaw Research) publishes for philox4x32, 10 rounds.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert reference.philox4x32(counter, key) == words


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(-(2**31), 2**31 - 1))
def test_the_core_draws_the_numbers_of_philox(core: Core, seed: int, position: int) -> None:
    control = np.zeros(8, np.int32)
    control[2:4] = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32).view(np.int32)
    number = core.uniform(control, position)
    assert number == reference.uniform(control, position)
    assert 0 <= number < 1


def test_the_number_of_seed_0_and_position_0_is_the_published_one(core: Core) -> None:
    assert core.uniform(np.zeros(8, np.int32), 0) == ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53


# ---- the distribution -------------------------------------------------------------------------------------

SEEDS = 24_000
ROWS, VOCAB = 3, 5


def exact_row(logits: NDArray[np.float32], scalars: NDArray[np.float32], top_k: int) -> NDArray[np.float64]:
    """The probabilities of one row, from the definition: sort, cut, normalize."""
    weights = np.exp(logits.astype(float) / float(scalars[0]))
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    kept = order[: top_k or None]
    shares = weights[kept] / weights[kept].sum()
    kept = kept[: int(np.searchsorted(np.cumsum(shares), float(scalars[1]))) + 1]
    kept = kept[weights[kept] >= float(scalars[2]) * weights.max()]
    probabilities = np.zeros(len(logits))
    probabilities[kept] = weights[kept] / weights[kept].sum()
    return probabilities


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, 0, 1.0, 0.0), (0.3, 0, 1.0, 0.0), (1.5, 4, 1.0, 0.0), (1.0, 0, 0.9, 0.0), (1.5, 4, 0.95, 0.1)],
)
@pytest.mark.parametrize("drafted", ["none", "likely", "unlikely"])
def test_the_tokens_of_a_step_have_the_exact_joint_distribution(
    core: Core, temperature: float, top_k: int, top_p: float, min_p: float, drafted: str
) -> None:
    """What a step emits is the prefix of a sample of independent rows that the draft lets through.

    The rows' logits are fixed here, so the tokens emitted in a step have the probabilities' product as their joint law,
    and the step's length is decided by the draft alone.
    """
    rng = np.random.default_rng(11)
    logits = rng.standard_normal((ROWS, VOCAB)).astype(np.float32) * 1.5
    scalars = np.array([temperature, top_p, min_p, 0], np.float32)
    control = np.array([SAMPLE, top_k, 0, 0, 40, 0, 0, 0], np.int32)
    rows = [exact_row(row, scalars, top_k) for row in logits]
    possible = [np.flatnonzero(p) for p in rows]
    ranked = [sorted(ids, key=lambda t, p=p: p[t]) for ids, p in zip(possible, rows, strict=True)]
    draft = np.array([{"none": -1, "likely": r[-1], "unlikely": r[0]}[drafted] for r in ranked[:-1]], np.int32)

    expected: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(*possible):
        length = next((i for i in range(ROWS - 1) if tokens[i] != draft[i]), ROWS - 1) + 1
        emitted = tuple(int(t) for t in tokens[:length])
        probability = math.prod(p[t] for p, t in zip(rows, tokens, strict=True))
        expected[emitted] = expected.get(emitted, 0.0) + probability
    counts = dict.fromkeys(expected, 0)
    for seed in range(SEEDS):
        control[2:4] = seed, seed * 7919
        n_accepted, tokens = core.verify(logits, draft, control, scalars, None)
        counts[tuple(tokens[: n_accepted + 1])] += 1  # KeyError: an impossible outcome
    assert_fits(counts, expected)


def assert_fits(counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> None:
    """Chi-square at 1e-4 over 15 cases; the seeds are fixed, so it passes always or never. Rare outcomes join."""
    assert sum(expected.values()) == pytest.approx(1.0)
    ranked = sorted(expected, key=lambda k: expected[k])
    observed: list[float] = []
    wanted: list[float] = []
    o = e = 0.0
    for outcome in ranked:
        o, e = o + counts[outcome], e + expected[outcome] * SEEDS
        if e >= 10:
            observed.append(o)
            wanted.append(e)
            o = e = 0.0
    if e > 0:
        observed[-1] += o
        wanted[-1] += e
    if len(observed) > 1:
        assert stats.chisquare(observed, np.array(wanted) * (sum(observed) / sum(wanted))).pvalue > 1e-4
    else:
        assert sum(counts.values()) == SEEDS


def test_drafting_leaves_sampled_text_unchanged(core: Core) -> None:
    """Decoding position by position with any draft yields the tokens of decoding without one."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((64, 50)).astype(np.float32) * 2
    scalars = np.array([1.0, 0.95, 0, 0], np.float32)

    def decode(width: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < 56:
            at = len(tokens)
            control = np.array([SAMPLE, 20, 3, 4, at, 0, 0, 0], np.int32)
            rows = np.ascontiguousarray(logits[at : at + width])
            draft = rng.choice([int(rows[0].argmax()), 7], width - 1).astype(np.int32)
            for i in range(width - 1):
                if rng.random() < 0.7:
                    row_control = control.copy()
                    draft[i] = core.select(rows[i], row_control, scalars, None, at + i)
            n_accepted, selected = core.verify(rows, draft, control, scalars, None)
            tokens += selected[: n_accepted + 1]
        return tokens[:56]

    plain = decode(1)
    for width in (2, 4, 8):
        assert decode(width) == plain


# ---- the native test, under sanitizers --------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS, ids=["native", "baseline"])
def test_native_checks_are_clean_under_sanitizers(build: str) -> None:
    subprocess.run([part(f"{build}_test")], check=True, timeout=300)


# ---- the contract -----------------------------------------------------------------------------------------


def test_the_document_and_the_header_name_the_same_constants() -> None:
    document = (Path(__file__).parents[2] / "docs" / "verify-op.md").read_text()
    header = (NATIVE / "select.h").read_text()
    documented = re.findall(r"^\| `(EDGE_\w+)` \| (-?\d+) \|", document, re.MULTILINE)
    defined = re.findall(r"\b(EDGE_\w+) = (-?\d+)", header)
    assert documented == defined
    values = {name: int(value) for name, value in defined}
    assert (values["EDGE_FLAG_SAMPLE"], values["EDGE_FLAG_MASK"]) == (SAMPLE, MASK)
    errors = [values[f"EDGE_ERROR_{name}"] for name in ("NAN", "EMPTY", "PARAMETER")]
    assert errors == [reference.NAN, reference.EMPTY, reference.PARAMETER]
