"""Is a matrix faster with the static 8-bit ranges that it was trained with than with the range of each row?

    python benchmarks/static_kernels.py [--threads N] [--rounds N] [--json FILE]

One FULLY_CONNECTED of E2B's MLP, [6144, 1536] or [1536, 6144], on LiteRT's CPU (XNNPACK). `dynamic`: float32 in and
out, as bundles have it. `static`: QUANTIZE with a scale that is known, FULLY_CONNECTED in int8, DEQUANTIZE. `inner`:
the same without the two conversions, as in the middle of a chain that is int8 throughout. The graphs take turns.
"""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.export import encodings, flatbuffer
from edge_mtp.export.encodings import ENCODINGS
from edge_mtp.harness.stats.ratios import paired_ratio
from edge_mtp.quiet import quiet

SHAPES = ((6144, 1536), (1536, 6144))
ROWS = (1, 4, 5, 128)
WEIGHTS = ("int8", "int4", "int2")
KINDS = ("dynamic", "static", "inner")
CALLS = 20  # a measurement is the fastest of so many: other work on the machine only adds
BUILTIN, TYPES = schema.BuiltinOperator, schema.TensorType


class Graph:
    """One FULLY_CONNECTED, under construction."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], b"main"

    def tensor(self, shape: tuple[int, ...], kind: int, scale: Any = None, data: Any = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = b"t%d" % len(self.graph.tensors), np.array(shape, np.int32), kind
        made.hasRank, made.buffer = True, 0
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization.zeroPoint = np.zeros(len(made.quantization.scale), np.int64)
            made.quantization.quantizedDimension = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data, made.buffer = data, len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, builtin: int, inputs: list[int], output: int, options: Any = None) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self.graph.operators.append(made)

    def bytes(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return flatbuffer.serialize(self.model)


def model(kind: str, weights: Any, name: str, rows: int, scales: tuple[float, float]) -> bytes:
    """A TFLite model of one matrix `weights` float32 [n,k], stored as `name`; `scales` of its input and output."""
    graph, encoding = Graph(), ENCODINGS[name]
    n, k = weights.shape
    stored = encodings.encode(weights, encoding)
    matrix = graph.tensor((n, k), encodings.tensor_type(encoding), stored.scales, stored.data)
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    if kind == "dynamic":
        given, made = graph.tensor((1, rows, k), TYPES.FLOAT32), graph.tensor((1, rows, n), TYPES.FLOAT32)
        graph.operator(BUILTIN.FULLY_CONNECTED, [given, matrix, -1], made, options)
        return graph.bytes([given], [made])
    given = graph.tensor((1, rows, k), TYPES.INT8, scales[0])
    made = graph.tensor((1, rows, n), TYPES.INT8, scales[1])
    first, last = given, made
    if kind == "static":
        first = graph.tensor((1, rows, k), TYPES.FLOAT32)
        graph.operator(BUILTIN.QUANTIZE, [first], given, schema.QuantizeOptionsT())
    graph.operator(BUILTIN.FULLY_CONNECTED, [given, matrix, -1], made, options)
    if kind == "static":
        last = graph.tensor((1, rows, n), TYPES.FLOAT32)
        graph.operator(BUILTIN.DEQUANTIZE, [made], last, schema.DequantizeOptionsT())
    return graph.bytes([first], [last])


class Kernel:
    """One graph in an interpreter, with its input in place."""

    def __init__(self, content: bytes, given: Any, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with quiet():
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], given)
        self._interpreter.invoke()

    @property
    def answer(self) -> Any:
        return self._interpreter.get_tensor(self._interpreter.get_output_details()[0]["index"])

    @property
    def is_delegated(self) -> bool:
        """Whether XNNPACK runs all of it."""
        left = self._interpreter._get_ops_details()
        return [each["op_name"] for each in left][-1] == "DELEGATE"

    def seconds(self) -> float:
        fastest = float("inf")
        for _ in range(CALLS):
            start = time.perf_counter()
            self._interpreter.invoke()
            fastest = min(fastest, time.perf_counter() - start)
        return fastest


def kernels(shape: tuple[int, int], name: str, rows: int, threads: int) -> dict[str, Kernel | str]:
    """The graphs of one matrix, each checked against numpy; a line instead of one that LiteRT refuses."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal(shape).astype(np.float32) / np.sqrt(shape[1])
    given = generator.standard_normal((1, rows, shape[1])).astype(np.float32)
    stored = encodings.encode(weights, ENCODINGS[name])
    wanted = given @ encodings.decode(stored, ENCODINGS[name], shape[1]).T
    scales = float(np.abs(given).max()) / 127, float(np.abs(wanted).max()) / 127
    integers = np.clip(np.rint(given / scales[0]), -128, 127).astype(np.int8)
    found: dict[str, Kernel | str] = {}
    for kind in KINDS:
        try:
            kernel = Kernel(model(kind, weights, name, rows, scales), integers if kind == "inner" else given, threads)
        except (RuntimeError, ValueError) as error:
            found[kind] = " ".join(str(error).split())[:120]
            continue
        answer = kernel.answer.astype(np.float32) * (scales[1] if kind == "inner" else 1)
        error = float(np.sqrt(np.mean((answer - wanted) ** 2) / np.mean(wanted**2)))
        found[kind] = kernel if error < 0.05 else f"wrong: relative RMS error {error:.2f}"
        if isinstance(found[kind], Kernel) and not kernel.is_delegated:
            found[kind] = "not run by XNNPACK"
    return found


@click.command()
@click.option("--threads", default=(1, 2), multiple=True, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=15, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(threads: tuple[int, ...], rounds: int, output: Path | None) -> None:
    lines: list[dict[str, Any]] = []
    click.echo("| matrix | rows | threads | dynamic us | static us | static / dynamic | inner / dynamic |")
    click.echo("|---|---|---|---|---|---|---|")
    for shape, name, rows, count in product(SHAPES, WEIGHTS, ROWS, threads):
        lines.append(measured(shape, name, rows, count, rounds))
        click.echo(told(lines[-1]))
    if output is not None:
        output.write_text(json.dumps({"rounds": rounds, "kernels": lines}, indent=1) + "\n")


def measured(shape: tuple[int, int], name: str, rows: int, threads: int, rounds: int) -> dict[str, Any]:
    found = kernels(shape, name, rows, threads)
    running = {kind: kernel for kind, kernel in found.items() if isinstance(kernel, Kernel)}
    seconds: dict[str, list[float]] = {kind: [] for kind in running}
    for number in range(rounds):
        for kind in list(running)[:: 1 if number % 2 else -1]:
            seconds[kind].append(running[kind].seconds())
    line: dict[str, Any] = {"shape": list(shape), "weights": name, "rows": rows, "threads": threads}
    for kind in KINDS:
        if kind not in running:
            line[kind] = found[kind]
            continue
        line[kind] = float(np.median(seconds[kind])) * 1e6
        if kind != "dynamic":
            ratio = paired_ratio(seconds[kind], seconds["dynamic"])
            line[f"{kind}_ratio"] = [ratio.median, ratio.low, ratio.high]
    return line


def told(line: dict[str, Any]) -> str:
    rows, columns = line["shape"]

    def time_of(kind: str) -> str:
        return line[kind] if isinstance(line[kind], str) else f"{line[kind]:.0f}"

    def ratio_of(kind: str) -> str:
        found = line.get(f"{kind}_ratio")
        return "" if found is None else "{:.2f} ({:.2f} to {:.2f})".format(*found)

    cells = [f"{line['weights']} [{rows}, {columns}]", str(line["rows"]), str(line["threads"])]
    cells += [time_of("dynamic"), time_of("static")]
    return "| " + " | ".join([*cells, ratio_of("static"), ratio_of("inner")]) + " |"


if __name__ == "__main__":
    main()
