"""Whether a bundle holds a checkpoint's weights: each tensor that the checkpoint quantized, bit for bit.

The bundle is read as any runtime reads it, from its flatbuffers: integers times scales, float32. The checkpoint's side
is its own formula (`Weights.read`). Both are compared as sums over whole matrices, so that neither names nor the order
of tensors matter; of a lattice, the integers and steps are compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.encodings import ENCODINGS, Encoded, Encoding, decode
from edge_mtp.export.lattice import LatticeWeights
from edge_mtp.export.weights import Rows, Weights
from edge_mtp.formats.bundle import Bundle

_CHUNK = 1 << 22  # weights at a time
_BITS = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}


@dataclass(frozen=True)
class Verification:
    """Names of the checkpoint's quantized tensors. `exact`: the bundle's weights are the checkpoint's, bit for bit.

    `lattice`: the checkpoint has bf16 numbers, and the bundle holds the integers and steps that they are multiples of;
    of each the share of weights that are the checkpoint's when rounded to bf16 (the rest are the next number: float16
    does not hold every step). `rounded`: the integers are the checkpoint's, and float16 does not hold the scales of its
    blocks; of each tensor the largest change of a weight, relative. `nearly`: the integers and scales are those of
    `Weights.nearly`; of each tensor the share of weights that they give. Such a tensor may be stored otherwise too.
    `missing`: the bundle holds something else.
    """

    exact: tuple[str, ...]
    lattice: dict[str, float]
    rounded: dict[str, float]
    nearly: dict[str, float]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        told = []
        if self.exact:
            told.append(f"verified: {len(self.exact)} tensors are the checkpoint's, bit for bit")
        if self.lattice:
            told.append(
                f"verified: {len(self.lattice)} tensors have the integers of the checkpoint's lattice; of their weights"
                f" {min(self.lattice.values()):.2%} or more are the checkpoint's in bf16"
            )
        if self.rounded:
            told.append(
                f"verified: {len(self.rounded)} tensors have the checkpoint's integers, and its scales rounded to"
                f" float16, by up to {max(self.rounded.values()):.2%}"
            )
        if self.nearly:
            told.append(
                f"verified: {len(self.nearly)} tensors have the checkpoint's integers and scales where the encoding has"
                f" them: {min(self.nearly.values()):.2%} or more of their weights"
            )
        if not told:
            told.append("verified: no tensor is stored as the checkpoint has it")
        return told + [f"differs from the checkpoint: {name}" for name in self.missing]


def verify(bundle: Bundle, pair: Pair, progress: Callable[[float], None] = lambda share: None) -> Verification:
    """Compares each tensor in the pair's `Weights.encodings` and `Weights.nearly` with the bundle's matrices.

    `progress` is told the share that is done, 0 to 1.

    Raises EdgeMtpError where the checkpoint holds no such tensor, or a section of the bundle is no TFLite model.
    """
    if not is_quantized(pair):
        raise EdgeMtpError(f"{pair.target.directory} is not quantized: there is nothing to verify bit for bit")
    matrices = list(_matrices(bundle))
    work = _Work(sum(matrix.size for matrix in matrices) + _weights_of(pair), progress)
    held: set[str] = set()
    for matrix in matrices:
        held.update(matrix.sums())
        work.done(matrix.size)
    exact: list[str] = []
    lattice: dict[str, float] = {}
    rounded: dict[str, float] = {}
    nearly: dict[str, float] = {}
    missing: list[str] = []
    for owner, weights in (("", pair.target.weights), ("drafter.", pair.drafter.weights)):
        for name in weights.encodings:
            on_lattice = isinstance(weights, LatticeWeights) and name in weights.found
            if not on_lattice and _of_floats(weights, name) in held:
                exact.append(owner + name)
            elif (found := _of_integers(weights, name)).total not in held:
                missing.append(owner + name)
            elif on_lattice:
                lattice[owner + name] = found.equal_in_bf16
            else:
                rounded[owner + name] = found.change
            work.done(math.prod(weights.names[name]))
        for name in weights.nearly:
            if (found := _of_integers(weights, name)).total in held:
                nearly[owner + name] = found.equal
            work.done(math.prod(weights.names[name]))
    return Verification(tuple(exact), lattice, rounded, nearly, tuple(missing))


def is_quantized(pair: Pair) -> bool:
    """Whether one of the two checkpoints has tensors in integers with scales."""
    return any(weights.encodings or weights.foreign for weights in (pair.target.weights, pair.drafter.weights))


class _Work:
    """Weights that were compared, of `total`."""

    def __init__(self, total: int, progress: Callable[[float], None]) -> None:
        self._total, self._progress, self._done = max(1, total), progress, 0

    def done(self, weights: int) -> None:
        self._done += weights
        self._progress(min(1.0, self._done / self._total))


def _weights_of(pair: Pair) -> int:
    return sum(
        math.prod(weights.names[name])
        for weights in (pair.target.weights, pair.drafter.weights)
        for name in (*weights.encodings, *weights.nearly)
    )


def _of_floats(weights: Weights, name: str) -> str:
    """The sum of a tensor by the checkpoint's own formula."""
    total = hashlib.sha256()
    for start, stop in _spans(weights, name):
        total.update(_bytes(weights.read(name, start, stop)))
    return str(total.hexdigest())


@dataclass(frozen=True)
class _Integers:
    """The sum of a tensor's integers and scales; the share of its weights that they give, exactly and when rounded to
    bf16; and the largest change of a weight, relative."""

    total: str
    equal: float
    equal_in_bf16: float
    change: float


def _of_integers(weights: Weights, name: str) -> _Integers:
    total, equal, in_bf16, change = hashlib.sha256(), 0, 0, 0.0
    shape = weights.names[name]
    encoding = weights.nearly.get(name) or weights.encodings[name]
    for start, stop in _spans(weights, name):
        encoded = weights.encoded(name, start, stop)
        total.update(_packed_bytes(encoded))
        wanted = weights.read(name, start, stop).reshape(-1, shape[-1])
        given = decode(encoded, encoding, shape[-1])
        equal += int((given == wanted).sum())
        in_bf16 += int((given.astype(ml_dtypes.bfloat16).astype(np.float32) == wanted).sum())
        differs = np.abs(given - wanted) / np.where(wanted == 0, 1, np.abs(wanted))
        change = max(change, float(differs.max(initial=0)))
    count = math.prod(shape)
    return _Integers(str(total.hexdigest()), equal / count, in_bf16 / count, change)


def _spans(weights: Weights, name: str) -> Iterator[tuple[int, int]]:
    """Spans of the first axis of about `_CHUNK` weights."""
    rows, *others = weights.names[name]
    step = max(1, _CHUNK // math.prod(others))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def _bytes(values: Rows) -> bytes:
    told: bytes = (values + np.float32(0)).astype(np.float32).tobytes()  # -0 is 0
    return told


def _packed_bytes(encoded: Encoded) -> bytes:
    told: bytes = encoded.data.tobytes() + (b"" if encoded.scales is None else encoded.scales.tobytes())
    return told


def _matrices(bundle: Bundle) -> Iterator[_Matrix]:
    """The quantized matrices of the bundle, each as often as a section holds it."""
    content = np.memmap(bundle.path, np.uint8, "r")
    for section in bundle.sections:
        if section.model_type is None:
            continue
        data = content[section.begin : section.end]
        try:
            model = schema.ModelT.InitFromPackedBuf(data, 0)
        except Exception as error:  # whatever comes of reading what is none
            raise EdgeMtpError(f"{bundle.path}: section {section.model_type} is no TFLite model ({error})") from error
        done = set()
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                if tensor.type in _BITS and tensor.buffer not in done and len(tensor.shape) == 2:
                    done.add(tensor.buffer)
                    if (matrix := _Matrix.of(data, model, graph, tensor)) is not None:
                        yield matrix


@dataclass(frozen=True)
class _Matrix:
    """Integers uint8 [n, k bits / 8] and scales, float32 [n] or float16 [n, blocks], of a bundle."""

    encoding: Encoding
    integers: npt.NDArray[np.uint8]
    scales: npt.NDArray[Any]
    width: int

    @classmethod
    def of(cls, data: npt.NDArray[np.uint8], model: Any, graph: Any, tensor: Any) -> _Matrix | None:
        """None for what is no weight: a cache, or activations."""
        (rows, width), bits = (int(size) for size in tensor.shape), _BITS[tensor.type]
        integers = _content(data, model.buffers[tensor.buffer])
        quantization = tensor.quantization
        if quantization is None or len(integers) != rows * width * bits // 8 or not len(integers):
            return None
        if quantization.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
            block = int(quantization.details.blockSize)
            held = graph.tensors[quantization.details.scales]
            scales = _content(data, model.buffers[held.buffer]).view(np.float16).reshape(rows, -1)
            return cls(ENCODINGS[f"int{bits}b{block}"], integers.reshape(rows, -1), scales, width)
        if quantization.scale is None or len(quantization.scale) != rows:
            return None
        scales = np.asarray(quantization.scale, np.float32)
        return cls(ENCODINGS[f"int{bits}"], integers.reshape(rows, -1), scales, width)

    @property
    def size(self) -> int:
        return len(self.integers) * self.width

    def sums(self) -> tuple[str, str]:
        """The sums of its weights, and of its integers and scales."""
        floats, packed = hashlib.sha256(), hashlib.sha256()
        step = max(1, _CHUNK // self.width)
        for at in range(0, len(self.integers), step):
            encoded = Encoded(self.integers[at : at + step].reshape(-1), self.scales[at : at + step])
            floats.update(_bytes(decode(encoded, self.encoding, self.width)))
            packed.update(_packed_bytes(encoded))
        return str(floats.hexdigest()), str(packed.hexdigest())


def _content(data: npt.NDArray[np.uint8], buffer: Any) -> npt.NDArray[np.uint8]:
    """A buffer's bytes: in the flatbuffer, or behind it."""
    if buffer.offset:
        return data[buffer.offset : buffer.offset + buffer.size]
    return np.zeros(0, np.uint8) if buffer.data is None else np.asarray(buffer.data, np.uint8)
