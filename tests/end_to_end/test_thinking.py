"""Thoughts in the decode loop: drafts never change them, and a budget holds to the token.

The tiny pair does not think: a bias on the marks makes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from published_templates import gemma4

from edge_mtp.device import Outcome, Request, Runner, Sampling, Step, Thoughts
from edge_mtp.dialogue import Dialogue
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.tiny.bundle import TOOLS
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.tool_calls import load_tools, split_thoughts
from edge_mtp.reply_options import ReplyOptions

OPEN, CLOSE = 100, 101
ARMS: tuple[dict[str, Any], ...] = (
    {"draft_length": 1},
    {"draft_length": 3},
    {"draft_length": 7},
    {"draft_length": 7, "draft_policy": "auto"},
    {"draft_length": 5, "draft_sources": ("grammar",)},
    {"draft_length": 6, "draft_sources": ("lookup",)},
    {"draft_length": 4, "draft_sources": ()},
)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    return [t for step in steps for t in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


def spent(tokens: list[int], thoughts: Thoughts) -> list[tuple[bool, int]]:
    """Before each token and after the last: whether the text is inside a thought, and tokens of thoughts so far."""
    inside, header, count = thoughts.opened, thoughts.opened, 0
    states = [(inside, count)]
    for token in tokens:
        if token == OPEN:
            count += inside
            inside, header = True, False
        elif token == CLOSE:
            inside = False
        elif inside:
            if header or token != thoughts.header[0]:
                count += 1
            header = True
        states.append((inside, count))
    return states


def random_request(draw: random.Random, engine: Engine, items: list[dict[str, Any]]) -> Request:
    item = draw.choice(items)
    chat = engine.chat_format
    prompt = chat.encode(item["messages"], item["tools"], enable_thinking=draw.random() < 0.7)
    opened = draw.random() < 0.3
    if opened:
        prompt += chat.tokenizer.encode("<|channel>thought\n")
    bias = {OPEN: draw.choice((0.0, 8.0, 14.0)), CLOSE: draw.choice((0.0, 5.0, 9.0)), 106: draw.choice((0.0, -20.0))}
    temperature = draw.choice((0.0, 0.0, 0.7, 1.3))
    grammar = None
    if item["tools"] and draw.random() < 0.5:
        thinking = "open" if opened else draw.choice(("no", "may", "may"))
        grammar = tool_grammar(item["tools"], choice=draw.choice(("auto", "required")), thinking=thinking).text
    return Request(
        prompt,
        40,
        sorted(chat.stop_token_ids),
        sampling=Sampling(temperature=temperature, seed=draw.randrange(1000), logit_bias=bias),
        stop_texts=draw.choice(((), ("a",), ("e ", "ou"))),
        grammar=grammar,
        thoughts=Thoughts(OPEN, CLOSE, chat.tokenizer.encode("thought\n"), opened, draw.choice((None, 0, 1, 3, 8))),
    )


def test_drafts_never_change_thoughts_and_the_budget_is_exact(engine: Engine, tiny_split: list[dict[str, Any]]) -> None:
    draw = random.Random(41)
    closed = closed_as_draft = stopped = 0
    for _ in range(60):
        request = random_request(draw, engine, tiny_split)
        thoughts = request.thoughts
        assert thoughts is not None
        plain, _, outcome = generate(engine.runner, request)
        for arm in draw.sample(ARMS, 3):
            tokens, steps, drafted = generate(engine.runner, replace(request, **arm))
            assert (tokens, drafted.finish) == (plain, outcome.finish), (arm, request)
            for step in steps:
                sources = zip(step.tokens, step.source[: step.accepted], strict=False)
                closed_as_draft += (CLOSE, "g") in sources and request.grammar is None
        states = spent(plain, thoughts)
        if outcome.finish == "stop" and plain[-1] not in request.stop:
            stopped += 1
            assert not states[-2][0]  # not in a thought
        if thoughts.budget is None:
            continue
        assert states[-1][1] <= thoughts.budget
        for token, (inside, count) in zip(plain, states, strict=False):
            if count == thoughts.budget:
                closed += inside
                assert token == CLOSE if inside else token != OPEN
        # Up to where the budget first matters, the text is the one without it.
        first = next((i for i, (_, count) in enumerate(states) if count == thoughts.budget), len(plain))
        free, _, _ = generate(engine.runner, replace(request, thoughts=replace(thoughts, budget=None)))
        assert plain[:first] == free[:first]
    assert min(closed, closed_as_draft, stopped) > 2


def test_a_budget_gives_way_to_a_grammar_that_needs_the_thought(engine: Engine) -> None:
    chat = engine.chat_format
    prompt = chat.encode([{"role": "user", "content": "Hello"}], enable_thinking=True)
    thoughts = Thoughts(OPEN, CLOSE, chat.tokenizer.encode("thought\n"), budget=0)
    grammar = 'root ::= "<|channel>" "thought\\n" "abc" [0-9]* "<channel|>" "Hi"'
    for arm in ({}, *ARMS):
        request = Request(prompt, 30, sorted(chat.stop_token_ids), grammar=grammar, thoughts=thoughts, **arm)
        tokens, _, outcome = generate(engine.runner, request)
        assert outcome.finish == "stop"
        assert chat.tokenizer.decode(tokens[:-1]) == "<|channel>thought\nabc<channel|>Hi"


@pytest.mark.parametrize("draft_length", [0, 1, 2, 3, 4, 5, None])
def test_rows_behind_the_end_of_a_text_refuse_nothing(engine: Engine, draft_length: int | None) -> None:
    """Plain decoding never sees them: the text ends at a stop string, before the dead end."""
    tokenizer = engine.chat_format.tokenizer
    suppress = [i for i in range(tokenizer.vocab_size) if b"#" in tokenizer.token_bytes(i)]
    grammar = 'root ::= "Hello there" "#" [a-z]+'
    changes: dict[str, Any] = {"grammar": grammar, "draft_length": draft_length}
    for sampling in (Sampling(suppress=suppress), Sampling(suppress=suppress, temperature=1.0, seed=3)):
        reply = engine.chat("hi", stop_texts=["there"], sampling=sampling, **changes).wait()
        assert (reply.text, reply.summary.finish) == ("Hello ", "stop")
        most = len(tokenizer.encode("Hello there"))
        reply = engine.chat("hi", max_tokens=most, sampling=sampling, **changes).wait()
        assert (reply.text, reply.summary.finish) == ("Hello there", "length")
        with pytest.raises(EdgeMtpError, match="no token is allowed"):
            engine.chat("hi", sampling=sampling, **changes).wait()


def test_a_reply_has_its_thought_apart_and_a_tool_call_behind_it(engine: Engine) -> None:
    options = ReplyOptions(
        max_tokens=60, thinking=True, thinking_budget=6, sampling=Sampling(logit_bias={OPEN: 40.0}), stop_texts=["~"]
    )
    texts = set()
    for k in (0, 3, None):
        reply = engine.chat("Wake me at 6:40", tools=load_tools(TOOLS), options=replace(options, draft_length=k))
        with pytest.raises(EdgeMtpError, match="not complete"):
            _ = reply.tool_calls
        tokens = list(reply)
        assert [t.id for t in tokens] == reply.tokens
        for channel, whole in (("text", reply.text), ("reasoning", reply.reasoning)):
            assert "".join(t.text for t in tokens if t.channel == channel) == whole
        wire = engine.chat_format.tokenizer.decode(reply.tokens[:-1])
        assert wire.startswith("<|channel>thought\n")
        assert (reply.reasoning, reply.text) == split_thoughts(wire)
        assert [call.to_json() for call in reply.tool_calls] == [{"name": "set_alarm", "arguments": {"time": "06:40"}}]
        texts.add((reply.text, reply.reasoning))
    assert len(texts) == 1
    off = engine.chat("Wake me at 6:40", tools=load_tools(TOOLS), options=replace(options, thinking=False)).wait()
    assert off.reasoning == ""  # the grammar lets no thought begin
    assert off.tool_calls


@pytest.mark.parametrize("draft_length", [0, 2, 5, None])
def test_published_templates_think_before_whatever_holds_the_reply(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, draft_length: int | None
) -> None:
    """The newest opens the thought itself behind a tool's answer; the reply then begins inside it."""
    opened = 0
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    options = ReplyOptions(
        thinking=True, thinking_budget=4, max_tokens=50, draft_length=draft_length,
        sampling=Sampling(logit_bias={OPEN: 12.0}),
    )  # fmt: skip
    for template in gemma4().values():
        monkeypatch.setattr(engine, "chat_format", replace(engine.chat_format, template=template))
        engine.__dict__.pop("_template_thinks", None)
        dialogue = Dialogue(engine, tools=load_tools(TOOLS))
        dialogue.say("Wake me at 6:40")
        reply = dialogue.reply(options).wait()
        dialogue.add(reply)
        assert reply.reasoning
        assert [call.name for call in reply.tool_calls] == ["set_alarm"]
        dialogue.respond("set_alarm", {"ok": True})
        prompt = engine.chat_format.tokenizer.decode(dialogue.prompt(options))
        second = dialogue.reply(options).wait()
        wire = engine.chat_format.tokenizer.decode(second.tokens)
        begun = prompt.endswith("<|channel>thought\n")
        opened += begun
        if begun:
            assert "<channel|>" in wire
            assert second.reasoning == split_thoughts(wire, opened=True)[0] != ""
        assert "<channel|>" not in second.text
        json_reply = engine.chat("Hi", options=options, response_schema=schema).wait()
        assert json_reply.reasoning
        jsonschema.validate(json.loads(json_reply.text), schema)
        listed = engine.chat("Hi", options=options, grammar='root ::= "Yes" | "No"  # "root"').wait()
        assert listed.reasoning
        assert listed.text in ("Yes", "No")
    assert opened == 1


def test_options_that_cannot_hold_are_refused(engine: Engine) -> None:
    for changes, message in (
        ({"thinking_budget": -1}, "budget is -1"),
        ({"template_variables": {"messages": []}}, "'messages' is given by the conversation"),
        ({"template_variables": {"bos_token": "x"}}, "'bos_token' is given"),
        ({"thinking": True, "template_variables": {"enable_thinking": False}}, "drop one of them"),
        ({"parallel_calls": False, "constrained": False}, "--single-call holds by constraining"),
        ({"parallel_calls": False, "tools": load_tools(TOOLS), "grammar": 'root ::= "a"'}, "another is given"),
        ({"strict_tools": True, "constrained": False}, "--strict-tools holds by constraining"),
    ):
        with pytest.raises(EdgeMtpError, match=message):
            engine.chat("Hi", **changes)  # type: ignore[arg-type]
    request = Request([2, 105], 4)
    for thoughts, message in (
        (Thoughts(1, 1), "both opens and closes"),
        (Thoughts(1, 10**6), "outside the vocabulary"),
        (Thoughts(1, 2, [10**6]), "outside the vocabulary"),
        (Thoughts(1, 2, budget=-1), "thought_budget"),
    ):
        with pytest.raises(EdgeMtpError, match=message):
            generate(engine.runner, replace(request, thoughts=thoughts))


def test_a_single_call_is_one_call(engine: Engine) -> None:
    tools = load_tools(TOOLS)
    bias = Sampling(logit_bias={48: 30.0})  # <|tool_call>
    several = engine.chat("Wake me at 6:40", tools=tools, tool_choice="required", sampling=bias, max_tokens=70).wait()
    assert len(several.tokens) == 70
    single = engine.chat(
        "Wake me at 6:40", tools=tools, tool_choice="required", sampling=bias, parallel_calls=False, max_tokens=70
    ).wait()
    assert single.summary.finish == "stop"
    assert len(single.tool_calls) == 1
