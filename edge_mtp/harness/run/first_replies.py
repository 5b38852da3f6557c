"""Replies to the first turns of items, by arms that share an engine: what quality, plan and check ask for.

Nobody times these replies, so prompts may find what they have in common in the engine's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from edge_mtp.engine import Engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer, ask
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.runner_engine import answerers_on
from edge_mtp.harness.run.loop import ask_all
from edge_mtp.harness.run.progress import CountProgress, StageProgress


def first_replies(
    answerers: Sequence[Answerer],
    items: Sequence[Item],
    limits: Sequence[int],
    progress: CountProgress = lambda done, total: None,
) -> Iterator[Answer]:
    """The reply of each answerer to the first turn of each item, in the order of the loop.

    `limits` are the most tokens of the reply to each item and override the item's own. `progress` is called before each
    reply. Raises EdgeMtpError where a reply fails.
    """
    asked = [replace(item, turns=item.turns[:1], max_tokens=limit) for item, limit in zip(items, limits, strict=True)]
    put = partial(ask, max_tokens=max(limits, default=1))
    for (answer,) in ask_all(answerers, asked, put, progress=progress):
        if answer.error is not None:
            raise EdgeMtpError(answer.error)
        yield answer


def drafter_replies(
    engine: Engine,
    items: Sequence[Item],
    draft_length: int,
    *,
    max_tokens: int,
    progress: StageProgress = lambda what, done, total: None,
) -> list[Answer]:
    """Greedy replies with `draft_length` drafts of the drafter in every step.

    They are not held to a grammar: it is the drafter's own share of right drafts that is wanted.
    """
    arm = Arm(f"mtp {draft_length}", engine.bundle.path, draft_length, constrained=False, draft_sources=("drafter",))
    limits = [max_tokens] * len(items)
    replies = list(first_replies(answerers_on(engine, [arm]), items, limits, partial(progress, "replies")))
    progress("replies", len(items), len(items))
    return replies
