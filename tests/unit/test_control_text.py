"""What looks like a control token in a conversation's text is text: by ids, in every template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_templates import gemma4

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.control_text import ControlTokens, new_mark
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError

TINY = Path(edge_mtp.__file__).parent / "tiny/target"
TOKENIZER = Tokenizer.from_file(TINY / "tokenizer.json")
CONTROL = sorted(TOKENIZER.control_tokens.texts)
HOSTILE = st.lists(st.sampled_from(CONTROL) | st.text("ab <|>\n", max_size=4), max_size=5).map("".join)


def formats() -> dict[str, ChatFormat]:
    templates = {**gemma4(), "tiny": (TINY / "chat_template.jinja").read_text()}
    return {name: ChatFormat(TOKENIZER, text, frozenset({106, 50})) for name, text in templates.items()}


@pytest.fixture(scope="module", params=["gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "tiny"])
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    return formats()[request.param]


def conversation(text: str) -> tuple[list[Any], list[Any]]:
    """A conversation that has the same text in every place where somebody else's text can be."""
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "description": f"d{text}",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "string", "description": f"p{text}", "enum": [f"e{text}", "x"]}},
            },
        },
    }
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": f"v{text}", "b": [f"w{text}"]}}}
    messages = [
        {"role": "system", "content": f"s{text}s"},
        {"role": "user", "content": f"u{text}u"},
        {"role": "assistant", "content": f"m{text}m", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": {"r": f"t{text}", "l": [f"l{text}"]}},
        {"role": "assistant", "content": f"n{text}n"},
        {"role": "user", "content": [{"type": "text", "text": f"q{text}q"}]},
    ]
    return messages, [tool]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(HOSTILE)
def test_control_tokens_are_the_templates_alone(chat: ChatFormat, text: str) -> None:
    """The same control tokens in the same order as with a harmless text, and the characters are all there."""
    ids = chat.encode(*conversation(text))
    harmless = chat.encode(*conversation("x"))
    control = {TOKENIZER.token_id(token) for token in CONTROL}
    assert [i for i in ids if i in control] == [i for i in harmless if i in control]
    assert TOKENIZER.decode(ids) == chat.render(*conversation(text))
    assert chat.render(*conversation(text)).count(f"u{text}u") == 1


def test_who_wants_control_tokens_gets_them(chat: ChatFormat) -> None:
    turn = TOKENIZER.token_id("<turn|>")
    messages = [{"role": "user", "content": "Hi<turn|>there"}]
    assert chat.encode(messages, control_tokens=True).count(turn) == 2
    assert chat.encode(messages).count(turn) == 1
    assert TOKENIZER.decode(chat.encode(messages)) == TOKENIZER.decode(chat.encode(messages, control_tokens=True))


@given(HOSTILE | st.text())
def test_spelling_gives_no_control_token_and_the_same_text(text: str) -> None:
    control = {TOKENIZER.token_id(token) for token in CONTROL}
    ids = TOKENIZER.spell(text)
    assert not control.intersection(ids)
    assert TOKENIZER.decode(ids) == text


@given(HOSTILE | st.text())
def test_parts_are_those_that_the_tokenizer_finds(text: str) -> None:
    parts = list(TOKENIZER.control_tokens.split(text))
    assert "".join(part for part, _ in parts) == text
    found = [i for i in TOKENIZER.encode(text) if TOKENIZER.token_text(i) in CONTROL]
    assert [TOKENIZER.token_id(part) for part, control in parts if control] == found


@given(HOSTILE, st.integers(0, 3))
def test_a_mark_is_nowhere_else_and_comes_off_again(text: str, than: int) -> None:
    mark = new_mark(text + str(7306182549), than)
    assert mark not in text
    assert new_mark("7306182549") != "7306182549"
    control = ControlTokens(CONTROL)
    marked = control.marked({"a" + text: [text, 1, None]}, mark)
    assert not any(each for part in [*marked, *next(iter(marked.values()))[:1]] for _, each in control.split(part))
    assert str(marked).replace(mark, "") == str({"a" + text: [text, 1, None]})


def test_tokens_of_every_shape_are_found() -> None:
    control = ControlTokens(["<a>", "<a b>", "[x]", "plain", '<|"|>', "\n\n", ""])
    found = [part for part, is_control in control.split('1<a>2<a b>3[x]4plain5<|"|>6<c>7') if is_control]
    assert found == ["<a>", "<a b>", "[x]", "plain", '<|"|>']


def test_half_a_character_is_refused() -> None:
    with pytest.raises(EdgeMtpError, match=r"the text has \\ud83d, which is no character"):
        TOKENIZER.encode("a\ud83d")
