"""OpenVINO's libraries, through whose device for the CPU LiteRT's way to an NPU runs without an NPU."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

NEEDED = ("libopenvino.so.*", "libopenvino_tensorflow_lite_frontend.so.*")  # by the plug-in that ai-edge-litert ships


def folder() -> Path | None:
    """The package's libraries; None where it is not installed."""
    found = importlib.util.find_spec("openvino")
    return None if found is None or found.origin is None else Path(found.origin).parent / "libs"


def load() -> None:
    """Make them known to this process: the plug-in looks for them only where both packages lie in one folder."""
    libraries = folder()
    assert libraries is not None, "openvino is installed"
    for name in NEEDED:
        ctypes.CDLL(str(next(libraries.glob(name))), ctypes.RTLD_GLOBAL)
