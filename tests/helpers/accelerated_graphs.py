"""Runs a bundle's graphs for a GPU or an NPU there and on the CPU, and tells how far their outputs differ.

    python accelerated_graphs.py BUNDLE ACCELERATOR SIGNATURES [--driver FILE] [--precision 1|2] [--scale FACTOR]
        [--compiled BUNDLE]

For each of the comma-separated signatures it prints a line of JSON: its name, whether the accelerator runs all of it,
and by output the largest difference from the CPU's and the CPU's largest value. A process of its own: LiteRT ends it
where it cannot compile a graph. The inputs are a text's: its first part is in the caches, and the graph gets the tokens
after that. `--scale` multiplies its embeddings. A GPU wants the Vulkan driver. `--compiled` is what `edge-mtp compile`
has made of the bundle: its graphs run in place of the bundle's.

`told` starts it, and `check` holds what it tells to a tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino_libraries
import vulkan
from ai_edge_litert.interpreter import Interpreter
from litert_ctypes import CPU, GPU, NPU, Array, Graph

from edge_mtp.formats.bundle import PREFIXES, Bundle

HIDDEN = -1e4
NUMBERS = {"gpu": GPU, "npu": NPU}
FP32, FP16 = "2", "1"  # LiteRT's numbers for the precision in which a GPU computes
PARTITIONS = 64  # more than any graph here has


class Graphs:
    """The graphs for an accelerator, one by one, and what is needed to feed them."""

    def __init__(
        self, path: Path, accelerator: str, precision: str = FP32, scale: float = 1.0, compiled: Path | None = None
    ) -> None:
        self.bundle = Bundle(path)
        section = self.bundle.own_graphs(accelerator)
        assert section is not None
        self.model = _graphs(path, accelerator)
        self.ahead = _graphs(compiled, accelerator) if compiled is not None else None
        self.names = list(self.bundle.models[section.model_type or ""].signatures)
        self.accelerator, self.precision, self.scale = accelerator, precision, scale
        self.tables = {
            name: Interpreter(model_content=bytes(section.data), num_threads=1).get_signature_runner(name)
            for name in ("embedder", "per_layer_embedder")
            if (section := self.bundle.section("TFLiteModel", name)) is not None
        }

    def compiled(self, name: str, *, on_cpu: bool) -> Graph:
        options = {"runtime_options_string": f'enable_profiling = false\nselected_signature_keys = ["{name}"]\n'}
        if on_cpu:
            return Graph(self.model, CPU, options=options)
        if self.accelerator == "gpu":
            return Graph(self.model, GPU, options=options | {"gpu_options": f"precision = {self.precision}\n"})
        if self.ahead is not None:
            return Graph(self.ahead, NPU, vendor="intel_openvino")
        # OpenVINO's own device for the CPU, 0, for every part of the graph.
        devices = "".join(f"graph.{part}.graph_backend = 0\n" for part in range(PARTITIONS))
        return Graph(self.model, NPU, options=options | {"intel_openvino": devices}, vendor="intel_openvino")

    def inputs(self, graph: Graph, name: str, tokens: list[int], position: int, caches: dict[str, Array]) -> Any:
        """What `name` takes: `tokens` from `position` on, and fixed values for what a request says."""
        random = np.random.default_rng(7)
        given: dict[str, Any] = {}
        # A draft sees the tokens before the one that it follows, and graphs for an NPU what is cached.
        sees_cached_only = "draft" in name or self.accelerator == "npu"
        for port, shape in graph.shapes(graph.index(name), "Input").items():
            if port.startswith("kv_cache_"):
                given[port] = caches.get(port, np.zeros(shape, np.float32))
            elif port == "mask":
                given[port] = np.full(shape, HIDDEN, np.float32)
                for row in range(shape[2]):
                    given[port][..., row, : position if sees_cached_only else position + row + 1] = 0
            elif port == "input_pos":
                given[port] = np.arange(position, position + shape[0]) - ("draft" in name)
            elif port in ("embeddings", "per_layer_embeddings"):
                given[port] = self.embedded(port, tokens[: shape[1]]) * (self.scale if port == "embeddings" else 1)
            elif port == "activations":
                given[port] = random.standard_normal(shape).astype(np.float32)
            elif port == "token":
                given[port] = tokens[:1]
            else:
                given[port] = np.zeros(shape)
        return given

    def embedded(self, port: str, tokens: list[int]) -> Array:
        table = self.tables["embedder" if port == "embeddings" else "per_layer_embedder"]
        rows = [table(token_ids=np.array([[token]], np.int32))["embeddings"] for token in tokens]
        return np.concatenate(rows, axis=1)

    def prefilled(self, tokens: list[int], prefill: str) -> dict[str, Array]:
        """The caches after `tokens`, by the CPU."""
        graph, rows = self.compiled(prefill, on_cpu=True), int(prefill.rpartition("_")[2])
        caches: dict[str, Array] = {}
        for start in range(0, len(tokens), rows):
            inputs = self.inputs(graph, prefill, tokens[start : start + rows], start, caches)
            append(caches, graph.run(graph.index(prefill), inputs), start, inputs["mask"].shape[-1])
        return caches


def _graphs(path: Path, accelerator: str) -> bytes:
    bundle = Bundle(path)
    section = bundle.own_graphs(accelerator)
    assert section is not None
    return bytes(bundle.content(section))


def append(caches: dict[str, Array], outputs: dict[str, Array], position: int, context: int) -> None:
    """Take what a graph gives out into the caches: whole ones, or the rows from `position` on."""
    for name, array in outputs.items():
        if name.startswith("kv_cache_"):
            caches[name] = array
        elif name.startswith("kv_new_"):
            cache, axis = name.replace("new", "cache"), 2 if "_k_" in name else 3
            size = [context if at == axis else length for at, length in enumerate(array.shape)]
            index = [slice(None)] * axis + [slice(position, position + array.shape[axis])]
            caches.setdefault(cache, np.zeros(size, array.dtype))[tuple(index)] = array


def told(
    bundle: Path, accelerator: str, signatures: list[str], *options: str, driver: Path | None = None
) -> dict[str, dict[str, Any]]:
    """What this program tells of each signature, by name."""
    command = [sys.executable, __file__, str(bundle), accelerator, ",".join(signatures), *options]
    command += ["--driver", str(driver)] if driver is not None else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if "cannot open shared object file" in done.stderr and accelerator == "gpu":
        import pytest

        pytest.skip("no Vulkan loader: install libvulkan1")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["name"] for each in lines] == signatures, done.stderr[-2000:]
    return {each["name"]: each for each in lines}


def check(told: dict[str, dict[str, Any]], tolerance: float) -> None:
    """Every output of every signature, within `tolerance` of the largest value."""
    for name, each in told.items():
        assert each["full"], f"the CPU runs a part of {name}"
        for port, (difference, largest) in each["outputs"].items():
            assert difference <= tolerance * largest, f"{name} {port}: {difference:.2e} of {largest:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("accelerator", choices=NUMBERS)
    parser.add_argument("signatures", type=lambda text: text.split(","))
    parser.add_argument("--driver", type=Path)
    parser.add_argument("--precision", default=FP32)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--compiled", type=Path)
    given = parser.parse_args()
    if given.accelerator == "gpu":
        vulkan.load(given.driver)
    else:
        openvino_libraries.load()
    graphs = Graphs(given.bundle, given.accelerator, given.precision, given.scale, given.compiled)
    beginning = f"{PREFIXES[given.accelerator]}prefill_"
    prefill = next(name for name in graphs.names if name.startswith(beginning))
    rows = int(prefill.removeprefix(beginning))
    text = np.random.default_rng(3).integers(110, 500, 4 * rows).tolist()
    position = 3 * rows
    caches = graphs.prefilled(text[:position], prefill)
    for name in given.signatures:
        ours, theirs = graphs.compiled(name, on_cpu=False), graphs.compiled(name, on_cpu=True)
        inputs = graphs.inputs(theirs, name, text[position:], position, caches)
        if "draft" in inputs:  # all but the last are accepted
            logits = theirs.run(theirs.index(name), inputs)["logits"]
            inputs["draft"] = logits[:, :-1].argmax(-1) + (np.arange(1, logits.shape[1]) == logits.shape[1] - 1)
        found, expected = ours.run(ours.index(name), inputs), theirs.run(theirs.index(name), inputs)
        differences = {
            port: [float(np.abs(found[port] - value).max()), float(np.abs(value).max())]
            for port, value in expected.items()
        }
        print(json.dumps({"name": name, "full": ours.is_fully_accelerated(), "outputs": differences}), flush=True)
    os._exit(0)  # the accelerator's threads do not always end


if __name__ == "__main__":
    main()
