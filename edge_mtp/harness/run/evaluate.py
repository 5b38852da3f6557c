"""Tool-call suites answered by every arm: what `edge-mtp eval` adds to the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Contender, ask
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.judged import is_right
from edge_mtp.harness.record.results import Results, ResultsWriter
from edge_mtp.harness.run.loop import ask_all

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
    no longer fits. A contender that crashed or hung has answered wrongly, and is started again for the next item.
    `answered` questions are left out.

    Raises EdgeMtpError when a contender cannot be started again, or the results cannot be written.
    """

    def put(contender: Contender, item: Item, round: int) -> list[Answer]:
        return ask(contender, item, round, max_tokens=max_tokens, goes_on=partial(is_right, item))

    def is_due(contender: Contender, item: Item, round: int) -> bool:
        return (contender.arm.label, item.id) not in answered

    for answers in ask_all(contenders, list(items.values()), put, is_due=is_due, progress=progress):
        # All at once: an item that is cut in the middle is asked again as a whole.
        for answer in answers:
            writer.write(answer)
    total = len(contenders) * len(items)
    progress(total, total)


def answered_questions(results: Results) -> set[Question]:
    """What need not be asked again. An item that was cut between two turns does."""
    last = {(answer.arm, answer.item): answer for answer in results.answers}
    return {
        question
        for question, answer in last.items()
        if (item := results.items.get(answer.item)) is not None
        and (answer.turn + 1 == len(item.turns) or not is_right(item, answer))
    }
