"""Weights that a checkpoint stores as integers with scales: found by their tensors, and taken as they are.

Three layouts, of Google's quantization-aware checkpoints and of what llm-compressor writes. All store a matrix [n,k]
row by row, the first weight of a byte or word in its lowest bits, and count from the smallest integer on (v + 8 in 4
bits), except that `int8` is stored signed.

- `quant_method: gemma` (transformers, integrations/gemma_quant.py): `M.weight` uint8 [n, k bits / 8] or int8 [n,k] with
  `M.weight_scale` float32 [n,1]; a table as `M.embedding_quantized` with `M.embedding_scale` float32 [n, blocks].
- compressed-tensors, `pack-quantized` (compressed_tensors, compressors/pack_quantized): `M.weight_packed` int32
  [n, k bits / 32] with `M.weight_scale` [n, k / group], or [n,1] for a scale a row.
- compressed-tensors, `int-quantized`: `M.weight` int8 [n,k] with `M.weight_scale` [n,1].

A bundle holds the same integers, in two's complement, and the same scales (float32 a row, float16 a block).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import ENCODINGS, SMALLEST_BLOCK_SCALE, SMALLEST_SCALE, Encoded, Encoding
from edge_mtp.export.weights import Entry, FindPacked, Rows

# From what is stored to two's complement: the highest bit of each integer turns over.
_FLIPS = {2: 0xAA, 4: 0x88, 8: 0x80}
_CURE = "give the checkpoint before quantization, in bf16, fp16 or fp32"


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix of `shape` [n,k] in a checkpoint: `integers` and `scales` are its tensors there.

    `is_signed`: the integers are stored in two's complement. `parts`: the names of its tensors.
    """

    integers: Entry
    scales: Entry
    encoding: Encoding
    shape: tuple[int, int]
    is_signed: bool
    parts: tuple[str, ...]

    def encoded(self, start: int, stop: int) -> Encoded:
        """Rows [start:stop] as a bundle stores them. A scale of 0 becomes the smallest there is, over zeros."""
        data = self._bytes(start, stop)
        if not self.is_signed:
            data = data ^ np.uint8(_FLIPS[self.encoding.bits])
        scales = self.scales.rows(start, stop).reshape(stop - start, -1)
        self._check(scales)
        if not scales.all():
            blocks = np.repeat(scales != 0, data.shape[1] // scales.shape[1], axis=1)
            data = np.where(blocks, data, np.uint8(0))
            smallest = SMALLEST_BLOCK_SCALE if self.encoding.block else SMALLEST_SCALE
            scales = np.where(scales == 0, np.float32(smallest), scales)
        stored = scales.astype(np.float16) if self.encoding.block else scales.astype(np.float32).reshape(-1)
        return Encoded(np.ascontiguousarray(data).reshape(-1), stored)

    def rows(self, start: int, stop: int) -> Rows:
        """Rows [start:stop] by the checkpoint's formula: integer times scale, float32 [rows,k]."""
        bits = self.encoding.bits
        data = self._bytes(start, stop)
        if self.is_signed:
            integers = data.view(np.int8).astype(np.float32)
        else:
            parts = [(data >> np.uint8(shift)) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
            integers = np.stack(parts, axis=-1).reshape(stop - start, -1).astype(np.float32) - 2 ** (bits - 1)
        scales = self.scales.rows(start, stop).reshape(stop - start, -1)
        self._check(scales)
        weights: Rows = integers * np.repeat(scales, self.shape[1] // scales.shape[1], axis=1)
        return weights

    @property
    def is_exact(self) -> bool:
        """Whether a bundle's scales are the checkpoint's to the bit; else those of blocks are rounded to float16."""
        if not self.encoding.block:
            return True
        scales = self.scales.rows()
        return bool(np.array_equal(scales.astype(np.float16).astype(np.float32), scales))

    def equals(self, other: object) -> bool:
        return (
            isinstance(other, PackedMatrix)
            and (self.encoding, self.shape, self.is_signed) == (other.encoding, other.shape, other.is_signed)
            and bool(np.array_equal(self.scales.rows(), other.scales.rows()))
            and self._same_integers(other)
        )

    def _same_integers(self, other: PackedMatrix) -> bool:
        few = max(1, (1 << 22) // max(1, self.shape[1]))
        ends = [(at, min(at + few, self.shape[0])) for at in range(0, self.shape[0], few)]
        return all(np.array_equal(self._bytes(*span), other._bytes(*span)) for span in ends)

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """uint8 [rows, k bits / 8]."""
        return self.integers.stored(start, stop).view(np.uint8).reshape(stop - start, -1)

    def _check(self, scales: Rows) -> None:
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise EdgeMtpError(
                f"{self.scales.file.path}: {self.scales.name} has a scale that is negative or no number, which no"
                f" LiteRT kernel takes: {_CURE}"
            )


def packed_by(config: Mapping[str, Any], path: Path) -> FindPacked | None:
    """How the checkpoint with this config.json (at `path`) stores its quantized tensors; None for one that has none.

    Raises:
        EdgeMtpError: it is quantized in a way that no integers with scales of LiteRT's can hold.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method == "gemma":
        return _gemma
    if method == "compressed-tensors":
        return _compressed
    reason = _REASONS.get(str(method), "which edge-mtp does not know")
    raise EdgeMtpError(f"{path} has quant_method {method!r}, {reason}: {_CURE}")


_REASONS = {
    "gptq": "whose groups have zero points, and LiteRT's have none",
    "awq": "whose groups have zero points, and LiteRT's have none",
    "bitsandbytes": "whose 4-bit values are no multiples of a scale",
    "mxfp4": "whose values are no multiples of a scale",
    "fp8": "whose values are no multiples of a scale",
}


def _gemma(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = name.removesuffix(".weight")
    linear = name, f"{module}.weight_scale"
    table = f"{module}.embedding_quantized", f"{module}.embedding_scale"
    for integers, scales in (linear, table):
        if integers in entries and scales in entries and entries[integers].dtype in ("U8", "I8"):
            return _matrix(name, shape, integers, scales, entries)
    return None


def _compressed(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = name.removesuffix(".weight")
    scales = f"{module}.weight_scale"
    if scales not in entries:
        return None
    integers = next((each for each in (f"{module}.weight_packed", name) if each in entries), None)
    if integers is None or entries[integers].dtype not in ("I32", "I8"):
        return None
    path = entries[integers].file.path
    for part, reason in (("weight_zero_point", "zero points"), ("weight_g_idx", "an order of activations")):
        if f"{module}.{part}" in entries:
            raise EdgeMtpError(f"{path}: {name} has {reason}, which LiteRT's integers have not: {_CURE}")
    return _matrix(name, shape, integers, scales, entries, f"{module}.weight_shape")


def _matrix(
    name: str, shape: tuple[int, ...], integers: str, scales: str, entries: Mapping[str, Entry], *more: str
) -> PackedMatrix:
    stored, scale = entries[integers], entries[scales]
    path = stored.file.path
    if len(shape) != 2 or len(stored.shape) != 2 or stored.shape[0] != shape[0]:
        raise EdgeMtpError(
            f"{path}: {integers} is {_by(stored.shape)}, config.json says {_by(shape)} for {name}: use the config.json"
            " that was saved with these weights"
        )
    rows, width = shape
    row_bits = 8 * stored.shape[1] * (4 if stored.dtype == "I32" else 1)
    bits, rest = divmod(row_bits, width)
    if rest or bits not in _FLIPS:
        raise EdgeMtpError(
            f"{path}: {integers} has {row_bits} bits for rows of {width} weights, which is not 2, 4 or 8 each: {_CURE}"
        )
    scale.check_float()
    blocks = math.prod(scale.shape[1:])
    if scale.shape[:1] != (rows,) or blocks < 1 or width % blocks:
        raise EdgeMtpError(f"{path}: {scales} is {_by(scale.shape)}, for a matrix of {_by(shape)}: copy it again")
    wanted = f"int{bits}" if blocks == 1 else f"int{bits}b{width // blocks}"
    if wanted not in ENCODINGS:
        raise EdgeMtpError(
            f"{path}: {name} has {bits} bits in blocks of {width // blocks}, which LiteRT does not execute: {_CURE}"
        )
    parts = tuple(part for part in (integers, scales, *more) if part in entries)
    return PackedMatrix(stored, scale, ENCODINGS[wanted], (rows, width), stored.dtype == "I8", parts)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
