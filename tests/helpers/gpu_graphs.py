"""Runs a bundle's graphs for the GPU on a GPU and on the CPU, and tells how far their outputs differ.

    python gpu_graphs.py BUNDLE DRIVER SIGNATURES [PRECISION [SCALE]]

For each of the comma-separated signatures it prints a line of JSON: its name, whether the GPU runs all of it, and by
output the largest difference from the CPU's and the CPU's largest value. A process of its own: LiteRT ends it where it
cannot compile a graph. The inputs are a text's: its first part is in the caches, and the graph gets the tokens after
that. `SCALE` multiplies its embeddings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import vulkan
from ai_edge_litert.interpreter import Interpreter
from litert_ctypes import CPU, GPU, Array, Graph

from edge_mtp.formats.bundle import Bundle

HIDDEN = -1e4


class Graphs:
    """The graphs for the GPU, one by one, and what is needed to feed them."""

    def __init__(self, path: Path, precision: str, scale: float) -> None:
        self.bundle = Bundle(path)
        section = self.bundle.own_graphs("gpu")
        assert section is not None
        self.model = bytes(self.bundle.content(section))
        self.names = list(self.bundle.models[section.model_type or ""].signatures)
        self.precision, self.scale = precision, scale
        self.tables = {
            name: Interpreter(model_content=bytes(section.data), num_threads=1).get_signature_runner(name)
            for name in ("embedder", "per_layer_embedder")
            if (section := self.bundle.section("TFLiteModel", name)) is not None
        }

    def compiled(self, name: str, accelerator: int) -> Graph:
        options = {"runtime_options_string": f'enable_profiling = false\nselected_signature_keys = ["{name}"]\n'}
        if accelerator == GPU:
            options["gpu_options"] = f"precision = {self.precision}\n"
        return Graph(self.model, accelerator, options=options)

    def inputs(self, graph: Graph, name: str, tokens: list[int], position: int, caches: dict[str, Array]) -> Any:
        """What `name` takes: `tokens` from `position` on, and fixed values for what a request says."""
        random = np.random.default_rng(7)
        given: dict[str, Any] = {}
        for port, shape in graph.shapes(self.names.index(name), "Input").items():
            if port.startswith("kv_cache_"):
                given[port] = caches.get(port, np.zeros(shape, np.float32))
            elif port == "mask":
                given[port] = np.full(shape, HIDDEN, np.float32)
                for row in range(shape[2]):
                    # A draft sees the tokens before the one that it follows.
                    given[port][..., row, : position + row + ("draft" not in name)] = 0
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

    def prefilled(self, tokens: list[int]) -> dict[str, Array]:
        """The caches after `tokens`, by the CPU."""
        name = next(name for name in self.names if name.startswith("gpu_prefill_"))
        graph, rows = self.compiled(name, CPU), int(name.rpartition("_")[2])
        caches: dict[str, Array] = {}
        for start in range(0, len(tokens), rows):
            inputs = self.inputs(graph, name, tokens[start : start + rows], start, caches)
            caches = graph.run(self.names.index(name), inputs)
        return caches


def main(path: str, driver: str, signatures: str, precision: str = "2", scale: str = "1") -> None:
    vulkan.load(Path(driver))
    graphs = Graphs(Path(path), precision, float(scale))
    prefill = int(next(n for n in graphs.names if n.startswith("gpu_prefill_")).rpartition("_")[2])
    text = np.random.default_rng(3).integers(110, 500, 4 * prefill).tolist()
    position = 3 * prefill
    caches = graphs.prefilled(text[:position])
    for name in signatures.split(","):
        index = graphs.names.index(name)
        ours, theirs = graphs.compiled(name, GPU), graphs.compiled(name, CPU)
        inputs = graphs.inputs(theirs, name, text[position:], position, caches)
        if "draft" in inputs:  # all but the last are accepted
            logits = theirs.run(index, inputs)["logits"]
            inputs["draft"] = logits[:, :-1].argmax(-1) + (np.arange(1, logits.shape[1]) == logits.shape[1] - 1)
        found, expected = ours.run(index, inputs), theirs.run(index, inputs)
        told = {
            port: [float(np.abs(found[port] - value).max()), float(np.abs(value).max())]
            for port, value in expected.items()
        }
        print(json.dumps({"name": name, "full": ours.is_fully_accelerated(), "outputs": told}), flush=True)
    os._exit(0)  # the accelerator's threads do not always end


if __name__ == "__main__":
    main(*sys.argv[1:])
