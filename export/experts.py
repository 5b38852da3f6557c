"""The op `edge_mtp.experts` as a graph piece; docs/experts-op.md is its contract.

A row chooses some of a layer's experts. The kernel reads their matrices in the file, each once for all rows that chose
it. The decomposition looks the chosen matrices up for each row by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_mtp.export.ops import EXPERTS, composite
from edge_mtp.export.placeholders import linear, lookup


def experts(rows: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """What the chosen experts make of each row, weighted by the shares and summed up.

    Args:
        rows: float32 [T,H].
        chosen: int32 [T,k], experts.
        shares: float32 [T,k].
        gate_up: [E*2*I,H], a weight: for each expert the I rows of its gate, and then those of `up`.
        down: [E*H,I], a weight: for each expert H rows.

    Returns:
        float32 [T,H]: the sum of share * down(gelu(gate(row)) * up(row)).

    Raises:
        ValueError: the op does not accept a shape or type.
    """
    count, hidden = rows.shape
    choices, inner = chosen.shape[1], down.shape[1]
    if rows.dtype != torch.float32 or shares.dtype != torch.float32 or chosen.dtype != torch.int32:
        raise ValueError(f"{EXPERTS}: rows {rows.dtype}, shares {shares.dtype}, chosen {chosen.dtype}")
    if tuple(chosen.shape) != (count, choices) or chosen.shape != shares.shape:
        raise ValueError(f"{EXPERTS}: {count} rows with {list(chosen.shape)} choices and {list(shares.shape)} shares")
    if gate_up.shape[1] != hidden or down.shape[0] % hidden or gate_up.shape[0] * hidden != down.shape[0] * 2 * inner:
        raise ValueError(f"{EXPERTS}: weights {list(gate_up.shape)} and {list(down.shape)} for rows of {hidden}")
    op = composite(EXPERTS)
    mixed: Tensor = op.mark_outputs(looked_up_experts(*op.mark_inputs(rows, chosen, shares, gate_up, down)))
    return mixed


def looked_up_experts(rows: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The decomposition."""
    answers = [_looked_up(rows[at], chosen[at], shares[at], gate_up, down) for at in range(len(rows))]
    return torch.stack(answers)


def _looked_up(row: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One row's experts: row [H], chosen i32 [k], shares [k] -> [H]."""
    hidden, inner, choices = len(row), down.shape[1], len(chosen)

    def matrix(weight: Tensor, experts: Tensor, count: int) -> Tensor:
        ids = experts.view(-1, 1) * count + torch.arange(count, dtype=torch.int32).view(1, -1)
        looked_up: Tensor = lookup(ids.view(-1), weight)
        return looked_up

    gate, up = linear(row.view(1, -1), matrix(gate_up, chosen, 2 * inner)).view(choices, 2, inner).unbind(1)
    states = (torch.nn.functional.gelu(gate, approximate="tanh") * up).chunk(choices)
    answers = [
        linear(state, matrix(down, expert, hidden)) for state, expert in zip(states, chosen.chunk(choices), strict=True)
    ]
    answer: Tensor = shares.view(1, -1) @ torch.cat(answers)
    return answer.view(-1)
