"""Whether a bundle holds a checkpoint's weights: each tensor that the checkpoint quantized, bit for bit.

The bundle is read as any runtime reads it, from its flatbuffers: integers times scales, float32. The checkpoint's side
is its own formula (`Weights.read`). Both are compared as sums over whole matrices, so that neither names nor the order
of tensors matter; a weight that lies on a lattice of bf16 numbers is compared in bf16, which is all that it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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
    """`exact`: the quantized tensors of the checkpoint that the bundle holds. `missing`: those that it does not."""

    exact: tuple[str, ...]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        told = [f"verified: {len(self.exact)} tensors are the checkpoint's, bit for bit"]
        return told + [f"differs from the checkpoint: {name}" for name in self.missing]


def verify(bundle: Bundle, pair: Pair) -> Verification:
    """Compares each tensor in the pair's `Weights.encodings` with the bundle's matrices.

    Raises EdgeMtpError where the checkpoint holds no such tensor, or a section of the bundle is no TFLite model.
    """
    if not pair.target.weights.encodings and not pair.drafter.weights.encodings:
        raise EdgeMtpError(f"{pair.target.directory} is not quantized: there is nothing to verify bit for bit")
    held = {total for totals in _matrices(bundle) for total in totals}
    exact: list[str] = []
    missing: list[str] = []
    for owner, weights in (("", pair.target.weights), ("drafter.", pair.drafter.weights)):
        for name in weights.encodings:
            (exact if _total(weights, name) in held else missing).append(owner + name)
    return Verification(tuple(exact), tuple(missing))


def _total(weights: Weights, name: str) -> str:
    rows, width = weights.names[name]
    step = max(1, _CHUNK // width)
    in_bf16 = _is_lattice(weights, name)
    total = _new_sum(rows, width, in_bf16)
    for start in range(0, rows, step):
        total.update(_bytes(weights.read(name, start, min(start + step, rows)), in_bf16))
    return str(total.hexdigest())


def _new_sum(rows: int, width: int, in_bf16: bool) -> Any:
    return hashlib.sha256(f"{rows} {width} {'bf16' if in_bf16 else 'f32'}".encode())


def _is_lattice(weights: Weights, name: str) -> bool:
    base = getattr(weights, "base", weights)
    return isinstance(weights, LatticeWeights) and name not in base.encodings


def _bytes(values: Rows, in_bf16: bool) -> bytes:
    values = values + np.float32(0)  # -0 is 0
    told: bytes = (values.astype(ml_dtypes.bfloat16) if in_bf16 else values.astype(np.float32)).tobytes()
    return told


def _matrices(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Of each quantized matrix in the bundle its sum in float32, and in bf16."""
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
                        yield matrix.sum(in_bf16=False), matrix.sum(in_bf16=True)


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

    def sum(self, *, in_bf16: bool) -> str:
        rows = len(self.integers)
        step = max(1, _CHUNK // self.width)
        total = _new_sum(rows, self.width, in_bf16)
        for at in range(0, rows, step):
            encoded = Encoded(self.integers[at : at + step].reshape(-1), self.scales[at : at + step])
            total.update(_bytes(decode(encoded, self.encoding, self.width), in_bf16))
        return str(total.hexdigest())


def _content(data: npt.NDArray[np.uint8], buffer: Any) -> npt.NDArray[np.uint8]:
    """A buffer's bytes: in the flatbuffer, or behind it."""
    if buffer.offset:
        return data[buffer.offset : buffer.offset + buffer.size]
    return np.zeros(0, np.uint8) if buffer.data is None else np.asarray(buffer.data, np.uint8)
