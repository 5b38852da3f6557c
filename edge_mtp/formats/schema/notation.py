"""How values are written: as JSON, and in tool calls of Gemma 4's wire format."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema.characters import Ranges, complement, intersection, union
from edge_mtp.formats.schema.language import ANY, Language
from edge_mtp.formats.schema.pattern import pattern_language
from edge_mtp.formats.schema.rules import Rules, characters, literal, repetition
from edge_mtp.formats.tool_calls import CALL_CLOSE, CALL_OPEN, QUOTE, SURROGATE, ToolCall, format_calls


class Notation(ABC):
    """The differences between two ways of writing values. `openapi`: the schemas come from tool declarations."""

    comma: str
    keys: Language  # names that an object can have
    openapi: bool

    @abstractmethod
    def order(self, names: Iterable[str]) -> list[str]:
        """Property names in the order in which they are written."""

    @abstractmethod
    def value(self, value: Any) -> str | None:
        """A literal for a value; None if the value cannot be written."""

    @abstractmethod
    def string(self, content: str) -> str:
        """A string whose content is the rule `content`."""

    @abstractmethod
    def name(self, name: str) -> str:
        """A literal for a property's name and the separator after it."""

    @abstractmethod
    def key(self, content: str) -> str:
        """A free name and the separator after it."""

    def content(self, language: Language) -> Language:
        """The texts of a language that a string can contain."""
        return language

    @abstractmethod
    def pieces(self, ranges: Ranges) -> list[str]:
        """Alternatives for one character of a string."""

    @abstractmethod
    def counted(self, rules: Rules, low: int, high: int | None) -> str:
        """The content of a string of `low` to `high` characters."""


_PLAIN = complement(union([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]))
_SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 0x22: '"', 0x5C: "\\"}


class _Json(Notation):
    comma = ", "
    keys = ANY
    openapi = False

    def order(self, names: Iterable[str]) -> list[str]:
        return list(names)

    def value(self, value: Any) -> str | None:
        text = json.dumps(value, ensure_ascii=False)
        return None if SURROGATE.search(text) else literal(text)

    def string(self, content: str) -> str:
        return f'"\\"" {content} "\\""'

    def name(self, name: str) -> str:
        return literal(json.dumps(name, ensure_ascii=False) + ": ")

    def key(self, content: str) -> str:
        return f'"\\"" {content} "\\": "'

    def pieces(self, ranges: Ranges) -> list[str]:
        """Escapes control characters, quotes and backslashes, and nothing else."""
        plain = intersection(ranges, _PLAIN)
        result = [characters(plain)] if plain else []
        codes = [c for low, high in intersection(ranges, complement(_PLAIN)) for c in range(low, high + 1)]
        short = union((ord(_SHORT[c]), ord(_SHORT[c])) for c in codes if c in _SHORT)
        if short:
            result.append(f'"\\\\" {characters(short)}')
        for high in (0, 1):
            digits = [f"{c % 16:x}" for c in codes if c // 16 == high and c not in _SHORT]
            if digits:
                result.append(f'"\\\\u00{high}" {characters(union((ord(d), ord(d)) for d in digits))}')
        return result

    def counted(self, rules: Rules, low: int, high: int | None) -> str:
        escapes = rules.choice(self.pieces(complement(_PLAIN)))
        one = f"[^\\u0000-\\u001F\\u0022\\u005C] | {escapes}"
        rules.define("json_text", f'"" | [^\\u0000-\\u001F\\u0022\\u005C] json_text | {escapes} json_text')
        return _counted(rules, "[^\\u0000-\\u001F\\u0022\\u005C]", rules.add(one), "json_text", low, high)


_SPOKEN = ~pattern_language(r"<\|")


class _Call(Notation):
    comma = ","
    keys = pattern_language(r"^[A-Za-z_][A-Za-z0-9_.\-]*$")
    openapi = True

    def __init__(self) -> None:
        self._contents: WeakKeyDictionary[Language, Language] = WeakKeyDictionary()

    def order(self, names: Iterable[str]) -> list[str]:
        """The order of `format_calls` and of the chat template."""
        return sorted(names, key=str.lower)

    def value(self, value: Any) -> str | None:
        try:
            call = format_calls([ToolCall("f", {"v": value})])
        except EdgeMtpError:
            return None
        if SURROGATE.search(call):
            return None
        text = call.removeprefix(f"{CALL_OPEN}call:f{{v:").removesuffix(f"}}{CALL_CLOSE}")
        return '"' + _QUOTE_IN_LITERAL.join(literal(piece)[1:-1] for piece in text.split(QUOTE)) + '"'

    def string(self, content: str) -> str:
        return f'"{_QUOTE_IN_LITERAL}" {content} "{_QUOTE_IN_LITERAL}"'

    def name(self, name: str) -> str:
        return literal(name + ":")

    def key(self, content: str) -> str:
        return f'{content} ":"'

    def content(self, language: Language) -> Language:
        if language not in self._contents:
            self._contents[language] = language & _SPOKEN
        return self._contents[language]

    def pieces(self, ranges: Ranges) -> list[str]:
        return [characters(ranges)]

    def counted(self, rules: Rules, low: int, high: int | None) -> str:
        return _counted(rules, "[^<|]", rules.add("[^<|]"), rules.add_text(), low, high)


_QUOTE_IN_LITERAL = QUOTE.replace('"', '\\"')


def _counted(rules: Rules, plain: str, one: str, text: str, low: int, high: int | None) -> str:
    """`low` characters and then a text. `plain` is a class, `one` any character.

    A text with a character budget stands in the same rule as the plain characters before it. If these had their own
    rule, xgrammar 0.2.8 would compute its mask from what may follow that rule, and not count characters there.
    """
    if low > _PLAINLY or high is None or high <= low:
        first = f"{one}{repetition(low, low)}" if low else '""'
        return f"{first} {text}" if high is None else first
    return f"{plain} " * low + rules.at_most(text, high - low)


_PLAINLY = 256  # most characters that are written one by one in a rule


JSON: Notation = _Json()
CALL: Notation = _Call()
