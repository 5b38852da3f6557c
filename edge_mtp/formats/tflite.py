"""The signatures and op names of a TFLite model. Weights are never read.

Slots and enumerations: TensorFlow Lite `schema.fbs`, schema version 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_mtp.formats.wire import MalformedError, Table

# schema.fbs, enum TensorType, in order; short names as in `f32[1,4]`.
DTYPES = [
    "f32", "f16", "i32", "u8", "i64", "string", "bool", "i16", "c64", "i8", "f64", "c128", "u64", "resource",
    "variant", "u32", "u16", "i4", "bf16", "i2", "u4", "f8e4m3", "f8e5m2",
]  # fmt: skip

# schema.fbs, enums BuiltinOperator and BuiltinOptions2.
CUSTOM = 32
STABLEHLO_COMPOSITE = 206
COMPOSITE_OPTIONS = 21

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tensor:
    """Shape (-1: dynamic) and element type of a signature's input or output; str() is `f32[1,4]`."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """A named entry point. `inputs` and `outputs` map names to tensors, in the model's order.

    `custom_ops` are the sorted names of the composites and custom ops that its graph calls.
    """

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    subgraph: int
    custom_ops: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One TFLite section. `subgraph_ops` is the number of ops in each subgraph, decompositions included."""

    signatures: dict[str, Signature]
    subgraph_ops: tuple[int, ...]

    @classmethod
    def read(cls, data: memoryview) -> Model:
        """Read the model at the start of `data`.

        Raises:
            MalformedError: `data` is not a TFLite model, or is damaged.
        """
        if bytes(data[4:8]) != b"TFL3":
            raise MalformedError("no TFL3 identifier")
        root = Table.root(data)
        op_names = [op_name(code) for code in root.tables(1)]
        subgraphs = root.tables(2)
        signatures = [_signature(table, subgraphs, op_names) for table in root.tables(7)]
        return cls(
            {signature.name: signature for signature in signatures},
            tuple(len(subgraph.tables(3)) for subgraph in subgraphs),
        )


def _signature(table: Table, subgraphs: Sequence[Table], op_names: list[str | int]) -> Signature:
    index = table.scalar(4, "I")
    subgraph = picked(subgraphs, index, "subgraph")
    tensors = subgraph.tables(0)

    def named_tensors(slot: int) -> dict[str, Tensor]:
        return {
            entry.string(0): _tensor(picked(tensors, entry.scalar(1, "I"), "tensor")) for entry in table.tables(slot)
        }

    ops = {named_op(op, op_names) for op in subgraph.tables(3)}
    named = tuple(sorted(op for op in ops if isinstance(op, str) and op))
    return Signature(table.string(2), named_tensors(0), named_tensors(1), index, named)


def _tensor(table: Table) -> Tensor:
    # A dynamic dimension is 1 in `shape` and -1 in `shape_signature`, which only dynamic tensors have.
    shape = table.scalars(7, "i") or table.scalars(0, "i")
    return Tensor(shape, picked(DTYPES, table.scalar(1, "b"), "tensor type"))


def op_name(code: Table) -> str | int:
    """The name of a custom op, or the number of a builtin one (which old models store only in the first field)."""
    builtin: int = max(code.scalar(0, "b"), code.scalar(3, "i"))
    return code.string(1) if builtin == CUSTOM else builtin


def named_op(op: Table, op_names: Sequence[str | int]) -> str | int:
    """The name of a composite or custom op, the number of another builtin one."""
    name = picked(op_names, op.scalar(0, "I"), "operator code")
    if name == STABLEHLO_COMPOSITE and op.scalar(11, "B") == COMPOSITE_OPTIONS:
        options = op.table(12)
        return options.string(0) if options else name
    return name


def picked(items: Sequence[Item], index: int, what: str) -> Item:
    """The item at `index`. Raises MalformedError where there is none; `what` names it."""
    if not 0 <= index < len(items):
        raise MalformedError(f"{what} {index} of {len(items)}")
    return items[index]
