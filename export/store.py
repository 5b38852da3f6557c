"""Streams weights into a TFLite file: reads, encodes and writes them a few rows at a time.

The flatbuffer holds graphs, small constants and the scales of rows. Matrices and the scales of blocks follow it, each
aligned, at absolute offsets (`Buffer.offset` and `size` of schema.fbs), so the file may exceed the size limit of a
flatbuffer.

An op of ours that takes weights gets the scales of those that are integers as operands, too, behind its others and in
the weights' order: a kernel sees the bytes, type and shape of a tensor, and no quantization.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import encodings, flatbuffer
from edge_mtp.export.assemble import ABSENT, Assembly
from edge_mtp.export.encodings import Encoding

Read = Callable[[int, int], Any]  # rows [start:stop] of a matrix: float32, or `encodings.Encoded` already

ALIGNMENT = 64  # LiteRT needs it to use host memory without a copy
SECTION_ALIGNMENT = 1 << 14  # of the sections in a bundle
INDEX = "index"  # in an inventory, beside the row scales by the names of the matrices
CHUNK = 1 << 22  # weights that are read and encoded at a time: 16 MiB of float32
WORKERS = 2


@dataclass(frozen=True)
class Matrix:
    """A weight [n, k]: its buffer in the object tree and its encoding."""

    name: str
    buffer: Any
    shape: tuple[int, int]
    encoding: Encoding

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        rows, width = self.shape
        return rows * width * self.encoding.bits // 8

    @property
    def block_scale_bytes(self) -> int:
        """Bytes of the float16 block scales; 0 without blocks."""
        rows, width = self.shape
        return rows * (width // self.encoding.block) * 2 if self.encoding.block else 0

    @property
    def row_scales(self) -> int:
        """The number of float32 row scales in the flatbuffer."""
        return self.shape[0] if self.encoding.is_integer and not self.encoding.block else 0


@dataclass(frozen=True)
class Written(Matrix):
    """A matrix to be written: its source, and its offset behind the flatbuffer."""

    read: Read
    offset: int

    @property
    def block_scales(self) -> int:
        """The offset of the block scales, if there are any."""
        return _aligned(self.offset + self.size)

    @property
    def end(self) -> int:
        return self.block_scales + self.block_scale_bytes if self.block_scale_bytes else self.offset + self.size


@dataclass(frozen=True)
class Lent:
    """Where another file holds a matrix: the offsets of its weights and block scales from some place, and its row
    scales, float32 [n] (empty without)."""

    encoding: Encoding
    offset: int
    block_scales: int
    row_scales: Any


@dataclass(frozen=True)
class Borrowed(Matrix):
    """A matrix that lies in a file behind this one; `lent` counts from the end of this file."""

    lent: Lent


def memory(matrices: Iterable[tuple[Sequence[int], Encoding]]) -> int:
    """The most bytes of memory needed to write matrices of these shapes [..., k] and encodings into one file.

    A chunk is in memory as read, as float32 and encoded. A row's scale and zero point are in the object tree, in the
    growing flatbuffer and in its copy.
    """
    chunks = (WORKERS + 1) * CHUNK * (4 + 4 + 4)
    rows = sum(math.prod(shape[:-1]) for shape, encoding in matrices if encoding.is_integer and not encoding.block)
    return chunks + rows * 12 * 4


def lent(files: Sequence[Path]) -> dict[str, Lent]:
    """The matrices in finished files that follow one another in a bundle, counted from the beginning of the first.

    Of matrices with the same name the last one counts.
    """
    found: dict[str, Lent] = {}
    begin = 0
    for path in files:
        with np.load(_inventory(path)) as inventory:
            for name, (encoding, offset, block_scales) in json.loads(inventory[INDEX].tobytes()).items():
                place = begin + offset, begin + block_scales
                found[name] = Lent(encodings.ENCODINGS[encoding], *place, inventory[name])
        begin += _aligned(path.stat().st_size, SECTION_ALIGNMENT)
    return found


class Store:
    """Writes an assembled model to `path`, through two files beside it that survive an interruption.

    `path`.weights becomes the file. `path`.scales records the finished matrices and the scales of their rows. A later
    run with the same matrices resumes after the last finished one. `path`.inventory stays, for `lent`.
    """

    def __init__(self, assembly: Assembly, path: Path) -> None:
        self._model = assembly.model
        self._buffers = {name: buffer for name, buffer in assembly.weights.items() if _holds(self._model, buffer)}
        self._path = path
        self._matrices: list[Written] = []
        self._borrowed: list[Borrowed] = []
        self._end = 0
        self._scales, self._factors = assembly.scales, assembly.factors
        self._operands = {id(tensor): name for tensor, name in assembly.operands}  # tensors that our ops read
        self._row_scales: dict[str, Any] = {}  # the buffers of those scales that our ops read
        self._holders: dict[str, Any] = {}  # where a matrix's scales are stored: a buffer, or a quantization

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight that the model uses, by name."""
        place = self._places()
        shapes: dict[int, tuple[int, ...]] = {}
        for graph in self._model.subgraphs:
            for tensor in graph.tensors:
                shapes[tensor.buffer] = tuple(int(size) for size in tensor.shape)
        return {name: shapes[place[id(buffer)]] for name, buffer in self._buffers.items()}

    def constant(self, name: str, values: Any) -> None:
        """Give a weight its values, which the flatbuffer stores unchanged."""
        self._buffers[name].data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def matrix(self, name: str, shape: tuple[int, int], encoding: Encoding, read: Read) -> None:
        """Declare a weight's shape, encoding and source; `write` reads its rows."""
        matrix = Written(name, self._buffers[name], shape, encoding, read, self._end)
        self._matrices.append(matrix)
        self._end = _aligned(matrix.end)

    def borrow(self, name: str, shape: tuple[int, int], lent: Lent) -> None:
        """Declare a weight that a file behind this one holds; `lent` counts from the end of this file, which becomes a
        multiple of `SECTION_ALIGNMENT`."""
        self._borrowed.append(Borrowed(name, self._buffers[name], shape, lent.encoding, lent))

    @property
    def size(self) -> int:
        """Bytes that the matrices take in the file."""
        return self._end

    def write(self, report: Callable[[int], None]) -> None:
        """Read, encode and write everything; call `report` repeatedly with the number of weights done.

        Raises:
            EdgeMtpError: a weight cannot be read or encoded.
            OSError: the disk is full.
        """
        weights, kept = self._path.with_suffix(".weights"), self._path.with_suffix(".scales")
        # Any scales that differ from one another as the true ones do give the flatbuffer its final length.
        self._attach()
        base = _aligned(len(flatbuffer.serialize(self._model)))
        with _opened(weights) as data, _opened(kept) as journal:
            scales = self._resume(data, journal, base)
            report(sum(math.prod(matrix.shape) for matrix in self._matrices[: len(scales)]))
            for matrix in self._matrices[len(scales) :]:
                scales.append(self._stream(matrix, data, base, report))
                # Flushed first: after a power failure, a matrix may count as done only if it is on the disk.
                data.flush()
                os.fsync(data.fileno())
                journal.write(_entry(scales[-1]))
                journal.flush()
            end = base + self._end
            data.truncate(_aligned(end, SECTION_ALIGNMENT) if self._borrowed else end)
            self._settle(scales, base, data.seek(0, os.SEEK_END))
            head = flatbuffer.serialize(self._model)
            assert len(head) <= base, "true scales share more than random ones, never less"
            data.seek(0)
            data.write(head.ljust(base, b"\0"))
        self._take_inventory(scales, base)
        weights.replace(self._path)
        kept.unlink()

    def _take_inventory(self, scales: list[Any], base: int) -> None:
        index = {m.name: (m.encoding.name, base + m.offset, base + m.block_scales) for m in self._matrices}
        arrays: dict[str, Any] = {INDEX: np.frombuffer(json.dumps(index).encode(), np.uint8)}
        arrays |= {matrix.name: values for matrix, values in zip(self._matrices, scales, strict=True)}
        with _inventory(self._path).open("wb") as file:
            np.savez(file, **arrays)

    def _stream(self, matrix: Written, data: BinaryIO, base: int, report: Callable[[int], None]) -> Any:
        """Write a matrix and return the scales of its rows."""
        place, scales_place = base + matrix.offset, base + matrix.block_scales
        scales: list[Any] = [np.empty(0, np.float32)]
        with closing(_encoded(matrix)) as chunks:
            for encoded, rows in chunks:
                data.seek(place)
                place += data.write(encoded.data.data)
                if matrix.encoding.block:
                    data.seek(scales_place)
                    scales_place += data.write(encoded.scales.data.cast("B"))  # type: ignore[union-attr]
                elif encoded.scales is not None:
                    scales.append(encoded.scales)
                report(rows * matrix.shape[1])
        return np.concatenate(scales)

    def _resume(self, data: BinaryIO, journal: BinaryIO, base: int) -> list[Any]:
        """The scales of the matrices that are complete in both files; truncates the files after those."""
        layout = repr((base, [(m.name, m.shape, m.encoding, m.offset) for m in self._matrices]))
        header = hashlib.sha256(layout.encode()).digest()
        scales: list[Any] = []
        length = data.seek(0, os.SEEK_END)
        matrices = self._matrices if journal.read(len(header)) == header else []
        for matrix in matrices:
            size = 4 * matrix.row_scales
            found = journal.read(1 + size)
            if len(found) <= size or length < base + matrix.end:
                break
            scales.append(np.frombuffer(found, np.float32, matrix.row_scales, 1))
        journal.seek(0)
        journal.truncate()
        journal.write(b"".join((header, *map(_entry, scales))))
        data.truncate(base + (self._matrices[len(scales) - 1].end if scales else 0))
        return scales

    def _places(self) -> dict[int, int]:
        return {id(buffer): index for index, buffer in enumerate(self._model.buffers)}

    def _attach(self) -> None:
        """Give the tensors of all matrices their types, sizes and provisional scales, and adapt the operators."""
        place = self._places()
        matrices: list[Written | Borrowed] = [*self._matrices, *self._borrowed]
        by_buffer = {place[id(matrix.buffer)]: matrix for matrix in matrices}
        by_name = {matrix.name: matrix for matrix in matrices}
        block_scales: dict[str, int] = {}
        for number, matrix in enumerate(matrices):
            matrix.buffer.offset, matrix.buffer.size = ALIGNMENT, matrix.size
            if matrix.encoding.block:
                buffer = self._holders[matrix.name] = schema.BufferT()
                buffer.offset, buffer.size = ALIGNMENT, matrix.block_scale_bytes
                block_scales[matrix.name] = len(self._model.buffers)
                self._model.buffers.append(buffer)
            elif matrix.row_scales:
                any_scales = np.random.default_rng(number).random(matrix.row_scales, np.float32)
                scales = matrix.lent.row_scales if isinstance(matrix, Borrowed) else any_scales
                self._holders[matrix.name] = encodings.quantization(matrix.encoding, scales)
        for graph in self._model.subgraphs:
            for tensor in list(graph.tensors):
                if id(tensor) in self._operands:
                    if operand := by_name.get(self._operands[id(tensor)]):
                        tensor.type = encodings.tensor_type(operand.encoding)
                    continue
                if tensor.buffer not in by_buffer:
                    continue
                matrix = by_buffer[tensor.buffer]
                encoding = matrix.encoding
                tensor.type = encodings.tensor_type(encoding)
                if encoding.block:
                    holder, buffer_index = len(graph.tensors), block_scales[matrix.name]
                    graph.tensors.append(encodings.scales_tensor(encoding, tensor.name, matrix.shape, buffer_index))
                    tensor.quantization = encodings.quantization(encoding, scales_tensor=holder)
                else:
                    tensor.quantization = self._holders.get(matrix.name)
            _insert_dequantize(self._model, graph)
        self._give_scales(by_name, block_scales)

    def _give_scales(self, matrices: dict[str, Written | Borrowed], block_scales: dict[str, int]) -> None:
        """Add the scales of the weights that our ops take to their operands, and to those of their decompositions,
        which do not read them: the converter would have dropped them there."""
        bodies: set[int] = set()
        for graph in list(self._model.subgraphs):
            added: dict[str, int] = {}
            for operator in graph.operators:
                names = [self._operands.get(id(graph.tensors[each])) for each in operator.inputs if each != ABSENT]
                weights = [matrices[name] for name in names if name in matrices and matrices[name].encoding.is_integer]
                if not weights:
                    continue
                number = operator.builtinOptions2.decompositionSubgraphIndex
                for matrix in weights:
                    if matrix.name not in added:
                        added[matrix.name] = len(graph.tensors)
                        graph.tensors.append(self._scales_operand(matrix, block_scales))
                    operator.inputs = np.append(operator.inputs, np.int32(added[matrix.name]))
                    if number not in bodies:
                        body = self._model.subgraphs[number]
                        body.inputs = np.append(body.inputs, np.int32(len(body.tensors)))
                        body.tensors.append(encodings.scales_tensor(matrix.encoding, b"", matrix.shape, 0))
                bodies.add(number)

    def _scales_operand(self, matrix: Written | Borrowed, block_scales: dict[str, int]) -> Any:
        """The constant tensor of a matrix's scales. Those of rows, which a flatbuffer holds in the quantization of a
        tensor, become a buffer, too."""
        if matrix.encoding.block:
            buffer_index = block_scales[matrix.name]
        elif matrix.name in self._row_scales:
            buffer_index = self._places()[id(self._row_scales[matrix.name])]
        else:
            buffer = self._row_scales[matrix.name] = schema.BufferT()
            buffer.data = self._holders[matrix.name].scale.view(np.uint8)
            buffer_index = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return encodings.scales_tensor(matrix.encoding, matrix.name.encode(), matrix.shape, buffer_index)

    def _settle(self, scales: list[Any], base: int, size: int) -> None:
        """Replace the provisional scales and offsets by the true ones; `size` is the file's."""
        for matrix, values in zip(self._matrices, scales, strict=True):
            matrix.buffer.offset = base + matrix.offset
            if matrix.encoding.block:
                self._holders[matrix.name].offset = base + matrix.block_scales
            elif matrix.row_scales:
                self._holders[matrix.name].scale = values
                if matrix.name in self._row_scales:
                    self._row_scales[matrix.name].data = values.view(np.uint8)
        for borrowed in self._borrowed:
            borrowed.buffer.offset = size + borrowed.lent.offset
            if borrowed.encoding.block:
                self._holders[borrowed.name].offset = size + borrowed.lent.block_scales

    def cache_scales(self, scales: dict[str, float]) -> None:
        """Set the scales of int8 KV caches by name."""
        for name, tensors in self._scales.items():
            for tensor in tensors:
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale = np.array([scales[name]], np.float32)
                tensor.quantization.zeroPoint = np.zeros(1, np.int64)
        for name, buffer in self._factors.items():
            buffer.data = np.array([scales[name]], np.float32).view(np.uint8)


def _entry(scales: Any) -> bytes:
    """The journal's entry for a finished matrix."""
    values: bytes = scales.tobytes()
    return b"\1" + values


def _holds(model: Any, buffer: Any) -> bool:
    return any(buffer is held for held in model.buffers)


def _opened(path: Path) -> BinaryIO:
    return path.open("r+b" if path.exists() else "w+b")


def _inventory(path: Path) -> Path:
    return path.with_suffix(".inventory")


def _aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    return -(-offset // alignment) * alignment


def _encoded(matrix: Written) -> Generator[tuple[encodings.Encoded, int], None, None]:
    """The matrix's encoded rows in order, with their number. Threads read and encode ahead."""
    rows, width = matrix.shape
    step = max(1, CHUNK // width)
    starts = deque(range(0, rows, step))
    pending: deque[tuple[Future[encodings.Encoded], int]] = deque()

    def fetch(start: int, stop: int) -> encodings.Encoded:
        rows = matrix.read(start, stop)
        return rows if isinstance(rows, encodings.Encoded) else encodings.encode(rows, matrix.encoding)

    with ThreadPoolExecutor(WORKERS) as pool:
        while starts or pending:
            while starts and len(pending) < WORKERS + 1:
                start = starts.popleft()
                stop = min(start + step, rows)
                pending.append((pool.submit(fetch, start, stop), stop - start))
            future, count = pending.popleft()
            try:
                yield future.result(), count
            except EdgeMtpError as error:
                raise EdgeMtpError(f"{matrix.name}: {error}") from error


def _insert_dequantize(model: Any, graph: Any) -> None:
    """Insert a DEQUANTIZE for fp16 weights, before FULLY_CONNECTED and after EMBEDDING_LOOKUP."""
    builtin, half = schema.BuiltinOperator, schema.TensorType.FLOAT16
    codes = [code.builtinCode for code in model.operatorCodes]
    floats: dict[int, int] = {}
    operators = []

    def dequantize(source: int, result: int) -> Any:
        operator = schema.OperatorT()
        if builtin.DEQUANTIZE not in codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = builtin.DEQUANTIZE
            code.version = 3
            model.operatorCodes.append(code)
            codes.append(builtin.DEQUANTIZE)
        operator.opcodeIndex = codes.index(builtin.DEQUANTIZE)
        operator.inputs, operator.outputs = np.array([source], np.int32), np.array([result], np.int32)
        return operator

    def tensor(like: int, kind: int) -> int:
        added = schema.TensorT()
        added.name, added.shape, added.type = b"f%d" % len(graph.tensors), graph.tensors[like].shape, kind
        added.hasRank, added.buffer = True, 0
        graph.tensors.append(added)
        return len(graph.tensors) - 1

    for operator in graph.operators:
        weight = int(operator.inputs[1]) if len(operator.inputs) > 1 else ABSENT
        code = codes[operator.opcodeIndex]
        if weight == ABSENT or graph.tensors[weight].type != half:
            operators.append(operator)
        elif code == builtin.FULLY_CONNECTED:
            if weight not in floats:
                floats[weight] = tensor(weight, schema.TensorType.FLOAT32)
                operators.append(dequantize(weight, floats[weight]))
            operator.inputs[1] = floats[weight]
            operators.append(operator)
        elif code == builtin.EMBEDDING_LOOKUP:
            result = int(operator.outputs[0])
            looked_up = tensor(result, half)
            operator.outputs = np.array([looked_up], np.int32)
            operators += [operator, dequantize(looked_up, result)]
        else:
            operators.append(operator)
    graph.operators = operators
