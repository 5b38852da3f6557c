"""An answerer: what answers items for an arm."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item


class Answerer(ABC):
    """Answers for one arm. Several may share an engine; each request starts from an empty cache all the same."""

    arm: Arm

    @abstractmethod
    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        """Answers the turns of `item` one after the other, each with the answers before it in its history.

        The random numbers of a sampled answer depend on `round` alone. The caller stops iterating when it has seen
        enough. A failure of the engine is an answer too (`Answer.error`), and the last one.
        """

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it can go on answering; False after its engine has crashed or hung."""

    @abstractmethod
    def revive(self) -> None:
        """Starts its engine again. Raises EdgeMtpError if that fails."""


def ask(
    answerer: Answerer,
    item: Item,
    round: int,
    *,
    max_tokens: int,
    goes_on: Callable[[Answer], bool] = lambda answer: True,
) -> list[Answer]:
    """The answers of `answerer` to `item`, until `goes_on` says no. An answerer that has died is started again first.

    Raises EdgeMtpError if it cannot be started.
    """
    if not answerer.is_alive:
        answerer.revive()
    answers = []
    with contextlib.closing(answerer.answer(item, round, max_tokens=max_tokens)) as turns:
        for answer in turns:
            answers.append(answer)
            if not goes_on(answer):
                break
    return answers
