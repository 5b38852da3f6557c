"""Drafts of a chosen acceptance for a whole run: plain text first, then its tapes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Contender, ask
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.runner_engine import Ours
from edge_mtp.harness.ask.simulate import draft_tape


def plain_siblings(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that write the text whose tapes these arms draft from, each once.

    Raises EdgeMtpError for an arm whose drafts cannot be chosen.
    """
    for arm in arms:
        if arm.engine != "ours":
            raise EdgeMtpError(f"arm '{arm.label}': the drafts of {arm.engine} cannot be chosen; use engine=ours")
    if all(arm.mtp in ("off", "blank") for arm in arms):
        raise EdgeMtpError("no arm drafts, so there is no acceptance to simulate; add one with mtp=auto or a number")
    return list({sibling.label: sibling for sibling in map(_plain, arms)}.values())


class Tapes:
    """Gives drafting contenders their tapes. `plain` are contenders of `plain_siblings`."""

    def __init__(self, plain: Sequence[Contender], acceptance: float, *, max_tokens: int) -> None:
        self._plain = {contender.arm.label: contender for contender in plain}
        self._acceptance = acceptance
        self._max_tokens = max_tokens
        self._replies: dict[tuple[str, str, int], list[Answer]] = {}

    def give(self, contender: Contender, item: Item, round: int) -> None:
        """The tapes of `item`, the plain text of which is made now where it is not known yet."""
        if not isinstance(contender, Ours) or contender.arm.mtp in ("off", "blank"):
            return
        contender.tapes = {
            (item.id, answer.turn): draft_tape(
                answer.tokens, self._acceptance, contender.engine.runner.ready.vocabulary, _seed(item, answer, round)
            )
            for answer in self._reply(contender.arm, item, round)
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
    """One for each reply, and the same for all arms, so that their drafts are wrong at the same tokens."""
    return zlib.crc32(f"{item.id}/{answer.turn}/{round}".encode())
