"""The stock LiteRT-LM engine as an answerer: the same prompts, figures that its stream tells, no way to hang us."""

import enum
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.tool_calls import CALL_CLOSE
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.litert_lm_engine import LitertLmEngine, open_litert_lm_engines
from edge_mtp.harness.ask.litert_lm_process import (
    NoSuchModeError,
    SilentStockError,
    StockEngine,
    StockMtp,
    StockReply,
    speculation,
)
from edge_mtp.harness.ask.runner_engine import open_runner_engines

ITEMS = 24


def arm_of(bundle: Path, mtp: Any = "off", **fields: Any) -> Arm:
    return Arm(f"stock {mtp}", str(bundle), mtp, "litert-lm", constrained=False, threads=1, **fields)


@pytest.fixture(scope="module")
def items(tiny_split: list[dict[str, Any]]) -> list[Item]:
    return [Item.from_json(item) for item in tiny_split[:ITEMS]]


@pytest.fixture(scope="module")
def stock(tiny_bundle: Path) -> Iterator[dict[str, LitertLmEngine]]:
    with open_litert_lm_engines([arm_of(tiny_bundle), arm_of(tiny_bundle, "auto")]) as opened:
        yield {answerer.arm.label: answerer for answerer in opened}


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path, items: list[Item]) -> list[Answer]:
    """Our own plain answers."""
    with open_runner_engines([Arm("ours", str(tiny_bundle), "off", constrained=False, threads=1)]) as (answerer,):
        return [answer for item in items for answer in answerer.answer(item, 0, max_tokens=64)]


@pytest.mark.parametrize("label", ["stock off", "stock auto"])
def test_it_answers_the_same_prompts_as_our_engine(
    stock: dict[str, LitertLmEngine], items: list[Item], ours: list[Answer], label: str
) -> None:
    for item, expected in zip(items, ours, strict=True):
        (answer,) = stock[label].answer(item, 3, max_tokens=64)
        assert (answer.arm, answer.item, answer.turn, answer.round) == (label, item.id, 0, 3)
        assert (answer.text, answer.finish, answer.error) == (expected.text, "stop", None)
        assert (answer.prompt_tokens, answer.count) == (expected.prompt_tokens, expected.count)
        assert 0 < answer.prefill_us <= answer.first_token_us <= answer.total_us
        assert (answer.call_us is not None) == (CALL_CLOSE in answer.text)
        assert answer.call_us is None or answer.first_token_us <= answer.call_us <= answer.total_us
        assert answer.rss_bytes
        assert answer.anonymous_bytes
        # The steps are the whole time after the prompt, and give out all tokens.
        assert sum(step.tokens for step in answer.steps) == answer.count
        assert answer.prefill_us + sum(step.total_us for step in answer.steps) == pytest.approx(answer.total_us)


def test_plain_steps_give_out_a_token_each(stock: dict[str, LitertLmEngine], items: list[Item]) -> None:
    for item in items[:6]:
        (answer,) = stock["stock off"].answer(item, 0, max_tokens=64)
        assert {(step.kind, step.tokens, step.source) for step in answer.steps} == {("p", 1, "")}


def test_the_acceptance_is_about_what_the_engine_says_it_was(tiny_bundle: Path, items: list[Item]) -> None:
    with open_litert_lm_engines([arm_of(tiny_bundle, "auto")]) as (answerer,):
        answers = [answer for item in items for answer in answerer.answer(item, 0, max_tokens=64)]
        told = answerer.close()
    steps = [step for answer in answers for step in answer.steps if step.kind == "v"]
    assert {step.source for step in steps} == {"ddd"}
    assert told == pytest.approx(sum(step.accepted for step in steps) / (3 * len(steps)), abs=0.03)


@pytest.mark.parametrize(("mtp", "beyond"), [("off", 0), ("auto", 3)])
def test_a_reply_that_is_cut_says_so(
    stock: dict[str, LitertLmEngine], items: list[Item], ours: list[Answer], mtp: str, beyond: int
) -> None:
    for item, whole in zip(items[:8], ours, strict=False):
        (answer,) = stock[f"stock {mtp}"].answer(item, 0, max_tokens=5)
        assert answer.finish == "length"
        assert 5 <= answer.count <= 5 + beyond
        assert whole.text.startswith(answer.text)


def test_later_turns_see_the_replies_before_them(
    stock: dict[str, LitertLmEngine], items: list[Item], tiny_bundle: Path
) -> None:
    """The whole history is rendered as for our engine, so prompts of later turns have as many tokens."""
    again = Turn(({"role": "user", "content": "And again?"},))
    called = next(item for item in items if item.turns[0].gold is not None and item.turns[0].gold.calls)
    response = Turn(({"role": "tool", "name": called.tools[0]["function"]["name"], "content": {"ok": True}},))
    dialogue = Item("d", "multi_turn", "d", (called.turns[0], response, again), called.tools)
    with open_runner_engines([Arm("ours", str(tiny_bundle), "off", constrained=False, threads=1)]) as (answerer,):
        expected = list(answerer.answer(dialogue, 0, max_tokens=32))
    found = list(stock["stock off"].answer(dialogue, 0, max_tokens=32))
    assert [(a.turn, a.prompt_tokens, a.text) for a in found] == [(a.turn, a.prompt_tokens, a.text) for a in expected]
    assert [answer.reused_tokens for answer in found] == [0, 0, 0]


def test_rounds_are_seeds_of_what_is_sampled(tiny_bundle: Path, items: list[Item]) -> None:
    with open_litert_lm_engines([arm_of(tiny_bundle, temperature=2.0)]) as (answerer,):
        texts = [[next(answerer.answer(items[2], round, max_tokens=12)).text for round in range(6)] for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_a_prompt_beyond_the_context_is_refused_and_the_engine_goes_on(
    stock: dict[str, LitertLmEngine], items: list[Item], ours: list[Answer]
) -> None:
    answerer = stock["stock off"]
    long = Item("long", "chat", "long", (Turn(({"role": "user", "content": "again and " * 2000},)),))
    (answer,) = answerer.answer(long, 0, max_tokens=8)
    assert answer.finish == "refused"
    assert answer.error
    assert answerer.is_alive
    assert next(answerer.answer(items[0], 0, max_tokens=64)).text == ours[0].text


def test_a_crash_is_an_answer_and_it_can_be_started_again(
    tiny_bundle: Path, items: list[Item], ours: list[Answer]
) -> None:
    with open_litert_lm_engines([arm_of(tiny_bundle)]) as (answerer,):
        os.kill(answerer.pid, signal.SIGKILL)
        (answer,) = answerer.answer(items[0], 0, max_tokens=64)
        assert answer.finish == "crash"
        assert answer.error is not None
        assert "it ended with signal 9" in answer.error
        assert not answerer.is_alive
        answerer.revive()
        assert answerer.is_alive
        assert next(answerer.answer(items[0], 0, max_tokens=64)).text == ours[0].text


def test_an_engine_that_hangs_is_stopped(tiny_bundle: Path) -> None:
    with StockEngine(tiny_bundle, mtp="off", threads=1) as engine:
        engine.silence_s = 0.5
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(SilentStockError, match="no word for"):
            engine.reply("Hi", 8)
        assert engine.has_ended


def test_a_hang_is_an_answer(
    stock: dict[str, LitertLmEngine], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: StockEngine, *given: Any, **options: Any) -> StockReply:
        raise SilentStockError("no word for 1 s; it was stopped")

    monkeypatch.setattr(StockEngine, "reply", silent)
    (answer,) = stock["stock off"].answer(items[0], 0, max_tokens=8)
    assert (answer.finish, answer.error) == ("timeout", "no word for 1 s; it was stopped")


def test_a_chunk_that_is_no_token_of_its_own_belongs_to_the_next(
    stock: dict[str, LitertLmEngine], tiny_bundle: Path
) -> None:
    """Text may come in pieces of which the tokenizer makes one token: none is counted twice, and no time is lost."""
    reply = StockReply(10.0, 100.0, [("to", 20.0), ("ol", 40.0), (" to", 70.0)], None, None, None)
    answerer = stock["stock off"]
    tokenizer: Tokenizer = answerer.chat.tokenizer
    answer = answerer.read(Answer("a", "i", 0, 0, 0.0, "", "refused"), 5, reply, 64)
    assert answer.count == len(tokenizer.encode("tool to")) + 1
    assert sum(step.tokens for step in answer.steps) == answer.count
    assert sum(step.total_us for step in answer.steps) == 90.0


def test_a_thought_is_told_apart_from_the_answer(stock: dict[str, LitertLmEngine]) -> None:
    chunks = [
        ("<|channel>thought\nHm. ", 20.0),
        ("<tool_call|><channel|>", 40.0),
        ("On it.", 70.0),
        ("<tool_call|>", 80.0),
    ]
    blank = Answer("a", "i", 0, 0, 0.0, "", "refused")
    answer = stock["stock off"].read(blank, 5, StockReply(10.0, 100.0, chunks, None, None, None), 64)
    assert (answer.reasoning, answer.text) == ("Hm. <tool_call|>", "On it.<tool_call|>")
    assert (answer.first_token_us, answer.first_answer_us, answer.call_us) == (20.0, 70.0, 80.0)
    assert not answer.in_thought
    cut = stock["stock off"].read(blank, 5, StockReply(10.0, 100.0, chunks[:1], None, None, None), 64)
    assert (cut.text, cut.in_thought, cut.first_answer_us) == ("", True, None)
    opened = stock["stock off"].read(
        blank, 5, StockReply(10.0, 100.0, [("Hm.", 20.0)], None, None, None), 64, opened=True
    )
    assert (opened.reasoning, opened.text, opened.in_thought) == ("Hm.", "", True)


@pytest.mark.parametrize(("mtp", "old"), [("off", False), ("on", True), ("adaptive", None)])
def test_the_engine_is_told_by_mode_or_by_switch(mtp: StockMtp, old: bool | None) -> None:
    """litert-lm 0.19 has modes, and warns of the switch that 0.18 has."""
    modes = enum.IntEnum("SpeculativeDecodingMode", [("OFF", 0), ("ON", 1), ("ADAPTIVE", 2)])
    new = SimpleNamespace(SpeculativeDecodingMode=modes, SpeculativeDecodingConfig=SimpleNamespace)
    (config,) = speculation(new, mtp).values()
    assert config.mode.name == mtp.upper()
    if old is None:
        with pytest.raises(NoSuchModeError, match=r"install 0\.19 or later"):
            speculation(SimpleNamespace(), mtp)
    else:
        assert speculation(SimpleNamespace(), mtp) == {"enable_speculative_decoding": old}


def test_adaptive_drafts_change_no_text_or_the_cure_is_named(
    tiny_bundle: Path, items: list[Item], ours: list[Answer]
) -> None:
    if not hasattr(pytest.importorskip("litert_lm"), "SpeculativeDecodingMode"):
        with pytest.raises(EdgeMtpError, match=r"no adaptive MTP; install 0\.19"):
            LitertLmEngine(arm_of(tiny_bundle, "adaptive"))
        return
    with open_litert_lm_engines([arm_of(tiny_bundle, "adaptive")]) as (answerer,):
        for item, expected in zip(items, ours, strict=True):
            (answer,) = answerer.answer(item, 0, max_tokens=64)
            assert (answer.text, answer.count) == (expected.text, expected.count)
            assert sum(step.tokens for step in answer.steps) == answer.count


def test_without_the_package_the_cure_is_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeMtpError, match="pip install litert-lm"):
        LitertLmEngine(arm_of(tiny_bundle))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mtp": "auto", "temperature": 0.5}, "ignores the temperature once it drafts"),
        ({"accelerator": "gpu"}, "litert-lm on gpu"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(tiny_bundle: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as refusal:
        LitertLmEngine(arm_of(tiny_bundle, **fields))
    assert "\n" not in str(refusal.value)


def test_a_refusal_quotes_what_the_log_says_of_it(stock: dict[str, LitertLmEngine]) -> None:
    """Of several, each its own: the log goes on while it is read."""
    answerer = stock["stock off"]
    for words in (1500, 2000, 2500):
        item = Item("long", "chat", "long", (Turn(({"role": "user", "content": "again and " * words},)),))
        (answer,) = answerer.answer(item, 0, max_tokens=8)
        assert answer.error is not None
        tokens = len(answerer.chat.encode(item.turns[0].messages))
        assert f"too long. Exceeding the maximum number of tokens allowed: {tokens}" in answer.error


def test_a_full_context_ends_a_reply(stock: dict[str, LitertLmEngine], tiny_bundle: Path) -> None:
    answerer = stock["stock off"]
    most = Bundle(tiny_bundle).metadata.max_num_tokens
    assert most is not None
    text = "Wake me at 6:40 "
    while len(answerer.chat.encode([{"role": "user", "content": text + "and 7 "}])) < most - 4:
        text += "and 7 "
    (answer,) = answerer.answer(
        Item("full", "chat", "full", (Turn(({"role": "user", "content": text},)),)), 0, max_tokens=64
    )
    assert answer.error is None
    assert answer.finish == "context"
    assert answer.prompt_tokens + answer.count == most
