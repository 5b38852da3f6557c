"""Finds the repairs of a damaged tool call: every well-formed text from which it differs by one lost or doubled mark.

The marks are those of Gemma's format: `call:`, brackets, commas, colons and `<|"|>`. White space between them is
allowed, and so are consistent deviations: another quotation mark instead of `<|"|>`, also around keys, `=` for `:`, `(`
for `{`. If two repairs differ, it is unknown which one the model meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from edge_mtp.formats.tool_calls import IDENTIFIER, NUMBER, PLAIN_NAME, QUOTE, Declared

HEAD = "call:"
QUOTES = (QUOTE, '"', "'", "`")
_MARKS = (",", ":", "{", "}", "[", "]")
_LIKE = {"=": ":", "(": "{", ")": "}"}
_SPACE = re.compile(r"\s*")
_LETTERS = re.compile(r"[\w+\-.]+", re.ASCII)
_SCALAR = re.compile(rf"true|false|null|none|{NUMBER.pattern}", re.ASCII | re.IGNORECASE)
_END_OF_STRING = re.compile(r"(?=\s*(?:[,\]})]|\Z))")
_BEGINS_OR_ENDS = {q: re.compile(rf"[:=\[,({{]\s*{q}|{q}\s*(?:[:=,\]}})]|\Z)") for q in QUOTES[1:]}
_STEPS_A_CHARACTER = 32  # limit of a search; lists of some hundred numbers without their bracket exceed it


class TooManyError(Exception):
    """The text has more repairs than can be examined."""


class _State(NamedTuple):
    """The state of a reader of the format: what must come next, the open brackets, and the called tool."""

    due: str  # head, name, open, key, key or end, key string, colon, value, value or end, string, end of value, end
    brackets: str = ""
    name: str = ""


class Repairs:
    """Iterates over the repaired texts of `text`, the inside of a call; empty if it needs no repair.

    In repaired texts, strings stand between `<|"|>`. A text with several kinds of quotation marks has no repairs, since
    it is unknown which kind are marks. Raises `TooManyError` after too many steps for the text's length.
    """

    def __init__(self, text: str, declared: Declared) -> None:
        self.text = text
        self.declared = declared
        self.quote = _quotation_mark(text)
        self.marks = (self.quote, *_MARKS)
        self.steps = _STEPS_A_CHARACTER * len(text) + 1000

    def __iter__(self) -> Iterator[str]:
        if not self.quote:
            return
        trail = list(self._read(0, _State("head")))
        if self._is_end(*trail[-1]):
            return
        for position, state in trail:
            # A doubled mark.
            for mark in self.marks:
                doubled = self.text.startswith(mark, position) and self.text.endswith(mark, 0, position)
                if doubled and self._is_whole(position + len(mark), state):
                    yield self._in_format(position, "", position + len(mark))
            # A lost mark: before the next piece of text, inside it or after it.
            for cut, before in self._cuts(position, state):
                for mark in (HEAD,) if before.due == "head" else self.marks:
                    after = self._behind(before, mark)
                    if after is not None and self._is_whole(cut, after):
                        yield self._in_format(cut, mark, cut)

    def _in_format(self, begin: int, mark: str, end: int) -> str:
        return (self.text[:begin] + mark + self.text[end:]).replace(self.quote, QUOTE)

    def _cuts(self, position: int, state: _State) -> Iterator[tuple[int, _State]]:
        yield position, state
        if state.due == "string":
            end = self.text.find(self.quote, position)
            for found in _END_OF_STRING.finditer(self.text, position, end if end >= 0 else len(self.text)):
                self._take_step()
                if found.start() > position:
                    yield found.start(), state
            return
        begin = self._space(position)
        for word, after in self._words(begin, state):
            yield begin + len(word), after

    def _read(self, position: int, state: _State) -> Iterator[tuple[int, _State]]:
        """The positions and states of a reader that continues from `position`, until the text leaves the format."""
        yield position, state
        while (step := self._step(position, state)) is not None:
            self._take_step()
            yield step
            position, state = step

    def _is_whole(self, position: int, state: _State) -> bool:
        *_, last = self._read(position, state)
        return self._is_end(*last)

    def _is_end(self, position: int, state: _State) -> bool:
        return state.due == "end" and self._space(position) == len(self.text)

    def _step(self, position: int, state: _State) -> tuple[int, _State] | None:
        if "string" in state.due:
            end = self.text.find(self.quote, position)
            after = self._behind(state, self.quote)
            return None if end < 0 or after is None else (end + len(self.quote), after)
        position = self._space(position)
        *_, (word, after) = ("", None), *self._words(position, state)
        if after is not None:
            return position + len(word), after
        mark = next((m for m in (HEAD, *self.marks, *_LIKE) if self.text.startswith(m, position)), "")
        after = self._behind(state, mark)
        return None if after is None else (position + len(mark), after)

    def _words(self, position: int, state: _State) -> Iterator[tuple[str, _State]]:
        """The names, keys or scalars that can come next, with the state after each; the last is the whole word."""
        due, brackets, name = state
        if due == "name":
            known = [n for n in reversed(self.declared.names) if self.text.startswith(n, position)]
            yield from ((n, _State("open", brackets, n)) for n in [*self._beginnings(PLAIN_NAME, position), *known])
        elif due in ("key", "key or end"):
            known = [k for k in reversed(self.declared.keys(name)[0]) if self.text.startswith(k, position)]
            yield from ((k, _State("colon", brackets, name)) for k in [*self._beginnings(IDENTIFIER, position), *known])
        elif due in ("value", "value or end"):
            for word in self._beginnings(_LETTERS, position):
                if _SCALAR.fullmatch(word) and (word.isalpha() or math.isfinite(float(word))):
                    yield word, _State("end of value", brackets, name)

    def _beginnings(self, pattern: re.Pattern[str], position: int) -> Iterator[str]:
        found = pattern.match(self.text, position)
        whole = found.group() if found else ""
        for length in range(1, len(whole) + 1):
            self._take_step()
            yield whole[:length]

    def _behind(self, state: _State, mark: str) -> _State | None:
        """The state after a mark, or None if the format does not allow the mark here."""
        due, brackets, name = state
        mark = _LIKE.get(mark, mark)
        values = due in ("value", "value or end")
        inner = brackets[-1:]
        if due == "head" and mark == HEAD:
            return _State("name")
        if mark == "{" and (due in ("head", "open") or values):  # at the head, a call as JSON
            return _State("key or end", brackets + "{", name)
        if mark == "[" and values:
            return _State("value or end", brackets + "[", name)
        if mark == self.quote and values:
            return _State("string", brackets, name)
        if mark == self.quote and due == "string":
            return _State("end of value", brackets, name)
        if mark == self.quote and mark != QUOTE and due in ("key", "key or end"):
            return _State("key string", brackets, name)
        if mark == self.quote and due == "key string":
            return _State("colon", brackets, name)
        if mark == ":" and due == "colon":
            return _State("value", brackets, name)
        if mark == "," and due == "end of value":
            return _State("key" if inner == "{" else "value", brackets, name)
        closes = (mark, inner) in (("}", "{"), ("]", "["))
        if closes and due in ("end of value", "key or end" if mark == "}" else "value or end"):
            return _State("end of value" if brackets[1:] else "end", brackets[:-1], name)
        return None

    def _space(self, position: int) -> int:
        found = _SPACE.match(self.text, position)
        return found.end() if found else position

    def _take_step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TooManyError


def _quotation_mark(text: str) -> str:
    """The quotation mark of the strings; empty if that is unclear."""
    others = [quote for quote, place in _BEGINS_OR_ENDS.items() if place.search(text.replace(QUOTE, ""))]
    if QUOTE in text:
        return "" if others and text.count(QUOTE) % 2 else QUOTE
    return "" if len(others) > 1 else others[0] if others else QUOTE
