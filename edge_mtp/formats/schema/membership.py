"""Whether a value satisfies a goal of the algebra. The answer is never wrongly true; annotations are ignored."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from edge_mtp.formats.schema.read import Reader
from edge_mtp.formats.schema.shape import (
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
    OneOf,
    Others,
    Property,
    SeenItems,
    SeenProperties,
    Some,
    Unique,
    Whole,
    key_of,
    kind_of,
)


def satisfies(reader: Reader, value: Any, goal: Goal) -> bool:
    return any(holds(reader, value, branch) for branch in reader.branches(goal, kind_of(value)))


def holds(reader: Reader, value: Any, branch: Branch) -> bool:
    """Whether a value of a branch's type satisfies it."""
    return all(_holds(reader, value, atom) for atom in branch)


def _holds(reader: Reader, value: Any, atom: Atom) -> bool:
    def fits(inner: Any, goal: Goal) -> bool:
        return satisfies(reader, inner, goal)

    if isinstance(atom, OneOf):
        return (key_of(value) in atom.keys) == atom.wanted
    if isinstance(atom, Length):
        return atom.low <= len(value) and (atom.high is None or len(value) <= atom.high)
    if isinstance(atom, Matches):
        return atom.annotation or value in atom.language
    if isinstance(atom, Limit | Whole | Multiple):
        number = Fraction(str(value))
        if isinstance(atom, Limit):
            beyond = number > atom.value if atom.upper else number < atom.value
            return not beyond and not (atom.excluded and number == atom.value)
        return ((number if isinstance(atom, Whole) else number / atom.of).denominator == 1) == atom.wanted
    if isinstance(atom, Items):
        goals = [*atom.prefix, *[atom.rest] * (len(value) - len(atom.prefix))]
        return all(fits(item, goal) for item, goal in zip(value, goals, strict=False))
    if isinstance(atom, Item):
        return atom.at < len(value) and fits(value[atom.at], atom.goal)
    if isinstance(atom, Contains):
        known = [fits(item, atom.goal) for item in value]
        if not all(has or fits(item, atom.complement) for has, item in zip(known, value, strict=True)):
            return False  # neither answer is certain
        return atom.low <= sum(known) and (atom.high is None or sum(known) <= atom.high)
    if isinstance(atom, Unique):
        return len({key_of(item) for item in value}) == len(value)
    if isinstance(atom, Property):
        return atom.name not in value or fits(value[atom.name], atom.goal)
    if isinstance(atom, Has):
        return atom.name in value
    if isinstance(atom, Matching):
        return all(fits(inner, atom.goal) for name, inner in value.items() if name in atom.language)
    if isinstance(atom, Others):
        return all(fits(inner, atom.goal) for name, inner in value.items() if name not in atom.names)
    if isinstance(atom, Named):
        return all(fits(name, atom.goal) for name in value)
    if isinstance(atom, Some):
        return any(
            name not in atom.outside
            and (atom.language is None or name in atom.language)
            and fits(name, atom.name)
            and fits(inner, atom.goal)
            for name, inner in value.items()
        )
    assert isinstance(atom, SeenItems | SeenProperties)
    return True
