"""What a right reply to a prompt with tools is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_mtp.tool_calls import Value


@dataclass(frozen=True)
class GoldCall:
    """A right call: for each argument the values that are right, at least one; `optional` ones may be left out."""

    name: str
    arguments: Mapping[str, Sequence[Value]]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gold:
    """The calls that a right reply makes, each once; none where text is right and a call is wrong.

    Parallel calls have no order between them unless `ordered`.
    """

    calls: tuple[GoldCall, ...] = ()
    ordered: bool = False
