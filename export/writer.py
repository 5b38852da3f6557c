"""Writes the sections of a bundle to one `.litertlm` file."""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from pathlib import Path
from typing import Any

import litert_lm_builder
from litert_lm_builder import LitertLmFileBuilder
from litert_lm_builder.litertlm_builder import DType, Metadata

from edge_mtp.formats.bundle import GRAPHS_SECTIONS, HEADER_BEGIN, Bundle
from edge_mtp.formats.manifest import EDGE_KEY, Manifest, write_manifest

# The two header fields that differ each time the builder writes the same file.
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")


def write_bundle(
    path: Path,
    *,
    metadata: bytes,
    tokenizer: Path,
    models: dict[str, Path],
    manifest: Manifest,
    token_table: bytes,
    chat_template: str | None,
    scratch: Path,
) -> dict[str, int]:
    """Write the bundle to `path`, and return the bytes of each section by name. Equal arguments give equal files.

    `models` are TFLite files by section name, such as `mtp_drafter`. `chat_template` is the checkpoint's own template
    where the metadata has another. The builder takes files, so small sections are written to the directory `scratch`.
    """
    builder = LitertLmFileBuilder()
    builder.add_system_metadata(Metadata("Authors", "edge-mtp", DType.STRING))
    builder.add_llm_metadata(_file(scratch / "llm_metadata.pb", metadata))
    builder.add_hf_tokenizer(str(tokenizer))
    accelerators = {section: accelerator for accelerator, section in GRAPHS_SECTIONS.items()}
    for name, model in models.items():
        # Others use sections of these types for their own purposes.
        ours = [Metadata(EDGE_KEY, accelerators[name], DType.STRING)] if name in accelerators else []
        builder.add_tflite_model(str(model), model_type(name), additional_metadata=ours)
    data = {
        "manifest": write_manifest(manifest),
        "token_bytes": token_table,
    }
    if chat_template is not None:
        data["chat_template"] = chat_template.encode()
    for name, content in data.items():
        builder.add_generic_binary_data(
            _file(scratch / name, content),
            # The item that identifies a generic section.
            [Metadata(EDGE_KEY, name, DType.STRING)],
        )
    with path.open("w+b") as file:
        builder.build(file, validate_metadata=True)
    _make_repeatable(path, metadata, *data.values())
    names = ["llm_metadata", "tokenizer", *models, *data]
    return dict(zip(names, (s.size for s in Bundle(path).sections), strict=True))


def model_type(name: str) -> Any:
    """The builder's word for the TFLite section `name`, such as `mtp_drafter`: the name itself from version 0.19 on,
    an enumeration's value before."""
    known = getattr(litert_lm_builder, "TfLiteModelType", None)
    return name if known is None else known(f"tf_lite_{name}")


def _make_repeatable(path: Path, *contents: bytes) -> None:
    """Replace the random id by a hash of `contents`, which differ between bundles, and the time by a fixed one."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(struct.pack("<Q", len(content)) + content)
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest())).encode()
    with path.open("r+b") as file:
        size = struct.unpack("<Q", file.read(HEADER_BEGIN)[-8:])[0] - HEADER_BEGIN
        header = _UUID.sub(identity, file.read(size))
        header = _TIME.sub(lambda found: b"1970-01-01T00:00:00" + b".000000" * bool(found[1]) + b"+00:00", header)
        file.seek(HEADER_BEGIN)
        file.write(header)


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
