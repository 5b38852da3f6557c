"""The figures of one generated text, from its trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_mtp.device import Outcome, Step


@dataclass(frozen=True)
class Summary:
    """Speed and acceptance of one text. None where the text was too short to tell.

    `time_to_first_token_s`: prefill and the first step. `tokens_per_s`: decoding alone, the tokens after the first
    over the time of their steps. `tokens_per_verify`: mean of accepted drafts + 1 over verify steps.
    `acceptance[j]`: of the verify steps whose drafts before j were all accepted, the share that accepted draft j
    too, and `acceptance_counts[j]` those steps' number.
    """

    prompt_tokens: int
    tokens: int
    finish: str
    time_to_first_token_s: float
    tokens_per_s: float | None
    verify_steps: int
    tokens_per_verify: float | None
    acceptance: list[float]
    acceptance_counts: list[int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(steps: Sequence[Step], outcome: Outcome) -> Summary:
    """The summary of a request's trace: its `steps` in order (at least one) and its `outcome`."""
    verifies = [step for step in steps if step.kind == "verify"]
    later_us = sum(step.total_us for step in steps[1:])
    later_tokens = sum(len(step.tokens) for step in steps[1:])
    reached, accepted = acceptance_counts(verifies)
    return Summary(
        prompt_tokens=outcome.prompt_tokens,
        tokens=outcome.tokens,
        finish=outcome.finish,
        time_to_first_token_s=(outcome.prefill_us + steps[0].total_us) / 1e6 if steps else 0.0,
        tokens_per_s=later_tokens / later_us * 1e6 if later_us else None,
        verify_steps=len(verifies),
        tokens_per_verify=sum(s.accepted + 1 for s in verifies) / len(verifies) if verifies else None,
        acceptance=[a / r for a, r in zip(accepted, reached, strict=True)],
        acceptance_counts=reached,
    )


def acceptance_counts(steps: Sequence[Step]) -> tuple[list[int], list[int]]:
    """Per draft position j: steps that reached it (drafted it, all before accepted), and those that accepted it."""
    width = max((len(step.draft) for step in steps), default=0)
    reached = [sum(len(s.draft) > j and s.accepted >= j for s in steps) for j in range(width)]
    accepted = [sum(s.accepted > j for s in steps) for j in range(width)]
    shown = sum(r > 0 for r in reached)
    return reached[:shown], accepted[:shown]
