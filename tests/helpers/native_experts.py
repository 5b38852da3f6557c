"""device/native/experts.cc, by itself and called through ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray

from edge_mtp.export.encodings import Encoded, Encoding

TYPES = {"fp32": 0, "fp16": 1, "int8": 2, "int4": 3, "int2": 4}  # as matrix.h counts


@dataclass
class Matrices:
    """The matrices of all experts, [experts * rows, columns], as a bundle holds them."""

    encoding: Encoding
    encoded: Encoded
    columns: int

    @property
    def form(self) -> tuple[int, int]:
        """How they are stored, and the block."""
        block = self.encoding.block or 0
        return TYPES["int4" if block else self.encoding.name], block


class Experts:
    """The kernel of experts on numpy arrays, in `workers` threads."""

    def __init__(self, library: Path, workers: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.experts_pool.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._library.experts_pool(workers))

    def __call__(
        self,
        rows: NDArray[np.float32],
        chosen: NDArray[np.int32],
        shares: NDArray[np.float32],
        gate_up: Matrices,
        down: Matrices,
    ) -> NDArray[np.float32]:
        """rows [T,H], chosen and shares [T,k] -> [T,H]."""
        count, hidden = rows.shape
        out = np.full_like(rows, np.nan)
        weights = [array for m in (gate_up, down) for array in (m.encoded.data, m.encoded.scales)]
        pointers = [_pointer(array) for array in (rows, chosen, shares, *weights, out)]
        experts = len(down.encoded.data) * 8 // (down.encoding.bits * down.columns * hidden)
        sizes = count, chosen.shape[1], experts, hidden, down.columns
        self._library.experts(*pointers, *sizes, *gate_up.form, *down.form, self._pool)
        return out

    def read(self, words: NDArray[np.uint64]) -> None:
        """Read all of an array of whole 512 KiB, as fast as memory gives it."""
        self._library.read_memory(_pointer(words), ctypes.c_int64(len(words)), self._pool)


def _pointer(array: NDArray[Any] | None) -> ctypes.c_void_p:
    assert array is None or array.flags.c_contiguous
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


@cache
def experts(build: str = "experts", workers: int = 1) -> Experts:
    """The kernel as built, or without the instructions that only some machines have: `experts_baseline`."""
    return Experts(part(build), workers)
