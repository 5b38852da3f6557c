"""This machine as a device."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from dataclasses import replace
from pathlib import Path

from edge_mtp.cache import cache_folder
from edge_mtp.device.device import Device, Fingerprint
from edge_mtp.device.fingerprint import read_fingerprint
from edge_mtp.device.load_options import DEFAULT_LOADING, LoadOptions
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.process import LocalProcess, Process
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import CPU, Accelerator

# Files that runners keep: packed weights and their hash, the cache of prompt prefixes, measured costs, hashes of files,
# trials of accelerators.
# NAME.PID is a file that the process PID is writing.
KEPT = (".xnnpack", ".seal", ".prefix", ".costs", ".prefill", ".identity", ".accelerator")
# The most disk space for them, enough for several bundles of 2 GB. The least recently used files are deleted first.
KEPT_BYTES = 10 << 30

# Names the device that OpenVINO uses as the NPU: cpu, gpu or npu. OpenVINO's own choice is npu.
OPENVINO_DEVICE = "EDGE_MTP_OPENVINO_DEVICE"


class HostDevice(Device):
    """Runs bundles on this machine in a child process, with the LiteRT library of `ai-edge-litert`."""

    name = "host"

    def __init__(self) -> None:
        self.link = LocalLink()
        self.folder = str(cache_folder())

    def fingerprint(self) -> Fingerprint:
        return replace(read_fingerprint(self.link, self.folder), kind="host")

    def start(self, bundle: Path, options: LoadOptions = DEFAULT_LOADING) -> Runner:
        """A runner with `bundle` loaded.

        Packed weights, about as large as the bundle's decoder, are kept between runs in `cache_folder()`, within
        `KEPT_BYTES`; where that fails, the runner packs them into memory again each time. Measured costs and prompt
        prefixes are kept beside them, and what trials of accelerators found.
        Raises EdgeMtpError when the runner or the library is missing, or the bundle cannot be loaded.
        """
        command = _command(bundle)
        command += options.flags(None if options.token_bytes is None else str(options.token_bytes))
        if options.accelerator != CPU:
            command += npu_flags()
        runner = Runner(LocalProcess(command))
        prune(_kept(), KEPT_BYTES)
        return runner

    def start_trial(self, bundle: Path, accelerator: Accelerator) -> Process:
        return LocalProcess([*_command(bundle), "--try", accelerator, *npu_flags()])


def _kept() -> Path:
    """The folder for what runners keep."""
    return cache_folder() / "weights"


def _command(bundle: Path) -> list[str]:
    """What starts a runner, without options."""
    command = [str(runner_path()), "--bundle", str(bundle), "--litert", str(litert_library())]
    with contextlib.suppress(OSError):
        _kept().mkdir(parents=True, exist_ok=True)
        command += ["--cache-dir", str(_kept())]
    return command


def prune(cache: Path, kept_bytes: int) -> None:
    """Deletes files that runners keep in `cache`: unfinished ones of killed runners, then the least recently used.

    A runner that has a deleted file open keeps using it. Files that cannot be deleted stay. So do folders: a runner
    that needs the name of one replaces it.
    """
    files: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError):
        for path in cache.iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    continue
                if path.suffix in KEPT:
                    files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
                elif not _is_alive(path.suffix[1:]):
                    path.unlink()
    kept = 0
    for _, size, path in sorted(files, reverse=True):
        kept += size
        if kept > kept_bytes:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True


def npu_flags() -> list[str]:
    """The runner's flags for an NPU of this machine: Intel's, by OpenVINO, whose plug-in `ai-edge-litert` has."""
    folder = litert_library().parent / "vendors" / "intel_openvino"
    flags = ["--npu-libraries", str(folder)] if folder.is_dir() else []
    device = os.environ.get(OPENVINO_DEVICE)
    return flags if device is None else [*flags, "--openvino-device", device]


def litert_library() -> Path:
    """`libLiteRt.so` of the installed `ai-edge-litert`, found without importing the package (which takes seconds)."""
    spec = importlib.util.find_spec("ai_edge_litert")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        library = Path(folder) / "libLiteRt.so"
        if library.is_file():
            return library
    raise EdgeMtpError("libLiteRt.so not found; run 'pip install ai-edge-litert' (2.3)")


def runner_path() -> Path:
    # An editable install keeps built files outside the source folder; the package's path lists both folders.
    package = importlib.util.find_spec("edge_mtp.device")
    for folder in (package.submodule_search_locations or []) if package else []:
        runner = Path(folder) / "bin" / "edge_mtp_runner"
        if runner.is_file():
            return runner
    raise EdgeMtpError("edge_mtp_runner is not installed; reinstall edge-mtp ('pip install .')")
