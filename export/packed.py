"""Weights that a checkpoint stores as integers with scales, as a bundle holds them: the same integers, the same scales.

A bundle has integers of 2, 4 and 8 bits with a scale a row (float32), and of 4 bits with a scale for each block of 32,
64, 128 or 256 neighbours (float16). Two things that a checkpoint may have are brought to that without loss: 2 bits in
groups become 4, and a larger group becomes blocks with the same scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import (
    ENCODINGS,
    SMALLEST_BLOCK_SCALE,
    SMALLEST_SCALE,
    Encoded,
    Encoding,
    decode,
    pack,
    unpack,
)
from edge_mtp.export.weights import Entry, FindPacked, Packed, Rows, expert_matrices, groups

CURE = "give the checkpoint before quantization, in bf16, fp16 or fp32"
BITS = (2, 4, 8)
_BLOCKS = (256, 128, 64, 32)
# From integers that count from the smallest on to two's complement: the highest bit of each turns over.
_FLIPS = {2: 0xAA, 4: 0x88, 8: 0x80}
_ROWS = 1 << 22  # weights at a time, of two matrices that should be equal

Bytes = npt.NDArray[np.uint8]
ReadBytes = Callable[[int, int], Bytes]
ReadScales = Callable[[int, int], Rows]


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix of `shape` [n,k] that the file at `path` stores as integers with scales, in the tensors `parts`.

    `integers` gives rows [start:stop] as a bundle packs them, uint8 [rows, k bits / 8] in two's complement; `scales`
    gives theirs, float32 [rows, 1 or blocks]. `stored` says what the checkpoint has: see `grid`.
    """

    name: str
    path: Path
    shape: tuple[int, int]
    encoding: Encoding
    stored: str
    integers: ReadBytes
    scales: ReadScales
    parts: tuple[str, ...]

    def encoded(self, start: int, stop: int) -> Encoded:
        """Rows [start:stop] as a bundle stores them. A scale of 0 becomes the smallest there is, over zeros."""
        data, scales = self.integers(start, stop), self._checked(start, stop)
        if not scales.all():
            blocks = np.repeat(scales != 0, data.shape[1] // scales.shape[1], axis=1)
            data = np.where(blocks, data, np.uint8(0))
            scales = np.where(scales == 0, SMALLEST_SCALE, scales)
        if self.encoding.block:
            stored = np.maximum(scales.astype(np.float16), np.float16(SMALLEST_BLOCK_SCALE))
            return Encoded(np.ascontiguousarray(data).reshape(-1), stored)
        return Encoded(np.ascontiguousarray(data).reshape(-1), scales.reshape(-1))

    def rows(self, start: int, stop: int) -> Rows:
        """Rows [start:stop] by the checkpoint's formula: integer times scale, float32 [rows,k]."""
        if start == stop:
            return np.zeros((0, self.shape[1]), np.float32)
        data, scales = self.integers(start, stop), self._checked(start, stop)
        return decode(Encoded(data.reshape(-1), scales), self.encoding, self.shape[1])

    def equals(self, other: object) -> bool:
        """Whether both are the same integers with the same scales."""
        if not isinstance(other, PackedMatrix) or (self.encoding, self.shape) != (other.encoding, other.shape):
            return False
        step = max(1, _ROWS // max(1, self.shape[1]))
        spans = [(at, min(at + step, self.shape[0])) for at in range(0, self.shape[0], step)]
        return all(
            np.array_equal(self.scales(*span), other.scales(*span))
            and np.array_equal(self.integers(*span), other.integers(*span))
            for span in spans
        )

    def _checked(self, start: int, stop: int) -> Rows:
        scales = self.scales(start, stop)
        largest = np.finfo(np.float16 if self.encoding.block else np.float32).max
        if not ((scales >= 0) & (scales <= largest)).all():
            raise EdgeMtpError(
                f"{self.path}: {self.name} has a scale that is negative, no number or more than {largest:g}, which no"
                f" LiteRT kernel takes: {CURE}"
            )
        return scales


def grid(bits: int, group: int | None) -> str:
    """What is said of a matrix: its bits a weight, and how many neighbours share a scale (None: a row)."""
    return f"{bits} bits a row" if group is None else f"{bits} bits in groups of {group}"


def matrix(
    name: str,
    path: Path,
    shape: tuple[int, int],
    bits: int,
    count: int,
    integers: ReadBytes,
    scales: ReadScales,
    parts: Sequence[str],
    stored_bits: int | None = None,
) -> PackedMatrix:
    """The matrix `name` as a bundle holds it, from readers of what the checkpoint has.

    `integers` gives rows of `bits` (2, 4 or 8) as `PackedMatrix` has them, `scales` gives `count` of them a row.
    The checkpoint has `stored_bits` a weight where that is fewer.

    Raises:
        EdgeMtpError: no encoding holds these integers and scales.
    """
    width = shape[1]
    if count < 1 or width % count:
        raise EdgeMtpError(f"{path}: {name} has {count} scales for rows of {width} weights: copy it again")
    group = None if count == 1 else width // count
    stored = grid(stored_bits or bits, group)
    if width % (8 // bits):
        raise EdgeMtpError(f"{path}: {name} has rows of {width} weights in {bits} bits, no whole bytes: {CURE}")
    if group is None:
        return PackedMatrix(name, path, shape, ENCODINGS[f"int{bits}"], stored, integers, scales, tuple(parts))
    block = next((each for each in _BLOCKS if group % each == 0), None)
    if block is None or bits > 4:
        raise EdgeMtpError(f"{path}: {name} has {stored}, which LiteRT does not execute: {CURE}")

    def widened(start: int, stop: int) -> Bytes:
        return pack(unpack(integers(start, stop), bits).view(np.uint8), 4)

    def repeated(start: int, stop: int) -> Rows:
        return np.repeat(scales(start, stop), group // block, axis=1)

    encoding = ENCODINGS[f"int4b{block}"]
    return PackedMatrix(
        name,
        path,
        shape,
        encoding,
        stored,
        integers if bits == 4 else widened,
        scales if block == group else repeated,
        tuple(parts),
    )


def turned(data: Bytes, bits: int) -> Bytes:
    """Integers that count from the smallest on, in two's complement."""
    flipped: Bytes = data ^ np.uint8(_FLIPS[bits])
    return flipped


def flat(entry: Entry) -> Entry:
    """A tensor [...,k] as a matrix of all its rows."""
    return replace(entry, shape=(math.prod(entry.shape[:-1]), entry.shape[-1]))


def row_bytes(entry: Entry, bits: int, width: int, *, is_signed: bool = False) -> ReadBytes:
    """A reader of the integers of a matrix that a file has row by row, the first in the lowest bits: in two's
    complement (`is_signed`) or counted from the smallest on. What fills up a row's last word is left out."""
    length = width * bits // 8

    def read(start: int, stop: int) -> Bytes:
        data = entry.stored(start, stop).view(np.uint8)[:, :length]
        return data if is_signed else turned(data, bits)

    return read


def joined(name: str, matrices: Sequence[PackedMatrix]) -> PackedMatrix:
    """One matrix of the rows of several; those with fewer bits and a scale a row get the bits of the others."""
    widest = max(matrices, key=lambda each: each.encoding.bits)
    equal = [each if each.encoding == widest.encoding else _with_bits(each, widest) for each in matrices]
    ends = np.cumsum([each.shape[0] for each in equal]).tolist()

    def spans(start: int, stop: int) -> list[tuple[PackedMatrix, int, int]]:
        found = []
        for each, end in zip(equal, ends, strict=True):
            begin = end - each.shape[0]
            if start < end and stop > begin:
                found.append((each, max(start, begin) - begin, min(stop, end) - begin))
        return found or [(equal[0], 0, 0)]

    def integers(start: int, stop: int) -> Bytes:
        return np.concatenate([each.integers(*span) for each, *span in spans(start, stop)])

    def scales(start: int, stop: int) -> Rows:
        return np.concatenate([each.scales(*span) for each, *span in spans(start, stop)])

    parts = tuple(part for each in matrices for part in each.parts)
    shape = (ends[-1], widest.shape[1])
    return PackedMatrix(name, widest.path, shape, widest.encoding, widest.stored, integers, scales, parts)


def _with_bits(narrow: PackedMatrix, wide: PackedMatrix) -> PackedMatrix:
    if narrow.encoding.block or wide.encoding.block:
        raise EdgeMtpError(
            f"{narrow.path}: {narrow.name} has {narrow.stored} and {wide.name} has {wide.stored}, and a bundle stores"
            f" all experts of a layer alike: {CURE}"
        )
    bits = wide.encoding.bits

    def integers(start: int, stop: int) -> Bytes:
        wider = unpack(narrow.integers(start, stop), narrow.encoding.bits).view(np.uint8)
        return pack(wider, bits)

    return PackedMatrix(
        narrow.name, narrow.path, narrow.shape, wide.encoding, narrow.stored, integers, narrow.scales, narrow.parts
    )


def with_experts(find: FindPacked) -> FindPacked:
    """`find`, which then also finds the tensor of all experts where each expert is a module of its own."""

    def found(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> Packed | None:
        whole = find(name, shape, entries)
        if whole is not None:
            return whole
        matrices = expert_matrices(name, shape)
        packed = [find(part, size, entries) for part, size in matrices]
        held = [each for each in packed if isinstance(each, PackedMatrix)]
        if not held:
            return None
        if len(held) < len(packed):
            missing = matrices[next(at for at, each in enumerate(packed) if each is None)][0]
            raise EdgeMtpError(
                f"{held[0].path}: {held[0].name} is quantized and {missing} is not, and a bundle stores all experts of"
                f" a layer alike: {CURE}"
            )
        return joined(name, held)

    return found


def widened(packed: Mapping[str, Packed]) -> tuple[str, ...]:
    """A line for each way in which a bundle holds the checkpoint's integers in more bits than it does."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, each in packed.items():
        bits = re.match(r"\d+", each.stored)
        if bits and int(bits[0]) < each.encoding.bits:
            found.setdefault((each.stored, each.encoding.name), []).append(name)
    return tuple(
        f"{stored}: held as {encoding}, which loses nothing: {', '.join(groups(names))}"
        for (stored, encoding), names in sorted(found.items())
    )
