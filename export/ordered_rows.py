"""Reads the rows of a matrix in another order than the checkpoint has them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from edge_mtp.export.encodings import Encoded, Encoding, encode

CHUNK = 1 << 22  # weights that are read and encoded at a time


class OrderedRows:
    """Row i is row `order[i]` of those that `read` gives, as `store.Read` wants them.

    Files are slow to read a row at a time, so the first call reads all and keeps them encoded, until the last row was
    asked for.
    """

    def __init__(self, read: Callable[[int, int], Any], width: int, encoding: Encoding, order: Any) -> None:
        self._read, self._width, self._encoding, self._order = read, width, encoding, order
        self._lock = Lock()  # chunks of a matrix are read in several threads
        self._all: Encoded | None = None
        self._left = len(order)

    def __call__(self, start: int, stop: int) -> Encoded:
        with self._lock:
            held = self._all = self._all or self._read_all()
            self._left -= stop - start
            if not self._left:
                self._all = None
        order = self._order[start:stop]
        data = held.data.reshape(len(self._order), -1)[order].reshape(-1)
        return Encoded(data, None if held.scales is None else held.scales[order])

    def _read_all(self) -> Encoded:
        count = len(self._order)
        step = max(1, CHUNK // self._width)
        parts = [self._encoded(start, min(start + step, count)) for start in range(0, count, step)]
        scales = [part.scales for part in parts if part.scales is not None]
        return Encoded(np.concatenate([part.data for part in parts]), np.concatenate(scales) if scales else None)

    def _encoded(self, start: int, stop: int) -> Encoded:
        rows = self._read(start, stop)
        return rows if isinstance(rows, Encoded) else encode(rows, self._encoding)
