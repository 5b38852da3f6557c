"""The section on devices: their sensors during the run, its pauses, memory and energy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from edge_mtp.harness.record.results import Sample
from edge_mtp.harness.stats import figures
from edge_mtp.harness.tell.report import charts
from edge_mtp.harness.tell.report.facts import Facts
from edge_mtp.harness.tell.report.svg import Chart

MOST_LINES = 4  # sensors in a chart


class DeviceSection:
    """Temperatures and frequencies, throttling, pauses, memory and energy."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @property
    def is_there(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.courses or self.pauses or self.throttled or self.has_memory)

    @cached_property
    def courses(self) -> list[Chart]:
        found: list[Chart] = []
        for number, device in enumerate(self.facts.analysis.run.devices):
            samples = [each for each in self.facts.results.samples if each.device == device]
            pauses = [each for each in self.facts.results.pauses if each.device == device]
            for name, unit, values in (
                ("temperature", "°C", lambda sample: sample.sensors.temperatures_c),
                ("frequency", "MHz", lambda sample: sample.sensors.frequencies_mhz),
            ):
                if lines := _lines(samples, values):
                    title = f"{name.capitalize()} of {device}"
                    found.append(charts.course(f"{self.facts.key}{name}-{number}", title, lines, unit, pauses))
        return found

    @property
    def throttled(self) -> list[str]:
        """What Android said of heat, a sentence a device."""
        found = []
        for device in self.facts.analysis.run.devices:
            stages = [
                each.sensors.thermal_status
                for each in self.facts.results.samples
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
        for each in self.facts.results.pauses:
            # What differs from pause to pause is a number: `cools down from 41.2 C`.
            found.setdefault((each.device, re.sub(r"\d+(\.\d+)?", "…", each.reason)), []).append(each.seconds)
        return [(device, reason, len(seconds), sum(seconds)) for (device, reason), seconds in found.items()]

    @property
    def has_memory(self) -> bool:
        return any(
            figure is not None
            for each in self.facts.latencies
            for figure in (each.peak_rss_bytes, each.peak_anonymous_bytes, each.energy_mj_per_token)
        )

    @property
    def energy_notes(self) -> list[str]:
        """Why energy is not known: once, or for each arm where reasons differ."""
        notes = {each.arm: each.energy_note.rstrip(".") for each in self.facts.latencies if each.energy_note}
        if len(set(notes.values())) == 1:
            return list(notes.values())[:1]
        return [f"{arm}: {note}" for arm, note in notes.items()]


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
