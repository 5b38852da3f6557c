"""Drafts of a chosen acceptance: each reply is made plainly first, and its tokens are then replayed as drafts."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer, ask
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.runner_engine import RunnerEngine


def plain_siblings(arms: Sequence[Arm]) -> list[Arm]:
    """The plain arms that write the text that `arms` draft from, each once.

    Raises EdgeMtpError for an arm whose drafts cannot be chosen.
    """
    for arm in arms:
        if arm.engine != "ours":
            raise EdgeMtpError(f"arm '{arm.label}': the drafts of {arm.engine} cannot be chosen; use engine=ours")
    if all(arm.mtp in ("off", "blank") for arm in arms):
        raise EdgeMtpError("no arm drafts, so there is no acceptance to simulate; add one with mtp=auto or a number")
    return list({sibling.label: sibling for sibling in map(_plain, arms)}.values())


class SimulatedDrafts:
    """Gives drafting answerers their tapes. `plain` are answerers of `plain_siblings`."""

    def __init__(self, plain: Sequence[Answerer], acceptance: float, *, max_tokens: int) -> None:
        self._plain = {answerer.arm.label: answerer for answerer in plain}
        self._acceptance = acceptance
        self._max_tokens = max_tokens
        self._replies: dict[tuple[str, str, int], list[Answer]] = {}

    def give(self, answerer: Answerer, item: Item, round: int) -> None:
        """Gives `answerer` the tapes of `item`. Makes the plain text now where it is not known yet."""
        if not isinstance(answerer, RunnerEngine) or answerer.arm.mtp in ("off", "blank"):
            return
        answerer.draft_tapes = {
            (item.id, answer.turn): draft_tape(
                answer.tokens, self._acceptance, answerer.engine.runner.ready.vocabulary, _seed(item, answer, round)
            )
            for answer in self._reply(answerer.arm, item, round)
        }

    def _reply(self, arm: Arm, item: Item, round: int) -> list[Answer]:
        plain = self._plain[_plain(arm).label]
        key = (plain.arm.label, item.id, round if arm.temperature > 0 else 0)
        if key not in self._replies:
            self._replies[key] = ask(plain, item, round, max_tokens=self._max_tokens)
        return self._replies[key]


def _plain(arm: Arm) -> Arm:
    sibling = replace(arm, mtp="off", label="")
    return replace(sibling, label=f"plain text of {sibling}")


def _seed(item: Item, answer: Answer, round: int) -> int:
    """The seed of a reply's tape: the same for all arms, so that their drafts are wrong at the same tokens."""
    return zlib.crc32(f"{item.id}/{answer.turn}/{round}".encode())


def draft_tape(reply: Sequence[int], acceptance: float, vocabulary: int, seed: int) -> list[int]:
    """The drafts of a drafter that is right with probability `acceptance`: the `ReplyOptions.draft_tape` of a request
    whose plain reply is `reply`.

    Each token stays itself with that probability, independently of the others, and otherwise becomes any other token
    with equal probability. So at every draft position the share of steps that accept it, of those that reached it, is
    `acceptance` on average. Real drafts are right and wrong in runs, and their confidence tells which; the controller
    gains more from those.

    Args:
        reply: token ids, 0 to vocabulary - 1; with the stop token, if it ended at one. May be empty.
        acceptance: 0 to 1.
        vocabulary: of the bundle, at least 2.
        seed: of the choices; give each reply of a measurement its own, or all replies share one run of luck.

    Raises EdgeMtpError for an acceptance or a token out of range.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise EdgeMtpError(f"acceptance {acceptance} is no share; give one from 0 to 1")
    stranger = next((token for token in reply if not 0 <= token < vocabulary), None)
    if stranger is not None:
        raise EdgeMtpError(f"token {stranger} of the reply is outside the vocabulary of {vocabulary}")
    rng = random.Random(seed)
    # Both numbers are drawn for every token, so that tapes of one seed and two acceptances are wrong alike.
    draws = [(rng.random(), rng.randrange(1, vocabulary)) for _ in reply]
    return [
        token if luck < acceptance else (token + shift) % vocabulary
        for token, (luck, shift) in zip(reply, draws, strict=True)
    ]
