"""The page: what of a run's results stands where. Sections without data are left out."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from edge_mtp.harness.analyse.analysis import NO_SPEED, Analysis, refusal
from edge_mtp.harness.analyse.latency import ItemSpeed, Latency, SpeedUp
from edge_mtp.harness.analyse.pairwise import MARGIN, ArmCalls, Comparison, Errors, Parting
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results, Sample
from edge_mtp.harness.score.score import LABELS, LEVELS, Score
from edge_mtp.harness.stats import figures
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.headline import (
    SIGNS,
    Headline,
    calls_tone,
    headlines,
    is_identical,
    main_speed_ups,
    speed_tone,
)
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.svg import SHAPES, Chart, Key, arm_marker, arm_role, variables
from edge_mtp.harness.tell.summary_table import simulated_notice

TEMPLATES = Path(__file__).parent / "templates"
_ANSWER_TITLE = "Time to the first token of the answer, behind its thoughts"
MOST_PARTINGS = 12  # of a comparison, with texts
MOST_WRONG = 25  # of an arm, with texts
MOST_TEXT = 3000  # letters of a text
MOST_PROMPTS = 20  # at either end of a table
MOST_STEPS = 40  # of a time line
MOST_LINES = 4  # sensors in a chart
MEASURES = {
    "decode": "decoding", "first_token": "first token", "first_answer": "first token of the answer",
    "call": "complete call", "total": "whole answer",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A results file's name and what it says."""

    name: str
    results: Results
    analysis: Analysis


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


class TimeLine(NamedTuple):
    """A reply step by step: drawn, what it answers, and each lane's steps in words."""

    chart: Chart
    prompt: str
    steps: dict[str, list[str]]


class Wrong(NamedTuple):
    """An item that an arm got wrong: what was asked, what it said, and what is wrong with that."""

    item: str
    kind: str
    prompt: str
    text: str
    score: Score


@dataclass
class Part:
    """The sections of one results file. `key` begins its ids, so that several files can share a page."""

    source: Source
    key: str
    results: Results = field(init=False)
    analysis: Analysis = field(init=False)

    def __post_init__(self) -> None:
        self.results, self.analysis = self.source.results, self.source.analysis

    # -- what was found -----------------------------------------------------------------------------------------------

    @cached_property
    def headlines(self) -> list[Headline]:
        return headlines(self.analysis)

    @property
    def title(self) -> str:
        return "Speed" if self.analysis.run.kind == "bench" else "Tool calls"

    @property
    def begun(self) -> str:
        """To the minute, where the time of the run is as `datetime.isoformat` gives it."""
        found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:[\d.]+)?(\+00:00|Z)", self.analysis.run.started)
        return f"{found[1]} {found[2]} UTC" if found else self.analysis.run.started

    @property
    def notices(self) -> list[str]:
        """What a reader must know before anything else."""
        run, found = self.analysis.run, []
        if run.simulated is not None:
            found.append(simulated_notice(run.simulated))
        rounds = run.settings.get("rounds")
        asked = len(run.arms) * len(self.results.items) * (rounds if isinstance(rounds, int) else 0)
        answered = len({(answer.arm, answer.item, answer.round) for answer in self.results.answers})
        found += [refusal(arm, reason) for arm, reason in self.analysis.refused.items()]
        found += [f"{arm}: {sentence}" for arm, sentence in self.analysis.misfits.items()]
        if answered < asked:
            found.append(
                f"Not complete: {answered:,} of {asked:,} questions were answered. Its command goes on with --resume."
            )
        return found

    @cached_property
    def answers(self) -> dict[str, list[Answer]]:
        """By arm."""
        found: dict[str, list[Answer]] = {label: [] for label in self.indices}
        for answer in valid_answers(self.results):
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

    # -- speed --------------------------------------------------------------------------------------------------------

    @cached_property
    def latencies(self) -> list[Latency]:
        return [each for each in self.analysis.latencies if each.kind is None and (each.answers or each.failed)]

    @property
    def thinks(self) -> bool:
        """Whether an arm had thoughts: the first token is then not the first of the answer."""
        return any(each.thoughts for each in self.latencies)

    @cached_property
    def workloads(self) -> list[Latency]:
        return [each for each in self.analysis.latencies if each.kind is not None and each.answers]

    @cached_property
    def speed_pairs(self) -> dict[tuple[str, str], dict[str, SpeedUp]]:
        """By arm and base: each measure, over all workloads."""
        found: dict[tuple[str, str], dict[str, SpeedUp]] = {}
        for each in self.analysis.speed_ups:
            if each.kind is None:
                found.setdefault((each.arm, each.base), {})[each.measure] = each
        return found

    @property
    def measures(self) -> list[str]:
        return [name for name in MEASURES if any(name in found for found in self.speed_pairs.values())]

    @cached_property
    def speed_ups_by_kind(self) -> list[SpeedUp]:
        return [each for each in self.analysis.speed_ups if each.kind is not None]

    @cached_property
    def speed_chart(self) -> Chart | None:
        main = main_speed_ups(self.analysis)
        groups = self._against({pair: each.ratio for pair, each in main.items()})
        axis = charts.Axis("times as fast", reference=1.0, logarithmic=True, unit="x")
        title = "Speed-up"
        return charts.intervals(f"{self.key}speed-up", title, groups, axis, is_named=True) if groups else None

    def _against(self, pairs: Mapping[tuple[str, str], Estimate]) -> dict[str, list[charts.Interval]]:
        """Pairs of arm and base in groups of one base, siblings' first."""
        siblings = {(each.arm, each.base) for each in self.headlines if each.is_sibling}
        found: dict[str, list[charts.Interval]] = {}
        for arm, base in sorted(pairs, key=lambda pair: pair not in siblings):
            found.setdefault(f"against {base}", []).append(charts.Interval(arm, self.indices[arm], pairs[arm, base]))
        return found

    @cached_property
    def prompt_charts(self) -> list[tuple[Chart, SpeedUp]]:
        """Of the arms that draft against their plain siblings; of the others where there are none."""
        main = main_speed_ups(self.analysis)
        siblings = [(each.arm, each.base) for each in self.headlines if each.is_sibling]
        chosen = [main[pair] for pair in siblings if pair in main] or list(main.values())
        return [
            (charts.prompts(f"{self.key}prompts-{number}", each), each)
            for number, each in enumerate(chosen, 1)
            if len(each.items) > 1
        ]

    def extremes(self, speed_up: SpeedUp) -> list[ItemSpeed]:
        """The prompts from the slowest; of many those at either end."""
        ranked = sorted(speed_up.items, key=lambda each: each.ratio)
        return ranked if len(ranked) <= 2 * MOST_PROMPTS else ranked[:MOST_PROMPTS] + ranked[-MOST_PROMPTS:]

    @cached_property
    def spreads(self) -> list[Chart]:
        times: dict[str, tuple[str, Callable[[Answer], list[float]]]] = {
            "first-token": ("Time to first token", lambda answer: [answer.first_token_us]),
            **(
                {"first-answer": (_ANSWER_TITLE, lambda answer: [answer.first_answer_us or 0.0])} if self.thinks else {}
            ),
            "call": ("Time to a complete tool call", lambda answer: [answer.call_us or 0.0]),
            "token": ("Time of a token", _token_times),
        }
        found = []
        for name, (title, of) in times.items():
            rows = []
            for label, index in self.indices.items():
                answers = [answer for answer in self.answers[label] if answer.is_complete]
                values = np.array([us for answer in answers for us in of(answer) if us > 0]) / 1000
                if len(values):
                    rows.append(charts.Row(label, index, values))
            if rows:
                found.append(charts.spread(f"{self.key}{name}", title, rows))
        return found

    # -- drafts -------------------------------------------------------------------------------------------------------

    @cached_property
    def acceptance_charts(self) -> list[Chart]:
        """Of all workloads together, then of each."""
        drafting = [each for each in self.analysis.latencies if each.acceptance]
        kinds = list(dict.fromkeys(each.kind for each in drafting))
        found = []
        for number, kind in enumerate(kinds):
            series = [(each.arm, self.indices[each.arm], each.acceptance) for each in drafting if each.kind == kind]
            title = "All workloads" if kind is None else kind
            found.append(charts.acceptance(f"{self.key}acceptance-{number}", title, series))
        return found[1:] if len(found) == 2 and kinds[0] is None else found

    @cached_property
    def drafting(self) -> list[Latency]:
        return [each for each in self.latencies if each.acceptance or each.sources]

    @property
    def positions(self) -> range:
        """Of drafts, from 1."""
        return range(1, max((len(each.acceptance) for each in self.drafting), default=0) + 1)

    @property
    def draft_sources(self) -> list[str]:
        return list(dict.fromkeys(source for each in self.drafting for source in each.sources))

    @cached_property
    def planned_chart(self) -> Chart | None:
        rows = [(each.arm, each.planned) for each in self.latencies if any(each.planned) and each.planned]
        return charts.planned(f"{self.key}planned", "Drafts asked for", rows) if rows else None

    @cached_property
    def time_line(self) -> TimeLine | None:
        """One reply under an arm that drafts and under its siblings."""
        chosen = _telling(itertools.chain.from_iterable(self.answers.values()))
        if chosen is None:
            return None
        arm = self.analysis.run.arm(chosen.arm)
        is_cut = len(chosen.steps) > MOST_STEPS
        until_us = sum(step.total_us for step in chosen.steps[:MOST_STEPS]) if is_cut else math.inf
        lanes = []
        for other in self.analysis.run.arms:
            if other.is_sibling(arm):
                where = (chosen.item, chosen.turn, chosen.round)
                answer = next(
                    (a for a in self.answers[other.label] if (a.item, a.turn, a.round) == where and a.steps), None
                )
                if answer is not None:
                    lanes.append(charts.Lane(other.label, _begun(answer, until_us)))
        item = self.results.items[chosen.item]
        cut = f", the first {MOST_STEPS} steps" if is_cut else ""
        title = f"One reply ({item.kind}), step by step{cut}"
        drawn = charts.time_line(f"{self.key}time-line", title, lanes)
        return TimeLine(drawn, self.asked(chosen.item, chosen.turn), {lane.label: charts.told(lane) for lane in lanes})

    # -- tool calls ---------------------------------------------------------------------------------------------------

    @property
    def own_calls(self) -> list[ArmCalls]:
        """Without the arms that only repeat what others say: charts would show the same again and again."""
        return [each for each in self.analysis.calls if each.echoes is None]

    @property
    def echoes(self) -> list[ArmCalls]:
        return [each for each in self.analysis.calls if each.echoes is not None]

    @cached_property
    def exact_charts(self) -> list[Chart]:
        calls = self.own_calls
        if not calls:
            return []
        axis = charts.Axis("% of items with exactly the right calls", unit="%")
        groups = {
            "": [charts.Interval(each.arm, self.indices[each.arm], each.exact.scaled(100)) for each in calls],
        }
        found = [charts.intervals(f"{self.key}exact", "Exact calls", groups, axis, is_named=True)]
        kinds = self.kinds
        if len(kinds) > 1:
            groups = {
                kind: [
                    charts.Interval(each.arm, self.indices[each.arm], each.kinds[kind][2].scaled(100))
                    for each in calls
                    if kind in each.kinds
                ]
                for kind in kinds
            }
            title = "Exact calls by kind"
            found.append(charts.intervals(f"{self.key}kinds", title, groups, axis._replace(ends=(0, 100))))
        return found

    @cached_property
    def labels(self) -> list[str]:
        """The errors that occur, in the order of their levels."""
        seen = {each.label for calls in self.analysis.calls for each in calls.errors if each.primary or each.all}
        return [label for label in LABELS if label in seen]

    @cached_property
    def error_chart(self) -> Chart | None:
        groups = {
            label: [
                charts.Interval(calls.arm, self.indices[calls.arm], each.share.scaled(100))
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
        keys = tuple(Key(arm_role(i), label, arm_marker(i)) for label, i in self.indices.items())
        return replace(charts.intervals(f"{self.key}errors", "Errors by class", groups, axis), keys=keys)

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for each in self.analysis.calls for kind in each.kinds))

    def error(self, calls: ArmCalls, label: str) -> Errors | None:
        return next((each for each in calls.errors if each.label == label), None)

    @property
    def levels(self) -> dict[str, str]:
        return {label: level for level, labels in LEVELS.items() for label in labels}

    @cached_property
    def difference_chart(self) -> Chart | None:
        groups = self._against(
            {
                (each.arm, each.base): Estimate(0.0, 0.0, 0.0) if is_identical(each) else each.difference.scaled(100)
                for each in self.analysis.comparisons
            }
        )
        axis = charts.Axis("points of exact calls, lost or gained", reference=0.0, limit=-100 * MARGIN)
        title = "Exact calls, compared"
        return charts.intervals(f"{self.key}difference", title, groups, axis, is_named=True) if groups else None

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
            item = self.results.items.get(each.item)
            kind = item.kind if item else ""
            found.append(PartingView(each, kind, self.asked(each.item, each.turn), base, arm))
        return found

    def wrong(self, arm: str) -> list[Wrong]:
        """Some of what an arm got wrong, and the last it said to that: after a wrong turn no other is asked."""
        last = {answer.item: answer for answer in self.answers[arm]}
        found: list[Wrong] = []
        for item, score in self.analysis.scores.get(arm, {}).items():
            if not score.is_right and len(found) < MOST_WRONG:
                answer = last[item]
                text = (answer.error or answer.whole)[:MOST_TEXT]
                found.append(Wrong(item, self.results.items[item].kind, self.asked(item, answer.turn), text, score))
        return found

    def asked(self, item: str, turn: int) -> str:
        """The last message before a reply."""
        if item not in self.results.items or turn >= len(self.results.items[item].turns):
            return ""
        messages = self.results.items[item].turns[turn].messages
        content = messages[-1].get("content", "") if messages else ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return text if len(text) <= 400 else f"{text[:399]}…"

    # -- the devices, and how it was made -----------------------------------------------------------------------------

    @cached_property
    def courses(self) -> list[Chart]:
        found: list[Chart] = []
        for number, device in enumerate(self.analysis.run.devices):
            samples = [each for each in self.results.samples if each.device == device]
            pauses = [each for each in self.results.pauses if each.device == device]
            for name, unit, values in (
                ("temperature", "°C", lambda sample: sample.sensors.temperatures_c),
                ("frequency", "MHz", lambda sample: sample.sensors.frequencies_mhz),
            ):
                if lines := _lines(samples, values):
                    title = f"{name.capitalize()} of {device}"
                    found.append(charts.course(f"{self.key}{name}-{number}", title, lines, unit, pauses))
        return found

    @property
    def throttled(self) -> list[str]:
        """What Android said of heat, a sentence a device."""
        found = []
        for device in self.analysis.run.devices:
            stages = [
                each.sensors.thermal_status
                for each in self.results.samples
                if each.device == device and each.sensors.thermal_status is not None
            ]
            if stages:
                share = sum(stage > 0 for stage in stages) / len(stages)
                found.append(
                    f"{device}: thermal status above 0 in {figures.percent(share)} of {len(stages):,} samples, "
                    f"at most {max(stages)} of 6."
                )
        return found

    @property
    def pauses(self) -> list[tuple[str, str, int, float]]:
        """Device, reason, how often, seconds in all."""
        found: dict[tuple[str, str], list[float]] = {}
        for each in self.results.pauses:
            # What differs from pause to pause is a number: `cools down from 41.2 C`.
            found.setdefault((each.device, re.sub(r"\d+(\.\d+)?", "…", each.reason)), []).append(each.seconds)
        return [(device, reason, len(seconds), sum(seconds)) for (device, reason), seconds in found.items()]

    @property
    def has_memory(self) -> bool:
        return any(
            figure is not None
            for each in self.latencies
            for figure in (each.peak_rss_bytes, each.peak_anonymous_bytes, each.energy_mj_per_token)
        )

    @property
    def energy_notes(self) -> list[str]:
        """Why energy is not known: once, or for each arm where reasons differ."""
        notes = {each.arm: each.energy_note.rstrip(".") for each in self.latencies if each.energy_note}
        if len(set(notes.values())) == 1:
            return list(notes.values())[:1]
        return [f"{arm}: {note}" for arm, note in notes.items()]

    @property
    def finishes(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """How often each arm's answers ended in what way."""
        return {label: Counter(a.finish for a in answers).most_common() for label, answers in self.answers.items()}

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The sections that there are: id and title."""
        run = self.analysis.run
        speed: dict[tuple[str, str], Any] = {
            ("speed", "Speed"): run.measures_speed and (self.speed_pairs or self.latencies),
            ("drafts", "Drafts"): self.drafting,
        }
        calls: dict[tuple[str, str], Any] = {("calls", "Tool calls"): self.analysis.calls}
        sections = {
            ("found", "What was found"): self.headlines,
            **(speed | calls if run.kind == "bench" else calls | speed),
            ("device", "The device under load"): self.courses or self.pauses or self.throttled or self.has_memory,
            ("made", "How it was made"): True,
        }
        return [section for section, is_there in sections.items() if is_there]


def render(sources: Sequence[Source]) -> str:
    """The HTML page of one results file or several, the same for the same input."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        ms=figures.milliseconds,
        factor=figures.factor,
        percent=figures.percent,
        interval=figures.interval,
        p=figures.p_value,
        size=figures.size,
        signed=figures.signed,
        value=_spoken,
        facts=_facts,
        count_of=figures.count_of,
    )
    parts = [Part(source, "" if len(sources) == 1 else f"r{number}-") for number, source in enumerate(sources, 1)]
    text = environment.get_template("page.html").render(
        parts=parts,
        style=Markup((TEMPLATES / "style.css").read_text("utf-8")),
        colours=Markup(variables()),
        measures=MEASURES,
        signs=SIGNS,
        tone=speed_tone,
        calls_tone=calls_tone,
        is_identical=is_identical,
        dash=figures.NONE,
        no_speed=NO_SPEED,
        margin=MARGIN,
        most_partings=MOST_PARTINGS,
        most_wrong=MOST_WRONG,
    )
    return text


def pictures(source: Source) -> dict[str, str]:
    """Charts for elsewhere, by file name: those of speed, of one reply and of tool calls, where there are any."""
    part = Part(source, "")
    time_line = part.time_line.chart if part.time_line and source.analysis.run.measures_speed else None
    found: list[Chart | None] = [part.speed_chart, time_line, part.error_chart]
    found += [chart for chart, _ in part.prompt_charts[:1]] + part.exact_charts[:1]
    return {f"{chart.name}.svg": chart.standalone for chart in found if chart is not None}


def valid_answers(results: Results) -> list[Answer]:
    """Without those of questions that were asked again, which a run that was cut in the middle of an item does."""
    last = {(each.arm, each.item, each.round, each.turn): each for each in results.answers}
    return list(last.values())


def differences(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Two texts cut into pieces where they differ, by words, numbers and marks."""
    a, b = (re.findall(r"<\|?\w+\|?>|<\|\"\|>|\w+|\s+|[^\w\s]", text) for text in (one, other))
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for into, text in zip(pieces, ("".join(a[a0:a1]), "".join(b[b0:b1])), strict=True):
            if text:
                into.append(Piece(text, tag != "equal"))
    return pieces


def _token_times(answer: Answer) -> list[float]:
    return [step.total_us / step.tokens for step in answer.steps for _ in range(step.tokens)]


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


def _lines(samples: Sequence[Sample], values: Any) -> list[charts.Line]:
    """The sensors that moved most, at most `MOST_LINES`."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for sample in samples:
        for name, value in values(sample).items():
            at, of = found.setdefault(name, ([], []))
            at.append(sample.at_s)
            of.append(value)
    ranked = sorted(found, key=lambda name: min(found[name][1]) - max(found[name][1]))
    kept = [name for name in found if name in ranked[:MOST_LINES]]
    return [charts.Line(name, *found[name]) for name in kept]


def _facts(of: Mapping[str, Any], name: str = "") -> list[tuple[str, str]]:
    """Names and texts of what is known, what lies within other things included."""
    found = []
    for key, value in of.items():
        full = f"{name} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            found += _facts(value, full)
        elif value not in (None, "", []):
            is_size = key.endswith("bytes") and isinstance(value, int)
            found.append((full, figures.size(value) if is_size else _spoken(value)))
    return found


def _spoken(value: Any) -> str:
    """A setting or a fact of a device as text. Hashes are cut: the results file has them whole."""
    if value is None:
        return figures.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_spoken, value))
    text = str(value)
    return f"{text[:16]}…" if re.fullmatch(r"[0-9a-f]{40,}", text) else text
