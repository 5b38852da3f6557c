"""Declarations in a template's words: what they say of a schema, in which words, and that every template takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_templates import gemma4
from tool_declarations import TINY_CHAT, check_prompt, check_told

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.declarations import declarations

DEFS = {
    "tone": {"enum": ["x"]},
    "place": {"type": "object", "properties": {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
    "node": {"type": "object", "properties": {"v": {"type": "string"}, "next": {"$ref": "#/$defs/node"}}},
}
CIRCLE = {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}}, "required": ["kind"]}
SQUARE = {"type": "object", "properties": {"kind": {"const": "square"}, "a": {"type": "number"}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        # In a template's own words.
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["integer", "number"]}, {"type": "number"}),
        ({"type": ["null"]}, {"type": "null"}),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": ["string", "null"], "enum": ["x", None]}, {"type": "string", "enum": ["x"], "nullable": True}),
        ({"enum": ["x", "y"], "description": "d"}, {"type": "string", "enum": ["x", "y"], "description": "d"}),
        ({"oneOf": [{"$ref": "#/$defs/tone"}, {"type": "null"}]}, {"type": "string", "enum": ["x"], "nullable": True}),
        ({"$ref": "#/$defs/tone", "description": "d"}, {"type": "string", "enum": ["x"], "description": "d"}),
        (
            {"allOf": [{"$ref": "#/$defs/tone"}], "description": "d"},
            {"type": "string", "enum": ["x"], "description": "d"},
        ),
        (
            {"type": "array", "items": {"$ref": "#/$defs/place"}},
            {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "nullable": True}}}},
        ),
        # In text.
        ({"const": True}, {"type": "boolean", "description": "Always true."}),
        ({"enum": [1, 2.5, None]}, {"type": "number", "description": "One of 1, 2.5.", "nullable": True}),
        ({"enum": ["x", 1]}, {"type": "string", "description": 'One of "x", 1.'}),
        (
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": 3, "description": "Days"},
            {"type": "integer", "nullable": True, "description": "Days. At least 1. Default: 3."},
        ),
        (
            {"anyOf": [{"enum": ["x"]}, {"type": "string", "pattern": "y+"}]},
            {"type": "string", "description": 'Either "x", or a string (Matches the regular expression "y+".).'},
        ),
        ({"type": ["string", "integer"]}, {"type": "string", "description": "Either a string, or an integer."}),
        (
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            {"type": "string", "description": "Either a string, or a list, each a string."},
        ),
        (
            {"oneOf": [CIRCLE, SQUARE]},
            {
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": ["circle", "square"]},
                    "r": {"type": "number"},
                    "a": {"type": "number"},
                },
                "required": ["kind"],
                "description": 'One of these forms: with "kind" "circle", "r" (optional); '
                'with "kind" "square", "a" (optional).',
            },
        ),
        (
            {"oneOf": [{"const": "a", "title": "Alpha"}, {"const": "b"}]},
            {"type": "string", "enum": ["a", "b"], "description": '"a": Alpha.'},
        ),
        (
            {"$ref": "#/$defs/node"},
            {
                "type": "object",
                "properties": {
                    "v": {"type": "string"},
                    "next": {"type": "object", "properties": {}, "description": "Again node."},
                },
            },
        ),
        ({}, {"type": "string", "description": "Any JSON value."}),
        ({"type": "object"}, {"type": "object", "properties": {}, "description": "Any keys."}),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "properties": {}, "description": "Any key: an integer."},
        ),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "properties": {}}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        (
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": False},
            {"type": "array", "items": {}, "description": "In this order: a string; a number; then no more."},
        ),
        (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5, "multipleOf": 0.5},
            {"type": "number", "description": "At most 1.5. More than 0. A multiple of 0.5."},
        ),
        (
            {"type": "string", "maxLength": 500, "contentEncoding": "base64", "format": "byte"},
            {"type": "string", "description": "At most 500 characters. Encoded in base64. Format: byte."},
        ),
        (
            {"type": "object", "properties": {"b": {"type": "string"}}, "dependentRequired": {"b": ["c"]}},
            {"type": "object", "properties": {"b": {"type": "string"}}, "description": 'With "b" goes "c".'},
        ),
        ({"not": {"type": "string"}}, {"type": "string", "description": "Any JSON value. Not a string."}),
        (
            {"type": "string", "if": {"minLength": 2}, "then": {"pattern": "^a"}},
            {
                "type": "string",
                "description": 'As JSON schema: {"if": {"minLength": 2}, "then": {"pattern": "^a"}}.',
            },
        ),
        ({"type": "string", "title": "A"}, {"type": "string"}),  # the key again
        ({"type": "string", "title": "Alarm tone"}, {"type": "string", "description": "Alarm tone"}),
    ],
)
def test_schemas_are_put_into_the_words_of_a_declaration(schema: dict[str, Any], told: dict[str, Any]) -> None:
    tools = declarations([{"name": "f", "parameters": {"properties": {"a": schema}, "$defs": DEFS}}])
    found = tools[0]["function"]["parameters"]
    assert found == {"type": "object", "properties": {"a": told}}


def test_what_is_said_of_all_arguments_stands_in_the_description() -> None:
    parameters = {
        "type": "object",
        "description": "Times.",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "required": ["c"],
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    }
    function = declarations([{"name": "f", "description": "Does", "inputSchema": parameters}])[0]["function"]
    assert function["description"] == 'Does. Times. At least one of these is needed: "a"; "b".'
    assert function["parameters"]["properties"]["c"] == {"type": "string", "description": "Any JSON value."}
    assert function["parameters"]["required"] == ["c"]


def test_a_schema_that_unfolds_without_end_is_told_in_bounds() -> None:
    levels = {
        f"l{i}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/l{i + 1}"} for k in "ab"}} for i in range(30)
    }
    parameters = {"$ref": "#/$defs/l0", "$defs": {**levels, "l30": {"type": "string"}}}
    assert len(json.dumps(declarations([{"name": "f", "parameters": parameters}]))) < 500_000


# -- any schema -----------------------------------------------------------------------------------------------------

names = st.sampled_from(["type", "description", "items", "required", "p", "$q", "two words"])
leaves = st.sampled_from(
    [
        *({}, True, {"type": "string"}, {"type": ["null", "integer"]}, {"enum": ["a", 1, None]}, {"const": {"k": 1}}),
        *({"type": "object"}, {"type": "array"}, {"$ref": "#"}, {"$ref": "#/$defs/node"}, {"minimum": 1}, False),
        *({"type": "string", "nullable": True, "title": "T"}, {"type": "number", "default": 1, "examples": [2]}),
    ]
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    mapped = st.dictionaries(names, inner, max_size=3)
    return st.one_of(
        st.builds(lambda p, r: {"type": "object", "properties": p, "required": r}, mapped, st.lists(names, max_size=2)),
        st.builds(lambda i: {"type": "array", "items": i, "minItems": 1}, inner),
        st.builds(lambda i: {"prefixItems": i, "items": False}, several),
        *(st.builds(lambda i, k=k: {k: i, "description": "d"}, several) for k in ("anyOf", "oneOf", "allOf")),
        st.builds(lambda i: {"additionalProperties": i}, inner),
        st.builds(
            lambda i: {"type": "object", "patternProperties": {"^x": i}, "propertyNames": {"maxLength": 3}}, inner
        ),
        st.builds(lambda i: {"not": i, "if": i, "then": True}, inner),
    )


schemas = st.recursive(leaves, grown, max_leaves=6)


@given(st.dictionaries(names, schemas, max_size=3))
def test_any_schema_is_told_in_those_words(properties: dict[str, Any]) -> None:
    parameters = {"type": "object", "properties": properties, "$defs": DEFS}
    for options in ({}, {"untold": ["type", "description"], "described": True}):
        [tool] = declarations([{"name": "f", "parameters": parameters}], **options)
        check_told(tool["function"]["parameters"])
    check_prompt(TINY_CHAT.render([{"role": "user", "content": "Hi"}], [tool]))


@given(st.dictionaries(names, schemas, min_size=1, max_size=3))
def test_googles_templates_take_them(properties: dict[str, Any]) -> None:
    parameters = {"type": "object", "properties": properties, "$defs": DEFS}
    for name, template in gemma4().items():
        chat = formats.setdefault(name, replace(TINY_CHAT, template=template))
        prompt = chat.render([{"role": "user", "content": "Hi"}], [{"name": "f", "parameters": parameters}])
        check_prompt(prompt)
        # What a template leaves out for its name is told in text.
        for key, schema in properties.items():
            assert schema is False or f"{key}:{{" in prompt or f'Property "{key}"' in prompt, name


formats: dict[str, ChatFormat] = {}
