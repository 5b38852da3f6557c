"""`pattern`: converts ECMAScript's regular expressions, if they are regular, to languages (ECMA-262, `u` flag, search).

An expression is parsed to an automaton with empty steps. `^` and `$` are steps that can be taken only at the start or
at the end of the text, so they may stand anywhere. A lookahead directly after `^` becomes an intersection.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import lru_cache

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema import characters
from edge_mtp.formats.schema.characters import ALL, DIGITS, LINE_ENDS, SPACE, WORD, Ranges, complement, union
from edge_mtp.formats.schema.language import MOST_STATES, NOTHING, Language, TooLargeError

_MOST_STEPS = 20_000  # states of an automaton with empty steps
_MOST_WORK = 1_000_000  # empty steps that are followed
_DEEPEST = 100  # nested groups
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}


@lru_cache(maxsize=512)
def pattern_language(pattern: str) -> Language:
    """The texts in which `pattern` is found.

    Raises `EdgeMtpError` naming the part that is not regular, not known or too large.
    """
    if re.search(r"[\uD800-\uDFFF]", pattern):
        raise EdgeMtpError(f"{pattern!r} has half of a surrogate pair, which is no character; take it out")
    parser = _Parser(pattern)
    try:
        branches = parser.top()
        result = NOTHING
        for branch in branches:
            result |= branch
    except TooLargeError as error:
        raise EdgeMtpError(f"{pattern!r} {error}") from None
    return result


class _Steps:
    """A nondeterministic automaton: steps by state, over characters, empty, or at one end of the text (`^`, `$`)."""

    def __init__(self) -> None:
        self.over: list[list[tuple[Ranges, int]]] = []
        self.empty: list[list[tuple[str, int]]] = []
        self._work = 0

    def state(self) -> int:
        if len(self.over) >= _MOST_STEPS:
            raise TooLargeError
        self.over.append([])
        self.empty.append([])
        return len(self.over) - 1

    def closure(self, states: frozenset[int], begin: bool, end: bool) -> frozenset[int]:
        found = set(states)
        queue = list(states)
        while queue:
            self._work += 1
            if self._work > _MOST_WORK:
                raise TooLargeError
            for where, to in self.empty[queue.pop()]:
                if to not in found and (not where or (where == "^" and begin) or (where == "$" and end)):
                    found.add(to)
                    queue.append(to)
        return frozenset(found)

    def language(self, start: int, final: int) -> Language:
        first = self.closure(frozenset([start]), True, False)
        number: dict[frozenset[int], int] = {frozenset([-1]): 0}  # the start set is separate: `^` holds only there
        sets = [first]
        edges: list[tuple[tuple[int, int, int], ...]] = []
        accepting = []
        for i, states in enumerate(sets):  # the loop appends to it
            if final in self.closure(states, i == 0, True):
                accepting.append(i)
            steps = [(ranges, to) for state in states for ranges, to in self.over[state]]
            cuts = sorted({low for r, _ in steps for low, _ in r} | {high + 1 for r, _ in steps for _, high in r})
            targets: list[set[int]] = [set() for _ in cuts]
            place = {cut: k for k, cut in enumerate(cuts)}
            for ranges, to in steps:
                for low, high in ranges:
                    for k in range(place[low], place[high + 1]):
                        targets[k].add(to)
            leaving = []
            for k in range(len(cuts) - 1):
                if not targets[k]:
                    continue
                there = self.closure(frozenset(targets[k]), False, False)
                if there not in number:
                    if len(sets) >= MOST_STATES:
                        raise TooLargeError
                    number[there] = len(sets)
                    sets.append(there)
                leaving.append((cuts[k], cuts[k + 1] - 1, number[there]))
            edges.append(tuple(leaving))
        return Language(edges, accepting)


class _Parser:
    """Recursive descent. A parsed part adds its steps to an automaton later, as often as it is needed."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def error(self, trouble: str) -> EdgeMtpError:
        return EdgeMtpError(f"{self._pattern!r} has {trouble} at character {self._at}; simplify it or take it out")

    # -- whole patterns

    def top(self) -> list[Language]:
        branches = []
        while True:
            branches.append(self._searched(self._lookaheads()))
            if not self._take("|"):
                break
        if self._at < len(self._pattern):
            raise self.error("an unmatched ')'")
        return branches

    def _lookaheads(self) -> list[tuple[bool, _Part]]:
        """Lookaheads after a `^` at the start of a branch."""
        found: list[tuple[bool, _Part]] = []
        if re.match(r"\^\(\?[=!]", self._pattern[self._at :]) is None:
            return []
        start = self._at
        self._at += 1
        while self._pattern.startswith(("(?=", "(?!"), self._at):
            wanted = self._pattern[self._at + 2] == "="
            self._at += 3
            found.append((wanted, _Sequence([_Anchor("^"), self._alternatives()])))
            if not self._take(")"):
                raise self.error("an unclosed '('")
        self._pattern = self._pattern[:start] + self._pattern[start : start + 1] + self._pattern[self._at :]
        self._at = start
        return found

    def _searched(self, lookaheads: list[tuple[bool, _Part]]) -> Language:
        result = _search(self._branch())
        for wanted, part in lookaheads:
            result = result & _search(part) if wanted else result - _search(part)
        return result

    # -- parts

    def _alternatives(self) -> _Part:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self.error(f"groups nested deeper than {_DEEPEST}")
        branches = [self._branch()]
        while self._take("|"):
            branches.append(self._branch())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else _Choice(branches)

    def _branch(self) -> _Part:
        items: list[_Part] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            items.append(self._item())
        return _Sequence(items)

    def _item(self) -> _Part:
        if self._take("^"):
            return _Anchor("^")
        if self._take("$"):
            return _Anchor("$")
        atom = self._atom()
        counts = self._quantifier()
        if counts is None:
            return atom
        self._take("?")  # a lazy quantifier matches the same texts
        return _Repeat(atom, *counts)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, counts in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
            if self._take(sign):
                return counts
        found = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}").match(self._pattern, self._at)
        if found is None:
            if self._pattern.startswith("{", self._at):
                raise self.error("a '{' that begins no count")
            return None
        if len(found[1]) > 6 or len(found[3]) > 6:
            raise self.error("a repetition of millions")
        low = int(found[1])
        high = int(found[3]) if found[3] else None if found[2] else low
        if high is not None and high < low:
            raise self.error("a repetition with its maximum below its minimum")
        self._at = found.end()
        return low, high

    def _atom(self) -> _Part:
        start = self._next()
        if start == "(":
            if self._take("?") and not self._take(":"):
                name = re.compile(r"<[A-Za-z_$][\w$]*>").match(self._pattern, self._at)
                if name is None:
                    raise self.error("an assertion that is not first behind '^'")
                self._at = name.end()
            inner = self._alternatives()
            if not self._take(")"):
                raise self.error("an unclosed '('")
            return inner
        if start == "[":
            return _Characters(self._class())
        if start == ".":
            return _Characters(complement(LINE_ENDS))
        if start == "\\":
            return _Characters(self._escape(in_class=False))
        if start in "?*+{}])":
            self._at -= 1
            raise self.error(f"a stray {start!r}")
        return _Characters(((ord(start), ord(start)),))

    def _class(self) -> Ranges:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            low = self._class_member()
            if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._class_member()
                ends = [low[0][0] if len(low) == 1 else -1, high[0][1] if len(high) == 1 else -1]
                if low != ((ends[0], ends[0]),) or high != ((ends[1], ends[1]),) or ends[0] > ends[1]:
                    raise self.error("a range in reverse order")
                ranges.append((ends[0], ends[1]))
            else:
                ranges.extend(low)
        return complement(union(ranges)) if negated else union(ranges)

    def _class_member(self) -> Ranges:
        character = self._next()
        return self._escape(in_class=True) if character == "\\" else ((ord(character), ord(character)),)

    def _escape(self, in_class: bool) -> Ranges:
        kind = self._next()
        for name, ranges in (("d", DIGITS), ("w", WORD), ("s", SPACE)):
            if kind == name:
                return ranges
            if kind == name.upper():
                return complement(ranges)
        if kind in "pP":
            found = re.compile(r"\{([\w=]+)\}").match(self._pattern, self._at)
            if found is None:
                raise self.error(f"an escape \\{kind} without a property")
            self._at = found.end()
            try:
                members = characters.category(found[1])
            except EdgeMtpError as error:
                raise EdgeMtpError(f"{self._pattern!r} has {error}") from None
            return members if kind == "p" else complement(members)
        if kind in "xu":
            form = r"[0-9A-Fa-f]{2}" if kind == "x" else r"[0-9A-Fa-f]{4}|\{[0-9A-Fa-f]+\}"
            found = re.compile(form).match(self._pattern, self._at)
            code = int(found[0].strip("{}"), 16) if found else 0xD800
            if found is not None and 0xD800 <= code < 0xDC00:  # a surrogate pair is one character
                pair = re.compile(r"[0-9A-Fa-f]{4}\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self._pattern, self._at)
                if pair is not None:
                    found = pair
                    code = 0x10000 + ((code - 0xD800) << 10) + int(pair[1], 16) - 0xDC00
            if found is None or 0xD800 <= code < 0xE000 or code > characters.LAST:
                raise self.error(f"an escape \\{kind} that is no character")
            self._at = found.end()
            return ((code, code),)
        if kind == "c" and (letter := self._pattern[self._at : self._at + 1]).isascii() and letter.isalpha():
            self._at += 1
            return ((ord(letter) % 32, ord(letter) % 32),)
        if kind in _CONTROLS and not (kind == "0" and self._pattern[self._at : self._at + 1].isdigit()):
            return ((_CONTROLS[kind], _CONTROLS[kind]),)
        if kind == "b" and in_class:
            return ((8, 8),)
        if kind.isalnum():
            raise self.error(f"the escape \\{kind}, which is not regular or not known")
        return ((ord(kind), ord(kind)),)

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise self.error("an unexpected end")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, character: str) -> bool:
        found = self._pattern.startswith(character, self._at)
        self._at += found
        return found


# -- parts of a pattern ---------------------------------------------------------------------------------------------


class _Part(ABC):
    @abstractmethod
    def build(self, steps: _Steps, start: int) -> int:
        """Adds the part's steps from `start` on; returns the state after it."""


class _Characters(_Part):
    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges

    def build(self, steps: _Steps, start: int) -> int:
        end = steps.state()
        steps.over[start].append((self.ranges, end))
        return end


class _Anchor(_Part):
    def __init__(self, where: str) -> None:
        self.where = where

    def build(self, steps: _Steps, start: int) -> int:
        end = steps.state()
        steps.empty[start].append((self.where, end))
        return end


class _Sequence(_Part):
    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts

    def build(self, steps: _Steps, start: int) -> int:
        for part in self.parts:
            start = part.build(steps, start)
        return start


class _Choice(_Part):
    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts

    def build(self, steps: _Steps, start: int) -> int:
        end = steps.state()
        for part in self.parts:
            begin = steps.state()
            steps.empty[start].append(("", begin))
            steps.empty[part.build(steps, begin)].append(("", end))
        return end


class _Repeat(_Part):
    def __init__(self, part: _Part, low: int, high: int | None) -> None:
        self.part, self.low, self.high = part, low, high

    def build(self, steps: _Steps, start: int) -> int:
        for _ in range(self.low):
            start = self.part.build(steps, start)
        end = steps.state()
        if self.high is None:
            loop = steps.state()
            steps.empty[start].append(("", loop))
            steps.empty[self.part.build(steps, loop)].append(("", loop))
            steps.empty[loop].append(("", end))
            return end
        for _ in range(self.high - self.low):
            steps.empty[start].append(("", end))
            start = self.part.build(steps, start)
        steps.empty[start].append(("", end))
        return end


def _search(part: _Part) -> Language:
    steps = _Steps()
    before = steps.state()
    steps.over[before].append((ALL, before))
    begin = steps.state()
    steps.empty[before].append(("", begin))
    end = part.build(steps, begin)
    after = steps.state()
    steps.empty[end].append(("", after))
    final = steps.state()
    steps.over[after].append((ALL, after))
    steps.empty[after].append(("", final))
    return steps.language(before, final)
