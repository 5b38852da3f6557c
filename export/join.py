"""Joins converted models into one, as flatbuffers' object trees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_mtp.export.compact import SUBGRAPH_FIELDS, options_of


def join(models: Iterable[Any]) -> Any:
    """A model with the signatures of all `models`, in their order. It has parts of the given trees, which change, and
    no metadata.
    """
    whole, *others = models
    whole.metadata = []
    codes = {_identity(code): number for number, code in enumerate(whole.operatorCodes)}
    for model in others:
        for code in model.operatorCodes:
            if _identity(code) not in codes:
                codes[_identity(code)] = len(codes)
                whole.operatorCodes.append(code)
        place = [codes[_identity(code)] for code in model.operatorCodes]
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer += len(whole.buffers)
            for operator in graph.operators:
                operator.opcodeIndex = place[operator.opcodeIndex]
            for options in options_of(graph):
                for field in SUBGRAPH_FIELDS:
                    if hasattr(options, field):
                        setattr(options, field, getattr(options, field) + len(whole.subgraphs))
        for signature in model.signatureDefs:
            signature.subgraphIndex += len(whole.subgraphs)
        whole.buffers += model.buffers
        whole.subgraphs += model.subgraphs
        whole.signatureDefs += model.signatureDefs
    return whole


def _identity(code: Any) -> tuple[int, int, bytes, int]:
    return code.builtinCode, code.deprecatedBuiltinCode, code.customCode or b"", code.version
