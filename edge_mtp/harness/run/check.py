"""The three arms of `edge-mtp check --numerics`, asked the same prompts (`analyse.numerics` says what they tell)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Ready
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.run.first_replies import first_replies
from edge_mtp.harness.run.progress import CountProgress


def numerics_arms(bundle: str, draft_length: int) -> list[Arm]:
    """Plain decoding; the verify graph with `draft_length` rows that hold no draft; the same with the drafter's."""
    plain = Arm("plain", bundle, "off", constrained=False)
    return [
        plain,
        replace(plain, label="blank", mtp=draft_length, draft_sources=()),
        replace(plain, label="mtp", mtp=draft_length, draft_sources=("drafter",)),
    ]


def ask_numerics_arms(
    answerers: Sequence[Answerer],
    chat_format: ChatFormat,
    ready: Ready,
    items: Sequence[Item],
    *,
    draft_length: int,
    max_tokens: int,
    progress: CountProgress = lambda done, total: None,
) -> dict[str, list[Answer]]:
    """By arm: the first `max_tokens` tokens of its reply to the first turn of each item.

    `answerers` are of `numerics_arms`, on a runner that is `ready`, and tell margins. `progress` counts items.

    Raises EdgeMtpError where the bundle cannot verify `draft_length` drafts or its drafter gives fewer, and for a
    prompt that leaves no room in the context.
    """
    most = ready.max_draft_length
    if not 0 < draft_length <= most:
        cure = f"use 1 to {most}" if most else "export the bundle with its verify graphs (without --lean)"
        raise EdgeMtpError(f"draft length {draft_length} is beyond the {most} that this bundle verifies; {cure}")
    if not ready.has_drafter:
        raise EdgeMtpError("the bundle has no drafter, so there is no MTP to check; export it with its drafter")
    # Near the end of what may be generated graphs of other widths run: that end is generated and not compared.
    end = draft_length + 1
    compared = {
        item.id: _compared(number, item, chat_format, ready, max_tokens, end) for number, item in enumerate(items)
    }
    limits = [compared[item.id] + end for item in items]
    answers: dict[str, list[Answer]] = {answerer.arm.label: [] for answerer in answerers}

    def tell(done: int, total: int) -> None:
        if done % len(answerers) == 0:
            progress(done // len(answerers), total // len(answerers))

    for answer in first_replies(answerers, items, limits, tell):
        drafted = max((len(step.source) for step in answer.steps), default=0)
        if answer.arm == "mtp" and 0 < drafted < draft_length:
            raise EdgeMtpError(
                f"asked for {draft_length} drafts, the bundle's drafter gives {drafted}; use --draft-length {drafted}"
            )
        window = compared[answer.item]
        kept = replace(answer, tokens=answer.tokens[:window], margins=answer.margins[:window])
        answers[answer.arm].append(kept)
    return answers


def _compared(number: int, item: Item, chat_format: ChatFormat, ready: Ready, max_tokens: int, end: int) -> int:
    """How many tokens of the reply to an item are compared."""
    prompt = chat_format.encode(item.turns[0].messages, item.tools)
    compared = min(max_tokens, ready.context_length - len(prompt) - end)
    if compared < 1:
        raise EdgeMtpError(
            f"prompt {number} has {len(prompt)} tokens and leaves no room in the context of"
            f" {ready.context_length}; shorten it or export with a larger --context"
        )
    return compared
