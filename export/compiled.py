"""A bundle's graphs for an NPU, compiled ahead of time for one SoC (docs/compile.md)."""

from __future__ import annotations

import mmap
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.rewrite import replace_section
from edge_mtp.export.socs import Soc, find_soc, sdk_of
from edge_mtp.export.vendor_compiler import compile_graphs
from edge_mtp.formats.bundle import Bundle, Section
from edge_mtp.formats.graph import Graph, graphs_of
from edge_mtp.formats.manifest import EDGE_KEY, SOC_KEY
from edge_mtp.formats.tflite import Model
from edge_mtp.formats.wire import MalformedError
from edge_mtp.output_file import destination, refuse_inputs
from edge_mtp.progress import Progress

NPU = "npu"  # marks the section with the graphs
DISPATCH = "DISPATCH_OP"  # runs what a vendor's compiler has made of a partition
# OpenVINO runs on other devices, too; then it needs no SDK for the NPU.
BACKENDS_OPTION = "intel_openvino_graph_backends"


@dataclass(frozen=True)
class Compiled:
    """A compiled bundle. `operators` counts, by signature, the operators that the NPU runs; `bytes` is the file's size
    and `section_bytes` that of the compiled section."""

    path: Path
    soc: Soc
    operators: dict[str, int]
    bytes: int
    section_bytes: int
    seconds: float


def compile_bundle(
    source: Path,
    soc_name: str,
    output: Path,
    *,
    options: Mapping[str, str] | None = None,
    progress: Progress = lambda what, done: None,
) -> Compiled:
    """Write `output`: the bundle `source` with its graphs for an NPU compiled for a SoC.

    The NPU must take every operator. All other sections stay byte for byte as they are. Until it is whole, the bundle
    lies in a folder beside `output`, which a refusal removes.

    Args:
        soc_name: a name of `socs.socs()`.
        options: flags for the vendor's plug-in by name, without `--`.
        progress: told how far it is, from 0 to 1.

    Raises:
        EdgeMtpError: there is no such SoC, SDK or graph, the compiler does not take all of a graph, or the place of the
            output does not allow it.
    """
    began = time.monotonic()
    options = options or {}
    soc = find_soc(soc_name)
    bundle = Bundle(source)
    section = npu_graphs(bundle)
    sdk = sdk_of(soc.vendor, needs_npu=options.get(BACKENDS_OPTION, NPU) not in ("cpu", "gpu"))
    if sdk.cure:
        raise EdgeMtpError(sdk.cure)
    refuse_inputs([output], [source])
    if output.exists() and not output.is_file():
        raise EdgeMtpError(f"output {output} is no file, and a bundle would replace it: name a file")
    target = destination(output)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            folder = Path(scratch)
            graphs, compiled, whole = folder / "graphs.tflite", folder / "compiled.tflite", folder / "bundle"
            _check_disk(folder, bundle)
            progress("write the graphs with their weights", 0.0)
            graphs.write_bytes(bundle.content(section))
            with bundle.reading(section):
                wanted = graphs_of(section.data)[0]
            compile_graphs(
                soc, graphs, compiled, options, len(wanted), lambda what, done: progress(what, 0.05 + 0.9 * done)
            )
            graphs.unlink()
            if not compiled.is_file() or not compiled.stat().st_size:
                raise EdgeMtpError(f"{soc.vendor.name}'s compiler wrote nothing: update its SDK")
            with compiled.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _check(soc, section.data, data)
            progress("write the bundle", 0.95)
            replace_section(bundle, section, data, {SOC_KEY: soc.name}, whole)
            written = Bundle(whole)
            size, section_size = written.size, npu_sections(written)[0].size
            whole.replace(target)
    except OSError as error:
        raise EdgeMtpError(f"{output} cannot be written ({error.strerror}): choose another place") from error
    progress("write the bundle", 1.0)
    operators = {name: len(graph.operators) for name, graph in wanted.items()}
    return Compiled(output, soc, operators, size, section_size, time.monotonic() - began)


def npu_sections(bundle: Bundle) -> list[Section]:
    """The sections with graphs for an NPU alone, compiled or not."""
    return [s for s in bundle.sections if s.type == "TFLiteModel" and s.items.get(EDGE_KEY) == NPU]


def npu_graphs(bundle: Bundle) -> Section:
    """The section with the graphs to compile. Raises EdgeMtpError if there is none, or a compiled one."""
    sections = npu_sections(bundle)
    if not sections:
        raise EdgeMtpError(f"{bundle.path} has no graphs for an NPU: export it with --accelerators cpu,npu")
    compiled = sections[0].items.get(SOC_KEY)
    if compiled is not None:
        raise EdgeMtpError(
            f"{bundle.path} is compiled for {compiled} already: compile the bundle that `edge-mtp export` wrote"
        )
    return sections[0]


def _check_disk(folder: Path, bundle: Bundle) -> None:
    """The graphs with their weights, what the compiler makes of them, and the bundle are on the disk at a time."""
    needed, free = 3 * bundle.size, shutil.disk_usage(folder).free
    if free < needed:
        raise EdgeMtpError(
            f"{folder.parent} has {free >> 20} MiB free, compiling needs {-(-needed >> 20)} MiB: make room or write"
            " elsewhere"
        )


def _check(soc: Soc, before: memoryview, after: memoryview) -> None:
    """Raises EdgeMtpError unless `after` has the signatures of `before`, and the NPU runs all of each."""
    try:
        known, made, graphs = Model.read(before).signatures, Model.read(after).signatures, graphs_of(after)[0]
        left = {name: unaccelerated(graphs[name]) for name in known if name in graphs}
    except MalformedError as error:
        raise EdgeMtpError(f"{soc.vendor.name}'s compiler wrote a damaged model ({error}): update its SDK") from error
    for name, signature in known.items():
        same = name in made and (made[name].inputs, made[name].outputs) == (signature.inputs, signature.outputs)
        if not same:
            raise EdgeMtpError(f"{soc.vendor.name}'s compiler changed the inputs or outputs of {name}: update its SDK")
    refused = {name: counts for name, counts in left.items() if counts}
    if refused:
        name, counts = next(iter(refused.items()))
        listed = ", ".join(f"{count} {operator}" for operator, count in counts.most_common())
        others = f" (and {len(refused) - 1} more graphs)" if len(refused) > 1 else ""
        raise EdgeMtpError(
            f"{soc.vendor.name}'s compiler leaves {listed} of {name} to the CPU{others}: {soc.name} cannot run this"
            " bundle whole; use the CPU or the GPU there"
        )


def unaccelerated(graph: Graph) -> Counter[str]:
    """The operators of a compiled graph that the NPU does not run, by name."""
    return Counter(_operator_name(each.kind) for each in graph.operators if each.kind != DISPATCH)


def _operator_name(kind: int | str) -> str:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return kind if isinstance(kind, str) else names.get(kind, f"operator {kind}")
