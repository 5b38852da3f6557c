"""What the sections of a results file have in common on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from markupsafe import Markup

from edge_mtp.harness.analyse.analysis import Analysis
from edge_mtp.harness.analyse.latency import Latency
from edge_mtp.harness.analyse.replies import last_answers
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.headline import Headline, headlines
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.svg import SHAPES, arm_marker, arm_role


@dataclass(frozen=True)
class Source:
    """A results file's name and what it says."""

    name: str
    results: Results
    analysis: Analysis


@dataclass
class Facts:
    """What all sections of one results file know. `key` begins its ids, so that several files can share a page."""

    source: Source
    key: str
    results: Results = field(init=False)
    analysis: Analysis = field(init=False)

    def __post_init__(self) -> None:
        self.results, self.analysis = self.source.results, self.source.analysis

    @cached_property
    def headlines(self) -> list[Headline]:
        return headlines(self.analysis)

    @cached_property
    def answers(self) -> dict[str, list[Answer]]:
        """By arm."""
        found: dict[str, list[Answer]] = {label: [] for label in self.indices}
        for answer in last_answers(self.results.answers):
            found[answer.arm].append(answer)
        return found

    @cached_property
    def indices(self) -> dict[str, int]:
        return {arm.label: index for index, arm in enumerate(self.analysis.run.arms)}

    def mark(self, label: str) -> Markup:
        """An arm's mark, as the charts have it."""
        index = self.indices[label]
        shape = SHAPES[arm_marker(index)]
        return Markup(
            f'<svg class="mark" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">'
            f'<path d="{shape}" style="fill: var(--{arm_role(index)})"/></svg>'
        )

    @cached_property
    def latencies(self) -> list[Latency]:
        return [each for each in self.analysis.latencies if each.kind is None and (each.answers or each.failed)]

    @property
    def thinks(self) -> bool:
        """Whether an arm had thoughts: the first token is then not the first of the answer."""
        return any(each.thoughts for each in self.latencies)

    def against(self, pairs: Mapping[tuple[str, str], Estimate]) -> dict[str, list[charts.Interval]]:
        """Pairs of arm and base in groups of one base, siblings' first."""
        siblings = {(each.arm, each.base) for each in self.headlines if each.is_sibling}
        found: dict[str, list[charts.Interval]] = {}
        for arm, base in sorted(pairs, key=lambda pair: pair not in siblings):
            found.setdefault(f"against {base}", []).append(charts.Interval(arm, self.indices[arm], pairs[arm, base]))
        return found

    def asked(self, item: str, turn: int) -> str:
        """The last message before a reply."""
        if item not in self.results.items or turn >= len(self.results.items[item].turns):
            return ""
        messages = self.results.items[item].turns[turn].messages
        content = messages[-1].get("content", "") if messages else ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return text if len(text) <= 400 else f"{text[:399]}…"
