"""Collects the rules of a grammar and writes them as EBNF, described in docs/grammar.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_mtp.formats.schema.characters import Ranges
from edge_mtp.formats.schema.language import Language

_INLINE = 12  # depth to which states of an automaton are inlined into one rule

Pieces = Callable[[Ranges], list[str]]  # alternatives for one character of a set


class Rules:
    """Rules by name; equal bodies share one rule."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._bodies: dict[str, str] = {}
        self._languages: dict[tuple[Language, Pieces], str] = {}

    def add(self, body: str) -> str:
        """The name of the rule with this body."""
        if body not in self._names:
            self._names[body] = self.reserve()
            self._bodies[self._names[body]] = body
        return self._names[body]

    def reserve(self) -> str:
        """The name of a new rule that may refer to itself; `define` gives its body."""
        name = f"r{len(self._bodies)}"
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Sets the body of a reserved rule, or of a rule with a chosen name."""
        self._bodies[name] = body

    def add_text(self) -> str:
        """The name of a rule for any text without `<|`, with which the marks of a call and of a string begin.

        Even when spelled in ordinary characters, a parser of the text would take them for marks. The engine turns a
        rule that ends with its own name into a loop, so it has only two states to try on its vocabulary.
        """
        self.define("text", '"" | [^<] text | "\\u003C" text_begun')
        self.define("text_begun", '"" | [^<|] text | "\\u003C" text_begun')
        return "text"

    def choice(self, bodies: Sequence[str]) -> str:
        distinct = list(dict.fromkeys(bodies))
        return distinct[0] if len(distinct) == 1 else self.add(" | ".join(distinct))

    def text(self, root: str) -> str:
        lines = [f"root ::= {root}"]
        for name, body in self._bodies.items():
            # A character budget is written after the rule's name.
            budget, _, rest = body.partition("\n")
            lines.append(f"{name}{budget} ::= {rest}" if rest else f"{name} ::= {body}")
        return "\n".join(lines) + "\n"

    def at_most(self, content: str, characters: int) -> str:
        """A rule for the texts of `content` with at most `characters` characters, if such a text may end anywhere.

        The engine counts while it reads, so this costs one state for any number.
        """
        return self.add(f"[max_chars={characters}]\n{content}")

    def language(self, language: Language, pieces: Pieces) -> str:
        """The rule of a language, with characters written as `pieces`. States with one incoming edge are inlined."""
        if (language, pieces) in self._languages:
            return self._languages[language, pieces]
        ways = [0] * len(language.edges)
        for edges in language.edges:
            for to in {to for _, _, to in edges}:
                ways[to] += 1
        names: dict[int, str] = {0: self.reserve()}
        todo = [0]

        def state(number: int, depth: int) -> str:
            targets: dict[int, list[tuple[int, int]]] = {}
            for low, high, to in language.edges[number]:
                targets.setdefault(to, []).append((low, high))
            options = ['""'] if number in language.accepting else []
            for to, ranges in targets.items():
                found = pieces(tuple(ranges))
                last = not language.edges[to] and to in language.accepting
                inline = to not in names and ways[to] == 1 and depth < _INLINE and len(found) == 1
                if not last and not inline and to not in names:
                    names[to] = self.reserve()
                    todo.append(to)
                for piece in found:
                    if last:
                        options.append(piece)
                    else:
                        options.append(f"{piece} ({state(to, depth + 1)})" if inline else f"{piece} {names[to]}")
            return " | ".join(options)

        while todo:
            number = todo.pop()
            self.define(names[number], state(number, 0))
        self._languages[language, pieces] = names[0]
        return names[0]


def regex(pattern: str) -> str:
    return 'Regex("' + "".join(c if c == "[" else _escaped(c) for c in pattern) + '")'


def literal(text: str) -> str:
    """A literal of ordinary text. Escapes what could begin a special token's text, so that it stays ordinary."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def characters(ranges: Ranges) -> str:
    """One character of a set; a literal if the set has only one."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return literal(chr(ranges[0][0]))
    return "[" + "".join(_code(low) + ("" if low == high else "-" + _code(high)) for low, high in ranges) + "]"


def repetition(low: int, high: int | None) -> str:
    return f"{{{low},}}" if high is None else f"{{{low},{high}}}"


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character in "<[" or not character.isprintable():
        return _code(ord(character))
    return character


def _code(code: int) -> str:
    character = chr(code)
    if character.isascii() and character.isalnum():
        return character
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
