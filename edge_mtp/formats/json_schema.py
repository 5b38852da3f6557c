"""JSON schema's words that several readers share: the types of values, and what references lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")


def type_of(value: Any) -> str:
    """The narrowest type of a JSON value, among `TYPES`: true is no integer, and 1.0 is a number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def is_of_type(value: Any, name: str) -> bool:
    """Whether a JSON value is of the type `name`: an integer is a number too."""
    kind = type_of(value)
    return kind == name or (kind == "integer" and name == "number")


def resolve(reference: Any, root: Any) -> Any:
    """The subschema that a `$ref` points to within `root`; None where it leads nowhere, or out of the document."""
    if reference == "#":
        return root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    try:
        *_, (_, found) = steps(root, unquote(reference[1:]))
    except LookupError:
        return None
    return found


def steps(root: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    """Each part of a JSON pointer (RFC 6901), as it is written, and the value that it leads to.

    Raises LookupError for a part that leads nowhere.
    """
    found = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise LookupError(part)
        yield part, found
