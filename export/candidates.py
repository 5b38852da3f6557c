"""The op `edge_mtp.candidates` as a graph piece; docs/candidates-op.md is its contract.

A drafter with ordered embeddings compares its hidden state with centroids first, and then with the tokens of the
nearest ones only. Its head is stored in the order of the centroids, so that these tokens are whole blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_mtp.export.ops import CANDIDATES, composite
from edge_mtp.export.placeholders import gather, lookup

MOST_WIDTH = 8192  # of the state: the kernel rearranges it on its stack


def candidates(state: Tensor, nearest: Tensor, head: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of all tokens of some centroids.

    Args:
        state: float32 [1,1,H].
        nearest: int32 [n], centroids.
        head: [C*M,H], a weight: the rows of centroid c are c*M .. c*M + M - 1.
        tokens: int32 [C,M], a weight: the token of each row.

    Returns:
        logits float32 [1,n*M] and their tokens int32 [1,n*M], centroid by centroid.

    Raises:
        ValueError: the op does not accept a shape or type.
    """
    rows, width = head.shape
    if state.dtype != torch.float32 or tuple(state.shape) != (1, 1, width) or width > MOST_WIDTH:
        raise ValueError(f"{CANDIDATES}: state must be float32 [1, 1, {width}], not {state.dtype} {list(state.shape)}")
    if nearest.dtype != torch.int32 or nearest.dim() != 1:
        raise ValueError(f"{CANDIDATES}: nearest must be int32 [n], not {nearest.dtype} {list(nearest.shape)}")
    if tokens.dtype != torch.int32 or tokens.dim() != 2 or tokens.numel() != rows:
        raise ValueError(f"{CANDIDATES}: tokens must be int32 of {rows}, not {tokens.dtype} {list(tokens.shape)}")
    op = composite(CANDIDATES)
    logits, ids = op.mark_outputs(*looked_up_candidates(*op.mark_inputs(state, nearest, head, tokens)))
    return logits, ids


def looked_up_candidates(state: Tensor, nearest: Tensor, head: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The decomposition."""
    members = tokens.shape[1]
    rows = nearest.view(-1, 1) * members + torch.arange(members, dtype=torch.int32).view(1, -1)
    logits = state.view(1, -1) @ lookup(rows.view(-1), head).T
    return logits, gather(nearest, tokens).view(1, -1)
