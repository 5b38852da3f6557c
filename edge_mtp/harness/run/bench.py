"""Workloads answered by every arm, round after round: what `edge-mtp bench` adds to the loop."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer, ask
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.record.results import Pause, ResultsWriter
from edge_mtp.harness.run.cool_down import CoolDown
from edge_mtp.harness.run.loop import ask_all, fair_order
from edge_mtp.harness.run.progress import RunProgress
from edge_mtp.harness.run.sensor_log import Clock, SensorLog

MOST_DEATHS = 3  # in a row, then an arm is given up
WARM_UP_TOKENS = 32

Question = tuple[str, str, int]  # arm, item, round


@dataclass(frozen=True)
class Schedule:
    """How often each item is asked, and the pauses between.

    Each arm first gives `warm_up` answers to each shape of prompt, which are thrown away. A pause of `cool_down_s` lies
    before every answer. With `sustained_s` rounds go on without pauses until that time is over; `rounds` is ignored.
    """

    rounds: int
    max_tokens: int
    warm_up: int = 1
    cool_down_s: float = 0.0
    sustained_s: float | None = None


def bench(
    answerers: Sequence[Answerer],
    items: Sequence[Item],
    writer: ResultsWriter,
    schedule: Schedule,
    *,
    clock: Clock,
    cool_downs: Sequence[CoolDown] = (),
    sensor_logs: Sequence[SensorLog] = (),
    answered: Sequence[Answer] = (),
    prepare: Callable[[Answerer, Item, int], None] = lambda answerer, item, round: None,
    progress: RunProgress | None = None,
) -> None:
    """Asks every answerer every item, round after round, in the order of `loop.in_turns`, and writes the answers.

    The run waits for `cool_downs` before each item, and calls `prepare` before each question, outside of what is
    measured. An answerer that crashed or hung has its answer, and is started again for the next item; after
    `MOST_DEATHS` in a row it is given up and the others go on. `answered` are the answers of a run that was cut; they
    are not asked for again.

    Raises EdgeMtpError when all answerers are given up, or the results cannot be written.
    """
    _Bench(
        answerers, items, writer, schedule, clock, cool_downs, sensor_logs, answered, prepare, progress or RunProgress()
    ).run()


class _Bench:
    def __init__(
        self,
        answerers: Sequence[Answerer],
        items: Sequence[Item],
        writer: ResultsWriter,
        schedule: Schedule,
        clock: Clock,
        cool_downs: Sequence[CoolDown],
        sensor_logs: Sequence[SensorLog],
        answered: Sequence[Answer],
        prepare: Callable[[Answerer, Item, int], None],
        progress: RunProgress,
    ) -> None:
        self._answerers = list(answerers)
        self._items = items
        self._writer = writer
        self._schedule = schedule
        self._clock = clock
        self._cool_downs = cool_downs
        self._sensor_logs = sensor_logs
        self._prepare = prepare
        self._progress = progress
        self._places = {item.id: place for place, item in enumerate(items)}
        self._deaths: Counter[str] = Counter()
        self._last_error: str | None = None
        self._is_warm = False
        self._written: dict[Question, dict[int, Answer]] = {}
        for answer in answered:
            self._written.setdefault((answer.arm, answer.item, answer.round), {})[answer.turn] = answer

    def run(self) -> None:
        is_sustained = self._schedule.sustained_s is not None
        asked = ask_all(
            self._answerers,
            self._items,
            self._put,
            rounds=itertools.count() if is_sustained else range(self._schedule.rounds),
            is_due=self._is_due,
            is_over=self._is_over,
            before_item=self._before_item,
        )
        try:
            for answers in asked:
                for answer in answers:
                    # Where a run was cut between two turns, the first has been answered and written before.
                    if answer.turn not in self._written.get((answer.arm, answer.item, answer.round), {}):
                        self._writer.write(answer)
            self._check_living()
            self._progress.step(1, 1, "done")
        finally:
            self._write_samples()

    # -- what it adds to the loop -------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        sustained_s = self._schedule.sustained_s
        return not self._living or (sustained_s is not None and self._clock.now() >= sustained_s)

    def _is_due(self, answerer: Answerer, item: Item, round: int) -> bool:
        written = self._written.get((answerer.arm.label, item.id, round), {})
        is_done = len(written) == len(item.turns) or any(not answer.is_complete for answer in written.values())
        return not is_done and answerer in self._living

    def _before_item(self) -> None:
        if not self._is_warm:
            self._warm_up()
            self._is_warm = True
        if self._schedule.sustained_s is None:
            for each in self._cool_downs:
                self._write_pause(each.wait(self._progress.note))

    def _put(self, answerer: Answerer, item: Item, round: int) -> list[Answer]:
        self._tell_progress(item, round, answerer.arm.label)
        self._pause(answerer)
        self._write_samples()
        return self._answers(answerer, item, round)

    @property
    def _living(self) -> list[Answerer]:
        return [each for each in self._answerers if self._deaths[each.arm.label] < MOST_DEATHS]

    def _check_living(self) -> None:
        if not self._living:
            raise EdgeMtpError(f"every arm ended {MOST_DEATHS} times in a row, the last with: {self._last_error}")

    def _answers(self, answerer: Answerer, item: Item, round: int, most: int | None = None) -> list[Answer]:
        """The answers to an item, each of at most `most` tokens if given.

        There are none where the answerer's engine does not start, or the engine that writes the text of its simulated
        drafts: the question was not asked then, and a resumed run asks it.
        """
        label = answerer.arm.label
        asked = item if most is None else replace(item, max_tokens=min(most, item.max_tokens or most))
        try:
            self._prepare(answerer, item, round)
            answers = ask(answerer, asked, round, max_tokens=self._schedule.max_tokens)
        except EdgeMtpError as error:
            answers, self._last_error = [], str(error)
        if answers and answerer.is_alive:
            self._deaths[label] = 0
            return answers
        self._deaths[label] += 1
        self._last_error = answers[-1].error if answers else self._last_error
        self._progress.note(f"{label} on {item.id}: {self._last_error}")
        if self._deaths[label] == MOST_DEATHS:
            self._progress.note(f"{label} ended {MOST_DEATHS} times in a row, and is not asked any more")
        return answers

    def _warm_up(self) -> None:
        """Answers that are thrown away: the first to a shape of prompt pays for memory, caches and grammars."""
        most = min(WARM_UP_TOKENS, self._schedule.max_tokens)
        shapes: dict[object, Item] = {}
        for item in self._items:
            shapes.setdefault(shape(item), item)
        for item in shapes.values():
            for answerer in fair_order(self._living, self._places[item.id]):
                for _ in range(self._schedule.warm_up):
                    self._progress.step(0, 1, f"warm-up, {answerer.arm.label}")
                    self._answers(answerer, item, 0, most)
            self._check_living()

    def _pause(self, answerer: Answerer) -> None:
        if self._schedule.cool_down_s > 0 and self._schedule.sustained_s is None:
            at_s = self._clock.now()
            self._clock.sleep(self._schedule.cool_down_s)
            self._write_pause(Pause(answerer.arm.device, at_s, self._schedule.cool_down_s, "cool-down"))

    def _write_pause(self, pause: Pause | None) -> None:
        if pause is not None:
            self._writer.write(pause)

    def _write_samples(self) -> None:
        for log in self._sensor_logs:
            for sample in log.take():
                self._writer.write(sample)

    def _tell_progress(self, item: Item, round: int, what: str) -> None:
        if self._schedule.sustained_s is not None:
            self._progress.step(self._clock.now(), self._schedule.sustained_s, what)
        else:
            total = len(self._items) * self._schedule.rounds
            self._progress.step(round * len(self._items) + self._places[item.id], total, what)


def shape(item: Item) -> tuple[str, str, int]:
    """What prompts have in common that cost alike at first: kind, tools (a grammar), and length to a factor of two."""
    tools = repr(item.tools)
    length = len(tools) + sum(len(str(message.get("content"))) for turn in item.turns for message in turn.messages)
    return item.kind, tools, length.bit_length()
