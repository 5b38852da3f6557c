"""Where two replies part, at what kind of token, and by what cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from edge_mtp.formats.tool_calls import CALL_CLOSE, CALL_OPEN, QUOTE

Cause = Literal["numerics", "accept or rollback"]


def token_kind(before: str, token: str) -> str:
    """What a token is in a reply whose text so far is `before`: digit (or a number's sign or point), call syntax
    (marks, names and keys), string content (of a call's argument), or text."""
    inside = before.rfind(CALL_OPEN) > before.rfind(CALL_CLOSE)
    call = before[before.rfind(CALL_OPEN) :] if inside else ""
    if token in (CALL_OPEN, CALL_CLOSE, QUOTE):
        return "call syntax"
    if re.fullmatch(r"\s*[-+]?[\d.]*\d\s*", token) or (inside and re.fullmatch(r"[-.]", token)):
        return "digit"
    if not inside:
        return "text"
    return "string content" if call.count(QUOTE) % 2 else "call syntax"


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """The first index at which two sequences differ, or one of them has ended; None for equal ones."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))
