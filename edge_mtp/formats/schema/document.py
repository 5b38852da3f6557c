"""A schema's document: its subschemas, their places, and the targets of references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag
from urllib.parse import urljoin as _urljoin

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.json_schema import steps

_ONE = (
    *("additionalProperties", "additionalItems", "contains", "contentSchema", "else", "if", "not", "propertyNames"),
    *("then", "unevaluatedItems", "unevaluatedProperties", "items"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("$defs", "definitions", "dependentSchemas", "dependencies", "patternProperties", "properties")


class Document:
    """`root` and all its subschemas. Schemas are told apart by identity, so `root` must not change meanwhile."""

    def __init__(self, root: Any) -> None:
        self.root = root
        dialect = str(root.get("$schema", "")) if isinstance(root, Mapping) else ""
        draft = re.search(r"draft-0?([3467])\b", dialect)
        self.draft = int(draft[1]) if draft else 2019 if "2019-09" in dialect else 2020
        self._base: dict[int, str] = {}
        self._place: dict[int, str] = {}
        self._named: dict[str, Any] = {}  # by URI, with or without an anchor
        self._dynamic: dict[str, list[Any]] = {}
        self._scan(root, "", "")

    @property
    def reference_is_alone(self) -> bool:
        """Whether the draft ignores keywords beside `$ref`."""
        return self.draft < 2019

    def place(self, schema: Any) -> str:
        """A schema's place as a JSON pointer; `#` is the whole document."""
        return "#" + self._place.get(id(schema), "")

    def resolve(self, schema: Mapping[str, Any], keyword: str) -> Any:
        """The subschema that a reference points to. Raises `EdgeMtpError` that says what is wrong with it."""
        reference = schema[keyword]
        if not isinstance(reference, str):
            raise EdgeMtpError(f"is {reference!r}; use a string")
        found = self._find(urljoin(self._base[id(schema)], reference), reference)
        if keyword == "$dynamicRef" and isinstance(found, Mapping):
            anchor = urldefrag(reference)[1]
            if found.get("$dynamicAnchor") == anchor:
                several = self._dynamic.get(anchor, [])
                if len(several) > 1:
                    raise EdgeMtpError(f"{reference!r} leads to several schemas, depending on the evaluation; use $ref")
        return found

    def _find(self, address: str, reference: str) -> Any:
        if address in self._named:
            return self._named[address]
        base, fragment = urldefrag(address)
        found = self._named.get(base)
        fragment = unquote(fragment)
        if found is None or (fragment and not fragment.startswith("/")):
            raise EdgeMtpError(f"{reference!r} leads nowhere; point into the schema's own $defs")
        place, whole = self._place[id(found)], found
        try:
            for part, found in steps(whole, fragment):
                place += "/" + part
                base = self._base.get(id(found), base)
        except LookupError:
            raise EdgeMtpError(f"{reference!r} leads nowhere; point into the schema's own $defs") from None
        if not isinstance(found, Mapping | bool):
            raise EdgeMtpError(f"{reference!r} leads to {found!r}, which is no schema")
        if isinstance(found, Mapping) and id(found) not in self._base:
            self._scan(found, base, place)
        return found

    def _scan(self, root: Any, base: str, place: str) -> None:
        todo = [(root, base, place)]
        while todo:
            schema, base, place = todo.pop()
            if not isinstance(schema, Mapping) or id(schema) in self._base:
                continue
            alone = self.reference_is_alone and "$ref" in schema
            name = schema.get("$id")
            if isinstance(name, str) and not alone:
                if name.startswith("#"):  # draft 7's anchors
                    self._named.setdefault(urljoin(base, name), schema)
                else:
                    base = urldefrag(urljoin(base, name))[0]
            if place == "" or (isinstance(name, str) and not alone and not name.startswith("#")):
                self._named.setdefault(base, schema)
                self._named.setdefault(base + "#", schema)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(schema.get(keyword), str):
                    self._named.setdefault(f"{base}#{schema[keyword]}", schema)
                    if keyword == "$dynamicAnchor":
                        self._dynamic.setdefault(schema[keyword], []).append(schema)
            self._base[id(schema)] = base
            self._place[id(schema)] = place
            todo += [(inner, base, place + "/" + at) for at, inner in _subschemas(schema)]


def urljoin(base: str, reference: str) -> str:
    """The address of a reference at a base. A base such as a URN has no path, and still takes a fragment."""
    return urldefrag(base)[0] + reference if reference.startswith("#") else _urljoin(base, reference)


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _ONE:
        yield keyword, schema.get(keyword)
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from ((f"{keyword}/{i}", inner) for i, inner in enumerate(schema[keyword]))
    for keyword in _MAPS:
        if isinstance(schema.get(keyword), Mapping):
            for name, inner in schema[keyword].items():
                yield f"{keyword}/" + str(name).replace("~", "~0").replace("/", "~1"), inner
