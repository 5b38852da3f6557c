"""Runs compiled graphs of a bundle through LiteRT's NPU route, and what they were compiled from on the CPU.

    LD_LIBRARY_PATH=OPENVINO python npu_graphs.py BUNDLE COMPILED

For each signature for the NPU it prints a line of JSON: its name, whether the NPU runs all of it, and by output the
largest difference from the CPU's and the CPU's largest value. A process of its own: LiteRT ends it where it cannot load
a graph.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from litert_ctypes import CPU, NPU, PACKAGE, Array, Graph

from edge_mtp.export.compiled import npu_sections
from edge_mtp.formats.bundle import Bundle

DISPATCH = PACKAGE / "vendors" / "intel_openvino" / "dispatch"


def inputs(shapes: dict[str, tuple[int, ...]], tokens: int) -> dict[str, Array]:
    """Hidden states and caches as of a text of which 20 positions are there."""
    random = np.random.default_rng(3)
    given: dict[str, Array] = {}
    for port, shape in shapes.items():
        if port == "mask":
            given[port] = np.where(np.arange(shape[-1]) < 20, 0, -1e4).astype(np.float32) * np.ones(shape, np.float32)
        elif port == "input_pos":
            given[port] = np.full(shape, 19)
        elif port == "token":
            given[port] = random.integers(0, tokens, shape)
        elif port == "scalars":
            given[port] = np.array([[0, 1, 0, 0]], np.float32)
        elif port == "activations" or port.startswith("kv_cache"):
            given[port] = random.standard_normal(shape).astype(np.float32)
        else:
            given[port] = np.zeros(shape, np.int32)
    return given


def main(source: str, compiled: str) -> None:
    before, after = (Bundle(path) for path in (source, compiled))
    (old,), (new,) = npu_sections(before), npu_sections(after)
    end = max(s.end for s in before.sections if s.type == "TFLiteModel")
    data = Path(source).read_bytes()
    cpu = Graph(data[old.begin : end], CPU)
    # A runner hands over what follows the graphs, too.
    npu = Graph(Path(compiled).read_bytes()[new.begin :], NPU, dispatch=DISPATCH)
    for index, name in enumerate(before.models[old.model_type or ""].signatures):
        given = inputs(cpu.shapes(index, "Input"), before.vocab_size or 2)
        expected, found = cpu.run(index, given), npu.run(index, given)
        outputs = {
            port: (float(np.abs(found[port] - array).max()), float(np.abs(array).max()))
            for port, array in expected.items()
        }
        print(json.dumps({"name": name, "full": npu.is_fully_accelerated(), "outputs": outputs}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
