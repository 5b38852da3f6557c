"""Operators that stand for the use of a weight while a graph is traced; `assemble` replaces them by builtin operators.

Traced graphs take weights as inputs, and the converter must not fold, transpose or fuse them. So each use of a weight
becomes a CUSTOM operator, opaque to the converter. The builtin operator that replaces it, and the weight's encoding,
are chosen when the weight is bound.
"""

from __future__ import annotations

from typing import Any

import torch
from litert_converter.mlir import ir
from litert_converter.mlir.dialects import stablehlo
from litert_torch.backend import lowerings
from torch import Tensor

LINEAR = "edge_mtp.linear"
LOOKUP = "edge_mtp.lookup"
GATHER = "edge_mtp.gather"
QUANTIZE = "edge_mtp.quantize"
DEQUANTIZE = "edge_mtp.dequantize"
SCALED = "edge_mtp.scaled"


@torch.library.custom_op("edge_mtp::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """f32 [..., K] by `weight` [N, K] -> f32 [..., N]; becomes FULLY_CONNECTED."""
    return x @ weight.T


@linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("edge_mtp::lookup", mutates_args=())
def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """Rows i32 [n] of `table` [V, K] -> f32 [n, K]; becomes EMBEDDING_LOOKUP."""
    return table[ids.long()]


@lookup.register_fake
def _(ids: Tensor, table: Tensor) -> Tensor:
    return table.new_empty((*ids.shape, table.shape[1]))


@torch.library.custom_op("edge_mtp::gather", mutates_args=())
def gather(ids: Tensor, values: Tensor) -> Tensor:
    """Entries i32 [n] of `values` [V, ...], which are never encoded -> [n, ...] of their type; becomes GATHER."""
    return values[ids.long()]


@gather.register_fake
def _(ids: Tensor, values: Tensor) -> Tensor:
    return values.new_empty((*ids.shape, *values.shape[1:]))


@torch.library.custom_op("edge_mtp::quantize", mutates_args=())
def quantize(x: Tensor, name: str) -> Tensor:
    """f32 -> int8 of the same shape with the scale called `name`; becomes QUANTIZE."""
    return x.to(torch.int8)


@quantize.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


@torch.library.custom_op("edge_mtp::dequantize", mutates_args=())
def dequantize(x: Tensor, name: str) -> Tensor:
    """int8 -> f32 of the same shape with the scale called `name`; becomes DEQUANTIZE."""
    return x.float()


@dequantize.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.custom_op("edge_mtp::scaled", mutates_args=())
def scaled(x: Tensor, cache: Tensor, name: str) -> Tensor:
    """f32, times the scale of the int8 `cache`, which is called `name`; becomes MUL by a constant."""
    return x.clone()


@scaled.register_fake
def _(x: Tensor, cache: Tensor, name: str) -> Tensor:
    return x.new_empty(x.shape)


def _custom(code: str, operands: list[Any], shape: list[int], element_type: Any, note: str = "") -> Any:
    """A TFLite CUSTOM operator, in the form that the converter unpacks, with `note` as its custom options."""
    attributes = f'{{custom_code = "{code}", custom_option = #tfl<const_bytes : "0x{note.encode().hex().upper()}">}}'
    return stablehlo.custom_call(
        [ir.RankedTensorType.get(shape, element_type)],
        operands,
        call_target_name="tfl.custom",
        backend_config=ir.StringAttr.get(attributes),
        has_side_effect=False,
    )


@lowerings.lower(torch.ops.edge_mtp.linear)  # type: ignore[untyped-decorator]
def _(context: Any, x: Any, weight: Any) -> Any:
    return _custom(LINEAR, [x, weight], [*x.type.shape[:-1], weight.type.shape[0]], x.type.element_type)


@lowerings.lower(torch.ops.edge_mtp.lookup)  # type: ignore[untyped-decorator]
def _(context: Any, ids: Any, table: Any) -> Any:
    return _custom(LOOKUP, [ids, table], [*ids.type.shape, table.type.shape[1]], table.type.element_type)


@lowerings.lower(torch.ops.edge_mtp.gather)  # type: ignore[untyped-decorator]
def _(context: Any, ids: Any, values: Any) -> Any:
    return _custom(GATHER, [values, ids], [*ids.type.shape, *values.type.shape[1:]], values.type.element_type)


@lowerings.lower(torch.ops.edge_mtp.quantize)  # type: ignore[untyped-decorator]
def _(context: Any, x: Any, name: str) -> Any:
    return _custom(QUANTIZE, [x], list(x.type.shape), ir.IntegerType.get_signless(8), name)


@lowerings.lower(torch.ops.edge_mtp.dequantize)  # type: ignore[untyped-decorator]
def _(context: Any, x: Any, name: str) -> Any:
    return _custom(DEQUANTIZE, [x], list(x.type.shape), ir.F32Type.get(), name)


@lowerings.lower(torch.ops.edge_mtp.scaled)  # type: ignore[untyped-decorator]
def _(context: Any, x: Any, cache: Any, name: str) -> Any:
    return _custom(SCALED, [x, cache], list(x.type.shape), ir.F32Type.get(), name)
