"""device/native/attention.cc, by itself and called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray


class Attention:
    """The kernel of attention on numpy arrays, in `workers` threads."""

    def __init__(self, library: Path, workers: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.attention_pool.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._library.attention_pool(workers))

    def __call__(
        self,
        query: NDArray[np.float32],
        keys: NDArray[Any],
        values: NDArray[Any],
        seen: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """query [1,h,R,D], keys [1,h,C,D] and values [1,h,D,C] (float32 or int8), seen [T,2] -> [1,h,R,D]."""
        _, heads, rows, dim = query.shape
        out = np.full_like(query, np.nan)
        pointers = [_pointer(array) for array in (query, keys, values, seen, out)]
        sizes = heads, rows, len(seen), keys.shape[2], dim, int(keys.dtype == np.int8)
        self._library.attention(*pointers, *sizes, self._pool)
        return out


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@cache
def attention(build: str = "attention", workers: int = 1) -> Attention:
    """The kernel as built, or without the instructions that only some machines have: `attention_baseline`."""
    return Attention(part(build), workers)
