"""The candidates op: kernel and decomposition against the definition in numpy, in double."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_build import NATIVE, part
from native_candidates import Candidates
from native_candidates import candidates as native_candidates
from numpy.typing import NDArray

from edge_mtp.export.candidates import MOST_WIDTH, candidates, looked_up_candidates
from edge_mtp.export.encodings import ENCODINGS, Encoded, Encoding, decode, encode

BUILDS = ["candidates", "candidates_baseline"]
WORKERS = 3


@pytest.fixture(scope="session", params=BUILDS, ids=["native", "baseline"])
def build(request: pytest.FixtureRequest) -> str:
    """As built, and without the instructions that only some machines have."""
    return str(request.param)


@pytest.fixture(scope="session")
def kernel(build: str) -> Candidates:
    return native_candidates(build, WORKERS)


@pytest.fixture(scope="session")
def alone(build: str) -> Candidates:
    """The kernel in one thread."""
    return native_candidates(build)


@dataclass
class Case:
    """Operands of the op."""

    encoding: Encoding
    state: NDArray[np.float32]
    nearest: NDArray[np.int32]
    head: Encoded
    tokens: NDArray[np.int32]

    def rows(self) -> NDArray[np.float32]:
        """The rows of the chosen centroids as their numbers, [n,M,H]."""
        head = decode(self.head, self.encoding, len(self.state))
        return head.reshape(*self.tokens.shape, -1)[self.nearest]

    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        return self.rows().astype(float) @ self.state.astype(float), self.tokens[self.nearest]

    def tolerance(self) -> NDArray[np.float64]:
        return np.abs(self.rows()).astype(float) @ np.abs(self.state).astype(float) * 1e-5 + 1e-30


@st.composite
def cases(draw: st.DrawFn) -> Case:
    encoding = ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))]
    centroids, members = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    width = draw(st.integers(1, 3)) * encoding.block if encoding.block else 4 * draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    head = rng.standard_normal((centroids * members, width)).astype(np.float32) * np.float32(draw(st.floats(0.01, 100)))
    nearest = rng.permutation(centroids)[: draw(st.integers(1, centroids))].astype(np.int32)
    tokens = rng.permutation(centroids * members).reshape(centroids, members).astype(np.int32)
    return Case(encoding, rng.standard_normal(width).astype(np.float32), nearest, encode(head, encoding), tokens)


@settings(max_examples=2000, deadline=None)
@given(case=cases())
def test_the_kernel_computes_what_the_definition_says(kernel: Candidates, case: Case) -> None:
    logits, ids = kernel(case.state, case.nearest, case.head, case.encoding, case.tokens)
    expected, tokens = case.expected()
    assert (np.abs(logits - expected) <= case.tolerance()).all()
    np.testing.assert_array_equal(ids, tokens)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_the_decomposition_computes_what_the_definition_says(case: Case) -> None:
    head = decode(case.head, case.encoding, len(case.state))
    state = torch.as_tensor(case.state).view(1, 1, -1)
    logits, ids = looked_up_candidates(state, *map(torch.as_tensor, (case.nearest, head, case.tokens)))
    expected, tokens = case.expected()
    assert (np.abs(logits.numpy() - expected.reshape(1, -1)) <= case.tolerance().reshape(1, -1)).all()
    np.testing.assert_array_equal(ids.numpy(), tokens.reshape(1, -1))


@settings(max_examples=500, deadline=None)
@given(case=cases(), data=st.data())
def test_a_logit_does_not_notice_the_others(
    kernel: Candidates, alone: Candidates, case: Case, data: st.DataObject
) -> None:
    """Bit by bit: not which centroids are chosen beside its own, their order, or the threads."""
    together, _ = kernel(case.state, case.nearest, case.head, case.encoding, case.tokens)
    place = data.draw(st.integers(0, len(case.nearest) - 1))
    single, _ = alone(case.state, case.nearest[place : place + 1], case.head, case.encoding, case.tokens)
    np.testing.assert_array_equal(single[0], together[place])


def test_a_centroid_that_does_not_exist_has_no_logits(kernel: Candidates) -> None:
    head = encode(np.ones((6, 32), np.float32), ENCODINGS["int8"])
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    chosen = np.array([1, 2, -1], np.int32)
    logits, ids = kernel(np.ones(32, np.float32), chosen, head, ENCODINGS["int8"], tokens)
    assert np.isnan(logits[1:]).all()
    assert ids.tolist() == [[3, 4, 5], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(logits[0], 32, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": torch.zeros(1, 1, 8)}, r"state must be float32 \[1, 1, 16\]"),
        ({"nearest": torch.zeros(2)}, "nearest must be int32"),
        ({"tokens": torch.zeros(2, 2, dtype=torch.int32)}, "tokens must be int32 of 6"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    operands = {
        "state": torch.zeros(1, 1, 16),
        "nearest": torch.zeros(2, dtype=torch.int32),
        "head": torch.zeros(6, 16),
        "tokens": torch.zeros(2, 3, dtype=torch.int32),
    }
    with pytest.raises(ValueError, match=message):
        candidates(**operands | change)


def test_native_checks_are_clean_under_sanitizers(build: str) -> None:
    subprocess.run([part(f"{build}_test")], check=True, timeout=300)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no qemu-aarch64-static")
def test_native_checks_pass_with_neon(tmp_path: Path) -> None:
    names = ["candidates.cc", "candidates_baseline.cc", "worker_pool.cc"]
    sources = [*(NATIVE / name for name in names), NATIVE / "tests" / "candidates_test.cc"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-static", "-pthread"]
    program = tmp_path / "candidates_test"
    subprocess.run(["aarch64-linux-gnu-g++", *options, *sources, "-o", program], check=True)
    subprocess.run(["qemu-aarch64-static", program], check=True, timeout=300)


def test_the_document_names_the_operands() -> None:
    document = (Path(__file__).parents[2] / "docs" / "candidates-op.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\w+) \|", document, re.MULTILINE)
    names = [*inspect.signature(candidates).parameters, "scales"]
    assert rows == [(str(index), name) for index, name in enumerate(names)]
    assert f"H is at most {MOST_WIDTH}" in document
    assert f"kMostCandidateWidth = {MOST_WIDTH};" in (NATIVE / "candidates.h").read_text("utf-8")
