"""Drafts of a chosen acceptance, from the plain reply that they are drafts of."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edge_mtp.errors import EdgeMtpError


def draft_tape(reply: Sequence[int], acceptance: float, vocabulary: int, seed: int) -> list[int]:
    """What a drafter proposes that is right with probability `acceptance`, whatever came before: the tape of
    `ReplyOptions.draft_tape` for a request whose plain reply is `reply`.

    Each token stands for itself with that probability, independently of the others, else for another token, any of
    which is as likely. So at every draft position the share of steps that accept it, of those that reached it, is
    `acceptance` on average. Real drafts come right and wrong in runs, and their confidence tells which: the controller
    makes more of those than of these.

    Args:
        reply: token ids, 0 to vocabulary - 1; with the stop token, if it ended at one. May be empty.
        acceptance: 0 to 1.
        vocabulary: of the bundle, at least 2.
        seed: of the choices; give each reply of a measurement its own, or all of them share one run of luck.

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
