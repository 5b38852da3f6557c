"""Figures as a person reads them. Imports nothing heavy: every verb may use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_mtp.harness.stats.statistics import Estimate

NONE = "-"  # where nothing was measured
UNKNOWN = "too few to tell"  # in place of an interval without ends


def milliseconds(value: float) -> str:
    """Three figures, whole numbers from 100 on: `0.42`, `38.2`, `1,204`."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def factor(value: float) -> str:
    return f"{value:.2f}x"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def percent(value: float) -> str:
    """`92.3%`, for a share; whole where nothing else is possible."""
    return f"{100 * value:.0f}%" if value in (0, 1) else f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """With its sign, and one decimal."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def interval(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """`1.09 to 1.32`; `UNKNOWN` where nothing is excluded."""
    if is_unbounded(estimate):
        return UNKNOWN
    low, high = (_end(scale * end, digits) for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def is_unbounded(estimate: Estimate) -> bool:
    """Whether an interval of a ratio or of a difference excludes nothing, since the items are too few."""
    return math.isinf(estimate.high) and estimate.low in (0.0, -math.inf)


def points(estimate: Estimate) -> str:
    """A difference of shares: `-0.4 points (-1.1 to +0.3)`."""
    value, low, high = (signed(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} points ({low} to {high})"


def about(count: float) -> int:
    """A number of items, 1 or more, rounded up to two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def spoken_p(value: float) -> str:
    """`p = 0.012`."""
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def size(count: int | None) -> str:
    """Bytes in decimal units, three figures: `2.69 GB`; `NONE` for None."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def count_of(number: int | Sized, noun: str) -> str:
    """`1 draft`, `1,204 drafts`; of a collection the number of its members."""
    number = number if isinstance(number, int) else len(number)
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """`0..3,5` for 0 1 2 3 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def _end(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.{digits}f}"
