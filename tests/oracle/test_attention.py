"""The attention op: kernel and decomposition against the definition in numpy, in double."""

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
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_attention import Attention
from native_attention import attention as native_attention
from native_build import NATIVE, part
from numpy.typing import NDArray

from edge_mtp.export.attention import DIM_STEP, HIDDEN, attention, masked_attention

BUILDS = ["attention", "attention_baseline"]
WORKERS = 3


@pytest.fixture(scope="session", params=BUILDS, ids=["native", "baseline"])
def build(request: pytest.FixtureRequest) -> str:
    """As built, and without the instructions that only some machines have."""
    return str(request.param)


@pytest.fixture(scope="session")
def kernel(build: str) -> Attention:
    return native_attention(build, WORKERS)


@pytest.fixture(scope="session")
def alone(build: str) -> Attention:
    """The kernel in one thread."""
    return native_attention(build)


@dataclass
class Case:
    """Operands of the op; `span` is what the decomposition is told."""

    query: NDArray[np.float32]
    keys: NDArray[np.float32] | NDArray[np.int8]
    values: NDArray[np.float32] | NDArray[np.int8]
    seen: NDArray[np.int32]
    span: int | None

    @property
    def operands(self) -> tuple[NDArray[np.float32], NDArray[np.generic], NDArray[np.generic], NDArray[np.int32]]:
        return self.query, self.keys, self.values, self.seen

    def expected(self) -> NDArray[np.float64]:
        context, tokens = self.keys.shape[2], len(self.seen)
        scores = self.query.astype(float) @ self.keys.astype(float).swapaxes(2, 3)
        place, seen = np.arange(context), np.tile(self.seen, (self.query.shape[2] // tokens, 1))
        visible = (place >= seen[:, :1]) & (place < seen[:, 1:])
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        result: NDArray[np.float64] = weights @ self.values.astype(float).swapaxes(2, 3)
        return result

    def tolerance(self) -> float:
        """float32 rounds a score relative to the sum of its products' sizes, and exp makes that relative to 1."""
        sizes = np.abs(self.query).astype(float) @ np.abs(self.keys.astype(float)).swapaxes(2, 3)
        return float(min(1.0, 1e-5 + 1e-6 * sizes.max())) * float(np.abs(self.values.astype(float)).max() + 1e-30)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Shapes of all kinds, windows and positions; logits from flat to so sharp that one position takes everything."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    heads, group, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    dim = DIM_STEP * draw(st.integers(1, 5))
    context = draw(st.one_of(st.integers(tokens, 40), st.integers(tokens, 900), st.sampled_from([256, 512, 513, 768])))
    position = draw(st.integers(0, context - tokens))
    span = draw(st.one_of(st.none(), st.integers(1, context)))
    end = np.arange(position, position + tokens) + 1
    first = np.zeros_like(end) if span is None else np.maximum(end - span, 0)
    keys = rng.standard_normal((1, heads, context, dim))
    values = rng.standard_normal((1, heads, dim, context)) * draw(st.sampled_from([0.0, 1.0, 1e4]))
    query = rng.standard_normal((1, heads, group * tokens, dim)) * draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e3]))
    if draw(st.booleans()):
        keys[:, :, rng.integers(context)] *= 30  # one key that stands out, perhaps the last or one unseen
    query, seen = query.astype(np.float32), np.stack((first, end), axis=1).astype(np.int32)
    if draw(st.booleans()):
        small, large = (np.clip(np.round(each * 30), -128, 127).astype(np.int8) for each in (keys, values))
        return Case(query / np.float32(30), small, large, seen, span)
    return Case(query, keys.astype(np.float32), values.astype(np.float32), seen, span)


@settings(max_examples=1000, deadline=None)
@given(case=cases())
def test_the_kernel_computes_what_the_definition_says(kernel: Attention, case: Case) -> None:
    np.testing.assert_allclose(kernel(*case.operands), case.expected(), rtol=0, atol=case.tolerance())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=cases())
def test_the_decomposition_computes_what_the_definition_says(case: Case) -> None:
    # A mask hides what it is added to, as far as scores are small beside it.
    assume(np.abs(case.query.astype(float) @ case.keys.astype(float).swapaxes(2, 3)).max() < -HIDDEN / 3)
    found = masked_attention(*map(torch.as_tensor, case.operands), case.span).numpy()
    np.testing.assert_allclose(found, case.expected(), rtol=0, atol=case.tolerance() + 1e-5)


@settings(max_examples=500, deadline=None)
@given(case=cases(), data=st.data())
def test_a_row_does_not_notice_the_others(kernel: Attention, alone: Attention, case: Case, data: st.DataObject) -> None:
    """Bit by bit: not their number, their places, the threads, or what stands outside of its span."""
    together = kernel(*case.operands)
    tokens, group = len(case.seen), case.query.shape[2] // len(case.seen)
    token, member = data.draw(st.integers(0, tokens - 1)), data.draw(st.integers(0, group - 1))
    row = member * tokens + token
    keys, values, (first, end) = case.keys.copy(), case.values.copy(), case.seen[token]
    for unseen in (slice(0, first), slice(end, None)):
        keys[:, :, unseen], values[:, :, :, unseen] = 77, -99
    query = np.ascontiguousarray(case.query[:, :, row : row + 1])
    single = alone(query, keys, values, np.ascontiguousarray(case.seen[token : token + 1]))
    np.testing.assert_array_equal(single[:, :, 0], together[:, :, row])


def test_a_row_that_sees_nothing_is_0(kernel: Attention) -> None:
    ones = np.ones((1, 1, 2, 8), np.float32)
    cache = np.ones((1, 1, 8, 8), np.float32)
    found = kernel(ones, cache, cache, np.array([[3, 3], [5, 2]], np.int32))
    assert not found.any()


def test_spans_are_cut_at_the_ends_of_the_cache(kernel: Attention) -> None:
    rng = np.random.default_rng(1)
    query, keys, values = (
        rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 1, 8), (1, 1, 9, 8), (1, 1, 8, 9))
    )
    whole, beyond = (kernel(query, keys, values, np.array([span], np.int32)) for span in ((0, 9), (-7, 2**31 - 1)))
    assert np.array_equal(whole, beyond)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["query", "keys", "values"])
def test_what_is_not_finite_is_not_hidden(kernel: Attention, where: str, value: float) -> None:
    """Else a broken model would go on talking; the selection reports a logit that is NaN."""
    rng = np.random.default_rng(1)
    shapes = {"query": (1, 1, 1, 8), "keys": (1, 1, 40, 8), "values": (1, 1, 8, 40)}
    operands = {name: np.abs(rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    operands[where][0, 0, 0, 0] = value
    found = kernel(*operands.values(), np.array([[0, 40]], np.int32))
    assert not np.isfinite(found).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("span", [None, 24])
def test_a_runtime_without_the_kernel_runs_the_decomposition(
    tmp_path: Path, alone: Attention, dtype: torch.dtype, span: int | None
) -> None:
    """The same graph in LiteRT's interpreter, which knows none of our ops."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    class Piece(torch.nn.Module):
        def forward(
            self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            first = torch.clamp(position + 1 - (span or 10**6), min=0)
            seen = torch.stack((first, position + 1), dim=1)
            return {"attended": attention(query, keys, values, seen, span), "seen": seen}

    context, tokens = 192, 3
    shapes = {"query": (1, 2, 2 * tokens, 16), "keys": (1, 2, context, 16), "values": (1, 2, 16, context)}
    inputs = {name: torch.zeros(shape) for name, shape in shapes.items()}
    inputs |= {name: inputs[name].to(dtype) for name in ("keys", "values")}
    inputs["position"] = torch.zeros(tokens, dtype=torch.int32)
    litert_torch.signature("attention", Piece().eval(), sample_kwargs=inputs).convert().export(
        str(tmp_path / "a.tflite")
    )
    runner = Interpreter(model_path=str(tmp_path / "a.tflite"), num_threads=1).get_signature_runner("attention")
    rng = np.random.default_rng(2)
    for position in (0, 5, 23, 100, context - tokens):
        given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        if dtype == torch.int8:
            given |= {name: np.round(given[name] * 20).astype(np.int8) for name in ("keys", "values")}
            given["query"] /= 20
        found = runner(**given, position=np.arange(position, position + tokens, dtype=np.int32))
        ours = alone(given["query"], given["keys"], given["values"], found["seen"])
        np.testing.assert_allclose(found["attended"], ours, rtol=0, atol=2e-5 * np.abs(given["values"]).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (1, 1, 2, 12)}, "heads of 12"),
        ({"query": (1, 1, 3, 8)}, "3 rows of 2 tokens"),
        ({"keys": (1, 2, 9, 8)}, r"keys must be .* \[1, 1, 9, 8\]"),
        ({"values": (1, 1, 9, 8)}, r"values must be .* \[1, 1, 8, 9\]"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {"query": (1, 1, 2, 8), "keys": (1, 1, 9, 8), "values": (1, 1, 8, 9)} | change
    operands = [torch.zeros(shape) for shape in shapes.values()]
    with pytest.raises(ValueError, match=message):
        attention(*operands, torch.zeros((2, 2), dtype=torch.int32), None)


def test_native_checks_are_clean_under_sanitizers(build: str) -> None:
    subprocess.run([part(f"{build}_test")], check=True, timeout=300)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no qemu-aarch64-static")
def test_native_checks_pass_with_neon(tmp_path: Path) -> None:
    names = ["attention.cc", "attention_baseline.cc", "worker_pool.cc"]
    sources = [*(NATIVE / name for name in names), NATIVE / "tests" / "attention_test.cc"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-static", "-pthread"]
    program = tmp_path / "attention_test"
    subprocess.run(["aarch64-linux-gnu-g++", *options, *sources, "-o", program], check=True)
    subprocess.run(["qemu-aarch64-static", program], check=True, timeout=300)


def test_the_document_names_the_operands() -> None:
    document = (Path(__file__).parents[2] / "docs" / "attention-op.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\w+) \|", document, re.MULTILINE)
    names = list(inspect.signature(attention).parameters)[:-1]
    assert rows == [(str(index), name) for index, name in enumerate(names)]
    assert f"D is a multiple of {DIM_STEP}" in document
    assert f"kAttentionDim = {DIM_STEP};" in (NATIVE / "attention.h").read_text("utf-8")
