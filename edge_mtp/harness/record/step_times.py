"""How long steps took, with each number of drafts: what `edge-mtp plan` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class StepTime(NamedTuple):
    """What a step of some K took in one round, in microseconds: the drafter, and the whole step."""

    draft_us: float
    whole_us: float


@dataclass(frozen=True)
class StepTimes:
    """Steps behind a prompt of `context` tokens: by K, ascending from 0 (a plain step), a time for each round."""

    context: int
    rounds: Mapping[int, Sequence[StepTime]]
