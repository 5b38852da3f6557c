"""Results of a few answers by hand, and results to be compared."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.record.results import Results, Run

TWO = (Arm("slow", "a.litertlm", "off"), Arm("fast", "a.litertlm", 3))


def by_hand(answers: Sequence[Answer], arms: Sequence[Arm] = TWO, turns: int = 1, samples: Any = ()) -> Results:
    run = Run("bench", "edge-mtp bench", "", {}, list(arms), arms[0].label, {}, {}, "by hand", {})
    ids = dict.fromkeys(answer.item for answer in answers)
    items = {name: Item(name, "chat", name, [Turn([{"role": "user", "content": "?"}])] * turns) for name in ids}
    return Results(run, items, list(answers), list(samples))


def answer(arm: str, item: str = "a", turn: int = 0, round: int = 0, **figures: Any) -> Answer:
    values: dict[str, Any] = {"at_s": 0.0, "text": "", "finish": "stop", "count": 5, "first_token_us": 100.0}
    return Answer(arm, item, turn, round, **{**values, "total_us": 500.0, **figures})


def shuffled(results: Results, seed: int) -> Results:
    """The same results with their records in another order."""
    order = random.Random(seed)
    return dataclasses.replace(
        results,
        answers=order.sample(results.answers, len(results.answers)),
        samples=order.sample(results.samples, len(results.samples)),
    )


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a dataclass by their path, so that they can be compared approximately."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)  # type: ignore[arg-type]
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in parts for path, leaf in flat(part, f"{name}/{key}").items()}
    return {name: value}
