"""Columns as a person reads them."""

from __future__ import annotations


def table(rows: list[list[str]]) -> list[str]:
    """Lines with the columns of `rows`, the first row being their heads, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
