"""Tool-call suites answered by every arm: the loop of `edge-mtp eval`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from edge_mtp.harness.ask.answerer import Contender, ask
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.judged import is_right
from edge_mtp.harness.record.results import Results, ResultsWriter

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


def answered_questions(results: Results) -> set[Question]:
    """What need not be asked again. An item that was cut between two turns does."""
    last = {(answer.arm, answer.item): answer for answer in results.answers}
    return {
        question
        for question, answer in last.items()
        if (item := results.items.get(answer.item)) is not None
        and (answer.turn + 1 == len(item.turns) or not is_right(item, answer))
    }
