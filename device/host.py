"""This machine as a device."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edge_mtp.cache import cache_folder
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError


class HostDevice:
    """Runs bundles in a child process on this machine's CPU, with the LiteRT library of `ai-edge-litert`."""

    name = "host"

    def start(self, bundle: Path, *, threads: int | None = None) -> Runner:
        """A runner with `bundle` loaded. `threads` None leaves the number to LiteRT.

        Packed weights are kept in `cache_folder()` between runs.
        Raises EdgeMtpError when the runner or the library is missing, or the bundle cannot be loaded.
        """
        cache = cache_folder() / "weights"
        cache.mkdir(parents=True, exist_ok=True)
        command = [str(_runner_path()), "--bundle", str(bundle), "--litert", str(litert_library())]
        command += ["--cache-dir", str(cache)]
        if threads is not None:
            command += ["--threads", str(threads)]
        return Runner(command)


def litert_library() -> Path:
    """`libLiteRt.so` of the installed `ai-edge-litert`, found without importing it (an import takes seconds)."""
    spec = importlib.util.find_spec("ai_edge_litert")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        library = Path(folder) / "libLiteRt.so"
        if library.is_file():
            return library
    raise EdgeMtpError("libLiteRt.so not found; run 'pip install ai-edge-litert' (2.3)")


def _runner_path() -> Path:
    # An editable install keeps built files apart from the sources; the package's path lists both folders.
    package = importlib.util.find_spec("edge_mtp.device")
    for folder in (package.submodule_search_locations or []) if package else []:
        runner = Path(folder) / "bin" / "edge_mtp_runner"
        if runner.is_file():
            return runner
    raise EdgeMtpError("edge_mtp_runner is not installed; reinstall edge-mtp ('pip install .')")
