"""The score of an answer to an item."""

from __future__ import annotations

import itertools

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.score.score import Score, score


def is_right(item: Item, answer: Answer) -> bool:
    """Whether the turn was answered rightly; one without gold is, if it was answered at all."""
    if not answer.is_complete:
        return False
    found = scored(answer, item)
    return found is None or found.is_right


def scored(answer: Answer, item: Item) -> Score | None:
    """The score of one turn's answer; None where nobody knows what is right."""
    gold = item.turns[answer.turn].gold
    if gold is None:
        return None
    messages = itertools.chain.from_iterable(turn.messages for turn in item.turns[: answer.turn + 1])
    prompt = "\n".join(str(message.get("content", "")) for message in messages)
    thought = answer.reasoning if answer.in_thought else None
    return score(answer.text, answer.finish, answer.error, gold, item.tools, prompt, open_thought=thought)
