"""Which form a checkpoint is quantized in, by the `quantization_config` of its config.json; and why others are refused.

Two forms are small enough to stand here. The others are `compressed_tensors` and `gptq` (with AWQ and AutoRound).

- `quant_method: gemma` (transformers, integrations/gemma_quant.py): `M.weight` uint8 [n, k bits / 8], the first weight
  in the lowest bits, counted from the smallest on, or int8 [n,k], with `M.weight_scale` float32 [n,1]; a table as
  `M.embedding_quantized` with `M.embedding_scale` float32 [n, blocks].
- `quant_method: bitsandbytes` in 8 bits (bitsandbytes, nn/modules.py): `M.weight` int8 [n,k] with `M.SCB` float32 [n],
  127 times the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.compressed_tensors import compressed_tensors
from edge_mtp.export.gptq import auto_round, awq, gptq
from edge_mtp.export.packed import (
    BITS,
    CURE,
    PackedMatrix,
    flat,
    matrix,
    row_bytes,
    widened,
    with_experts,
)
from edge_mtp.export.weights import Entry, Form, Packed, Rows

_FLOATS_4, _FLOATS_8 = "whose weights are 4-bit floats", "whose weights are 8-bit floats"
_CODES = "whose weights are entries of a codebook"
# transformers' QuantizationMethod, without those that are taken: what the weights are instead of multiples of a scale.
_REASONS = {
    "aqlm": f"{_CODES}, a vector for several of them",
    "bitnet": "whose weights are -1, 0 and 1, and whose layers have norms of their own, which Gemma 4 has not",
    "eetq": "whose integers are in the order of one GPU's kernel",
    "fbgemm_fp8": f"{_FLOATS_8}, no multiples of a scale",
    "fouroversix": f"{_FLOATS_4}, no multiples of a scale",
    "fp8": f"{_FLOATS_8}, no multiples of a scale",
    "fp_quant": f"{_FLOATS_4} behind a rotation, no multiples of a scale",
    "gguf": "and its weights are in a file of GGUF's own",
    "higgs": f"{_CODES} behind a rotation",
    "hqq": "whose groups have zero points that are no integers",
    "metal": "whose groups have offsets, and LiteRT's integers have none",
    "mxfp4": f"{_FLOATS_4}, no multiples of a scale",
    "mxfp8": f"{_FLOATS_8}, no multiples of a scale",
    "nvfp4": f"{_FLOATS_4}, no multiples of a scale",
    "quanto": "whose tensors have the layouts of optimum-quanto's own classes",
    "quark": "which has many formats, and edge-mtp knows none of them",
    "sinq": "whose weights have a scale for each row and one for each column",
    "spqr": "whose outliers are apart from the other weights",
    "torchao": "whose tensors have the layouts of torchao's own classes",
    "vptq": f"{_CODES}, a vector for several of them",
}


def form_of(config: Mapping[str, Any], path: Path) -> Form | None:
    """The form of the checkpoint with this config.json (at `path`); None for one that is not quantized.

    Raises:
        EdgeMtpError: it is quantized in a way that no integers with scales of LiteRT's can hold.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    settings = found if isinstance(found, dict) else {}
    method = settings.get("quant_method")
    if method == "gemma":
        form = Form(_gemma)
    elif method == "compressed-tensors":
        form = compressed_tensors(settings, path)
    elif method == "gptq":
        form = Form(gptq(settings, path))
    elif method == "awq":
        form = Form(awq(settings, path))
    elif method == "auto-round":
        form = Form(auto_round(settings, path))
    elif method == "bitsandbytes" and not settings.get("load_in_4bit", settings.get("_load_in_4bit")):
        form = Form(_bitsandbytes)
    else:
        raise EdgeMtpError(f"{path} has quant_method {method!r}, {_reason(method)}: {CURE}")

    def notes(packed: Mapping[str, Packed], entries: Mapping[str, Entry]) -> tuple[str, ...]:
        if not packed:
            return (f"{path.name} has quant_method {method!r}, and no tensor is quantized so: all are floats",)
        return (*form.notes(packed, entries), *widened(packed))

    return Form(with_experts(form.find), form.ranges, form.caches, notes)


def _reason(method: Any) -> str:
    if method == "bitsandbytes":
        return "whose 4-bit values (nf4, fp4) are no multiples of a scale"
    return _REASONS.get(str(method), "which edge-mtp does not know")


def _gemma(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = name.removesuffix(".weight")
    linear = name, f"{module}.weight_scale"
    table = f"{module}.embedding_quantized", f"{module}.embedding_scale"
    for integers, scales in (linear, table):
        if integers in entries and scales in entries and entries[integers].dtype in ("U8", "I8"):
            return _by_rows(name, shape, entries[integers], entries[scales], (integers, scales))
    return None


def _by_rows(
    name: str, shape: tuple[int, ...], stored: Entry, scale: Entry, parts: tuple[str, ...]
) -> PackedMatrix | None:
    path = stored.file.path
    if len(stored.shape) != len(shape) or stored.shape[:-1] != shape[:-1] or len(shape) < 2:
        raise EdgeMtpError(
            f"{path}: {parts[0]} is {_by(stored.shape)}, config.json says {_by(shape)} for {name}: use the config.json"
            " that was saved with these weights"
        )
    rows, width = math.prod(shape[:-1]), shape[-1]
    bits, rest = divmod(8 * stored.shape[-1], width)
    if rest or bits not in BITS:
        raise EdgeMtpError(
            f"{path}: {parts[0]} has {8 * stored.shape[-1]} bits for rows of {width} weights, which is not 2, 4 or 8"
            f" each: {CURE}"
        )
    scale.check_float()
    count = math.prod(scale.shape[len(shape) - 1 :])
    if scale.shape[: len(shape) - 1] != shape[:-1] or count < 1:
        raise EdgeMtpError(f"{path}: {parts[1]} is {_by(scale.shape)}, for a matrix of {_by(shape)}: copy it again")
    read = row_bytes(flat(stored), bits, width, is_signed=stored.dtype == "I8")
    scales = replace(scale, shape=(rows, count)).rows
    return matrix(name, path, (rows, width), bits, count, read, scales, parts)


def _bitsandbytes(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = name.removesuffix(".weight")
    stored, largest = entries.get(name), entries.get(f"{module}.SCB")
    if stored is not None and f"{name}.absmax" in entries:
        raise EdgeMtpError(f"{stored.file.path}: {name} has 4-bit values (nf4, fp4), no multiples of a scale: {CURE}")
    if stored is None or largest is None or stored.dtype != "I8" or len(shape) != 2:
        return None
    path, order = stored.file.path, entries.get(f"{module}.weight_format")
    if order is not None and order.dtype == "U8" and order.stored().any():
        raise EdgeMtpError(f"{path}: {name} is in the order of one GPU's kernel (weight_format): save it again by rows")
    if stored.shape != shape or largest.shape != shape[:1]:
        raise EdgeMtpError(
            f"{path}: {name} is {_by(stored.shape)} with {_by(largest.shape)} scales, config.json says {_by(shape)}:"
            " use the config.json that was saved with these weights"
        )
    largest.check_float()

    def scales(start: int, stop: int) -> Rows:
        found: Rows = largest.rows(start, stop) / np.float32(127)
        return found.reshape(-1, 1)

    parts = (name, f"{module}.SCB", *((f"{module}.weight_format",) if order is not None else ()))
    return matrix(name, path, (shape[0], shape[1]), 8, 1, row_bytes(stored, 8, shape[1], is_signed=True), scales, parts)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
