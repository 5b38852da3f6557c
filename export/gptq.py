"""Checkpoints of GPTQ and AWQ, whose integers stand by columns, where every zero point is the middle of the range.

Both store a matrix [n,k] of a module M as `M.qweight` with `M.scales` float [groups, n] and `M.qzeros` int32
[groups, n bits / 32], and count from 0 on: a weight is (integer - zero point) * scale. With the zero point 8, as
symmetric quantization in 4 bits has, that is the grid of LiteRT's integers; no other is.

- GPTQ (AutoGPTQ, GPTQModel, AutoRound): `qweight` int32 [k bits / 32, n], a word holds neighbours in k, the first in
  the lowest bits; `g_idx` int32 [k] is the group of each k. The format `gptq` stores zero points less 1, `gptq_v2` as
  they are.
- AWQ (AutoAWQ's `gemm`): `qweight` int32 [k, n / 8], a word holds 8 neighbours in n, in the order 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import pack
from edge_mtp.export.packed import BITS, CURE, Bytes, PackedMatrix, matrix, turned
from edge_mtp.export.weights import Entry, FindPacked, Rows

_WORD = 32
_AWQ_BITS = 4
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SYMMETRIC = f"quantize it again with symmetric integers (sym=True), or {CURE}"


def gptq(config: Mapping[str, Any], path: Path) -> FindPacked:
    """GPTQ by its `quantization_config`; `path` is of config.json."""
    form = config.get("checkpoint_format") or config.get("format") or "gptq"
    if config.get("is_marlin_format"):
        form = "marlin"
    if form not in ("gptq", "gptq_v2"):
        raise EdgeMtpError(
            f"{path} has format {form!r}, whose order of weights edge-mtp does not know: save it as gptq, or {CURE}"
        )
    return _by_words_of_k(less=1 if form == "gptq" else 0)


def auto_round(config: Mapping[str, Any], path: Path) -> FindPacked:
    """AutoRound's checkpoints have the layout that `packing_format` names."""
    form = str(config.get("packing_format", "auto_round:auto_gptq"))
    if "awq" in form:
        return awq(config, path)
    if not form.startswith("auto_round") or any(kind in form for kind in ("fp", "mx", "llm_compressor")):
        raise EdgeMtpError(f"{path} has packing_format {form!r}, which edge-mtp does not know: {CURE}")
    return _by_words_of_k(less=1 if "gptq" in form and "gptqmodel" not in form else 0)


def awq(config: Mapping[str, Any], path: Path) -> FindPacked:
    """AWQ by its `quantization_config`; `path` is of config.json."""
    form = str(config.get("version") or config.get("format") or "gemm").lower()
    if form != "gemm":
        raise EdgeMtpError(
            f"{path} has format {form!r}, whose order of weights edge-mtp does not know: save it as gemm, or {CURE}"
        )
    return _awq


def _by_words_of_k(less: int) -> FindPacked:
    """GPTQ's layout; `less` is what zero points are stored without."""

    def find(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
        module = _Module.of(name, shape, entries)
        if module is None:
            return None
        (rows, width), words = module.shape, module.words
        bits, rest = divmod(words.shape[0] * _WORD, width)
        if words.shape[1] != rows or rest or bits not in BITS:
            raise module.refused(
                f"has {words.shape[0]}x{words.shape[1]} words for {rows}x{width} weights, which is not 2, 4 or 8 bits"
                f" each: {CURE}"
            )
        module.check_order()
        if module.zeros is not None:
            stored = module.zeros.rows().view(np.uint32)
            shifts = np.arange(0, _WORD, bits, dtype=np.uint32)
            zeros = (stored[:, :, None] >> shifts) & np.uint32(2**bits - 1)
            module.check_zeros(zeros.reshape(len(stored), -1)[:, :rows].astype(np.int64) + less, bits)

        def integers(start: int, stop: int) -> Bytes:
            # A word's bytes are those of a row already.
            data = np.ascontiguousarray(words.columns(start, stop).T).view(np.uint8)
            return turned(data, bits)

        return module.matrix(bits, integers)

    return find


def _awq(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> PackedMatrix | None:
    module = _Module.of(name, shape, entries)
    if module is None:
        return None
    (rows, width), words = module.shape, module.words
    held = _WORD // _AWQ_BITS
    if words.shape != (width, rows // held) or rows % held:
        raise module.refused(
            f"has {words.shape[0]}x{words.shape[1]} words for {rows}x{width} weights, which is not 4 bits each: {CURE}"
        )
    if module.zeros is not None:
        module.check_zeros(_in_order(module.zeros.rows()), _AWQ_BITS)

    def integers(start: int, stop: int) -> Bytes:
        first, last = start // held, -(-stop // held)
        columns = _in_order(words.columns(first, last))[:, start - first * held : stop - first * held]
        return turned(pack(np.ascontiguousarray(columns.T), _AWQ_BITS), _AWQ_BITS)

    return module.matrix(_AWQ_BITS, integers)


def _in_order(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """AWQ's words [m, n / 8] as integers from 0 to 15, uint8 [m, n]."""
    unsigned = words.view(np.uint32)
    integers = np.empty((*words.shape, len(_AWQ_ORDER)), np.uint8)
    for place, column in enumerate(_AWQ_ORDER):
        integers[..., column] = (unsigned >> np.uint32(place * _AWQ_BITS)) & np.uint32(15)
    return integers.reshape(len(words), -1)


class _Module:
    """The tensors of the module whose weight is the matrix `name`."""

    def __init__(self, name: str, shape: tuple[int, int], entries: Mapping[str, Entry]) -> None:
        module = name.removesuffix(".weight")
        self.name, self.shape = name, shape
        self.words, self.scales = entries[f"{module}.qweight"], entries[f"{module}.scales"]
        self.zeros, self.order = entries.get(f"{module}.qzeros"), entries.get(f"{module}.g_idx")
        parts = (f"{module}.{part}" for part in ("qweight", "scales", "qzeros", "g_idx"))
        self.parts = tuple(part for part in parts if part in entries)
        for entry in (self.words, self.zeros):
            if entry is not None and (entry.dtype != "I32" or len(entry.shape) != 2):
                raise self.refused(f"has {entry.name} as {entry.dtype} {entry.shape}, not as a matrix of int32: {CURE}")
        self.scales.check_float()
        if len(self.scales.shape) != 2 or self.scales.shape[1] != shape[0] or not self.scales.shape[0]:
            raise self.refused(f"has scales of {self.scales.shape}, not [groups, {shape[0]}]: copy it again")
        self.groups = self.scales.shape[0]

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], entries: Mapping[str, Entry]) -> _Module | None:
        module = name.removesuffix(".weight")
        held = f"{module}.qweight" in entries and f"{module}.scales" in entries
        return cls(name, (shape[0], shape[1]), entries) if held and len(shape) == 2 else None

    def refused(self, what: str) -> EdgeMtpError:
        return EdgeMtpError(f"{self.words.file.path}: {self.name} {what}")

    def check_order(self) -> None:
        """Each group is of neighbours."""
        width = self.shape[1]
        if self.order is None or width % self.groups:
            return  # the latter is refused elsewhere
        if self.order.dtype not in ("I32", "I64") or self.order.shape != (width,):
            raise self.refused(f"has {self.order.name} as {self.order.dtype} {self.order.shape}: copy it again")
        found, wanted = self.order.rows(), np.arange(width) // (width // self.groups)
        if not np.array_equal(found, wanted):
            at = int(np.argmax(found != wanted))
            raise self.refused(
                f"has column {at} in group {found[at]} (desc_act), and LiteRT's blocks are of neighbours: quantize it"
                f" again with desc_act=False, or {CURE}"
            )

    def check_zeros(self, zeros: npt.NDArray[Any], bits: int) -> None:
        """Zero points [groups, n] are in the middle."""
        middle = 2 ** (bits - 1)
        if zeros.shape != (self.groups, self.shape[0]):
            raise self.refused(f"has zero points of {zeros.shape} for scales of {self.scales.shape}: copy it again")
        if (zeros != middle).any():
            group, row = (int(place) for place in np.argwhere(zeros != middle)[0])
            raise self.refused(
                f"has zero point {zeros[group, row]} in group {group} of row {row}, and LiteRT's integers have"
                f" {middle} (symmetric) only: {_SYMMETRIC}"
            )

    def matrix(self, bits: int, integers: Any) -> PackedMatrix:
        def scales(start: int, stop: int) -> Rows:
            return np.ascontiguousarray(self.scales.columns(start, stop).T)

        path = self.words.file.path
        return matrix(self.name, path, self.shape, bits, self.groups, integers, scales, self.parts)
