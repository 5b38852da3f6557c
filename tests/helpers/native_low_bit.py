"""device/native/low_bit.cc, by itself and called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matrix:
    """Weights as a bundle stores them: bytes [n, k * bits / 8], and float32 [n] or float16 [n, k / block] scales."""

    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | NDArray[np.float16]
    columns: int
    bits: int

    @property
    def block(self) -> int:
        """Weights that share a scale; 0: the whole row."""
        return self.columns // self.scales.shape[1] if self.scales.ndim == 2 else 0


class LowBit:
    """The kernel of low-bit products on numpy arrays, in `workers` threads."""

    def __init__(self, library: Path, workers: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.low_bit_pool.restype = ctypes.c_void_p
        self._library.low_bit_multiply.restype = ctypes.c_char_p
        self._pool = ctypes.c_void_p(self._library.low_bit_pool(workers))

    def sums(self, matrix: Matrix) -> NDArray[np.float32]:
        """row_sums(), float32 [n]."""
        sums = np.full(len(matrix.data), np.nan, np.float32)
        scales = _pointer(matrix.scales) if matrix.block else None
        self._library.low_bit_sums(_pointer(matrix.data), scales, *_sizes(matrix), _pointer(sums), self._pool)
        return sums

    def __call__(self, rows: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
        """rows [T,k] -> [T,n].

        Raises:
            ValueError: the kernel does not take such a matrix.
        """
        call, out = self.prepared(rows, matrix)
        call()
        return out

    def prepared(self, rows: NDArray[np.float32], matrix: Matrix) -> tuple[Callable[[], None], NDArray[np.float32]]:
        """The call alone, to be timed, and where it puts its result."""
        out = np.full((len(rows), len(matrix.data)), np.nan, np.float32)
        sums, scales, block = self.sums(matrix), _pointer(matrix.scales), matrix.block > 0
        kept = rows, matrix, sums  # as long as the call
        operands = (
            _pointer(matrix.data),
            None if block else scales,
            scales if block else None,
            _pointer(sums),
            *_sizes(matrix),
            _pointer(rows),
            len(rows),
            _pointer(out),
            self._pool,
        )

        def call(kept: object = kept) -> None:
            why = self._library.low_bit_multiply(*operands)
            if why is not None:
                raise ValueError(why.decode())

        return call, out


def _sizes(matrix: Matrix) -> tuple[int, int, int, int]:
    return len(matrix.data), matrix.columns, matrix.bits, matrix.block


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@cache
def low_bit(build: str = "low_bit", workers: int = 1) -> LowBit:
    """The kernel as built, or without the instructions that only some machines have: `low_bit_baseline`."""
    return LowBit(part(build), workers)
