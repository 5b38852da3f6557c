"""The stock engine's chat template writes what the checkpoint's writes in ours, or says why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_templates import gemma4
from stock_engine import Turn, prompts

import edge_mtp
from edge_mtp.chat.battery import CONVERSATIONS, TOOLS, WEATHER, Conversation
from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.stock_template import StockTemplate, Trial, stock_message, tried
from edge_mtp.formats.bundle import Bundle

TINY = Path(edge_mtp.__file__).parent / "tiny" / "target"
TOKENIZER = Tokenizer.from_file(TINY / "tokenizer.json")
TINYS_OWN = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
PLAIN = """
{%- for message in messages -%}
<|turn>{{ message.role }}
{% if message.content is string %}{{ message.content | trim }}{% else %}
{%- for part in message.content %}{{ part.text | trim }}{% endfor %}{% endif %}<turn|>
{% endfor -%}
{%- if add_generation_prompt %}<|turn>assistant
{% endif -%}
"""
NAMES = ["gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "tiny"]


def chat_of(template: str) -> ChatFormat:
    return ChatFormat(TOKENIZER, template, frozenset([106]))


@lru_cache
def trial(name: str) -> tuple[ChatFormat, Trial]:
    chat = chat_of(TINYS_OWN if name == "tiny" else gemma4()[name])
    return chat, tried(chat)


def ours(chat: ChatFormat, prompt: Conversation) -> str:
    text = chat.render(prompt.messages, prompt.tools, **prompt.variables)
    return text.removeprefix(chat.bos_token)


def all_prompts() -> list[Conversation]:
    return [prompt for conversation in CONVERSATIONS for prompt in conversation.prompts()]


def turn(prompt: Conversation, template: str | None = None) -> Turn:
    return Turn([*map(stock_message, prompt.messages)], prompt.tools, prompt.variables, template)


@pytest.mark.parametrize("name", NAMES)
def test_published_templates_serve_both_runtimes(name: str) -> None:
    _, found = trial(name)
    kind = "own" if name in ("tiny", "gemma4_v2") else "translated"  # these two know no Python methods
    assert (found.stock.kind, found.stock.reason, found.refused) == (kind, "", {})
    assert found.conversations == len(CONVERSATIONS)
    assert list(found.lines()) == [
        f"chat template: {len(CONVERSATIONS)} of {len(CONVERSATIONS)} conversations render",
        f"stock engine's chat template: the checkpoint's{' own' if kind == 'own' else ', translated'}",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_engine_gives_the_model_our_prompts(name: str, tiny_bundle: Path) -> None:
    chat, found = trial(name)
    asked = all_prompts()
    written = prompts(tiny_bundle, [turn(prompt, found.stock.template) for prompt in asked])
    for prompt, text in zip(asked, written, strict=True):
        assert text == ours(chat, prompt), prompt.name


def test_the_stock_engine_reads_an_exported_bundle_as_we_do(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    chat = chat_format_of(bundle)
    assert chat.template == TINYS_OWN
    assert bundle.manifest is not None
    assert bundle.manifest["stock_template"] == {"kind": "own", "reason": ""}
    asked = all_prompts()
    written = prompts(tiny_bundle, [turn(prompt) for prompt in asked])
    assert written == [ours(chat, prompt) for prompt in asked]


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_conversation_goes_on(name: str, tiny_bundle: Path) -> None:
    """It subtracts the text of a history from that of the next turn, and refuses where they do not begin alike."""
    _, found = trial(name)
    # With one tool, so that all fits into the context.
    names = ("one call", "thought before a call", "answer: text")
    asked = [replace(p, tools=(WEATHER,)) for p in all_prompts() if p.name in names]
    assert len(asked) >= 6
    prompts(tiny_bundle, [turn(prompt, found.stock.template) for prompt in asked], answer=True)


@pytest.mark.parametrize("name", NAMES)
def test_our_runtime_renders_it_too(name: str) -> None:
    """Of a bundle whose own sections were left out there is only the metadata's."""
    chat, found = trial(name)
    alone = chat_of(found.stock.template)
    assert [ours(alone, prompt) for prompt in all_prompts()] == [ours(chat, prompt) for prompt in all_prompts()]


# Without what Python takes for white space and minijinja does not.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<>|\x02\x03\x1c\x1d\x1e\x1f"), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.sampled_from([0.5, -21.25, 3.0]) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcD"), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["city", "unit", "Days", "text"]), VALUE, max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns of a user, in which the model may call tools, one time after the other, think and answer."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": draw(st.sampled_from(["system", "developer"])), "content": draw(TEXT)})
    for number in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        for again in range(draw(st.integers(0, 2))):
            names = draw(st.lists(st.sampled_from(["get_weather", "book", "note-2"]), min_size=1, max_size=3))
            calls: list[dict[str, Any]] = [
                {"id": f"{number}-{again}-{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for n, name in enumerate(names)
                if (arguments := draw(ARGUMENTS)) is not None
            ]
            messages.append({"role": "assistant", "content": draw(TEXT), "tool_calls": calls} | draw(thoughts()))
            for call in calls:
                answer = {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"]}
                messages.append(answer | {"content": draw(VALUE)})
        messages.append({"role": "assistant", "content": draw(TEXT)} | draw(thoughts()))
    variables = draw(st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}]))
    tools = draw(st.lists(st.sampled_from(TOOLS), max_size=2, unique_by=id))
    return Conversation("random", messages, tools, variables)


def thoughts() -> st.SearchStrategy[dict[str, Any]]:
    told = st.text("ab c\n", min_size=1, max_size=8).map(str.strip).filter(bool)
    return st.just({}) | told.map(lambda text: {"reasoning": text})


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(conversation=conversations())
def test_random_conversations_are_written_alike(name: str, conversation: Conversation) -> None:
    chat, found = trial(name)
    stock = StockTemplate(found.stock.template)
    for prompt in conversation.prompts():
        assert stock.render(prompt) == ours(chat, prompt)


def some(*names: str) -> Iterator[Conversation]:
    return (conversation for conversation in CONVERSATIONS if conversation.name in names)


def test_a_template_that_the_stock_engine_understands_stays_as_it_is() -> None:
    found = tried(chat_of(PLAIN), [*some("one question", "several turns", "any characters")])
    assert (found.stock.kind, found.stock.template) == ("own", PLAIN)


def test_what_cannot_be_translated_is_named_and_kept() -> None:
    template = PLAIN + "{{ messages[0].content.title() }}"
    found = tried(chat_of(template), [*some("one question")])
    assert (found.stock.kind, found.stock.template) == ("refused", template)
    assert found.stock.reason == "method '.title()', line 9"
    assert list(found.lines())[1:] == [
        "stock engine's chat template: the checkpoint's own, though it writes something else there",
        "  method '.title()', line 9",
    ]


def test_what_a_template_refuses_is_said() -> None:
    picky = "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}" + PLAIN
    found = tried(chat_of(picky), [*some("one question", "tools")])
    assert list(found.refused) == ["tools"]
    assert "no tools here" in found.refused["tools"]
    assert next(found.lines()) == "chat template: 1 of 2 conversations render"
    with pytest.raises(EdgeMtpError, match="every conversation that was tried is refused"):
        tried(chat_of("{{ raise_exception('no') }}"))
