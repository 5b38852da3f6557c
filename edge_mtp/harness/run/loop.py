"""The loop of every measurement: each arm answers each item, in an order that is fair to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.run.progress import CountProgress

A = TypeVar("A")
T = TypeVar("T")


def fair_order(arms: Sequence[A], place: int, round: int = 0) -> list[A]:
    """The arms in the order in which they answer the item at `place` in `round`.

    The order is reversed from item to item and from round to round (A B, B A, A B, ...): a drift of the machine's speed
    then affects all arms equally.
    """
    return list(arms) if (place + round) % 2 == 0 else list(reversed(arms))


def in_turns(arms: Sequence[A], items: Sequence[T], rounds: Iterable[int] = (0,)) -> Iterator[tuple[T, int, list[A]]]:
    """Each item in each round, with the arms in their order: all arms answer an item before the next one is asked."""
    for round in rounds:
        for place, item in enumerate(items):
            yield item, round, fair_order(arms, place, round)


def interleave(arms: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measurements of each arm over `rounds`, in the order of `in_turns`. Result: [arm][round]."""
    results: list[list[float]] = [[] for _ in arms]
    for _, _, order in in_turns(range(len(arms)), [None], range(rounds)):
        for arm in order:
            results[arm].append(arms[arm]())
    return results


def ask_all(
    answerers: Sequence[Answerer],
    items: Sequence[Item],
    put: Callable[[Answerer, Item, int], list[Answer]],
    *,
    rounds: Iterable[int] = (0,),
    is_due: Callable[[Answerer, Item, int], bool] = lambda answerer, item, round: True,
    is_over: Callable[[], bool] = lambda: False,
    before_item: Callable[[], None] = lambda: None,
    progress: CountProgress = lambda done, total: None,
) -> Iterator[list[Answer]]:
    """Asks each answerer each item, round after round; yields what each says to each as soon as it has said it.

    `put(answerer, item, round)` asks the question. A question that is not `is_due` is left out. `is_over` is looked at
    before each item and ends the loop. `before_item` is called before an item that somebody is asked. `progress` is
    told before each question how many of its round lie behind, and how many a round has.
    """
    total = len(answerers) * len(items)
    for number, (item, round, order) in enumerate(in_turns(answerers, items, rounds)):
        if is_over():
            return
        if any(is_due(answerer, item, round) for answerer in order):
            before_item()
        for place, answerer in enumerate(order):
            progress((number * len(order) + place) % total, total)
            if is_due(answerer, item, round):
                yield put(answerer, item, round)
