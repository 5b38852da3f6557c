"""Encodings against ai-edge-quantizer, byte for byte, and against what LiteRT computes with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("litert_torch")

import flatbuffers
import litert_torch
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import encodings
from edge_mtp.export.encodings import ENCODINGS, Encoding, decode, encode, fit, storage_bytes
from edge_mtp.export.flatbuffer import parse
from edge_mtp.quiet import quiet

INTEGERS = [encoding for encoding in ENCODINGS.values() if encoding.is_integer]
K = 512
ROWS, TABLE_ROWS = 24, 40

by_name = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=str)
by_integer_name = pytest.mark.parametrize("encoding", INTEGERS, ids=str)


def matrix(rows: int, k: int, seed: int = 0) -> Any:
    """Rows of very different sizes, with halves and a block of tiny weights among them."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rows, k)) * 10.0 ** random.uniform(-3, 2, (rows, 1))
    weights[0] = np.round(weights[0] / np.abs(weights[0]).max() * 254) / 2  # integers and a half in int8
    weights[1, :32] *= 1e-3
    return weights.astype(np.float32)


# --- what the quantizer writes ---------------------------------------------------------------------------------------


ZEROS = 7


def extreme(rows: int, seed: int) -> Any:
    """A matrix with a row of zeros, and one so small that a block's scale loses a third as fp16: it must be clipped."""
    weights = matrix(rows, K, seed)
    weights[ZEROS] = 0
    weights[ZEROS + 1] *= 1.45 * 7 * 2.0**-24 / np.abs(weights[ZEROS + 1]).max()
    return weights


class Twin(torch.nn.Module):
    """One FULLY_CONNECTED and one EMBEDDING_LOOKUP."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(K, ROWS, bias=False)
        self.table = torch.nn.Embedding(TABLE_ROWS, K)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(extreme(ROWS, 1)))
            self.table.weight.copy_(torch.from_numpy(extreme(TABLE_ROWS, 2)))

    def forward(self, x: Any, ids: Any) -> Any:
        return self.linear(x), self.table(ids)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("twin") / "twin.tflite"
    with quiet():
        litert_torch.convert(Twin().eval(), (torch.zeros(1, 3, K), torch.zeros(3, dtype=torch.int32))).export(str(path))
    return path


def by_quantizer(path: Path, encoding: Encoding) -> Any:
    """The model's object tree as the quantizer leaves it."""
    recipe = recipe_manager.RecipeManager()
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    if encoding.is_half:
        weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        for name in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.EMBEDDING_LOOKUP):
            recipe.add_quantization_config(".*", name, config, AlgorithmName.FLOAT_CASTING)
    else:
        granularity = f"BLOCKWISE_{encoding.block}" if encoding.block else "CHANNELWISE"
        recipe.add_dynamic_config(
            regex=".*",
            operation_name=everything,
            num_bits=encoding.bits,
            granularity=qtyping.QuantGranularity[granularity],
        )
    with quiet():
        result = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    return parse(bytes(result.quantized_model))


class Weight(NamedTuple):
    tensor: Any
    data: bytes
    options: Any
    code: Any


def weight_of(model: Any, builtin: int) -> Weight:
    """The constant second input of the one operator of that kind, before a DEQUANTIZE."""
    graph = model.subgraphs[0]
    [found] = [each for each in graph.operators if model.operatorCodes[each.opcodeIndex].builtinCode == builtin]
    number = found.inputs[1]
    for each in graph.operators:
        if number in each.outputs:
            number = each.inputs[0]
    tensor = graph.tensors[number]
    data = bytes(model.buffers[tensor.buffer].data)
    return Weight(tensor, data, found.builtinOptions, model.operatorCodes[found.opcodeIndex])


def compared(values: Any, rows: int, encoding: Encoding) -> Any:
    """What `encode` promises to write as the quantizer does: all but blocks of zeros."""
    return np.delete(values.reshape(rows, -1), ZEROS, axis=0) if encoding.block else values


OPERATORS = {
    schema.BuiltinOperator.FULLY_CONNECTED: (ROWS, 1),
    schema.BuiltinOperator.EMBEDDING_LOOKUP: (TABLE_ROWS, 2),
}


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS.values() if each.bits < 32], ids=str)
def test_a_quantized_model_has_what_encode_and_its_kin_say(converted: Path, encoding: Encoding) -> None:
    model, plain = by_quantizer(converted, encoding), parse(converted.read_bytes())
    for builtin, (rows, seed) in OPERATORS.items():
        theirs, before = weight_of(model, builtin), weight_of(plain, builtin)
        ours = encode(extreme(rows, seed), encoding)
        data = np.frombuffer(theirs.data, np.uint8)
        np.testing.assert_array_equal(compared(data, rows, encoding), compared(ours.data, rows, encoding))
        assert theirs.tensor.type == encodings.tensor_type(encoding)
        assert vars(theirs.options) == vars(before.options) if theirs.options else before.options is None
        assert vars(theirs.code) == vars(before.code)
        if not encoding.is_integer:
            continue
        written = theirs.tensor.quantization
        index = written.details.scales if encoding.block else None
        expected = encodings.quantization(encoding, ours.scales, index)
        for name in ("quantizedDimension", "detailsType"):
            assert getattr(written, name) == getattr(expected, name)
        if encoding.block:
            assert vars(written.details) == vars(expected.details)
            scales = model.subgraphs[0].tensors[index]
            tensor = encodings.scales_tensor(encoding, theirs.tensor.name, (rows, K), scales.buffer)
            assert (tensor.name, tensor.type, list(tensor.shape)) == (scales.name, scales.type, list(scales.shape))
            data = np.frombuffer(bytes(model.buffers[scales.buffer].data), np.float16)
            np.testing.assert_array_equal(compared(data, rows, encoding), compared(ours.scales, rows, encoding))
            assert (data.reshape(rows, -1)[ZEROS] == 0).all()  # which XNNPACK refuses, so ours differ there
        else:
            np.testing.assert_array_equal(written.scale, expected.scale)
            np.testing.assert_array_equal(written.zeroPoint, expected.zeroPoint)


# --- properties ------------------------------------------------------------------------------------------------------


@st.composite
def matrices(draw: Callable[..., Any]) -> Any:
    rows, k = draw(st.integers(1, 9)), draw(st.sampled_from([256, 512, 1280]))
    weights = matrix(max(rows, 2), k, draw(st.integers(0, 2**32 - 1)))[:rows]
    if draw(st.booleans()):
        weights[draw(st.integers(0, rows - 1)), : draw(st.sampled_from([32, k]))] = 0
    return weights


@by_name
@settings(deadline=None, max_examples=40)
@given(weights=matrices(), chunk=st.integers(1, 4))
def test_rows_are_encoded_independently(encoding: Encoding, weights: Any, chunk: int) -> None:
    whole = encode(weights, encoding)
    parts = [encode(weights[start : start + chunk], encoding) for start in range(0, len(weights), chunk)]
    np.testing.assert_array_equal(np.concatenate([part.data for part in parts]), whole.data)
    if whole.scales is not None:
        np.testing.assert_array_equal(np.concatenate([part.scales for part in parts]), whole.scales)


def test_a_large_matrix_is_encoded_as_its_rows_are() -> None:
    """The chunks that encode() works in show nowhere."""
    weights = matrix(1200, 256)
    for encoding in ENCODINGS.values():
        whole = encode(weights, encoding)
        rows = [encode(row[None], encoding) for row in weights]
        np.testing.assert_array_equal(np.concatenate([row.data for row in rows]), whole.data)


@by_integer_name
@settings(deadline=None, max_examples=40)
@given(weights=matrices())
def test_decoded_weights_are_within_half_a_step(encoding: Encoding, weights: Any) -> None:
    encoded = encode(weights, encoding)
    assert encoded.scales is not None
    scales = encoded.scales.astype(np.float32).reshape(len(weights), -1, 1)
    parts = np.abs(weights).reshape(len(weights), scales.shape[1], -1)
    error = np.abs(decode(encoded, encoding, weights.shape[1]) - weights).reshape(parts.shape)
    # What rounding a block's scale, to bfloat16 (2^-9 of it) and then to fp16 (2^-25 where that is subnormal), does
    # to the block's largest weight.
    lost = parts.max(axis=-1, keepdims=True) * 2.0**-8 + encoding.largest * 2.0**-25
    slack = lost if encoding.block else parts.max(axis=-1, keepdims=True) * 1e-6
    assert (error <= scales * 0.5 + slack).all()
    assert (encoded.scales > 0).all()


@settings(deadline=None, max_examples=40)
@given(weights=matrices())
def test_fp32_is_exact_and_fp16_is_numpys(weights: Any) -> None:
    for name, dtype in (("fp32", np.float32), ("fp16", np.float16)):
        back = decode(encode(weights, ENCODINGS[name]), ENCODINGS[name], weights.shape[1])
        np.testing.assert_array_equal(back, weights.astype(dtype).astype(np.float32))


@by_name
def test_storage_is_what_is_written(encoding: Encoding) -> None:
    encoded = encode(matrix(6, 512), encoding)
    written = encoded.data.nbytes
    if encoded.scales is not None:
        written += encoded.scales.nbytes
        parameters = encodings.quantization(encoding, encoded.scales, 0)
        written += 0 if encoding.block else parameters.zeroPoint.nbytes
    assert storage_bytes((6, 512), encoding) == storage_bytes((2, 3, 512), encoding) == written


@pytest.mark.parametrize(("name", "k", "fitting"), [("int4b128", 704, "int4b64"), ("int4b256", 3840, "int4b256")])
def test_a_block_that_does_not_fit_is_halved(name: str, k: int, fitting: str) -> None:
    assert fit(ENCODINGS[name], k) == ENCODINGS[fitting]


@pytest.mark.parametrize(("name", "k"), [("int4", 33), ("int2", 34), ("int4b32", 48), ("int4b256", 48)])
def test_rows_that_would_share_a_byte_or_a_block_are_refused(name: str, k: int) -> None:
    with pytest.raises(EdgeMtpError, match=f"not {k}"):
        fit(ENCODINGS[name], k)
    with pytest.raises(EdgeMtpError, match=f"not {k}"):
        encode(np.ones((2, k), np.float32), ENCODINGS[name])


@by_name
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(encoding: Encoding, value: float) -> None:
    weights = matrix(3, 256)
    weights[2, 100] = value
    with pytest.raises(EdgeMtpError, match="repair the checkpoint"):
        encode(weights, encoding)


def test_weights_beyond_fp16_are_refused() -> None:
    weights = np.full((1, 256), 7e4, np.float32)
    with pytest.raises(EdgeMtpError, match="70000"):
        encode(weights, ENCODINGS["fp16"])


# --- what LiteRT computes --------------------------------------------------------------------------------------------


class Graph:
    """A model straight from the schema."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []

    def buffer(self, data: Any) -> int:
        self.model.buffers.append(schema.BufferT(np.ascontiguousarray(data).view(np.uint8).reshape(-1)))
        return len(self.model.buffers) - 1

    def add(self, tensor: Any) -> int:
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def tensor(self, shape: tuple[int, ...], kind: int, buffer: int = 0, quantization: Any = None) -> int:
        tensor = schema.TensorT(np.array(shape, np.int32), kind, buffer)
        tensor.name, tensor.quantization = b"t%d" % len(self.graph.tensors), quantization
        return self.add(tensor)

    def operator(self, builtin: int, inputs: list[int], output: int, options: Any = None, kind: int = 0) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        node = schema.OperatorT(len(self.model.operatorCodes) - 1, np.array(inputs, np.int32), [output])
        node.builtinOptions, node.builtinOptionsType = options, kind
        self.graph.operators.append(node)
        return output

    def run(self, *values: Any) -> list[Any]:
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
        interpreter.allocate_tensors()
        for detail, value in zip(interpreter.get_input_details(), values, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def tied(weights: Any, encoding: Encoding, tokens: int, ids: int) -> Graph:
    """FULLY_CONNECTED and EMBEDDING_LOOKUP, with a tensor each over one buffer."""
    graph, kinds = Graph(), schema.TensorType
    encoded = encode(weights, encoding)
    buffer = graph.buffer(encoded.data)
    scales = graph.buffer(encoded.scales) if encoding.block else 0

    def weight() -> int:
        index = None
        if encoding.block:
            index = graph.add(encodings.scales_tensor(encoding, b"w", weights.shape, scales))
        quantization = encodings.quantization(encoding, encoded.scales, index)
        return graph.tensor(weights.shape, encodings.tensor_type(encoding), buffer, quantization)

    def dequantized(source: int, shape: tuple[int, ...]) -> int:
        return graph.operator(
            schema.BuiltinOperator.DEQUANTIZE,
            [source],
            graph.tensor(shape, kinds.FLOAT32),
            schema.DequantizeOptionsT(),
            schema.BuiltinOptions.DequantizeOptions,
        )

    n, k = weights.shape
    x, rows = graph.tensor((1, tokens, k), kinds.FLOAT32), graph.tensor((ids,), kinds.INT32)
    table, matrix_ = weight(), weight()
    looked_up = graph.tensor((ids, k), kinds.FLOAT16 if encoding.is_half else kinds.FLOAT32)
    graph.operator(schema.BuiltinOperator.EMBEDDING_LOOKUP, [rows, table], looked_up)
    if encoding.is_half:
        looked_up, matrix_ = dequantized(looked_up, (ids, k)), dequantized(matrix_, weights.shape)
    options = schema.FullyConnectedOptionsT(keepNumDims=True)
    product = graph.operator(
        schema.BuiltinOperator.FULLY_CONNECTED,
        [x, matrix_, -1],
        graph.tensor((1, tokens, n), kinds.FLOAT32),
        options,
        schema.BuiltinOptions.FullyConnectedOptions,
    )
    graph.graph.inputs, graph.graph.outputs = [x, rows], [product, looked_up]
    return graph


@by_name
@pytest.mark.parametrize("tokens", [1, 5])
def test_litert_multiplies_with_and_looks_up_in_one_buffer(encoding: Encoding, tokens: int) -> None:
    weights = matrix(96, 512)
    weights /= np.abs(weights).max(axis=1, keepdims=True)
    weights[3] = 0  # XNNPACK refuses a block scale of zero
    weights[5, 32:64] = 0
    seen = decode(encode(weights, encoding), encoding, 512)
    x = np.random.default_rng(3).standard_normal((1, tokens, 512)).astype(np.float32)
    ids = np.array([95, 0, 3, 5], np.int32)
    product, rows = tied(weights, encoding, tokens, len(ids)).run(x, ids)
    np.testing.assert_allclose(rows, seen[ids], rtol=1e-6, atol=0)
    expected = x @ seen.T
    # Integer weights are multiplied with activations that the kernel rounds to 8 bits, a scale a token: half of
    # 2 / 255 of their range, in every product, as independent errors.
    step = (x.max() - x.min()) / 255
    noise = step * np.sqrt((seen**2).sum(axis=1)) if encoding.is_integer else 1e-5 * np.abs(expected).max()
    assert (np.abs(product - expected) <= 3 * noise + 1e-6).all()
