"""The stock LiteRT-LM engine as an oracle: what it writes, and how often its drafts were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mtp.harness.stock_engine import StockEngine


@dataclass(frozen=True)
class Replies:
    """`success_rate` is the share of drafts that were accepted; None if there were none."""

    texts: list[str]
    success_rate: float | None


def replies(bundle: Path, prompts: Sequence[str], max_tokens: int, *, drafting: bool) -> Replies:
    """Its greedy text after each of `prompts`, given as they are but for the start token, which it puts itself.

    With `drafting` it may write up to G tokens more than `max_tokens`. Raises EdgeMtpError if it refuses the bundle.
    """
    with StockEngine(bundle, mtp=drafting, threads=1) as engine:
        texts = [engine.reply(prompt.removeprefix("<bos>"), max_tokens).text for prompt in prompts]
        return Replies(texts, engine.close())
