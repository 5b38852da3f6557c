"""device/native/candidates.cc, by itself and called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray

from edge_mtp.export.encodings import Encoded, Encoding

TYPES = {32: 0, 16: 1, 8: 2, 4: 3, 2: 4}  # of device/native/matrix.h, by bits


class Candidates:
    """The kernel of the candidates on numpy arrays, in `workers` threads."""

    def __init__(self, library: Path, workers: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.candidates_pool.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._library.candidates_pool(workers))

    def __call__(
        self,
        state: NDArray[np.float32],
        nearest: NDArray[np.int32],
        head: Encoded,
        encoding: Encoding,
        tokens: NDArray[np.int32],
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """state [H], nearest [n], head [C*M,H], tokens [C,M] -> logits and ids, [n,M] each."""
        logits = np.zeros((len(nearest), tokens.shape[1]), np.float32)
        ids = np.full(logits.shape, -7, np.int32)
        arrays = (state, nearest, head.data, head.scales, tokens, logits, ids)
        sizes = len(nearest), *tokens.shape, len(state), TYPES[encoding.bits], encoding.block or 0
        self._library.candidates(*map(_pointer, arrays), *sizes, self._pool)
        return logits, ids


def _pointer(array: NDArray[Any] | None) -> ctypes.c_void_p:
    assert array is None or array.flags.c_contiguous
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


@cache
def candidates(build: str = "candidates", workers: int = 1) -> Candidates:
    """The kernel as built, or without the instructions that only some machines have: `candidates_baseline`."""
    return Candidates(part(build), workers)
