"""What each arm said, by item and turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results

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


def said(turns: Turns) -> dict[int, tuple[str, bool]]:
    """The text of each turn, and whether there is an answer at all: what is compared where texts are to be equal."""
    return {turn: (answer.whole, answer.is_complete) for turn, answer in turns.items()}
