"""Figures as a person reads them."""

from __future__ import annotations


def size(count: int | None) -> str:
    """Bytes in decimal units, three figures: `2.69 GB`; `-` for None."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def table(rows: list[list[str]]) -> list[str]:
    """Lines with the columns of `rows`, the first row being their heads, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
