"""Compiles JSON schemas to grammars: every text that a grammar allows satisfies the schema (docs/grammar.md).

`document` finds subschemas, `read` turns them into the algebra of `shape`, and `write` turns that into rules in a
`notation`. `language`, `pattern` and `numbers` are sets of strings and of numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema.notation import CALL, JSON, Notation
from edge_mtp.formats.schema.read import Reader
from edge_mtp.formats.schema.rules import Rules
from edge_mtp.formats.schema.write import Writer

__all__ = ["CALL", "JSON", "Compiled", "Rules", "Unenforced", "compile_schema"]

_DEEPEST = 200  # nesting of a schema's text


@dataclass(frozen=True)
class Unenforced:
    """A keyword that the grammar does not fully enforce: it allows more values than the keyword does."""

    place: str
    keyword: str


@dataclass(frozen=True)
class Compiled:
    """A compiled schema. `expression` generates its values, using the given rules; `unenforced` is empty if the grammar
    enforces the whole schema."""

    expression: str
    unenforced: tuple[Unenforced, ...] = ()


def compile_schema(schema: Any, notation: Notation, rules: Rules, *, strict: bool, kind: str | None = None) -> Compiled:
    """Adds rules that generate the values of a JSON schema, and no other values unless the result says so.

    With `strict`, a keyword that a grammar cannot enforce is refused; otherwise the grammar allows more, and the result
    names the keyword. `kind` restricts the values to one JSON type, such as "object" for arguments.

    Raises `EdgeMtpError` naming place and keyword if the schema is invalid, if no value satisfies it, or if `strict`
    refuses a keyword.
    """
    _check_json(schema)
    try:
        reader = Reader(schema, strict=strict, openapi=notation.openapi)
        expression = Writer(reader, rules, notation).write(reader.goal(schema), kind)
    except RecursionError:
        raise EdgeMtpError(f"#: the schema is nested deeper than {_DEEPEST}; flatten it") from None
    return Compiled(expression, tuple(Unenforced(place, keyword) for place, keyword in reader.unenforced))


def _check_json(schema: Any) -> None:
    if not isinstance(schema, dict | bool):
        raise EdgeMtpError(f"the schema is a {type(schema).__name__}; pass a JSON schema, which is an object")
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EdgeMtpError(f"the schema is not JSON ({error}); correct it") from None
    except RecursionError:
        raise EdgeMtpError(f"the schema is nested deeper than {_DEEPEST}; flatten it") from None
