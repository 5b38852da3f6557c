"""Messages of any client in one form, and that form in the one that a template takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts_template import PARTS
from published_templates import gemma4

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.messages import canonical
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError

TINY = Path(edge_mtp.__file__).parent / "tiny/target"
TOKENIZER = Tokenizer.from_file(TINY / "tokenizer.json")
USER = {"role": "user", "content": "Hi"}


def chat_format(template: str) -> ChatFormat:
    return ChatFormat(TOKENIZER, template, frozenset({106, 50}))


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_clients_forms_become_one() -> None:
    assert canonical(
        [
            {"role": "developer", "content": "Be brief."},
            USER,
            {
                "role": "model",
                "content": None,
                "reasoning_content": "why",
                "tool_calls": [call("f", '{"a": 1}'), call("f", {})],
            },
            {"role": "tool", "name": "f", "content": 7},
            {"role": "tool", "content": [1]},
        ]
    ) == [
        {"role": "system", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "content": "",
            "reasoning": "why",
            "tool_calls": [call("f", {"a": 1}, id="call_0"), call("f", {}, id="call_1")],
        },
        {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": 7},
        {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": [1]},
    ]


@given(st.permutations(range(4)), st.integers(0, 4))
def test_answers_stand_in_the_order_of_their_calls(order: list[int], count: int) -> None:
    calls = [call("f" if n % 2 else "g", {}, id=f"id{n}") for n in range(4)]
    answers = [{"role": "tool", "tool_call_id": f"id{n}", "content": n} for n in order[:count]]
    made = canonical([USER, {"role": "assistant", "tool_calls": calls}, *answers, USER])
    assert [m["content"] for m in made[2:-1]] == sorted(order[:count])
    assert [m["name"] for m in made[2:-1]] == ["f" if n % 2 else "g" for n in sorted(order[:count])]


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_ids_are_each_calls_own(given_ids: list[bool]) -> None:
    calls = [call("f", {}, **({"id": f"call_{len(given_ids) - n}"} if has else {})) for n, has in enumerate(given_ids)]
    made = canonical(
        [USER, {"role": "assistant", "tool_calls": calls}, USER, {"role": "assistant", "tool_calls": [call("f", {})]}]
    )
    found = [each["id"] for message in made for each in message.get("tool_calls", ())]
    assert len(set(found[:-1])) == len(given_ids)


def test_what_is_no_message_is_named() -> None:
    for messages, told in (
        ([USER, {"role": "alien"}], "message 1 has the role 'alien'; use system"),
        ([5], "message 0 has the role None"),
        ([{"role": "user", "content": 7}], "message 0 has the content 7"),
        ([{"role": "assistant", "tool_calls": 7}], "message 0 has tool_calls that are no list"),
        ([{"role": "assistant", "tool_calls": [7]}], "message 0 has the call 7"),
        ([{"role": "assistant", "tool_calls": [call("f", "{")]}], "message 0: the arguments of f are not JSON: '{'"),
        ([{"role": "assistant", "tool_calls": [call("f", [1])]}], r"the arguments of f are \[1\]; give an object"),
        ([USER, {"role": "tool", "name": "f", "content": {1, 2}}], "message 1: the answer of f is no JSON value"),
        ([{"role": "assistant", "tool_calls": [call("f", {"a": b""})]}], "message 0: the arguments of f is no JSON"),
        ([USER, {"role": "tool", "content": 7}], "message 1 is a tool's answer without a name"),
    ):
        with pytest.raises(EdgeMtpError, match=told):
            canonical(messages)


def test_forms_are_found_by_asking_the_template() -> None:
    for name, template in gemma4().items():
        assert chat_format(template).form.answers == "on the calls", name
        assert {"user", "assistant"} <= chat_format(template).form.parts, name
    assert chat_format(PARTS).form.answers == "as parts"
    tiny = ChatFormat.from_directory(TINY)
    assert (tiny.form.answers, tiny.form.parts) == ("as values", {"system", "user", "assistant"})
    assert chat_format("{% for m in messages %}{{ m['content'] }}{% endfor %}").form.answers == "on the calls"
    assert chat_format("{{ raise_exception('no') }}").form.parts == frozenset()
