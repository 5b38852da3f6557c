"""Tool calls of the arms of one run, each alone and in pairs on the same items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_mtp.harness.results import Results
from edge_mtp.harness.score import Score
from edge_mtp.harness.statistics import Estimate

MARGIN = 0.01  # a loss of exact calls that is called none
ALPHA = 0.05


@dataclass(frozen=True)
class Errors:
    """How often a label is the first thing wrong, and how often it is wrong at all."""

    label: str
    primary: int
    all: int
    share: Estimate  # of items, by primary label


@dataclass(frozen=True)
class ArmCalls:
    """One arm: of `items`, those that are right (strictly parsed) and right to a forgiving parser."""

    arm: str
    items: int
    right: int
    lenient: int
    exact: Estimate
    lenient_share: Estimate
    kinds: dict[str, tuple[int, int, Estimate]]  # by item kind: right, items, share
    errors: list[Errors]


@dataclass(frozen=True)
class Parting:
    """The first token where the replies of two arms to one item part.

    `token_class` as `numerics.token_kind` names them. `margins`: of the token in each arm, its logit less the
    runner-up's; None where not known. `texts` whole, `chosen` the tokens' texts ("" where the arm had ended).
    `primary`: each arm's primary label, None for right.
    """

    item: str
    turn: int
    index: int
    token_class: str | None
    margins: tuple[float | None, float | None]
    chosen: tuple[str, str]
    texts: tuple[str, str]
    primary: tuple[str | None, str | None]


@dataclass(frozen=True)
class Comparison:
    """An arm against a base arm on the same items.

    `partings` come first: where texts are equal nothing else can differ. `lost` items are right in the base alone,
    `gained` in the arm alone. `p_value` is McNemar's, exact; `p_adjusted` Holm's over the comparisons of the run.
    `difference` is the arm's share of right items less the base's, with an interval over clusters; `non_inferior`
    whether its whole interval lies above a loss of `MARGIN`. `needed` is about how many items would settle it with 80 %
    power, None where it is settled. `verdict`: same, better, worse or not enough data; `explanation` in a sentence.
    """

    arm: str
    base: str
    items: int
    partings: list[Parting]
    cause: str | None  # of the partings: numerics, accept or rollback, or None where it does not apply
    lost: int
    gained: int
    p_value: float
    p_adjusted: float
    difference: Estimate
    non_inferior: bool
    needed: int | None
    verdict: str
    explanation: str


def score_all(results: Results) -> dict[str, dict[str, Score]]:
    """By arm and item: the score of its first wrong turn, or of a right last one. Items without gold are left out, and
    those that an arm has not answered."""
    raise NotImplementedError


def arm_calls(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[ArmCalls]:
    """Every arm on the items that it answered."""
    raise NotImplementedError


def comparisons(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[Comparison]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline, on the items that both
    answered."""
    raise NotImplementedError
