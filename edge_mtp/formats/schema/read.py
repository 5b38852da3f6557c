"""Reads JSON schemas into the algebra of `shape`: drafts 2020-12, 2019-09 and 7."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema.document import Document
from edge_mtp.formats.schema.formats import format_language
from edge_mtp.formats.schema.language import Language
from edge_mtp.formats.schema.pattern import pattern_language
from edge_mtp.formats.schema.shape import (
    ALWAYS,
    EVERYTHING,
    MOST_BRANCHES,
    NEVER,
    TYPES,
    Atom,
    Branch,
    Branches,
    Contains,
    Goal,
    Has,
    Item,
    Items,
    Length,
    Limit,
    Literal,
    Matches,
    Matching,
    Multiple,
    Named,
    Names,
    OneOf,
    Others,
    Property,
    SeenItems,
    SeenProperties,
    Some,
    Unique,
    Whole,
    contradict,
    either,
    key_of,
    kind_of,
    whole_value,
)

_LARGEST = 10**9  # largest count
_DEEPEST_LOOK = 3  # levels of nested objects that are searched for contradicting goals
_MOST_MERGED = 20_000  # pairs of branches that are combined for one schema

# In drafts that do not know them yet, these keywords are annotations.
_SINCE_2019 = {
    *("minContains", "maxContains", "dependentRequired", "dependentSchemas", "unevaluatedItems"),
    *("unevaluatedProperties", "$anchor", "$recursiveRef"),
}
_SINCE_2020 = {"prefixItems", "$dynamicRef", "$dynamicAnchor"}


class Reader:
    """The literals of one schema. A keyword that cannot be enforced raises with `strict`, else goes to `unenforced`.

    `openapi`: `nullable` and types in capitals have the meaning that they have in tool declarations.
    """

    def __init__(self, schema: Any, *, strict: bool, openapi: bool) -> None:
        self.document = Document(schema)
        self.strict = strict
        self.openapi = openapi
        self.unenforced: dict[tuple[str, str], None] = {}
        self.values: dict[Any, Any] = {}  # by key
        self._constants: dict[Any, Any] = {}  # schemas of one value, by key
        self._schemas: list[Any] = [True]
        self._numbers: dict[int, int] = {}
        self._found: dict[tuple[Literal, str], Branches] = {}
        self._open: set[tuple[Literal, str]] = set()
        self._known_empty: dict[Goal, bool] = {}
        self._merged = 0
        self._looking = 0

    # -- literals and goals

    def literal(self, schema: Any, wanted: bool = True) -> Literal:
        if schema is True or schema is False:
            return int(wanted != schema)
        if id(schema) not in self._numbers:
            self._numbers[id(schema)] = len(self._schemas)
            self._schemas.append(schema)
        return 2 * self._numbers[id(schema)] + (not wanted)

    def goal(self, schema: Any, wanted: bool = True) -> Goal:
        literal = self.literal(schema, wanted)
        return EVERYTHING if literal == 0 else frozenset([literal])

    def place(self, goal: Goal) -> str:
        return self.document.place(self._schemas[min(goal) // 2]) if goal else "#"

    def error(self, schema: Any, keyword: str, trouble: str) -> EdgeMtpError:
        return EdgeMtpError(f"{self.document.place(schema)}: {keyword} {trouble}")

    def branches(self, goal: Goal, kind: str) -> Branches:
        """The branches of a goal for values of one type."""
        result = ALWAYS
        for literal in sorted(goal):
            result = self.both(result, self.literal_branches(literal, kind))
        return result

    def both(self, a: Branches, b: Branches) -> Branches:
        """The conjunction, without branches found to be empty, which discriminators usually reveal."""
        if a == ALWAYS or b == ALWAYS:
            return b if a == ALWAYS else a
        result: list[Branch] = []
        for left in a:
            for right in b:
                self._merged += 1
                if self._merged > _MOST_MERGED:
                    raise EdgeMtpError("#: the schema has too many combinations for a grammar; split it")
                if contradict(left, right) or self._needs_nothing(left, right):
                    continue
                result.append(left + tuple(atom for atom in right if atom not in left))
                if len(result) == MOST_BRANCHES:
                    return tuple(result)
        return tuple(result)

    def _needs_nothing(self, left: Branch, right: Branch) -> bool:
        """Whether a required property has two goals that contradict each other."""
        asked = {atom.name for atom in right if isinstance(atom, Has | Property)}
        needed = {atom.name for atom in (*left, *right) if isinstance(atom, Has)}
        for name in asked & needed:
            goals = [atom.goal for atom in (*left, *right) if isinstance(atom, Property) and atom.name == name]
            if self._empty(EVERYTHING.union(*goals)):
                return True
        return False

    def _empty(self, goal: Goal) -> bool:
        """Whether a goal has no branch of any type. False while one of its literals is still being read."""
        if not goal or any((literal, kind) in self._open for literal in goal for kind in TYPES):
            return False
        if goal not in self._known_empty:
            if self._looking == _DEEPEST_LOOK:
                return False
            self._looking += 1
            self._known_empty[goal] = not any(self.branches(goal, kind) for kind in TYPES)
            self._looking -= 1
        return self._known_empty[goal]

    def literal_branches(self, literal: Literal, kind: str) -> Branches:
        key = (literal, kind)
        if key in self._found:
            return self._found[key]
        if key in self._open:
            return NEVER  # a schema that refers to itself in place never ends
        self._open.add(key)
        wanted = literal % 2 == 0
        schema = self._schemas[literal // 2]
        result = self._schema(schema, wanted, kind) if schema is not True else ALWAYS if wanted else NEVER
        self._open.discard(key)
        self._found[key] = result
        return result

    def _of(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return self.literal_branches(self.literal(schema, wanted), kind)

    # -- one schema

    def _schema(self, schema: Any, wanted: bool, kind: str) -> Branches:
        if not isinstance(schema, Mapping):
            raise EdgeMtpError(f"{self.document.place(schema)}: {schema!r} is not a schema; use an object or a boolean")
        parts = []
        draft = self.document.draft
        for keyword in schema:
            if self.document.reference_is_alone and "$ref" in schema and keyword != "$ref":
                continue
            if (draft < 2019 and keyword in _SINCE_2019) or (draft < 2020 and keyword in _SINCE_2020):
                continue
            found = _KEYWORDS.get(keyword)
            if found is not None and (found[0] is None or kind in found[0]):
                parts.append(found[1](self, schema, wanted, kind))
        result = ALWAYS if wanted else NEVER
        for part in parts:
            result = self.both(result, part) if wanted else either(result, part)
        if wanted:
            result = self._unevaluated(schema, kind, result)
        return result

    def _nullable(self, schema: Mapping[str, Any]) -> bool:
        return self.openapi and schema.get("nullable") is True

    def _note(self, schema: Any, keyword: str, trouble: str) -> None:
        """Records a keyword that cannot be enforced, or raises if `strict`."""
        if self.strict:
            raise self.error(schema, keyword, trouble)
        self.unenforced[self.document.place(schema), keyword] = None

    def note_wider(self, goal: Goal, keyword: str) -> None:
        self.unenforced[self.place(goal), keyword] = None

    # -- any type

    def _type(self, schema: Any, wanted: bool, kind: str) -> Branches:
        declared = schema["type"]
        names = [declared] if isinstance(declared, str) else declared
        if self.openapi and isinstance(names, list):
            names = [name.lower() if isinstance(name, str) else name for name in names]
        known = (*TYPES, "integer")
        if not isinstance(names, list) or not names or any(name not in known for name in names):
            raise self.error(schema, "type", f"{declared!r} is no type; use {', '.join(known)}")
        if kind in names or (kind == "null" and self._nullable(schema)):
            return ALWAYS if wanted else NEVER
        if kind == "number" and "integer" in names:
            return ((Whole(wanted),),)
        return NEVER if wanted else ALWAYS

    def _values(self, schema: Any, wanted: bool, kind: str, values: Any, keyword: str) -> Branches:
        if not isinstance(values, list) or not values:
            raise self.error(schema, keyword, f"is {values!r}; list at least one value")
        keys = []
        for value in values:
            if kind_of(value) == kind:
                key = key_of(value)
                self.values.setdefault(key, value)
                keys.append(key)
        if kind == "null" and self._nullable(schema):
            return ALWAYS if wanted else NEVER
        if not keys:
            return NEVER if wanted else ALWAYS
        if wanted or kind not in ("array", "object"):
            return ((OneOf(tuple(dict.fromkeys(keys)), wanted),),)
        result = ALWAYS
        for key in dict.fromkeys(keys):
            result = self.both(result, self._other_than(self.values[key]))
        return result

    def _other_than(self, value: Any) -> Branches:
        """The arrays or objects that differ from this one, in size or in an element."""
        size = len(value)
        longer: Branch = (Length(size + 1),)
        if kind_of(value) == "array":
            shorter: Branches = ((Length(0, size - 1),),) if size else NEVER
            return (*shorter, longer, *((Item(i, self._differs(item)),) for i, item in enumerate(value)))
        absent: Branches = tuple((self.absent(name),) for name in value)
        return (*absent, longer, *((Has(name), Property(name, self._differs(item))) for name, item in value.items()))

    def _differs(self, value: Any) -> Goal:
        key = key_of(value)
        if key not in self._constants:
            self._constants[key] = {"const": value}
        return self.goal(self._constants[key], False)

    def _enum(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return self._values(schema, wanted, kind, schema["enum"], "enum")

    def _const(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return self._values(schema, wanted, kind, [schema["const"]], "const")

    def _list(self, schema: Any, keyword: str) -> Sequence[Any]:
        found = schema[keyword]
        if not isinstance(found, list) or not found:
            raise self.error(schema, keyword, f"is {found!r}; list at least one schema")
        return found

    def _all_of(self, schema: Any, wanted: bool, kind: str) -> Branches:
        result = ALWAYS if wanted else NEVER
        for inner in self._list(schema, "allOf"):
            result = (self.both if wanted else either)(result, self._of(inner, wanted, kind))
        return result

    def _any_of(self, schema: Any, wanted: bool, kind: str) -> Branches:
        result = NEVER if wanted else ALWAYS
        for inner in self._list(schema, "anyOf"):
            result = (either if wanted else self.both)(result, self._of(inner, wanted, kind))
        return result

    def _one_of(self, schema: Any, wanted: bool, kind: str) -> Branches:
        options = self._list(schema, "oneOf")
        result = NEVER
        if wanted:
            for i, option in enumerate(options):
                alone = self._of(option, True, kind)
                for j, other in enumerate(options):
                    if i != j and alone and not self.apart(option, other, kind):
                        alone = self.both(alone, self._of(other, False, kind))
                result = either(result, alone)
            return result
        none = ALWAYS
        for option in options:
            none = self.both(none, self._of(option, False, kind))
        result = none
        for i, option in enumerate(options):
            for other in options[:i]:
                result = either(result, self.both(self._of(option, True, kind), self._of(other, True, kind)))
        return result

    def _not(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return _unseen(self._of(schema["not"], not wanted, kind))

    def _if(self, schema: Any, wanted: bool, kind: str) -> Branches:
        condition = schema["if"]
        yes = self.both(self._of(condition, True, kind), self._of(schema.get("then", True), wanted, kind))
        no = self.both(self._of(condition, False, kind), self._of(schema.get("else", True), wanted, kind))
        return either(yes, no)

    def _ref(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return self._reference(schema, "$ref", wanted, kind)

    def _dynamic_ref(self, schema: Any, wanted: bool, kind: str) -> Branches:
        return self._reference(schema, "$dynamicRef", wanted, kind)

    def _reference(self, schema: Any, keyword: str, wanted: bool, kind: str) -> Branches:
        try:
            found = self.document.resolve(schema, keyword)
        except EdgeMtpError as error:
            self._note(schema, keyword, str(error))
            return ALWAYS
        return self._of(found, wanted, kind)

    def _refused(self, schema: Any, wanted: bool, kind: str) -> Branches:
        self._note(schema, "$recursiveRef", "is not enforced; use $ref")
        return ALWAYS

    # -- numbers

    def _number(self, schema: Any, keyword: str) -> Fraction:
        value = schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(schema, keyword, f"is {value!r}; use a number")
        return Fraction(str(value))

    def _bound(self, schema: Any, wanted: bool, keyword: str) -> Branches:
        value = self._number(schema, keyword)
        upper, excluded = "aximum" in keyword, keyword.startswith("exclusive")
        return ((Limit(value, upper == wanted, excluded == wanted),),)

    def _multiple_of(self, schema: Any, wanted: bool, kind: str) -> Branches:
        value = self._number(schema, "multipleOf")
        if value <= 0:
            raise self.error(schema, "multipleOf", f"is {schema['multipleOf']!r}; use a number above 0")
        return ((Multiple(value, wanted),),)

    # -- counts

    def _count(self, schema: Any, keyword: str, default: int = 0) -> int:
        value = schema.get(keyword, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise self.error(schema, keyword, f"is {value!r}; use a whole number that is not negative")
        return min(int(value), _LARGEST)

    def _least(self, schema: Any, wanted: bool, keyword: str) -> Branches:
        count = self._count(schema, keyword)
        if wanted:
            return ((Length(low=count),),) if count else ALWAYS
        return ((Length(high=count - 1),),) if count else NEVER

    def _most(self, schema: Any, wanted: bool, keyword: str) -> Branches:
        count = self._count(schema, keyword)
        return ((Length(high=count),),) if wanted else ((Length(low=count + 1),),)

    # -- strings

    def language(self, schema: Any, keyword: str, pattern: Any) -> Language | None:
        """The language of a pattern; None, after noting it, if the pattern cannot be enforced."""
        if not isinstance(pattern, str):
            raise self.error(schema, keyword, f"has {pattern!r}; use a string")
        try:
            return pattern_language(pattern)
        except EdgeMtpError as error:
            self._note(schema, keyword, str(error))
            return None

    def _pattern(self, schema: Any, wanted: bool, kind: str) -> Branches:
        language = self.language(schema, "pattern", schema["pattern"])
        if language is None:
            return ALWAYS
        return ((Matches(language if wanted else ~language),),)

    def _format(self, schema: Any, wanted: bool, kind: str) -> Branches:
        name = schema["format"]
        if not isinstance(name, str):
            raise self.error(schema, "format", f"is {name!r}; use a string")
        language = format_language(name) if wanted else None
        if language is not None:
            return ((Matches(language, annotation=True),),)
        return ALWAYS if wanted else NEVER

    # -- arrays

    def _prefix(self, schema: Any) -> list[Any]:
        items = schema.get("items")
        if isinstance(items, list):
            return items
        prefix = schema.get("prefixItems", []) if self.document.draft >= 2020 else []
        if not isinstance(prefix, list):
            raise self.error(schema, "prefixItems", f"is {prefix!r}; list schemas")
        return prefix

    def _items(self, schema: Any, wanted: bool, kind: str) -> Branches:
        """`prefixItems` and `items` together, and draft 7's `items` and `additionalItems`."""
        prefix = self._prefix(schema)
        rest = schema.get("items", True)
        if isinstance(rest, list):
            rest = schema.get("additionalItems", True)
        if wanted:
            closed = ("items" in schema and not isinstance(schema["items"], list)) or (
                isinstance(schema.get("items"), list) and "additionalItems" in schema
            )
            seen = SeenItems(None if closed else len(prefix))
            return ((Items(tuple(map(self.goal, prefix)), self.goal(rest)), seen),)
        wrong: list[Branch] = [(Item(i, self.goal(inner, False)),) for i, inner in enumerate(prefix)]
        return (*wrong, (Item(len(prefix), self.goal(rest, False)),))

    def _prefix_items(self, schema: Any, wanted: bool, kind: str) -> Branches:
        if "items" in schema:
            return ALWAYS if wanted else NEVER
        return self._items(schema, wanted, kind)

    def _contains(self, schema: Any, wanted: bool, kind: str) -> Branches:
        draft = self.document.draft
        low = self._count(schema, "minContains", 1) if draft >= 2019 else 1
        high = self._count(schema, "maxContains") if draft >= 2019 and "maxContains" in schema else None
        goal, others = self.goal(schema["contains"]), self.goal(schema["contains"], False)
        if wanted:
            return ((Contains(goal, others, low, high),),) if low or high is not None else ALWAYS
        fewer: Branches = ((Contains(goal, others, 0, low - 1),),) if low else NEVER
        return fewer if high is None else (*fewer, (Contains(goal, others, high + 1, None),))

    def _unique(self, schema: Any, wanted: bool, kind: str) -> Branches:
        if not isinstance(schema["uniqueItems"], bool):
            raise self.error(schema, "uniqueItems", f"is {schema['uniqueItems']!r}; use true or false")
        if not schema["uniqueItems"]:
            return ALWAYS if wanted else NEVER
        return ((Unique(self.document.place(schema)),),) if wanted else NEVER  # equal items are never generated

    # -- objects

    def _map(self, schema: Any, keyword: str) -> Mapping[str, Any]:
        found = schema[keyword]
        if not isinstance(found, Mapping):
            raise self.error(schema, keyword, f"is {found!r}; map names to schemas")
        return found

    def _properties(self, schema: Any, wanted: bool, kind: str) -> Branches:
        found = self._map(schema, "properties")
        if wanted:
            seen = SeenProperties(Names(frozenset(found)))
            return ((*(Property(name, self.goal(inner)) for name, inner in found.items()), seen),)
        return tuple((Has(name), Property(name, self.goal(inner, False))) for name, inner in found.items())

    def _pattern_properties(self, schema: Any, wanted: bool, kind: str) -> Branches:
        atoms: list[Atom] = []
        wrong: list[Branch] = []
        for pattern, inner in self._map(schema, "patternProperties").items():
            language = self.language(schema, "patternProperties", pattern)
            if language is not None:
                atoms += [Matching(language, self.goal(inner)), SeenProperties(Names(languages=(language,)))]
                wrong.append((Some(language, Names(), EVERYTHING, self.goal(inner, False)),))
        return (tuple(atoms),) if wanted else tuple(wrong)

    def _declared(self, schema: Any) -> Names:
        """The names that `additionalProperties` does not apply to."""
        names = self._map(schema, "properties") if "properties" in schema else {}
        patterns = self._map(schema, "patternProperties") if "patternProperties" in schema else {}
        languages = [self.language(schema, "patternProperties", pattern) for pattern in patterns]
        return Names(frozenset(names), tuple(language for language in languages if language is not None))

    def _additional(self, schema: Any, wanted: bool, kind: str) -> Branches:
        names, inner = self._declared(schema), schema["additionalProperties"]
        if wanted:
            return ((Others(names, self.goal(inner)), SeenProperties(Names(every=True))),)
        return ((Some(None, names, EVERYTHING, self.goal(inner, False)),),)

    def _names(self, schema: Any, wanted: bool, kind: str) -> Branches:
        inner = schema["propertyNames"]
        if wanted:
            return ((Named(self.goal(inner)),),)
        return ((Some(None, Names(), self.goal(inner, False), EVERYTHING),),)

    def _strings(self, schema: Any, keyword: str, names: Any) -> list[str]:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.error(schema, keyword, f"is {names!r}; list names")
        return names

    def _required(self, schema: Any, wanted: bool, kind: str) -> Branches:
        names = self._strings(schema, "required", schema["required"])
        if wanted:
            return (tuple(Has(name) for name in dict.fromkeys(names)),)
        return tuple((self.absent(name),) for name in names)

    def absent(self, name: str) -> Atom:
        return Property(name, self.goal(False))

    def _dependent(self, schema: Any, wanted: bool, keyword: str) -> Branches:
        result = ALWAYS if wanted else NEVER
        for name, demand in self._map(schema, keyword).items():
            if isinstance(demand, list):
                then: Branches = (tuple(Has(other) for other in self._strings(schema, keyword, demand)),)
                broken: Branches = tuple((Has(name), self.absent(other)) for other in demand)
            else:
                then = self._of(demand, True, "object")
                broken = self.both(((Has(name),),), self._of(demand, False, "object"))
            kept = either(self.both(((Has(name),),), then), ((self.absent(name),),))
            result = self.both(result, kept) if wanted else either(result, broken)
        return result

    # -- unevaluated properties and items

    def _unevaluated(self, schema: Any, kind: str, branches: Branches) -> Branches:
        keyword = "unevaluatedProperties" if kind == "object" else "unevaluatedItems"
        if kind not in ("object", "array") or keyword not in schema or self.document.draft < 2019:
            return branches
        goal = self.goal(schema[keyword])
        result: list[Branch] = []
        for branch in branches:
            if kind == "object":
                seen = Names()
                for atom in branch:
                    if isinstance(atom, SeenProperties):
                        seen |= atom.names
                extra: Branch = (SeenProperties(Names(every=True)),)
                extra = extra if seen.every else (Others(seen, goal), *extra)
            else:
                counts = [atom.count for atom in branch if isinstance(atom, SeenItems)]
                first = max((count for count in counts if count is not None), default=0)
                extra = (SeenItems(None),)
                extra = extra if None in counts else (Items((EVERYTHING,) * first, goal), *extra)
            result.append((*branch, *extra))
        return tuple(result)

    # -- proofs

    def apart(self, a: Any, b: Any, kind: str, depth: int = 4) -> bool:
        """Whether certainly no value of a type satisfies both schemas; false if this is not found."""
        if a is False or b is False:
            return True
        if depth == 0 or a is True or b is True or not isinstance(a, Mapping) or not isinstance(b, Mapping):
            return False
        for schema, other in ((a, b), (b, a)):
            if self.document.reference_is_alone and "$ref" in schema:
                continue
            if "type" in schema and self._type(schema, True, kind) == NEVER:
                return True
            for keyword in ("anyOf", "oneOf"):
                options = schema.get(keyword)
                if isinstance(options, list) and all(self.apart(option, other, kind, depth - 1) for option in options):
                    return True
            if any(self.apart(inner, other, kind, depth - 1) for inner in schema.get("allOf", [])):
                return True
        for schema, other in ((a, b), (b, a)):
            if "$ref" in schema:
                try:
                    if self.apart(self.document.resolve(schema, "$ref"), other, kind, depth - 1):
                        return True
                except EdgeMtpError:
                    pass
                if self.document.reference_is_alone:
                    return False
        values = [self._listed(schema, kind) for schema in (a, b)]
        if values[0] is not None and values[1] is not None and not values[0] & values[1]:
            return True
        if any(found is not None and not found for found in values):
            return True
        if kind == "number":
            return self._limits_apart(a, b)
        if kind == "object":
            return self._properties_apart(a, b, depth)
        return False

    def _listed(self, schema: Any, kind: str) -> set[Any] | None:
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if not isinstance(values, list) or self._nullable(schema):
            return None
        allowed = [value for value in values if kind_of(value) == kind]
        if kind == "number" and schema.get("type") == "integer":
            allowed = [value for value in allowed if whole_value(value)]
        return {key_of(value) for value in allowed}

    def _limits_apart(self, a: Any, b: Any) -> bool:
        for low, high in ((a, b), (b, a)):
            for least in ("minimum", "exclusiveMinimum"):
                for most in ("maximum", "exclusiveMaximum"):
                    if least in low and most in high:
                        gap = self._number(low, least) - self._number(high, most)
                        if gap > 0 or (gap == 0 and (least[0] == "e" or most[0] == "e")):
                            return True
        return False

    def _properties_apart(self, a: Any, b: Any, depth: int) -> bool:
        lists = [schema.get("required", []) for schema in (a, b)]
        maps = [schema.get("properties", {}) for schema in (a, b)]
        if not all(isinstance(found, list) for found in lists) or not all(isinstance(f, Mapping) for f in maps):
            return False
        for name in {*lists[0], *lists[1]}:
            inner = [found.get(name, True) for found in maps]
            if all(self.apart(inner[0], inner[1], other, depth - 1) for other in TYPES):
                return True
            for schema, properties in zip((a, b), maps, strict=True):
                closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
                if closed and name not in properties:
                    return True
        return False


def _unseen(branches: Branches) -> Branches:
    """Drops notes of evaluated items and properties: what `not` evaluates does not count outside."""
    return tuple(tuple(a for a in branch if not isinstance(a, SeenItems | SeenProperties)) for branch in branches)


def _by_keyword(method: Callable[[Reader, Any, bool, str], Branches], keyword: str) -> Any:
    return lambda reader, schema, wanted, kind: method(reader, schema, wanted, keyword)


_STRING, _NUMBER, _ARRAY, _OBJECT = (frozenset([kind]) for kind in ("string", "number", "array", "object"))

# A keyword that is missing here is an annotation, or is read together with another keyword.
_KEYWORDS: dict[str, tuple[frozenset[str] | None, Callable[[Reader, Any, bool, str], Branches]]] = {
    "$ref": (None, Reader._ref),
    "$dynamicRef": (None, Reader._dynamic_ref),
    "$recursiveRef": (None, Reader._refused),
    "type": (None, Reader._type),
    "enum": (None, Reader._enum),
    "const": (None, Reader._const),
    "allOf": (None, Reader._all_of),
    "anyOf": (None, Reader._any_of),
    "oneOf": (None, Reader._one_of),
    "not": (None, Reader._not),
    "if": (None, Reader._if),
    "multipleOf": (_NUMBER, Reader._multiple_of),
    **{
        keyword: (_NUMBER, _by_keyword(Reader._bound, keyword))
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    },
    "minLength": (_STRING, _by_keyword(Reader._least, "minLength")),
    "maxLength": (_STRING, _by_keyword(Reader._most, "maxLength")),
    "pattern": (_STRING, Reader._pattern),
    "format": (_STRING, Reader._format),
    "items": (_ARRAY, Reader._items),
    "prefixItems": (_ARRAY, Reader._prefix_items),
    "contains": (_ARRAY, Reader._contains),
    "uniqueItems": (_ARRAY, Reader._unique),
    "minItems": (_ARRAY, _by_keyword(Reader._least, "minItems")),
    "maxItems": (_ARRAY, _by_keyword(Reader._most, "maxItems")),
    "properties": (_OBJECT, Reader._properties),
    "patternProperties": (_OBJECT, Reader._pattern_properties),
    "additionalProperties": (_OBJECT, Reader._additional),
    "propertyNames": (_OBJECT, Reader._names),
    "required": (_OBJECT, Reader._required),
    "minProperties": (_OBJECT, _by_keyword(Reader._least, "minProperties")),
    "maxProperties": (_OBJECT, _by_keyword(Reader._most, "maxProperties")),
    "dependentRequired": (_OBJECT, _by_keyword(Reader._dependent, "dependentRequired")),
    "dependentSchemas": (_OBJECT, _by_keyword(Reader._dependent, "dependentSchemas")),
    "dependencies": (_OBJECT, _by_keyword(Reader._dependent, "dependencies")),
}
