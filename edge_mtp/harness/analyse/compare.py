"""A result held against another, or the arms of one run against their plain siblings; and rules on what that gives.

Answers to the same items are paired: the two arms are put into one run of their own, so that every statistic is that
of one run. What a summary alone tells, and what cannot be paired, is compared as unrelated estimates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import NO_SPEED, Analysis, analyse, refusal
from edge_mtp.harness.analyse.analysis_file import read_summary
from edge_mtp.harness.analyse.metrics import METRICS, Metric, Place, comparison_of, latency_of, sibling_of, speed_up_of
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.analyse.rules import Rule, Verdict
from edge_mtp.harness.analyse.times import times
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results, Run, read_results
from edge_mtp.harness.stats.changes import Figure, correlation, difference, less_one, negated, quotient, reciprocal
from edge_mtp.harness.stats.quantiles import quantile_change
from edge_mtp.harness.stats.ratios import median_ratio
from edge_mtp.harness.stats.statistics import Estimate

SCHEMA = 1
# What the table of a pair shows, where it was measured.
TABLE = (
    "speed", "decode", "prefill", "first_token", "first_token.p95", "first_answer", "call", "token.p95", "speedup",
    "acceptance[1]", "tokens_per_verify", "memory.rss", "failed", "toolcall.exact", "toolcall.lenient", "same_text",
    "changed_text",
)  # fmt: skip


class Side:
    """A result: its analysis, and the records that it was made from, None where only a summary is there."""

    def __init__(self, name: str, of: Results | Analysis) -> None:
        """Results are analysed when first asked for."""
        self.name = name
        self.run: Run = of.run
        self.results = of if isinstance(of, Results) else None
        self._analyses: dict[str | None, Analysis] = {None: of} if isinstance(of, Analysis) else {}

    @property
    def labels(self) -> list[str]:
        return [arm.label for arm in self.run.arms]

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """The arms that refused all that they were asked, and why."""
        return self._analyses[None].refused if self.results is None else self.results.refused

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of items, in the order of first appearance."""
        if self.results is not None:
            return list(dict.fromkeys(item.kind for item in self.results.items.values()))
        analysis = self._analyses[None]
        kinds = [each.kind for each in analysis.latencies if each.kind is not None]
        return list(dict.fromkeys([*kinds, *(kind for calls in analysis.calls for kind in calls.kinds)]))

    def place(self, arm: str, base: str | None = None, kind: str | None = None, position: int | None = None) -> Place:
        """Where to look for a figure. Of one kind: the analysis of its items alone, or what a summary has of it."""
        if self.results is None:
            return Place(self._analyses[None], None, arm, base, kind, position)
        results = self.results
        if kind is not None:
            results = restricted(results, {name for name, item in results.items.items() if item.kind == kind})
        if kind not in self._analyses:
            self._analyses[kind] = analyse(results)
        return Place(self._analyses[kind], results, arm, base, None, position)


class Pair(NamedTuple):
    """Labels of the arms that are held against each other: `a` in A, `b` in B."""

    a: str
    b: str


@dataclass(frozen=True)
class Row:
    """A metric of a pair. `change`: B less A, in the metric's unit, or as a fraction of A where `is_relative`; for a
    metric that is itself of A and B, its figure. `better` is None where that cannot be told."""

    metric: str
    a: Figure | None
    b: Figure | None
    change: Figure | None
    is_relative: bool
    better: bool | None


@dataclass(frozen=True)
class Judgement:
    """A rule held against one arm of B: the figure, in the unit of the rule's threshold, and what it says."""

    arm: str
    figure: Figure
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """A rule held against every arm that it is about, at least one."""

    rule: Rule
    judgements: list[Judgement]

    @property
    def verdict(self) -> Verdict:
        """It holds where it holds for one arm, and cannot be told where it cannot for one and holds for none."""
        verdicts = {each.verdict for each in self.judgements}
        of_all = (Verdict.HOLDS, Verdict.CANNOT_TELL, Verdict.DOES_NOT_HOLD)
        return next(verdict for verdict in of_all if verdict in verdicts)


def read_side(path: str | Path) -> Side:
    """A results file, or the summary of one. Raises EdgeMtpError for what is neither."""
    name = str(path)
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline()
    except OSError as error:
        raise EdgeMtpError(
            f"cannot read '{path}': {error.strerror}; give a file that bench, eval or report wrote"
        ) from None
    try:
        value = json.loads(first)
        is_record = isinstance(value, dict) and "event" in value
    except (ValueError, RecursionError):
        is_record = False
    return Side(name, read_results(path) if is_record else read_summary(path))


def restricted(results: Results, items: set[str]) -> Results:
    """The results of these items alone."""
    kept = {name: item for name, item in results.items.items() if name in items}
    answers = [answer for answer in results.answers if answer.item in kept]
    return replace(results, items=kept, answers=answers)


class Versus:
    """B held against A. With one result both are it, and its drafting arms stand against their plain siblings."""

    def __init__(self, a: Side, b: Side, matched: Sequence[str] = ()) -> None:
        """`matched`: `A_LABEL=B_LABEL`, instead of the arms that have one label. Raises EdgeMtpError where no arm of A
        can be held against one of B."""
        self.a, self.b = a, b
        self.pairs = _matched(a, b, matched) if matched else self._natural_pairs()
        if not self.pairs and not self.is_one_run:
            raise EdgeMtpError(
                f"no arm of '{a.name}' ({_listed(a.labels)}) has the label of one of '{b.name}' "
                f"({_listed(b.labels)}); match them with --arm A_LABEL=B_LABEL"
            )
        self._common = self._shared()
        self._joined: dict[Pair, Side | None] = {}

    @property
    def is_one_run(self) -> bool:
        return self.a is self.b

    @property
    def is_paired(self) -> bool:
        """Whether answers to the same items can be paired."""
        return bool(self._common and self._common[0].results is not None)

    @property
    def measures_speed(self) -> bool:
        """Whether both can be compared in speed."""
        return self.a.run.measures_speed and self.b.run.measures_speed

    @cached_property
    def has_siblings(self) -> bool:
        """Whether B holds an arm and its plain sibling."""
        return any(self._sibling(self.b, arm) for arm in self.b.labels)

    # -- figures ----------------------------------------------------------------------------------------------------

    def own(self, side: Side, metric: Metric, arm: str, kind: str | None, position: int | None) -> Figure | None:
        """The figure of an arm itself, or against its plain sibling; None where it was not measured."""
        base = self._sibling(side, arm) if metric.scope == "sibling" else None
        if metric.scope == "pair" or (metric.scope == "sibling" and base is None):
            return None
        return metric.look(side.place(arm, base, kind, position))

    def between(self, metric: Metric, pair: Pair, kind: str | None) -> Figure | None:
        """The figure of B's arm against A's, of a metric that holds an arm against another."""
        joint = self._joint(pair)
        if joint is not None:
            return metric.look(joint.place(*self._names(pair), kind))
        inverted = {
            "speed": ("decode", False),
            "speed.first_token": ("first_token", True),
            "speed.first_answer": ("first_answer", True),
            "speed.call": ("call", True),
        }
        name, is_time = inverted.get(metric.name.replace("speedup", "speed"), (None, False))
        if name is None:
            return None
        a, b = (
            self.own(side, METRICS[name], arm, kind, None) for side, arm in zip((self.a, self.b), pair, strict=True)
        )
        return None if a is None or b is None else quotient(a, b) if is_time else quotient(b, a)

    def change(
        self, metric: Metric, pair: Pair, kind: str | None, position: int | None, is_relative: bool
    ) -> Figure | None:
        """From A to B: B less A in the metric's unit, or as a fraction of A. None where one was not measured, or A is
        0 and the change relative."""
        joint = self._joint(pair)
        if joint is not None and is_relative and metric.paired:
            found = speed_up_of(joint.place(*self._names(pair), kind), metric.paired)
            if found is not None:
                return less_one(found.ratio if metric.better == "higher" else reciprocal(found.ratio))
        if joint is not None and metric.name.startswith("toolcall."):
            said = comparison_of(joint.place(*self._names(pair), kind))
            if said is not None and not said.partings and said.lost == said.gained == 0:
                return Estimate(0.0, 0.0, 0.0)  # word for word the same
            if said is not None and not is_relative and metric.name in ("toolcall.exact", "toolcall.error"):
                return said.difference if metric.better == "higher" else negated(said.difference)
        a_side, b_side = self._common or (self.a, self.b)
        if is_relative and metric.name.startswith("speedup"):
            paired = self._speed_ups_paired(a_side, b_side, metric, pair, kind)
            if paired is not None:
                return less_one(paired)
        a = self.own(a_side, metric, pair.a, kind, position)
        b = self.own(b_side, metric, pair.b, kind, position)
        if a is None or b is None:
            return None
        if metric.quantile is not None and a_side.results is not None and b_side.results is not None:
            what, level = metric.quantile
            at = b_side.place(pair.b, None, kind), a_side.place(pair.a, None, kind)
            known = [times(place.results, place.arm, what) for place in at if place.results is not None]
            return quantile_change(known[0], known[1], level, is_relative=is_relative)
        related = 0.0
        if metric.parts is not None and self._common is not None:
            parts = [metric.parts(side.place(arm, None, kind)) for side, arm in ((b_side, pair.b), (a_side, pair.a))]
            related = correlation(*parts)
        if not is_relative:
            return difference(b, a, related)
        ratio = quotient(b, a, related)
        return None if ratio is None else less_one(ratio)

    def comparison(self, pair: Pair) -> Comparison | None:
        """What can be said of the tool calls of a pair, where its answers are paired."""
        joint = self._joint(pair)
        return None if joint is None else comparison_of(joint.place(*self._names(pair)))

    def rows(self, pair: Pair) -> list[Row]:
        """The main metrics that were measured on both sides, over what both sides answered."""
        a_side, b_side = self._common or (self.a, self.b)
        rows = []
        for name in TABLE:
            metric, position = METRICS[name.removesuffix("[1]")], 1 if name.endswith("[1]") else None
            if (metric.is_speed and not self.measures_speed) or (name == "first_answer" and not self._thinks(pair)):
                continue
            if metric.scope == "pair":
                if self.is_one_run and self._sibling(self.b, pair.b) == pair.a:
                    continue  # speedup and same_text say it
                figure = self.between(metric, pair, None)
                neutral = 1.0 if metric.name == "speed" else 0.0
                better = None if figure is None else _is_better(_less(figure, neutral), metric)
                row = Row(name, None, None, figure, False, better)
            else:
                a = self.own(a_side, metric, pair.a, None, position)
                b = self.own(b_side, metric, pair.b, None, position)
                is_relative = metric.quantity.name != "share"
                change = self.change(metric, pair, None, position, is_relative)
                better = None if change is None else _is_better(change, metric)
                row = Row(name, a, b, change, is_relative, better)
            if row.change is not None or row.a is not None or row.b is not None:
                rows.append(row)
        return rows

    def _thinks(self, pair: Pair) -> bool:
        """Whether one of the two had thoughts: without any the first token is the answer's."""
        told = (latency_of(side.place(arm)) for side, arm in zip((self.a, self.b), pair, strict=True))
        return any(each is not None and each.thoughts for each in told)

    # -- rules ------------------------------------------------------------------------------------------------------

    def judge(self, rule: Rule) -> Judged:
        """Raises EdgeMtpError where the rule is about an arm, a kind or a figure that is not there: a rule that never
        can hold is no check."""
        self._check(rule)
        figures: dict[str, Figure] = {}
        for arm, find in self._subjects(rule).items():
            figure = find()
            if figure is not None:
                figures[arm] = figure
        if not figures:
            whom = f" of arm '{rule.arm}'" if rule.arm is not None else ""
            raise EdgeMtpError(f"rule '{rule}': {rule.name}{whom} {self._reason(rule)}; drop the rule")
        return Judged(rule, [Judgement(arm, figure, rule.judge(figure)) for arm, figure in figures.items()])

    def _subjects(self, rule: Rule) -> dict[str, Callable[[], Figure | None]]:
        """The arms of B that a rule is about, and how to find what it asks of each."""
        metric, pairs = rule.of, [pair for pair in self.pairs if rule.arm in (None, pair.b)]
        if metric.scope == "pair" or self._falls_back(metric):
            return {pair.b: partial(self.between, metric, pair, rule.kind) for pair in pairs}
        if rule.is_change:
            how = (rule.kind, rule.position, rule.is_relative)
            return {pair.b: partial(self.change, metric, pair, *how) for pair in pairs}
        arms = [arm for arm in self.b.labels if rule.arm in (None, arm)]
        return {arm: partial(self.own, self.b, metric, arm, rule.kind, rule.position) for arm in arms}

    def _falls_back(self, metric: Metric) -> bool:
        """Whether A's arm stands in for plain siblings, of which B has none."""
        return metric.scope == "sibling" and not self.is_one_run and not self.has_siblings

    def _check(self, rule: Rule) -> None:
        if rule.arm is not None and rule.arm not in self.b.labels:
            raise EdgeMtpError(
                f"rule '{rule}': '{self.b.name}' has no arm '{rule.arm}'; its arms are {_listed(self.b.labels)}"
            )
        for arm, reason in self.b.refused.items():
            if rule.arm in (None, arm):
                raise EdgeMtpError(
                    f"rule '{rule}': arm '{arm}' of '{self.b.name}' refused everything ({reason}), so nothing can be"
                    " said of it; ask it what it can do, or leave it out"
                )
        if rule.kind is not None and rule.kind not in self.b.kinds:
            raise EdgeMtpError(
                f"rule '{rule}': '{self.b.name}' has no items of kind '{rule.kind}'; its kinds are "
                f"{_listed(self.b.kinds)}"
            )
        is_of_both = rule.is_change or rule.of.scope == "pair" or self._falls_back(rule.of)
        measured = self.measures_speed if is_of_both else self.b.run.measures_speed
        if rule.of.is_speed and not measured:
            raise EdgeMtpError(f"rule '{rule}': eval does not measure speed; give results of edge-mtp bench")
        if rule.is_change and self._falls_back(rule.of):
            raise EdgeMtpError(
                f"rule '{rule}': without plain siblings in '{self.b.name}' {rule.metric} is that of B against A, which "
                "has no change; drop the sign"
            )

    def _reason(self, rule: Rule) -> str:
        """Why there is no figure for a rule."""
        if rule.is_change or rule.of.scope == "pair":
            if not any(rule.arm in (None, pair.b) for pair in self.pairs):
                return "has nothing to be held against: no arm of A is matched with it"
            return "was not measured in both" if not self.is_one_run else "was not measured in both arms"
        arms = self.b.labels if rule.arm is None else [rule.arm]
        if rule.of.scope == "sibling" and not any(self._sibling(self.b, arm) for arm in arms):
            return "needs an arm that drafts and its plain sibling in one run"
        return f"was not measured in '{self.b.name}'"

    # -- arms and items ---------------------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """What a reader of the figures must know, a line each."""
        notes = [] if self.measures_speed else [NO_SPEED]
        a, b = self.a, self.b
        for side in dict.fromkeys((a, b)):
            notes += [refusal(arm, reason) for arm, reason in side.refused.items()]
        if self.is_one_run:
            return notes
        if self.is_paired and self.measures_speed:
            notes.append(
                "The two runs were not interleaved: a drift of the machine between them is in speed, decode and all "
                "times. The change of speedup, MTP over plain within each run, is free of it."
            )
        elif not self.is_paired:
            notes.append("Figures are compared unpaired, from the estimates and intervals of each run.")
        notes += self._item_notes()
        left = [arm for arm in a.labels if arm not in {pair.a for pair in self.pairs}]
        right = [arm for arm in b.labels if arm not in {pair.b for pair in self.pairs}]
        notes += [f"Only in {name}: {_listed(arms)}." for name, arms in (("A", left), ("B", right)) if arms]
        marks = [{"suite": run.suite, "simulated acceptance": run.simulated} for run in (a.run, b.run)]
        told: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
            ("", marks[0], marks[1]),
            ("", a.run.settings, b.run.settings),
            ("version of ", a.run.versions, b.run.versions),
        ]
        for what, old, new in told:
            for key in dict.fromkeys([*old, *new]):
                if old.get(key) != new.get(key):
                    notes.append(f"The runs differ in {what}{key}: {old.get(key)} in A, {new.get(key)} in B.")
        for name in a.run.devices.keys() & b.run.devices.keys():
            if _lasting(a.run.devices[name]) != _lasting(b.run.devices[name]):
                notes.append(f"The runs differ in what {name} is: another device, or another system on it.")
        return notes

    def _item_notes(self) -> list[str]:
        if self.a.results is None or self.b.results is None:
            return []
        ours, theirs = self.a.results.items, self.b.results.items
        shared = _shared_items(self.a.results, self.b.results)
        if len(shared) == len(ours) == len(theirs):
            return []
        renewed = sum(1 for name in ours.keys() & theirs.keys() if name not in shared)
        other = f" {renewed} more have the same name but other content." if renewed else ""
        what = "changes are of those alone" if shared else "nothing can be paired"
        return [f"{len(shared)} items are shared, of {len(ours)} in A and {len(theirs)} in B; {what}.{other}"]

    def _natural_pairs(self) -> list[Pair]:
        if self.is_one_run:
            siblings = ((self._sibling(self.b, arm), arm) for arm in self.b.labels)
            return [Pair(base, arm) for base, arm in siblings if base is not None]
        if len(self.a.labels) == len(self.b.labels) == 1:
            return [Pair(self.a.labels[0], self.b.labels[0])]
        return [Pair(label, label) for label in self.b.labels if label in self.a.labels]

    @staticmethod
    def _sibling(side: Side, arm: str) -> str | None:
        return sibling_of(side.run, arm)

    def _shared(self) -> tuple[Side, Side] | None:
        """Both sides with the items alone that both have; None where nothing can be paired."""
        if self.is_one_run:
            return self.a, self.b
        if self.a.results is None or self.b.results is None:
            return None
        shared = _shared_items(self.a.results, self.b.results)
        if not shared:
            return None

        def common(side: Side, results: Results) -> Side:
            return side if len(results.items) == len(shared) else Side(side.name, restricted(results, shared))

        return common(self.a, self.a.results), common(self.b, self.b.results)

    def _names(self, pair: Pair) -> tuple[str, str]:
        """The labels of B's arm and of A's in their joint run."""
        return (pair.b, pair.a) if self.is_one_run else (f"B: {pair.b}", f"A: {pair.a}")

    def _joint(self, pair: Pair) -> Side | None:
        """One run of the pair alone, A's arm its baseline; None where answers cannot be paired."""
        if pair not in self._joined:
            self._joined[pair] = self._join(pair)
        return self._joined[pair]

    def _join(self, pair: Pair) -> Side | None:
        if self._common is None:
            return None
        a, b = self._common
        if self.is_one_run:
            # What the run says of the pair itself knows its other arms too.
            at = b.place(pair.b, pair.a)
            if speed_up_of(at, "decode") is not None or comparison_of(at) is not None:
                return b
        if a.results is None or b.results is None:
            return None
        name_b, name_a = self._names(pair)
        given = [(a.results.of(pair.a), name_a), (b.results.of(pair.b), name_b)]
        asked = [{_question(answer) for answer in answers} for answers, _ in given]
        both = asked[0] & asked[1]
        if not both:
            return None
        joint = [replace(x, arm=name) for answers, name in given for x in answers if _question(x) in both]
        # With bundles of their own they are no siblings, of which the plain one would be the base.
        arms = [
            replace(side.run.arm(arm), label=name, bundle=name)
            for side, arm, name in ((a, pair.a, name_a), (b, pair.b, name_b))
        ]
        return Side(b.name, Results(replace(b.run, arms=arms, baseline=name_a), b.results.items, joint))

    def _speed_ups_paired(
        self, a_side: Side, b_side: Side, metric: Metric, pair: Pair, kind: str | None
    ) -> Estimate | None:
        """B's speed-up over its plain sibling, over that of A over its own: the median over items in both."""
        measure = metric.name.partition(".")[2] or "decode"
        ratios = []
        for side, arm in ((a_side, pair.a), (b_side, pair.b)):
            base = self._sibling(side, arm)
            found = None if base is None else speed_up_of(side.place(arm, base, kind), measure)
            ratios.append({} if found is None else {each.item: each.ratio for each in found.items})
        shared = [item for item in ratios[1] if item in ratios[0]]
        return median_ratio([math.log(ratios[1][item] / ratios[0][item]) for item in shared]) if shared else None


def _lasting(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fingerprint.items() if key not in ("battery_percent", "free_bytes")}


def _question(answer: Answer) -> tuple[str, int, int]:
    return answer.item, answer.turn, answer.round


def _less(figure: Figure, by: float) -> Figure:
    return figure.scaled(1, -by) if isinstance(figure, Estimate) else figure - by


def _is_better(change: Figure, metric: Metric) -> bool | None:
    """Whether a change is for the better, where its interval leaves no doubt."""
    if not isinstance(change, Estimate) or change.low <= 0 <= change.high:
        return None
    return (change.low > 0) == (metric.better == "higher")


def _shared_items(a: Results, b: Results) -> set[str]:
    """Those of one name and the same content."""
    return {name for name, item in a.items.items() if b.items.get(name) == item}


def _matched(a: Side, b: Side, matched: Sequence[str]) -> list[Pair]:
    """The pairs that `A_LABEL=B_LABEL` name; labels may hold `=` themselves."""
    pairs = []
    for text in matched:
        cuts = [(text[:i].strip(), text[i + 1 :].strip()) for i, letter in enumerate(text) if letter == "="]
        found = [Pair(left, right) for left, right in cuts if left in a.labels and right in b.labels]
        if len(found) != 1:
            what = "can be read in several ways" if found else "is not A_LABEL=B_LABEL"
            raise EdgeMtpError(
                f"--arm '{text}' {what}; arms of '{a.name}': {_listed(a.labels)}; of '{b.name}': {_listed(b.labels)}"
            )
        pairs.append(found[0])
    twice = next((pair.b for pair in pairs if [each.b for each in pairs].count(pair.b) > 1), None)
    if twice is not None:
        raise EdgeMtpError(f"--arm names '{twice}' of B twice; hold each arm of B against one of A")
    return pairs


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(f"'{label}'" for label in labels) or "none"
