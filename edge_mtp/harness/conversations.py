"""Conversations whose next turn is to be generated, from JSONL files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mtp.chat import Message
from edge_mtp.errors import EdgeMtpError
from edge_mtp.tool_calls import ToolCall, check_tools


@dataclass(frozen=True)
class Conversation:
    """Messages whose next turn is generated; `gold` the exact calls of a right one, None where nobody knows."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    gold: Sequence[ToolCall] | None = None


def read_conversations(path: str | Path, limit: int | None = None) -> list[Conversation]:
    """The first `limit` conversations of a JSONL file, in the form of the tiny pair's splits.

    A line is an object with `prompt` (a string: one user message) or `messages`, and optionally `tools` (OpenAI's
    form) and `gold`: {"calls": [{"name": ..., "arguments": {...}}]}, or {"text": ...} where no call is right.
    `id`, `kind` and `template` are allowed and ignored. Raises EdgeMtpError naming the line that is something else.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EdgeMtpError(f"cannot read prompts {str(path)!r}: {reason}; pass a JSONL file") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise EdgeMtpError(f"prompts {str(path)!r} hold no line; write one JSON object a line")
    return [_conversation(line, f"{path}, line {number}") for number, line in numbered[:limit]]


def _conversation(line: str, where: str) -> Conversation:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise EdgeMtpError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(item, dict) or ("prompt" in item) == ("messages" in item):
        raise EdgeMtpError(f"{where}: expected an object with either `prompt` or `messages`; add one")
    if unknown := item.keys() - {"prompt", "messages", "tools", "gold", "id", "kind", "template"}:
        raise EdgeMtpError(f"{where}: unknown key {min(unknown)!r}; use prompt or messages, tools, gold")
    messages = item.get("messages", [{"role": "user", "content": item.get("prompt")}])
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") for m in messages):
        raise EdgeMtpError(f"{where}: messages are not a list of objects with a role; correct them")
    if "prompt" in item and not isinstance(item["prompt"], str):
        raise EdgeMtpError(f"{where}: prompt {item['prompt']!r} is not text; use a string, or `messages`")
    return Conversation(messages, check_tools(item.get("tools") or [], where), _gold(item.get("gold"), where))


def _gold(value: Any, where: str) -> list[ToolCall] | None:
    if value is None:
        return None
    try:
        if value.keys() not in ({"calls"}, {"text"}):
            raise TypeError
        return [ToolCall.from_json(call) for call in value.get("calls", [])]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EdgeMtpError(
            f'{where}: gold {value!r} is neither {{"calls": [{{"name", "arguments"}}]}} nor {{"text"}}; correct it'
        ) from None
