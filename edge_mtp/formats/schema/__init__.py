"""JSON schemas to grammars: texts that a grammar allows satisfy the schema (docs/grammar.md).

`document` finds subschemas, `read` makes the algebra of `shape` of them, `write` makes rules of that in a `notation`;
`language`, `pattern` and `numbers` are sets of strings and numbers.
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
    """A keyword that the grammar does not hold to: it allows more there."""

    place: str
    keyword: str


@dataclass(frozen=True)
class Compiled:
    """`expression`: of a schema's values, over the rules given; `unenforced`: empty if the schema is kept whole."""

    expression: str
    unenforced: tuple[Unenforced, ...] = ()


def compile_schema(schema: Any, notation: Notation, rules: Rules, *, strict: bool, kind: str | None = None) -> Compiled:
    """The texts of the values of a JSON schema, as rules: those of a grammar that never allows another value.

    `strict` refuses what cannot be kept; else it is left wider, and named in the result. `kind` keeps the values of
    one JSON type, as "object" does for arguments.

    Raises `EdgeMtpError` naming place and keyword for what is no schema, what no value satisfies, and with `strict`
    for what cannot be kept.
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
