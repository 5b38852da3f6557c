"""Patterns of JSON schema (`pattern`: ECMAScript regular expressions) to those of the grammar engine.

The engine reads much of the syntax, but drops what it cannot hold and knows no unanchored match. So a pattern is parsed
here, in the part that is regular, and written anew: anchored at both ends, without the character `|`, of which the
mark around a string has two, so that no text that matches can hold the mark.
"""

from __future__ import annotations

import re

from edge_mtp.errors import EdgeMtpError

Ranges = list[tuple[int, int]]

SURROGATE = re.compile(r"[\uD800-\uDFFF]")  # half of a character in UTF-16; a Python string can hold one, UTF-8 cannot

_LAST = 0x10FFFF
_BAR = ord("|")
_SURROGATES: Ranges = [(0xD800, 0xDFFF)]
_DIGIT: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [
    *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
_LINE_ENDS: Ranges = [(10, 10), (13, 13), (0x2028, 0x2029)]
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_SPECIAL = set("\\^$.|?*+()[]{}/-")
_ANY = "[^|]*"
_MOST = 64  # repetitions that are counted


def engine_pattern(pattern: object) -> str:
    """The pattern for the engine's `Regex(...)` that matches what `pattern` matches, `|` apart.

    Raises `EdgeMtpError` naming what is not regular or not supported.
    """
    if not isinstance(pattern, str):
        raise EdgeMtpError(f"is {pattern!r}; use a string")
    if SURROGATE.search(pattern):
        raise EdgeMtpError(f"{pattern!r} has half of a surrogate pair, which is no character; take it out")
    parser = _Parser(pattern)
    result = parser.branches(top=True)
    if not parser.at_end():
        raise parser.error("an unmatched ')'")
    return result


class _Parser:
    """Recursive descent; every method returns what it read in the engine's syntax."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._pattern)

    def error(self, trouble: str) -> EdgeMtpError:
        return EdgeMtpError(f"{self._pattern!r} has {trouble} at character {self._at}; simplify it or take it out")

    def branches(self, top: bool = False) -> str:
        branches = [self._branch(top)]
        while self._take("|"):
            branches.append(self._branch(top))
        return branches[0] if len(branches) == 1 else "|".join(f"({branch})" for branch in branches)

    def _branch(self, top: bool) -> str:
        begin = "" if not top or self._take("^") else _ANY
        items = []
        while not self.at_end() and self._peek() not in "|)" and not (top and self._ends_branch()):
            items.append(self._item())
        end = "" if not top or self._take("$") else _ANY
        return begin + "".join(items) + end

    def _ends_branch(self) -> bool:
        return re.match(r"\$(\||$)", self._pattern[self._at :]) is not None

    def _item(self) -> str:
        atom = self._atom()
        quantifier = self._quantifier()
        self._take("?")  # a lazy match is of the same texts
        # Not `x?`, of which the engine takes too much where x is a group that ends in a loop.
        return f"({atom}|)" if quantifier == "?" else atom + quantifier

    def _quantifier(self) -> str:
        for sign in "?*+":
            if self._take(sign):
                return sign
        found = re.compile(r"\{(\d+)(,?)(\d*)\}").match(self._pattern, self._at)
        if found is None:
            if not self.at_end() and self._peek() == "{":
                raise self.error("a '{' that counts nothing")
            return ""
        if max(int(found[1]), int(found[3] or 0)) > _MOST:
            raise self.error(f"more than {_MOST} repetitions")
        if found[3] and int(found[3]) < int(found[1]):
            raise self.error("a repetition of falling numbers")
        self._at = found.end()
        return found[0]

    def _atom(self) -> str:
        start = self._next()
        if start == "(":
            if self._take("?") and not self._take(":"):
                name = re.compile(r"<[A-Za-z_]\w*>").match(self._pattern, self._at)
                if name is None:
                    raise self.error("an assertion")
                self._at = name.end()
            inner = self.branches()
            if not self._take(")"):
                raise self.error("an unclosed '('")
            return f"({inner})"
        if start == "[":
            return self._class()
        if start == ".":
            return _written(_complement(_LINE_ENDS))
        if start == "\\":
            return _written(self._escape(in_class=False))
        if start in "?*+{}])^$|":
            self._at -= 1
            raise self.error(f"a stray {start!r}")
        return _written([(ord(start), ord(start))])

    def _class(self) -> str:
        negated = self._take("^")
        ranges: Ranges = []
        while not self._take("]"):
            low = self._class_member()
            if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] not in (
                "]",
                "",
            ):
                self._at += 1
                high = self._class_member()
                if (
                    len(low) != 1
                    or len(high) != 1
                    or low[0][0] != low[0][1]
                    or not low[0][0] <= high[0][0] == high[0][1]
                ):
                    raise self.error("a range that has no order")
                ranges.append((low[0][0], high[0][1]))
            else:
                ranges.extend(low)
        return _written(_complement(ranges) if negated else ranges)

    def _class_member(self) -> Ranges:
        character = self._next()
        return self._escape(in_class=True) if character == "\\" else [(ord(character), ord(character))]

    def _escape(self, in_class: bool) -> Ranges:
        kind = self._next()
        for name, ranges in (("d", _DIGIT), ("w", _WORD), ("s", _SPACE)):
            if kind == name:
                return ranges
            if kind == name.upper():
                return _complement(ranges)
        digits = {"x": 2, "u": 4}.get(kind, 0)
        if digits:
            found = re.compile(f"[0-9A-Fa-f]{{{digits}}}").match(self._pattern, self._at)
            if found is None or 0xD800 <= int(found[0], 16) < 0xE000:
                raise self.error(f"an escape \\{kind} that is no character")
            self._at = found.end()
            return [(int(found[0], 16), int(found[0], 16))]
        if kind in _CONTROLS and not (kind == "0" and self._pattern[self._at : self._at + 1].isdigit()):
            return [(_CONTROLS[kind], _CONTROLS[kind])]
        if kind == "b" and in_class:
            return [(8, 8)]
        if kind.isalnum():
            raise self.error(f"the escape \\{kind}, which is not regular or not known")
        return [(ord(kind), ord(kind))]

    def _peek(self) -> str:
        return self._pattern[self._at]

    def _next(self) -> str:
        if self.at_end():
            raise self.error("an end too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, character: str) -> bool:
        found = self._pattern.startswith(character, self._at)
        self._at += found
        return found


def _complement(ranges: Ranges) -> Ranges:
    result: Ranges = []
    begin = 0
    for low, high in sorted(ranges):
        if low > begin:
            result.append((begin, low - 1))
        begin = max(begin, high + 1)
    return [*result, (begin, _LAST)] if begin <= _LAST else result


def _written(ranges: Ranges) -> str:
    """A class of the ranges' characters without `|`."""
    kept = _complement([*_complement(ranges), (_BAR, _BAR), *_SURROGATES])
    if not kept:
        raise EdgeMtpError("needs a '|' or nothing at all, which a constrained string cannot hold; take it out")
    return "[" + "".join(_character(low) + ("" if low == high else "-" + _character(high)) for low, high in kept) + "]"


def _character(code: int) -> str:
    return "\\" + chr(code) if chr(code) in _SPECIAL else chr(code)
