"""Derives signatures from converted ones, in milliseconds each, where tracing them again would take seconds.

A graph of T rows differs from two wider ones only in sizes, which are linear in T.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError


def add_width(model: Any, samples: dict[int, str], name: str, rows: int) -> None:
    """Add a signature `name` of `rows` rows, fewer than in the two `samples` (rows: signature).

    Raises:
        EdgeMtpError: the samples differ in more than sizes.
    """
    (many, first), (more, second) = sorted(samples.items())
    source, other = _signature(model, first), _signature(model, second)
    narrow = _Narrower(model, (rows - many) / (more - many))
    signature = copy.copy(source)
    signature.signatureKey = name.encode()
    signature.subgraphIndex = narrow.subgraph(source.subgraphIndex, other.subgraphIndex)
    model.subgraphs[signature.subgraphIndex].name = name.encode()
    model.signatureDefs.append(signature)


class _Narrower:
    """Extrapolates the sizes of two graphs: size = first + (second - first) * `factor`."""

    def __init__(self, model: Any, factor: float) -> None:
        self.model = model
        self.factor = factor
        self._subgraphs: dict[tuple[int, int], int] = {}

    def subgraph(self, first: int, second: int) -> int:
        """The index of the extrapolated subgraph; a new one if the two differ."""
        key = (first, second)
        if key not in self._subgraphs:
            graph, other = (copy.copy(self.model.subgraphs[index]) for index in key)
            operators = self._each(self._operator, graph.operators, other.operators)
            graph.tensors = self._each(self._tensor, graph.tensors, other.tensors)
            graph.operators = operators
            self._same(graph.inputs.tolist(), other.inputs.tolist())
            self._same(graph.outputs.tolist(), other.outputs.tolist())
            self._subgraphs[key] = len(self.model.subgraphs)
            self.model.subgraphs.append(graph)
        return self._subgraphs[key]

    def _operator(self, first: Any, second: Any) -> Any:
        self._same(first.opcodeIndex, second.opcodeIndex)
        self._same(first.inputs.tolist(), second.inputs.tolist())
        self._same(first.outputs.tolist(), second.outputs.tolist())
        operator = copy.copy(first)
        operator.builtinOptions = self._options(first.builtinOptions, second.builtinOptions)
        operator.builtinOptions2 = self._options(first.builtinOptions2, second.builtinOptions2)
        return operator

    def _options(self, first: Any, second: Any) -> Any:
        if first is None or second is None:
            self._same(first, second)
            return None
        options = copy.copy(first)
        for field, value in vars(first).items():
            other = getattr(second, field)
            if field == "decompositionSubgraphIndex":
                setattr(options, field, self.subgraph(value, other))
            elif isinstance(value, np.ndarray) and field == "newShape":
                setattr(options, field, self._sizes(value, other))
            elif isinstance(value, np.ndarray):
                self._same(value.tolist(), other.tolist())
            else:
                self._same(value, other)
        return options

    def _tensor(self, first: Any, second: Any) -> Any:
        self._same(first.type, second.type)
        tensor = copy.copy(first)
        tensor.shape = self._sizes(first.shape, second.shape)
        tensor.shapeSignature = None
        constants = [self.model.buffers[t.buffer].data for t in (first, second)]
        if all(constant is None for constant in constants):
            return tensor
        dtype = {schema.TensorType.INT32: np.int32}.get(first.type, np.uint8)
        values, others = (np.asarray(constant).view(dtype) for constant in constants)
        if values.size != others.size:
            values = self._beginning(first, second, values, others, tensor.shape)
        elif dtype is np.int32:
            values = self._sizes(values, others)
        else:
            self._same(values.tobytes(), others.tobytes())
            return tensor
        buffer = schema.BufferT()
        buffer.data = values.view(np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        return tensor

    def _beginning(self, first: Any, second: Any, values: Any, others: Any, shape: Any) -> Any:
        """The narrower constant, where one of the two is the beginning of the other, as in 0, 1, 2, ..."""
        width = values.size // max(1, int(np.prod(first.shape)))  # bytes an element, or 1 for int32
        values, others = (v.reshape(*t.shape, width) for v, t in ((values, first), (others, second)))
        self._same(others[tuple(map(slice, values.shape))].tobytes(), values.tobytes())
        return np.ascontiguousarray(values[tuple(map(slice, shape))]).reshape(-1)

    def _sizes(self, first: Any, second: Any) -> Any:
        self._same(first.shape, second.shape)
        sizes = first + (second.astype(np.int64) - first) * self.factor
        whole = np.rint(sizes).astype(np.int32)
        self._same(sizes.tolist(), whole.tolist())
        return whole

    def _each(self, combine: Any, first: list[Any], second: list[Any]) -> list[Any]:
        self._same(len(first), len(second))
        return [combine(a, b) for a, b in zip(first, second, strict=True)]

    def _same(self, first: Any, second: Any) -> None:
        if first != second:
            raise EdgeMtpError(
                f"this target's verify graphs differ in more than sizes ({first!r}, {second!r}): export with --lean"
            )


def _signature(model: Any, name: str) -> Any:
    return next(s for s in model.signatureDefs if s.signatureKey.decode() == name)
