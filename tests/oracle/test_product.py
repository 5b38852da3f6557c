"""The op `edge_mtp.product`: the kernel against the definition in numpy, and against XNNPACK."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from native_build import NATIVE, part
from native_low_bit import LowBit, Matrix, low_bit
from numpy.typing import NDArray

from edge_mtp.export.assemble import Assembly
from edge_mtp.export.compact import compact
from edge_mtp.export.encodings import ENCODINGS, Encoded, Encoding, encode, pack, unpack
from edge_mtp.export.product import claim
from edge_mtp.export.store import Store

BUILDS = ["low_bit", "low_bit_baseline"]
WORKERS = 3


@pytest.fixture(scope="session", params=BUILDS, ids=["native", "baseline"])
def build(request: pytest.FixtureRequest) -> str:
    """As built, and without the instructions that only some machines have."""
    return str(request.param)


@pytest.fixture(scope="session")
def kernel(build: str) -> LowBit:
    return low_bit(build, WORKERS)


@pytest.fixture(scope="session")
def alone(build: str) -> LowBit:
    """The kernel in one thread."""
    return low_bit(build)


def quantized(row: NDArray[np.float32]) -> tuple[NDArray[np.int64], int, np.float32]:
    """A row's integers, the integer of 0.0, and the unit, all in float32 as XNNPACK computes them."""
    least, largest = np.float32(-128), np.float32(127)
    low, high = np.minimum(row.min(), np.float32(0)), np.maximum(row.max(), np.float32(0))
    scale = np.float32(1) if low == high else (largest - least) / (high - low)
    from_low, from_high = least + low * scale, largest + high * scale
    zero = least - low * scale if from_low + from_high > 0 else largest - high * scale
    nudged = int(np.rint(np.clip(zero, least, largest)))
    scaled = np.clip(row * scale, least - np.float32(nudged), largest - np.float32(nudged))
    return np.rint(scaled).astype(np.int64) + nudged, nudged, np.float32(1) / scale


@dataclass
class Case:
    """Operands of the op."""

    rows: NDArray[np.float32]
    matrix: Matrix

    @property
    def weights(self) -> NDArray[np.int64]:
        return unpack(self.matrix.data, self.matrix.bits).astype(np.int64)

    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The result, and the largest error that adding up blocks in float32 may make; 0 without blocks."""
        found, errors = [], []
        for row in self.rows:
            integers, zero, unit = quantized(row)
            centered = integers - zero
            if not self.matrix.block:
                sums = self.weights @ centered
                found.append(((sums.astype(np.float32) * unit) * self.matrix.scales).astype(np.float64))
                errors.append(np.zeros(len(sums)))
                continue
            scales = self.matrix.scales.astype(np.float64)
            blocks = self.weights.reshape(len(self.weights), -1, self.matrix.block)
            by_block = (blocks * centered.reshape(-1, self.matrix.block)).sum(axis=2)
            sizes = (np.abs(blocks) * 256).sum(axis=2)  # of what lanes add up, before the zero is taken off
            found.append((by_block * scales).sum(axis=1) * float(unit))
            errors.append((sizes * np.abs(scales)).sum(axis=1) * float(unit) * 2e-6)
        return np.array(found), np.array(errors)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Matrices of all encodings, with integers over their whole range, and rows of all kinds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.sampled_from([2, 4, 4, 8]))
    block = draw(st.sampled_from([0, 32, 64, 128, 256])) if bits == 4 else 0
    multiple = block or 8 // bits
    columns = multiple * draw(st.integers(1, 1600 // multiple))
    count, rows = draw(st.integers(1, 11)), draw(st.integers(1, 70))
    integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, columns))
    if draw(st.booleans()):
        integers[:] = draw(st.sampled_from([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]))
    data = integers.astype(np.int8).view(np.uint8)
    data = data if bits == 8 else pack(data, bits)
    scales = rng.random((rows, columns // block) if block else rows).astype(np.float32) * 2.0 ** -draw(
        st.integers(0, 8)
    )
    numbers = rng.standard_normal((count, columns)) * 10.0 ** draw(st.integers(-3, 3))
    shift = draw(st.sampled_from([0.0, 0.0, -5.0, 5.0, 1e3]))
    numbers = numbers + shift * np.abs(numbers).max()
    if draw(st.booleans()):
        numbers[rng.integers(count)] = draw(st.sampled_from([0.0, 1.0, -1.0]))
    if draw(st.booleans()):
        numbers[:, rng.integers(columns)] *= 100
    return Case(
        numbers.astype(np.float32),
        Matrix(np.ascontiguousarray(data), scales.astype(np.float16) if block else scales, columns, bits),
    )


@settings(max_examples=1500, deadline=None)
@given(case=cases())
def test_the_kernel_computes_what_the_definition_says(kernel: LowBit, case: Case) -> None:
    """Bit by bit where a row has one scale: all that is rounded is rounded once, in one order."""
    found, (wanted, error) = kernel(case.rows, case.matrix), case.expected()
    assert np.all(np.abs(found - wanted) <= error + np.abs(wanted) * (1e-6 if case.matrix.block else 0))


@settings(max_examples=500, deadline=None)
@given(case=cases(), data=st.data())
def test_a_row_does_not_notice_the_others(kernel: LowBit, alone: LowBit, case: Case, data: st.DataObject) -> None:
    """Bit by bit: not their number, nor the threads."""
    row = data.draw(st.integers(0, len(case.rows) - 1))
    together = kernel(case.rows, case.matrix)
    np.testing.assert_array_equal(alone(case.rows[row : row + 1], case.matrix)[0], together[row])


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_the_sums_of_rows(kernel: LowBit, case: Case) -> None:
    sums, weights = kernel.sums(case.matrix), case.weights
    if not case.matrix.block:
        np.testing.assert_array_equal(sums, weights.sum(axis=1))
        return
    blocks = weights.reshape(len(weights), -1, case.matrix.block).sum(axis=2) * case.matrix.scales.astype(float)
    np.testing.assert_allclose(sums, blocks.sum(axis=1), rtol=1e-5, atol=1e-5 * np.abs(blocks).sum(axis=1).max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(kernel: LowBit, value: float) -> None:
    """Else a broken model would go on talking; the selection reports a logit that is NaN."""
    weights = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    stored = encode(weights, ENCODINGS["int4"])
    assert stored.scales is not None
    rows = np.ones((2, 64), np.float32)
    rows[1, 5] = value
    found = kernel(rows, Matrix(stored.data.reshape(8, -1), stored.scales, 64, 4))
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1]).any()


@pytest.mark.parametrize(
    ("columns", "bits", "blocks", "why"),
    [(64, 3, 0, "2, 4 or 8 bits"), (1 << 17, 2, 0, "at most 65,536"), (64, 2, 2, "blocks of 4 bits")],
)
def test_other_matrices_are_refused(alone: LowBit, columns: int, bits: int, blocks: int, why: str) -> None:
    scales = np.ones((1, blocks), np.float16) if blocks else np.ones(1, np.float32)
    matrix = Matrix(np.zeros((1, columns), np.uint8), scales, columns, bits)
    with pytest.raises(ValueError, match=why):
        alone(np.zeros((1, columns), np.float32), matrix)


def test_native_checks_are_clean_under_sanitizers(build: str) -> None:
    subprocess.run([part(f"{build}_test")], check=True, timeout=300)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no qemu-aarch64-static")
def test_native_checks_pass_on_arm(tmp_path: Path) -> None:
    """With the instructions for dot products and without."""
    compiler = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-ffp-contract=off", "-static", "-pthread"]
    dotprod, program = tmp_path / "dotprod.o", tmp_path / "low_bit_test"
    only = ["-march=armv8.2-a+dotprod", "-c", NATIVE / "low_bit_dotprod.cc", "-o", dotprod]
    subprocess.run([*compiler, *only], check=True)
    sources = [NATIVE / f"{name}.cc" for name in ("low_bit", "low_bit_baseline", "worker_pool", "tests/low_bit_test")]
    subprocess.run([*compiler, *sources, dotprod, "-o", program], check=True)
    for machine in ("max", "cortex-a53"):
        subprocess.run(["qemu-aarch64-static", "-cpu", machine, program], check=True, timeout=300)


@pytest.mark.parametrize("name", ["int2", "int4", "int4b32", "int4b256"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_runtime_without_the_kernel_runs_the_decomposition(name: str, count: int) -> None:
    """The same graph in LiteRT's interpreter, which knows none of our ops; bit by bit, but for sums of blocks.

    Two calls with different numbers of rows share the decomposition.
    """
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(1)
    weights, encoding = rng.standard_normal((24, 512)).astype(np.float32), ENCODINGS[name]
    stored = encode(weights, encoding)
    interpreter = Interpreter(model_content=_model(stored, encoding, (3, count)), num_threads=1)
    rows = rng.standard_normal((1, count, 512)).astype(np.float32)
    answer = interpreter.get_signature_runner(f"edge_verify_{count}")(rows=rows)["product"][0]
    assert stored.scales is not None
    found = low_bit()(rows[0], Matrix(stored.data.reshape(24, -1), stored.scales, 512, encoding.bits))
    # LiteRT's own kernel, which runs where a delegate does not come, rounds rows to symmetric integers.
    np.testing.assert_allclose(found, answer, rtol=0, atol=0.02 * np.abs(answer).max())


def _model(stored: Encoded, encoding: Encoding, counts: tuple[int, ...]) -> bytes:
    """A product of each number of rows with one matrix, in the signatures of a bundle."""
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [], []
    model.buffers, model.signatureDefs, model.metadata = [schema.BufferT()], [], []
    assembly = Assembly(model)
    code = assembly.code(schema.BuiltinOperator.FULLY_CONNECTED)
    rows, columns = 24, 512
    for count in counts:
        graph, signature = schema.SubGraphT(), schema.SignatureDefT()
        shapes = ((1, count, columns), (rows, columns), (1, count, rows))
        graph.tensors = [_tensor(shape) for shape in shapes]
        graph.tensors[1].buffer = assembly.buffer("w")
        multiply = schema.OperatorT()
        multiply.opcodeIndex = code
        multiply.inputs, multiply.outputs = np.array([0, 1, -1], np.int32), np.array([2], np.int32)
        multiply.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        multiply.builtinOptions = schema.FullyConnectedOptionsT()
        multiply.builtinOptions.keepNumDims = True
        graph.operators, graph.name = [multiply], b""
        graph.inputs, graph.outputs = np.array([0], np.int32), np.array([2], np.int32)
        signature.signatureKey, signature.subgraphIndex = b"edge_verify_%d" % count, len(assembly.model.subgraphs)
        signature.inputs, signature.outputs = [_port(b"rows", 0)], [_port(b"product", 2)]
        assembly.model.subgraphs.append(graph)
        assembly.model.signatureDefs.append(signature)
    claim(assembly, {"w": encoding}, ("edge_verify_",))
    compact(assembly.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        store = Store(assembly, path)
        store.matrix("w", (rows, columns), encoding, lambda first, last: stored.cut(rows, first, last))
        store.write(lambda _: None)
        return path.read_bytes()


def _tensor(shape: tuple[int, ...]) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer, tensor.hasRank = np.array(shape, np.int32), 0, 0, True
    return tensor


def _port(name: bytes, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry


def test_the_document_names_the_operands() -> None:
    document = (Path(__file__).parents[2] / "docs" / "product-op.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\w+) \|", document, re.MULTILINE)
    assert rows == [("0", "rows"), ("1", "weights"), ("2", "scales")]
    assert "K is at most 65,536" in document
    assert "kMostColumns = 1 << 16;" in (NATIVE / "low_bit.h").read_text("utf-8")
