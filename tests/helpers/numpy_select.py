"""The contract of docs/verify-op.md a second time, in numpy: written to be read, and to check the others against."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

SAMPLE, MASK = 1, 2
NAN, EMPTY, PARAMETER = -1, -2, -4


class Selection(NamedTuple):
    """A token or an error, its probability, and how near the choice was to another one.

    margin: the smallest relative distance of a compared sum or weight from its bound. exp may differ in its last bit
    between two libraries, so only a choice with a margin around 1e-15 may differ.
    """

    token: int
    probability: float
    margin: float


class Verified(NamedTuple):
    n_accepted: int
    tokens: list[int]
    margin: float


def philox4x32(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011)."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, c = (second >> 32) ^ b ^ k0, (first >> 32) ^ d ^ k1
        b, d = second & 0xFFFFFFFF, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def uniform(control: Ints, position: int) -> float:
    key = (int(control[2]) & 0xFFFFFFFF, int(control[3]) & 0xFFFFFFFF)
    x0, x1, _, _ = philox4x32((position & 0xFFFFFFFF, 0, 0, 0), key)
    return ((x0 >> 5) * 2**26 + (x1 >> 6)) / 2**53


def parameters_are_valid(control: Ints, scalars: Floats) -> bool:
    if int(control[0]) & ~(SAMPLE | MASK) or control[5:].any() or scalars[3] != 0:
        return False
    temperature, top_p, min_p = (float(x) for x in scalars[:3])
    sampling = math.isfinite(temperature) and temperature > 0 and 0 < top_p <= 1 and 0 <= min_p < 1
    return not int(control[0]) & SAMPLE or (sampling and int(control[1]) >= 0)


def allowed_ids(mask: Ints | None, vocab: int) -> NDArray[np.intp]:
    if mask is None:
        return np.arange(vocab)
    bits = np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits[:vocab])


def select_among(logits: Floats, ids: NDArray[np.intp], control: Ints, scalars: Floats, position: int) -> Selection:
    """logits[i] is the logit of token ids[i]; ids ascend; the parameters are valid."""
    if np.isnan(logits).any():
        return Selection(NAN, 0.0, math.inf)
    if len(logits) == 0 or logits.max() == -np.inf:
        return Selection(EMPTY, 0.0, math.inf)
    sampled = bool(control[0] & SAMPLE)
    temperature = float(scalars[0]) if sampled else 1.0
    maximum = logits.max()
    with np.errstate(invalid="ignore", over="ignore"):
        z = (logits.astype(np.float64) - np.float64(maximum)) / temperature
    z[logits == maximum] = 0.0
    weights = np.where(z < -40.0, 0.0, np.exp(z))
    if not sampled:
        best = int(np.argmax(logits))
        return Selection(int(ids[best]), float(weights[best] / weights.sum()), math.inf)

    margin = math.inf
    order = np.lexsort((ids, -logits.astype(np.float64)))
    keep = np.ones(len(ids), bool)
    if control[1] > 0:
        keep[order[int(control[1]) :]] = False
    top_p, min_p = float(scalars[1]), float(scalars[2])
    if top_p < 1:
        # cumsum, unlike sum, adds one after the other.
        goal = top_p * np.cumsum(weights[keep])[-1]
        ranked = order[keep[order]]
        reached = np.cumsum(weights[ranked])
        margin = min(margin, float(np.abs(reached / goal - 1).min()))
        keep[ranked[int(np.argmax(reached >= goal)) + 1 :]] = False
    if min_p > 0:
        bound = min_p * weights[keep].max()
        margin = min(margin, float(np.abs(weights[keep] / bound - 1).min()))
        keep &= weights >= bound
    keep &= weights > 0
    running = np.cumsum(weights[keep])
    goal = uniform(control, position) * running[-1]
    margin = min(margin, float(np.abs(running - goal).min() / running[-1]))
    drawn = int(np.argmax(running > goal)) if running[-1] > goal else len(running) - 1
    kept = np.flatnonzero(keep)
    return Selection(int(ids[kept[drawn]]), float(weights[kept[drawn]] / running[-1]), margin)


def select(logits: Floats, control: Ints, scalars: Floats, mask: Ints | None, position: int) -> Selection:
    """One row: logits [V], mask [ceil(V / 32)]."""
    if not parameters_are_valid(control, scalars):
        return Selection(PARAMETER, 0.0, math.inf)
    ids = allowed_ids(mask if control[0] & MASK else None, len(logits))
    return select_among(logits[ids], ids, control, scalars, position)


def verify(logits: Floats, draft: Ints, control: Ints, scalars: Floats, token_mask: Ints | None) -> Verified:
    """edge_mtp.verify: logits [T, V], draft [T - 1], token_mask [T, ceil(V / 32)]."""
    rows = len(logits)
    tokens, margin = [-1] * rows, math.inf
    for row in range(rows):
        mask = None if token_mask is None else token_mask[row]
        chosen = select(logits[row], control, scalars, mask, int(control[4]) + row)
        margin = min(margin, chosen.margin)
        if chosen.token < 0:
            return Verified(chosen.token, tokens, margin)
        tokens[row] = chosen.token
        if row == rows - 1 or chosen.token != draft[row]:
            return Verified(row, tokens, margin)
    raise AssertionError("the last row always returns")


def draft(logits: Floats, ids: Ints, control: Ints, scalars: Floats, offset: int) -> Selection:
    """edge_mtp.draft: logits [N] of the candidates ids [N]; token -1 and probability 0 on failure."""
    if not parameters_are_valid(control, scalars):
        return Selection(-1, 0.0, math.inf)
    order = np.argsort(ids)
    chosen = select_among(logits[order], ids[order].astype(np.intp), control, scalars, int(control[4]) + offset)
    return chosen if chosen.token >= 0 else Selection(-1, 0.0, math.inf)
