"""Messages of a conversation, and the form in which a chat template takes them.

Messages have OpenAI's form: roles, `tool_calls` with ids, tool answers with the id of their call. Gemma 4's published
templates expect a tool's answer in different places, and refuse or garble it elsewhere. `Form.of` finds the right place
once, by rendering a small conversation whose correct text is known.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import CHANNEL_OPEN, ToolCall, format_calls, format_response, split_thoughts

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message]], str]

ROLES = ("system", "developer", "user", "assistant", "model", "tool")
_REASONING = ("reasoning", "reasoning_content", "thinking")


def canonical(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Converts the messages of any client to one form.

    `developer` becomes `system`, and `model` becomes `assistant`. A thought is under `reasoning`; `arguments` are
    objects; every call has an id. Every answer has the id and the name of its call, and answers follow the message with
    the calls, in the order of the calls. An answer that fits no call keeps its name.

    Raises EdgeMtpError naming the message that is invalid.
    """
    made: list[dict[str, Any]] = []
    numbers = itertools.count()
    waiting: list[dict[str, Any]] = []  # calls of the last model message without an answer so far
    order: dict[str, int] = {}
    for n, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise EdgeMtpError(f"message {n} has the role {role!r}; use {', '.join(ROLES)}")
        if role in ("assistant", "model"):
            made.append(_of_model(message, n, numbers))
            waiting = list(made[-1].get("tool_calls", ()))
            order = {call["id"]: place for place, call in enumerate(waiting)}
        elif role == "tool":
            made.append(_answer(message, n, waiting))
            _put_in_order(made, order)
        else:
            made.append({"role": "user" if role == "user" else "system", "content": _content(message, n)})
            waiting, order = [], {}
    return made


def _content(message: Message, n: int) -> str | list[Any]:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str) or (isinstance(content, list) and all(isinstance(part, Mapping) for part in content)):
        return content
    raise EdgeMtpError(f"message {n} has the content {content!r}; use text, or a list of parts such as"
                       ' {"type": "text", "text": ...}')  # fmt: skip


def _of_model(message: Message, n: int, numbers: Iterable[int]) -> dict[str, Any]:
    content = _content(message, n)
    thought = next((message[key] for key in _REASONING if isinstance(message.get(key), str) and message[key]), "")
    if isinstance(content, str) and CHANNEL_OPEN in content:  # from a client that does not separate thoughts
        thought, content = split_thoughts(content) if not thought else (thought, split_thoughts(content)[1])
    made: dict[str, Any] = {"role": "assistant", "content": content}
    if thought:
        made["reasoning"] = thought
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise EdgeMtpError(f"message {n} has tool_calls that are no list; give a list of calls")
    known = {call.get("id") for call in calls if isinstance(call, Mapping)}
    free = (name for name in (f"call_{number}" for number in numbers) if name not in known)
    made_calls = [_call(call, n, free) for call in calls]
    return {**made, "tool_calls": made_calls} if made_calls else made


def _call(call: Any, n: int, names: Iterable[str]) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(function, Mapping):
        raise EdgeMtpError(f"message {n} has the call {call!r}; give a function with a name and arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # OpenAI's clients send a JSON text
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise EdgeMtpError(f"message {n}: the arguments of {name} are not JSON: {arguments!r}") from None
    if arguments is not None:
        check_json(arguments, f"message {n}: the arguments of {name}")
    if not isinstance(arguments, Mapping | None):
        raise EdgeMtpError(f"message {n}: the arguments of {name} are {arguments!r}; give an object")
    identity = call.get("id")
    return {
        "id": identity if isinstance(identity, str) and identity else next(iter(names)),
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments or {})},
    }


def _answer(message: Message, n: int, waiting: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer with the id and the name of its call; removes the call from `waiting`."""
    identity, name = message.get("tool_call_id"), message.get("name")
    matches = [call for call in waiting if call["id"] == identity] or [
        call for call in waiting if identity is None and (name is None or call["function"]["name"] == name)
    ]
    if matches:
        waiting.remove(matches[0])
        identity, name = matches[0]["id"], matches[0]["function"]["name"]
    if not isinstance(name, str):
        raise EdgeMtpError(f"message {n} is a tool's answer without a name and fits no call; give it a tool_call_id")
    content = message.get("content")
    check_json(content, f"message {n}: the answer of {name}")
    return {"role": "tool", "tool_call_id": identity or "", "name": name, "content": content}


def check_json(value: Any, what: str) -> None:
    """Raises an EdgeMtpError that calls the value `what`, if JSON cannot represent it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise EdgeMtpError(f"{what} is no JSON value ({error}); convert it first") from None


def _put_in_order(made: list[dict[str, Any]], order: Mapping[str, int]) -> None:
    """Sorts the answers at the end by the order of their calls."""
    begin = len(made)
    while begin and made[begin - 1]["role"] == "tool":
        begin -= 1
    made[begin:] = sorted(made[begin:], key=lambda answer: order.get(answer["tool_call_id"], len(order)))


# -- forms ----------------------------------------------------------------------------------------------------------

Answers = Literal["on the calls", "as parts", "as values", "as text"]
_ANSWERS: tuple[Answers, ...] = get_args(Answers)


@dataclass(frozen=True)
class Form:
    """The message form that a template expects.

    `answers` are "on the calls": in `tool_responses` of the message with the calls; "as parts": in a message of the
    role `tool` whose content lists `{"name", "response"}`; "as values": each in its own message of the role `tool`,
    whose content is an object or a text; or "as text": the same with text only. `parts` are the roles whose content may
    be a list of parts; for other roles, the texts are joined.
    """

    answers: Answers
    parts: frozenset[str]

    @classmethod
    def of(cls, render: Render) -> Form:
        """The form that a template understands best; `render` applies it to raw messages, with a generation prompt."""
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
        """Converts canonical messages to the template's form."""
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
        """For how many of the probes the template writes the answers after their calls in wire format."""
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
