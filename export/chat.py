"""The control tokens that a runtime needs for a conversation, and the metadata section that names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litert_lm_builder.runtime.proto import llm_metadata_pb2

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import Pair, tokenizer_ids

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


def chat_of(pair: Pair) -> Chat:
    """The control tokens of a pair, found by the text that gives each its role.

    Raises EdgeMtpError for a checkpoint without a start or stop token, or with an id that is none.
    """
    config, ids = pair.target.config, tokenizer_ids(pair.tokenizer)

    def token(name: str, value: Any) -> int:
        if type(value) is not int or not 0 <= value < config.vocab_size:
            raise EdgeMtpError(
                f"{pair.target.directory} has {name} {value!r}, which is no id from 0 to {config.vocab_size - 1}:"
                " correct generation_config.json or config.json"
            )
        return value

    def given(name: str) -> Any:
        return pair.generation.get(name, getattr(config, name))

    eos, start, pad = given("eos_token_id"), given("bos_token_id"), given("pad_token_id")
    stops = {token("eos_token_id", each) for each in (eos if isinstance(eos, list) else [] if eos is None else [eos])}
    stops |= {ids[text] for text in STOPS if text in ids}
    if start is None or not stops:
        raise EdgeMtpError(f"{pair.target.directory} names no start or stop token: add generation_config.json")
    return Chat(
        start_token=token("bos_token_id", start),
        pad_token=None if pad is None else token("pad_token_id", pad),
        stop_tokens=sorted(stops),
        thinking=ids.keys() >= THINKING_TOKENS,
        tools=ids.keys() >= TOOL_TOKENS,
    )


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
