"""Makes graphs fit for accelerators that compute in half precision.

Half precision ends at 65504, so squares of more than 256 are infinite, and hidden states have such values. A norm
divides by the root of the mean square. x / 16 has the same norm as x, and its squares stay finite up to 4096. A power
of two changes no bit of a result in float32. It costs an operator for each norm, which graphs for the CPU do without.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

SHRINK = 2.0**-4  # what a norm's x is multiplied by

BUILTIN = schema.BuiltinOperator


@dataclass(frozen=True)
class _Norm:
    """The operators of x * rsqrt(mean(x * x) + epsilon), from the square to the reciprocal root."""

    square: Any
    added: Any
    root: Any

    @property
    def x(self) -> int:
        return int(self.square.inputs[0])


def shrink_norms(model: Any) -> None:
    """Let each norm in the signatures' graphs take x * `SHRINK` for its x."""
    for signature in model.signatureDefs:
        _Graph(model, model.subgraphs[signature.subgraphIndex]).shrink_norms()


class _Graph:
    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph
        self._made = {int(tensor): operator for operator in graph.operators for tensor in operator.outputs}
        self._constants: dict[float, int] = {}

    def shrink_norms(self) -> None:
        norms = [self._norm(operator) for operator in self._graph.operators if self._code(operator) == BUILTIN.RSQRT]
        before = {id(norm.square): self._shrink(norm) for norm in norms}
        assert len(before) == len(norms), "each norm has a square of its own"
        self._graph.operators = [
            each
            for operator in self._graph.operators
            for each in (*((before[id(operator)],) if id(operator) in before else ()), operator)
        ]

    def _norm(self, root: Any) -> _Norm:
        added = self._maker(root.inputs[0], BUILTIN.ADD)
        square = self._maker(self._maker(added.inputs[0], BUILTIN.MEAN).inputs[0], BUILTIN.MUL)
        assert square.inputs[0] == square.inputs[1], "the mean of squares"
        return _Norm(square, added, root)

    def _shrink(self, norm: _Norm) -> Any:
        """Change a norm, and return the operator that makes the new x."""
        x, epsilon = norm.x, int(norm.added.inputs[1])
        small, multiply = self._add(copy.copy(self._graph.tensors[x]), 0), copy.copy(norm.square)
        multiply.inputs = np.array([x, self._constant(SHRINK, epsilon)], np.int32)
        multiply.outputs = np.array([small], np.int32)
        for operator in self._graph.operators:
            if norm.root.outputs[0] in operator.inputs:
                operator.inputs = np.where(operator.inputs == x, small, operator.inputs).astype(np.int32)
        norm.square.inputs = np.array([small, small], np.int32)
        less = self._constant(self._value(epsilon) * SHRINK**2, epsilon)
        norm.added.inputs = np.array([norm.added.inputs[0], less], np.int32)
        return multiply

    def _maker(self, tensor: Any, wanted: int) -> Any:
        """The operator that makes the values of a tensor, whatever shape they have before."""
        operator = self._made[int(tensor)]
        while self._code(operator) == BUILTIN.RESHAPE:
            operator = self._made[int(operator.inputs[0])]
        assert self._code(operator) == wanted, "a reciprocal root is a norm's"
        return operator

    def _value(self, constant: int) -> float:
        data = self._model.buffers[self._graph.tensors[constant].buffer].data
        return float(np.asarray(data, np.uint8).view(np.float32)[0])

    def _constant(self, value: float, like: int) -> int:
        """The constant `value`, of the same shape as the constant `like`."""
        if value not in self._constants:
            buffer: Any = schema.BufferT()
            buffer.data = np.array([value], np.float32).view(np.uint8)
            self._model.buffers.append(buffer)
            self._constants[value] = self._add(copy.copy(self._graph.tensors[like]), len(self._model.buffers) - 1)
        return self._constants[value]

    def _add(self, tensor: Any, buffer: int) -> int:
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, operator: Any) -> int:
        return int(self._model.operatorCodes[operator.opcodeIndex].builtinCode)
