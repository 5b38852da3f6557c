"""The algebra of JSON schemas: what a schema asks, by JSON type, in disjunctive normal form.

A *literal* is a schema or its complement; a *goal* is a set of literals that hold together. For each JSON type a
literal is a disjunction of *branches*, and a branch is a list of *atoms*, each asking one thing of a value of that
type, some of them goals for its parts. The complement is pushed down to the atoms, so nothing but atoms is ever
negated. Where a complement or a disjunction would be too large, branches are left out: that is narrower, never wider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

from edge_mtp.formats.json_schema import type_of
from edge_mtp.formats.schema.language import Language

TYPES = ("string", "number", "boolean", "null", "array", "object")

Literal: TypeAlias = int  # twice the schema's number, and one more for its complement
Goal: TypeAlias = frozenset[Literal]

EVERYTHING: Goal = frozenset()


@dataclass(frozen=True)
class Names:
    """Some names of properties: those listed, and those that match a language."""

    listed: frozenset[str] = frozenset()
    languages: tuple[Language, ...] = ()
    every: bool = False

    def __contains__(self, name: str) -> bool:
        return self.every or name in self.listed or any(name in language for language in self.languages)

    def __or__(self, other: Names) -> Names:
        return Names(self.listed | other.listed, self.languages + other.languages, self.every or other.every)


# -- atoms ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneOf:
    """Of any type: the value is one of some, or none of them."""

    values: tuple[Any, ...]  # keys, as `key_of` makes them
    wanted: bool = True

    @cached_property
    def keys(self) -> frozenset[Any]:
        return frozenset(self.values)


@dataclass(frozen=True)
class Length:
    """Of strings (characters), arrays (items), objects (properties)."""

    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class Matches:
    """Of strings. An annotation is dropped where it leaves nothing."""

    language: Language
    annotation: bool = False


@dataclass(frozen=True)
class Limit:
    """Of numbers."""

    value: Fraction
    upper: bool
    excluded: bool


@dataclass(frozen=True)
class Whole:
    """Of numbers: an integer, or none."""

    wanted: bool


@dataclass(frozen=True)
class Multiple:
    """Of numbers: a multiple of another, or none."""

    of: Fraction
    wanted: bool


@dataclass(frozen=True)
class Items:
    """Of arrays: the items' goals by position, and those behind them."""

    prefix: tuple[Goal, ...]
    rest: Goal


@dataclass(frozen=True)
class Item:
    """Of arrays: there is an item at a position, and it has a goal."""

    at: int
    goal: Goal


@dataclass(frozen=True)
class Contains:
    """Of arrays: `low` to `high` items have a goal; all others have its complement."""

    goal: Goal
    complement: Goal
    low: int
    high: int | None


@dataclass(frozen=True)
class Unique:
    """Of arrays: no two items are equal. `place` is where the schema says so."""

    place: str


@dataclass(frozen=True)
class Property:
    """Of objects: the property, if it is there, has a goal."""

    name: str
    goal: Goal


@dataclass(frozen=True)
class Has:
    """Of objects: the property is there."""

    name: str


@dataclass(frozen=True)
class Matching:
    """Of objects: every property whose name matches has a goal."""

    language: Language
    goal: Goal


@dataclass(frozen=True)
class Others:
    """Of objects: every property with another name has a goal. `open` is one that says nothing."""

    names: Names
    goal: Goal


@dataclass(frozen=True)
class Named:
    """Of objects: every name has a goal."""

    goal: Goal


@dataclass(frozen=True)
class Some:
    """Of objects: there is a property whose name is outside some, of a language and of a goal; its value has a goal."""

    language: Language | None
    outside: Names
    name: Goal
    goal: Goal


@dataclass(frozen=True)
class SeenProperties:
    """No demand: these properties are evaluated (`unevaluatedProperties`)."""

    names: Names


@dataclass(frozen=True)
class SeenItems:
    """No demand: so many first items are evaluated (`unevaluatedItems`); None for all."""

    count: int | None


Atom: TypeAlias = (
    OneOf
    | Length
    | Matches
    | Limit
    | Whole
    | Multiple
    | Items
    | Item
    | Contains
    | Unique
    | Property
    | Has
    | Matching
    | Others
    | Named
    | Some
    | SeenProperties
    | SeenItems
)
Branch: TypeAlias = tuple[Atom, ...]
Branches: TypeAlias = tuple[Branch, ...]

ALWAYS: Branches = ((),)
NEVER: Branches = ()
MOST_BRANCHES = 64


def either(a: Branches, b: Branches) -> Branches:
    return tuple(dict.fromkeys((*a, *b)))[:MOST_BRANCHES]


def contradict(left: Branch, right: Branch) -> bool:
    """Whether two branches list values of which none is common, or differ about integers."""
    for a in left:
        if not isinstance(a, OneOf | Whole):
            continue
        for b in right:
            if isinstance(a, Whole) and isinstance(b, Whole) and a.wanted != b.wanted:
                return True
            if isinstance(a, OneOf) and isinstance(b, OneOf) and (a.wanted or b.wanted):
                inside, other = (a, b) if a.wanted else (b, a)
                if all((key in other.keys) != other.wanted for key in inside.values):
                    return True
    return False


# -- values ---------------------------------------------------------------------------------------------------------


def kind_of(value: Any) -> str:
    """The JSON type of a value, among TYPES."""
    kind = type_of(value)
    return "number" if kind == "integer" else kind


def key_of(value: Any) -> Any:
    """What is equal for values that JSON schema takes for equal, and can be hashed: 1 and 1.0 are, 1 and true not."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, int | float):
        return ("number", Fraction(str(value)))
    if isinstance(value, str):
        return ("string", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((name, key_of(inner)) for name, inner in value.items()))
    return ("array", tuple(key_of(inner) for inner in value))


def text_of(value: Any) -> str:
    """The JSON text of a value, for messages."""
    return json.dumps(value, ensure_ascii=False)


def whole_value(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
