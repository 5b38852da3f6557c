"""The section on tool calls: what is right, what goes wrong, and where the replies of two arms part."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from edge_mtp.harness.analyse.calls import ArmCalls, Errors
from edge_mtp.harness.analyse.paired_calls import MARGIN
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.analyse.partings import Parting
from edge_mtp.harness.score.score import LABELS, LEVELS, Score
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.headline import is_identical
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.facts import Facts
from edge_mtp.harness.tell.report.svg import Chart, Key, arm_marker, arm_role

MOST_PARTINGS = 12  # of a comparison, with texts
MOST_WRONG = 25  # of an arm, with texts
MOST_TEXT = 3000  # letters of a text


class Piece(NamedTuple):
    """Part of a text; whether the other text has something else there."""

    text: str
    is_different: bool


class PartingView(NamedTuple):
    """A parting as it is shown: what was asked, and both texts cut where they differ."""

    parting: Parting
    kind: str
    prompt: str
    base: list[Piece]
    arm: list[Piece]


class Wrong(NamedTuple):
    """An item that an arm got wrong: what was asked, what it said, and what is wrong with that."""

    item: str
    kind: str
    prompt: str
    text: str
    score: Score


class CallsSection:
    """Exact calls, errors by class, comparisons and wrong replies."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @property
    def own_calls(self) -> list[ArmCalls]:
        """Without the arms that only repeat what others say: charts would show the same again and again."""
        return [each for each in self.facts.analysis.calls if each.echoes is None]

    @property
    def echoes(self) -> list[ArmCalls]:
        return [each for each in self.facts.analysis.calls if each.echoes is not None]

    @cached_property
    def exact_charts(self) -> list[Chart]:
        calls = self.own_calls
        if not calls:
            return []
        axis = charts.Axis("% of items with exactly the right calls", unit="%")
        groups = {
            "": [charts.Interval(each.arm, self.facts.indices[each.arm], each.exact.scaled(100)) for each in calls],
        }
        found = [charts.intervals(f"{self.facts.key}exact", "Exact calls", groups, axis, is_named=True)]
        kinds = self.kinds
        if len(kinds) > 1:
            groups = {
                kind: [
                    charts.Interval(each.arm, self.facts.indices[each.arm], each.kinds[kind][2].scaled(100))
                    for each in calls
                    if kind in each.kinds
                ]
                for kind in kinds
            }
            title = "Exact calls by kind"
            found.append(charts.intervals(f"{self.facts.key}kinds", title, groups, axis._replace(ends=(0, 100))))
        return found

    @cached_property
    def labels(self) -> list[str]:
        """The errors that occur, in the order of their levels."""
        seen = {each.label for calls in self.facts.analysis.calls for each in calls.errors if each.primary or each.all}
        return [label for label in LABELS if label in seen]

    @cached_property
    def error_chart(self) -> Chart | None:
        groups = {
            label: [
                charts.Interval(calls.arm, self.facts.indices[calls.arm], each.share.scaled(100))
                for calls in self.own_calls
                for each in calls.errors
                if each.label == label and each.primary
            ]
            for label in self.labels
        }
        groups = {label: members for label, members in groups.items() if members}
        if not groups:
            return None
        ends = (0.0, max(min(each.estimate.high, 100.0) for members in groups.values() for each in members) * 1.05)
        axis = charts.Axis("% of items, by what goes wrong first", ends=ends, unit="%")
        keys = tuple(Key(arm_role(i), label, arm_marker(i)) for label, i in self.facts.indices.items())
        return replace(charts.intervals(f"{self.facts.key}errors", "Errors by class", groups, axis), keys=keys)

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for each in self.facts.analysis.calls for kind in each.kinds))

    def error(self, calls: ArmCalls, label: str) -> Errors | None:
        return next((each for each in calls.errors if each.label == label), None)

    @property
    def levels(self) -> dict[str, str]:
        return {label: level for level, labels in LEVELS.items() for label in labels}

    @cached_property
    def difference_chart(self) -> Chart | None:
        groups = self.facts.against(
            {
                (each.arm, each.base): Estimate(0.0, 0.0, 0.0) if is_identical(each) else each.difference.scaled(100)
                for each in self.facts.analysis.comparisons
            }
        )
        axis = charts.Axis("points of exact calls, lost or gained", reference=0.0, limit=-100 * MARGIN)
        title = "Exact calls, compared"
        return charts.intervals(f"{self.facts.key}difference", title, groups, axis, is_named=True) if groups else None

    @property
    def call_charts(self) -> list[Chart]:
        exact, *kinds = self.exact_charts
        return [chart for chart in (exact, self.difference_chart, *kinds, self.error_chart) if chart is not None]

    def partings(self, comparison: Comparison) -> list[PartingView]:
        """Those that made a right item wrong or a wrong one right first."""
        ranked = sorted(comparison.partings, key=lambda each: (each.primary[0] is None) == (each.primary[1] is None))
        found = []
        for each in ranked[:MOST_PARTINGS]:
            arm, base = differences(each.texts[0][:MOST_TEXT], each.texts[1][:MOST_TEXT])
            item = self.facts.results.items.get(each.item)
            kind = item.kind if item else ""
            found.append(PartingView(each, kind, self.facts.asked(each.item, each.turn), base, arm))
        return found

    def wrong(self, arm: str) -> list[Wrong]:
        """Some of what an arm got wrong, and the last it said to that: after a wrong turn no other is asked."""
        last = {answer.item: answer for answer in self.facts.answers[arm]}
        found: list[Wrong] = []
        for item, score in self.facts.analysis.scores.get(arm, {}).items():
            if not score.is_right and len(found) < MOST_WRONG:
                answer = last[item]
                text = (answer.error or answer.whole)[:MOST_TEXT]
                found.append(
                    Wrong(item, self.facts.results.items[item].kind, self.facts.asked(item, answer.turn), text, score)
                )
        return found


def differences(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Two texts cut into pieces where they differ, by words, numbers and marks."""
    a, b = (re.findall(r"<\|?\w+\|?>|<\|\"\|>|\w+|\s+|[^\w\s]", text) for text in (one, other))
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for into, text in zip(pieces, ("".join(a[a0:a1]), "".join(b[b0:b1])), strict=True):
            if text:
                into.append(Piece(text, tag != "equal"))
    return pieces
