"""Sections to one `.litertlm` file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litert_lm_builder import LitertLmFileBuilder, TfLiteModelType
from litert_lm_builder.litertlm_builder import DType, Metadata
from litert_lm_builder.runtime.proto import llm_metadata_pb2

from edge_mtp.bundle import EDGE_KEY, Bundle

# Gemma 4's control tokens by their role; the ids are the tokenizer's.
TURN_END = "<turn|>"
TOOL_CALL, TOOL_CALL_END = "<|tool_call>", "<tool_call|>"
TOOL_RESPONSE = "<|tool_response>"
QUOTE = '<|"|>'
CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
THINK = "<|think|>"

STOPS = (TURN_END, TOOL_RESPONSE)
THINKING_TOKENS = {THINK, CHANNEL, CHANNEL_END}
TOOL_TOKENS = {TOOL_CALL, TOOL_CALL_END, QUOTE, TOOL_RESPONSE}


@dataclass(frozen=True)
class Chat:
    """Token ids that begin, pad and end a text, and whether the vocabulary has thinking and tool calls."""

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
    scratch: Path,
) -> dict[str, int]:
    """Write the bundle to `path` and return the bytes of each section by name.

    `models` are TFLite files by section name, as in `mtp_drafter`. The builder takes files, so the small sections
    pass through the directory `scratch`.
    """
    builder = LitertLmFileBuilder()
    builder.add_system_metadata(Metadata("Authors", "edge-mtp", DType.STRING))
    builder.add_llm_metadata(_file(scratch / "llm_metadata.pb", metadata))
    builder.add_hf_tokenizer(str(tokenizer))
    for name, model in models.items():
        builder.add_tflite_model(str(model), TfLiteModelType(f"tf_lite_{name}"))
    ours = {
        "manifest": json.dumps(manifest, ensure_ascii=False, indent=1).encode(),
        "token_bytes": token_table,
    }
    for name, data in ours.items():
        builder.add_generic_binary_data(
            _file(scratch / name, data),
            # The item that tells the two generic sections apart.
            [Metadata(EDGE_KEY, name, DType.STRING)],
        )
    with path.open("w+b") as file:
        builder.build(file, validate_metadata=True)
    names = ["llm_metadata", "tokenizer", *models, *ours]
    return dict(zip(names, (s.size for s in Bundle(path).sections), strict=True))


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
