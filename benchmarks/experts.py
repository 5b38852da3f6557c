"""What the experts of a layer of 26B-A4B cost: our kernel, the graph of builtin operators, and a dense layer.

    python benchmarks/experts.py [--encodings int8,int4] [--rounds N] [--threads 1,2] [--folder DIR] [--json FILE]

At the real sizes with random weights. `graph` is the exporter's own graph of a layer's router and experts for one row,
`dense` two FULLY_CONNECTED of the size that is active; LiteRT runs both on one thread of the CPU. `kernel` reads the
same file as `graph`, for 1, 4 and 5 rows that choose few experts together or many: `distinct` is how many. `bandwidth`
reads as much of that file in the same threads. All take turns. Each call chooses other experts. The fastest of the
rounds counts, because other work on the machine only adds. What of a file is in memory comes from /proc (Linux). Needs
0.8 GB of disk for int8.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from torch import Tensor

from edge_mtp.export import catalogue, compact, encodings, flatbuffer, layers
from edge_mtp.export.assemble import Assembly
from edge_mtp.export.convert import Signature, conversion
from edge_mtp.export.decoder import Decoder, Experts
from edge_mtp.export.placeholders import linear
from edge_mtp.export.store import Store, lent

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
import native_experts
from native_experts import Matrices

CALLS = ((1, 8), (4, 8), (4, 16), (4, 24), (4, 32), (5, 8), (5, 16), (5, 24), (5, 32), (5, 40))  # rows, distinct
PART = 1 << 19  # bytes that `Experts.read` takes at once


class Chosen(layers.DecoderLayer):
    """A layer's router and experts alone: hidden [1,1,H] -> hidden."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder, decoder.layers[0], 1, 16, layers.WHOLE, False)
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


def write(piece: layers.Piece, encoding: str, path: Path) -> None:
    """Export a piece by itself with random weights."""
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
        store.matrix(name, (shape[0], shape[1]), encodings.fit(encodings.ENCODINGS[kind], shape[1]), read)
    store.write(lambda done: None)


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


class Kernel:
    """The kernel on the matrices of a file, mapped, in some threads."""

    def __init__(self, path: Path, sizes: Experts, hidden: int, threads: int) -> None:
        self.file = np.memmap(path, np.uint8, "r")
        self.sizes, self.hidden = sizes, hidden
        self.run = native_experts.experts(workers=threads)
        self.gate_up = self.matrices(path, "gate_up", hidden, 2 * sizes.intermediate)
        self.down = self.matrices(path, "down", sizes.intermediate, hidden)
        self.random = np.random.default_rng(2)

    def matrices(self, path: Path, name: str, width: int, rows: int) -> Matrices:
        (held,) = (each for key, each in lent([path]).items() if name in key)
        count, scales = self.sizes.count * rows, held.row_scales
        data = self.file[held.offset : held.offset + count * width * held.encoding.bits // 8]
        if held.encoding.block:
            size = count * width // held.encoding.block * 2
            scales = self.file[held.block_scales : held.block_scales + size].view(np.float16)
        return Matrices(held.encoding, encodings.Encoded(data, scales), width)

    def call(self, rows: int, distinct: int) -> float:
        """Seconds for `rows` rows that choose `distinct` experts together."""
        choices = self.sizes.chosen
        experts = self.random.permutation(self.sizes.count)[:distinct]
        places = np.arange(rows * choices).reshape(rows, choices) % distinct
        inputs = self.random.standard_normal((rows, self.hidden), np.float32)
        shares = np.full((rows, choices), 1 / choices, np.float32)
        chosen = np.ascontiguousarray(experts[places], np.int32)
        return seconds(lambda: self.run(inputs, chosen, shares, self.gate_up, self.down))

    def read(self, size: int) -> float:
        """Seconds for reading so many bytes of the file, rounded to `PART`."""
        parts = max(1, size // PART)
        first = int(self.random.integers(0, len(self.file) // PART - parts)) * PART
        return seconds(lambda: self.run.read(self.file[first : first + parts * PART].view(np.uint64)))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loaded(path: Path, hidden: int) -> dict[str, float]:
    """Mapped bytes after loading a graph, and how many more after one step."""
    row = np.random.default_rng(1).standard_normal((1, 1, hidden), np.float32)
    drop(path)
    layer = opened(path)
    before = resident(path)
    layer(input=row)
    return {"loaded_mb": before / 1e6, "step_mb": (resident(path) - before) / 1e6, "file_mb": path.stat().st_size / 1e6}


def measure(paths: dict[str, Path], sizes: Experts, hidden: int, threads: list[int], rounds: int) -> dict[str, Any]:
    """The fastest milliseconds of everything, and the kernel's share of the bandwidth."""
    graphs = {name: opened(path) for name, path in paths.items()}
    row = np.random.default_rng(1).standard_normal((1, 1, hidden), np.float32)
    kernels = {count: Kernel(paths["graph"], sizes, hidden, count) for count in threads}
    expert = sum(len(m.encoded.data) for m in (kernels[threads[0]].gate_up, kernels[threads[0]].down)) // sizes.count
    best: dict[str, float] = {}

    def take(name: str, found: float) -> None:
        best[name] = min(best.get(name, float("inf")), found)

    for turn in range(rounds + 1):
        found = {name: seconds(lambda graph=graph: graph(input=row)) for name, graph in graphs.items()}
        for count, kernel in kernels.items():
            found[f"read {count}"] = kernel.read(CALLS[0][1] * expert) / (CALLS[0][1] * expert // PART * PART)
            found |= {f"{count} {rows} {distinct}": kernel.call(rows, distinct) for rows, distinct in CALLS}
        for name, took in found.items():
            if turn > 0:  # the first calls read from the disk
                take(name, took)
    figures: dict[str, Any] = {f"{name}_ms": 1e3 * best[name] for name in graphs}
    figures["expert_mb"] = expert / 1e6
    for count in threads:
        figures[f"threads_{count}"] = {
            "bandwidth_gb_s": 1e-9 / best[f"read {count}"],
            "kernel": [
                {
                    "rows": rows,
                    "distinct": distinct,
                    "ms": 1e3 * (took := best[f"{count} {rows} {distinct}"]),
                    "of_bandwidth": distinct * expert * best[f"read {count}"] / took,
                }
                for rows, distinct in CALLS
            ],
        }
    return figures


@click.command()
@click.option("--encodings", "kinds", default="int8,int4", show_default=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where models are written for a while.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures here.")
def main(kinds: str, rounds: int, threads: str, folder: Path | None, output: Path | None) -> None:
    from transformers import AutoConfig

    config = dict(catalogue.model("26B-A4B").target_config)
    decoder = Decoder.of(AutoConfig.for_model(config.pop("model_type"), **config))
    sizes, figures = decoder.experts, {}
    assert sizes is not None
    counts = [int(count) for count in threads.split(",")]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for kind in kinds.split(","):
            models = {"graph": Chosen(decoder), "dense": Dense(decoder.hidden, sizes)}
            paths = {name: Path(scratch) / f"{name}-{kind}.tflite" for name in models}
            for name, piece in models.items():
                write(piece, kind, paths[name])
            found = loaded(paths["graph"], decoder.hidden)
            found |= measure(paths, sizes, decoder.hidden, counts, rounds)
            figures[kind] = found
            for path in paths.values():
                path.unlink()
            print(kind, json.dumps(found, indent=1), flush=True)
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
