"""The loop that asks: its order is fair, and it leaves out what is not due."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.run.first_replies import first_replies
from edge_mtp.harness.run.loop import ask_all, in_turns, interleave


class Fake(Answerer):
    """Says nothing, in every turn; refuses the items of `refused`."""

    def __init__(self, label: str, refused: frozenset[str] = frozenset()) -> None:
        self.arm = Arm(label, "b.litertlm")
        self.asked: list[tuple[str, int]] = []  # item, most tokens
        self._refused = refused

    is_alive = True

    def revive(self) -> None:
        raise AssertionError("it never dies")

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        self.asked.append((item.id, item.max_tokens or max_tokens))
        for turn in range(len(item.turns)):
            error = "no room" if item.id in self._refused else None
            yield Answer(self.arm.label, item.id, turn, round, 0.0, "", "stop", error=error)


def item(name: str, turns: int = 1, max_tokens: int | None = None) -> Item:
    asked = tuple(Turn(({"role": "user", "content": "Hi"},)) for _ in range(turns))
    return Item(name, "chat", name, asked, max_tokens=max_tokens)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_the_order_is_reversed_from_item_to_item_and_from_round_to_round(arms: int, items: int, rounds: int) -> None:
    orders = {(item, round): order for item, round, order in in_turns(range(arms), range(items), range(rounds))}
    assert list(orders) == [(item, round) for round in range(rounds) for item in range(items)]
    for (item, round), order in orders.items():
        assert sorted(order) == list(range(arms))
        for neighbour in ((item + 1, round), (item, round + 1)):
            assert orders.get(neighbour, order[::-1]) == order[::-1]


def test_interleave_reverses_every_other_round() -> None:
    order: list[str] = []

    def arm(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = interleave([lambda: arm("a"), lambda: arm("b")], 4)
    assert "".join(order) == "abbaabba"
    assert results == [[1, 4, 5, 8], [2, 3, 6, 7]]


@given(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 1))), st.integers(0, 9))
def test_what_is_not_due_is_left_out_and_its_item_is_not_prepared_for(
    answered: set[tuple[str, int, int]], items_until: int
) -> None:
    told: list[tuple[int, int]] = []
    prepared = itertools.count()
    asked: list[tuple[str, int, int]] = []
    looked = itertools.count()

    def put(answerer: Answerer, item: Item, round: int) -> list[Answer]:
        asked.append((answerer.arm.label, int(item.id), round))
        return []

    found = ask_all(
        [Fake("a"), Fake("b")],
        [item(str(number)) for number in range(4)],
        put,
        rounds=range(2),
        is_due=lambda answerer, item, round: (answerer.arm.label, int(item.id), round) not in answered,
        is_over=lambda: next(looked) >= items_until,
        before_item=lambda: next(prepared),
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(list(found)) == len(asked)
    reached = [(number, round) for round in range(2) for number in range(4)][:items_until]
    assert sorted(asked) == sorted(
        (arm, number, round) for number, round in reached for arm in "ab" if (arm, number, round) not in answered
    )
    assert next(prepared) == len({(number, round) for _, number, round in asked})
    assert told == [(done % 8, 8) for done in range(2 * len(reached))]


def test_first_replies_are_to_first_turns_within_their_limits_and_end_with_a_failure() -> None:
    arm = Fake("a", frozenset({"2"}))
    items = [item("0", turns=3, max_tokens=7), item("1"), item("2"), item("3")]
    found = first_replies([arm], items, [20, 30, 40, 50])
    assert [next(found).turn for _ in range(2)] == [0, 0]
    with pytest.raises(EdgeMtpError, match=r"^no room$"):
        next(found)
    assert arm.asked == [("0", 20), ("1", 30), ("2", 40)]
