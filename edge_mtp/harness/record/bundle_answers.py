"""What the bundles of a family answered, and how far their logits lie apart: what `edge-mtp quality` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.ask.answer import Answer


class LogitDistance(NamedTuple):
    """How far a bundle's logits are from the reference's on one reply of the reference.

    `kl` [tokens]: KL(reference || bundle) of each next-token distribution, in nats. `agreed`: at how many tokens both
    have the same likeliest choice.
    """

    kl: npt.NDArray[np.float64]
    agreed: int


@dataclass(frozen=True)
class BundleAnswers:
    """One bundle's greedy replies to the first turn of each item, by K, and item by item its distance from the
    reference; `distances` is None for the reference itself. `other_prompts`: of how many items its chat template makes
    other tokens than the reference's."""

    label: str
    bundle: Bundle
    answers: Mapping[int, Sequence[Answer]]
    distances: Sequence[LogitDistance] | None
    other_prompts: int = 0
