"""What a decode step of 26B-A4B reads of one layer's experts, and what the look-up of the chosen ones costs.

    python benchmarks/experts.py [--encodings int8,int4] [--runs N] [--folder DIR] [--json FILE]

Two models at the real sizes with random weights, LiteRT on the CPU with one thread: `experts` is the exporter's own
graph of a layer's router and experts for one row, `dense` two FULLY_CONNECTED of the size that is active. Files and
what of them is in memory come from /proc (Linux). Needs 0.8 GB of disk for int8.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from torch import Tensor

from edge_mtp.export import catalogue, compact, encodings, flatbuffer, layers
from edge_mtp.export.assemble import Assembly
from edge_mtp.export.convert import Signature, conversion
from edge_mtp.export.decoder import Decoder, Experts
from edge_mtp.export.placeholders import linear
from edge_mtp.export.store import Store


class Chosen(layers.DecoderLayer):
    """A layer's router and experts alone: hidden [1,1,H] -> hidden."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder, decoder.layers[0], 1, 16, 16, False)
        self.inputs = {"hidden": (1, 1, decoder.hidden)}
        names = ("router.", "experts.", "pre_feedforward_layernorm_2.")
        self.weights = {name: shape for name, shape in self.weights.items() if name.startswith(names)}

    def forward(self, hidden: Tensor, weights: dict[str, Tensor], **inputs: Tensor) -> dict[str, Tensor]:
        assert self.decoder.experts is not None
        return {"hidden": self.experts(hidden, weights, self.decoder.experts)}


class Dense(layers.Piece):
    """As many weights as a row's experts have: hidden [1,1,H] -> hidden."""

    def __init__(self, hidden: int, sizes: Experts) -> None:
        super().__init__()
        active = sizes.chosen * sizes.intermediate
        self.inputs = {"hidden": (1, 1, hidden)}
        self.weights = {"gate_up": (2 * active, hidden), "down": (hidden, active)}

    def forward(self, hidden: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        gate, up = linear(hidden, weights["gate_up"]).chunk(2, dim=-1)
        return {"hidden": linear(layers.gelu(gate) * up, weights["down"])}


def write(piece: layers.Piece, encoding: str, path: Path) -> int:
    """Export a piece by itself with random weights; return how many bytes its matrices take."""
    with conversion(lambda: None) as convert:
        assembly = Assembly(flatbuffer.parse(convert(Signature("layer", piece, piece.sample()))))
    graph = assembly.graph("layer")
    graph.finish(graph.place("layer", {"hidden": "input"}))
    compact.compact(assembly.model)
    store = Store(assembly, path)
    random = np.random.default_rng(0)
    block = random.standard_normal(1 << 22, np.float32)
    for name, shape in store.weights.items():
        if len(shape) == 1:
            store.constant(name, random.uniform(0.5, 1.5, shape).astype(np.float32))
            continue
        rows = block[: block.size // shape[1] * shape[1]].reshape(-1, shape[1]) * shape[1] ** -0.5

        def read(start: int, stop: int, rows: Any = rows) -> Any:
            return np.take(rows, range(start, stop), axis=0, mode="wrap")

        kind = "fp32" if name.startswith("router.") else encoding
        store.matrix(name, (shape[0], shape[1]), encodings.ENCODINGS[kind], read)
    store.write(lambda done: None)
    return store.size


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process has touched."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def opened(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=1).get_signature_runner("layer")


def drop(path: Path) -> None:
    """Forget the file's cached pages: of those, the kernel maps more than was asked for."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(path: Path, hidden: int, runs: int) -> dict[str, float]:
    """Mapped bytes after loading, and how many more after one step; the median time of a step, in ms."""
    inputs = np.random.default_rng(1).standard_normal((runs + 1, 1, 1, hidden), np.float32)
    layer, times = opened(path), []
    for row in inputs:
        start = time.perf_counter()
        layer(input=row)
        times.append(time.perf_counter() - start)
    del layer
    drop(path)
    layer = opened(path)
    loaded = resident(path)
    layer(input=inputs[0])
    step = resident(path) - loaded
    return {"loaded_mb": loaded / 1e6, "step_mb": step / 1e6, "step_ms": 1e3 * median(times[1:])}


@click.command()
@click.option("--encodings", "kinds", default="int8,int4", show_default=True)
@click.option("--runs", default=20, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where models are written for a while.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures here.")
def main(kinds: str, runs: int, folder: Path | None, output: Path | None) -> None:
    from transformers import AutoConfig

    config = dict(catalogue.model("26B-A4B").target_config)
    decoder = Decoder.of(AutoConfig.for_model(config.pop("model_type"), **config))
    sizes, figures = decoder.experts, {}
    assert sizes is not None
    active = 3 * decoder.hidden * sizes.chosen * sizes.intermediate
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for kind in kinds.split(","):
            models = {"experts": Chosen(decoder), "dense": Dense(decoder.hidden, sizes)}
            for name, piece in models.items():
                path = Path(scratch) / f"{name}-{kind}.tflite"
                size = write(piece, kind, path)
                found = measure(path, decoder.hidden, runs)
                found |= {"file_mb": size / 1e6, "active_mb": active * encodings.ENCODINGS[kind].bits / 8e6}
                figures[f"{name} {kind}"] = found
                path.unlink()
                print(name, kind, {key: round(value, 2) for key, value in found.items()}, flush=True)
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
