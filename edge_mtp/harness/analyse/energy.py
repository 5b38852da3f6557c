"""What answers cost a device's battery, where it can tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Sample

LEAST_SPANS = 20  # between two samples that lie within one answer
PLAUSIBLE_W = (0.05, 100.0)  # of a device that runs a model


class Energy(NamedTuple):
    """Millijoules a token of the whole device, screen and radios included; None where `note` says why not."""

    mj_per_token: float | None
    note: str


def energy(answers: Sequence[Answer], samples: Sequence[Sample]) -> Energy:
    """What a token of `answers` took of the battery, by `samples` of the sensors of the device that gave them.

    Current times voltage, integrated (trapezoids) between neighbouring samples that lie within one answer; the power
    so measured counts for the answers' whole time. Which sign a discharging current has is the vendor's choice, so
    its magnitude counts, and only of samples that say that the battery is not charging. Gauges average over up to
    some seconds, so answers that are not much longer take a part of what came before them.
    """
    tokens = sum(len(answer.tokens) or answer.count for answer in answers)
    if not samples or not tokens:
        return Energy(None, "no sample of a battery")
    told = [sample.sensors for sample in samples]
    if all(each.battery_current_ua is None or each.battery_voltage_v is None for each in told):
        return Energy(None, "the device tells no battery current and voltage")
    ordered = sorted(samples, key=lambda sample: sample.at_s)
    if not any(_watts(sample) is not None for sample in ordered):
        return Energy(None, "the battery was charging, or did not say that it was not; unplug the device")
    joules = seconds = 0.0
    spans = 0
    moments = iter(itertools.pairwise(ordered))
    pair = next(moments, None)
    for begin, end in sorted((answer.at_s, answer.at_s + answer.total_us / 1e6) for answer in answers):
        while pair is not None and pair[0].at_s < begin:
            pair = next(moments, None)
        while pair is not None and pair[1].at_s <= end:
            one, two = _watts(pair[0]), _watts(pair[1])
            if one is not None and two is not None:
                passed = pair[1].at_s - pair[0].at_s
                joules, seconds, spans = joules + (one + two) / 2 * passed, seconds + passed, spans + 1
            pair = next(moments, None)
    if spans < LEAST_SPANS or not seconds:
        return Energy(
            None,
            f"{spans} of at least {LEAST_SPANS} pairs of battery samples within one answer; ask for longer answers",
        )
    power_w = joules / seconds
    if not PLAUSIBLE_W[0] <= power_w <= PLAUSIBLE_W[1]:
        return Energy(
            None, f"the battery's {power_w:.2g} W is no power of a running device; its unit is not microampere"
        )
    answered_s = sum(answer.total_us for answer in answers) / 1e6
    return Energy(1e3 * power_w * answered_s / tokens, f"{power_w:.2g} W of the whole device over {seconds:.0f} s")


def _watts(sample: Sample) -> float | None:
    sensors = sample.sensors
    if sensors.battery_charging is not False or sensors.battery_current_ua is None or sensors.battery_voltage_v is None:
        return None
    return abs(sensors.battery_current_ua) / 1e6 * sensors.battery_voltage_v
