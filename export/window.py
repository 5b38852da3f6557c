"""Cuts out the part of a KV cache that a sliding-window layer can see.

A sliding layer attends to W positions of a cache of C. Reading only those makes the cost of attention independent of
C. The slice starts where the oldest row's window does, which is known only at run time, and torch has no exportable
operator for that; this one lowers to StableHLO's dynamic_slice. GPU delegates do not support it: graphs for them attend
to the whole cache under a mask, with the same result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from litert_converter.mlir import ir
from litert_converter.mlir.dialects import stablehlo
from litert_torch.backend import lowerings
from torch import Tensor


@torch.library.custom_op("edge_mtp::window", mutates_args=())
def window(cache: Tensor, start: Tensor, length: int, axis: int) -> Tensor:
    """`length` entries of `cache` along `axis` from `start` (int32, no dimensions; the caller keeps it in range)."""
    return cache.narrow(axis, int(start), length).clone()


@window.register_fake
def _(cache: Tensor, start: Tensor, length: int, axis: int) -> Tensor:
    shape = list(cache.shape)
    shape[axis] = length
    return cache.new_empty(shape)


@lowerings.lower(torch.ops.edge_mtp.window)  # type: ignore[untyped-decorator]
def _(context: Any, cache: Any, start: Any, length: int, axis: int) -> Any:
    sizes = list(ir.RankedTensorType(cache.type).shape)
    zero = stablehlo.constant(ir.DenseElementsAttr.get(np.asarray(0, np.int32)))
    starts = [start if dimension == axis else zero for dimension in range(len(sizes))]
    sizes[axis] = length
    return stablehlo.dynamic_slice(cache, starts, ir.DenseI64ArrayAttr.get(sizes))
