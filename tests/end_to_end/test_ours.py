"""Our engine as an answerer: what an answer says, and what becomes of it when the runner fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mtp.chat.thoughts import thoughts_in
from edge_mtp.device import Outcome, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import ask
from edge_mtp.harness.ask.arm import Arm, cross
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.runner_engine import RunnerEngine, SharedEngine, open_runner_engines
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.reply import Reply

ITEMS = read_items(TINY / "splits" / "iid.jsonl", 12)
TOKENS = 96


@pytest.fixture(scope="module")
def answerers(tiny_bundle: Path) -> Iterator[dict[str, RunnerEngine]]:
    axes = {"constrained": [True, False], "mtp": ["off", "blank", 3, "auto"]}
    arms = cross([{"bundle": str(tiny_bundle), "threads": 1}], axes)
    with open_runner_engines(arms, margins=True) as opened:
        yield {answerer.arm.label: answerer for answerer in opened}


def test_answers_are_the_engines_and_equal_whatever_drafts(
    answerers: dict[str, RunnerEngine], tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle, threads=1) as engine:
        for item in ITEMS:
            for bound, word in ((True, "constrained"), (False, "free")):
                expected = engine.chat(
                    item.turns[0].messages,
                    tools=item.tools,
                    max_tokens=TOKENS,
                    draft_length=0,
                    constrained=bound and bool(item.tools),
                ).wait()
                for mtp in ("off", "blank", "3", "auto"):
                    [answer] = ask(answerers[f"{word}, mtp {mtp}"], item, 0, max_tokens=TOKENS)
                    assert (answer.tokens, answer.text) == (expected.tokens, expected.text)
                    assert answer.count == len(answer.tokens) == sum(step.tokens for step in answer.steps)
                    assert len(answer.margins) == answer.count
                    assert answer.finish == "stop"


def test_every_item_starts_with_an_empty_cache_and_its_later_turns_do_not(answerers: dict[str, RunnerEngine]) -> None:
    text = next(item for item in ITEMS if not item.tools)  # a call is rendered anew, as the template has it
    item = replace(text, turns=[text.turns[0], Turn([{"role": "user", "content": "Turn on the flashlight"}])])
    for _ in range(2):
        one, two = ask(answerers["free, mtp 3"], item, 0, max_tokens=TOKENS)
        assert one.reused_tokens == 0
        assert two.turn == 1
        # The template opens a reply with an empty thought, which it drops from the history.
        assert one.prompt_tokens - 4 <= two.reused_tokens < two.prompt_tokens


def test_memory_is_known_from_the_first_answer_on(tiny_bundle: Path) -> None:
    """A warm-up takes the first answers away; those after it know what was read last."""
    with open_runner_engines([Arm("plain", str(tiny_bundle), mtp="off", threads=1)]) as (answerer,):
        answers = [ask(answerer, item, 0, max_tokens=4)[0] for item in ITEMS[:5]]
    for each in answers:
        assert each.rss_bytes is not None
        assert each.anonymous_bytes is not None
        assert 0 < each.anonymous_bytes <= each.rss_bytes
    assert [each.rss_bytes for each in answers] == sorted(each.rss_bytes or 0 for each in answers)


def test_times_add_up(answerers: dict[str, RunnerEngine]) -> None:
    for label in ("free, mtp off", "constrained, mtp auto"):
        for item in ITEMS:
            [answer] = ask(answerers[label], item, 0, max_tokens=TOKENS)
            assert answer.first_token_us == pytest.approx(answer.prefill_us + answer.steps[0].total_us, abs=0.2)
            spent = sum(step.total_us for step in answer.steps)
            assert answer.total_us == pytest.approx(answer.prefill_us + spent, abs=0.1 * len(answer.steps))
            assert (answer.call_us is not None) == ("<tool_call|>" in answer.text)
            if answer.call_us is not None:
                assert answer.first_token_us < answer.call_us <= answer.total_us


def replied(answerer: RunnerEngine, pieces: list[int]) -> Answer:
    """What becomes of a reply of these tokens, a step of 10 ms each after a prefill of 5 ms."""
    times = (0.0, 0.0, 0.0, 10_000.0, 0.0, 10_000.0)
    steps = [Step("r", n, "plain", n, [token], [], [], "", 0, 0, False, *times) for n, token in enumerate(pieces)]
    events = [*steps, Outcome("r", "stop", 9, 0, 0, len(pieces), 5_000.0, 5_000.0 + 10_000.0 * len(pieces))]
    tokenizer = answerer.engine.chat_format.tokenizer
    stop = answerer.engine.chat_format.stop_token_ids
    reply = Reply([], (each for each in events), tokenizer, frozenset(stop), (), None, thoughts_in(tokenizer))
    return answerer._answer(Answer("a", "i", 0, 0, 0.0, "", "refused"), reply)


def test_thoughts_are_told_apart_and_so_are_the_times_to_them_and_to_the_answer(
    answerers: dict[str, RunnerEngine],
) -> None:
    answerer = answerers["free, mtp off"]
    tokenizer = answerer.engine.chat_format.tokenizer
    stop = min(answerer.engine.chat_format.stop_token_ids)
    call = tokenizer.encode("<|tool_call>call:stop{}<tool_call|>")
    thought = tokenizer.encode("<|channel>thought\nStop? ") + call
    closed = [*thought, tokenizer.token_id("<channel|>")]
    answer = replied(answerer, [*closed, *call, stop])
    assert answer.text == "<|tool_call>call:stop{}<tool_call|>"
    assert answer.reasoning.startswith("Stop?")
    assert not answer.in_thought
    assert answer.first_token_us == 15_000
    assert answer.first_answer_us == 5_000 + 10_000 * (len(closed) + 1)
    assert answer.call_us == 5_000 + 10_000 * (len(closed) + len(call))  # of the answer, not of the thought
    cut = replied(answerer, thought)
    assert (cut.text, cut.in_thought, cut.first_answer_us, cut.call_us) == ("", True, None, None)
    silent = replied(answerer, [*closed, stop])
    assert (silent.text, silent.in_thought) == ("", False)


def test_a_reply_may_be_left(answerers: dict[str, RunnerEngine]) -> None:
    item = replace(ITEMS[0], turns=[ITEMS[0].turns[0]] * 3)
    answers = ask(answerers["free, mtp off"], item, 0, max_tokens=TOKENS, goes_on=lambda answer: answer.turn < 1)
    assert [answer.turn for answer in answers] == [0, 1]


def test_rounds_are_seeds(tiny_bundle: Path) -> None:
    arms = cross([{"bundle": str(tiny_bundle), "threads": 1}], {"temperature": [2.0], "mtp": ["off", 3]})
    item = replace(ITEMS[0], tools=())
    with open_runner_engines(arms) as opened:
        texts = [[ask(c, item, round, max_tokens=40)[0].tokens for c in opened] for round in range(4)]
    assert all(one == other for one, other in texts)
    assert len({tuple(one) for one, _ in texts}) > 1


def test_arms_share_an_engine_unless_a_controller_learns_in_it(answerers: dict[str, RunnerEngine]) -> None:
    engines = {label: id(answerer.shared) for label, answerer in answerers.items()}
    fixed = {engine for label, engine in engines.items() if "auto" not in label}
    assert len(fixed) == 1
    assert len(set(engines.values())) == 3


def test_a_prompt_beyond_the_context_is_refused_and_no_other(answerers: dict[str, RunnerEngine]) -> None:
    answerer = answerers["free, mtp 3"]
    long = Item("long", "chat", "long", [Turn([{"role": "user", "content": "again and " * 3000}])])
    [answer] = ask(answerer, long, 0, max_tokens=9)
    assert (answer.finish, answer.is_complete) == ("refused", False)
    assert "context holds" in (answer.error or "")
    assert answerer.is_alive
    assert ask(answerer, ITEMS[0], 0, max_tokens=TOKENS)[0].is_complete


def test_a_runner_that_is_killed_has_crashed_and_is_started_again(tiny_bundle: Path) -> None:
    arm = Arm("one", str(tiny_bundle), threads=1)
    with open_runner_engines([arm]) as [answerer]:
        before = ask(answerer, ITEMS[0], 0, max_tokens=TOKENS)
        kill(answerer)
        assert not answerer.is_alive
        [answer] = answerer.answer(ITEMS[1], 0, max_tokens=TOKENS)
        assert (answer.finish, answer.is_complete) == ("crash", False)
        assert "SIGKILL" in (answer.error or "")
        again = ask(answerer, ITEMS[0], 0, max_tokens=TOKENS)
        assert again[0].tokens == before[0].tokens


def kill(answerer: RunnerEngine) -> None:
    os.kill(answerer.engine.runner.pid, signal.SIGKILL)
    answerer.engine.runner._process.wait(10)


def test_an_engine_that_does_not_start_again_says_so(tiny_bundle: Path) -> None:
    opened = 0

    def opener() -> Engine:
        nonlocal opened
        opened += 1
        if opened > 1:
            raise EdgeMtpError("the device is gone")
        return open_engine(tiny_bundle, threads=1)

    shared = SharedEngine(opener)
    answerer = RunnerEngine(Arm("one", str(tiny_bundle)), shared)
    kill(answerer)
    with pytest.raises(EdgeMtpError, match="the device is gone"):
        ask(answerer, ITEMS[0], 0, max_tokens=TOKENS)
    shared.close()
