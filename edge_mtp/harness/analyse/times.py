"""The times of an arm's answers that quantiles are taken of."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results
from edge_mtp.harness.stats.quantiles import Times

Timed = Literal["first_token", "first_answer", "call", "token"]


def times(results: Results, arm: str, what: Timed) -> Times:
    """The times of an arm in milliseconds, whose quantiles `Latency` holds."""
    values: list[float] = []
    items: list[str] = []
    for answer in results.of(arm):
        of_answer = _times(answer, what)
        values += of_answer
        items += [answer.item] * len(of_answer)
    return np.asarray(values, float) / 1e3, items


def _times(answer: Answer, what: Timed) -> list[float]:
    if not answer.is_complete:
        return []
    if what == "first_token":
        return [answer.first_token_us] if answer.first_token_us > 0 else []
    if what == "first_answer":
        return [answer.first_answer_us] if answer.first_answer_us else []
    if what == "call":
        return [] if answer.call_us is None else [answer.call_us]
    return [step.total_us / step.tokens for step in answer.steps for _ in range(step.tokens)]
