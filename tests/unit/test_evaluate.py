"""The loop of eval: everyone is asked everything once, whatever crashes or is cut."""

from __future__ import annotations

from collections.abc import Generator, Set
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import ToolCall, format_calls
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.judged import is_right
from edge_mtp.harness.record.results import ResultsWriter, Run, read_results
from edge_mtp.harness.run.evaluate import answered_questions, evaluate
from edge_mtp.harness.score.gold import Gold

TOOL = {
    "type": "function",
    "function": {
        "name": "dim",
        "description": "Dim the screen",
        "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}, "required": ["level"]},
    },
}


def asked_for(level: int) -> Turn:
    return Turn([{"role": "user", "content": f"Dim to {level}"}], Gold.of([ToolCall("dim", {"level": level})]))


def item(number: int, turns: int = 1) -> Item:
    return Item(f"item-{number}", "single", "dim", [asked_for(number + turn) for turn in range(turns)], [TOOL])


class Scripted(Answerer):
    """Says what is right, but for `wrong` (item, turn); dies at `deadly` items, each time that it is asked them."""

    def __init__(
        self, label: str, wrong: Set[tuple[str, int]] = frozenset(), deadly: Set[str] = frozenset(), lives: int = 99
    ) -> None:
        self.arm = Arm(label, "a.litertlm")
        self.wrong, self.deadly, self.lives = wrong, deadly, lives
        self.alive = True
        self.asked: list[tuple[str, int, int]] = []

    @property
    def is_alive(self) -> bool:
        return self.alive

    def revive(self) -> None:
        if self.lives == 0:
            raise EdgeMtpError("the device is gone")
        self.lives -= 1
        self.alive = True

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        assert self.alive, "asked after its death"
        for turn, asked in enumerate(item.turns):
            self.asked.append((item.id, turn, round))
            blank = Answer(self.arm.label, item.id, turn, round, 0.0, "", "crash", error="the runner ended")
            if item.id in self.deadly:
                self.alive = False
                yield blank
                return
            level = int(str(asked.messages[0]["content"]).rpartition(" ")[2])
            call = ToolCall("dim", {"level": -1 if (item.id, turn) in self.wrong else level})
            yield replace(blank, text=format_calls([call]), finish="stop", error=None)


def run_of(answerers: list[Scripted]) -> Run:
    return Run("eval", "", "", {}, [c.arm for c in answerers], answerers[0].arm.label, {}, {}, "mine", {})


def written(path: Path, answerers: list[Scripted], items: dict[str, Item]) -> set[object]:
    with ResultsWriter.create(path, run_of(answerers), items) as writer:
        evaluate(answerers, items, writer, max_tokens=9)
    return {(a.arm, a.item, a.turn, a.round, a.text, a.error) for a in read_results(path).answers}


ITEMS = {each.id: each for each in (item(0), item(10, 3), item(20), item(30, 2))}


def test_everyone_is_asked_everything_in_turned_order(tmp_path: Path) -> None:
    answerers = [Scripted("a"), Scripted("b"), Scripted("c")]
    written(tmp_path / "r.jsonl", answerers, ITEMS)
    answers = read_results(tmp_path / "r.jsonl").answers
    assert len(answers) == 3 * sum(len(each.turns) for each in ITEMS.values())
    firsts = [answer.arm for answer in answers if answer.turn == 0]
    groups = [firsts[i : i + 3] for i in range(0, len(firsts), 3)]
    there, back = ["a", "b", "c"], ["c", "b", "a"]
    assert groups == [there, back] * 2


def test_after_a_wrong_turn_its_item_is_left(tmp_path: Path) -> None:
    answerer = Scripted("a", wrong={("item-10", 1)})
    written(tmp_path / "r.jsonl", [answerer], ITEMS)
    assert [turn for name, turn, _ in answerer.asked if name == "item-10"] == [0, 1]
    assert [turn for name, turn, _ in answerer.asked if name == "item-30"] == [0, 1]


def test_a_crash_is_an_answer_and_the_run_goes_on(tmp_path: Path) -> None:
    answerers = [Scripted("a", deadly={"item-0", "item-20"}), Scripted("b")]
    written(tmp_path / "r.jsonl", answerers, ITEMS)
    results = read_results(tmp_path / "r.jsonl")
    assert {(a.arm, a.item) for a in results.answers if a.error} == {("a", "item-0"), ("a", "item-20")}
    assert {a.item for a in results.of("a")} == set(ITEMS)
    assert len(results.of("b")) == sum(len(each.turns) for each in ITEMS.values())
    assert answerers[0].lives == 97


def test_one_that_cannot_be_started_again_ends_the_run_and_what_was_answered_stays(tmp_path: Path) -> None:
    answerers = [Scripted("a", deadly={"item-10"}, lives=0)]
    with pytest.raises(EdgeMtpError, match="the device is gone"):
        written(tmp_path / "r.jsonl", answerers, ITEMS)
    assert [a.item for a in read_results(tmp_path / "r.jsonl").answers] == ["item-0", "item-10"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), wrong=st.sets(st.sampled_from([(i.id, t) for i in ITEMS.values() for t in range(3)])))
def test_a_run_that_was_cut_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, share: float, wrong: Set[tuple[str, int]]
) -> None:
    def answerers() -> list[Scripted]:
        return [Scripted("a", wrong), Scripted("b", deadly={"item-20"})]

    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    whole = written(path, answerers(), ITEMS)
    data = path.read_bytes()
    head = len(b"\n".join(data.split(b"\n")[: 1 + len(ITEMS)])) + 1
    path.write_bytes(data[: head + int(share * (len(data) - head))])
    old = read_results(path)
    answered = answered_questions(old)
    again = answerers()
    with ResultsWriter.resume(path) as writer:
        evaluate(again, ITEMS, writer, max_tokens=9, answered=answered)
    results = read_results(path)
    assert {(a.arm, a.item, a.turn, a.round, a.text, a.error) for a in results.answers} == whole
    for answerer in again:
        assert not {(answerer.arm.label, name) for name, _, _ in answerer.asked} & answered


def test_without_gold_a_turn_is_right_if_it_was_answered(tmp_path: Path) -> None:
    free = Item("free", "chat", "free", [Turn([{"role": "user", "content": "Hi"}])])
    answer = Answer("a", "free", 0, 0, 0.0, "Hello", "length")
    assert is_right(free, answer)
    assert not is_right(free, replace(answer, finish="crash", error="the runner ended"))
