"""An item: one conversation to be answered, of a workload or of a tool-call suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.chat import Message
from edge_mtp.harness.gold import Gold


@dataclass(frozen=True)
class Turn:
    """One reply that is asked for: `messages` come before it (a user's, or scripted tool responses); `gold` is what a
    right reply does, None where nobody knows."""

    messages: Sequence[Message]
    gold: Gold | None = None


@dataclass(frozen=True)
class Item:
    """A conversation in turns; between them stand the model's own replies.

    `kind` is its class in tables: single, parallel, no_call, ... or the workload's: chat, summarise, ... Items of one
    `cluster` (a template) are not independent of one another. `max_tokens` bounds each reply; None: the run's does.
    """

    id: str
    kind: str
    cluster: str
    turns: Sequence[Turn]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The form of a line of a suite file (docs/suites.md)."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """Raises EdgeMtpError for what is no item, naming the part that is wrong."""
        raise NotImplementedError
