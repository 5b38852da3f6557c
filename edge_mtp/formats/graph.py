"""The operators and stored constants of one signature's graph. Contents of constants are never read.

Slots and enumerations: TensorFlow Lite `schema.fbs`, schema version 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edge_mtp.formats.tflite import DTYPES, named_op, op_name, picked
from edge_mtp.formats.wire import MalformedError, Table

# schema.fbs, enum BuiltinOperator; an operator that is not builtin has its name instead.
ADD, FULLY_CONNECTED, EMBEDDING_LOOKUP, GATHER, TOPK, BATCH_MATMUL = 0, 9, 7, 36, 48, 126
DYNAMIC_UPDATE_SLICE = 151

# By the names in `tflite.DTYPES`.
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "i32": 32, "i64": 64, "i16": 16, "i8": 8, "u8": 8, "i4": 4, "u4": 4, "i2": 2}
_BLOCKWISE = 2  # enum QuantizationDetails
_ZERO_POINT_BYTES = 8


@dataclass(frozen=True)
class Operator:
    """`kind`: the number of a builtin operator, or the name of a composite or custom one. Tensors by index; an absent
    optional input is negative."""

    kind: int | str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """A tensor that the file stores. `buffer` is its index in the model, where graphs share it; `bytes` counts its
    scales too. `encoding` is named as recipes name it: `fp32`, `int8` (a scale a row), `int4b32` (one a block)."""

    buffer: int
    shape: tuple[int, ...]
    encoding: str
    bytes: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1


class Buffers:
    """How many bytes each of a model's buffers stores."""

    def __init__(self, root: Table) -> None:
        self._tables = root.tables(4)
        self._sizes: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        """Raises MalformedError for an index that the model lacks."""
        if index not in self._sizes:
            table = picked(self._tables, index, "buffer")
            # Those beyond 2 GB lie behind the flatbuffer.
            self._sizes[index] = table.scalar(2, "Q") if table.scalar(1, "Q") > 1 else table.length(0, 1)
        return self._sizes[index]

    def total(self) -> int:
        return sum(self[index] for index in range(len(self._tables)))


class Graph:
    """One signature of a model: `inputs` and `outputs` name its tensors by index.

    Raises MalformedError, here and from every method, for a damaged model.
    """

    def __init__(self, root: Table, signature: Table, buffers: Buffers) -> None:
        self._tensors = picked(root.tables(2), signature.scalar(4, "I"), "subgraph")
        self._root, self._buffers = root, buffers
        self.name = signature.string(2)
        self.inputs = {entry.scalar(1, "I"): entry.string(0) for entry in signature.tables(0)}
        self.outputs = {entry.scalar(1, "I"): entry.string(0) for entry in signature.tables(1)}
        self._constants: dict[int, Constant | None] = {}

    @cached_property
    def operators(self) -> Sequence[Operator]:
        """In order of execution."""
        names = [op_name(code) for code in self._root.tables(1)]
        return [Operator(named_op(op, names), op.scalars(1, "i"), op.scalars(2, "i")) for op in self._tensors.tables(3)]

    def shape(self, tensor: int) -> tuple[int, ...]:
        found: tuple[int, ...] = picked(self._tensors.tables(0), tensor, "tensor").scalars(0, "i")
        return found

    def constant(self, tensor: int) -> Constant | None:
        """What is stored of a tensor; None for one that is computed or given."""
        if tensor < 0 or tensor in self.inputs:
            return None
        if tensor not in self._constants:
            self._constants[tensor] = self._constant(picked(self._tensors.tables(0), tensor, "tensor"))
        return self._constants[tensor]

    def _constant(self, table: Table) -> Constant | None:
        buffer = table.scalar(2, "I")
        size = self._buffers[buffer]
        if not size:
            return None
        dtype = picked(DTYPES, table.scalar(1, "b"), "tensor type")
        encoding, scales = self._encoding(dtype, table.table(4))
        return Constant(buffer, table.scalars(0, "i"), encoding, size + scales)

    def _encoding(self, dtype: str, quantization: Table | None) -> tuple[str, int]:
        """The encoding's name, and the bytes of scales that are stored elsewhere."""
        if dtype in ("f32", "f16"):
            return f"fp{dtype[1:]}", 0
        if quantization is None or dtype not in ("i8", "i4", "i2"):
            return dtype, 0
        name = f"int{dtype[1:]}"
        details = quantization.table(5) if quantization.scalar(4, "B") == _BLOCKWISE else None
        if details is not None:
            held = picked(self._tensors.tables(0), details.scalar(0, "i"), "tensor")
            return f"{name}b{details.scalar(2, 'i')}", self._buffers[held.scalar(2, "I")]
        scales, zero_points = quantization.length(2, 4), quantization.length(3, _ZERO_POINT_BYTES)
        return (name if scales else dtype), 4 * scales + _ZERO_POINT_BYTES * zero_points


def bytes_of(dtype: str, shape: Sequence[int]) -> int:
    """The bytes of a tensor in memory; 0 for a type of no fixed size."""
    return math.prod(shape) * _BITS.get(dtype, 0) // 8


def graphs_of(data: memoryview) -> tuple[Mapping[str, Graph], Buffers]:
    """The graphs of the TFLite model in `data` by signature, and its buffers.

    Raises MalformedError: `data` is not a TFLite model, or is damaged.
    """
    if bytes(data[4:8]) != b"TFL3":
        raise MalformedError("no TFL3 identifier")
    root = Table.root(data)
    buffers = Buffers(root)
    return {graph.name: graph for graph in (Graph(root, each, buffers) for each in root.tables(7))}, buffers
