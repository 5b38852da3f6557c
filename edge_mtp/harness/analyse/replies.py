"""The answers of each arm: which of them count, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results

Question: TypeAlias = "tuple[str, int, int]"  # item, round, turn
Turns = Mapping[int, Answer]  # by number of the turn
Replies = dict[str, dict[str, dict[int, Answer]]]  # by arm, item and turn


def last_answers(answers: Iterable[Answer]) -> list[Answer]:
    """One answer to each question: the last, where a run that was cut has asked it again."""
    return list({(each.arm, each.item, each.round, each.turn): each for each in answers}.values())


def replies_of(results: Results) -> Replies:
    """What each arm said in round 0. Later rounds say the same at temperature 0, and at others are no further items."""
    replies: Replies = {arm.label: {} for arm in results.run.arms}
    for answer in last_answers(results.answers):
        if answer.round == 0:
            replies[answer.arm].setdefault(answer.item, {})[answer.turn] = answer
    return replies


def answers_to(results: Results, arm: str) -> dict[Question, Answer]:
    """The answers of an arm, failed ones included."""
    return {(answer.item, answer.round, answer.turn): answer for answer in last_answers(results.of(arm))}


def kinds_of(results: Results) -> list[str]:
    """The kinds of the items that were asked, in the order of their first appearance."""
    return list(dict.fromkeys(item.kind for item in results.items.values()))


def token_count(answer: Answer) -> int:
    """The tokens of a reply: of an engine that gives no ids, as many as it says."""
    return len(answer.tokens) or answer.count


def decode_time(answer: Answer) -> tuple[float, int] | None:
    """The time after the first token in microseconds, and the tokens that it gave; None where there is no such time."""
    tokens, after_first = token_count(answer), answer.total_us - answer.first_token_us
    return (after_first, tokens - 1) if tokens > 1 and answer.first_token_us > 0 < after_first else None


def said(turns: Turns) -> dict[int, tuple[str, bool]]:
    """The text of each turn, and whether there is an answer at all: what is compared where texts are to be equal."""
    return {turn: (answer.whole, answer.is_complete) for turn, answer in turns.items()}
