"""Tool-call suites answered by every arm: the loop of `edge-mtp eval`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from edge_mtp.harness.contender import Contender, ask
from edge_mtp.harness.item import Item
from edge_mtp.harness.results import Answer, Results, ResultsWriter
from edge_mtp.harness.score import Score, score

# Called after each answered item: how many questions (an item asked of an arm) are done, how many there are.
Progress = Callable[[int, int], None]
Question = tuple[str, str]  # arm, item


def evaluate(
    contenders: Sequence[Contender],
    items: Mapping[str, Item],
    writer: ResultsWriter,
    *,
    max_tokens: int,
    answered: Collection[Question] = (),
    progress: Progress = lambda done, total: None,
) -> None:
    """Asks every contender every item once, and writes what they answer: asked again, it is no further item.

    An item's later turns are asked only while the turns before were answered rightly: after another call the script
    no longer fits. The order of contenders is reversed from item to item, so that none profits from a machine that
    was faster then. A contender that crashed or hung has answered wrongly, and is started again for the next item.
    `answered` questions are left out.

    Raises EdgeMtpError when a contender cannot be started again, or the results cannot be written.
    """
    questions = [
        (contender, item)
        for index, item in enumerate(items.values())
        for contender in (contenders if index % 2 == 0 else list(reversed(contenders)))
    ]
    for done, (contender, item) in enumerate(questions):
        progress(done, len(questions))
        if (contender.arm.label, item.id) in answered:
            continue
        # All at once: an item that is cut in the middle is asked again as a whole.
        for answer in ask(contender, item, 0, max_tokens=max_tokens, goes_on=partial(is_right, item)):
            writer.write(answer)
    progress(len(questions), len(questions))


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


def answered_questions(results: Results) -> set[Question]:
    """What need not be asked again. An item that was cut between two turns does."""
    last = {(answer.arm, answer.item): answer for answer in results.answers}
    return {
        question
        for question, answer in last.items()
        if (item := results.items.get(answer.item)) is not None
        and (answer.turn + 1 == len(item.turns) or not is_right(item, answer))
    }
