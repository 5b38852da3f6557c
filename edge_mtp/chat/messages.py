"""Messages of a conversation in OpenAI's form: roles, `tool_calls` with ids, answers with the id of their call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import CHANNEL_OPEN, split_thoughts

Message = Mapping[str, Any]

SYSTEM_ROLES, MODEL_ROLES = ("system", "developer"), ("assistant", "model")  # each two names of one role
ROLES = (*SYSTEM_ROLES, "user", *MODEL_ROLES, "tool")
_REASONING = ("reasoning", "reasoning_content", "thinking")


def canonical(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Converts the messages of any client to one form.

    `developer` becomes `system` and `model` becomes `assistant`; a thought stands under `reasoning`; `arguments` are
    objects; every call has an id; every answer has the id and the name of its call, and stands behind the message with
    the calls, in their order. An answer that fits no call keeps its name.

    Raises EdgeMtpError that names the first wrong message.
    """
    made: list[dict[str, Any]] = []
    numbers = itertools.count()
    waiting: list[dict[str, Any]] = []  # calls of the last model message without an answer so far
    order: dict[str, int] = {}
    for n, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise EdgeMtpError(f"message {n} has the role {role!r}; use {', '.join(ROLES)}")
        if role in MODEL_ROLES:
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


def is_call(call: Any) -> bool:
    """Whether a call names a function and has its arguments as an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    return (
        isinstance(function, Mapping)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), Mapping)
    )


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
    """The answer with the id and the name of its call, which leaves `waiting`."""
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
    """Raises EdgeMtpError for a value that JSON does not have; the message calls it `what`."""
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
