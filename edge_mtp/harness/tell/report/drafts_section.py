"""The section on drafts: how many were accepted, and one reply step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from edge_mtp.harness.analyse.latency import Latency
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.facts import Facts
from edge_mtp.harness.tell.report.svg import Chart
from edge_mtp.harness.tell.report.time_line import Lane, draw_time_line, told

MOST_STEPS = 40  # of a time line


class TimeLine(NamedTuple):
    """A reply step by step: drawn, what it answers, and each lane's steps in words."""

    chart: Chart
    prompt: str
    steps: dict[str, list[str]]


class DraftsSection:
    """Acceptance by position, drafts asked for, and a time line."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @cached_property
    def acceptance_charts(self) -> list[Chart]:
        """Of all workloads together, then of each."""
        drafting = [each for each in self.facts.analysis.latencies if each.acceptance]
        kinds = list(dict.fromkeys(each.kind for each in drafting))
        found = []
        for number, kind in enumerate(kinds):
            series = [
                (each.arm, self.facts.indices[each.arm], each.acceptance) for each in drafting if each.kind == kind
            ]
            title = "All workloads" if kind is None else kind
            found.append(charts.acceptance(f"{self.facts.key}acceptance-{number}", title, series))
        return found[1:] if len(found) == 2 and kinds[0] is None else found

    @cached_property
    def drafting(self) -> list[Latency]:
        return [each for each in self.facts.latencies if each.acceptance or each.sources]

    @property
    def positions(self) -> range:
        """Of drafts, from 1."""
        return range(1, max((len(each.acceptance) for each in self.drafting), default=0) + 1)

    @property
    def draft_sources(self) -> list[str]:
        return list(dict.fromkeys(source for each in self.drafting for source in each.sources))

    @cached_property
    def planned_chart(self) -> Chart | None:
        rows = [(each.arm, each.planned) for each in self.facts.latencies if any(each.planned) and each.planned]
        return charts.planned(f"{self.facts.key}planned", "Drafts asked for", rows) if rows else None

    @cached_property
    def time_line(self) -> TimeLine | None:
        """One reply under an arm that drafts and under its siblings."""
        chosen = _telling(itertools.chain.from_iterable(self.facts.answers.values()))
        if chosen is None:
            return None
        arm = self.facts.analysis.run.arm(chosen.arm)
        is_cut = len(chosen.steps) > MOST_STEPS
        until_us = sum(step.total_us for step in chosen.steps[:MOST_STEPS]) if is_cut else math.inf
        lanes = []
        for other in self.facts.analysis.run.arms:
            if other.is_sibling(arm):
                where = (chosen.item, chosen.turn, chosen.round)
                answer = next(
                    (a for a in self.facts.answers[other.label] if (a.item, a.turn, a.round) == where and a.steps), None
                )
                if answer is not None:
                    lanes.append(Lane(other.label, _begun(answer, until_us)))
        item = self.facts.results.items[chosen.item]
        cut = f", the first {MOST_STEPS} steps" if is_cut else ""
        title = f"One reply ({item.kind}), step by step{cut}"
        drawn = draw_time_line(f"{self.facts.key}time-line", title, lanes)
        return TimeLine(drawn, self.facts.asked(chosen.item, chosen.turn), {lane.label: told(lane) for lane in lanes})


def _telling(answers: Iterable[Answer]) -> Answer | None:
    """The answer whose steps show most: some drafts accepted, some rejected, more than one source, a page's width."""

    def worth(answer: Answer) -> float:
        accepted, drafted = sum(s.accepted for s in answer.steps), sum(len(s.source) for s in answer.steps)
        sources = len(set("".join(step.source for step in answer.steps)))
        mixed = min(accepted, 3 * (drafted - accepted)) / drafted
        return mixed + 0.2 * sources + 0.5 * (answer.call_us is not None) - abs(len(answer.steps) - 14) / 14

    return max((answer for answer in answers if any(step.source for step in answer.steps)), key=worth, default=None)


def _begun(answer: Answer, until_us: float) -> Answer:
    """The answer with the steps that began before a time since the prompt was read."""
    begins = itertools.accumulate((step.total_us for step in answer.steps), initial=0.0)
    return replace(answer, steps=[step for step, at in zip(answer.steps, begins, strict=False) if at < until_us])
