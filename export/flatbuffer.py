"""TFLite files as flatbuffers' object tree (`ModelT`), to be changed and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError

FILE_IDENTIFIER = b"TFL3"
LARGEST = 2**31 - 1  # flatbuffers' offsets are signed 32-bit


def read_model(path: Path) -> Any:
    """The whole model, weights included.

    Raises:
        EdgeMtpError: the file is larger than a flatbuffer can be, so that its weights lie outside.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise EdgeMtpError(
            f"the graphs take {size >> 20} MiB, more than the {LARGEST >> 20} MiB supported: export a smaller target"
        )
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise ValueError(f"{path} keeps weights outside its flatbuffer")
    return model


def write_model(model: Any, path: Path) -> None:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    path.write_bytes(builder.Output())
