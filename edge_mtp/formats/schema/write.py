"""Writes goals of the algebra as rules of a grammar: a branch becomes a layout, and a layout becomes rules.

A layout may have fewer values than its branch, never more: properties have a fixed order, required items of an array
come first, and items that must differ have different types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema import language as languages
from edge_mtp.formats.schema.characters import Ranges
from edge_mtp.formats.schema.language import ANY, NOTHING, Language, TooLargeError
from edge_mtp.formats.schema.membership import holds, satisfies
from edge_mtp.formats.schema.notation import Notation
from edge_mtp.formats.schema.numbers import Numbers
from edge_mtp.formats.schema.read import Reader
from edge_mtp.formats.schema.rules import Rules, characters, literal, regex, repetition
from edge_mtp.formats.schema.shape import (
    EVERYTHING,
    TYPES,
    Atom,
    Branch,
    Contains,
    Goal,
    Has,
    Item,
    Items,
    Length,
    Limit,
    Matches,
    Matching,
    Multiple,
    Named,
    Names,
    OneOf,
    Others,
    Property,
    SeenProperties,
    Some,
    Unique,
    Whole,
)

_MOST_LAYOUTS = 20_000  # tried for one schema
_MOST_RULES = 4_000
_MOST_REPEATED = 4_000  # items that are counted
_SPARE = 16  # items that may be among those that `maxContains` counts
_MOST_FORCED = 256  # items or properties that a schema requires only by number
_MOST_CLASSES = 16  # classes of free names
_MOST_DISTINCT = 32  # listed values that an array may contain once each
_SPELLED = 4  # characters of a string with a state each; beyond, the engine counts, which is slow near the end
_PRODUCT = 2_000  # states of a counted pattern


@dataclass(frozen=True)
class Text:
    """A string: bounds of its length, and its language if it also has one."""

    low: int
    high: int | None
    language: Language | None


@dataclass(frozen=True)
class Run:
    """An array: items by position, then any number of others."""

    slots: tuple[Goal, ...]
    rest: Goal | None
    low: int
    high: int | None


@dataclass(frozen=True)
class Pick:
    """An array with some of these items, goals or values, in this order."""

    goals: tuple[Goal, ...]
    values: tuple[Any, ...]
    low: int
    high: int | None


@dataclass(frozen=True)
class Members:
    """An object: named properties, each required or not, and free properties by the language of their names."""

    named: tuple[tuple[str, Goal, bool], ...]
    free: tuple[tuple[Language, Goal], ...]
    low: int
    high: int | None


@dataclass(frozen=True)
class Listed:
    """A list of values."""

    values: tuple[Any, ...]


Layout = Text | Run | Pick | Members | Listed | Numbers


class Writer:
    def __init__(self, reader: Reader, rules: Rules, notation: Notation) -> None:
        self.reader = reader
        self.rules = rules
        self.notation = notation
        self._rule_of: dict[Goal, str] = {}
        self._to_write: list[Goal] = []
        self._possible: dict[Goal, bool] = {}
        self._open: list[Goal] = []
        self._assumed: set[Goal] = set()
        self._kinds = {kind: reader.goal({"type": kind}) for kind in TYPES}
        self._layouts = 0

    # -- goals

    def write(self, goal: Goal, kind: str | None = None) -> str:
        """The rule of a goal's values, or of those of one type. Raises `EdgeMtpError` if no value can be written."""
        goal = goal | self._kinds[kind] if kind else goal
        if not self.possible(goal):
            raise EdgeMtpError(
                f"{self.reader.place(goal)}: no value satisfies the schema, or none that a grammar can hold; loosen it"
            )
        name = self._rule(goal)
        while self._to_write:
            following = self._to_write.pop()
            bodies = [
                self._expression(layout)
                for kind in TYPES
                for branch in self.reader.branches(following, kind)
                if (layout := self.layout(kind, branch)) is not None
            ]
            if not bodies or len(self._rule_of) > _MOST_RULES:
                raise EdgeMtpError(f"{self.reader.place(following)}: the schema is too large for a grammar; split it")
            self.rules.define(self._rule_of[following], " | ".join(dict.fromkeys(bodies)))
        return name

    def _rule(self, goal: Goal) -> str:
        if goal not in self._rule_of:
            self._rule_of[goal] = self.rules.reserve()
            self._to_write.append(goal)
        return self._rule_of[goal]

    def possible(self, goal: Goal) -> bool:
        """Whether any value of a goal can be written. None can if each must contain another value of the same goal."""
        if goal in self._possible:
            return self._possible[goal]
        if goal in self._open:
            self._assumed.add(goal)
            return False
        outside, self._assumed = self._assumed, set()
        self._open.append(goal)
        found = any(
            self.layout(kind, branch) is not None for kind in TYPES for branch in self.reader.branches(goal, kind)
        )
        self._open.pop()
        self._assumed.discard(goal)
        if found or not self._assumed:
            self._possible[goal] = found
        self._assumed |= outside
        return found

    # -- layouts

    def layout(self, kind: str, branch: Branch) -> Layout | None:
        """The layout of a branch; None if no value of it can be written."""
        self._layouts += 1
        if self._layouts > _MOST_LAYOUTS:
            raise EdgeMtpError("#: the schema has too many combinations for a grammar; split it")
        listed = [atom.values for atom in branch if isinstance(atom, OneOf) and atom.wanted]
        if listed or kind in ("null", "boolean"):
            values = [self.reader.values[key] for key in listed[0]] if listed else [None]
            if kind == "boolean" and not listed:
                values = [True, False]
            kept = [v for v in values if holds(self.reader, v, branch) and self.notation.value(v) is not None]
            return Listed(tuple(kept)) if kept else None
        layouts: dict[str, Callable[[Branch], Layout | None]] = {
            "string": self._text,
            "number": self._numbers,
            "array": self._array,
            "object": self._object,
        }
        return layouts[kind](branch)

    def _bounds(self, branch: Branch) -> tuple[int, int | None]:
        low = max((atom.low for atom in branch if isinstance(atom, Length)), default=0)
        highs = [atom.high for atom in branch if isinstance(atom, Length) and atom.high is not None]
        return low, min(highs, default=None)

    # -- strings

    def _text(self, branch: Branch) -> Text | None:
        low, high = self._bounds(branch)
        if (high is not None and high < low) or low > _MOST_REPEATED:
            return None
        try:
            found: Language | None = None
            for atom in branch:
                new = self._language_of(atom)
                if new is not None:
                    found = new if found is None else found & new
            if found is None and high is not None and high <= _SPELLED:
                found = languages.lengths(low, high)
            if found is None:
                return self._annotated(branch, low, high) or Text(low, high, None)
            kept = self._within(self.notation.content(found), low, high)
            if kept is None or kept.empty:
                return None
            return self._annotated(branch, low, high, kept) or Text(0, None, kept)
        except TooLargeError:
            return None

    def _language_of(self, atom: Atom) -> Language | None:
        if isinstance(atom, Matches) and not atom.annotation:
            return atom.language
        if isinstance(atom, OneOf) and not atom.wanted:
            return ~languages.words(self.reader.values[key] for key in atom.values)
        return None

    def _annotated(self, branch: Branch, low: int, high: int | None, base: Language = ANY) -> Text | None:
        """The strings of a branch restricted to its formats; None if that leaves no string."""
        formats = [atom.language for atom in branch if isinstance(atom, Matches) and atom.annotation]
        if not formats:
            return None
        for each in formats:
            base = base & each
        kept = self._within(self.notation.content(base), low, high)
        return None if kept is None or kept.empty else Text(0, None, kept)

    def _within(self, language: Language, low: int, high: int | None) -> Language | None:
        """The texts of a language between two lengths, or only some of them if all would need too many states."""
        if language.empty:
            return None
        if language.fewest < low:
            language = language & languages.lengths(low, None)
            if language.empty:
                return None
        if high is not None and (language.most is None or language.most > high):
            if language.fewest > high:
                return None
            room = max(_PRODUCT // len(language.edges), language.fewest, 1)
            language = language & languages.lengths(0, min(high, room))
        return language

    def names_of(self, goal: Goal) -> Language:
        """The strings that satisfy a goal."""
        result = NOTHING
        for branch in self.reader.branches(goal, "string"):
            listed = [atom.values for atom in branch if isinstance(atom, OneOf) and atom.wanted]
            if listed:
                values = [self.reader.values[key] for key in listed[0]]
                result = result | languages.words(v for v in values if holds(self.reader, v, branch))
                continue
            low, high = self._bounds(branch)
            found: Language | None = ANY
            for atom in branch:
                new = self._language_of(atom)
                found = found if new is None or found is None else found & new
            found = self._within(found, low, high) if found is not None else None
            result = result if found is None else result | found
        return result

    # -- numbers

    def _numbers(self, branch: Branch) -> Layout | None:
        numbers = Numbers()
        for atom in branch:
            if isinstance(atom, Limit):
                numbers = (numbers.at_most if atom.upper else numbers.at_least)(atom.value, atom.excluded)
            elif isinstance(atom, Whole):
                numbers = numbers.integers(atom.wanted)
            elif isinstance(atom, Multiple):
                numbers = numbers.multiples(atom.of, atom.wanted)
            elif isinstance(atom, OneOf):
                values = {Fraction(str(self.reader.values[key])) for key in atom.values}
                numbers = replace(numbers, without=numbers.without | values)
        return None if _texts(numbers) is None else numbers

    # -- arrays

    def _array(self, branch: Branch) -> Layout | None:
        low, high = self._bounds(branch)
        prefix = [atom for atom in branch if isinstance(atom, Items)]
        at = [atom for atom in branch if isinstance(atom, Item)]
        contains = [atom for atom in branch if isinstance(atom, Contains)]
        unique = [atom for atom in branch if isinstance(atom, Unique)]
        rest: Goal = frozenset().union(*(atom.rest for atom in prefix))
        count = max([*(len(atom.prefix) for atom in prefix), *(atom.at + 1 for atom in at), 0])
        slots = [
            frozenset().union(
                *(atom.prefix[i] if i < len(atom.prefix) else atom.rest for atom in prefix),
                *(atom.goal for atom in at if atom.at == i),
            )
            for i in range(count)
        ]
        low = max([low, *(atom.at + 1 for atom in at)])
        for atom in contains:
            reached = self._place_items(atom, slots, rest, high)
            if reached is None:
                return None
            low = max(low, reached)
        for atom in contains:
            if atom.high is not None:
                spare = atom.high - sum(atom.goal <= slot for slot in slots)
                if spare < 0:
                    return None
                for i, slot in enumerate(slots):
                    if not atom.goal <= slot:
                        slots[i] = slot if spare > 0 else slot | atom.complement
                        spare -= 1
                slots += [rest] * min(spare, _SPARE)
                rest = rest | atom.complement
        for i, slot in enumerate(slots):
            if (high is None or i < high) and not self.possible(slot):
                high = i
        more = rest if self.possible(rest) else None
        if more is None:
            high = len(slots) if high is None else min(high, len(slots))
        if high is not None and high < low:
            return None
        if low > _MOST_REPEATED:
            return None
        high = None if high is None else min(high, max(_MOST_REPEATED, low))
        slots = slots[:high] if high is not None else slots
        if unique and (high is None or high > 1):
            if self.reader.strict or self._distinct(rest) is not None:
                return self._apart(slots, more, low, high)
            self.reader.unenforced[unique[0].place, "uniqueItems"] = None
        return Run(tuple(slots), more, low, high)

    def _place_items(self, atom: Contains, slots: list[Goal], rest: Goal, high: int | None) -> int | None:
        """Requires the items of `contains` at the earliest possible positions; returns how many items that needs."""
        missing = atom.low - sum(atom.goal <= slot for slot in slots)
        if missing > _MOST_FORCED:
            return None
        reached = max((i + 1 for i, slot in enumerate(slots) if atom.goal <= slot), default=0) if atom.low else 0
        i = 0
        while missing > 0:
            if high is not None and i >= high:
                return None
            if i > len(slots) + _MOST_FORCED:
                return None
            beyond = i >= len(slots)
            slot = rest if beyond else slots[i]
            if beyond and atom.goal <= rest:
                slots.append(rest)
                missing -= 1
                reached = max(reached, i + 1)
            elif not atom.goal <= slot:
                if self.possible(slot | atom.goal):
                    if beyond:
                        slots.append(rest)
                    slots[i] = slot | atom.goal
                    missing -= 1
                    reached = max(reached, i + 1)
                elif beyond:
                    return None
            i += 1
        return reached

    def _distinct(self, goal: Goal) -> list[Any] | None:
        """The values of a goal, if they are listed and not too many."""
        values: list[Any] = []
        for kind in TYPES:
            for branch in self.reader.branches(goal, kind):
                layout = self.layout(kind, branch)
                if layout is None:
                    continue
                if not isinstance(layout, Listed):
                    return None
                values += [value for value in layout.values if value not in values or isinstance(value, bool)]
        keyed = {str(self.notation.value(value)): value for value in values}
        return list(keyed.values()) if len(keyed) <= _MOST_DISTINCT else None

    def _apart(self, slots: Sequence[Goal], rest: Goal | None, low: int, high: int | None) -> Layout | None:
        """An array whose items differ: listed values in their order, or items of different types."""
        if not slots and rest is not None and (values := self._distinct(rest)) is not None:
            most = len(values) if high is None else min(high, len(values))
            return Pick((), tuple(values), low, most) if low <= most else None
        used: set[str] = set()
        kept: list[Goal] = []
        for slot in slots:
            kinds = [kind for kind in TYPES if kind not in used and self.possible(slot | self._kinds[kind])]
            if not kinds:
                break
            # One type per slot leaves the most types to the others.
            used.add(kinds[0])
            kept.append(slot | self._kinds[kinds[0]])
        if len(kept) == len(slots) and rest is not None:
            kept_rest = [rest | self._kinds[k] for k in TYPES if k not in used and self.possible(rest | self._kinds[k])]
            if not slots:
                most = len(kept_rest) if high is None else min(high, len(kept_rest))
                return Pick(tuple(kept_rest), (), low, most) if low <= most else None
            kept += kept_rest
        most = len(kept) if high is None else min(high, len(kept))
        return Run(tuple(kept[:most]), None, low, most) if low <= most else None

    # -- objects

    def _object(self, branch: Branch) -> Layout | None:
        low, high = self._bounds(branch)
        goals: dict[str, Goal] = {}
        for atom in branch:
            if isinstance(atom, Property):
                goals[atom.name] = goals.get(atom.name, EVERYTHING) | atom.goal
        required = dict.fromkeys(atom.name for atom in branch if isinstance(atom, Has))
        for name in required:
            goals.setdefault(name, EVERYTHING)
        try:
            for atom in branch:
                if isinstance(atom, Some) and not self._place_property(atom, branch, goals, required):
                    return None
            named = []
            for name in self.notation.order(goals):
                goal = self._property_goal(name, goals[name], branch)
                fits = self._name_fits(name, branch) and self.possible(goal)
                if fits:
                    named.append((name, goal, name in required))
                elif name in required:
                    return None
            if len(required) > _MOST_FORCED * 4 or (high is not None and len(required) > high):
                return None
            free = self._free(branch, goals, low - len(named))
            missing = low - len(named) - bool(free)
            if missing > 0:
                # The model could repeat a free name, so all missing names but one are fixed here.
                if not free or missing > _MOST_FORCED:
                    return None
                for _ in range(missing):
                    name = free[0][0].shortest()
                    named.append((name, free[0][1], True))
                    left = [(language - languages.words([name]), goal) for language, goal in free]
                    free = [(language, goal) for language, goal in left if not language.empty]
                    if not free:
                        break
                if low > len(named) + bool(free):
                    return None
        except TooLargeError:
            return None
        if high is not None and low > high:
            return None
        return Members(tuple(named), tuple(free), low, high)

    def _name_fits(self, name: str, branch: Branch) -> bool:
        if self.notation.value({name: None}) is None:
            return False
        return all(satisfies(self.reader, name, atom.goal) for atom in branch if isinstance(atom, Named))

    def _property_goal(self, name: str, goal: Goal, branch: Branch) -> Goal:
        for atom in branch:
            if (isinstance(atom, Matching) and name in atom.language) or (
                isinstance(atom, Others) and name not in atom.names
            ):
                goal = goal | atom.goal
        return goal

    def _place_property(self, atom: Some, branch: Branch, goals: dict[str, Goal], required: dict[str, None]) -> bool:
        """Requires a property that satisfies `atom`; returns whether there can be one."""
        for name in [*required, *(name for name in goals if name not in required)]:
            if (
                name not in atom.outside
                and (atom.language is None or name in atom.language)
                and satisfies(self.reader, name, atom.name)
                and self._name_fits(name, branch)
                and self.possible(self._property_goal(name, goals[name] | atom.goal, branch))
            ):
                goals[name] = goals[name] | atom.goal
                required[name] = None
                return True
        language = (atom.language or ANY) & self.notation.keys & self.names_of(atom.name)
        language = self._outside(language, Names(atom.outside.listed | frozenset(goals), atom.outside.languages))
        for named in branch:
            if isinstance(named, Named):
                language = language & self.names_of(named.goal)
        for _ in range(8):
            if language.empty or atom.outside.every:
                return False
            name = language.shortest()
            if self.possible(self._property_goal(name, atom.goal, branch)):
                goals[name] = atom.goal
                required[name] = None
                return True
            language = language - languages.words([name])
        return False

    def _outside(self, language: Language, names: Names) -> Language:
        if names.every:
            return NOTHING
        if names.listed:
            language = language - languages.words(names.listed)
        for each in names.languages:
            language = language - each
        return language

    def _free(self, branch: Branch, goals: dict[str, Goal], missing: int) -> list[tuple[Language, Goal]]:
        """The classes of free properties: of a map, of a pattern, of an object without declared properties, or to make
        up for the `missing` ones."""
        matching = [atom for atom in branch if isinstance(atom, Matching)]
        others = [atom for atom in branch if isinstance(atom, Others)]
        base = self.notation.keys
        if goals:
            base = base - languages.words(goals)
        for atom in branch:
            if isinstance(atom, Named):
                base = base & self.names_of(atom.goal)
        classes: list[tuple[Language, Goal]] = [(base, EVERYTHING)]
        for each in matching:
            classes = [
                part
                for language, goal in classes
                for part in ((language & each.language, goal | each.goal), (language - each.language, goal))
                if not part[0].empty
            ][:_MOST_CLASSES]
        for other in others:
            parts = []
            for language, goal in classes:
                outside = self._outside(language, other.names)
                parts += [(outside, goal | other.goal), (language - outside, goal)]
            classes = [part for part in parts if not part[0].empty][:_MOST_CLASSES]
        classes = [part for part in classes if not part[0].empty and self.possible(part[1])]
        seen = any(isinstance(atom, SeenProperties) and not atom.names.every for atom in branch)
        if (goals or (seen and not others)) and missing <= 0:
            classes = [part for part in classes if part[1]]  # the declared properties are enough
        return classes

    # -- expressions

    def _expression(self, layout: Layout) -> str:
        if isinstance(layout, Listed):
            return self.rules.choice([str(self.notation.value(value)) for value in layout.values])
        if isinstance(layout, Numbers):
            texts = _texts(layout)
            if isinstance(texts, str):
                return self.rules.add(regex(texts))
            if isinstance(texts, Language):
                return self.rules.language(texts, _plain)
            return self.rules.choice([literal(text) for text in texts or []])
        if isinstance(layout, Text):
            return self.rules.add(self.notation.string(self._content(layout)))
        if isinstance(layout, Run):
            return self.rules.add(f'"[" {self._run(layout)} "]"')
        if isinstance(layout, Pick):
            items = [self._rule(goal) for goal in layout.goals]
            items += [str(self.notation.value(value)) for value in layout.values]
            return self.rules.add(
                f'"[" {self._chain([(item, False) for item in items], "", layout.low, layout.high)} "]"'
            )
        return self._members(layout)

    def _content(self, text: Text) -> str:
        if text.language is None:
            return self.notation.counted(self.rules, text.low, text.high)
        return self.rules.language(text.language, self.notation.pieces)

    def _run(self, layout: Run) -> str:
        comma = literal(self.notation.comma)
        count = len(layout.slots)
        after = ""
        if layout.rest is not None and (layout.high is None or layout.high > count):
            rest = self._rule(layout.rest)
            low, high = max(layout.low - count, 0), None if layout.high is None else layout.high - count
            if count == 0:
                more = f"({comma} {rest}){repetition(max(low - 1, 0), None if high is None else high - 1)}"
                return f"{rest} {more}" if low else f'({rest} {more} | "")'
            after = f"({comma} {rest}){repetition(low, high)}"
        for i in reversed(range(count)):
            body = f"{comma} {self._rule(layout.slots[i])} {after}".strip() if i else ""
            body = body or f"{self._rule(layout.slots[0])} {after}".strip()
            after = self.rules.add(body if i < layout.low else f'{body} | ""')
        return after or '""'

    def _members(self, layout: Members) -> str:
        named = [(f"{self.notation.name(name)} {self._rule(goal)}", required) for name, goal, required in layout.named]
        tail = ""
        if layout.free:
            pairs = []
            for language, goal in layout.free:
                content = Text(0, None, None if language is ANY else self.notation.content(language))
                pairs.append(f"{self.notation.key(self._content(content))} {self._rule(goal)}")
            tail = self.rules.choice([self.rules.add(pair) for pair in pairs])
        return self.rules.add(f'"{{" {self._chain(named, tail, layout.low, layout.high)} "}}"')

    def _chain(self, elements: Sequence[tuple[str, bool]], tail: str, low: int, high: int | None) -> str:
        """Elements in order (optional unless required), then `tail` any number of times, separated by commas.

        In all `low` to `high` of them; for `low`, only the first `tail` counts.
        """
        comma = literal(self.notation.comma)
        count = len(elements)
        low = 0 if low <= sum(required for _, required in elements) else low
        high = None if high is not None and not tail and high >= count else high
        most = max(1, low, high or 0) if high is None or high <= count + 1 else max(1, low, count + 1)
        known: dict[tuple[int, int], str | None] = {}
        for i in reversed(range(count + 1)):
            for k in range(min(i, most) + 1):
                known[i, k] = self._chain_from(i, k, elements, tail, low, high, most, known, comma)
        found = known[0, 0]
        if found is None:
            raise EdgeMtpError("#: no object can have the required number of properties; loosen it")
        return found

    def _chain_from(
        self,
        i: int,
        k: int,
        elements: Sequence[tuple[str, bool]],
        tail: str,
        low: int,
        high: int | None,
        most: int,
        known: dict[tuple[int, int], str | None],
        comma: str,
    ) -> str | None:
        """What may follow when `k` elements have been written and element `i` is next; None if nothing can."""
        lead = f"{comma} " if k else ""
        room = None if high is None else high - k
        if i == len(elements):
            options = []
            if tail and (room is None or room > 0) and k + 1 >= low:
                more = "" if room == 1 else f" ({comma} {tail}){repetition(0, None if room is None else room - 1)}"
                options.append(f"{lead}{tail}{more}")
            if k >= low:
                options.append('""')
            return self.rules.choice(options) if options else None
        element, required = elements[i]
        options = []
        if room is None or room > 0:
            after = known[i + 1, min(k + 1, most)]
            if after is not None:
                options.append(f"{lead}{element}" + ("" if after == '""' else f" {after}"))
        if not required and known[i + 1, k] is not None:
            options.append(str(known[i + 1, k]))
        return self.rules.choice([self.rules.add(" | ".join(options))]) if options else None


def _texts(numbers: Numbers) -> str | Language | list[str] | None:
    if numbers not in _NUMBER_TEXTS:
        if len(_NUMBER_TEXTS) > 500:
            _NUMBER_TEXTS.clear()
        _NUMBER_TEXTS[numbers] = numbers.texts()
    return _NUMBER_TEXTS[numbers]


_NUMBER_TEXTS: dict[Numbers, str | Language | list[str] | None] = {}


def _plain(ranges: Ranges) -> list[str]:
    return [characters(ranges)]
