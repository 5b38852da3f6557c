"""How a weight matrix is stored: as floats, or as signed integers with a scale per row or per block of a row.

An integer encoding writes, byte for byte, what ai-edge-quantizer 0.10 writes with its min/max algorithm for the
weights of FULLY_CONNECTED and EMBEDDING_LOOKUP; `SMALLEST_BLOCK_SCALE` is the one exception. Rows are encoded
independently of each other, so a matrix may be encoded in chunks of rows and the results concatenated.

Besides the bytes, the flatbuffer needs the tensor's type (`tensor_type`), its quantization (`quantization`) and, for
blocks and for our own kernels, a second tensor with the scales (`scales_tensor`). A fp16 weight needs a DEQUANTIZE
before a FULLY_CONNECTED, and after an EMBEDDING_LOOKUP, whose output is then fp16 (`Encoding.is_half`). The operators'
own options and versions do not depend on the encoding. Source: schema.fbs of LiteRT 2.3, schema version 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError

Rows = npt.NDArray[np.float32]

# The quantizer keeps the scale of a row of zeros away from zero like this.
SMALLEST_BOUND = np.float32(1e-9)
SMALLEST_SCALE = SMALLEST_BOUND / np.float32(127)
# Scales of blocks are fp16, and where the quantizer lets one underflow to zero XNNPACK refuses the whole model
# ("unsupported scale value"): the smallest fp16 number takes its place.
SMALLEST_BLOCK_SCALE = np.float32(2.0**-24)
# Elements worked on at a time: what they need stays in a core's second-level cache.
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Encoding:
    """`bits` per stored weight. `block` is how many neighbours in a row share a scale (None: the whole row)."""

    name: str
    bits: int
    block: int | None = None

    @property
    def is_integer(self) -> bool:
        return self.bits <= 8

    @property
    def is_half(self) -> bool:
        """Whether the operators need a DEQUANTIZE (see the module's docstring)."""
        return self.bits == 16

    @property
    def largest(self) -> int:
        """The integer for the largest weight of a row or block. The smallest integer is -largest - 1, or -largest in
        8 bits."""
        return int(2 ** (self.bits - 1)) - 1

    def __str__(self) -> str:
        return self.name


# LiteRT 2.3 executes each of these in FULLY_CONNECTED and in EMBEDDING_LOOKUP, even when both read one buffer. It does
# not execute int8 and int2 in blocks, so they are absent (docs/recipes.md has the measurements).
ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("fp32", 32),
        Encoding("fp16", 16),
        Encoding("int8", 8),
        Encoding("int4", 4),
        *(Encoding(f"int4b{block}", 4, block) for block in (32, 64, 128, 256)),
        Encoding("int2", 2),
    )
}


@dataclass(frozen=True)
class Encoded:
    """`data`: uint8 [bytes], as in a TFLite buffer (int4 and int2 packed, the first weight in the lowest bits).

    `scales`: None for floats, float32 [n] for a scale per row, float16 [n, k / block] for blocks.
    """

    data: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32] | npt.NDArray[np.float16] | None

    def cut(self, rows: int, start: int, stop: int) -> Encoded:
        """Rows [start:stop] of these `rows`."""
        data = self.data.reshape(rows, -1)[start:stop].reshape(-1)
        return Encoded(data, None if self.scales is None else self.scales[start:stop])


def encode(rows: Rows, encoding: Encoding) -> Encoded:
    """Encode `rows`, float32 [n, k].

    Raises:
        EdgeMtpError: a weight is not finite (in fp16), or the encoding cannot store rows of k weights.
    """
    n, k = rows.shape
    row_bytes = _row_bytes(k, encoding)
    data = np.empty((n, row_bytes), np.uint8)
    scales = _empty_scales(n, k, encoding)
    step = max(1, _CHUNK // k)
    scratch = np.empty((step, k), np.float32)
    for start in range(0, n, step):
        chunk = rows[start : start + step]
        work = scratch[: len(chunk)]
        if scales is None:
            _encode_float(chunk, encoding, work, data[start : start + step])
        else:
            scales[start : start + step] = _encode_integers(chunk, encoding, work, data[start : start + step])
    return Encoded(data.reshape(-1), scales)


def decode(encoded: Encoded, encoding: Encoding, columns: int) -> Rows:
    """The weights as a kernel sees them, float32 [n, columns]."""
    if encoded.scales is None:
        floats = encoded.data.view(np.float16 if encoding.is_half else np.float32)
        return floats.reshape(-1, columns).astype(np.float32)
    scales = encoded.scales.astype(np.float32).reshape(-1, 1)
    weights: Rows = unpack(encoded.data, encoding.bits).reshape(len(scales), -1) * scales
    return weights.reshape(-1, columns)


def storage_bytes(shape: Sequence[int], encoding: Encoding) -> int:
    """The bytes that a weight of `shape` [..., k] takes in the file: packed weights, scales and zero points."""
    *leading, k = shape
    rows = math.prod(leading)
    size = rows * _row_bytes(k, encoding)
    if encoding.block:
        return size + rows * (k // encoding.block) * 2
    return size + rows * 12 if encoding.is_integer else size


def fit(encoding: Encoding, k: int) -> Encoding:
    """`encoding` for rows of k weights: a block that does not divide k is halved until it does, down to 32.

    Raises:
        EdgeMtpError: the encoding cannot store such rows.
    """
    block = encoding.block
    while block and k % block and f"int4b{block // 2}" in ENCODINGS:
        block //= 2
        encoding = ENCODINGS[f"int4b{block}"]
    _row_bytes(k, encoding)
    return encoding


def tensor_type(encoding: Encoding) -> int:
    """The value of schema.fbs's enum TensorType."""
    types = schema.TensorType
    by_bits = {32: types.FLOAT32, 16: types.FLOAT16, 8: types.INT8, 4: types.INT4, 2: types.INT2}
    return int(by_bits[encoding.bits])


def quantization(encoding: Encoding, scales: npt.NDArray[Any] | None = None, scales_tensor: int | None = None) -> Any:
    """The QuantizationParametersT of a weight tensor, None for floats.

    An encoding with a scale per row needs `scales`, float32 [n]; a block encoding needs `scales_tensor`, the tensor's
    index in the same subgraph.
    """
    if not encoding.is_integer:
        return None
    parameters = schema.QuantizationParametersT()
    parameters.quantizedDimension = 0
    if encoding.block:
        assert scales_tensor is not None, "a block encoding has its scales in a tensor"
        details = schema.BlockwiseQuantizationT()
        details.scales = scales_tensor
        details.zeroPoints = -1  # none: symmetric
        details.blockSize = encoding.block
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = details
    else:
        assert scales is not None, "an integer encoding has scales"
        parameters.scale = scales
        parameters.zeroPoint = np.zeros(len(scales), np.int64)
    return parameters


def scales_tensor(encoding: Encoding, name: bytes, shape: Sequence[int], buffer: int) -> Any:
    """The TensorT of the scales of a weight of `shape` [n, k]: float16 [n, k / block], or float32 [n] of its rows.

    `buffer` is the index of the buffer with the bytes of `Encoded.scales`; `name` is the weight's name.
    """
    assert encoding.is_integer, "floats have no scales"
    rows, width = shape
    tensor = schema.TensorT()
    tensor.name = name + b"_scales"
    tensor.shape = np.array([rows, width // encoding.block] if encoding.block else [rows], np.int32)
    tensor.type = schema.TensorType.FLOAT16 if encoding.block else schema.TensorType.FLOAT32
    tensor.buffer = buffer
    tensor.hasRank = True
    return tensor


def _row_bytes(k: int, encoding: Encoding) -> int:
    # A row that began inside a byte or a block would depend on the row before it.
    multiple = encoding.block or max(1, 8 // encoding.bits)
    if k % multiple:
        raise EdgeMtpError(f"{encoding} needs rows of a multiple of {multiple} weights, not {k}: take int8 here")
    return k * encoding.bits // 8


def _empty_scales(n: int, k: int, encoding: Encoding) -> npt.NDArray[Any] | None:
    if not encoding.is_integer:
        return None
    return np.empty((n, k // encoding.block), np.float16) if encoding.block else np.empty(n, np.float32)


def _encode_float(rows: Rows, encoding: Encoding, work: Rows, data: npt.NDArray[np.uint8]) -> None:
    limit = float(np.finfo(np.float16 if encoding.is_half else np.float32).max)
    _refuse_beyond(limit, np.abs(rows, out=work).max(initial=0))
    data[...] = rows.astype(np.float16 if encoding.is_half else np.float32, copy=False).view(np.uint8)


def _encode_integers(rows: Rows, encoding: Encoding, work: Rows, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Fill `data` [n, bytes] and return the scales; `work` is overwritten."""
    n, k = rows.shape
    np.abs(rows, out=work)
    if encoding.block:
        # reduceat over the flat array: numpy's max over a short last axis takes twice as long.
        bound = np.maximum.reduceat(work.reshape(-1), np.arange(0, n * k, encoding.block))
    else:
        bound = work.max(axis=1)
    _refuse_beyond(float(np.finfo(np.float32).max), bound.max(initial=0))
    scale = np.maximum(bound, SMALLEST_BOUND) / np.float32(encoding.largest)
    if encoding.block:
        _refuse_beyond(65280.0, scale.max(initial=0))
        # bfloat16 first: XNNPACK stores these scales in that type.
        scale = scale.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float32)
        scale = np.maximum(scale, SMALLEST_BLOCK_SCALE)
    np.divide(rows.reshape(len(scale), -1), scale[:, None], out=work.reshape(len(scale), -1))
    np.rint(work, out=work)
    # Below 8 bits the quantizer uses the whole range.
    np.clip(work, -encoding.largest - (encoding.bits < 8), encoding.largest, out=work)
    integers = work.astype(np.int8).view(np.uint8)
    data[...] = integers if encoding.bits == 8 else pack(integers, encoding.bits)
    stored: npt.NDArray[Any] = scale.astype(np.float16).reshape(n, -1) if encoding.block else scale
    return stored


def pack(integers: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """uint8 [n, k], of which the lowest `bits` count, to uint8 [n, k * bits / 8], the first in the lowest bits."""
    while bits < 8:
        # Two neighbours form one little-endian word, so one shift joins them without strided reads.
        words = integers.view("<u2")
        high = words >> np.uint16(8 - bits)
        high &= np.uint16(((1 << bits) - 1) << bits)
        high |= words & np.uint16((1 << bits) - 1)
        integers = high.astype(np.uint8)
        bits *= 2
    return integers


def unpack(data: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int8]:
    """uint8 [..., bytes] to the integers that `pack` packed, int8 [..., bytes * 8 / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    # Left-aligned in a byte, so that the arithmetic shift back extends the sign.
    aligned = (data[..., None] >> shifts) << np.uint8(8 - bits)
    integers: npt.NDArray[np.int8] = aligned.view(np.int8) >> np.int8(8 - bits)
    return integers.reshape(*data.shape[:-1], -1)


def _refuse_beyond(limit: float, largest: np.floating[Any]) -> None:
    if not largest <= limit:  # also when it is NaN
        raise EdgeMtpError(f"a weight of size {largest} cannot be encoded (at most {limit:g}): repair the checkpoint")
