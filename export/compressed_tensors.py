"""Checkpoints of compressed-tensors, as llm-compressor and Google's `-ct` write them. The tensors decide; where
config.json says something else of them, that is told.

A matrix [n,k] of a module M has scales `M.weight_scale`: [1], [n,1] or [n, groups]; and its integers

- packed (`pack-quantized`): `M.weight_packed` int32 [n, ceil(k bits / 32)], the first in the lowest bits, counted from
  the smallest on, of 1 to 8 bits without gaps;
- or plain (`int-quantized`, `naive-quantized`): `M.weight` int8 [n,k], of any number of bits.

A tensor of all experts has a third axis before those two. Zero points of 0 and an order of groups that is that of the
columns may be stored, and mean nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import pack
from edge_mtp.export.packed import (
    BITS,
    CURE,
    Bytes,
    PackedMatrix,
    ReadBytes,
    flat,
    grid,
    matrix,
    row_bytes,
)
from edge_mtp.export.weights import Entry, Form, Packed, groups

_REFUSED = {
    "float-quantized": "its weights are 8-bit floats, no multiples of a scale",
    "nvfp4-pack-quantized": "its weights are 4-bit floats, no multiples of a scale",
    "mxfp4-pack-quantized": "its weights are 4-bit floats, no multiples of a scale",
    "mxfp6-pack-quantized": "its weights are 6-bit floats, no multiples of a scale",
    "mxfp8-quantized": "its weights are 8-bit floats, no multiples of a scale",
    "marlin-24": "every other weight is left out (2:4 sparsity), and LiteRT's matrices are dense",
    "sparse-24-bitmask": "every other weight is left out (2:4 sparsity), and LiteRT's matrices are dense",
    "sparse-bitmask": "zeros are left out, and LiteRT's matrices are dense",
}
_SYMMETRIC = f"quantize it again with symmetric: true, or {CURE}"
_SAMPLED = 16  # rows that tell whether all need to be looked at
_CHUNK = 1 << 22  # weights at a time


def compressed_tensors(config: Mapping[str, Any], path: Path) -> Form:
    """By its `quantization_config`; `path` is of config.json.

    Raises:
        EdgeMtpError: no integers of LiteRT's hold one of its formats.
    """
    sparse = config.get("sparsity_config")
    schemes = list(_schemes(config))
    formats = [config.get("format"), *(scheme.format for scheme in schemes)]
    formats.append(sparse.get("format") if isinstance(sparse, dict) else None)
    for each in formats:
        if isinstance(each, str) and each in _REFUSED:
            raise EdgeMtpError(f"{path} has format {each!r}: {_REFUSED[each]}: {CURE}")
    cache = config.get("kv_cache_scheme")
    ranges = [scheme.activations for scheme in schemes if scheme.activations is not None]
    return Form(
        _find,
        re.compile(r"(?P<module>.*)\.(?P<side>input|output)_scale$") if ranges and all(map(_is_int8, ranges)) else None,
        re.compile(r"model\.layers\.(?P<layer>\d+)\.self_attn\.(?P<kind>[kv])_scale$") if _is_int8(cache) else None,
        lambda packed, entries: _contradictions(config, packed, entries),
    )


def _is_int8(scheme: Any) -> bool:
    """Whether a scheme of activations or caches is symmetric 8-bit integers with one fixed scale."""
    return (
        isinstance(scheme, dict)
        and scheme.get("num_bits", 8) == 8
        and scheme.get("type", "int") == "int"
        and scheme.get("symmetric", True) is True
        and scheme.get("dynamic", False) is False
        and scheme.get("strategy") in (None, "tensor")
    )


# -- what the tensors say ---------------------------------------------------------------------------------------------


def _find(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = name.removesuffix(".weight")
    integers = next((each for each in (f"{module}.weight_packed", f"{module}_packed", name) if each in entries), None)
    scales = next((each for each in (f"{module}.weight_scale", f"{module}_scale") if each in entries), None)
    if integers is None or scales is None or len(shape) < 2:
        return None
    stored = entries[integers]
    path = stored.file.path
    if stored.dtype.startswith("F8") or stored.dtype == "U8":
        raise EdgeMtpError(
            f"{path}: {name} is stored as {stored.dtype}: such floats are no multiples of a scale: {CURE}"
        )
    if stored.dtype not in ("I32", "I8"):
        return None
    packed = stored.dtype == "I32"
    if stored.shape[:-1] != shape[:-1] or (not packed and stored.shape != shape):
        raise EdgeMtpError(
            f"{path}: {integers} is {_by(stored.shape)}, config.json says {_by(shape)} for {name}: use the config.json"
            " that was saved with these weights"
        )
    rows, width = math.prod(shape[:-1]), shape[-1]
    scale, count = _scales(name, entries[scales], shape)
    bits, read = _packed(name, flat(stored), width) if packed else _plain(flat(stored), width)
    stored_bits = _bits_of(stored, width) if packed else bits
    _check_zeros(name, entries.get(f"{module}.weight_zero_point"), shape[-2], stored_bits)
    _check_order(name, entries.get(f"{module}.weight_g_idx"), width, count)
    more = (f"{module}.{part}" for part in ("weight_shape", "weight_zero_point", "weight_g_idx"))
    parts = (integers, scales, *(part for part in more if part in entries))
    return matrix(name, path, (rows, width), bits, count, read, scale, parts, stored_bits)


def _scales(name: str, entry: Entry, shape: tuple[int, ...]) -> tuple[Any, int]:
    """A reader of a matrix's scales, and how many a row has."""
    entry.check_float()
    rows = math.prod(shape[:-1])
    if math.prod(entry.shape) == 1:
        one = np.float32(entry.rows().reshape(-1)[0])
        return lambda start, stop: np.full((stop - start, 1), one, np.float32), 1
    leading = len(shape) - 1
    count = math.prod(entry.shape[leading:])
    if entry.shape[:leading] != shape[:-1] or len(entry.shape) > len(shape) or not count:
        raise EdgeMtpError(
            f"{entry.file.path}: {entry.name} is {_by(entry.shape)}, for {name} of {_by(shape)}: copy it again"
        )
    return replace(entry, shape=(rows, count)).rows, count


def _bits_of(stored: Entry, width: int) -> int:
    """Bits a weight of packed integers: those that fill these words; 0 where none do."""
    return next((bits for bits in range(1, 9) if stored.shape[-1] == -(-width * bits // 32)), 0)


def _packed(name: str, stored: Entry, width: int) -> tuple[int, ReadBytes]:
    bits = _bits_of(stored, width)
    if not bits:
        raise EdgeMtpError(
            f"{stored.file.path}: {name} has {stored.shape[-1]} words for rows of {width} weights, which is not 1 to 8"
            f" bits each: {CURE}"
        )
    if bits in BITS:
        return bits, row_bytes(stored, bits, width)
    wider = next(each for each in BITS if each > bits)

    def read(start: int, stop: int) -> Bytes:
        data = stored.stored(start, stop).view(np.uint8)
        single = np.unpackbits(data, axis=1, count=width * bits, bitorder="little").reshape(stop - start, width, bits)
        counted = single @ (1 << np.arange(bits, dtype=np.uint8))
        integers = (counted.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
        return pack(integers.view(np.uint8), wider)

    return wider, read


def _plain(stored: Entry, width: int) -> tuple[int, ReadBytes]:
    """Of int8, in the fewest bits that hold all of them."""
    rows = stored.shape[0]
    bits = _fewest(stored, 0, min(rows, _SAMPLED))
    step = max(1, _CHUNK // width)
    for start in range(_SAMPLED, rows, step):
        if bits == 8:
            break
        bits = max(bits, _fewest(stored, start, min(start + step, rows)))
    if bits == 8 or width % (8 // bits):
        return 8, row_bytes(stored, 8, width, is_signed=True)
    return bits, lambda start, stop: pack(stored.stored(start, stop).view(np.uint8), bits)


def _fewest(stored: Entry, start: int, stop: int) -> int:
    integers = stored.stored(start, stop)
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    return next(bits for bits in BITS if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))


def _check_zeros(name: str, entry: Entry | None, rows: int, bits: int) -> None:
    """Zero points are 0: plain, or packed along the rows as weights are along the columns."""
    if entry is None:
        return
    if entry.dtype == "I32" and len(entry.shape) > 1 and bits < 8:
        words = np.ascontiguousarray(np.moveaxis(entry.stored(), -2, -1))
        single = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
        held = min(rows, single.shape[-1] // bits)
        single = single[..., : held * bits].reshape(*single.shape[:-1], held, bits)
        zeros = (single @ (1 << np.arange(bits, dtype=np.int64))) - 2 ** (bits - 1)
    elif entry.dtype in ("I8", "U8"):
        zeros = entry.stored()
    elif entry.dtype in ("I32", "I64", "F16", "BF16", "F32"):
        zeros = entry.rows()
    else:
        raise EdgeMtpError(f"{entry.file.path}: {entry.name} has zero points as {entry.dtype}: {_SYMMETRIC}")
    if zeros.any():
        raise EdgeMtpError(
            f"{entry.file.path}: {name} has zero point {zeros[zeros != 0][0]} (its tensor {entry.name}), and LiteRT's"
            f" integers have none: {_SYMMETRIC}"
        )


def _check_order(name: str, entry: Entry | None, width: int, count: int) -> None:
    """Each group is of neighbours; -1 stands for no order."""
    if entry is None:
        return
    found = entry.rows() if entry.dtype in ("I32", "I64") else np.zeros(0, np.int32)
    own = np.arange(width) // max(1, width // count)
    if found.shape == (width,) and ((found == -1).all() or np.array_equal(found, own)):
        return
    raise EdgeMtpError(
        f"{entry.file.path}: {name} has groups in an order of activations ({entry.name}), and LiteRT's blocks are of"
        f" neighbours: quantize it again with actorder: static, or {CURE}"
    )


# -- what config.json says --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scheme:
    """One of `config_groups`: the modules that it is for, what their weights are, and what it says of activations."""

    targets: tuple[str, ...]
    stored: str | None
    format: Any
    activations: Any


def _schemes(config: Mapping[str, Any]) -> Iterator[_Scheme]:
    found = config.get("config_groups")
    for group in found.values() if isinstance(found, dict) else ():
        if not isinstance(group, dict):
            continue
        weights, targets = group.get("weights"), group.get("targets")
        stored = None
        if isinstance(weights, dict) and isinstance(bits := weights.get("num_bits"), int):
            size = weights.get("group_size") if weights.get("strategy") in (None, "group") else None
            stored = grid(bits, size if isinstance(size, int) and size > 0 else None)
        named = tuple(map(str, targets)) if isinstance(targets, list) else ()
        activations = group.get("input_activations") or group.get("output_activations")
        yield _Scheme(named, stored, group.get("format"), activations)


def _contradictions(
    config: Mapping[str, Any], packed: Mapping[str, Packed], entries: Mapping[str, Entry]
) -> tuple[str, ...]:
    """A line for each way in which config.json says something else of matrices than their tensors."""
    schemes, listed = list(_schemes(config)), config.get("ignore")
    ignored = tuple(map(str, listed)) if isinstance(listed, list) else ()
    if not all(_is_quick(name) for scheme in schemes for name in scheme.targets) or not all(map(_is_quick, ignored)):
        return ()
    found: dict[tuple[str, str], list[str]] = {}
    for name, raw in _modules(packed, entries):
        held = packed[name].stored if name in packed else "no bits"
        said = {"no bits"} if _matches(raw, ignored) else _said(raw, schemes)
        if not _agrees(held, said, is_plain=name in packed and entries[packed[name].parts[0]].dtype == "I8"):
            found.setdefault((held, " or ".join(sorted(said))), []).append(name)
    return tuple(
        f"config.json says {said} of what has {held}, and the tensors count: {', '.join(groups(names))}".replace(
            "no bits", "no quantization"
        )
        for (held, said), names in sorted(found.items())
    )


def _agrees(held: str, said: set[str], is_plain: bool) -> bool:
    """Plain integers do not tell their bits."""
    if is_plain:
        return held.split(" ", 1)[1] in {each.split(" ", 1)[1] for each in said}
    return held in said


def _modules(packed: Mapping[str, Packed], entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """The text decoder's matrices: their names, and those of their modules in the file."""
    for name, each in packed.items():
        yield name, re.sub(r"(\.weight|[._]weight_packed|_packed)$", "", entries[each.parts[0]].name)
    for name, entry in entries.items():
        linear = name.endswith("_proj.weight") or re.search(r"embed_tokens(_per_layer)?\.weight$", name)
        if linear and name not in packed and len(entry.shape) == 2 and entry.dtype in ("BF16", "F16", "F32"):
            yield name, entry.name.removesuffix(".weight")


def _said(module: str, schemes: list[_Scheme]) -> set[str]:
    """What the most specific targets say: a name before an expression before a class."""
    kind = "Embedding" if "embed_tokens" in module else "Linear"
    for level in (lambda target: target == module, lambda target: _matches(module, (target,)), lambda t: t == kind):
        said = {scheme.stored for scheme in schemes if scheme.stored and any(map(level, scheme.targets))}
        if said:
            return {each for each in said if each}
    return {"no bits"}


def _matches(module: str, names: tuple[str, ...]) -> bool:
    """Whether a list of names, `re:` before an expression, has the module."""
    return any(
        re.match(name.removeprefix("re:"), module) is not None if name.startswith("re:") else name == module
        for name in names
    )


def _is_quick(name: str) -> bool:
    """Whether matching takes no longer than the cube of a module's name: an expression may be a stranger's."""
    if not name.startswith("re:"):
        return True
    try:
        re.compile(name.removeprefix("re:"))
    except (re.error, RecursionError, OverflowError):
        return False
    return len(re.findall(r"[*+{]", name)) <= 3 and not re.search(r"\)[*+{]", name)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
