"""The figures of generated texts, from their traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from edge_mtp.device import Outcome, Step
from edge_mtp.formats.drafting import SOURCE_OF_LETTER


@dataclass(frozen=True)
class Drafted:
    """Draft tokens of one source: how many were verified, and how many of them accepted."""

    verified: int
    accepted: int


@dataclass(frozen=True)
class Summary:
    """Speed and acceptance of one text, or of several in a row. None where the text is too short to tell.

    `time_to_first_token_s`: prefill and the first step, the mean over the texts. `tokens_per_s`: decoding alone, that
    is the tokens after each text's first over the time of their steps. `tokens_per_verify`: the mean number of tokens
    that a verify step gave out. `acceptance[j]`: a verify step reaches draft j if it accepted all drafts before; this
    is the share of those steps that accepted j too, and `acceptance_counts[j]` is their number. `sources` counts the
    drafts by source. Drafts beyond a text's end do not count (`count_drafts`).

    Of the `prompt_tokens`, `reused_tokens` were in the cache already and `restored_tokens` were read from a kept
    prefix. `mask_ms`: mean time of a step for the masks of a grammar. `planned`: steps by the K that the controller (or
    a fixed K) asked of the drafter; in `explored` of them the controller wanted to learn the drafter's worth.
    `first_drafts` and `first_accepted` count the drafter's first drafts in all requests that the device remembers of
    the bundle, this text included (`Outcome`).
    """

    prompt_tokens: int
    reused_tokens: int
    restored_tokens: int
    tokens: int
    finish: str
    time_to_first_token_s: float
    tokens_per_s: float | None
    verify_steps: int
    tokens_per_verify: float | None
    acceptance: list[float]
    acceptance_counts: list[int]
    sources: dict[str, Drafted]
    mask_ms: float
    planned: dict[int, int]
    explored: int
    first_drafts: int
    first_accepted: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(steps: Sequence[Step], outcome: Outcome) -> Summary:
    """The summary of a request's trace: its `steps` in order and its `outcome`."""
    return summarize_all([(steps, outcome)])


def summarize_all(traces: Sequence[tuple[Sequence[Step], Outcome]]) -> Summary:
    """The summary of several traces, at least one; `finish` is the last one's."""
    outcomes = [outcome for _, outcome in traces]
    steps = [step for trace, _ in traces for step in trace]
    verifies = [step for step in steps if step.kind == "verify"]
    later = [step for trace, _ in traces for step in trace[1:]]
    later_us = sum(step.total_us for step in later)
    first_us = sum(outcome.prefill_us + sum(step.total_us for step in trace[:1]) for trace, outcome in traces)
    reached, accepted = acceptance_counts(verifies)
    return Summary(
        prompt_tokens=sum(o.prompt_tokens for o in outcomes),
        reused_tokens=sum(o.reused_tokens for o in outcomes),
        restored_tokens=sum(o.restored_tokens for o in outcomes),
        tokens=sum(o.tokens for o in outcomes),
        finish=outcomes[-1].finish,
        time_to_first_token_s=first_us / len(traces) / 1e6,
        tokens_per_s=sum(len(step.tokens) for step in later) / later_us * 1e6 if later_us else None,
        verify_steps=len(verifies),
        tokens_per_verify=sum(len(s.tokens) for s in verifies) / len(verifies) if verifies else None,
        acceptance=[a / r for a, r in zip(accepted, reached, strict=True)],
        acceptance_counts=reached,
        sources=count_by_source((len(step.tokens), step.source, step.accepted) for step in verifies),
        mask_ms=sum(step.mask_us for step in steps) / len(steps) / 1e3 if steps else 0.0,
        planned=dict(sorted(Counter(step.planned for step in steps).items())),
        explored=sum(step.explore for step in steps),
        first_drafts=outcomes[-1].first_drafts,
        first_accepted=outcomes[-1].first_accepted,
    )


class DraftCounts(NamedTuple):
    """How many leading drafts of a verify step count as `verified`, as `reached` (all drafts before were accepted), and
    as `accepted`."""

    verified: int
    reached: int
    accepted: int


def count_drafts(given: int, drafts: int, accepted: int) -> DraftCounts:
    """The drafts that count, of a step that verified `drafts`, accepted `accepted` of them and gave out `given` tokens.

    If the text ends inside the step, drafts beyond its end are neither right nor wrong, and do not count. Otherwise the
    step's last token is the target's own, and judges the draft at the same place.
    """
    is_cut = given <= accepted
    return DraftCounts(given if is_cut else drafts, min(given, drafts), min(given, accepted))


def count_by_source(steps: Iterable[tuple[int, str, int]]) -> dict[str, Drafted]:
    """The drafts that count, by source. `steps`: of each verify step the number of tokens given out, the letters of its
    drafts' sources, and the number of accepted drafts."""
    verified: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for given, source, accepted in steps:
        counts = count_drafts(given, len(source), accepted)
        verified.update(source[: counts.verified])
        right.update(source[: counts.accepted])
    return {name: Drafted(verified[key], right[key]) for key, name in SOURCE_OF_LETTER.items() if verified[key]}


def acceptance_counts(steps: Sequence[Step]) -> tuple[list[int], list[int]]:
    """Per draft position j: verify steps that reached it, and those that accepted it."""
    counts = [count_drafts(len(step.tokens), len(step.draft), step.accepted) for step in steps]
    shown = max((each.reached for each in counts), default=0)
    reached = [sum(each.reached > j for each in counts) for j in range(shown)]
    return reached, [sum(each.accepted > j for each in counts) for j in range(shown)]
