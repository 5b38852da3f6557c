"""The form in which a chat template takes messages.

Gemma 4's published templates differ in where they look for a tool's answer, and refuse or garble the other places.
`Form.of` finds out once, by rendering a small conversation whose right text is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edge_mtp.chat.messages import Message, canonical
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import ToolCall, format_calls, format_response

Render = Callable[[Sequence[Message]], str]
Answers = Literal["on the calls", "as parts", "as values", "as text"]
_ANSWERS: tuple[Answers, ...] = get_args(Answers)


@dataclass(frozen=True)
class Form:
    """Where a template looks for answers and parts.

    `answers` are "on the calls": in `tool_responses` of the message that calls; "as parts": in a message of the role
    `tool` whose content lists `{"name", "response"}`; "as values": each in a message of the role `tool`, with an object
    or a text as content; or "as text": the same with text alone. `parts` are the roles whose content may be a list of
    parts; elsewhere their texts are joined.
    """

    answers: Answers
    parts: frozenset[str]

    @classmethod
    def of(cls, render: Render) -> Form:
        """The form that a template understands best; `render` gives it raw messages and a generation prompt."""
        parts = frozenset(role for role in ("system", "user", "assistant") if _takes_parts(render, role))
        best, most = cls("as text", parts), -1
        for answers in _ANSWERS:
            form = cls(answers, parts)
            understood = form._understood(render)
            if understood > most:
                best, most = form, understood
            if most == len(_PROBES):
                break
        return best

    def dressed(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Canonical messages as the template takes them."""
        dressed: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] == "tool":
                self._add_answer(dressed, message)
            else:
                made = dict(message)
                if isinstance(made["content"], list) and made["role"] not in self.parts:
                    made["content"] = "".join(str(part.get("text", "")) for part in made["content"])
                if "reasoning" in made:
                    made["reasoning_content"] = made["reasoning"]
                dressed.append(made)
        return dressed

    def _add_answer(self, dressed: list[dict[str, Any]], answer: Message) -> None:
        last = dressed[-1] if dressed else {}
        named = {"name": answer["name"], "response": answer["content"]}
        if self.answers == "on the calls":
            if last.get("role") != "assistant":
                dressed.append(last := {"role": "assistant", "content": ""})
            last.setdefault("tool_responses", []).append(named)
        elif self.answers == "as parts":
            if last.get("role") != "tool":
                dressed.append(last := {"role": "tool", "content": []})
            last["content"].append(named)
        elif self.answers == "as values":
            content = answer["content"]
            dressed.append({**answer, "content": content if isinstance(content, Mapping | str) else _as_text(content)})
        else:
            dressed.append({**answer, "content": _as_text(answer["content"])})

    def _understood(self, render: Render) -> int:
        """How many of the probe's answers stand behind their calls in the wire format."""
        understood = 0
        for content in _PROBES:
            calls = [ToolCall("first", {"a": "b"}), ToolCall("second", {})]
            asked = canonical(
                [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "", "tool_calls": [{"function": c.to_json()} for c in calls]},
                    {"role": "tool", "name": "first", "content": content},
                    {"role": "tool", "name": "second", "content": content},
                ]
            )
            right = format_calls(calls) + "".join(format_response(call.name, content) for call in calls)
            try:
                understood += right in render(self.dressed(asked))
            except EdgeMtpError:
                continue
        return understood


_PROBES: tuple[Any, ...] = ({"k": "v", "n": 3}, "some text", 20, [1, "x"])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _takes_parts(render: Render, role: str) -> bool:
    begin = [{"role": "user", "content": "Hi"}] if role == "assistant" else []
    parts = [{"type": "text", "text": "first part"}, {"type": "text", "text": "second part"}]
    end = [{"role": "user", "content": "Hi"}] if role != "user" else []
    try:
        text = render([*begin, {"role": role, "content": parts}, *end])
    except EdgeMtpError:
        return False
    return "first part" in text and "second part" in text and "'text'" not in text and '"text"' not in text
