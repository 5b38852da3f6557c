"""The tiny pair in bundles without our parts, shaped like Google's own E2B file.

Only what the stock runtime asks for: prefill, decode and verify (T = 4), the embedders, a drafter that binds the
target's caches by name. No `edge_*` signatures and ops, no manifest, no token bytes. Masks are bool, caches int8, K
[1,h,C,D] and V [1,h,D,C], and every graph takes `param_tensor`, int32 [1,1,1,7]: the first row's position, the position
behind the last row, that again, and zeros (LiteRT-LM, `litert_compiled_model_executor_utils.cc`). The stock runtime
takes other types of masks and caches too, and does without `param_tensor`, verify and drafter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_lm_builder import DType, LitertLmFileBuilder, Metadata

from edge_mtp.cache import cache_folder, exclusive
from edge_mtp.export import flatbuffer
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.compact import compact
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.layers import HIDDEN
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.export.tiny import CONTEXT
from edge_mtp.export.tiny.bundle import _version, cached_bundle
from edge_mtp.export.writer import model_type
from edge_mtp.formats.bundle import GRAPHS_SECTIONS, Bundle, Section

PREFILL = (32, 128)  # of the int8 bundles; those of float32 have the lengths of `cached_bundle`
DRAFTS = 3  # G

KINDS, BUILTIN = schema.TensorType, schema.BuiltinOperator
MASKS = {"bool": KINDS.BOOL, "f32": KINDS.FLOAT32, "f16": KINDS.FLOAT16}


@dataclass(frozen=True)
class Variant:
    """What a bundle without our parts may be like; by default as Google's.

    `mask` is the type of all masks. Without `verify` or `drafter` that signature or section is absent. Graphs that
    take `param_tensor` answer nonsense unless it begins with their first position. The section `extra_input` has
    graphs with a further input `colour`, float32 [1], that no runtime knows. A `stray` drafter reads a cache that the
    target lacks.
    """

    kv: Literal["fp32", "int8"] = "int8"
    mask: Literal["bool", "f32", "f16"] = "bool"
    param_tensor: bool = True
    verify: bool = True
    drafter: bool = True
    extra_input: Literal["", "prefill_decode", "mtp_drafter"] = ""
    stray: bool = False

    def __str__(self) -> str:
        parts = [f"kv-{self.kv}", f"mask-{self.mask}"]
        parts += [f"no-{part}" for part in ("param_tensor", "verify", "drafter") if not getattr(self, part)]
        return "-".join([*parts, *[f"extra-{self.extra_input}"] * bool(self.extra_input), *["stray"] * self.stray])


def write(variant: Variant, path: Path) -> Path:
    """Write the bundle to `path`, whose folder holds its sections as files afterwards."""
    source = Bundle(_source(variant.kv))
    builder = LitertLmFileBuilder()
    builder.add_system_metadata(Metadata("Authors", "test", DType.STRING))
    metadata = source.section("LlmMetadata")
    assert metadata is not None
    builder.add_llm_metadata(_file(path.with_suffix(".pb"), bytes(metadata.data)))
    builder.add_hf_tokenizer(str(tiny_pair()[0] / "tokenizer.json"))
    for section in source.sections:
        left_out = {*GRAPHS_SECTIONS.values(), *(() if variant.drafter else ("mtp_drafter",))}
        if section.type != "TFLiteModel" or section.model_type in left_out:
            continue
        tflite = _file(path.with_suffix(f".{section.model_type}.tflite"), _changed(section, variant))
        builder.add_tflite_model(tflite, model_type(section.model_type or ""))
    with path.open("w+b") as file:
        builder.build(file, validate_metadata=True)
    return path


def _source(kv: str) -> Path:
    """A bundle of the exporter that has the graphs wanted, among others."""
    if kv == "fp32":
        return cached_bundle("fp32", widths=VERIFY_WIDTHS)
    path = cache_folder() / f"tiny-stock-kv8-{_version(*tiny_pair())}.litertlm"
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent):
        if path.is_file():
            return path
        export_bundle(*tiny_pair(), path, recipe="fp32", kv="int8", context=CONTEXT, prefill=PREFILL, lean=True)
    return path


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _changed(section: Section, variant: Variant) -> bytes:
    model = flatbuffer.parse(bytes(section.data))
    names = [signature.signatureKey.decode() for signature in model.signatureDefs]
    kept = {name for name in names if name != "verify" or variant.verify}
    model.signatureDefs = [s for s in model.signatureDefs if s.signatureKey.decode() in kept]
    for graph in [_Graph(model, signature) for signature in model.signatureDefs]:
        if "input_pos" not in graph.ports:  # a table
            continue
        if variant.mask != "f32":
            graph.feed("mask", MASKS[variant.mask], graph.shown if variant.mask == "bool" else graph.widened)
        if variant.param_tensor:
            graph.check_start("embeddings" if "embeddings" in graph.ports else "activations")
        if variant.extra_input == section.model_type:
            graph.add_input("colour", (1,), KINDS.FLOAT32)
        if variant.stray and section.model_type == "mtp_drafter":
            graph.ports["kv_cache_k_3"].name = b"kv_cache_k_9"
        graph.finish()
    compact(model)  # drops the graphs of signatures that are gone
    _drop_unused_codes(model)
    return flatbuffer.serialize(model)


def _drop_unused_codes(model: Any) -> None:
    """Forget operators that no graph uses, ours among them."""
    operators = {id(operator): operator for graph in model.subgraphs for operator in graph.operators}
    used = sorted({operator.opcodeIndex for operator in operators.values()})
    for operator in operators.values():
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]


class _Graph:
    """A signature to be changed at its beginning: other inputs, and the operators that make the old ones of them."""

    def __init__(self, model: Any, signature: Any) -> None:
        self.model, self.signature = model, signature
        self.graph = model.subgraphs[signature.subgraphIndex]
        self.ports = {entry.name.decode(): entry for entry in signature.inputs}
        self.inputs = self.graph.inputs.tolist()
        self.first: list[Any] = []

    def finish(self) -> None:
        self.graph.inputs = np.array(self.inputs, np.int32)
        self.graph.operators = [*self.first, *self.graph.operators]

    def add_input(self, name: str, shape: Iterable[int], kind: int) -> int:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), self.tensor(shape, kind)
        self.signature.inputs.append(entry)
        self.inputs.append(entry.tensorIndex)
        return int(entry.tensorIndex)

    def feed(self, name: str, kind: int, made: Callable[[int], tuple[int, list[int], Any]]) -> None:
        """Make the input `name` one of type `kind`; `made` says which operator makes what the graph had of it."""
        entry = self.ports[name]
        old = entry.tensorIndex
        given = self.tensor(self.graph.tensors[old].shape, kind)
        self.inputs[self.inputs.index(old)] = entry.tensorIndex = given
        code, operands, options = made(given)
        self.append(code, operands, old, options)

    def shown(self, mask: int) -> tuple[int, list[int], Any]:
        """Nothing to add to scores where the mask is true, and what hides them elsewhere."""
        zero, hidden = (self.constant(np.array(value, np.float32)) for value in (0.0, HIDDEN))
        return BUILTIN.SELECT_V2, [mask, zero, hidden], schema.SelectV2OptionsT()

    def widened(self, mask: int) -> tuple[int, list[int], Any]:
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = KINDS.FLOAT16, KINDS.FLOAT32
        return BUILTIN.CAST, [mask], options

    def check_start(self, name: str) -> None:
        """Multiply the input `name` by 0 unless the new input `param_tensor` begins with the first row's position."""
        param_tensor = self.add_input("param_tensor", (1, 1, 1, 7), KINDS.INT32)
        told = self.tensor((1, 1, 1, 1), KINDS.INT32)
        begin, size = (self.constant(np.array([value] * 4, np.int32)) for value in (0, 1))
        self.append(BUILTIN.SLICE, [param_tensor, begin, size], told, schema.SliceOptionsT())
        flat, row = self.tensor((1,), KINDS.INT32), self.tensor((1,), KINDS.INT32)
        self.append(BUILTIN.RESHAPE, [told, self.constant(np.array([1], np.int32))], flat, schema.ReshapeOptionsT())
        begin, size = (self.constant(np.array([value], np.int32)) for value in (0, 1))
        position = self.ports["input_pos"].tensorIndex
        self.append(BUILTIN.SLICE, [position, begin, size], row, schema.SliceOptionsT())
        same, number = self.tensor((1,), KINDS.BOOL), self.tensor((1,), KINDS.FLOAT32)
        self.append(BUILTIN.EQUAL, [flat, row], same, schema.EqualOptionsT())
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = KINDS.BOOL, KINDS.FLOAT32
        self.append(BUILTIN.CAST, [same], number, options)
        factor = self.tensor((1, 1, 1), KINDS.FLOAT32)
        shape = self.constant(np.array([1, 1, 1], np.int32))
        self.append(BUILTIN.RESHAPE, [number, shape], factor, schema.ReshapeOptionsT())
        self.feed(name, KINDS.FLOAT32, lambda given: (BUILTIN.MUL, [given, factor], schema.MulOptionsT()))

    def tensor(self, shape: Iterable[int], kind: int, buffer: int = 0) -> int:
        made = schema.TensorT()
        made.shape, made.type, made.buffer, made.hasRank = np.array([*shape], np.int32), kind, buffer, True
        made.name = b"t%d" % len(self.graph.tensors)
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, values: Any) -> int:
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.model.buffers.append(buffer)
        kind = KINDS.INT32 if values.dtype == np.int32 else KINDS.FLOAT32
        return self.tensor(values.shape, kind, len(self.model.buffers) - 1)

    def append(self, builtin: int, inputs: list[int], output: int, options: Any) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self.code(builtin)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
        self.first.append(operator)

    def code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
