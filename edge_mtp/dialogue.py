"""A conversation of several turns, which reuses what the runner has cached of the earlier ones."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_mtp.chat.chat_format import Composed, Written
from edge_mtp.chat.messages import MODEL_ROLES, SYSTEM_ROLES, Message, canonical, check_json
from edge_mtp.engine import Engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    ToolCall,
    ToolCallSyntaxError,
    Tools,
    check_tools,
    parse_calls,
)
from edge_mtp.function_tools import Tool, checked_tools
from edge_mtp.json_file import read_json, write_json
from edge_mtp.reply import Reply
from edge_mtp.reply_options import ReplyOptions

_VERSION = 2
_CALL = re.compile(f"{re.escape(CALL_OPEN)}.*?{re.escape(CALL_CLOSE)}", re.DOTALL)


def model_message(text: str, reasoning: str = "", first: int = 0, tools: Tools | None = None) -> Message:
    """A reply as a message of the conversation; its calls, of `tools`, get ids from `call_<first>` on."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning"] = reasoning
    with contextlib.suppress(ToolCallSyntaxError):  # unreadable calls stay text
        if calls := parse_calls(text, tools):
            message["content"] = _CALL.sub("", text)
            message["tool_calls"] = [
                {"id": f"call_{first + n}", "type": "function", "function": call.to_json()}
                for n, call in enumerate(calls)
            ]
    return message


class Dialogue:
    """The messages so far, the declared tools, and the token ids that the model wrote.

        dialogue.say("Wake me at 6:40")
        reply = dialogue.reply(options)
        for token in reply: ...
        dialogue.add(reply)

    Every turn renders the whole history and sends all its ids; the runner computes those that its cache lacks. Replies
    stand in the prompt as the ids that the model wrote, so the cache serves to the end of the last reply. If the
    template drops the thoughts of earlier turns, the runner computes the tokens behind a dropped thought again.
    """

    def __init__(self, engine: Engine, messages: Sequence[Message] = (), tools: Sequence[Tool] = ()) -> None:
        """`tools` as for `Engine.chat`. Raises EdgeMtpError for one that is wrong."""
        self.engine = engine
        self.messages: list[Message] = list(messages)
        self.tools = checked_tools(tools)
        self._written: dict[int, Written] = {}  # by place in `messages`
        self._asked: Composed | None = None

    def say(self, text: str) -> None:
        """Adds a user's message."""
        self.messages.append({"role": "user", "content": text})

    @property
    def waiting(self) -> list[ToolCall]:
        """The calls of the last reply that wait for an answer, with their ids."""
        calls: dict[str, ToolCall] = {}
        for message in canonical(self.messages):
            if message["role"] == "tool":
                calls.pop(message["tool_call_id"], None)
                continue
            found = message.get("tool_calls", ())
            calls = {call["id"]: ToolCall(**call["function"], id=call["id"]) for call in found}
        return list(calls.values())

    def respond(self, call: str | ToolCall, content: Any) -> None:
        """Adds a tool's answer to one of the waiting calls: any JSON value.

        `call` is a call's id, a tool's name (the first call of it that waits), or one of a reply's `tool_calls`.
        Answers may come in any order. Raises EdgeMtpError where no such call waits.
        """
        waiting = self.waiting
        if isinstance(call, ToolCall):
            fits = [each for each in waiting if call.id == each.id] or [each for each in waiting if call == each]
        else:
            fits = [each for each in waiting if call in (each.id, each.name)]
        if not fits:
            name = call.name if isinstance(call, ToolCall) else call
            known = ", ".join(f"{each.name} ({each.id})" for each in waiting) or "none"
            raise EdgeMtpError(f"no call of '{name}' waits for an answer; waiting: {known}")
        check_json(content, f"the answer of {fits[0].name}")
        answer = {"role": "tool", "tool_call_id": fits[0].id, "name": fits[0].name, "content": content}
        self.messages.append(answer)

    def prompt(self, options: ReplyOptions | None = None) -> list[int]:
        """The ids of all messages and of the beginning of the model's turn."""
        return self._composed(options or ReplyOptions()).ids

    def reply(self, options: ReplyOptions | None = None, **changes: Any) -> Reply:
        """The model's turn; `add` it after it is generated. `changes` and errors are those of `Engine.chat`."""
        options = replace(options or ReplyOptions(), **changes)
        self._asked = self._composed(options)
        return self.engine.answer(self._asked.ids, self.messages, self.tools, options)

    def add(self, reply: Reply) -> None:
        """Adds a reply to this dialogue as a message; the reply may be complete or cancelled.

        Raises EdgeMtpError for a reply that nobody has read to its end.
        """
        place = len(self.messages)
        calls = sum(len(message.get("tool_calls") or ()) for message in self.messages)
        self.messages.append(model_message(reply.text, reply.reasoning, calls, self.tools or None))
        tokens = list(reply.tokens)
        stops = self.engine.chat_format.stop_token_ids
        stopped = reply.outcome is not None and reply.outcome.finish == "stop"
        if stopped and tokens[-1] not in stops:
            return  # its tokens include those of a stop string, which is no part of the text
        if tokens and tokens[-1] in stops:
            tokens.pop()
        asked = self._asked if self._asked is not None and self._asked.ids == list(reply.prompt) else None
        thinks = any(True for _ in self.engine.chat_format.thought_spans(reply.prompt, tokens))
        thoughts = (asked.thoughts if asked else frozenset()) | (frozenset([place]) if thinks else frozenset())
        self._written[place] = Written(list(reply.prompt), tokens, asked.context if asked else "", thoughts)

    def withdraw(self) -> None:
        """Removes all messages after the model's last one."""
        while self.messages and self.messages[-1]["role"] in ("user", "tool"):
            self.messages.pop()

    def reset(self) -> None:
        """Removes all messages but the system message; the tools stay declared."""
        self.messages = [m for m in self.messages[:1] if m["role"] in SYSTEM_ROLES]
        self._written = {}

    def save(self, path: str | Path) -> None:
        """Writes the conversation as JSON, for `load`, whole or not at all. Raises EdgeMtpError if it cannot."""
        last = max(self._written, default=-1)
        written = [
            {
                "message": place,
                # The runner may have cached the last prompt only.
                "prompt": list(reply.prompt) if place == last else [],
                "tokens": list(reply.tokens),
                "context": reply.context if place == last else "",
                "thoughts": sorted(reply.thoughts),
            }
            for place, reply in self._written.items()
        ]
        saved = {"edge_mtp_conversation": _VERSION, "messages": self.messages, "tools": self.tools}
        write_json(path, {**saved, "chat_format": self.engine.chat_format.identity, "written": written})

    @classmethod
    def load(cls, engine: Engine, path: str | Path) -> Dialogue:
        """A saved conversation. Raises EdgeMtpError for a file that `save` did not write."""
        where = f"conversation '{path}'"
        saved = read_json(path, "conversation")
        if not isinstance(saved, dict) or saved.get("edge_mtp_conversation") != _VERSION:
            raise EdgeMtpError(f"{where} was not written by /save of this version; give a file that was")
        messages = saved.get("messages")
        if not isinstance(messages, list):
            raise EdgeMtpError(f"{where}: messages are not a list of messages with a role and content; correct them")
        try:
            canonical(messages)
        except EdgeMtpError as error:
            raise EdgeMtpError(f"{where}: {error}") from None
        dialogue = cls(engine, messages, check_tools(saved.get("tools", []), where))
        chat = engine.chat_format
        written = saved.get("written", [])
        if not isinstance(written, list) or not all(_is_written(entry, chat.tokenizer.vocab_size) for entry in written):
            raise EdgeMtpError(f"{where}: what the model wrote is not in token ids; correct or delete 'written'")
        if saved.get("chat_format") == chat.identity:  # ids of another tokenizer mean other text
            dialogue._written = {
                entry["message"]: Written(
                    entry["prompt"], entry["tokens"], entry["context"], frozenset(entry["thoughts"])
                )
                for entry in written
            }
        return dialogue

    def _composed(self, options: ReplyOptions) -> Composed:
        written = {n: reply for n, reply in self._written.items() if self._is_as_written(n)}
        return self.engine.chat_format.compose(
            self.messages, self.tools, written, control_tokens=options.control_tokens, **options.variables
        )

    def _is_as_written(self, place: int) -> bool:
        """Whether the message at a place is still the model's: callers may change `messages`."""
        return place < len(self.messages) and self.messages[place]["role"] in MODEL_ROLES


def _is_written(entry: Any, vocabulary: int) -> bool:
    def ids(name: str) -> bool:
        value = entry.get(name)
        return isinstance(value, list) and all(type(i) is int and 0 <= i < vocabulary for i in value)

    return (
        isinstance(entry, dict)
        and type(entry.get("message")) is int
        and isinstance(entry.get("context"), str)
        and all(map(ids, ("prompt", "tokens", "thoughts")))
    )
