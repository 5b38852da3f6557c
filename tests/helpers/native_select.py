"""device/native/select.c, by itself and called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray


class Core:
    """The functions of select.h on numpy arrays."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.edge_select_scratch_bytes.restype = ctypes.c_size_t
        self._library.edge_uniform.restype = ctypes.c_double
        self._scratch: NDArray[np.uint64] = np.zeros(0, np.uint64)

    def uniform(self, control: NDArray[np.int32], position: int) -> float:
        return float(self._library.edge_uniform(_pointer(control), ctypes.c_int32(position)))

    def select(
        self,
        logits: NDArray[np.float32],
        control: NDArray[np.int32],
        scalars: NDArray[np.float32],
        mask: NDArray[np.int32] | None,
        position: int,
    ) -> int:
        arguments = (_pointer(logits), len(logits), _pointer(control), _pointer(scalars), _pointer(mask))
        return int(self._library.edge_select(*arguments, ctypes.c_int32(position), self.scratch(len(logits))))

    def verify(
        self,
        logits: NDArray[np.float32],
        draft: NDArray[np.int32],
        control: NDArray[np.int32],
        scalars: NDArray[np.float32],
        token_mask: NDArray[np.int32] | None,
    ) -> tuple[int, list[int]]:
        rows, vocab = logits.shape
        tokens = np.full(rows, 1 << 30, np.int32)
        pointers = (_pointer(draft), _pointer(control), _pointer(scalars), _pointer(token_mask))
        scratch = self.scratch(vocab)
        n = self._library.edge_verify(_pointer(logits), rows, vocab, *pointers, scratch, _pointer(tokens))
        return int(n), tokens.tolist()

    def draft(
        self,
        logits: NDArray[np.float32],
        ids: NDArray[np.int32],
        control: NDArray[np.int32],
        scalars: NDArray[np.float32],
        offset: int,
    ) -> tuple[int, float]:
        confidence = ctypes.c_float(2.0)
        arguments = (_pointer(logits), _pointer(ids), len(ids), _pointer(control), _pointer(scalars), offset)
        token = self._library.edge_draft(*arguments, self.scratch(len(ids)), ctypes.byref(confidence))
        return int(token), confidence.value

    def scratch(self, vocab: int) -> ctypes.c_void_p:
        words = int(self._library.edge_select_scratch_bytes(vocab)) // 8
        if len(self._scratch) < words:
            self._scratch = np.zeros(words, np.uint64)
        return _pointer(self._scratch)


def _pointer(array: NDArray[Any] | None) -> ctypes.c_void_p:
    if array is None:
        return ctypes.c_void_p()
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@cache
def core(build: str = "select") -> Core:
    """The core as built, or without the scans that only some machines run: `select_baseline`."""
    return Core(part(build))
