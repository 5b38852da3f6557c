"""Arguments against their declaration, with jsonschema as the oracle."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.harness.score.schema_check import declarations, violations

LABELS = {
    "required": "missing_required",
    "additionalProperties": "extra_argument",
    "type": "wrong_type",
    "enum": "enum_violation",
    "const": "enum_violation",
}
names = st.sampled_from("abc")
scalars = st.sampled_from([0, 1, 2.5, True, False, None, "x", "y"])
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda v: st.lists(v, max_size=2) | st.dictionaries(names, v, max_size=2), max_leaves=4
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=2)},
        optional={"additionalProperties": st.booleans(), "required": st.lists(names, unique=True, max_size=2)},
    )


def compound(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return (
        st.fixed_dictionaries({"type": st.just("array")}, optional={"items": inner})
        | objects(inner)
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)})
        | st.just({"$ref": "#/$defs/leaf"})
    )


kinds = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"])
leaves: st.SearchStrategy[dict[str, Any]] = (
    st.fixed_dictionaries({"type": kinds})
    | st.fixed_dictionaries({"type": st.lists(kinds, min_size=1, max_size=2, unique=True)})
    | st.fixed_dictionaries({"enum": st.lists(scalars, min_size=1, max_size=3)})
    | st.fixed_dictionaries({"const": scalars})
    | st.just({})
)
schemas = st.recursive(leaves, compound, max_leaves=5)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    return {**draw(objects(schemas)), "$defs": {"leaf": draw(leaves)}}


def as_json_schema(schema: Any) -> Any:
    """The same in JSON schema, where what is not declared is allowed unless it is said otherwise."""
    if isinstance(schema, list):
        return [as_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    inner = {k: as_json_schema(v) for k, v in schema.items() if k not in ("properties", "$defs", "enum", "const")}
    kept = {k: schema[k] for k in ("enum", "const") if k in schema}
    named = {k: {n: as_json_schema(s) for n, s in schema[k].items()} for k in ("properties", "$defs") if k in schema}
    return {**closed, **inner, **kept, **named}


def errors(arguments: Any, schema: Any) -> list[Any]:
    return list(jsonschema.Draft202012Validator(as_json_schema(schema)).iter_errors(arguments))


@given(st.dictionaries(names, values, max_size=3), parameters())
def test_violations_are_what_jsonschema_finds(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    found, expected = violations(arguments, schema), errors(arguments, schema)
    assert bool(found) == bool(expected)
    # Where no option and no reference is in between, label by label and place by place.
    if {error.validator for error in expected} <= LABELS.keys() and "$ref" not in str(schema):
        places: set[tuple[str, tuple[Any, ...]]] = set()
        for error in expected:
            path = tuple(error.absolute_path)
            if error.validator == "required":
                places |= {
                    ("missing_required", (*path, n)) for n in error.schema["required"] if n not in error.instance
                }
            elif error.validator == "additionalProperties":
                extra = error.instance.keys() - error.schema["properties"].keys()
                places |= {("extra_argument", (*path, name)) for name in extra}
            else:
                places.add((LABELS[error.validator], path))
        assert {(v.label, v.path) for v in found} <= places
        if "allOf" not in str(schema):
            assert {(v.label, v.path) for v in found} == places


@given(st.dictionaries(names, values, max_size=3), parameters())
def test_capitals_in_types_mean_the_same(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    def loud(part: Any) -> Any:
        if isinstance(part, list):
            return [loud(each) for each in part]
        if not isinstance(part, dict):
            return part
        kind = part.get("type")
        upper = {"type": kind.upper() if isinstance(kind, str) else [k.upper() for k in kind]} if kind else {}
        return {k: v if k in ("enum", "const", "required") else loud(v) for k, v in part.items()} | upper

    assert violations(arguments, loud(schema)) == violations(arguments, schema)


@pytest.mark.parametrize(
    ("schema", "value", "label"),
    [
        ({"type": "integer"}, 1.0, "wrong_type"),
        ({"type": "integer"}, True, "wrong_type"),
        ({"type": "number"}, 1, None),
        ({"type": "STRING", "nullable": True}, None, None),
        ({"type": "STRING", "enum": ["x"], "nullable": True}, None, None),
        ({"enum": [1]}, 1.0, "enum_violation"),
        ({"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]}, "y", "enum_violation"),
        ({"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]}, 3, "wrong_type"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 3, None),
        ({"$ref": "#/$defs/list"}, [[1], [["x"]]], "wrong_type"),
        ({"$ref": "#/$defs/list"}, [[1], [[2]]], None),
        ({"$ref": "#/$defs/circle"}, 1, None),
        ({"$ref": "#/$defs/nowhere"}, 1, None),
        ({"type": "object"}, {"anything": 1}, None),
        ({"type": "object", "properties": {}}, {"anything": 1}, "extra_argument"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"anything": 1}, "wrong_type"),
    ],
)
def test_single_values(schema: dict[str, Any], value: Any, label: str | None) -> None:
    whole = {
        "properties": {"a": schema},
        "$defs": {
            "list": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/list"}]}},
            "circle": {"$ref": "#/$defs/circle"},
        },
    }
    assert [v.label for v in violations({"a": value}, whole)] == ([label] if label else [])


def test_both_forms_of_tools() -> None:
    parameters = {"type": "object", "properties": {}}
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "f", "parameters": parameters}},
        {"name": "g"},
    ]
    assert declarations(tools) == {"f": parameters, "g": {}}
    assert [v.label for v in violations({"a": 1}, {})] == ["extra_argument"]
