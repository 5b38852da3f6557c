"""Bundles of a few kilobytes, made by hand: signatures without weights, to be read and never run."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as tflite
from litert_lm_builder import DType, LitertLmFileBuilder, Metadata

from edge_mtp.export.writer import model_type
from edge_mtp.formats.bundle import GRAPHS_SECTIONS

HIDDEN, CONTEXT, VOCAB, LAYERS, PER_LAYER = 8, 64, 40, 3, 4
TENSOR_TYPES = {
    "f32": tflite.TensorType.FLOAT32,
    "i32": tflite.TensorType.INT32,
    "i8": tflite.TensorType.INT8,
}


@dataclass
class Graph:
    """Inputs and outputs as name -> `f32[1,2]`; `composites` are the ops inside."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    composites: Sequence[str] = ()


def caches(layers: Sequence[int] = range(LAYERS)) -> dict[str, str]:
    shapes = {"k": f"f32[1,1,{CONTEXT},4]", "v": f"f32[1,1,4,{CONTEXT}]"}
    return {f"kv_cache_{part}_{layer}": shape for part, shape in shapes.items() for layer in layers}


def target(width: int, *, logits: bool = True) -> Graph:
    inputs = {
        "embeddings": f"f32[1,{width},{HIDDEN}]",
        "per_layer_embeddings": f"f32[1,{width},{LAYERS},{PER_LAYER}]",
        "input_pos": f"i32[{width}]",
        "mask": f"f32[1,1,{width},{CONTEXT}]",
        **caches(),
    }
    heads = {"logits": f"f32[1,{width},{VOCAB}]", "activations": f"f32[1,{width},{HIDDEN}]"}
    return Graph(inputs, {**caches(), **(heads if logits else {})})


def edge_verify(width: int) -> Graph:
    graph = target(width)
    words = -(-VOCAB // 32)
    operands = {"draft": f"i32[1,{width - 1}]", "token_mask": f"i32[1,{width},{words}]"}
    results = {"n_accepted": "i32[1]", "tokens": f"i32[1,{width}]"}
    return Graph(graph.inputs | operands, graph.outputs | results, ["edge_mtp.verify"])


def edge_draft(length: int) -> Graph:
    inputs = {"token": "i32[1]", "activations": f"f32[1,1,{HIDDEN}]", **caches([1, 2])}
    return Graph(inputs, {"draft": f"i32[1,{length}]", "confidence": f"f32[1,{length}]"}, ["edge_mtp.draft"])


def drafter() -> Graph:
    inputs = {
        "activations": f"f32[1,1,{2 * HIDDEN}]",
        "input_pos": "i32[1]",
        "mask": f"f32[1,1,1,{CONTEXT}]",
        **caches([1, 2]),
    }
    return Graph(inputs, {"logits": f"f32[1,1,{VOCAB}]", "projected_activations": f"f32[1,1,{HIDDEN}]"})


def cpu_graphs() -> dict[str, Graph]:
    """Our own signatures for the CPU."""
    return _own("edge_")


def gpu_graphs() -> dict[str, Graph]:
    return _inlined(_own("gpu_"))


def npu_graphs() -> dict[str, Graph]:
    return _inlined(_own("npu_"))


def _inlined(graphs: dict[str, Graph]) -> dict[str, Graph]:
    return {name: Graph(graph.inputs, graph.outputs) for name, graph in graphs.items()}


def _own(prefix: str) -> dict[str, Graph]:
    return {
        f"{prefix}prefill_16": target(16, logits=False),
        f"{prefix}decode": target(1),
        f"{prefix}verify_4": edge_verify(4),
        f"{prefix}draft_3": edge_draft(3),
    }


def stock_graphs() -> dict[str, Graph]:
    """The signatures of the stock runtime."""
    return {
        "prefill_16": target(16, logits=False),
        "prefill_32": target(32, logits=False),
        "decode": target(1),
        "verify": target(4),
    }


@dataclass
class Parts:
    """What goes into the bundle, ours in prefill_decode as in older ones; a test changes what it is about."""

    prefill_decode: dict[str, Graph] = field(
        default_factory=lambda: {
            **stock_graphs(),
            "edge_decode": target(1),
            **{f"edge_verify_{width}": edge_verify(width) for width in range(2, 9)},
            **{f"edge_draft_{length}": edge_draft(length) for length in range(1, 8)},
        }
    )
    aux: dict[str, Graph] | None = None
    mtp_aux: dict[str, Graph] | None = None
    text_encoder: dict[str, Graph] | None = None
    marks: dict[str, str] = field(
        default_factory=lambda: {section: accelerator for accelerator, section in GRAPHS_SECTIONS.items()}
    )
    drafter: Graph | None = field(default_factory=drafter)
    embedder: Graph | None = field(
        default_factory=lambda: Graph({"tokens": "i32[1,1]"}, {"embeddings": f"f32[1,1,{HIDDEN}]"})
    )
    manifest: bytes | None = json.dumps({"edge_mtp": 1, "context_length": CONTEXT}).encode()
    token_bytes: bytes | None = None
    tokens: dict[str, int] = field(
        default_factory=lambda: {chr(33 + i): i for i in range(VOCAB - 1)} | {"<turn|>": VOCAB - 1}
    )
    chat_template: str = "{{ messages }}"
    own_template: str = ""  # in a section of its own

    def write(self, path: Path) -> Path:
        """Write the bundle at `path`; its parts are left beside it."""
        builder = LitertLmFileBuilder()
        builder.add_system_metadata(Metadata("Authors", "the tests", DType.STRING))
        builder.add_system_metadata(Metadata("build", -7, DType.INT32))
        text = (
            'start_token { token_ids { ids: 2 } } stop_tokens { token_str: "<turn|>" }'
            " stop_tokens { token_ids { ids: [1, 300] } }"
            f" jinja_prompt_template: {json.dumps(self.chat_template)} max_num_tokens: {CONTEXT}"
            ' llm_model_type { gemma4 { code_fence_start: "<|tool_call>" open_quote: "<|\\"|>" } }'
            " supports_thinking: false supports_function_calling: true"
        )
        builder.add_llm_metadata(_file(path, "metadata.pbtext", text.encode()))
        vocab = {"model": {"vocab": self.tokens}, "added_tokens": [{"id": VOCAB - 1}]}
        builder.add_hf_tokenizer(_file(path, "tokenizer.json", json.dumps(vocab).encode()))
        per_layer = Graph({"tokens": "i32[1,1]"}, {"per_layer": f"f32[1,1,{LAYERS},{PER_LAYER}]"})
        for graphs, kind in [
            (self.embedder and {"embed": self.embedder}, "embedder"),
            ({"embed": per_layer}, "per_layer_embedder"),
            (self.text_encoder, "text_encoder"),
            (self.mtp_aux, "mtp_aux"),
            (self.aux, "aux"),
            (self.prefill_decode, "prefill_decode"),
            (self.drafter and {"draft": self.drafter}, "mtp_drafter"),
        ]:
            if graphs:
                mark = [Metadata("edge_mtp", self.marks[kind], DType.STRING)] if kind in self.marks else None
                file = _file(path, f"{kind}.tflite", tflite_model(graphs))
                builder.add_tflite_model(file, model_type(kind), additional_metadata=mark)
        token_table = self.token_bytes
        if token_table is None:
            token_table = token_bytes([token.encode() for token in self.tokens], special={VOCAB - 1})
        own = [("manifest", self.manifest), ("token_bytes", token_table), ("chat_template", self.own_template.encode())]
        for name, data in own:
            if data:
                mark = [Metadata("edge_mtp", name, DType.STRING)]
                builder.add_generic_binary_data(_file(path, name, data), mark)
        with open(path, "wb") as bundle:
            builder.build(bundle, validate_metadata=True)
        return path


def token_bytes(texts: list[bytes], special: set[int]) -> bytes:
    """The token-bytes table of these texts."""
    offsets = [sum(map(len, texts[:i])) for i in range(len(texts) + 1)]
    head = struct.pack(f"<4sII{len(offsets)}I", b"EMTB", 1, len(texts), *offsets)
    return head + b"".join(texts) + bytes(int(i in special) for i in range(len(texts)))


def tflite_model(graphs: dict[str, Graph]) -> bytes:
    """A TFLite model with one subgraph for each signature, whose only ops are its composites."""
    model = tflite.ModelT(version=3, description="synthetic", buffers=[tflite.BufferT()])
    model.operatorCodes = [
        tflite.OperatorCodeT(
            deprecatedBuiltinCode=127, builtinCode=tflite.BuiltinOperator.STABLEHLO_COMPOSITE, version=1
        )
    ]
    model.subgraphs, model.signatureDefs = [], []
    for name, graph in graphs.items():
        tensors = [*graph.inputs.items(), *graph.outputs.items()]
        inputs = list(range(len(graph.inputs)))
        outputs = list(range(len(graph.inputs), len(tensors)))
        model.subgraphs.append(
            tflite.SubGraphT(
                tensors=[_tensor(*tensor) for tensor in tensors],
                inputs=inputs,
                outputs=outputs,
                operators=[_composite(op) for op in graph.composites],
                name=name,
            )
        )
        model.signatureDefs.append(
            tflite.SignatureDefT(
                inputs=[tflite.TensorMapT(tensors[i][0], i) for i in inputs],
                outputs=[tflite.TensorMapT(tensors[i][0], i) for i in outputs],
                signatureKey=name,
                subgraphIndex=len(model.subgraphs) - 1,
            )
        )
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str, kind: str) -> Any:
    dtype, shape = re.fullmatch(r"(\w+)\[(.*)\]", kind).groups()
    return tflite.TensorT(shape=[int(size) for size in shape.split(",")], type=TENSOR_TYPES[dtype], name=name)


def _composite(name: str) -> Any:
    return tflite.OperatorT(
        opcodeIndex=0,
        builtinOptions2Type=tflite.BuiltinOptions2.StableHLOCompositeOptions,
        builtinOptions2=tflite.StableHLOCompositeOptionsT(name=name),
    )


def _file(path: Path, name: str, data: bytes) -> str:
    file = path.parent / name
    file.write_bytes(data)
    return str(file)
