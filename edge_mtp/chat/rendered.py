"""A conversation as a template has written it down: in Gemma 4's wire format, and where the replies stand in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.chat.messages import Message
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    CHANNEL_OPEN,
    RESPONSE_CLOSE,
    RESPONSE_OPEN,
    ToolCall,
    format_calls,
    format_response,
)


@dataclass(frozen=True)
class Place:
    """Where a reply stands in a rendered conversation, and whether the template keeps its thought."""

    begin: int
    end: int
    thought: bool


@dataclass(frozen=True)
class Rendered:
    """A conversation's text, in which `mark` stands in all that looks like a control token and is none
    (`edge_mtp.chat.control_text`).
    """

    marked: str
    mark: str

    @property
    def text(self) -> str:
        return self.marked.replace(self.mark, "")

    def places(self, stand_ins: Sequence[Message], written: Collection[int]) -> dict[int, Place] | None:
        """Where each of the replies `written`, by their place among the messages, stands; None if one cannot be found.

        `stand_ins` are the messages that were rendered.
        """
        text = self.marked
        places: dict[int, Place] = {}
        end = 0
        for n, message in enumerate(stand_ins):
            if message["role"] != "assistant":
                continue
            before, calls = end, message.get("tool_calls", ())
            if calls:
                begin = end = text.find(CALL_OPEN, before)
                for _ in calls:
                    end = text.find(CALL_CLOSE, end) + len(CALL_CLOSE) if end >= 0 else -1
                    if end < len(CALL_CLOSE):
                        return None
            elif n in written:
                begin = text.find(message["content"], before)
                end = begin + len(message["content"])
            else:
                continue
            if begin < 0:
                return None
            thought = text.find(message["reasoning"], before, begin) if n in written and "reasoning" in message else -1
            if thought >= 0:
                opened = text.rfind(CHANNEL_OPEN, before, thought)
                begin = opened if opened >= 0 else thought
            if n in written:
                places[n] = Place(begin, end, thought >= 0)
        return places


_BLOCK = re.compile(
    "|".join(
        f"{re.escape(begin)}(?:(?!{re.escape(begin)}|<turn\\|>).)*?{re.escape(end)}"
        for begin, end in ((CALL_OPEN, CALL_CLOSE), (RESPONSE_OPEN, RESPONSE_CLOSE))
    ),
    re.DOTALL,
)


def in_wire_format(text: str, clean: Sequence[Message]) -> str | None:
    """A rendered conversation with its calls, the text before them and the answers as `formats.tool_calls` spells them.

    Templates differ there: one writes None for null, another the last call's name beside every answer. None if the
    numbers of calls and answers in the text are not those of the conversation.
    """
    calls: list[str] = []
    answers: list[str] = []
    for message in clean:
        if message["role"] == "tool":
            answers.append(format_response(message["name"], message["content"]))
        before = _plain(message["content"]) if "tool_calls" in message else ""
        for call in message.get("tool_calls", ()):
            calls.append(before + format_calls([ToolCall(**call["function"])], is_read=False))
            before = ""
    found = [each[0].startswith(CALL_OPEN) for each in _BLOCK.finditer(text)]
    if found.count(True) != len(calls) or found.count(False) != len(answers):
        return None
    right = {True: iter(calls), False: iter(answers)}
    text = _BLOCK.sub(lambda each: next(right[each[0].startswith(CALL_OPEN)]), text)
    # One template begins the model's turn again behind an answer.
    return text.replace(f"{RESPONSE_CLOSE}<|turn>model\n", RESPONSE_CLOSE)


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
