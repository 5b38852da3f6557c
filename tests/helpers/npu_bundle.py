"""A bundle with graphs for an NPU: those for the GPU that update no cache, which compilers for NPUs take whole."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from litert_lm_builder import DType, LitertLmFileBuilder, Metadata

from edge_mtp.export import compact, flatbuffer
from edge_mtp.export.writer import model_type
from edge_mtp.formats.bundle import Bundle, Section

BLOCK = 1 << 14  # sections begin at multiples of it
KIND = "artisan_text_decoder"  # of a section that the stock engine leaves alone


def with_npu_graphs(source: Path, path: Path, signatures: Collection[str], *, behind: bool = False) -> Path:
    """Write `path`: the bundle `source` with copies of its `gpu_*` signatures of these names as `npu_*`, in a section
    of their own. It stands before the section that they are from, or behind it, and has no weights."""
    bundle = Bundle(source)
    graphs = next(s for s in bundle.sections if "gpu_decode" in _signatures(s))
    lenders = next(s.begin for s in bundle.sections if s.begin > graphs.begin) - graphs.begin
    chosen = _tree(graphs)
    chosen.signatureDefs = [each for each in chosen.signatureDefs if each.signatureKey.decode() in signatures]
    for each in chosen.signatureDefs:
        each.signatureKey = each.signatureKey.replace(b"gpu_", b"npu_")
    compact.compact(chosen)
    models = [(graphs.model_type, _tree(graphs), graphs.items["edge_mtp"]), (KIND, chosen, "npu")]
    models = models if behind else models[::-1]
    gap = 0  # from the beginning of a section to the sections with weights
    for _, model, _ in reversed(models):
        gap += -(-len(flatbuffer.serialize(model)) // BLOCK) * BLOCK
        for buffer in model.buffers:
            if buffer.offset > 1:
                buffer.offset += gap - lenders
    _build(bundle, graphs, models, path)
    return path


def _build(bundle: Bundle, graphs: Section, models: list[tuple[Any, Any, Any]], path: Path) -> None:
    """Write the bundle with `models` in the place of the section `graphs`."""
    builder = LitertLmFileBuilder()
    metadata = bundle.section("LlmMetadata")
    assert metadata is not None
    assert bundle.tokenizer_json is not None
    builder.add_system_metadata(Metadata("Authors", "edge-mtp", DType.STRING))
    builder.add_llm_metadata(_file(path, "metadata", bytes(metadata.data)))
    builder.add_hf_tokenizer(_file(path, "tokenizer.json", bundle.tokenizer_json))
    for section in bundle.sections:
        if section is graphs:
            for kind, model, mark in models:
                item = [Metadata("edge_mtp", str(mark), DType.STRING)]
                file = _file(path, f"{kind}.tflite", flatbuffer.serialize(model))
                builder.add_tflite_model(file, model_type(kind), additional_metadata=item)
        elif section.type == "TFLiteModel":
            assert section.model_type is not None
            file = _file(path, f"{section.model_type}.tflite", bytes(section.data))
            builder.add_tflite_model(file, model_type(section.model_type), additional_metadata=_marks(section))
        elif section.type == "GenericBinaryData":
            builder.add_generic_binary_data(_file(path, f"{section.index}", bytes(section.data)), _marks(section))
    with path.open("w+b") as output:
        builder.build(output)


def _marks(section: Section) -> list[Metadata]:
    return [Metadata("edge_mtp", str(v), DType.STRING) for k, v in section.items.items() if k == "edge_mtp"]


def _signatures(section: Section) -> list[str]:
    if section.type != "TFLiteModel":
        return []
    return [each.signatureKey.decode() for each in _tree(section).signatureDefs]


def _tree(section: Section) -> Any:
    return schema.ModelT.InitFromPackedBuf(bytes(section.data), 0)


def _file(path: Path, name: str, data: bytes) -> str:
    file = path.with_name(f"{path.stem}.{name}")
    file.write_bytes(data)
    return str(file)
