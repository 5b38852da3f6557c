"""An item: one conversation to be answered, of a workload or of a tool-call suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.chat.messages import ROLES, Message, is_call
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import check_tools
from edge_mtp.harness.score.gold import Gold

OTHER = "other"  # the kind of an item that names none
_ITEM_KEYS = ("id", "kind", "template", "prompt", "messages", "tools", "gold", "turns", "max_tokens")
_TURN_KEYS = ("prompt", "messages", "responses", "gold")


@dataclass(frozen=True)
class Turn:
    """One reply that is asked for: `messages` come before it (a user's, or scripted tool responses); `gold` is what a
    right reply does, None where nobody knows."""

    messages: Sequence[Message]
    gold: Gold | None = None

    def to_json(self) -> dict[str, Any]:
        gold = {} if self.gold is None else {"gold": self.gold.to_json()}
        return {"messages": list(self.messages), **gold}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Turn:
        """Raises EdgeMtpError for what is no turn, naming the part that is wrong."""
        _check_keys(value, _TURN_KEYS)
        given = [key for key in ("prompt", "messages", "responses") if key in value]
        if len(given) != 1:
            raise EdgeMtpError(f"{' and '.join(given) or 'no messages'} given; give either `prompt` or `messages`")
        return cls(
            _messages(given[0], value[given[0]]), None if value.get("gold") is None else Gold.from_json(value["gold"])
        )


@dataclass(frozen=True)
class Item:
    """A conversation in turns; between them stand the model's own replies.

    `kind` is its class in tables: single, parallel, no_call, ... or the workload's: chat, summarise, ... Items of one
    `cluster` (a template) are not independent of one another. `max_tokens` bounds each reply; None: the run's does.
    """

    id: str
    kind: str
    cluster: str
    turns: Sequence[Turn]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The form of a line of a suite file (docs/suites.md)."""
        first, *later = self.turns
        value: dict[str, Any] = {"id": self.id, "kind": self.kind, "template": self.cluster, **first.to_json()}
        if self.tools:
            value["tools"] = list(self.tools)
        if later:
            value["turns"] = [turn.to_json() for turn in later]
        if self.max_tokens is not None:
            value["max_tokens"] = self.max_tokens
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """Raises EdgeMtpError for what is no item, naming the part that is wrong."""
        _check_keys(value, _ITEM_KEYS)
        name = _text("id", value.get("id"))
        later = value.get("turns") or []
        if not isinstance(later, list):
            raise EdgeMtpError(f"turns {_shown(later)} are not a list; give one object for each further turn")
        turns = [Turn.from_json({key: value[key] for key in ("prompt", "messages", "gold") if key in value})]
        for number, turn in enumerate(later, 2):
            try:
                turns.append(Turn.from_json(turn))
            except EdgeMtpError as error:
                raise EdgeMtpError(f"turn {number}: {error}") from None
        max_tokens = value.get("max_tokens")
        if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
            raise EdgeMtpError(f"max_tokens {_shown(max_tokens)} is not a number from 1 on; correct or drop it")
        return cls(
            id=name,
            kind=_text("kind", value.get("kind", OTHER)),
            cluster=_text("template", value.get("template", name)),
            turns=tuple(turns),
            tools=tuple(check_tools(value.get("tools") or [], "tools")),
            max_tokens=max_tokens,
        )


def _check_keys(value: Any, known: Sequence[str]) -> None:
    if not isinstance(value, Mapping):
        raise EdgeMtpError(f"{_shown(value)} is not an object; give one with either `prompt` or `messages`")
    if unknown := value.keys() - set(known):
        raise EdgeMtpError(f"unknown key {min(unknown)!r}; use {', '.join(known)}")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise EdgeMtpError(f"{key} {_shown(value)} is not text; give a string")
    return value


def _messages(key: str, value: Any) -> tuple[Message, ...]:
    """`prompt` is one user message, `responses` are what tools answer: [{"name": ..., "content": ...}]."""
    if key == "prompt":
        if not isinstance(value, str):
            raise EdgeMtpError(f"prompt {_shown(value)} is not text; use a string, or `messages`")
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise EdgeMtpError(f"{key} {_shown(value)} are not a list of at least one object; give one")
    messages = []
    for index, message in enumerate(value):
        if key == "responses" and isinstance(message, Mapping):
            message = {"role": "tool", **message}
        if fault := _fault(message):
            raise EdgeMtpError(f"{key}[{index}]: {fault}")
        messages.append(message)
    return tuple(messages)


def _fault(message: Any) -> str | None:
    """What is wrong with a message, with the cure; None for a right one."""
    if not isinstance(message, Mapping):
        return f"{_shown(message)} is not an object; give a role and content"
    if message.get("role") not in ROLES:
        return f"role {_shown(message.get('role'))} is unknown; use {', '.join(ROLES)}"
    if not isinstance(message.get("content"), str | list | Mapping | None):
        return f"content {_shown(message['content'])} is not text; give a string"
    if message["role"] == "tool" and not isinstance(message.get("name"), str):
        return f"name {_shown(message.get('name'))} is not text; name the tool that answers"
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(map(is_call, calls)):
        return f'tool_calls {_shown(calls)} are not [{{"function": {{"name", "arguments"}}}}]; correct them'
    if message.get("content") is None and not calls:
        return "neither content nor tool_calls; give one"
    return None


def _shown(value: Any) -> str:
    """A value for a message of one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
