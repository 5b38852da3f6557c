"""The section on speed: how fast each arm is, against the others and by prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from edge_mtp.harness.analyse.latency import Latency
from edge_mtp.harness.analyse.speed_up import ItemSpeed, SpeedUp
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.tell.headline import main_speed_ups
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.facts import Facts
from edge_mtp.harness.tell.report.svg import Chart

MOST_PROMPTS = 20  # at either end of a table
MEASURES = {
    "decode": "decoding", "first_token": "first token", "first_answer": "first token of the answer",
    "call": "complete call", "total": "whole answer",
}  # fmt: skip
_ANSWER_TITLE = "Time to the first token of the answer, behind its thoughts"


class SpeedSection:
    """Speed-ups, and the times of tokens and answers."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @cached_property
    def workloads(self) -> list[Latency]:
        return [each for each in self.facts.analysis.latencies if each.kind is not None and each.answers]

    @cached_property
    def speed_pairs(self) -> dict[tuple[str, str], dict[str, SpeedUp]]:
        """By arm and base: each measure, over all workloads."""
        found: dict[tuple[str, str], dict[str, SpeedUp]] = {}
        for each in self.facts.analysis.speed_ups:
            if each.kind is None:
                found.setdefault((each.arm, each.base), {})[each.measure] = each
        return found

    @property
    def measures(self) -> list[str]:
        return [name for name in MEASURES if any(name in found for found in self.speed_pairs.values())]

    @cached_property
    def speed_ups_by_kind(self) -> list[SpeedUp]:
        return [each for each in self.facts.analysis.speed_ups if each.kind is not None]

    @cached_property
    def speed_chart(self) -> Chart | None:
        main = main_speed_ups(self.facts.analysis)
        groups = self.facts.against({pair: each.ratio for pair, each in main.items()})
        axis = charts.Axis("times as fast", reference=1.0, logarithmic=True, unit="x")
        title = "Speed-up"
        return charts.intervals(f"{self.facts.key}speed-up", title, groups, axis, is_named=True) if groups else None

    @cached_property
    def prompt_charts(self) -> list[tuple[Chart, SpeedUp]]:
        """Of the arms that draft against their plain siblings; of the others where there are none."""
        main = main_speed_ups(self.facts.analysis)
        siblings = [(each.arm, each.base) for each in self.facts.headlines if each.is_sibling]
        chosen = [main[pair] for pair in siblings if pair in main] or list(main.values())
        return [
            (charts.prompts(f"{self.facts.key}prompts-{number}", each), each)
            for number, each in enumerate(chosen, 1)
            if len(each.items) > 1
        ]

    def extremes(self, speed_up: SpeedUp) -> list[ItemSpeed]:
        """The prompts from the slowest; of many, only both ends."""
        ranked = sorted(speed_up.items, key=lambda each: each.ratio)
        return ranked if len(ranked) <= 2 * MOST_PROMPTS else ranked[:MOST_PROMPTS] + ranked[-MOST_PROMPTS:]

    @cached_property
    def spreads(self) -> list[Chart]:
        times: dict[str, tuple[str, Callable[[Answer], list[float]]]] = {
            "first-token": ("Time to first token", lambda answer: [answer.first_token_us]),
            **(
                {"first-answer": (_ANSWER_TITLE, lambda answer: [answer.first_answer_us or 0.0])}
                if self.facts.thinks
                else {}
            ),
            "call": ("Time to a complete tool call", lambda answer: [answer.call_us or 0.0]),
            "token": ("Time of a token", _token_times),
        }
        found = []
        for name, (title, of) in times.items():
            rows = []
            for label, index in self.facts.indices.items():
                answers = [answer for answer in self.facts.answers[label] if answer.is_complete]
                values = np.array([us for answer in answers for us in of(answer) if us > 0]) / 1000
                if len(values):
                    rows.append(charts.Row(label, index, values))
            if rows:
                found.append(charts.spread(f"{self.facts.key}{name}", title, rows))
        return found


def _token_times(answer: Answer) -> list[float]:
    return [step.total_us / step.tokens for step in answer.steps for _ in range(step.tokens)]
