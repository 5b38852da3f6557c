"""Reports: what of results stands on the page, in the table and at a terminal, and that the page needs nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_results import ARMS, BUNDLES, synthetic_results

from edge_mtp.cli import main
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import NO_SPEED, analyse
from edge_mtp.harness.analyse.analysis_file import read_summary
from edge_mtp.harness.analyse.latency import DraftPosition
from edge_mtp.harness.analyse.speed_up import ItemSpeed, SpeedUp
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.arm import cross
from edge_mtp.harness.record.results import Results, ResultsWriter
from edge_mtp.harness.stats import figures
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.headline import headlines
from edge_mtp.harness.tell.report import Source, charts, time_line, write_report
from edge_mtp.harness.tell.report.calls_section import differences
from edge_mtp.harness.tell.report.page import Part, pictures, render
from edge_mtp.harness.tell.report.svg import COLOURS, SHAPES, arm_marker, arm_role, chart
from edge_mtp.harness.tell.report.write import COLUMNS, answers_csv
from edge_mtp.harness.tell.summary_table import summary
from edge_mtp.safe_text import shown

VOID = {"meta", "br", "link", "img", "input", "hr"}
PHONE = tuple(cross([{"bundle": next(iter(BUNDLES)), "device": "pixel"}], {"mtp": ("off", "auto")}))
ALL = {"found", "speed", "drafts", "device", "made"}


def source(results: Results, name: str = "results.jsonl") -> Source:
    return Source(name, results, analyse(results))


@cache
def bench() -> Source:
    return source(synthetic_results(items=14, rounds=2, arms=PHONE), "bench.jsonl")


@cache
def evaluation() -> Source:
    return source(synthetic_results(items=48, kind="eval", arms=ARMS[:4]), "eval.jsonl")


@cache
def page(kind: Literal["bench", "eval"]) -> Page:
    return Page(render([bench() if kind == "bench" else evaluation()]))


class Page(HTMLParser):
    """A page taken apart: its elements, and all texts inside an element of an id or a tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.texts: list[tuple[tuple[tuple[str, str | None], ...], str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def inside(self, what: str) -> str:
        """The text inside the elements with that id or tag."""
        texts = [text for path, text in self.texts if any(what in element for element in path)]
        return " ".join(" ".join(texts).split())

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]

    def sections(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.elements if tag == "section"]


# -- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bench", "eval"])
def test_page_needs_nothing_else(kind: Literal["bench", "eval"]) -> None:
    found = page(kind)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image", "base", "form", "video", "audio"}
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "action", "srcset", "xlink:href"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert "http:" not in found.html
    assert "https:" not in found.html
    style = found.inside("style")
    assert "@import" not in style
    assert "url(" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", found.html))
    policy = next(each["content"] for tag, each in found.elements if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("kind", ["bench", "eval"])
def test_references_within_the_page_are_met(kind: Literal["bench", "eval"]) -> None:
    found = page(kind)
    ids = Counter(found.values("id"))
    assert max(ids.values()) == 1
    targets = [value[1:] for value in found.values("href")] + re.findall(r"url\(#([^)]*)\)", found.html)
    assert targets
    assert set(targets) <= ids.keys()
    assert all(each in ids for value in found.values("aria-labelledby") for each in value.split())
    variables = set(re.findall(r"var\(--([\w-]+)\)", found.html))
    assert variables <= COLOURS.keys()
    for role, schemes in COLOURS.items():
        assert sum(found.html.count(f"--{role}: {colour}") for colour in set(schemes)) == 2


@pytest.mark.parametrize("kind", ["bench", "eval"])
def test_every_chart_has_words(kind: Literal["bench", "eval"]) -> None:
    found = page(kind)
    drawn = [attributes for tag, attributes in found.elements if tag == "svg" and "aria-hidden" not in attributes]
    assert len(drawn) > 5
    for attributes in drawn:
        assert attributes["role"] == "img"
        title, description = (attributes["aria-labelledby"] or "").split()
        assert found.inside(title)
        assert re.search(r"\d", found.inside(description))  # says figures, not just that it is a chart


def test_nothing_in_results_becomes_markup() -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x00\ud800 $x_1$ {{ 7 * 7 }}"
    results = synthetic_results(items=16, kind="eval", arms=ARMS[:2], crashes=0)
    labels = {arm.label: f"{arm.label} {evil}" for arm in results.run.arms}
    run = replace(
        results.run,
        arms=[replace(arm, label=labels[arm.label], bundle=evil) for arm in results.run.arms],
        baseline=labels[results.run.baseline],
        command=evil, suite=evil, settings={evil: evil}, versions={evil: evil},
        devices={"host": {"model": evil}}, bundles={evil: {"file": evil}},
    )  # fmt: skip
    items = {id: replace(item, kind=f"{item.kind} {evil}") for id, item in results.items.items()}
    second = ARMS[1].label  # says something else at the end of each reply
    answers = [
        replace(
            answer, arm=labels[answer.arm],
            text=answer.text + evil * (answer.arm == second), tokens=answer.tokens + [7] * (answer.arm == second),
        )
        for answer in results.answers
    ]  # fmt: skip
    made = source(replace(results, run=run, items=items, answers=answers), evil)
    found = Page(render([made]).encode("utf-8", "replace").decode())
    assert not {tag for tag, _ in found.elements} & {"script", "img"}
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    for where in ("title", "h4", "summary", "mark", "code", "desc", "dd", "tbody"):
        assert "<script>alert(1)</script>" in found.inside(where), where
    assert "49" not in found.inside("code")
    for image in pictures(made).values():
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(image).iter()}
        assert not tags & {"script", "img", "image", "foreignObject"}


def test_sections_are_those_with_data() -> None:
    assert page("bench").sections() == ["found", "speed", "drafts", "device", "made"]
    assert page("eval").sections() == ["found", "calls", "drafts", "device", "made"]
    results = synthetic_results(items=6, rounds=1, arms=PHONE, crashes=0)

    def sections(results: Results) -> set[str | None]:
        return set(Page(render([source(results)])).sections())

    assert sections(results) == ALL
    assert sections(replace(results, answers=[], samples=[], pauses=[])) == {"made"}
    bare = [replace(each, rss_bytes=None, anonymous_bytes=None) for each in results.answers]
    assert sections(replace(results, answers=bare, samples=[], pauses=[])) == ALL - {"device"}
    silent = [replace(each, steps=[], tokens=[], margins=[]) for each in results.answers]
    assert sections(replace(results, answers=silent)) == ALL - {"drafts"}
    plain = replace(results, run=replace(results.run, arms=[PHONE[0]]), answers=results.of(PHONE[0].label))
    assert sections(plain) == ALL - {"found", "drafts"}
    failed = [replace(each, error="gone", finish="crash", steps=[], tokens=[]) for each in plain.answers]
    assert sections(replace(plain, answers=failed, samples=[])) == {"speed", "made"}


@pytest.mark.parametrize("count", [0, 1, 2, 9, 38])
def test_a_run_cut_anywhere_makes_a_page(count: int) -> None:
    results = synthetic_results(items=7, rounds=2, arms=PHONE, crashes=3)
    cut = replace(results, answers=results.answers[:count], samples=results.samples[:count], pauses=[])
    found = Page(render([source(cut)]))
    questions = {(each.arm, each.item, each.round) for each in cut.answers}
    notice = [text for path, text in found.texts if path[-1:] == (("p", None),) and "were answered" in text]
    assert len(notice) == (len(questions) < 28)
    assert not notice or f"{len(questions)} of 28 questions" in notice[0]


def test_simulated_figures_are_marked_everywhere() -> None:
    results = bench().results
    simulated = source(replace(results, run=replace(results.run, simulated=0.7)))
    assert "SIMULATED" in Page(render([simulated])).inside("header")
    assert "SIMULATED" in terminal(simulated)
    assert "SIMULATED" not in page("bench").html
    assert "SIMULATED" not in terminal(bench())


def test_figures_of_the_page_are_those_of_the_analysis() -> None:
    found, analysis = page("bench").inside("speed"), bench().analysis
    for each in analysis.speed_ups:
        assert f"{figures.factor(each.ratio.value)} {figures.interval(each.ratio, 2)}" in found
    for latency in analysis.latencies:
        for times in (latency.first_token, latency.call, latency.token):
            if times is not None:
                assert " ".join(map(figures.milliseconds, (times.p50, times.p95, times.p99))) in found
    found, analysis = page("eval").inside("calls"), evaluation().analysis
    assert analysis.comparisons
    for calls in analysis.calls:
        assert f"{calls.items} {calls.right} {figures.percent(calls.exact.value)}" in found
        for error in calls.errors:
            assert not error.primary or f"{error.primary} ({error.all})" in found
    for comparison in analysis.comparisons:
        assert f"{comparison.lost} {comparison.gained} {figures.signed(100 * comparison.difference.value)}" in found
        assert comparison.explanation in found
    made = page("eval").inside("made")
    assert evaluation().results.run.command in made
    assert all(version in made for version in evaluation().results.run.versions.values())


def test_partings_show_both_texts_with_what_differs_marked() -> None:
    parted = [each for each in evaluation().analysis.comparisons if each.partings]
    assert parted
    part = Part(evaluation(), "")
    for comparison in parted:
        views = part.calls.partings(comparison)
        assert len(views) == min(12, len(comparison.partings))
        changed = [(each.parting.primary[0] is None) != (each.parting.primary[1] is None) for each in views]
        assert changed == sorted(changed, reverse=True)  # those that made a difference first
        for view in views:
            for pieces, text in zip((view.arm, view.base), view.parting.texts, strict=True):
                assert "".join(piece.text for piece in pieces) == text
                marked = page("eval").inside("mark")
                assert all(" ".join(piece.text.split()) in marked for piece in pieces if piece.is_different)


TEXTS = st.text(st.sampled_from('ab1 <|">{}:,\n'), max_size=40)


@given(TEXTS, TEXTS)
def test_differences_mark_only_what_differs(one: str, other: str) -> None:
    pieces = differences(one, other)
    for text, cut in zip((one, other), pieces, strict=True):
        assert "".join(piece.text for piece in cut) == text
    same = ["".join(piece.text for piece in cut if not piece.is_different) for cut in pieces]
    assert same[0] == same[1]
    assert (one == other) == (not any(piece.is_different for cut in pieces for piece in cut))


def test_same_results_same_bytes_in_every_process(tmp_path: Path) -> None:
    code = (
        "from test_report import *\n"
        "one = source(synthetic_results(items=8, kind='eval', arms=ARMS[:4]))\n"
        "html = render([one])\n"
        "assert html == render([one])\n"
        "print(html + ''.join(pictures(one).values()) + answers_csv([one]))"
    )
    folders = (Path(__file__).parent, Path(__file__).parents[1] / "helpers")
    paths = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    made = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert made[0] == made[1]
    assert "<svg" in made[0]


def test_several_results_share_a_page() -> None:
    found = Page(render([bench(), evaluation()]))
    ids = Counter(found.values("id"))
    assert max(ids.values()) == 1
    assert {"r1-speed", "r2-drafts", "r2-calls"} <= ids.keys()
    assert set(re.findall(r"url\(#([^)]*)\)", found.html)) <= ids.keys()
    assert found.inside("h1") == "Speed and tool calls"


def test_charts_of_calls_leave_out_arms_that_repeat_others() -> None:
    found = Part(evaluation(), "")
    assert (
        {each.arm for each in found.calls.echoes}
        == {each.arm for each in found.analysis.calls if each.echoes is not None}
        != set()
    )
    drawn = page("eval").inside("calls")
    for each in found.calls.echoes:
        assert f"What {each.arm} got wrong" not in drawn
        assert each.arm in drawn
    assert f"What {found.calls.own_calls[0].arm} got wrong" in drawn


def test_an_arm_without_one_source_of_drafts_has_a_dash_there() -> None:
    arms = [*ARMS[:3], *(replace(arm, label=f"{arm.label}, free", constrained=False) for arm in ARMS[:3])]
    made = source(synthetic_results(items=12, arms=arms), "bench.jsonl")
    used = [set(each.sources) for each in made.analysis.latencies if each.sources]
    assert {"drafter"} in used
    assert {"drafter", "grammar"} in used
    assert "grammar" in Page(render([made])).inside("drafts")


# -- charts ---------------------------------------------------------------------------------------------------------


def test_time_line_draws_each_token_and_each_rejected_draft() -> None:
    line = Part(bench(), "").drafts.time_line
    assert line is not None
    answers = {(each.arm, each.item, each.turn, each.round): each for each in bench().results.answers}
    key = next(
        key[1:]
        for key, answer in answers.items()
        if line.steps.get(key[0]) == time_line.told(time_line.Lane("", answer))
    )
    steps = [step for arm in line.steps for step in answers[(arm, *key)].steps]
    accepted = Counter(letter for step in steps for letter in step.source[: min(step.accepted, step.tokens)])
    own = sum(step.tokens - min(step.accepted, step.tokens) for step in steps)
    rejected = sum(len(step.source) - step.accepted for step in steps)
    drawn = Counter(re.findall(r'<path [^>]*style="fill: var\(--(own|drafter|lookup|grammar)\)"', line.chart.body))
    assert drawn == +Counter(own=own, drafter=accepted["d"], lookup=accepted["l"], grammar=accepted["g"])
    assert line.chart.body.count("stroke: var(--rejected)") == rejected
    assert rejected
    assert accepted
    tips = re.findall(r"<title>([^<]*)</title>", line.chart.body)
    assert dict.fromkeys(tips).keys() == {words for steps in line.steps.values() for words in steps}
    assert {key.role for key in line.chart.keys} == drawn.keys() | {"rejected"}


def test_a_long_reply_is_cut_at_one_time_for_all() -> None:
    step = StepFigures("v", 2, "dd", 1, 2, 1e3, 0.0, 8e3, 1e4)
    plain = StepFigures("p", 1, "", 0, 0, 0.0, 0.0, 7e3, 7e3)
    results = synthetic_results(items=1, rounds=1, arms=PHONE, crashes=0)
    answers = [
        replace(each, steps=[step] * 100 if each.arm == PHONE[1].label else [plain] * 200) for each in results.answers
    ]
    line = Part(source(replace(results, answers=answers)), "").drafts.time_line
    assert line is not None
    assert [len(steps) for steps in line.steps.values()] == [58, 40]  # those that begin within 40 steps of 10 ms
    assert "the first 40 steps" in line.chart.title


def test_a_step_says_what_it_did() -> None:
    answer = Answer(
        "arm", "item", 0, 0, 0.0, "", "stop",
        steps=[
            StepFigures("p", 1, "", 0, 0, 0.0, 0.0, 4e4, 4e4),
            StepFigures("v", 3, "gdd", 2, 2, 5e3, 0.0, 4e4, 4.5e4),
            StepFigures("v", 1, "", 0, 4, 0.0, 0.0, 4e4, 4e4),
        ],
    )  # fmt: skip
    assert time_line.told(time_line.Lane("", answer)) == [
        "Step 1 at 0.00 ms: plain, 1 token in 40.0 ms",
        "Step 2 at 40.0 ms: 3 drafts (2 from the drafter, 1 from the grammar), 2 accepted, 3 tokens in 45.0 ms, "
        "of which drafting 5.00 ms",
        "Step 3 at 85.0 ms: 0 drafts (blank rows), 0 accepted, 1 tokens in 40.0 ms, of which drafting 0.00 ms",
    ]


def speed_up(ratios: Sequence[float], interval: Estimate) -> SpeedUp:
    items = [ItemSpeed(str(number), "chat", ratio) for number, ratio in enumerate(ratios)]
    return SpeedUp("a", "b", None, "decode", interval, items, Estimate(0.5, 0.0, 1.0), "faster")


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
@settings(max_examples=10, deadline=None)
def test_prompts_are_marked_as_faster_or_slower(ratios: list[float]) -> None:
    drawn = charts.prompts("x", speed_up(ratios, Estimate(1.0, 0.0, float("inf")))).body
    slower = sum(ratio < 1 for ratio in ratios)
    marks = Counter(re.findall(r'<use [^>]*style="fill: var\(--(good|bad)\)', drawn))
    assert marks == +Counter(good=len(ratios) - slower, bad=slower)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("ends", [(0.0, float("inf")), (-float("inf"), float("inf")), (1.0, 1.0), (1e-9, 1e9)])
def test_intervals_without_end_are_drawn(ends: tuple[float, float], logarithmic: bool) -> None:
    axis = charts.Axis("figure", reference=1.0, logarithmic=logarithmic)
    drawn = charts.intervals("x", "Title", {"": [charts.Interval("arm", 0, Estimate(1.0, *ends))]}, axis)
    assert "nan" not in drawn.body
    assert "inf" not in drawn.body
    assert drawn.height > 0


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [1e-3, 1e6]])
def test_spread_of_few_or_far_values(values: list[float]) -> None:
    import numpy as np

    drawn = charts.spread("x", "Title", [charts.Row("arm", 0, np.array(values))])
    assert "nan" not in drawn.body


def test_acceptance_says_its_shares() -> None:
    positions = [DraftPosition(1, 10, 8, Estimate(0.8, 0.5, 0.9)), DraftPosition(2, 8, 2, Estimate(0.25, 0.1, 0.6))]
    drawn = charts.acceptance("x", "Title", [("mtp auto", 0, positions)])
    assert "positions 1 to 2. mtp auto 80%, 25%." in drawn.description


def test_charts_hold_no_colour_but_roles() -> None:
    for each in (bench(), evaluation()):
        part = Part(each, "")
        speed, drafts, line = part.speed, part.drafts, part.drafts.time_line
        drawn = [*speed.spreads, *drafts.acceptance_charts, *part.device.courses, *(c for c, _ in speed.prompt_charts)]
        drawn += [
            c for c in (speed.speed_chart, drafts.planned_chart, part.calls.error_chart, line and line.chart) if c
        ]
        for one in drawn:
            assert not re.findall(r"#[0-9a-f]{6}", one.body), one.title
            assert "font-family" not in one.body
            assert not re.findall(r"\d\.\d{3}", one.body)  # hundredths of a pixel are enough


def test_pictures_stand_alone() -> None:
    found = {**pictures(bench()), **pictures(evaluation())}
    assert found.keys() == {"speed-up.svg", "time-line.svg", "prompts-1.svg", "errors.svg", "exact.svg"}
    for name, text in found.items():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = "".join(each.text or "" for each in root.iter() if each.tag.endswith("}style"))
        defined = set(re.findall(r"--([\w-]+):", style))
        assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= defined
        assert "prefers-color-scheme: dark" in style
        ids = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids), name
    assert "accepted from the drafter" in found["time-line.svg"]
    assert all(arm.label in found["errors.svg"] for arm in ARMS[:4])


def test_the_same_texts_need_no_interval() -> None:
    made = source(synthetic_results(items=24, kind="eval", arms=PHONE, crashes=0))
    comparison = made.analysis.comparisons[0]
    assert comparison.difference.low < 0 < comparison.difference.high
    assert "0.0 word for word" in Page(render([made])).inside("calls")
    assert re.search(r"= same +\n +word for word", terminal(made, width=120))
    assert "word for word" not in terminal(source(synthetic_results(items=24, kind="eval", arms=(ARMS[0], ARMS[3]))))


def test_where_texts_part_is_counted_in_what_is_known() -> None:
    """An engine that does not tell its tokens is told apart by characters."""
    results = synthetic_results(items=40, kind="eval", arms=(ARMS[0], ARMS[3]), crashes=0)
    assert "at token" in Page(render([source(results)])).inside("calls")
    silent = [replace(each, tokens=[], margins=[]) for each in results.answers]
    shown = Page(render([source(replace(results, answers=silent))])).inside("calls")
    assert "at character" in shown
    assert "at token" not in shown


def test_no_two_arms_look_alike() -> None:
    assert len({(arm_role(index), arm_marker(index)) for index in range(64)}) == 64
    assert all(arm_marker(index) in SHAPES for index in range(64))


def test_a_label_that_is_no_xml_is_drawn() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.text(0, 0, "a\x07b <i> $x$ \u6f22", parse_math=False)
    drawn = chart(figure, "x", "T\x08 & <b>", "d\x00")
    assert "a\ufffdb &lt;i&gt;" in drawn.body
    root = ElementTree.fromstring(drawn.standalone)
    assert [each.text for each in root][:2] == ["T\ufffd & <b>", "d\ufffd"]


# -- the table and the JSON -----------------------------------------------------------------------------------------


def test_table_counts_drafts_as_the_analysis_does() -> None:
    """What lies beyond a text's end is neither right nor wrong; failed answers have no steps."""
    made = bench()
    rows = list(csv.DictReader(io.StringIO(answers_csv([made]))))
    steps = [step for answer in made.results.answers for step in answer.steps]
    assert any(step.tokens <= step.accepted < len(step.source) for step in steps)  # one was cut short
    for each in made.analysis.latencies:
        if each.kind is None:
            of_arm = [row for row in rows if row["arm"] == each.arm]
            counts = tuple(sum(int(row[name] or 0) for row in of_arm) for name in ("drafts", "accepted"))
            assert counts == tuple(map(sum, zip(*each.sources.values(), strict=True)) if each.sources else (0, 0))


def test_table_holds_every_answer() -> None:
    made = [bench(), evaluation()]
    rows = list(csv.DictReader(io.StringIO(answers_csv(made))))
    assert tuple(rows[0]) == COLUMNS
    answers = [(each, answer) for each in made for answer in each.results.answers]
    assert len(rows) == len(answers)
    for row, (each, answer) in zip(rows, answers, strict=True):
        item = each.results.items[answer.item]
        assert (row["results"], row["arm"], row["item"], row["kind"]) == (each.name, answer.arm, item.id, item.kind)
        assert (int(row["turn"]), int(row["round"]), row["finish"]) == (answer.turn, answer.round, answer.finish)
        assert json.loads(row["text"]) == answer.text
        assert "\n" not in row["text"]
        assert (json.loads(row["error"]) if row["error"] else None) == answer.error
        for name, microseconds in (("call_ms", answer.call_us), ("total_ms", answer.total_us)):
            assert float(row[name] or 0) == pytest.approx((microseconds or 0) / 1000, abs=1e-3)
        assert int(row["tokens"]) == answer.count
        assert int(row["steps"] or 0) == len(answer.steps)
        score = each.analysis.scores.get(answer.arm, {}).get(answer.item)
        assert row["right"] == ("" if score is None else str(int(score.is_right)))
        assert row["labels"].split() == ([] if score is None else [finding.label for finding in score.findings])
    assert {row["right"] for row in rows} == {"", "0", "1"}


def test_a_question_asked_again_counts_once() -> None:
    results = bench().results
    again = replace(results, answers=[*results.answers[:5], *results.answers])
    assert answers_csv([source(again)]) == answers_csv([replace(bench(), name="results.jsonl")])


def test_a_text_is_no_formula() -> None:
    results = synthetic_results(items=1, rounds=1, arms=PHONE, crashes=0)
    answers = [replace(each, text='=HYPERLINK("x")', error="+1") for each in results.answers]
    rows = list(csv.DictReader(io.StringIO(answers_csv([source(replace(results, answers=answers))]))))
    assert {row["text"][0] for row in rows} | {row["error"][0] for row in rows} == {'"'}


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_name_is_a_formula(begin: str) -> None:
    """Of a file, an arm, an item, a kind or a template: each may come from somebody else."""
    results = synthetic_results(items=1, rounds=1, arms=PHONE[:1], crashes=0)
    name = f"{begin}cmd|' /C calc'!A0\x1b[2J\ud800"
    item = replace(next(iter(results.items.values())), id=name, kind=name, cluster=name)
    run = replace(results.run, arms=[replace(PHONE[0], label=name)], baseline=name)
    answers = [replace(each, arm=name, item=name) for each in results.answers]
    text = answers_csv([source(replace(results, run=run, items={name: item}, answers=answers), name)])
    [row, *_] = csv.DictReader(io.StringIO(text))
    for column in ("results", "arm", "item", "kind", "cluster"):
        assert row[column].startswith(f"'{shown(begin)}cmd|'")
    assert text.replace("\n", "").isprintable()


def test_times_to_the_answer_stand_beside_those_to_the_first_token_where_there_are_thoughts() -> None:
    results = synthetic_results(items=3, rounds=1, arms=PHONE[:2], crashes=0)
    answers = [
        replace(each, reasoning="Hm.", first_answer_us=2 * each.first_token_us) if each.arm == PHONE[1].label else each
        for each in results.answers
    ]
    thinking = source(replace(results, answers=answers))
    [plain, other] = [each for each in thinking.analysis.latencies if each.kind is None]
    assert (plain.thoughts, other.thoughts) == (0, len(answers) // 2)
    assert other.first_answer is not None
    assert other.first_token is not None
    assert other.first_answer.p50 == pytest.approx(2 * other.first_token.p50)
    assert "first of the answer" in render([thinking])
    assert "first of the answer" not in render([source(results)])
    rows = list(csv.DictReader(io.StringIO(answers_csv([thinking]))))
    assert {row["reasoning"] for row in rows} == {"", '"Hm."'}


def test_json_is_the_summary_that_compare_reads(tmp_path: Path) -> None:
    written = write_report([bench(), evaluation()], tmp_path / "report.html")
    assert [path.name for path in written.analyses] == ["report.1.json", "report.2.json"]
    for path, each in zip(written.analyses, (bench(), evaluation()), strict=True):
        assert read_summary(path).to_json() == each.analysis.to_json()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.1.json", "report.2.json", "report.csv", "report.html",
    ]  # fmt: skip


def test_without_matplotlib_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EdgeMtpError, match=r"pip install 'edge-mtp\[report\]'"):
        write_report([bench()], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


# -- at a terminal --------------------------------------------------------------------------------------------------


def terminal(made: Source, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in summary(made.analysis):
        console.print(part)
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_an_eval_shows_no_speed_and_says_where_it_is_measured() -> None:
    """Its times are those of answers with margins, and the first answers to a shape of prompt count."""
    made = evaluation()
    assert made.analysis.speed_ups  # in the JSON they stay
    assert [each.speed for each in headlines(made.analysis)] == [None] * len(made.analysis.comparisons)
    words, shown = " ".join(terminal(made).split()), page("eval")
    assert "edge-mtp bench" in words
    assert "edge-mtp bench" in shown.inside("p")
    assert not {"speed-up", "slower", "tokens/s"} & set(words.split())
    assert not re.search(r"\d\.\d\dx", shown.inside("body"))
    assert not pictures(made).keys() & {"speed-up.svg", "prompts-1.svg"}
    assert NO_SPEED not in " ".join(terminal(bench()).split())
    assert NO_SPEED not in page("bench").inside("p")


@pytest.mark.parametrize("kind", ["bench", "eval"])
def test_summary_fits_eighty_columns(kind: str) -> None:
    made = bench() if kind == "bench" else evaluation()
    text = terminal(made)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    words = " ".join(text.split())
    is_echo = {calls.arm: calls.echoes is not None for calls in made.analysis.calls}
    for each in headlines(made.analysis):
        if each.speed is not None:
            assert figures.factor(each.speed.ratio.value) in words
        if each.calls is not None and not is_echo[each.arm]:
            assert each.calls.explanation in words
    for calls in made.analysis.calls:
        assert figures.percent(calls.exact.value) in words
    assert ("MTP changed no word of" in words) == any(is_echo.values())


def test_summary_shows_labels_as_they_are() -> None:
    results = bench().results
    label = "[red]x[/red] :smile:"
    arms = [replace(results.run.arms[0], label=label), results.run.arms[1]]
    run = replace(results.run, arms=arms, baseline=label)
    answers = [replace(each, arm=label) if each.arm == PHONE[0].label else each for each in results.answers]
    assert label in terminal(source(replace(results, run=run, answers=answers)), width=200)


def test_summary_of_nothing() -> None:
    results = bench().results
    assert "no arm has answered" in terminal(source(replace(results, answers=[], samples=[])))


def test_siblings_come_first() -> None:
    found = headlines(analyse(synthetic_results(items=8, rounds=1)))
    labels = [arm.label for arm in ARMS]
    assert [(each.arm, each.base) for each in found if each.is_sibling] == [
        (labels[1], labels[0]), (labels[2], labels[0]), (labels[4], labels[3]), (labels[5], labels[3]),
    ]  # fmt: skip
    order = [each.is_sibling for each in found]
    assert order == sorted(order, reverse=True)
    assert {(each.arm, each.base) for each in found if not each.is_sibling} == {(x, labels[0]) for x in labels[3:]}


def test_tone_is_that_of_the_verdict() -> None:
    slow = {PHONE[1].label: 4.0}
    found = headlines(analyse(synthetic_results(items=14, rounds=1, arms=PHONE, slow=slow)))
    assert [each.speed_tone for each in found] == ["bad"]
    assert [each.speed_tone for each in headlines(bench().analysis)] == ["good"]
    few = headlines(analyse(synthetic_results(items=2, rounds=1, arms=PHONE)))
    assert [each.speed_tone for each in few] == ["unsettled"]
    assert [each.calls_tone for each in headlines(evaluation().analysis) if each.calls is None] == []


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.milliseconds(0.4249), "0.42"),
        (figures.milliseconds(9.996), "10.0"),
        (figures.milliseconds(99.96), "100"),
        (figures.milliseconds(1204.4), "1,204"),
        (figures.rate(99.94), "99.9"),
        (figures.percent(0.9234), "92.3%"),
        (figures.percent(1.0), "100%"),
        (figures.percent(0.0), "0%"),
        (figures.signed(-0.04), "0.0"),
        (figures.signed(-1.26), "-1.3"),
        (figures.interval(Estimate(1.0, 0.5, float("inf")), 2), "0.50 to \u221e"),
        (figures.p_value(0.0004), "< 0.001"),
        (figures.p_value(0.0049), "0.0049"),
        (figures.size(2_690_000_000), "2.69 GB"),
    ],
)
def test_figures(shown: str, expected: str) -> None:
    assert shown == expected


# -- the command ----------------------------------------------------------------------------------------------------


def report(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)])


@pytest.fixture(scope="module")
def results_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "bench.jsonl"
    results = synthetic_results(items=7, rounds=1, arms=PHONE)
    with ResultsWriter.create(path, results.run, results.items) as writer:
        for record in (*results.answers, *results.samples, *results.pauses):
            writer.write(record)
    return path


def test_command_writes_all_and_says_so(results_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    result = report(results_file, "-o", page, "--pictures", tmp_path / "charts")
    assert result.exit_code == 0, result.output
    assert "One arm against another" in result.stdout
    for path in (page, tmp_path / "out.csv", tmp_path / "out.json", tmp_path / "charts" / "speed-up.svg"):
        assert path.exists()
        assert str(path) in result.stdout
    assert Page(page.read_text("utf-8")).sections()
    again = report(results_file, "-o", page, "--json")
    value: dict[str, Any] = json.loads(again.stdout)
    assert (value["page"], value["analyses"], value["pictures"]) == (str(page), [str(tmp_path / "out.json")], [])
    finding = value["results"][0]["findings"][0]
    assert (finding["arm"], finding["base"]) == (PHONE[1].label, PHONE[0].label)
    assert finding["words"][0].startswith(f"{PHONE[1].label} decodes ")


def test_pictures_of_calls_are_of_the_eval(tmp_path: Path) -> None:
    asked = source(synthetic_results(items=12, kind="bench", arms=ARMS[:3]), "bench.jsonl")
    write_report([asked, evaluation()], tmp_path / "page.html", tmp_path / "charts")
    for name, of in (("exact.svg", evaluation()), ("errors.svg", evaluation()), ("time-line.svg", asked)):
        assert (tmp_path / "charts" / name).read_text("utf-8") == pictures(of)[name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{results}", "-o", "{tmp}/page.txt"], "is no name of a page; name a .html file"),
        (["{tmp}/none.jsonl", "-o", "{tmp}/page.html"], "cannot read results"),
        (["{results}", "-o", "{tmp}/none/page.html"], "cannot write"),
        (["{results}", "-o", "{tmp}/page.html", "--pictures", "{results}"], "cannot make"),
        (["{tmp}/same.json", "-o", "{tmp}/same.html"], "would be overwritten"),
        (["{tmp}/speed-up.svg", "-o", "{tmp}/page.html", "--pictures", "{tmp}"], "would be overwritten"),
    ],
)
def test_refusals_are_one_line(results_file: Path, tmp_path: Path, words: list[str], message: str) -> None:
    for name in ("same.json", "speed-up.svg"):
        shutil.copy(results_file, tmp_path / name)
    result = report(*(word.format(results=results_file, tmp=tmp_path) for word in words))
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.rglob("*.part"))


# -- in a browser ---------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_page_never_scrolls_sideways(width: int, tmp_path: Path) -> None:
    """With everything opened; measured from outside, in a frame: the page itself allows no scripts."""
    results = synthetic_results(items=14, kind="eval", arms=ARMS)
    long = source(replace(results, run=replace(results.run, command="edge-mtp eval " + "x" * 400)))
    (tmp_path / "page.html").write_text(render([long]).replace("<details>", "<details open>"), "utf-8")
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" style="border:0;width:{width}px;height:600px" onload="'
        'document.title = this.contentDocument.documentElement.scrollWidth"></iframe>'
    )
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,800", "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(\d+)</title>", result.stdout)
    assert found is not None
    assert int(found[1]) <= width
