"""What the charts of a report are drawn with: figures, captions and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.tell.report.svg import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MplAxis
    from matplotlib.figure import Figure

WIDTH = 372  # CSS pixels
WIDE = 1040
TEXT = 12  # CSS pixels
MOST_LETTERS = 54


@contextmanager
def new_figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many CSS pixels with one pair of axes. Raises EdgeMtpError without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeMtpError(
            "a report needs matplotlib, which is not installed: pip install 'edge-mtp[report]'"
        ) from error
    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": colour("line"),
        "axes.facecolor": "none",
        "axes.labelcolor": colour("muted"),
        "axes.labelpad": 3,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.h_pad": 0.02,
        "figure.constrained_layout.w_pad": 0.02,
        "font.size": TEXT,
        "grid.color": colour("line"),
        "grid.linewidth": 0.8,
        "text.color": colour("ink"),
        "text.parse_math": False,  # a label may hold a dollar sign
        "xtick.color": colour("muted"),
        "xtick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.color": colour("muted"),
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    with rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        axes = figure.subplots()
        axes.set_yticks([])
        yield figure, axes


def caption(
    axes: Axes, y: float, text: str, figure: str = "", most: int = MOST_LETTERS, *, is_quiet: bool = False
) -> None:
    """What stands at height `y`: a text on the left, a figure on the right."""
    where = axes.get_yaxis_transform()
    behind = {"facecolor": colour("paper"), "edgecolor": "none", "pad": 1.5}
    most -= len(figure)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    shade = colour("muted" if is_quiet else "ink")
    axes.text(0.0, y, text, transform=where, va="center", ha="left", color=shade, bbox=behind)
    if figure:
        axes.text(1.0, y, figure, transform=where, va="center", ha="right", color=colour("muted"), bbox=behind)


def ticks(axes: Axes, low: float, high: float, logarithmic: bool, unit: str = "", axis: MplAxis | None = None) -> None:
    """Few round marks, on the horizontal axis unless told otherwise."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    marks: list[float] = []
    if logarithmic and high > 4 * low:
        steps = (1, 2, 5) if high < 200 * low else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    if len(marks) < 2:
        marks = [float(x) for x in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= x <= high]
    chosen = axes.xaxis if axis is None else axis
    chosen.set_major_locator(FixedLocator(marks))
    chosen.set_minor_locator(NullLocator())
    chosen.set_ticklabels([f"{tick:,.6g}{unit}" for tick in marks])
