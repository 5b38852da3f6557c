"""How a reply writes a call: what it seems to mean, and what is wrong in its syntax (docs/tool-call-errors.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.formats.lenient_calls import MARK, read_calls
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    IDENTIFIER,
    QUOTE,
    Declared,
    ToolCall,
    ToolCallSyntaxError,
    parse_call,
)

_KEY = re.compile(rf"{IDENTIFIER.pattern}:")
_NEXT_KEY = re.compile(rf"[\s,;]*{IDENTIFIER.pattern}\s*[:=]")
_LAST_WORD = re.compile(r"[\w.+\-]*")
_VALUE_BEFORE = re.compile(r"[^,:\[\]{}<>\"]*\Z")
_VALUE_BEHIND = re.compile(r"[^,\]}<]*")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]*)?", re.ASCII)
_LITERALS = ("true", "false", "null", "none")
_OTHER_QUOTES = ('"', "'", "`", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}")


@dataclass(frozen=True)
class CallSyntax:
    """One opening mark and the text behind it, up to the call's end.

    `calls` are the calls that the text makes, as a forgiving parser reads them where the strict parser refuses.
    `labels` name syntax errors and duplicate_key; empty for a call in the strict format. `shown` is the text around the
    place where the strict parser stopped. `is_cut`: the text ended before the arguments did.
    """

    text: str
    calls: tuple[ToolCall, ...]
    labels: tuple[str, ...] = ()
    shown: str = ""
    is_cut: bool = False


def read_call_syntax(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> list[CallSyntax]:
    """The calls in a reply, right or wrong, in order. `tools` are the declared tools."""
    return list(_read(text, Declared(tools)))


def _read(text: str, declared: Declared) -> Iterator[CallSyntax]:
    position = text.find(CALL_OPEN)
    while position >= 0:
        begin = position
        try:
            call, position = parse_call(text, begin, declared)
            yield CallSyntax(text[begin:position], (call,))
        except ToolCallSyntaxError as error:
            attempt = _failed(text, begin, error, declared)
            position = begin + len(attempt.text)
            yield attempt
        position = text.find(CALL_OPEN, position)


def _failed(text: str, begin: int, error: ToolCallSyntaxError, declared: Declared) -> CallSyntax:
    """A call that the strict parser refused; it reaches to the next mark at most."""
    mark = MARK.search(text, begin + len(CALL_OPEN))
    end = mark.start() if mark else len(text)
    is_closed = mark is not None and mark.group() == CALL_CLOSE
    expected, stopped = error.expected, error.position
    if stopped > end:  # in another call, which a string without an end has reached
        expected, stopped = "the end of a string", text.rfind(QUOTE, begin, end) + len(QUOTE)
    labels = _labels(text[begin:stopped], text[stopped:end], expected, is_closed=is_closed)
    return CallSyntax(
        text[begin : end + len(CALL_CLOSE) if is_closed else end],
        tuple(read_calls(text[begin + len(CALL_OPEN) : end], declared, is_cut=mark is None)),
        labels,
        text[max(begin, stopped - 20) : min(end, stopped + 40)],
        is_cut=not is_closed and expected != CALL_CLOSE,
    )


def _labels(before: str, rest: str, expected: str, *, is_closed: bool) -> tuple[str, ...]:
    """`before` was read, `rest` is what there is up to the next mark, where the grammar has `expected`."""
    if is_closed:
        if expected == "the end of a string":
            return ("wrong_quote",)
        if not rest.strip() and expected not in ("call:", "a tool name", "{"):
            return ("unclosed",)
        return (_label(before, rest, expected),)
    if expected == "the end of a string" or _LAST_WORD.fullmatch(rest.strip()):
        return ("unclosed",)
    return ("unclosed", _label(before, rest, expected))


def _label(before: str, rest: str, expected: str) -> str:
    """The label of what stands where the grammar has something else."""
    follows = rest.lstrip()
    if expected == "a new key":
        return "duplicate_key"
    if expected == "a key":
        is_delimiter = follows[:1] in (",", "}", "]", ")") or (follows != rest and _KEY.match(follows))
        return "bad_delimiter" if is_delimiter else "bad_key"
    if expected == ":":
        return "bad_delimiter" if follows.startswith((":", "=", "{", "[", QUOTE, *_OTHER_QUOTES)) else "bad_key"
    if expected == "a value":
        if follows != rest or follows[:1] in (",", "}", "]", ")"):
            return "bad_delimiter"
        return _label_of_value(_behind(follows))
    if expected == ",":
        if _NEXT_KEY.match(rest) or follows[:1] in (",", "}", "]", ")", ""):
            return "bad_delimiter"
        if before.endswith(QUOTE):  # the string went on
            return "wrong_quote"
        found = _VALUE_BEFORE.search(before)
        return _label_of_value((found.group() if found else "") + _behind(rest))
    return "bad_delimiter"


def _label_of_value(text: str) -> str:
    """A value that is not in the format: a number or a literal misspelled, or a string without its marks."""
    is_scalar = _NUMBER.fullmatch(text.strip()) or text.strip().lower() in _LITERALS
    return "bad_delimiter" if is_scalar or not text.strip() else "wrong_quote"


def _behind(text: str) -> str:
    found = _VALUE_BEHIND.match(text)
    return found.group() if found else ""
