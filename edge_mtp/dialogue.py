"""A conversation that goes on, turn after turn, on what the runner's cache still holds."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_mtp.chat import Message
from edge_mtp.engine import Engine, Reply, ReplyOptions
from edge_mtp.errors import EdgeMtpError
from edge_mtp.json_file import read_json, write_json
from edge_mtp.tool_calls import CALL_CLOSE, CALL_OPEN, ToolCallSyntaxError, check_tools, parse_calls

_VERSION = 1
_ROLES = ("system", "developer", "user", "assistant", "model", "tool")
_CALL = re.compile(f"{re.escape(CALL_OPEN)}.*?{re.escape(CALL_CLOSE)}", re.DOTALL)


def model_message(text: str) -> Message:
    """The message that a reply of this text is in a history."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    with contextlib.suppress(ToolCallSyntaxError):  # calls that cannot be read stay the text that they are
        if calls := parse_calls(text):
            message["content"] = _CALL.sub("", text)
            message["tool_calls"] = [{"type": "function", "function": call.to_json()} for call in calls]
    return message


class Dialogue:
    """Messages so far, the tools declared, and the token ids that the model has seen of them.

        dialogue.say("Wake me at 6:40")
        reply = dialogue.reply(options)
        for token in reply: ...
        dialogue.add(reply)

    Every turn renders the whole history and sends all its ids; the runner computes those that its cache lacks. Where
    the template renders a turn as it was written, the ids are the model's own, so the cache serves to its end. Where
    it rewrites the history (drops thinking, trims), the common beginning is what the cache serves.
    """

    def __init__(
        self, engine: Engine, messages: Sequence[Message] = (), tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.engine = engine
        self.messages: list[Message] = list(messages)
        self.tools = list(tools)
        self._known: list[list[int]] = []  # after each reply, all ids from the first of the prompt to its last

    def say(self, text: str) -> None:
        """Adds a user's message."""
        self.messages.append({"role": "user", "content": text})

    def respond(self, tool: str, content: Any) -> None:
        """Adds what a tool answered: an object, or text. Other JSON values are given as text."""
        if not isinstance(content, Mapping | str):
            content = json.dumps(content)
        self.messages.append({"role": "tool", "name": tool, "content": content})

    def prompt(self, options: ReplyOptions | None = None) -> list[int]:
        """The ids of all messages and of the beginning of the model's turn."""
        chat = self.engine.chat_format
        variables = (options or ReplyOptions()).variables
        return chat.encode_after(self._known, chat.render(self.messages, self.tools, **variables))

    def reply(self, options: ReplyOptions | None = None) -> Reply:
        """The model's turn; `add` it when it is generated. Raises as `Engine.chat`."""
        options = options or ReplyOptions()
        return self.engine.answer(self.prompt(options), self.messages, self.tools, options)

    def add(self, reply: Reply) -> None:
        """Makes a reply to this dialogue, complete or cancelled, a part of it."""
        self.messages.append(model_message(reply.text))
        self._known.append([*reply.prompt, *reply.tokens])

    def withdraw(self) -> None:
        """Takes back what has no reply: all after the last thing that the model said."""
        while self.messages and self.messages[-1]["role"] in ("user", "tool"):
            self.messages.pop()

    def reset(self) -> None:
        """Forgets all but the system message and the tools."""
        self.messages = [m for m in self.messages[:1] if m["role"] in ("system", "developer")]
        self._known = []

    def save(self, path: str | Path) -> None:
        """Writes the conversation as JSON, for `load`; whole or not at all. Raises EdgeMtpError if it cannot."""
        saved = {"edge_mtp_conversation": _VERSION, "messages": self.messages, "tools": self.tools}
        write_json(path, {**saved, "ids": self._known[-1] if self._known else []})

    @classmethod
    def load(cls, engine: Engine, path: str | Path) -> Dialogue:
        """A saved conversation, to go on with. Raises EdgeMtpError for a file that is none."""
        where = f"conversation '{path}'"
        saved = read_json(path, "conversation")
        if not isinstance(saved, dict) or saved.get("edge_mtp_conversation") != _VERSION:
            raise EdgeMtpError(f"{where} was not written by /save of this version; give a file that was")
        messages = saved.get("messages")
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise EdgeMtpError(f"{where}: messages are not a list of messages with a role and content; correct them")
        dialogue = cls(engine, messages, check_tools(saved.get("tools", []), where))
        ids = saved.get("ids", [])
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise EdgeMtpError(f"{where}: ids are not a list of token ids; correct or delete them")
        # Another bundle's ids are no use here, and no harm: `prompt` takes those whose text is the conversation's.
        if all(0 <= i < engine.chat_format.tokenizer.vocab_size for i in ids):
            dialogue._known = [ids]
        return dialogue


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        return False
    calls = message.get("tool_calls", [])
    return (
        isinstance(message.get("content"), str | list | dict | None)
        and (message["role"] != "tool" or isinstance(message.get("name"), str))
        and isinstance(calls, list)
        and all(_is_call(call) for call in calls)
    )


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), dict)
    )
