"""Drafts of verify steps, counted by prompt and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.harness.ask.answer import StepFigures
from edge_mtp.summary import count_drafts

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Drafts:
    """Per prompt: `reached` and `accepted` [prompts,K] by position; `tokens` given out in `steps` verify steps
    [prompts]. Only tokens given out count: what is drafted beyond a text's end is neither right nor wrong."""

    reached: Array
    accepted: Array
    tokens: Array
    steps: Array

    @property
    def draft_length(self) -> int:
        return int(self.reached.shape[1])


def counted(replies: Sequence[Sequence[StepFigures]], draft_length: int) -> Drafts:
    """The drafts of the steps of each prompt; `draft_length` is the most that a step may have."""
    reached, accepted = (np.zeros((len(replies), draft_length), int) for _ in range(2))
    tokens, verifies = (np.zeros(len(replies), int) for _ in range(2))
    for row, steps in enumerate(replies):
        for step in steps:
            if step.kind != "v":
                continue
            counts = count_drafts(step.tokens, len(step.source), step.accepted)
            tokens[row] += step.tokens
            verifies[row] += 1
            reached[row, : counts.reached] += 1
            accepted[row, : counts.accepted] += 1
    return Drafts(reached, accepted, tokens, verifies)
