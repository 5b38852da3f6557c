"""What is wrong with a reply to a prompt with tools: the labels of its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.harness.gold import Gold
from edge_mtp.harness.results import Finish

# Levels from the first to go wrong to the last, with their labels. The primary label is the first that applies.
LEVELS: dict[str, tuple[str, ...]] = {
    "harness": ("crash", "timeout", "oom", "refused"),
    "emission": ("no_call", "spurious_call", "truncated", "degenerate_loop", "channel_leak"),
    "syntax": ("unclosed", "bad_delimiter", "bad_key", "wrong_quote"),
    "schema": (
        "unknown_tool", "wrong_tool", "missing_required", "extra_argument", "duplicate_key", "wrong_type",
        "enum_violation",
    ),
    "value": ("digit_corruption", "copy_error", "other_value"),
    "set": ("count", "order", "merged"),
    "turn": ("earlier_turn",),
}  # fmt: skip
LABELS = tuple(label for labels in LEVELS.values() for label in labels)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its label, and the text that shows it (empty where it is about what is missing)."""

    label: str
    text: str


@dataclass(frozen=True)
class Score:
    """A reply held against its gold. `findings` in the order of `LEVELS`; none for a right reply.

    `lenient`: whether the calls that a forgiving parser reads are right, whatever `findings` say of their syntax.
    """

    findings: tuple[Finding, ...]
    lenient: bool

    @property
    def is_right(self) -> bool:
        return not self.findings

    @property
    def primary(self) -> str | None:
        return self.findings[0].label if self.findings else None


def score(
    text: str, finish: Finish, error: str | None, gold: Gold, tools: Sequence[Mapping[str, Any]], prompt: str = ""
) -> Score:
    """Holds a reply against what is right. `prompt` is what the values of arguments may be copied from."""
    raise NotImplementedError
