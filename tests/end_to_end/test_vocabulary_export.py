"""A pair with a real vocabulary of 262,144 tokens and narrow layers, from checkpoint to replies in both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import stock_engine
from gemma_vocabulary import VOCABULARY, tokenizer_json
from tiny_checkpoints import workspace, write_pair

from edge_mtp.device import Outcome, Request, Runner
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.tool_calls import parse_calls

pytestmark = pytest.mark.slow

CENTROIDS = 2048  # as the published drafters have
TOKENS = 24
TOOLS = [
    {
        "name": "set_alarm",
        "parameters": {
            "type": "object",
            "properties": {"time": {"type": "string", "pattern": "^\\d\\d:\\d\\d$"}, "repeat": {"type": "boolean"}},
            "required": ["time"],
        },
    }
]
ARMS: tuple[dict[str, Any], ...] = (
    {"draft_length": 1},
    {"draft_length": 4},
    {"draft_length": 4, "draft_policy": "auto"},
    {"draft_length": 4, "draft_sources": ("drafter", "lookup", "grammar")},
)


@cache
def pair() -> tuple[Path, Path]:
    vocabulary = tokenizer_json()
    narrow = {"vocab_size": VOCABULARY, "hidden_size": 32}
    target, drafter = write_pair(
        workspace() / "wide-vocabulary",
        target={**narrow, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 4},
        drafter_text=narrow,
        drafter={"backbone_hidden_size": 32, "num_centroids": CENTROIDS, "centroid_intermediate_top_k": 32},
    )
    shutil.copy(vocabulary, target / "tokenizer.json")
    return target, drafter


@pytest.fixture(scope="module", params=["int8", "fp32"])
def bundle(request: pytest.FixtureRequest) -> Path:
    path = workspace() / f"wide-vocabulary-{request.param}.litertlm"
    export_bundle(*pair(), path, recipe=request.param, context=160, prefill=(32,), widths=(2, 5))
    return path


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with open_engine(bundle, threads=2) as engine:
        yield engine


def reply(runner: Runner, request: Request) -> tuple[list[int], str]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    return [token for step in steps for token in step.tokens], outcome.finish  # type: ignore[union-attr]


def prompts(engine: Engine) -> list[list[int]]:
    texts = ("Wake me at 6:40", "Räume 🙂 auf, bitte: 漢字", "  def f():\n\treturn '</td>'")
    return [engine.chat_format.encode([{"role": "user", "content": text}]) for text in texts]


def test_the_bundle_holds_the_whole_vocabulary(bundle: Path) -> None:
    opened = Bundle(bundle)
    assert opened.token_bytes is not None
    assert len(opened.token_bytes) == VOCABULARY
    assert opened.models["prefill_decode"].signatures["decode"].outputs["logits"].shape[-1] == VOCABULARY


def test_drafts_change_no_text(engine: Engine) -> None:
    stops = sorted(engine.chat_format.stop_token_ids)
    for prompt in prompts(engine):
        plain = reply(engine.runner, Request(prompt, TOKENS, stops))
        assert all(reply(engine.runner, Request(prompt, TOKENS, stops, **arm)) == plain for arm in ARMS)


def test_calls_fit_their_tool_and_drafts_change_none(engine: Engine) -> None:
    stops = sorted(engine.chat_format.stop_token_ids)
    grammar = tool_grammar(TOOLS, choice="required", parallel=False).text
    most = 80  # random weights may spell a call letter by letter
    for prompt in prompts(engine):
        plain = reply(engine.runner, Request(prompt, most, stops, grammar=grammar))
        tokens, finish = plain
        assert finish == "stop"
        (call,) = parse_calls(engine.chat_format.tokenizer.decode(tokens))
        assert call.name == "set_alarm"
        assert set(call.arguments) <= {"time", "repeat"}
        for arm in ARMS:
            assert reply(engine.runner, Request(prompt, most, stops, grammar=grammar, **arm)) == plain


def test_a_response_schema_holds(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
    }
    answer = engine.chat("How many?", response_schema=schema, max_tokens=TOKENS).wait()
    assert set(json.loads(answer.text)) == {"n"}


def test_tokens_are_named_by_text_and_by_id(engine: Engine) -> None:
    assert engine.token("<|tool_call>") == 48
    assert engine.token("262143") == VOCABULARY - 1
    assert engine.token("  ") == engine.token("▁▁")
    assert engine.chat_format.tokenizer.decode([engine.token("\n\n")]) == "\n\n"


def test_the_stock_engine_writes_the_same_text_with_and_without_drafts(bundle: Path, engine: Engine) -> None:
    chat = engine.chat_format
    texts = [chat.render([{"role": "user", "content": text}]) for text in ("Wake me at 6:40", "Guten Tag")]
    plain = stock_engine.replies(bundle, texts, TOKENS, drafting=False)
    drafted = stock_engine.replies(bundle, texts, TOKENS, drafting=True)
    assert drafted.success_rate is not None
    for ours, one, other in zip(texts, plain.texts, drafted.texts, strict=True):
        assert one
        assert other.startswith(one) or one.startswith(other)
        tokens, _ = reply(engine.runner, Request(chat.tokenizer.encode(ours), TOKENS, sorted(chat.stop_token_ids)))
        assert chat.tokenizer.decode(tokens)[:8] == one[:8]
