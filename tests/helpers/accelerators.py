"""Accelerators in software: SwiftShader as a GPU, OpenVINO's device for the CPU as an NPU."""

from __future__ import annotations

import os
from pathlib import Path

import openvino_libraries
import pytest

from edge_mtp.device.host import OPENVINO_DEVICE


def environment(accelerator: str, driver: Path) -> dict[str, str]:
    """The variables under which a runner has the accelerator. Skips the test where it is not installed."""
    if accelerator == "gpu":
        folders, others = [driver.parent], {"VK_ICD_FILENAMES": str(driver)}
    else:
        folder = openvino_libraries.folder()
        if folder is None:
            pytest.skip("no OpenVINO: pip install --no-deps openvino==2026.3.1")
        folders, others = [folder], {OPENVINO_DEVICE: "cpu"}
    known = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([*map(str, folders), *([known] if known else [])])} | others
