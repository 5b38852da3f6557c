"""Writes sections to one `.litertlm` file."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litert_lm_builder
from litert_lm_builder import LitertLmFileBuilder
from litert_lm_builder.litertlm_builder import DType, Metadata
from litert_lm_builder.runtime.proto import llm_metadata_pb2

from edge_mtp.formats.bundle import EDGE_KEY, HEADER_BEGIN, Bundle

# Gemma 4's control tokens by their role; the ids are the tokenizer's.
TURN_END = "<turn|>"
TOOL_CALL, TOOL_CALL_END = "<|tool_call>", "<tool_call|>"
TOOL_RESPONSE = "<|tool_response>"
QUOTE = '<|"|>'
CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
THINK = "<|think|>"

# The two header fields that differ each time the builder writes the same file.
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")

STOPS = (TURN_END, TOOL_RESPONSE)
THINKING_TOKENS = {THINK, CHANNEL, CHANNEL_END}
TOOL_TOKENS = {TOOL_CALL, TOOL_CALL_END, QUOTE, TOOL_RESPONSE}


@dataclass(frozen=True)
class Chat:
    """Token ids that begin, pad and end a text, and whether the vocabulary supports thinking and tool calls."""

    start_token: int
    pad_token: int | None
    stop_tokens: list[int]
    thinking: bool
    tools: bool


def llm_metadata(chat: Chat, template: str, max_tokens: int) -> bytes:
    """The LlmMetadata section, serialized. `max_tokens` counts prompt and reply; `template` is Jinja."""
    metadata = llm_metadata_pb2.LlmMetadata()
    metadata.start_token.token_ids.ids.append(chat.start_token)
    if chat.pad_token is not None:
        metadata.pad_token.token_ids.ids.append(chat.pad_token)
    for stop in chat.stop_tokens:
        metadata.stop_tokens.add().token_ids.ids.append(stop)
    metadata.max_num_tokens = max_tokens
    metadata.jinja_prompt_template = template
    metadata.supports_thinking = chat.thinking
    metadata.supports_function_calling = chat.tools
    gemma4 = metadata.llm_model_type.gemma4
    gemma4.SetInParent()
    if chat.tools:
        gemma4.code_fence_start, gemma4.code_fence_end = TOOL_CALL, TOOL_CALL_END
        gemma4.open_quote = gemma4.close_quote = QUOTE
        gemma4.function_response_start = TOOL_RESPONSE
    if chat.thinking:
        channel = metadata.channels.add()
        channel.channel_name = "thought"
        channel.start, channel.end = f"{CHANNEL}thought\n", CHANNEL_END
    data: bytes = metadata.SerializeToString()
    return data


def write_bundle(
    path: Path,
    *,
    metadata: bytes,
    tokenizer: Path,
    models: dict[str, Path],
    manifest: dict[str, Any],
    token_table: bytes,
    chat_template: str | None,
    scratch: Path,
) -> dict[str, int]:
    """Write the bundle to `path`, and return the bytes of each section by name. Equal arguments give equal files.

    `models` are TFLite files by section name, such as `mtp_drafter`. `chat_template` is the checkpoint's own if the one
    in the metadata differs. The builder takes files, so small sections are written to the directory `scratch` first.
    """
    builder = LitertLmFileBuilder()
    builder.add_system_metadata(Metadata("Authors", "edge-mtp", DType.STRING))
    builder.add_llm_metadata(_file(scratch / "llm_metadata.pb", metadata))
    builder.add_hf_tokenizer(str(tokenizer))
    for name, model in models.items():
        builder.add_tflite_model(str(model), model_type(name))
    ours = {
        "manifest": json.dumps(manifest, ensure_ascii=False, indent=1).encode(),
        "token_bytes": token_table,
    }
    if chat_template is not None:
        ours["chat_template"] = chat_template.encode()
    for name, data in ours.items():
        builder.add_generic_binary_data(
            _file(scratch / name, data),
            # The item that identifies a generic section.
            [Metadata(EDGE_KEY, name, DType.STRING)],
        )
    with path.open("w+b") as file:
        builder.build(file, validate_metadata=True)
    _make_repeatable(path, metadata, *ours.values())
    names = ["llm_metadata", "tokenizer", *models, *ours]
    return dict(zip(names, (s.size for s in Bundle(path).sections), strict=True))


def model_type(name: str) -> Any:
    """The builder's type for the TFLite section `name`, such as `mtp_drafter`: its name from version 0.19 on, an enum
    value before that."""
    known = getattr(litert_lm_builder, "TfLiteModelType", None)
    return name if known is None else known(f"tf_lite_{name}")


def _make_repeatable(path: Path, *contents: bytes) -> None:
    """Replace the random id by a hash of `contents`, which identify the bundle, and clear the time of writing."""
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
