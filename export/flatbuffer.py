"""Reads TFLite files into flatbuffers' object tree (`ModelT`), and writes the tree back."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError

FILE_IDENTIFIER = b"TFL3"
LARGEST = 2**31 - 1  # flatbuffers' offsets are signed 32-bit
WEIGHTS_ALIGNMENT = 64  # LiteRT needs it to use host memory without a copy


def parse(data: bytes) -> Any:
    """The object tree of a TFLite file, including the weights stored after its flatbuffer."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def serialize(model: Any) -> bytes:
    """The smallest flatbuffer of an object tree.

    Raises:
        EdgeMtpError: it exceeds the size limit of a flatbuffer.
    """
    weights = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    if weights > LARGEST:
        raise EdgeMtpError(
            f"the graphs hold {weights >> 20} MiB of weights, more than the {LARGEST >> 20} MiB of a TFLite file:"
            " export a smaller target"
        )
    builder = _SharingBuilder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
    """Writes equal strings and vectors once, and weights aligned.

    Every signature repeats the shapes of its tensors and the scales of its weights. Readers cannot tell whether two
    fields share a vector.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        key = ("", s.encode(encoding, errors) if isinstance(s, str) else bytes(s))
        if key not in self._written:
            self._written[key] = super().CreateString(s, encoding, errors)
        return self._written[key]

    def CreateNumpyVector(self, x: Any) -> int:  # noqa: N802
        if x.dtype == np.uint8:  # a buffer; compact() has already merged equal ones
            self.Prep(WEIGHTS_ALIGNMENT, x.size)
            return int(super().CreateNumpyVector(x))
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]
