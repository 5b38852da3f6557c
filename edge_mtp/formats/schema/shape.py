"""The algebra of JSON schemas: the conditions of a schema, by JSON type, in disjunctive normal form.

A *literal* is a schema or its complement; a *goal* is a set of literals that must all hold. For each JSON type a
literal is a disjunction of *branches*, and a branch is a list of *atoms*. Each atom is one condition on a value of that
type; some contain goals for its parts. The complement is pushed down to the atoms, so only atoms are ever negated. If a
complement or a disjunction would be too large, branches are left out: the result is narrower, never wider.
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

Literal: TypeAlias = int  # twice the schema's number, plus one for its complement
Goal: TypeAlias = frozenset[Literal]

EVERYTHING: Goal = frozenset()


@dataclass(frozen=True)
class Names:
    """A set of property names: the listed ones and those in a language."""

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
    """For any type: the value is one of `values`, or (not `wanted`) none of them."""

    values: tuple[Any, ...]  # keys, as returned by `key_of`
    wanted: bool = True

    @cached_property
    def keys(self) -> frozenset[Any]:
        return frozenset(self.values)


@dataclass(frozen=True)
class Length:
    """The length of a string (characters), array (items) or object (properties)."""

    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class Matches:
    """The string is in a language. An annotation is dropped if it would leave no string."""

    language: Language
    annotation: bool = False


@dataclass(frozen=True)
class Limit:
    """A limit of a number."""

    value: Fraction
    upper: bool
    excluded: bool


@dataclass(frozen=True)
class Whole:
    """The number is an integer, or (not `wanted`) is none."""

    wanted: bool


@dataclass(frozen=True)
class Multiple:
    """The number is a multiple of `of`, or (not `wanted`) is none."""

    of: Fraction
    wanted: bool


@dataclass(frozen=True)
class Items:
    """The goals of an array's first items by position, and of all items after those."""

    prefix: tuple[Goal, ...]
    rest: Goal


@dataclass(frozen=True)
class Item:
    """The array has an item at a position, and the item satisfies a goal."""

    at: int
    goal: Goal


@dataclass(frozen=True)
class Contains:
    """`low` to `high` items of the array satisfy a goal; all others satisfy its complement."""

    goal: Goal
    complement: Goal
    low: int
    high: int | None


@dataclass(frozen=True)
class Unique:
    """No two items of the array are equal. `place` is where the schema says so."""

    place: str


@dataclass(frozen=True)
class Property:
    """If the object has the property, its value satisfies a goal."""

    name: str
    goal: Goal


@dataclass(frozen=True)
class Has:
    """The object has the property."""

    name: str


@dataclass(frozen=True)
class Matching:
    """The value of every property whose name is in a language satisfies a goal."""

    language: Language
    goal: Goal


@dataclass(frozen=True)
class Others:
    """The value of every property whose name is not in `names` satisfies a goal."""

    names: Names
    goal: Goal


@dataclass(frozen=True)
class Named:
    """Every property name satisfies a goal."""

    goal: Goal


@dataclass(frozen=True)
class Some:
    """The object has a property whose value satisfies `goal` and whose name is not in `outside`, is in `language`, and
    satisfies the goal `name`."""

    language: Language | None
    outside: Names
    name: Goal
    goal: Goal


@dataclass(frozen=True)
class SeenProperties:
    """No condition: notes that these properties are evaluated (`unevaluatedProperties`)."""

    names: Names


@dataclass(frozen=True)
class SeenItems:
    """No condition: notes that the first `count` items are evaluated (`unevaluatedItems`); None means all."""

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
    """Whether two branches list values without a common one, or differ about integers."""
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
    """A hashable key, the same for values that are equal in JSON schema: 1 and 1.0 are equal, 1 and true are not."""
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
