"""Runs a vendor's compiler on a TFLite file, through LiteRT's `apply_plugin_main`."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.socs import Soc
from edge_mtp.progress import Progress

PROGRAM = Path("tools/apply_plugin_main")
# What the log has for each graph: LiteRT's line before the compiler gets it, and OpenVINO's when it begins with it.
# Of the other vendors' compilers no log has been seen.
PARTITIONED = re.compile(r"Partitioned subgraph<\d+>, selected \d+ ops")
BEGUN = re.compile(r"Compiling partition \d+")
FAULT = re.compile(r"(?:ERROR|FATAL): ?(?:\[[\w.]+:\d+\] ?)?")
# Lines that begin otherwise continue the one before.
BEGINNING = re.compile(r"(?:INFO|VERBOSE|WARNING|ERROR|FATAL|\[LITERT_TOOLS)\b")
LONGEST_FAULT = 400  # characters of a message
KEPT_LINES = 2000


def compile_graphs(
    soc: Soc, graphs: Path, compiled: Path, options: Mapping[str, str], signatures: int, progress: Progress
) -> None:
    """Compile the TFLite file `graphs` for a SoC, to the TFLite file `compiled`. Both names end in `.tflite`.

    Args:
        options: flags for the vendor's plug-in by name, without `--`.
        signatures: how many graphs there are, for the progress.

    Raises:
        EdgeMtpError: the vendor's compiler refuses an option or a graph, or crashes.
    """
    from ai_edge_litert.aot.core import aot_types, common, components
    from ai_edge_litert.aot.vendors import import_vendor

    class Plugin(components.ApplyPluginT):  # type: ignore[misc]  # LiteRT has no types
        """What LiteRT calls with the flags of a vendor. Its own one hides what the compiler says."""

        def __call__(self, source: Any, target: Any, manufacturer: str, model: str, **flags: Any) -> None:
            folders = [flags.pop("sdk_libs_path", None), common.construct_ld_library_path()]
            settings = {
                "cmd": "apply",
                "model": source.path,
                "o": target.path,
                "soc_manufacturer": manufacturer,
                "soc_model": model,
                "err": "--",
                **flags,
            }
            if taken := sorted(settings.keys() & options.keys()):
                raise EdgeMtpError(f"the option {taken[0]} is given by edge-mtp: drop it")
            settings |= options
            _run(
                [str(common.get_resource(PROGRAM)), *(f"--{name}={value}" for name, value in settings.items())],
                os.pathsep.join(filter(None, folders)),
                soc,
                (f"compile for {soc.name}", signatures),
                progress,
            )

    importlib.import_module(f"ai_edge_litert.aot.vendors.{soc.vendor.module}.{soc.vendor.module}_backend")
    target = soc.target
    backend = import_vendor.import_vendor(target.backend_id()).create({**target.flatten(), "compilation_config": {}})
    try:
        backend.call_component(
            aot_types.Model.create_from_path(graphs), aot_types.Model.create_from_path(compiled), Plugin()
        )
    except FileNotFoundError as error:
        raise EdgeMtpError(f"this LiteRT has no compiler: {error}; compile on Linux on x86-64") from error


def _run(command: list[str], library_path: str, soc: Soc, work: tuple[str, int], progress: Progress) -> None:
    """Run the program with its libraries. Raises EdgeMtpError with its complaint."""
    what, graphs = work
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path}
    lines: list[str] = []
    partitioned = begun = 0
    progress(what, 0.0)
    try:
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
    except OSError as error:
        raise EdgeMtpError(f"{command[0]} cannot be started ({error.strerror}): reinstall ai-edge-litert") from error
    with started as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                lines.append(line.rstrip())
                del lines[:-KEPT_LINES]
                if PARTITIONED.search(line):
                    partitioned += 1
                    progress(what, 0.1 * min(1.0, partitioned / graphs))
                elif BEGUN.search(line):
                    begun = min(begun + 1, graphs)
                    progress(f"{what}, graph {begun} of {graphs}", 0.1 + 0.9 * (begun - 1) / graphs)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise EdgeMtpError(f"{soc.vendor.name}'s compiler cannot compile for {soc.name}: {complaint(lines)}")


def complaint(lines: Iterable[str]) -> str:
    """The first fault that the compiler's log tells of, in one line."""
    found: list[str] = []
    last = ""
    for line in lines:
        last = line.strip() or last
        if BEGINNING.match(line):
            if found:
                break
            if fault := FAULT.match(line):
                found.append(line[fault.end() :].strip())
        elif found and line.strip():
            found.append(line.strip())
    return (" ".join(found) or last or "it says nothing")[:LONGEST_FAULT]
