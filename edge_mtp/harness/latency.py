"""How fast each arm answered, and what its drafts did."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mtp.harness.results import Results
from edge_mtp.harness.statistics import Estimate


@dataclass(frozen=True)
class Distribution:
    """Quantiles of a time in milliseconds, over `count` of them."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class DraftPosition:
    """Drafts at one position, from 1: of the steps that reached it, the share that accepted it too."""

    position: int
    reached: int
    accepted: int
    share: Estimate


@dataclass(frozen=True)
class Latency:
    """The answers of one arm to the items of one kind, or of all (`kind` None); failed answers are not in it.

    `token` is per token: a step's time over the tokens that it gave out, each counted. `call` is the time to the token
    that closes the first tool call. `prefill_tokens_per_s` and `decode_tokens_per_s` are sums over sums, with intervals
    over items. `planned`: share of steps by the K asked of the drafter. Energy is None unless the battery could tell,
    `energy_note` says why. None elsewhere: too little to tell, or the engine does not tell.
    """

    arm: str
    kind: str | None
    answers: int
    failed: int
    tokens: int
    first_token: Distribution | None
    call: Distribution | None
    token: Distribution | None
    prefill_tokens_per_s: Estimate | None
    decode_tokens_per_s: Estimate | None
    tokens_per_verify: Estimate | None
    acceptance: list[DraftPosition]
    sources: dict[str, tuple[int, int]]  # verified and accepted drafts, by where they came from
    planned: dict[int, float]
    peak_rss_bytes: int | None
    peak_anonymous_bytes: int | None
    energy_mj_per_token: float | None
    energy_note: str


@dataclass(frozen=True)
class ItemSpeed:
    """One item: its time under the base arm over that under the arm (above 1: the arm is faster)."""

    item: str
    kind: str
    ratio: float


@dataclass(frozen=True)
class SpeedUp:
    """An arm against another on the same items: how many times as fast.

    `measure`: decode (time per token after the first), first_token, call (time to a complete tool call) or total.
    `ratio`: the median over items of each item's median over rounds of paired ratios, taken on logarithms, with a
    bootstrap interval over items. `slower`: share of items that the arm is slower on. `verdict` in words.
    """

    arm: str
    base: str
    kind: str | None
    measure: str
    ratio: Estimate
    items: list[ItemSpeed]
    slower: Estimate
    verdict: str


def latencies(results: Results) -> list[Latency]:
    """For each arm over all kinds, then for each kind; in the order of arms and of first appearance."""
    raise NotImplementedError


def speed_ups(results: Results) -> list[SpeedUp]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline; each measure over all
    kinds and, for decode, by kind."""
    raise NotImplementedError
