"""Simulated drafts: whose plain text they are made of, who is given them, and that arms share them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.runner_engine import RunnerEngine, SharedEngine
from edge_mtp.harness.ask.simulated_drafts import SimulatedDrafts, plain_siblings

VOCABULARY = 512
ITEM = Item("i1", "chat", "c", (Turn(({"role": "user", "content": "a"},)), Turn(({"role": "user", "content": "b"},))))
FIRST, SECOND = [*range(40)], [*range(100, 160)]
ENGINE = cast(
    SharedEngine,
    SimpleNamespace(
        is_alive=True, engine=SimpleNamespace(runner=SimpleNamespace(ready=SimpleNamespace(vocabulary=VOCABULARY)))
    ),
)


class Scripted(RunnerEngine):
    """Says the same two replies each time, and counts how often it was asked."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm, ENGINE)
        self.asked: list[tuple[str, int, int]] = []

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        self.asked.append((item.id, round, max_tokens))
        for turn, tokens in enumerate([FIRST, SECOND]):
            yield Answer(self.arm.label, item.id, turn, round, 0.0, "", "stop", tokens=tokens)


def drafting(label: str = "drafts", **options: Any) -> Arm:
    return Arm(label, "m.litertlm", **{"mtp": 3, **options})


def tapes(plain: list[Scripted], acceptance: float = 0.5) -> SimulatedDrafts:
    return SimulatedDrafts(plain, acceptance, max_tokens=77)


def given(made: SimulatedDrafts, arm: Arm, item: Item = ITEM, round: int = 0) -> dict[tuple[str, int], list[int]]:
    answerer = Scripted(arm)
    made.give(answerer, item, round)
    assert answerer.asked == [], "the plain arm is asked, not the one that drafts"
    return {key: list(tape) for key, tape in answerer.draft_tapes.items()}


def test_arms_that_write_one_text_share_one_plain_arm() -> None:
    same = [drafting("a"), drafting("b", mtp="auto")]
    [sibling] = plain_siblings(same)
    assert sibling.mtp == "off"
    assert (sibling.bundle, sibling.temperature) == (same[0].bundle, same[0].temperature)
    others = [drafting("d", temperature=0.7), drafting("e", constrained=False)]
    assert [arm.mtp for arm in plain_siblings([*same, *others])] == ["off"] * 3


def test_a_plain_arm_has_a_label_of_its_own() -> None:
    arms = [drafting("off", mtp="off"), drafting("auto", mtp="auto")]
    assert not {arm.label for arm in plain_siblings(arms)} & {arm.label for arm in arms}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([drafting(), Arm("stock", "m", engine="litert-lm", constrained=False)], "arm 'stock': .* use engine=ours"),
        ([drafting(mtp="off"), drafting("b", mtp="blank")], "no arm drafts"),
    ],
)
def test_drafts_that_cannot_be_chosen_are_refused(arms: list[Arm], message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message):
        plain_siblings(arms)


def test_each_turn_has_a_tape_of_its_own_text() -> None:
    [sibling] = plain_siblings([drafting()])
    assert given(tapes([Scripted(sibling)], acceptance=1.0), drafting()) == {("i1", 0): FIRST, ("i1", 1): SECOND}
    wrong = given(tapes([Scripted(sibling)], acceptance=0.0), drafting())
    assert [len(tape) for tape in wrong.values()] == [len(FIRST), len(SECOND)]
    for tape, text in zip(wrong.values(), (FIRST, SECOND), strict=True):
        assert not any(drafted == token for drafted, token in zip(tape, text, strict=True))
        assert all(0 <= token < VOCABULARY for token in tape)


def test_arms_are_wrong_at_the_same_tokens_and_items_at_others() -> None:
    arms = [drafting("a"), drafting("b", mtp="auto")]
    made = tapes([Scripted(arm) for arm in plain_siblings(arms)])
    first = given(made, arms[0])
    assert given(made, arms[1]) == first
    assert first[("i1", 0)] != FIRST
    again = given(made, arms[0], round=1)
    other = given(made, arms[0], replace(ITEM, id="i2"))

    def where_right(tape: list[int]) -> list[bool]:
        return [drafted == token for drafted, token in zip(tape, SECOND, strict=True)]

    pattern = where_right(first[("i1", 1)])
    assert True in pattern
    assert False in pattern
    assert where_right(again[("i1", 1)]) != pattern
    assert where_right(other[("i2", 1)]) != pattern


@pytest.mark.parametrize(("temperature", "times"), [(0.0, 1), (0.7, 3)])
def test_the_plain_text_is_made_once_where_it_is_the_same_each_round(temperature: float, times: int) -> None:
    arms = [drafting("a", temperature=temperature), drafting("b", mtp="auto", temperature=temperature)]
    [plain] = [Scripted(arm) for arm in plain_siblings(arms)]
    made = tapes([plain])
    for round in range(3):
        for arm in arms:
            given(made, arm, round=round)
    assert plain.asked == [("i1", round, 77) for round in range(times)]


@pytest.mark.parametrize("mtp", ["off", "blank"])
def test_an_arm_without_drafts_is_given_none(mtp: Any) -> None:
    [plain] = [Scripted(arm) for arm in plain_siblings([drafting()])]
    assert given(tapes([plain]), drafting("x", mtp=mtp)) == {}
    assert plain.asked == []
