"""The op `edge_mtp.product`: a few rows times a matrix of 2 or 4 bits; docs/product-op.md is its contract.

It takes the place of FULLY_CONNECTED in finished graphs, since only then are the weights' encodings known: the traced
pieces are the same for every recipe. Its decomposition is the FULLY_CONNECTED whose place it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from edge_mtp.export.assemble import Assembly
from edge_mtp.export.encodings import Encoding
from edge_mtp.export.ops import PRODUCT, VERSION

BITS = (2, 4)  # of 8 bits and more XNNPACK makes products of a few rows as fast


def claim(assembly: Assembly, encodings: Mapping[str, Encoding], signatures: tuple[str, ...]) -> None:
    """Put the op in the place of each FULLY_CONNECTED that it makes faster, in the signatures whose names begin so.

    `encodings` has those of the weights by name. All signatures that choose tokens need the op alike: so a step with
    drafts and one without round a row in the same way.
    """
    model = assembly.model
    fully_connected = assembly.code(schema.BuiltinOperator.FULLY_CONNECTED)
    code = assembly.code(schema.BuiltinOperator.STABLEHLO_COMPOSITE)
    names = {model.buffers.index(buffer): name for name, buffer in assembly.weights.items()}
    bodies: dict[str, int] = {}
    for signature in model.signatureDefs:
        if not signature.signatureKey.decode().startswith(signatures):
            continue
        graph = model.subgraphs[signature.subgraphIndex]
        operands: set[int] = set()
        for operator in graph.operators:
            if operator.opcodeIndex != fully_connected:
                continue
            x, weight = (int(tensor) for tensor in operator.inputs[:2])
            name = names.get(graph.tensors[weight].buffer, "")
            if name not in encodings or encodings[name].bits not in BITS:
                continue
            if name not in bodies:
                bodies[name] = _decomposition(assembly, graph, operator, name)
            if weight not in operands:
                # From here on it is a tensor without scales, as kernels are given them.
                assembly.operands.append((graph.tensors[weight], name))
                operands.add(weight)
            operator.opcodeIndex, operator.inputs = code, np.array([x, weight], np.int32)
            operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
            operator.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
            operator.builtinOptions2 = _options(bodies[name])
        others = (op for op in graph.operators if op.opcodeIndex != code)
        assert operands.isdisjoint(int(tensor) for op in others for tensor in op.inputs), "another reads these weights"


def _decomposition(assembly: Assembly, graph: Any, operator: Any, name: str) -> int:
    """The index of a new subgraph with this FULLY_CONNECTED, which reads the weight through a tensor of its own.

    Calls with any number of rows share it: LiteRT takes their shapes.
    """
    x, weight = (int(tensor) for tensor in operator.inputs[:2])
    body, multiply = schema.SubGraphT(), copy.copy(operator)
    body.tensors = [copy.copy(graph.tensors[each]) for each in (x, weight, int(operator.outputs[0]), weight)]
    for tensor in body.tensors[:3]:  # what a call gives it has no buffers
        tensor.buffer = 0
    assembly.operands.append((body.tensors[1], name))
    multiply.inputs, multiply.outputs = np.array([0, 3], np.int32), np.array([2], np.int32)
    body.operators, body.name = [multiply], b""
    body.inputs, body.outputs = np.array([0, 1], np.int32), np.array([2], np.int32)
    assembly.model.subgraphs.append(body)
    return len(assembly.model.subgraphs) - 1


def _options(body: int) -> Any:
    options = schema.StableHLOCompositeOptionsT()
    options.name, options.version, options.decompositionSubgraphIndex = PRODUCT.encode(), VERSION, body
    options.compositeAttributes = np.frombuffer(bytes(flexbuffers.Dumps({"version": VERSION})), np.uint8)
    return options
