"""Whole conversations with tools, thoughts and answers, in every published template of Gemma 4.

The judge is the wire format, and that the ids which the model wrote stand as they are: so a cache serves to the end of
the last reply.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts_template import PARTS
from published_templates import gemma4

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.dialogue import Dialogue
from edge_mtp.formats.tool_calls import ToolCall, format_calls, format_response

TINY = Path(edge_mtp.__file__).parent / "tiny/target"
TOKENIZER = Tokenizer.from_file(TINY / "tokenizer.json")
NAMES = ["gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "parts", "tiny"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}},
        },
    }
    for name in ("get_weather", "send_mail", "tick")
]
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**6) | st.floats(-5, 5) | st.text("ab é<|\"'\n", max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "B", "c_d"]), inner, max_size=2),
    max_leaves=5,
)
CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from([tool["function"]["name"] for tool in TOOLS]),
        st.dictionaries(st.sampled_from(["x", "Y"]), VALUE, max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module", params=NAMES)
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    templates = {**gemma4(), "tiny": (TINY / "chat_template.jinja").read_text(), "parts": PARTS}
    return ChatFormat(TOKENIZER, templates[request.param], frozenset({106, 50}))


class Talk:
    """A dialogue whose model writes what it is told to, a letter a token: not the ids that a tokenizer would choose."""

    def __init__(self, chat: ChatFormat, messages: list[Any] | None = None) -> None:
        self.dialogue = Dialogue(SimpleNamespace(chat_format=chat), messages or [], TOOLS)  # type: ignore[arg-type]
        self.cached: list[int] = []

    def ids(self, text: str) -> list[int]:
        parts = TOKENIZER.control_tokens.split(text)
        spelled = ([TOKENIZER.encode(p)] if control else [TOKENIZER.spell(c) for c in p] for p, control in parts)
        return [i for part in spelled for ids in part for i in ids]

    def asked(self) -> list[int]:
        """The prompt that a reply is asked for with."""
        answer = lambda prompt, *_: SimpleNamespace(prompt=prompt)  # noqa: E731
        self.dialogue.engine.answer = answer  # type: ignore[method-assign,assignment]
        return list(self.dialogue.reply().prompt)

    def model(self, text: str, stop: str = "<turn|>", thought: str = "") -> list[int]:
        """The model's reply; returns the prompt that it replied to."""
        prompt = self.asked()
        tokens = [*self.ids(thought + text), *TOKENIZER.encode(stop)]
        made = SimpleNamespace(
            prompt=prompt, tokens=tokens, text=text, reasoning=thought, outcome=SimpleNamespace(finish="stop")
        )
        self.dialogue.add(made)  # type: ignore[arg-type]
        self.cached = [*prompt, *tokens[:-1]]
        return prompt


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(CALLS, st.sampled_from(["", "Sure. ", "\n ok\n"]), st.lists(VALUE, min_size=3, max_size=3), st.data())
def test_answers_stand_behind_their_calls_and_what_the_model_wrote_stays(
    chat: ChatFormat, calls: list[ToolCall], before: str, answers: list[Any], data: st.DataObject
) -> None:
    talk = Talk(chat, [{"role": "system", "content": "Be brief."}])
    talk.dialogue.say("Hi <turn|>")
    talk.model(before + format_calls(calls), stop=data.draw(st.sampled_from(["<turn|>", "<|tool_response>"])))
    assert [(each.name, each.arguments) for each in talk.dialogue.waiting] == [(c.name, c.arguments) for c in calls]
    order = data.draw(st.permutations(range(len(calls))))
    answered = sorted(order[: data.draw(st.integers(1, len(calls)))])
    waiting = talk.dialogue.waiting
    for n in (n for n in order if n in answered):
        talk.dialogue.respond(waiting[n].id, answers[n])
    prompt = talk.dialogue.prompt()
    assert prompt[: len(talk.cached)] == talk.cached
    right = "".join(format_response(calls[n].name, answers[n]) for n in answered)
    assert TOKENIZER.decode(prompt[len(talk.cached) :]) == right
    control = [TOKENIZER.token_id("<|tool_response>"), TOKENIZER.token_id("<tool_response|>")]
    assert [i for i in prompt[len(talk.cached) :] if i in control] == control * len(answered)

    talk.model(" It is done.\n")
    talk.dialogue.say("Thanks")
    prompt = talk.dialogue.prompt()
    assert prompt[: len(talk.cached)] == talk.cached
    glue = TOKENIZER.decode(prompt[len(talk.cached) :])
    assert glue.startswith("<turn|>\n<|turn>user\nThanks<turn|>\n")
    # A stranger's history, without the ids, says the same in the same order.
    text = chat.render(talk.dialogue.messages, TOOLS)
    assert (before + format_calls(calls) + right) in text
    assert "It is done." in text[text.index(right) :]
    assert glue.startswith(text[text.rindex("<turn|>\n<|turn>user\n") :][:30])


def test_thoughts_stay_until_the_turn_is_over(chat: ChatFormat) -> None:
    """Between a call and its answer the model goes on from its thought. What becomes of it later is the template's."""
    thought = "<|channel>thought\nIt asks for Rome.\n<channel|>"
    call = format_calls([ToolCall("get_weather", {"x": "Rome"})])
    talk = Talk(chat)
    talk.dialogue.say("Weather?")
    first = talk.model(call, thought=thought)
    talk.dialogue.respond("get_weather", {"c": 20})
    assert talk.dialogue.prompt()[: len(talk.cached)] == talk.cached
    talk.model("20 degrees.")
    talk.dialogue.say("Thanks")
    text = TOKENIZER.decode(talk.dialogue.prompt())
    assert "asks for Rome" not in text
    assert call + "<|tool_response>response:get_weather{c:20}<tool_response|>20 degrees.<turn|>\n" in text
    talk.dialogue.withdraw()  # and the turn goes on
    assert talk.dialogue.messages[-1]["content"] == "20 degrees."
    kept = common(talk.dialogue.prompt(), talk.cached)
    assert kept >= len(first)


def test_a_cancelled_reply_is_closed_and_kept(chat: ChatFormat) -> None:
    talk = Talk(chat)
    talk.dialogue.say("Tell me a story")
    prompt = talk.asked()
    tokens = talk.ids("Once upon")
    made: Any = SimpleNamespace(prompt=prompt, tokens=tokens, text="Once upon", reasoning="", outcome=None)
    talk.dialogue.add(made)
    talk.dialogue.say("Go on")
    after = talk.dialogue.prompt()
    assert after[: len(prompt) + len(tokens)] == [*prompt, *tokens]
    assert TOKENIZER.decode(after[len(prompt) + len(tokens) :]).startswith("<turn|>\n<|turn>user\nGo on<turn|>\n")


def test_a_changed_history_keeps_what_still_holds(chat: ChatFormat) -> None:
    """Another system message, other tools or variables: nothing is cached, and the replies are the model's ids."""
    talk = Talk(chat, [{"role": "system", "content": "Be brief."}])
    for text in ("Hi", "Ho"):
        talk.dialogue.say(text)
        talk.model("hello there")
    talk.dialogue.messages[0] = {"role": "system", "content": "Be long."}
    talk.dialogue.say("And?")
    prompt = talk.dialogue.prompt()
    assert TOKENIZER.decode(prompt) == chat.render(talk.dialogue.messages, TOOLS)
    spelled, found = talk.ids("hello there"), 0
    for n in range(len(prompt)):
        found += prompt[n : n + len(spelled)] == spelled
    assert found == 2
