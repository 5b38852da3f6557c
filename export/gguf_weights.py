"""The tensors of a Gemma 4 or its drafter in a GGUF file, under transformers' names.

Names are llama.cpp's (src/llama-arch.cpp). Its converter leaves norms as they are, and rows in their order; with
`--fuse-qkv` the rows of queries, keys and values stand in one matrix.

Q4_0 stores blocks of 32 weights as a float16 step and integers of 4 bits, of which 8 is subtracted; a byte holds
weight i below weight i + 16. llama.cpp gives the step the sign that makes a block's largest weight step times -8. With
a negative step, the integers that a bundle needs run from -7 to 8, and LiteRT's end at 7. So a matrix is taken as it is
where no block has such an 8 (`Weights.encodings`); else its integers and steps are nearly those of a bundle
(`Weights.nearly`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import ENCODINGS, SMALLEST_BLOCK_SCALE, Encoded, pack
from edge_mtp.export.gguf_config import CENTROIDS, ORDERING
from edge_mtp.export.gguf_file import Q4_0, GgufFile, GgufTensor, can_dequantize
from edge_mtp.export.shapes import HEAD
from edge_mtp.export.weights import EMBEDDING, TOKEN_ORDERING, Rows, Weights

BLOCK = 32
ENCODING = ENCODINGS[f"int4b{BLOCK}"]
_HIGHEST = 7
_CHUNK = 1 << 22  # weights at a time

_TOP = {
    EMBEDDING: "token_embd.weight",
    "model.embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
    "model.per_layer_model_projection.weight": "per_layer_model_proj.weight",
    "model.per_layer_projection_norm.weight": "per_layer_proj_norm.weight",
    "model.norm.weight": "output_norm.weight",
    HEAD: "output.weight",
    "pre_projection.weight": "nextn.pre_projection.weight",
    "post_projection.weight": "nextn.post_projection.weight",
    "masked_embedding.centroids.weight": CENTROIDS,
    TOKEN_ORDERING: ORDERING,
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    "per_layer_input_gate.weight": "inp_gate.weight",
    "per_layer_projection.weight": "proj.weight",
    "post_per_layer_input_norm.weight": "post_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
# In the order of their rows.
_FUSED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
_CONFIGURING = {"rope_freqs.weight"}  # said by the configuration


@dataclass(frozen=True)
class _Part:
    """Rows of a tensor in the file, from row `first` of the matrix on, that are a tensor of `shape`."""

    tensor: GgufTensor
    first: int
    shape: tuple[int, ...]

    @property
    def rows_each(self) -> int:
        """How many rows of the matrix an entry of the first axis has."""
        return math.prod(self.shape[1:-1])

    def span(self, start: int, stop: int) -> tuple[int, int]:
        return self.first + start * self.rows_each, self.first + stop * self.rows_each


class GgufWeights(Weights):
    """The tensors `shapes` from a GGUF file.

    Raises:
        EdgeMtpError: a tensor is missing, has another shape, or a type whose values are not known.
    """

    def __init__(self, file: GgufFile, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.file = file
        self.names = dict(shapes)
        found = {name: self._part(name, shape) for name, shape in shapes.items()}
        missing = [name for name, part in found.items() if part is None]
        if missing:
            raise EdgeMtpError(
                f"{file.path} lacks {len(missing)} tensors, first {_gguf_name(missing[0])}: convert the whole model"
            )
        self._parts = {name: part for name, part in found.items() if part is not None}
        quantized = {name: part for name, part in self._parts.items() if part.tensor.is_quantized}
        for kind in sorted({part.tensor.kind for part in quantized.values()}):
            if not can_dequantize(kind, file.path):
                raise EdgeMtpError(
                    f"{file.path} has tensors in {kind}, which the package gguf cannot read: give the model in F16,"
                    " BF16, Q8_0 or Q4_0"
                )
        of_blocks = {name for name, part in quantized.items() if part.tensor.kind == Q4_0 and len(part.shape) > 1}
        kept = {name for name in of_blocks if _fits(self._parts[name])}
        self.encodings = dict.fromkeys((name for name in self.names if name in kept), ENCODING)
        self.nearly = dict.fromkeys((name for name in self.names if name in of_blocks - kept), ENCODING)
        self.foreign = {name: part.tensor.kind for name, part in quantized.items() if name not in kept}
        used = {part.tensor.name for part in self._parts.values()} | _CONFIGURING
        self.left_out = _groups(name for name in file.tensors if name not in used)

    def _part(self, name: str, shape: tuple[int, ...]) -> _Part | None:
        gguf_name = _gguf_name(name)
        tensor = self.file.tensors.get(gguf_name)
        if tensor is None:
            return self._fused(name, shape)
        if tensor.shape != shape:
            raise EdgeMtpError(
                f"{self.file.path}: {gguf_name} is {_by(tensor.shape)}, its metadata say {_by(shape)}: convert it again"
            )
        if tensor.is_quantized if name == TOKEN_ORDERING else not (tensor.is_float or tensor.is_quantized):
            raise EdgeMtpError(f"{self.file.path}: {gguf_name} is in {tensor.kind}: convert it again")
        return _Part(tensor, 0, shape)

    def _fused(self, name: str, shape: tuple[int, ...]) -> _Part | None:
        """Queries, keys or values as rows of one matrix."""
        matched = _LAYER.fullmatch(name)
        if not matched or matched[2] not in _FUSED:
            return None
        tensor = self.file.tensors.get(f"blk.{matched[1]}.attn_qkv.weight")
        if tensor is None:
            return None
        heights = [self.names.get(f"model.layers.{matched[1]}.{each}", (0,))[0] for each in _FUSED]
        if tensor.shape != (sum(heights), shape[1]):
            raise EdgeMtpError(
                f"{self.file.path}: {tensor.name} is {_by(tensor.shape)}, its metadata say"
                f" {_by((sum(heights), shape[1]))}: convert it again"
            )
        return _Part(tensor, sum(heights[: _FUSED.index(matched[2])]), shape)

    def _read(self, name: str, start: int, stop: int) -> Rows:
        part = self._parts[name]
        if len(part.shape) == 1:  # a vector is one row
            values = part.tensor.rows(0, 1)[0, start:stop]
            return np.ascontiguousarray(_ordering(part.tensor, values) if name == TOKEN_ORDERING else values)
        rows: Rows = part.tensor.rows(*part.span(start, stop)).reshape(stop - start, *part.shape[1:])
        return rows

    def _encoded(self, name: str, start: int, stop: int) -> Encoded:
        part = self._parts[name]
        steps, levels = _blocks(part.tensor, *part.span(start, stop))
        signed = np.where(steps < 0, np.int8(8) - levels, levels - np.int8(8))
        signed = np.where(steps == 0, np.int8(0), np.minimum(signed, np.int8(_HIGHEST)))
        rows = len(signed) * BLOCK // part.shape[-1]
        scales = np.maximum(np.abs(steps), np.float16(SMALLEST_BLOCK_SCALE)).reshape(rows, -1)
        data = pack(np.ascontiguousarray(signed).view(np.uint8).reshape(rows, -1), ENCODING.bits)
        return Encoded(data.reshape(-1), np.ascontiguousarray(scales))

    def __str__(self) -> str:
        return str(self.file.path)


def _blocks(tensor: GgufTensor, start: int, stop: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
    """The steps float16 [blocks,1] and levels int8 [blocks,32], 0 to 15, of rows in Q4_0."""
    stored = tensor.stored(start, stop).reshape(-1, 2 + BLOCK // 2)
    steps = np.ascontiguousarray(stored[:, :2]).view("<f2")
    if not np.isfinite(steps).all():
        raise EdgeMtpError(f"{tensor.file.path}: {tensor.name} has a step that is no number: convert it again")
    packed = stored[:, 2:]
    levels = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1).view(np.int8)
    return steps, levels


def _fits(part: _Part) -> bool:
    """Whether LiteRT's integers hold all blocks of a matrix in Q4_0. Stops at the first that they do not hold."""
    first, last = part.span(0, part.shape[0])
    step = max(1, _CHUNK // part.shape[-1])
    for start in range(first, last, step):
        steps, levels = _blocks(part.tensor, start, min(start + step, last))
        if ((steps < 0) & (levels == 0)).any():
            return False
    return True


def _ordering(tensor: GgufTensor, values: Rows) -> npt.NDArray[np.int32]:
    """Ids of tokens; llama.cpp's converter may have written them as floats."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int32)
    if not (whole == values).all():
        raise EdgeMtpError(f"{tensor.file.path}: {tensor.name} holds numbers that are no tokens: convert it again")
    return whole


def _gguf_name(name: str) -> str:
    matched = _LAYER.fullmatch(name)
    if matched:
        return f"blk.{matched[1]}.{_IN_LAYER.get(matched[2], matched[2])}"
    return _TOP.get(name, name)


def _groups(names: Iterator[str]) -> tuple[str, ...]:
    """One line for the tensors of one name in all layers."""
    counts: dict[str, int] = {}
    for name in names:
        group = re.sub(r"\.\d+\.", ".*.", name)
        counts[group] = counts.get(group, 0) + 1
    return tuple(f"{group} ({count} tensor{'s' * (count > 1)})" for group, count in sorted(counts.items()))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
