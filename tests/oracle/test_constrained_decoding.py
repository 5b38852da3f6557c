"""Grammars in the decode loop: MTP never changes the text, and the text is the one that masked logits give."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from native_constraint import Compiler, library

from edge_mtp.device import Outcome, Request, Runner, Sampling, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.tool_calls import parse_calls
from edge_mtp.harness.run.logits import Logits

ARMS: tuple[dict[str, Any], ...] = (
    {"draft_length": 1},
    {"draft_length": 3},
    {"draft_length": 7},
    {"draft_length": 7, "draft_policy": "auto"},
    {"draft_length": 7, "draft_sources": ("grammar",)},
    {"draft_length": 7, "draft_sources": ("drafter", "lookup", "grammar")},
    {"draft_length": 4, "draft_sources": ("drafter",)},
)
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.3, seed=11),
    Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02, seed=5),
    Sampling(repetition_penalty=1.2, logit_bias={59: 3.0}),
)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def stops(engine: Engine) -> list[int]:
    return sorted(engine.chat_format.stop_token_ids)


@pytest.fixture(scope="module")
def items(engine: Engine, tiny_split: list[dict[str, Any]]) -> list[tuple[list[int], list[dict[str, Any]]]]:
    """Prompts that declare tools, and the tools."""
    chosen = random.Random(8).sample([item for item in tiny_split if item["tools"]], 16)
    return [(engine.chat_format.encode(item["messages"], item["tools"]), item["tools"]) for item in chosen]


@pytest.fixture(scope="module")
def compiler(tiny_bundle: Path, stops: list[int]) -> Compiler:
    """The native constraint on its own, as the oracle's source of masks."""
    section = next(s for s in Bundle(tiny_bundle).sections if s.items.get("edge_mtp") == "token_bytes")
    return library().tokens(bytes(section.data)).compiler(stops)


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    return [t for step in steps for t in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "truncated", "processed"])
def test_drafts_do_not_change_a_constrained_text(
    engine: Engine, items: list[tuple[list[int], list[dict[str, Any]]]], stops: list[int], sampling: Sampling
) -> None:
    for prompt, tools in items:
        for choice in ("auto", "required"):
            grammar = tool_grammar(tools, choice=choice).text
            plain, _, outcome = generate(engine.runner, Request(prompt, 60, stops, grammar=grammar, sampling=sampling))
            for arm in ARMS:
                request = Request(prompt, 60, stops, grammar=grammar, sampling=sampling, **arm)
                tokens, _, drafted = generate(engine.runner, request)
                assert (tokens, drafted.finish) == (plain, outcome.finish), arm
            if outcome.finish == "stop":
                calls = parse_calls(engine.chat_format.tokenizer.decode(plain))
                assert calls or choice == "auto"
                assert {call.name for call in calls} <= {tool["function"]["name"] for tool in tools}


def test_a_greedy_text_takes_the_largest_logit_that_the_grammar_allows(
    engine: Engine,
    items: list[tuple[list[int], list[dict[str, Any]]]],
    stops: list[int],
    compiler: Compiler,
    tiny_bundle: Path,
) -> None:
    logits, changed = Logits(Bundle(tiny_bundle)), 0
    for prompt, tools in items:
        grammar = tool_grammar(tools, choice="required").text
        tokens, _, _ = generate(engine.runner, Request(prompt, 40, stops, draft_length=5, grammar=grammar))
        constraint = compiler.constraint(grammar)
        for row, token in zip(logits.of_reply(prompt, tokens), tokens, strict=True):
            mask = constraint.mask()[: len(row)]
            masked = np.where(mask, row[: len(mask)], -np.inf)
            assert masked.max() - masked[token] < 1e-3
            changed += int(row.argmax()) != token
            assert constraint.accept(token)
    assert changed > 0  # the grammar did hold something back


def test_what_the_grammar_forces_is_drafted_and_accepted(
    engine: Engine, items: list[tuple[list[int], list[dict[str, Any]]]], stops: list[int]
) -> None:
    drafted = accepted = 0
    for prompt, tools in items:
        request = Request(
            prompt, 60, stops, 7, draft_sources=("grammar",), grammar=tool_grammar(tools, choice="required").text
        )
        _, steps, _ = generate(engine.runner, request)
        assert steps[0].source[:1] == "g"  # before any hidden state is known
        assert set("".join(step.source for step in steps)) <= {"g"}
        drafted += sum(len(step.draft) for step in steps)
        accepted += sum(step.accepted for step in steps)
    assert accepted > 0.9 * drafted


def test_a_grammar_that_ends_inside_a_step_ends_the_text_there(engine: Engine, stops: list[int]) -> None:
    prompt = engine.chat_format.encode([{"role": "user", "content": "Hello"}], [])
    for text in ("a", "to be or not to be", "<|tool_call>call:x{}<tool_call|>"):
        grammar = "root ::= " + json.dumps(text)
        for arm in ({}, *ARMS):
            tokens, _, outcome = generate(engine.runner, Request(prompt, 60, stops, grammar=grammar, **arm))
            assert outcome.finish == "stop"
            assert tokens[-1] in stops
            assert engine.chat_format.tokenizer.decode(tokens[:-1]) == text


def test_a_schema_holds_with_and_without_drafts(engine: Engine, stops: list[int]) -> None:
    schema = {
        "type": "object",
        "properties": {
            "on": {"type": "boolean"},
            "level": {"enum": ["low", "high"]},
            "times": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
        "required": ["on", "level", "times"],
        "additionalProperties": False,
    }
    prompt = engine.chat_format.encode([{"role": "user", "content": "Turn on the light"}], [])
    for sampling in SAMPLINGS[:2]:
        request = Request(prompt, 120, stops, grammar=response_grammar(schema), sampling=sampling)
        plain, _, outcome = generate(engine.runner, request)
        for arm in ARMS:
            assert generate(engine.runner, replace(request, **arm))[0] == plain
        if outcome.finish == "stop":
            jsonschema.validate(json.loads(engine.chat_format.tokenizer.decode(plain[:-1])), schema)
