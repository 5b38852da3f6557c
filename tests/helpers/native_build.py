"""Native libraries and programs for the tests, built by CMake under build/ of the checkout.

Every process of a test run brings a target up to date once; what an earlier one has built, and ccache where it is
installed, are used again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from edge_mtp.cache import exclusive

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "device" / "native"
BUILD = ROOT / "build" / "native-tests"


def part(target: str, *options: str) -> Path:
    """A target of device/native/tests/python, which needs CMake and a compiler and no network."""
    return built(NATIVE / "tests" / "python", BUILD / "parts", target, *options)


@cache
def built(project: Path, folder: Path, target: str, *options: str) -> Path:
    """The library or program `target` of a CMake project, built in `folder`. Fails with CMake's output."""
    # The interpreter that builds is the one whose pip finds packages.
    settings = [f"-DPython3_EXECUTABLE={sys.executable}"]
    settings += [f"-DCMAKE_{kind}_OUTPUT_DIRECTORY={folder}" for kind in ("LIBRARY", "RUNTIME")]
    if shutil.which("ccache"):
        settings += [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX")]
    jobs = str(os.cpu_count() or 1)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        for command, seconds in (
            (["cmake", "-S", str(project), "-B", str(folder), *settings, *options], 300),
            (["cmake", "--build", str(folder), "--target", target, "--parallel", jobs], 1800),
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return next(
        path for path in (folder / f"{target}.so", folder / f"lib{target}.so", folder / target) if path.exists()
    )
