"""Sets of characters as sorted ranges of code points. No set contains surrogates, which are not characters."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

from edge_mtp.errors import EdgeMtpError

Range = tuple[int, int]  # first and last, both included
Ranges = tuple[Range, ...]

LAST = 0x10FFFF
ALL: Ranges = ((0, 0xD7FF), (0xE000, LAST))
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = (
    *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))

_CATEGORIES = {
    "letter": "L",
    "lowercase_letter": "Ll",
    "uppercase_letter": "Lu",
    "titlecase_letter": "Lt",
    "modifier_letter": "Lm",
    "other_letter": "Lo",
    "mark": "M",
    "number": "N",
    "decimal_number": "Nd",
    "digit": "Nd",
    "letter_number": "Nl",
    "other_number": "No",
    "punctuation": "P",
    "symbol": "S",
    "separator": "Z",
    "space_separator": "Zs",
}


def union(ranges: Iterable[Range]) -> Ranges:
    """Sorts and joins any ranges, and removes surrogates."""
    joined: list[Range] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return intersection(tuple(joined), ALL)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    result: list[Range] = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            result.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(result)


def complement(ranges: Ranges) -> Ranges:
    result: list[Range] = []
    begin = 0
    for low, high in ranges:
        if low > begin:
            result.append((begin, low - 1))
        begin = high + 1
    if begin <= LAST:
        result.append((begin, LAST))
    return intersection(tuple(result), ALL)


@cache
def category(name: str) -> Ranges:
    """The characters of a Unicode general category (`L`, `Lu`, `Letter`), as in `\\p{...}`."""
    for prefix in ("General_Category=", "gc="):
        name = name.removeprefix(prefix)
    if name == "ASCII":
        return ((0, 0x7F),)
    short = _CATEGORIES.get(name.lower(), name)
    found = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)).startswith(short)] if short else []
    if not found or len(short) > 2 or short == "C":
        raise EdgeMtpError(f"\\p{{{name}}}, which is not known here; use a general category such as L, Lu or Nd")
    return union((c, c) for c in found)
