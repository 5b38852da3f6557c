"""Is a product of a few rows faster with our kernel than with XNNPACK, at which encoding and number of rows?

    PYTHONPATH=tests/helpers python benchmarks/low_bit.py [--threads N] [--calls N] [--json FILE]

One FULLY_CONNECTED of E2B's MLP, [6144, 1536] or [1536, 6144], in LiteRT's interpreter (XNNPACK), and the kernel of
`edge_mtp.product` by itself. They take turns; the fastest call of each counts, since other work on the machine only
adds. The matrix stays in the third-level cache. `equal` is the share of numbers that are the same, bit by bit.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from native_low_bit import Matrix, low_bit
from static_kernels import BUILTIN, SHAPES, TYPES, Graph, Kernel

from edge_mtp.export import encodings
from edge_mtp.export.encodings import ENCODINGS, Encoded, Encoding

ROWS = (1, 2, 4, 5, 6, 8)
NAMES = ("int2", "int4", "int4b32", "int4b128", "int4b256", "int8")


def model(stored: Encoded, encoding: Encoding, shape: tuple[int, int], rows: int) -> bytes:
    """A TFLite model of one FULLY_CONNECTED."""
    graph = Graph()
    n, k = shape
    given, made = graph.tensor((1, rows, k), TYPES.FLOAT32), graph.tensor((1, rows, n), TYPES.FLOAT32)
    matrix = graph.tensor(shape, encodings.tensor_type(encoding), data=stored.data)
    assert stored.scales is not None
    scales = None
    if encoding.block:
        buffer = schema.BufferT()
        buffer.data = stored.scales.reshape(-1).view(np.uint8)
        graph.model.buffers.append(buffer)
        scales = len(graph.graph.tensors)
        place = len(graph.model.buffers) - 1
        graph.graph.tensors.append(encodings.scales_tensor(encoding, b"w", shape, place))
    graph.graph.tensors[matrix].quantization = encodings.quantization(encoding, stored.scales, scales)
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    graph.operator(BUILTIN.FULLY_CONNECTED, [given, matrix, -1], made, options)
    return graph.bytes([given], [made])


def fastest(calls: int, turns: list[Callable[[], Any]]) -> list[float]:
    """Microseconds of the fastest call of each, in turns."""
    least = [float("inf")] * len(turns)
    for _ in range(calls):
        for place, call in enumerate(turns):
            start = time.perf_counter()
            call()
            least[place] = min(least[place], time.perf_counter() - start)
    return [seconds * 1e6 for seconds in least]


def measure(shape: tuple[int, int], name: str, rows: int, threads: int, calls: int) -> dict[str, Any]:
    generator, encoding = np.random.default_rng(0), ENCODINGS[name]
    stored = encodings.encode(generator.standard_normal(shape).astype(np.float32), encoding)
    given = generator.standard_normal((rows, shape[1])).astype(np.float32)
    theirs = Kernel(model(stored, encoding, shape, rows), given[None], threads)
    assert stored.scales is not None
    matrix = Matrix(stored.data.reshape(shape[0], -1), stored.scales, shape[1], encoding.bits)
    ours = low_bit(workers=threads)
    call, found = ours.prepared(given, matrix)
    call()
    equal = float(np.mean(found == theirs.answer[0]))
    xnnpack_us, ours_us = fastest(calls, [theirs._interpreter.invoke, call])
    return {
        "encoding": name,
        "shape": list(shape),
        "rows": rows,
        "xnnpack_us": xnnpack_us,
        "ours_us": ours_us,
        "ratio": ours_us / xnnpack_us,
        "equal": equal,
    }


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--calls", default=100, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(threads: int, calls: int, output: Path | None) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    click.echo(f"{machine}, load {os.getloadavg()[0]:.1f}; {threads} threads\n")
    click.echo("| encoding | shape | rows | XNNPACK, us | ours, us | ratio | equal |")
    click.echo("|---|---|---|---|---|---|---|")
    table = []
    for name, shape, rows in product(NAMES, SHAPES, ROWS):
        table.append(measure(shape, name, rows, threads, calls))
        click.echo("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in table[-1].values()) + " |")
    if output is not None:
        output.write_text(json.dumps({"machine": machine, "threads": threads, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
