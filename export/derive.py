"""Signatures that are parts of others, cut out of a converted model instead of being traced again.

`verify` is `edge_verify_4` without the op at its end, and a draft of K tokens is the beginning of a longer one.
Tracing takes seconds a signature, cutting milliseconds, and what is cut computes the same by construction.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

ABSENT = -1  # an optional input that an operator does without


def add_part(model: Any, source: str, name: str, without: Collection[str]) -> None:
    """Add signature `name`: `source` without these outputs, and without the inputs that only they depend on."""
    signature = _signature(model, source)
    outputs = {item.name.decode(): item.tensorIndex for item in signature.outputs}
    _add(model, signature, name, {key: tensor for key, tensor in outputs.items() if key not in without})


def add_beginning(model: Any, source: str, name: str, length: int) -> None:
    """Add signature `name`: `source` with each output, [1,n] joined from n columns, cut to `length` columns."""
    signature = _signature(model, source)
    graph = model.subgraphs[signature.subgraphIndex]
    extended = copy.copy(graph)
    extended.tensors, extended.operators = list(graph.tensors), list(graph.operators)
    outputs = {}
    for item in signature.outputs:
        join = next(op for op in graph.operators if item.tensorIndex in op.outputs)
        code = model.operatorCodes[join.opcodeIndex]
        if code.builtinCode != schema.BuiltinOperator.CONCATENATION:
            raise ValueError(f"output {item.name!r} of {source} is not joined from columns")
        if length == 1:
            outputs[item.name.decode()] = int(join.inputs[0])
            continue
        shorter, tensor = copy.copy(join), copy.copy(graph.tensors[item.tensorIndex])
        tensor.shape = np.array([1, length], np.int32)
        tensor.shapeSignature = None
        outputs[item.name.decode()] = len(extended.tensors)
        shorter.inputs = join.inputs[:length]
        shorter.outputs = np.array([len(extended.tensors)], np.int32)
        extended.tensors.append(tensor)
        extended.operators.append(shorter)
    _add(model, signature, name, outputs, extended)


def _signature(model: Any, name: str) -> Any:
    return next(s for s in model.signatureDefs if s.signatureKey.decode() == name)


def _add(model: Any, source: Any, name: str, outputs: dict[str, int], graph: Any = None) -> None:
    """Add signature `name`: what of `graph` (default: `source`'s) the tensors `outputs` depend on."""
    graph = graph or model.subgraphs[source.subgraphIndex]
    needed = set(outputs.values())
    operators = []
    for operator in reversed(graph.operators):  # operators are in order of execution
        if needed.intersection(operator.outputs.tolist()):
            operators.append(operator)
            needed.update(operator.inputs.tolist())
            needed.update(operator.outputs.tolist())
    needed.discard(ABSENT)
    index = {old: new for new, old in enumerate(sorted(needed))} | {ABSENT: ABSENT}

    def renumbered(tensors: Any) -> Any:
        return np.array([index[t] for t in np.asarray(tensors).tolist()], np.int32)

    part = copy.copy(graph)
    part.name = name.encode()
    part.tensors = [copy.copy(graph.tensors[old]) for old in sorted(needed)]
    part.inputs = renumbered([t for t in graph.inputs.tolist() if t in needed])
    part.outputs = renumbered(list(outputs.values()))
    part.operators = []
    for operator in reversed(operators):
        moved = copy.copy(operator)
        moved.inputs, moved.outputs = renumbered(operator.inputs), renumbered(operator.outputs)
        part.operators.append(moved)

    def entry(key: bytes, tensor: int) -> Any:
        mapping = schema.TensorMapT()
        mapping.name, mapping.tensorIndex = key, index[tensor]
        return mapping

    signature = schema.SignatureDefT()
    signature.signatureKey = name.encode()
    signature.subgraphIndex = len(model.subgraphs)
    signature.inputs = [entry(i.name, i.tensorIndex) for i in source.inputs if i.tensorIndex in needed]
    signature.outputs = [entry(key.encode(), tensor) for key, tensor in outputs.items()]
    model.subgraphs.append(part)
    model.signatureDefs.append(signature)
