"""Models joined into one, against each by itself in LiteRT's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from schema_pieces import Pieces

from edge_mtp.export import compact, flatbuffer
from edge_mtp.export.join import join

B = schema.BuiltinOperator
ROW = ((1, 3), schema.TensorType.FLOAT32)
X = np.array([[-1, 2, -3]], np.float32)


def model(*operators: int) -> Any:
    """A signature for each builtin operator of one operand, named after it: a constant is added to its result."""
    pieces = Pieces()
    for number in operators:
        tensors = pieces.piece(f"b{number}", x=ROW)
        result = pieces.operator(number, [tensors["x"]], ROW[0])
        constant = pieces.tensor((1, 3), values=np.full((1, 3), number, np.float32))
        pieces.outputs(y=pieces.operator(B.ADD, [result, constant], ROW[0]))
        add = pieces.graph.operators[-1]
        add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    return pieces.model


def answers(found: Any) -> dict[str, Any]:
    interpreter = Interpreter(model_content=flatbuffer.serialize(found), num_threads=1)
    return {name: interpreter.get_signature_runner(name)(x=X)["y"] for name in interpreter.get_signature_list()}


def test_each_signature_computes_what_it_did() -> None:
    """Operators that the models have in common stand at other places in each."""
    kinds = [(B.EXP, B.ABS), (B.ABS,), (B.NEG, B.ABS, B.EXP)]
    parts = [model(*kind) for kind in kinds]
    for number, part in enumerate(parts):
        for signature in part.signatureDefs:
            signature.signatureKey += b"/%d" % number
    apart: dict[str, Any] = {}
    for part in parts:
        apart |= answers(part)
    whole = join(parts)
    assert [signature.signatureKey.decode() for signature in whole.signatureDefs] == list(apart)
    assert len(whole.operatorCodes) == len({B.EXP, B.ADD, B.ABS, B.NEG})
    compact.compact(whole)
    together = answers(whole)
    assert len(together) == 6
    for name, values in apart.items():
        np.testing.assert_array_equal(together[name], values, name)


def test_calls_of_subgraphs_lead_to_those_of_their_own_model() -> None:
    def calling() -> Any:
        pieces = Pieces()
        pieces.piece("inner", x=ROW)
        pieces.outputs(y=0)
        tensors = pieces.piece("outer", x=ROW)
        pieces.outputs(y=pieces.operator(B.STABLEHLO_COMPOSITE, [tensors["x"]], ROW[0]))
        options = schema.StableHLOCompositeOptionsT()
        options.decompositionSubgraphIndex = 0
        pieces.graph.operators[-1].builtinOptions2 = options
        return pieces.model

    whole = join([model(B.ABS), calling(), calling()])
    assert [signature.subgraphIndex for signature in whole.signatureDefs] == [0, 1, 2, 3, 4]
    called = [whole.subgraphs[number].operators[0].builtinOptions2.decompositionSubgraphIndex for number in (2, 4)]
    assert called == [1, 3]
