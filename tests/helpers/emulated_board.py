"""An aarch64 board without its processor: the runner cross-built, LiteRT's own library, Debian's, and QEMU.

XNNPACK asks /proc/cpuinfo what the processor can, which QEMU 7 and 8 answer with this machine's; QEMU 10 does it right.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from adb_device import CACHE, UnavailableError, packages

from edge_mtp.cache import exclusive

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "aarch64-runner"


@functools.cache
def runner() -> Path:
    """The runner, built by its preset; a few minutes the first time. Raises UnavailableError."""
    if not shutil.which("aarch64-linux-gnu-g++") or not shutil.which("cmake"):
        raise UnavailableError("no cross compiler (Debian: g++-aarch64-linux-gnu)")
    sources = sorted(ROOT.glob("build/**/_deps/xgrammar/xgrammar-*/.unpacked"))
    options = [f"-DXGRAMMAR_SOURCE_DIR={sources[-1].parent}"] if sources else []
    BUILD.mkdir(parents=True, exist_ok=True)
    with exclusive(BUILD):
        for command in (
            ["cmake", "--preset", "linux-aarch64", "-S", str(ROOT), "-B", str(BUILD), *options],
            ["cmake", "--build", str(BUILD), "--target", "edge_mtp_runner", "--parallel", "2"],
        ):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return BUILD / "device" / "native" / "edge_mtp_runner"


@functools.cache
def litert() -> Path:
    """libLiteRt.so out of the aarch64 wheel of the release that is installed here. Raises UnavailableError."""
    release = version("ai-edge-litert")
    library = CACHE.parent / "emulated" / f"libLiteRt-{release}-aarch64.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(library.parent):
        return library if library.is_file() else _fetched(library, release)


def _fetched(library: Path, release: str) -> Path:
    """LiteRT's library of a release, out of its wheel."""
    wheels = library.parent / "wheels"
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        "manylinux_2_27_aarch64",
        "--python-version",
        python,
    ]
    pip = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), *options, f"ai-edge-litert=={release}"]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise UnavailableError(f"no aarch64 wheel: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        data = wheel.read("ai_edge_litert/libLiteRt.so")
    library.with_suffix(".part").write_bytes(data)
    library.with_suffix(".part").rename(library)
    shutil.rmtree(wheels)
    return library


@functools.cache
def emulator() -> list[str]:
    """The words before an aarch64 program that run it here. Raises UnavailableError."""
    qemu = packages(["qemu-user"], "amd64", only="./usr/bin/qemu-aarch64") / "usr/bin/qemu-aarch64"
    system = packages(["libstdc++6"], "arm64")
    with contextlib.suppress(FileExistsError):
        (system / "lib").symlink_to("usr/lib")  # as the package base-files does
    return [str(qemu), "-L", str(system)]
