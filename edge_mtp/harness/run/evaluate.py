"""Tool-call suites answered by every arm: what `edge-mtp eval` adds to the loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer, ask
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.judged import is_right
from edge_mtp.harness.record.results import Results, ResultsWriter
from edge_mtp.harness.run.loop import ask_all
from edge_mtp.harness.run.progress import CountProgress

Question = tuple[str, str]  # arm, item


def evaluate(
    answerers: Sequence[Answerer],
    items: Mapping[str, Item],
    writer: ResultsWriter,
    *,
    max_tokens: int,
    answered: Collection[Question] = (),
    progress: CountProgress = lambda done, total: None,
) -> None:
    """Asks every answerer every item once, and writes what they answer: asked again, it is no further item.

    An item's later turns are asked only while the turns before were answered rightly: after another call the script
    no longer fits. An answerer that crashed or hung has answered wrongly, and is started again for the next item.
    `answered` questions are left out. `progress` counts questions, an item asked of an arm each.

    Raises EdgeMtpError when an answerer cannot be started again, or the results cannot be written.
    """

    def put(answerer: Answerer, item: Item, round: int) -> list[Answer]:
        return ask(answerer, item, round, max_tokens=max_tokens, goes_on=partial(is_right, item))

    def is_due(answerer: Answerer, item: Item, round: int) -> bool:
        return (answerer.arm.label, item.id) not in answered

    for answers in ask_all(answerers, list(items.values()), put, is_due=is_due, progress=progress):
        # All at once: an item that is cut in the middle is asked again as a whole.
        for answer in answers:
            writer.write(answer)
    total = len(answerers) * len(items)
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
