"""The page of a report: one results file or several, each in sections. Sections without data are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edge_mtp.harness.analyse.analysis import NO_SPEED, incompletion, refusal
from edge_mtp.harness.analyse.paired_calls import MARGIN
from edge_mtp.harness.stats import figures
from edge_mtp.harness.tell.headline import SIGNS, calls_tone, is_identical, speed_tone
from edge_mtp.harness.tell.report.calls_section import MOST_PARTINGS, MOST_WRONG, CallsSection
from edge_mtp.harness.tell.report.device_section import DeviceSection
from edge_mtp.harness.tell.report.drafts_section import DraftsSection
from edge_mtp.harness.tell.report.facts import Facts, Source
from edge_mtp.harness.tell.report.speed_section import MEASURES, SpeedSection
from edge_mtp.harness.tell.report.svg import Chart, variables
from edge_mtp.harness.tell.summary_table import simulated_notice

TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class Part(Facts):
    """One results file on a page: what stands above its sections, and the sections."""

    @cached_property
    def speed(self) -> SpeedSection:
        return SpeedSection(self)

    @cached_property
    def drafts(self) -> DraftsSection:
        return DraftsSection(self)

    @cached_property
    def calls(self) -> CallsSection:
        return CallsSection(self)

    @cached_property
    def device(self) -> DeviceSection:
        return DeviceSection(self)

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
        found += [refusal(arm, reason) for arm, reason in self.analysis.refused.items()]
        found += [f"{arm}: {sentence}" for arm, sentence in self.analysis.misfits.items()]
        cut = incompletion(self.results)
        return [*found, cut] if cut else found

    @property
    def finishes(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """How often each arm's answers ended in what way."""
        return {label: Counter(a.finish for a in answers).most_common() for label, answers in self.answers.items()}

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The sections that there are: id and title."""
        run = self.analysis.run
        speed: dict[tuple[str, str], Any] = {
            ("speed", "Speed"): run.measures_speed and (self.speed.speed_pairs or self.latencies),
            ("drafts", "Drafts"): self.drafts.drafting,
        }
        calls: dict[tuple[str, str], Any] = {("calls", "Tool calls"): self.analysis.calls}
        sections = {
            ("found", "What was found"): self.headlines,
            **(speed | calls if run.kind == "bench" else calls | speed),
            ("device", "The device under load"): self.device.is_there,
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
    """The charts that `--pictures` writes, by file name: speed, one reply and tool calls, where there are any."""
    part = Part(source, "")
    time_line = part.drafts.time_line.chart if part.drafts.time_line and source.analysis.run.measures_speed else None
    found: list[Chart | None] = [part.speed.speed_chart, time_line, part.calls.error_chart]
    found += [chart for chart, _ in part.speed.prompt_charts[:1]] + part.calls.exact_charts[:1]
    return {f"{chart.name}.svg": chart.standalone for chart in found if chart is not None}


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
