"""Weights in bf16 that lie on a lattice: in each block of 32 neighbours, every weight is a step times -8 to 7.

So are Google's `qat-q4_0-unquantized` checkpoints. To round them anew with a scale from each block's largest weight
moves nearly every weight (https://github.com/ggml-org/llama.cpp/pull/24603); to find the step loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import ENCODINGS, SMALLEST_BLOCK_SCALE, Encoded, Encoding, pack
from edge_mtp.export.weights import Rows, Weights

BLOCK = 32
LATTICE = ENCODINGS[f"int4b{BLOCK}"]
_LOWEST, _HIGHEST = -8, 7
_SAMPLED = 64  # rows of a matrix that tell whether it lies on a lattice
_CHUNK = 1 << 17  # weights at a time


@dataclass(frozen=True)
class Blocks:
    """Blocks of 32 neighbours in rows [n,k] that bf16 holds.

    `integers` int8 [n,k], `steps` float16 [n, k / 32]. `fits` bool [n, k / 32]: there is a step whose multiples,
    rounded to bf16, are the block's weights. `exact`: float16 holds such a step; else the nearest float16 stands in
    `steps`, and some of the block's weights are a bf16 rounding apart.
    """

    integers: npt.NDArray[np.int8]
    steps: npt.NDArray[np.float16]
    fits: npt.NDArray[np.bool_]
    exact: npt.NDArray[np.bool_]


def on_lattice(rows: Rows) -> Blocks:
    """The lattice of `rows`, float32 [n,k], k a multiple of 32.

    Of the steps that fit, the largest is taken, and of its values one that bf16 holds, where there is one: XNNPACK
    keeps the scales of blocks in that type.
    """
    blocks = np.ascontiguousarray(rows, np.float32).reshape(-1, BLOCK)
    size = np.abs(blocks)
    largest = size.max(axis=1)
    # Half of the distance to bf16's next numbers, of 8 bits of significand; below a power of two they lie closer.
    significand, exponent = np.frexp(np.where(size > 0, size, 1))
    above = np.ldexp(np.float32(1), exponent - 9).astype(np.float32)
    below = np.where(significand == 0.5, above / 2, above)
    steps = np.full(len(blocks), SMALLEST_BLOCK_SCALE, np.float32)
    integers = np.zeros(blocks.shape, np.int8)
    fits = largest == 0
    exact = fits.copy()
    for level in range(1, -_LOWEST + 1):
        here = np.flatnonzero(~fits)
        if not len(here):
            break
        weights = blocks[here]
        levels = np.rint(weights / (largest[here, None] / np.float32(level)))
        used = np.abs(levels)
        with np.errstate(divide="ignore", invalid="ignore"):
            low = np.where(used > 0, (size[here] - below[here]) / used, 0).max(axis=1)
            high = np.where(used > 0, (size[here] + above[here]) / used, np.inf).min(axis=1)
        middle = ((low + high) / 2).astype(np.float32)
        inside = ((levels >= _LOWEST) & (levels <= _HIGHEST)).all(axis=1)
        chosen = np.flatnonzero(inside & _gives(middle, levels, weights))
        found, middle, levels, weights = here[chosen], middle[chosen], levels[chosen], weights[chosen]
        fits[found] = True
        integers[found] = levels.astype(np.int8)
        steps[found] = middle.astype(np.float16)
        for step in _candidates(middle):
            equal = ~exact[found] & _gives(step, levels, weights)
            steps[found[equal]] = step[equal]
            exact[found[equal]] = True
    shape = (rows.shape[0], rows.shape[1] // BLOCK)
    stored = np.maximum(steps, SMALLEST_BLOCK_SCALE).astype(np.float16)
    return Blocks(integers.reshape(rows.shape), stored.reshape(shape), fits.reshape(shape), exact.reshape(shape))


def _candidates(middle: Rows) -> Iterator[Rows]:
    """Steps near those that bf16 holds, then that float16 holds; float32 [n]."""
    yield middle.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float32)
    half = middle.astype(np.float16)
    yield half.astype(np.float32)
    for towards in (np.float16(np.inf), np.float16(0)):
        yield np.nextafter(half, towards).astype(np.float32)


def _gives(steps: Rows, levels: Rows, weights: Rows) -> npt.NDArray[np.bool_]:
    """Where steps [n] times levels [n,32] are the weights [n,32], in bf16."""
    with np.errstate(invalid="ignore"):
        products = (steps[:, None] * levels).astype(ml_dtypes.bfloat16).astype(np.float32)
    equal: npt.NDArray[np.bool_] = (products == weights).all(axis=1)
    return equal


class LatticeWeights(Weights):
    """`base`, in whose `found` matrices every block that was looked at lies on a lattice."""

    def __init__(self, base: Weights, found: Mapping[str, Encoding]) -> None:
        self.base = base
        self.names, self.left_out = base.names, base.left_out
        self.ranges, self.cache_scales, self.notes = base.ranges, base.cache_scales, base.notes
        self.nearly, self.foreign = base.nearly, base.foreign
        self.encodings = {**base.encodings, **found}
        self.found = found

    def _read(self, name: str, start: int, stop: int) -> Rows:
        return self.base.read(name, start, stop)

    def _encoded(self, name: str, start: int, stop: int) -> Encoded:
        """Raises EdgeMtpError, with the row, where a block lies on no lattice after all."""
        if name not in self.found:
            return self.base.encoded(name, start, stop)
        rows = self.base.read(name, start, stop)
        step = max(1, _CHUNK // rows.shape[1])
        data, scales = [], []
        for at in range(0, len(rows), step):
            blocks = on_lattice(rows[at : at + step])
            if not blocks.fits.all():
                row = start + at + int(np.argmin(blocks.fits.all(axis=1)))
                raise EdgeMtpError(
                    f"{self}: {name} lies on a lattice of steps in some rows and not in row {row}: give it an encoding"
                    " of its own in a recipe file, under [overrides]"
                )
            data.append(pack(blocks.integers.view(np.uint8), LATTICE.bits).reshape(-1))
            scales.append(blocks.steps)
        return Encoded(np.concatenate(data), np.concatenate(scales))

    def __str__(self) -> str:
        return str(self.base)


def with_lattice(weights: Weights) -> Weights:
    """`weights`, with the encoding of each matrix whose rows lie on a lattice; of each, some rows are looked at."""
    found = {
        name: LATTICE
        for name, shape in weights.names.items()
        if len(shape) == 2
        and shape[1] % BLOCK == 0
        and name not in {**weights.encodings, **weights.foreign}
        and _is_on_lattice(weights, name)
    }
    return LatticeWeights(weights, found) if found else weights


def _is_on_lattice(weights: Weights, name: str) -> bool:
    """Blocks of few values, such as zeros, say nothing: half of the blocks must have six levels or more."""
    count = weights.names[name][0]
    places = sorted({int(place) for place in np.linspace(0, count - 1, _SAMPLED)})
    telling = blocks = 0
    for place in places:
        rows = weights.read(name, place, place + 1)
        if not np.array_equal(rows.astype(ml_dtypes.bfloat16).astype(np.float32), rows):
            return False
        found = on_lattice(rows)
        if not found.fits.all():
            return False
        sorted_ = np.sort(found.integers.reshape(-1, BLOCK), axis=1)
        telling += int((1 + (np.diff(sorted_, axis=1) != 0).sum(axis=1) >= 6).sum())
        blocks += len(sorted_)
    return telling * 2 >= blocks
