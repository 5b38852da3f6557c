"""Graphs put together from pieces: what is merged, dropped, shared, and what scales reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from schema_pieces import Pieces

from edge_mtp.export import compact, flatbuffer, placeholders
from edge_mtp.export.assemble import Assembly

B = schema.BuiltinOperator
KINDS = schema.TensorType
TOKENS, WIDTH = 2, 3


FLOATS = ((1, TOKENS, WIDTH), KINDS.FLOAT32)
MATRIX = ((WIDTH, WIDTH), KINDS.FLOAT32)


def layer(pieces: Pieces, name: str = "layer") -> None:
    """y = abs(x) @ w.T + [1, 2, 3], and z = exp(x), which no graph here asks for."""
    tensors = pieces.piece(name, x=FLOATS, weights_w=MATRIX)
    positive = pieces.operator(B.ABS, [tensors["x"]], FLOATS[0])
    product = pieces.operator(placeholders.LINEAR, [positive, tensors["weights_w"]], FLOATS[0])
    bias = pieces.tensor((WIDTH,), values=np.array([1, 2, 3], np.float32))
    y = pieces.operator(B.ADD, [product, bias], FLOATS[0])
    pieces.outputs(y=y, z=pieces.operator(B.EXP, [tensors["x"]], FLOATS[0]))


def codes(model: Any, graph: Any) -> list[int]:
    return [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]


def graph_of(assembly: Assembly, name: str) -> Any:
    found = next(s for s in assembly.model.signatureDefs if s.signatureKey == name.encode())
    return assembly.model.subgraphs[found.subgraphIndex]


def run(assembly: Assembly, weights: dict[str, Any], signature: str, **inputs: Any) -> dict[str, Any]:
    for name, values in weights.items():
        assembly.weights[name].data = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
    compact.compact(assembly.model)
    for graph in assembly.model.subgraphs:
        for operator in graph.operators:
            if assembly.model.operatorCodes[operator.opcodeIndex].builtinCode == B.ADD:
                operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
                operator.builtinOptions = schema.AddOptionsT()
    interpreter = Interpreter(model_content=flatbuffer.serialize(assembly.model), num_threads=1)
    found: dict[str, Any] = interpreter.get_signature_runner(signature)(**inputs)
    return found


def test_layers_compute_what_they_say() -> None:
    pieces = Pieces()
    layer(pieces)
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    middle = graph.place("layer", {"x": "x"}, "0.")["y"]
    graph.finish({"y": graph.place("layer", {"x": middle}, {"w": "last"})["y"]})
    random = np.random.default_rng(0)
    x = random.standard_normal(FLOATS[0]).astype(np.float32)
    weights = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in ("0.w", "last")}
    assert assembly.weights.keys() == weights.keys()
    expected = x
    for weight in weights.values():
        expected = np.abs(expected) @ weight.T + np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(run(assembly, weights, "main", x=x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_equal_operators_are_one_and_unneeded_ones_none() -> None:
    pieces = Pieces()
    layer(pieces)
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    outputs = [graph.place("layer", {"x": "x"}, weights)["y"] for weights in ("0.", "1.", "0.")]
    assert outputs[0] == outputs[2] != outputs[1]
    graph.finish({"a": outputs[0], "b": outputs[1]})
    built = graph_of(assembly, "main")
    assert sorted(codes(assembly.model, built)) == sorted([B.ABS, *[B.FULLY_CONNECTED, B.ADD] * 2])
    assert len(built.tensors) == 1 + 2 + 1 + 1 + 2 + 2  # x, two weights, the bias, abs, two products and sums
    produced = {t for operator in built.operators for t in operator.outputs.tolist()}
    for operator in built.operators:  # in order of execution, and nothing dangling
        assert all(t in produced or t in built.inputs or built.tensors[t].buffer for t in operator.inputs.tolist()[:2])
    assert set(built.outputs.tolist()) <= produced


def test_an_input_that_nothing_needs_is_none() -> None:
    pieces = Pieces()
    tensors = pieces.piece("two", a=FLOATS, b=FLOATS)
    first = pieces.operator(B.ABS, [tensors["a"]], FLOATS[0])
    pieces.outputs(a=first, b=pieces.operator(B.ABS, [tensors["b"]], FLOATS[0]))
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    graph.finish({"y": graph.place("two", {"a": "a", "b": "b"})["a"]})
    (signature,) = assembly.model.signatureDefs
    assert [entry.name for entry in signature.inputs] == [b"a"]
    assert graph_of(assembly, "main").inputs.tolist() == [signature.inputs[0].tensorIndex]


def test_an_absent_operand_stays_absent() -> None:
    pieces = Pieces()
    layer(pieces)
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    graph.finish({"y": graph.place("layer", {"x": "x"}, "0.")["y"]})
    built = graph_of(assembly, "main")
    linear = built.operators[codes(assembly.model, built).index(B.FULLY_CONNECTED)]
    assert linear.inputs.tolist()[2] == -1
    assert linear.builtinOptions.keepNumDims
    assert linear.customOptions is None


def test_a_weight_of_several_graphs_is_one_buffer() -> None:
    pieces = Pieces()
    layer(pieces)
    layer(pieces, "wide")
    assembly = Assembly(pieces.model)
    for name, piece in (("a", "layer"), ("b", "wide")):
        graph = assembly.graph(name)
        graph.finish({"y": graph.place(piece, {"x": "x"}, "0.")["y"]})
    compact.compact(assembly.model)
    place = next(i for i, buffer in enumerate(assembly.model.buffers) if buffer is assembly.weights["0.w"])
    for name in "ab":
        assert sum(tensor.buffer == place for tensor in graph_of(assembly, name).tensors) == 1
    assert len(assembly.model.subgraphs) == 2  # the pieces are gone, and so are their constants' copies
    assert len(assembly.model.buffers) == 3
    names = [tensor.name for graph in assembly.model.subgraphs for tensor in graph.tensors]
    assert len(set(names)) == len(names)


CACHE = ((1, 1, 8, WIDTH), KINDS.INT8)
NEW = ((1, 1, TOKENS, WIDTH), KINDS.FLOAT32)


def cached(pieces: Pieces) -> None:
    """New rows are quantized and written into the cache; of which a slice is dequantized."""
    tensors = pieces.piece("cached", new=NEW, cache=CACHE, other=CACHE)
    rows = pieces.operator(placeholders.QUANTIZE, [tensors["new"]], NEW[0], KINDS.INT8, "k")
    start = pieces.tensor((4,), KINDS.INT32, np.zeros(4, np.int32))
    size = pieces.tensor((4,), KINDS.INT32, np.array(NEW[0], np.int32))
    cache = pieces.operator(B.DYNAMIC_UPDATE_SLICE, [tensors["cache"], rows, start], CACHE[0], KINDS.INT8)
    part = pieces.operator(B.SLICE, [cache, start, size], NEW[0], KINDS.INT8)
    other = pieces.operator(B.SLICE, [tensors["other"], start, size], NEW[0], KINDS.INT8)
    pieces.outputs(
        cache=cache,
        seen=pieces.operator(placeholders.DEQUANTIZE, [part], NEW[0], text="k"),
        other=pieces.operator(placeholders.DEQUANTIZE, [other], NEW[0], text="v"),
    )


def test_scales_reach_all_that_only_moves() -> None:
    pieces = Pieces()
    cached(pieces)
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    outputs = graph.place("cached", {"new": "new", "cache": "cache", "other": "other"}, scales="3.")
    graph.finish(outputs)
    built = graph_of(assembly, "main")
    (signature,) = assembly.model.signatureDefs
    ports = {entry.name.decode(): built.tensors[entry.tensorIndex] for entry in signature.inputs}
    assert assembly.scales.keys() == {"3.k", "3.v"}
    # Cache in, rows, cache out, slice; and the other cache with its slice.
    assert len(assembly.scales["3.k"]) == 4
    assert len(assembly.scales["3.v"]) == 2
    assert any(tensor is ports["cache"] for tensor in assembly.scales["3.k"])
    assert any(tensor is ports["other"] for tensor in assembly.scales["3.v"])
    scaled = [id(tensor) for tensors in assembly.scales.values() for tensor in tensors]
    assert sorted(scaled) == sorted(id(tensor) for tensor in built.tensors if tensor.type == KINDS.INT8)
    assert sorted(codes(assembly.model, built)) == sorted(
        [B.QUANTIZE, B.DYNAMIC_UPDATE_SLICE, B.SLICE, B.SLICE, B.DEQUANTIZE, B.DEQUANTIZE]
    )


def test_scales_have_the_names_they_are_given() -> None:
    pieces = Pieces()
    cached(pieces)
    assembly = Assembly(pieces.model)
    graph = assembly.graph("main")
    ports = {"new": "new", "cache": "cache", "other": "other"}
    graph.finish(graph.place("cached", ports, scales={"k": "13.k", "v": "14.v"}))
    assert assembly.scales.keys() == {"13.k", "14.v"}
