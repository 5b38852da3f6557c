"""A file of tensors, read at any place by several threads at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from edge_mtp.errors import EdgeMtpError


class TensorFile:
    """One file, whose data is read with `pread`.

    It is not memory-mapped: so a shrinking file or a failing disk gives an error to report instead of a signal, and
    pages that were read do not stay mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._lock = threading.Lock()

    def bytes_at(self, offset: int, count: int, tensor: str) -> memoryview:
        """`count` bytes from `offset`."""
        data = bytearray(count)
        view = memoryview(data)
        done = 0
        try:
            handle = self._open()
            while done < count:
                # The kernel returns at most 2 GiB per call.
                got = os.preadv(handle, [view[done:]], offset + done)
                if not got:
                    raise EdgeMtpError(f"{self.path} ends within tensor {tensor}: copy it again")
                done += got
        except OSError as error:
            raise EdgeMtpError(
                f"{self.path}: tensor {tensor} cannot be read ({error.strerror}): check the file and its disk"
            ) from error
        return view

    def _open(self) -> int:
        with self._lock:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._handle

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # type: ignore[arg-type]
