"""The op `edge_mtp.attention` as a graph piece; docs/attention-op.md is its contract.

A row attends to a span of a cache. The kernel reads that span and nothing else. The decomposition cuts a window out of
the cache that holds all spans, or takes the whole of it, and hides the rest under a mask.
"""

from __future__ import annotations

import torch
from litert_torch.generative.custom_ops.bmm_4d import bmm_4d
from torch import Tensor

from edge_mtp.export.ops import ATTENTION, composite
from edge_mtp.export.window import window

DIM_STEP = 8  # the kernel takes heads of a multiple of this size

# Added to an attention logit to mask it: its exp() is 0 in float32, and its sums stay finite in float16.
HIDDEN = -1e4

# Windows are cut for at least this many rows, so that graphs of fewer rows differ only in their rows.
MANY_ROWS = 16

# Windows begin at multiples of this. A softmax accumulates several partial sums, and a key's place in the window
# decides which one it goes to: if windows began anywhere, a verify would round a row differently from a plain step.
# XNNPACK's kernels take 64 keys at once with AVX-512, 32 with AVX2 and 16 on ARM. HVX, which takes 128, and RISC-V are
# not supported (src/configs/raddstoreexpminusmax-config.c).
WINDOW_STEP = 64

# Sequence axes of the caches K [1,h,C,D] and V [1,h,D,C].
K_AXIS, V_AXIS = 2, 3


def attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, span: int | None) -> Tensor:
    """Softmax of the scores of the positions that a row sees, times their values.

    Args:
        query: float32 [1,h,G*T,D]: for each KV head the rows of its G query heads, side by side. D is a multiple of
            `DIM_STEP`.
        keys: float32 or int8 [1,h,C,D]. Integers are read as the numbers that they are, without a scale.
        values: the same type, [1,h,D,C].
        seen: int32 [T,2]: a row of token t sees the positions seen[t,0] .. seen[t,1] - 1. Tokens follow one another, so
            neither bound falls from one to the next, nor rises by more than 1. Must be computed, not a constant.
        span: the most positions that a row sees; None for any number. Only the decomposition needs to know.

    Returns:
        float32 [1,h,G*T,D].

    Raises:
        ValueError: the op does not accept a shape or type.
    """
    _, heads, rows, dim = query.shape
    tokens, context = seen.shape[0], keys.shape[K_AXIS]
    if dim % DIM_STEP or rows % tokens:
        raise ValueError(f"{ATTENTION}: {rows} rows of {tokens} tokens, heads of {dim}")
    wanted = {"keys": (keys, (1, heads, context, dim)), "values": (values, (1, heads, dim, context))}
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape or tensor.dtype not in (torch.float32, torch.int8):
            raise ValueError(f"{ATTENTION}: {name} must be float32 or int8 {list(shape)}, not {list(tensor.shape)}")
    op = composite(ATTENTION)
    query, keys, values, seen = op.mark_inputs(query, keys, values, seen)
    attended: Tensor = op.mark_outputs(masked_attention(query, keys, values, seen, span))
    return attended


def masked_attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, span: int | None) -> Tensor:
    """The decomposition."""
    tokens, context = seen.shape[0], keys.shape[K_AXIS]
    length = context if span is None else window_length(span - 1, max(tokens, MANY_ROWS), context)
    position = torch.arange(length, dtype=torch.int32)
    if length < context:
        start = torch.clamp(seen[0, 0], 0, context - length) // WINDOW_STEP * WINDOW_STEP
        start = start.to(torch.int32)
        keys, values = window(keys, start, length, K_AXIS), window(values, start, length, V_AXIS)
        position = position + start
    position = position.view(1, -1)
    visible = (position >= seen[:, :1]) & (position < seen[:, 1:])
    mask = torch.where(visible, 0.0, HIDDEN).to(torch.float32).view(1, 1, tokens, length)
    mask = torch.cat([mask] * (query.shape[2] // tokens), dim=2)
    scores = torch.softmax(bmm_4d(query, keys.float()) + mask, dim=-1)
    attended: Tensor = bmm_4d(scores, values.float())
    return attended


def window_length(oldest: int, rows: int, context: int) -> int:
    """The number of cache positions to cut out for `rows` rows: enough for all that their sliding windows can see, when
    the cut begins at a multiple of `WINDOW_STEP`. The last place where the cut can begin is such a multiple, too.
    """
    needed = oldest + rows + WINDOW_STEP - 1
    return context - max(context - needed, 0) // WINDOW_STEP * WINDOW_STEP
