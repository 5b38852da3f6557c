"""The charts of a report, but for the time line. Each stands by itself and is as wide as a phone.

Colours never say anything that shape, place or words do not say too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mtp.harness.analyse.latency import DraftPosition
from edge_mtp.harness.analyse.speed_up import SpeedUp
from edge_mtp.harness.record.results import Pause
from edge_mtp.harness.stats.figures import milliseconds, signed
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.report.drawing import WIDTH, caption, new_figure, ticks
from edge_mtp.harness.tell.report.svg import Chart, arm_marker, arm_role, chart, colour

MOST_DOTS = 160

Numbers = npt.NDArray[np.float64]


class Row(NamedTuple):
    """Values of arm number `arm`."""

    label: str
    arm: int
    values: Numbers


class Interval(NamedTuple):
    """A figure of arm number `arm`."""

    label: str
    arm: int
    estimate: Estimate


class Axis(NamedTuple):
    """A scale of figures: its name, the figure to hold the others against, its ends where they are given."""

    name: str
    reference: float | None = None
    limit: float | None = None  # a second such figure, drawn dashed
    ends: tuple[float, float] | None = None
    logarithmic: bool = False
    unit: str = ""


class Line(NamedTuple):
    """A sensor's values over seconds."""

    label: str
    at_s: Sequence[float]
    values: Sequence[float]


def spread(name: str, title: str, rows: Sequence[Row]) -> Chart:
    """Times in milliseconds, positive: of each row the density, 5 to 95 %, quartiles, median and 99 %."""
    low = min(float(row.values.min()) for row in rows)
    high = max(float(np.quantile(row.values, 0.995)) for row in rows)
    logarithmic = high > 4 * low
    # Room for the slopes of the hills.
    room = (high / low) ** 0.06 if logarithmic else 0.08 * (high - low) or 0.2 * high
    low, high = (low / room, high * room) if logarithmic else (max(0.0, low - room), high + room)
    with new_figure(WIDTH, 42 + 58 * len(rows)) as (figure, axes):
        axes.set_xscale("log" if logarithmic else "linear")
        edges = np.geomspace(low, high, 81) if logarithmic else np.linspace(low, high, 81)
        middles = np.sqrt(edges[1:] * edges[:-1]) if logarithmic else (edges[1:] + edges[:-1]) / 2
        for index, row in enumerate(rows):
            role = colour(arm_role(row.arm))
            ridge = index - 0.34 * _density(row.values, edges)
            axes.fill_between(middles, ridge, index, color=role, alpha=0.25, linewidth=0)
            axes.plot(middles, ridge, color=role, linewidth=1)
            p5, p25, p50, p75, p95, p99 = np.quantile(row.values, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
            y = index + 0.14
            axes.plot([p5, p95], [y, y], color=role, linewidth=1.5)
            axes.plot([p25, p75], [y, y], color=role, linewidth=6, solid_capstyle="butt")
            axes.plot([p99], [y], "|", color=role, markersize=9, markeredgewidth=1.5)
            axes.plot([p50], [y], "o", color=colour("paper"), markeredgecolor=role, markersize=7, markeredgewidth=2)
            caption(axes, index - 0.54, row.label, f"{milliseconds(p50)} ms")
        axes.set_ylim(len(rows) - 0.70, -0.70)
        axes.set_xlim(low, high)
        ticks(axes, low, high, logarithmic)
        axes.set_xlabel("milliseconds")
        axes.grid(axis="x")
        said = ", ".join(f"{row.label} {milliseconds(float(np.median(row.values)))} ms" for row in rows)
        return chart(figure, name, title, f"Distribution of times of each arm. Medians: {said}.")


def prompts(name: str, speed_up: SpeedUp) -> Chart:
    """The speed-up of every prompt, sorted, above and below the line of 1."""
    ratios = np.sort([item.ratio for item in speed_up.items])
    count, slower = len(ratios), int((ratios < 1).sum())
    if count > MOST_DOTS:
        ratios = np.quantile(ratios, np.linspace(0, 1, MOST_DOTS))
    x = (np.arange(len(ratios)) + 0.5) / len(ratios) * 100
    estimate = speed_up.ratio
    with new_figure(WIDTH, 220) as (figure, axes):
        axes.set_yscale("log")
        bottom, top = min(0.9, float(ratios[0]) / 1.06), max(1.12, float(ratios[-1]) * 1.06)
        ends = max(estimate.low, bottom), min(estimate.high, top)
        axes.axhspan(*ends, color=colour("band"), linewidth=0, zorder=0)
        axes.axhline(estimate.value, color=colour("muted"), linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.axhline(1.0, color=colour("ink"), linewidth=1.2, zorder=1)
        for chosen, role, marker in ((ratios >= 1, "good", "^"), (ratios < 1, "bad", "v")):
            axes.vlines(x[chosen], 1.0, ratios[chosen], color=colour(role), linewidth=1, alpha=0.4, zorder=2)
            axes.plot(x[chosen], ratios[chosen], marker, color=colour(role), markersize=4.5, linewidth=0, zorder=3)
        axes.set_ylim(bottom, top)
        axes.set_xlim(0, 100)
        ticks(axes, bottom, top, True, "x", axes.yaxis)
        axes.set_xlabel("% of prompts, from the slowest")
        axes.grid(axis="y")
        title = f"{speed_up.arm} against {speed_up.base}"
        said = f"{count} prompts, {slower} of them slower. The median is {estimate.value:.2f} times as fast"
        return chart(figure, name, title, f"Speed-up of every prompt, sorted. {said}.")


def intervals(
    name: str, title: str, groups: Mapping[str, Sequence[Interval]], axis: Axis, *, is_named: bool = False
) -> Chart:
    """Figures with their intervals, in groups that may have a name. `is_named`: each figure has its label above it."""
    rows = [(group, each) for group, members in groups.items() for each in members]
    low, high = axis.ends or _ends([each.estimate for _, each in rows], axis)
    line, gap = (38, 26) if is_named else (14, 24)
    with new_figure(WIDTH, 46 + line * len(rows) + gap * sum(map(bool, groups))) as (figure, axes):
        axes.set_xscale("log" if axis.logarithmic else "linear")
        if axis.reference is not None:
            axes.axvline(axis.reference, color=colour("ink"), linewidth=1.2, zorder=1)
        if axis.limit is not None:
            axes.axvline(axis.limit, color=colour("muted"), linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        y = 0.0
        for group, members in groups.items():
            if group:
                caption(axes, y + 0.62 * gap, group, is_quiet=is_named)
                y += gap
            for each in members:
                role, at = colour(arm_role(each.arm)), y + line * (0.76 if is_named else 0.5)
                value, *reach = (min(max(x, low), high) for x in each.estimate.to_json().values())
                if is_named:
                    caption(axes, y + 0.34 * line, each.label, _shown(each.estimate.value, axis))
                axes.plot(reach, [at, at], color=role, linewidth=2, solid_capstyle="butt", zorder=2)
                axes.plot([value], [at], arm_marker(each.arm), color=role, markersize=6.5, zorder=3, clip_on=False)
                y += line
        axes.set_ylim(y + 4, 0)
        axes.set_xlim(low, high)
        ticks(axes, low, high, axis.logarithmic, axis.unit)
        axes.set_xlabel(axis.name)
        axes.grid(axis="x")
        said = "; ".join(
            f"{group + ', ' if group else ''}{each.label} {_shown(each.estimate.value, axis)}" for group, each in rows
        )
        return chart(figure, name, title, f"{axis.name}, with 95% intervals. {said}.")


def acceptance(name: str, title: str, series: Sequence[tuple[str, int, Sequence[DraftPosition]]]) -> Chart:
    """Share of drafts accepted at each position, of the steps that got there; `series`: label, arm, positions."""
    most = max(len(positions) for _, _, positions in series)
    with new_figure(WIDTH, 200) as (figure, axes):
        for index, (_, arm, positions) in enumerate(series):
            role, shift = colour(arm_role(arm)), 0.5 * ((index + 0.5) / len(series) - 0.5)
            x = [each.position + shift for each in positions]
            shares = [each.share.scaled(100) for each in positions]
            axes.vlines(x, [s.low for s in shares], [s.high for s in shares], color=role, linewidth=2)
            axes.plot(x, [s.value for s in shares], color=role, linewidth=0.8)
            axes.plot(x, [s.value for s in shares], arm_marker(arm), color=role, markersize=6.5, clip_on=False)
        axes.set_ylim(0, 100)
        axes.set_xlim(0.5, most + 0.5)
        axes.set_xticks(range(1, most + 1))
        axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("position of the draft in its step")
        axes.grid(axis="y")
        said = "; ".join(
            f"{label} " + ", ".join(f"{each.share.value:.0%}" for each in positions) for label, _, positions in series
        )
        return chart(figure, name, title, f"Share of drafts accepted at positions 1 to {most}. {said}.")


def planned(name: str, title: str, rows: Sequence[tuple[str, Mapping[int, float]]]) -> Chart:
    """Share of steps by the number of drafts asked for, a bar an arm."""
    with new_figure(WIDTH, 42 + 44 * len(rows)) as (figure, axes):
        for index, (label, shares) in enumerate(rows):
            left, y = 0.0, index + 0.13
            for k, share in sorted(shares.items()):
                width = 100 * share
                fill, edge = colour(f"k-{min(k, 6)}"), colour("paper")
                axes.barh(y, width, 0.46, left, color=fill, edgecolor=edge, linewidth=1.5)
                if width > 6:
                    axes.text(left + width / 2, y, str(k), color=colour("ink"), ha="center", va="center")
                left += width
            most = max(shares, key=lambda k: shares[k])
            caption(axes, index - 0.32, label, f"mostly {most}")
        axes.set_ylim(len(rows) - 0.55, -0.62)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of steps, by the number of drafts asked for")
        said = "; ".join(
            f"{label}: " + ", ".join(f"{k} in {share:.0%}" for k, share in sorted(shares.items()))
            for label, shares in rows
        )
        return chart(figure, name, title, f"Drafts asked for, a step. {said}.")


def course(name: str, title: str, lines: Sequence[Line], unit: str, pauses: Sequence[Pause]) -> Chart:
    """Sensors over the run, with its pauses as bands. At least one line of one value."""
    end = max(max(line.at_s) for line in lines)
    scale, clock = (60.0, "minutes") if end > 180 else (1.0, "seconds")
    low = min(min(line.values) for line in lines)
    high = max(max(line.values) for line in lines)
    room = max(0.08 * (high - low), 1.0)
    with new_figure(WIDTH, 210 + 15 * len(lines)) as (figure, axes):
        for pause in pauses:
            axes.axvspan(
                pause.at_s / scale, (pause.at_s + pause.seconds) / scale, color=colour("band"), linewidth=0, zorder=0
            )
        for index, line in enumerate(lines):
            at, values = _thinned(np.asarray(line.at_s) / scale, np.asarray(line.values, float))
            style = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))[index % 4]
            axes.plot(at, values, color=colour(arm_role(index + 1)), linewidth=1.5, linestyle=style, label=line.label)
        axes.set_ylim(low - room, high + room)
        axes.set_xlim(0, max(end / scale, 1e-3))
        ticks(axes, low - room, high + room, False, "", axes.yaxis)
        ticks(axes, 0, end / scale, False)
        axes.set_xlabel(clock)
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.set(h_pad=5 / 72)  # type: ignore[call-arg]  # of constrained layout
        legend = figure.legend(loc="outside upper left", frameon=False, handlelength=2.6, borderpad=0, ncols=1)
        for text in legend.get_texts():
            text.set_color(colour("ink"))
        said = "; ".join(f"{line.label} {min(line.values):g} to {max(line.values):g} {unit}" for line in lines)
        return chart(figure, name, title, f"{title} over {end / scale:.0f} {clock}. {said}. {len(pauses)} pauses.")


def _ends(estimates: Sequence[Estimate], axis: Axis) -> tuple[float, float]:
    """The ends of an axis with all figures, and with their intervals as far as they are finite and not too far."""
    values = [each.value for each in estimates]
    values += [x for x in (axis.reference, axis.limit) if x is not None]
    reach = [x for each in estimates for x in (each.low, each.high) if math.isfinite(x)]
    if axis.logarithmic:
        reach = [x for x in reach if min(values) / 4 <= x <= max(values) * 4]
        low, high = min(values + reach), max(values + reach)
        room = max(high / low, 1.05) ** 0.06
        return low / room, high * room
    low, high = min(values + reach), max(values + reach)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _density(values: Numbers, edges: Numbers) -> Numbers:
    """A smooth histogram, at most 1."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].astype(float)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth: Numbers = np.convolve(counts, kernel, "same")
    smooth /= smooth.max()
    return smooth


def _thinned(x: Numbers, y: Numbers, most: int = 400) -> tuple[Numbers, Numbers]:
    """At most so many points, each the mean of as many neighbours."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def _shown(value: float, axis: Axis) -> str:
    if axis.logarithmic:
        return f"{value:.2f}{axis.unit}"
    return f"{signed(value)}{axis.unit}" if axis.reference == 0 else f"{value:.1f}{axis.unit}"
