"""The experts op: kernel and decomposition against the definition in numpy, in double."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_build import NATIVE, part
from native_experts import Experts, Matrices
from native_experts import experts as native_experts
from numpy.typing import NDArray

from edge_mtp.export.encodings import ENCODINGS, Encoding, decode, encode
from edge_mtp.export.experts import experts, looked_up_experts

BUILDS = ["experts", "experts_baseline"]
WORKERS = 3
FORMS = ["fp32", "fp16", "int8", "int4", "int2", "int4b32", "int4b64", "int4b128", "int4b256"]


@pytest.fixture(scope="session", params=BUILDS, ids=["native", "baseline"])
def build(request: pytest.FixtureRequest) -> str:
    """As built, and without the instructions that only some machines have."""
    return str(request.param)


@pytest.fixture(scope="session")
def kernel(build: str) -> Experts:
    return native_experts(build, WORKERS)


@pytest.fixture(scope="session")
def alone(build: str) -> Experts:
    """The kernel in one thread."""
    return native_experts(build)


def rounded(row: NDArray[np.float32], encoding: Encoding) -> NDArray[np.float32]:
    """A row as its products with weights of this encoding see it."""
    most = np.abs(row).max()
    if not encoding.is_integer or most == 0:
        return row
    integers = np.rint(row * (np.float32(127) / most))
    return np.asarray(integers * (most / np.float32(127)), np.float32)


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


@dataclass
class Case:
    """Operands of the op."""

    rows: NDArray[np.float32]
    chosen: NDArray[np.int32]
    shares: NDArray[np.float32]
    gate_up: Matrices
    down: Matrices

    @property
    def operands(self) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], Matrices, Matrices]:
        return self.rows, self.chosen, self.shares, self.gate_up, self.down

    def weights(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """gate_up [E,2I,H] and down [E,H,I]."""
        hidden, inner = self.rows.shape[1], self.down.columns
        gate_up, down = (decode(m.encoded, m.encoding, m.columns).astype(float) for m in (self.gate_up, self.down))
        return gate_up.reshape(-1, 2 * inner, hidden), down.reshape(-1, hidden, inner)

    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The result, and how far off it may be: a state near the middle between two integers may go to either."""
        gate_up, down = self.weights()
        result, tolerance = np.zeros(self.rows.shape), np.zeros(self.rows.shape)
        for at, row in enumerate(self.rows):
            x = rounded(row, self.gate_up.encoding).astype(float)
            for expert, share in zip(self.chosen[at], self.shares[at].astype(float), strict=True):
                gate, up = np.split(gate_up[expert] @ x, 2)
                sizes = np.abs(gate_up[expert]) @ np.abs(x)
                state = gelu(gate) * up
                seen = rounded(state.astype(np.float32), self.down.encoding).astype(float)
                result[at] += share * (down[expert] @ seen)
                step = np.abs(state).max() / 127 if self.down.encoding.is_integer else 0.0
                unsure = 1e-6 * sizes.max() * (np.abs(state) + sizes.max()) + 1e-6 * np.abs(state)
                near = np.zeros(len(state), bool)
                if step:
                    near = np.abs(np.abs(state / step % 1) - 0.5) * step < 4 * unsure
                error = np.abs(down[expert]) @ (unsure * 2 + near * step) + 1e-6 * np.abs(down[expert]) @ np.abs(seen)
                tolerance[at] += abs(share) * error
        return result, tolerance + 1e-30


def matrices(rng: np.random.Generator, name: str, rows: int, columns: int) -> Matrices:
    encoding = ENCODINGS[name]
    weights = rng.standard_normal((rows, columns)).astype(np.float32) * np.float32(columns**-0.5)
    return Matrices(encoding, encode(weights, encoding), columns)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """All encodings, sizes that fill no vector; experts that all rows choose, that one row chooses twice, or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.sampled_from(FORMS)), draw(st.sampled_from(FORMS))
    steps = [ENCODINGS[name].block or 4 for name in names]
    hidden, inner = (step * draw(st.integers(1, max(2, 300 // step))) for step in steps)
    number, choices = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    count = draw(st.one_of(st.integers(1, 9), st.integers(1, 40)))
    chosen = rng.integers(0, number, (count, choices)).astype(np.int32)
    if draw(st.booleans()):
        chosen[:] = chosen[0]
    rows = rng.standard_normal((count, hidden)) * draw(st.sampled_from([0.0, 1e-3, 1.0, 1.0, 30.0]))
    rows[rng.integers(count)] *= draw(st.sampled_from([0.0, 1.0, 100.0]))
    shares = rng.standard_normal((count, choices)) * draw(st.sampled_from([0.0, 1.0, 1.0]))
    gate_up, down = (
        matrices(rng, names[0], number * 2 * inner, hidden),
        matrices(rng, names[1], number * hidden, inner),
    )
    return Case(rows.astype(np.float32), chosen, shares.astype(np.float32), gate_up, down)


@settings(max_examples=500, deadline=None)
@given(case=cases())
def test_the_kernel_computes_what_the_definition_says(kernel: Experts, case: Case) -> None:
    result, tolerance = case.expected()
    np.testing.assert_array_less(np.abs(kernel(*case.operands) - result), tolerance)


@settings(max_examples=250, deadline=None)
@given(case=cases(), data=st.data())
def test_a_row_does_not_notice_the_others(kernel: Experts, alone: Experts, case: Case, data: st.DataObject) -> None:
    """Bit by bit: not their number, their places, or the threads."""
    together = kernel(*case.operands)
    row = data.draw(st.integers(0, len(case.rows) - 1))
    rows, chosen, shares, *weights = case.operands
    single = alone(*(np.ascontiguousarray(each[row : row + 1]) for each in (rows, chosen, shares)), *weights)
    np.testing.assert_array_equal(single[0], together[row])


@settings(max_examples=100, deadline=None)
@given(case=cases(), data=st.data())
def test_the_order_of_a_choice_does_not_matter(kernel: Experts, case: Case, data: st.DataObject) -> None:
    """Bit by bit, as long as a row chooses no expert twice."""
    count = len(case.weights()[1])
    case.chosen = np.stack([(row[0] + np.arange(len(row))) % count for row in case.chosen]).astype(np.int32)
    case.chosen, case.shares = case.chosen[:, :count].copy(), case.shares[:, :count].copy()
    order = data.draw(st.permutations(range(case.chosen.shape[1])))
    turned = replace(case, chosen=case.chosen[:, order].copy(), shares=case.shares[:, order].copy())
    np.testing.assert_array_equal(kernel(*case.operands), kernel(*turned.operands))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["fp32", "int8", "int4b32"])
def test_what_is_not_finite_is_not_hidden(kernel: Experts, form: str, value: float) -> None:
    """Else a broken model would go on talking; the selection reports a logit that is NaN."""
    rng = np.random.default_rng(1)
    rows, shares = rng.standard_normal((2, 32)).astype(np.float32), np.ones((2, 1), np.float32)
    rows[0, 3] = value
    weights = matrices(rng, form, 3 * 2 * 64, 32), matrices(rng, form, 3 * 32, 64)
    found = kernel(rows, np.array([[1], [1]], np.int32), shares, *weights)
    assert not np.isfinite(found[0]).any()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("expert", [-1, 3, 2**31 - 1])
def test_an_expert_that_there_is_not_spoils_its_row_alone(kernel: Experts, expert: int) -> None:
    rng = np.random.default_rng(1)
    rows, shares = rng.standard_normal((2, 32)).astype(np.float32), np.ones((2, 2), np.float32)
    weights = matrices(rng, "int8", 3 * 2 * 64, 32), matrices(rng, "int8", 3 * 32, 64)
    found = kernel(rows, np.array([[0, expert], [1, 2]], np.int32), shares, *weights)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_native_checks_are_clean_under_sanitizers(build: str) -> None:
    subprocess.run([part(f"{build}_test")], check=True, timeout=300)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no qemu-aarch64-static")
@pytest.mark.parametrize("machine", ["max", "cortex-a53"])
def test_native_checks_pass_with_neon(tmp_path: Path, machine: str) -> None:
    """With the instructions for products of bytes, and without."""
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    names = ["experts", "few_rows", "few_rows_baseline", "few_rows_dotprod", "weight_pages", "worker_pool"]
    objects = []
    for source in [*(NATIVE / f"{name}.cc" for name in names), NATIVE / "tests" / "experts_test.cc"]:
        objects.append(tmp_path / f"{source.stem}.o")
        march = ["-march=armv8.2-a+dotprod"] if source.stem.endswith("dotprod") else []
        subprocess.run(["aarch64-linux-gnu-g++", *options, *march, "-c", source, "-o", objects[-1]], check=True)
    program = tmp_path / "experts_test"
    subprocess.run(["aarch64-linux-gnu-g++", "-static", "-pthread", *objects, "-o", program], check=True)
    subprocess.run(["qemu-aarch64-static", "-cpu", machine, program], check=True, timeout=300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": (2, 1)}, r"2 rows with \[2, 1\] choices and \[2, 2\] shares"),
        ({"rows": (3, 8)}, "3 rows"),
        ({"gate_up": (3 * 8, 4)}, "for rows of 8"),
        ({"down": (3 * 8 + 1, 4)}, "for rows of 8"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {"rows": (2, 8), "chosen": (2, 2), "shares": (2, 2), "gate_up": (3 * 8, 8), "down": (3 * 8, 4)} | change
    operands = {name: torch.zeros(shape) for name, shape in shapes.items()}
    operands["chosen"] = operands["chosen"].to(torch.int32)
    with pytest.raises(ValueError, match=message):
        experts(**operands)


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_the_decomposition_computes_what_the_definition_says(case: Case) -> None:
    """Without rounded activations: on the weights as floats."""
    gate_up, down = case.weights()
    floats = [
        Matrices(ENCODINGS["fp32"], encode(m.reshape(-1, m.shape[2]).astype(np.float32), ENCODINGS["fp32"]), m.shape[2])
        for m in (gate_up, down)
    ]
    result, tolerance = replace(case, gate_up=floats[0], down=floats[1]).expected()
    weights = [torch.as_tensor(m.reshape(-1, m.shape[2]).astype(np.float32)) for m in (gate_up, down)]
    found = looked_up_experts(*map(torch.as_tensor, case.operands[:3]), *weights).numpy()
    np.testing.assert_array_less(np.abs(found - result), tolerance)


def test_the_document_names_the_operands() -> None:
    document = (Path(__file__).parents[2] / "docs" / "experts-op.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\w+) \|", document, re.MULTILINE)
    assert rows == [(str(index), name) for index, name in enumerate(inspect.signature(experts).parameters)]
