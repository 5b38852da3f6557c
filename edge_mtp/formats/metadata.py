"""LlmMetadata: a bundle's tokens, template and limits, for every runtime.

Field numbers: LiteRT-LM `runtime/proto/llm_metadata.proto`, `llm_model_type.proto` and `token.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_mtp.formats.wire import MalformedError, protobuf_fields, varints

# A token is a string to tokenize, or the ids themselves.
Token = str | tuple[int, ...]

MOST_STOPS = 256  # each is searched for at every token of a reply

MODEL_TYPES = {
    1: "generic_model", 2: "gemma3n", 3: "function_gemma", 4: "gemma3", 5: "qwen3", 7: "qwen2p5",
    8: "gemma4", 9: "fast_vlm", 11: "lfm2", 12: "minicpm5", 13: "minicpmv4",
}  # fmt: skip

GEMMA4_TOOL_MARKS = {
    5: "code_fence_start",
    6: "code_fence_end",
    10: "open_quote",
    11: "close_quote",
    12: "function_response_start",
}


@dataclass
class LlmMetadata:
    """The fields that decoding needs; None or empty if the bundle lacks them.

    `max_num_tokens` counts prompt and reply; `chat_template` is Jinja; `tool_marks` is Gemma 4's tool syntax.
    """

    model_type: str | None = None
    max_num_tokens: int | None = None
    start_token: Token | None = None
    pad_token: Token | None = None
    stop_tokens: tuple[Token, ...] = ()
    supports_thinking: bool | None = None
    supports_function_calling: bool | None = None
    min_runtime_version: str | None = None
    tool_marks: dict[str, str] | None = None
    chat_template: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> LlmMetadata:
        """Decode the serialized protobuf `data`.

        Raises:
            MalformedError: `data` is not an LlmMetadata message.
        """
        metadata = cls()
        stops: list[Token] = []
        for number, value in protobuf_fields(data):
            match number, value:
                case 1, bytes():
                    metadata.start_token = _token(value)
                case 2, bytes():
                    stops.append(_token(value))
                case 5, int():
                    metadata.max_num_tokens = value
                case 6, bytes():
                    metadata.model_type, metadata.tool_marks = _model_type(value)
                case 7, bytes():
                    metadata.chat_template = _text(value)
                case 11, int():
                    metadata.supports_thinking = bool(value)
                case 12, int():
                    metadata.supports_function_calling = bool(value)
                case 13, bytes():
                    metadata.pad_token = _token(value)
                case 14, bytes():
                    metadata.min_runtime_version = _text(value)
                case ((1 | 2 | 5 | 6 | 7 | 11 | 12 | 13 | 14), _):
                    raise MalformedError(f"LlmMetadata field {number} has the wrong type")
        if len(stops) > MOST_STOPS:
            raise MalformedError(f"{len(stops)} stop tokens are more than {MOST_STOPS}")
        metadata.stop_tokens = tuple(stops)
        return metadata


def _token(data: bytes) -> Token:
    """TokenUnion: 1 = TokenIds {1: repeated int32}, 2 = string."""
    token: Token = ()
    for number, value in protobuf_fields(data):
        if number == 1 and isinstance(value, bytes):
            token = tuple(_ids(protobuf_fields(value)))
        elif number == 2 and isinstance(value, bytes):
            token = _text(value)
    return token


def _ids(fields: Iterable[tuple[int, int | bytes]]) -> Iterable[int]:
    for number, value in fields:
        if number == 1 and isinstance(value, int):
            yield _id(value)
        elif number == 1 and isinstance(value, bytes):
            yield from map(_id, varints(value))


def _id(number: int) -> int:
    if number >= 1 << 31:  # a negative int32 is a 64-bit varint
        raise MalformedError(f"{number} is no token id")
    return number


def _model_type(data: bytes) -> tuple[str | None, dict[str, str] | None]:
    """The name of the field that is set in the one-of, and Gemma 4's tool-call marks."""
    name, marks = None, None
    for number, value in protobuf_fields(data):
        name = MODEL_TYPES.get(number, f"type {number}")
        if name == "gemma4" and isinstance(value, bytes):
            marks = {
                GEMMA4_TOOL_MARKS[mark]: _text(text)
                for mark, text in protobuf_fields(value)
                if mark in GEMMA4_TOOL_MARKS and isinstance(text, bytes)
            }
    return name, marks


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"text {data[:20]!r} is not UTF-8") from error
