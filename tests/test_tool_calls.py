"""The tool-call wire format: parser and formatter are inverse, malformed text is refused, tools files are checked."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.chat import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.grammar import tool_grammar
from edge_mtp.harness.declared import violations
from edge_mtp.tool_calls import (
    QUOTE,
    ToolCall,
    ToolCallSyntaxError,
    Value,
    check_tools,
    exact_match,
    format_calls,
    load_tools,
    parse_calls,
)

TINY_CHAT = ChatFormat.from_directory(Path(edge_mtp.__file__).parent / "tiny" / "target")

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,12}", fullmatch=True)
strings = st.text(max_size=12).filter(lambda s: QUOTE not in s)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3), max_leaves=8)
calls = st.builds(ToolCall, names, st.dictionaries(names, values, max_size=4))


def same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and from true."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def deep(levels: int) -> Value:
    """A number inside so many lists."""
    value: Value = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_limits_of_the_format_are_inclusive() -> None:
    call = ToolCall("f", {"deep": deep(64), "least": -(10**999) + 1, "most": 10**999 - 1})
    assert parse_calls(format_calls([call])) == [call]


@given(st.lists(calls, max_size=3))
def test_parsing_inverts_formatting(expected: list[ToolCall]) -> None:
    parsed = parse_calls(format_calls(expected))
    assert [c.name for c in parsed] == [c.name for c in expected]
    assert all(same(p.arguments, dict(e.arguments)) for p, e in zip(parsed, expected, strict=True))


@given(st.lists(calls, min_size=1, max_size=2), st.data())
def test_every_truncation_is_refused(expected: list[ToolCall], data: st.DataObject) -> None:
    text = format_calls(expected[:1])
    end = data.draw(st.integers(len("<|tool_call>"), len(text) - 1))
    # A cut inside a string may swallow nothing that closes the call: it is an error wherever it falls.
    with pytest.raises(ToolCallSyntaxError):
        parse_calls(text[:end])


@given(st.text(alphabet='<|>"tool_calegbr:{}[],1.5 nu', max_size=40))
def test_parser_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(ToolCallSyntaxError):
        parse_calls("<|tool_call>" + text)


def test_an_example() -> None:
    text = 'Sure. <|tool_call>call:set_alarm{days:[<|"|>mon<|"|>],on:true,time:<|"|>06:40<|"|>,x:-1.5e3}<tool_call|>'
    arguments: dict[str, Value] = {"time": "06:40", "on": True, "days": ["mon"], "x": -1500.0}
    assert parse_calls(text) == [ToolCall("set_alarm", arguments)]
    assert parse_calls("No call here.") == []


@pytest.mark.parametrize(
    "body",
    [
        "call:f{a:1,}",  # trailing comma
        "call:f{a: 1}",  # white space
        'call:f{a:"x"}',  # wrong quotes
        "call:f{a:1,a:2}",  # duplicate key
        "call:f{a:01}",  # not a JSON number
        "call:f{a:.5}",
        "call:f{a:1e999}",  # overflows
        f"call:f{{a:{'1' * 5000}}}",
        f"call:f{{a:{'[' * 5000}{']' * 5000}}}",
        "call:f{a:True}",
        "call:f{1a:1}",
        "call:{}",
        "f{}",
        "call:f",
        "call:f{a:[1,]}",
        "call:f{a:{b:1}",
        'call:f{a:<|"|>x}',
    ],
)
def test_malformed_calls_are_refused(body: str) -> None:
    with pytest.raises(ToolCallSyntaxError, match="at character"):
        parse_calls(f"<|tool_call>{body}<tool_call|>")


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("two words"),
        ToolCall("f", {"a b": 1}),
        ToolCall("f", {"a": f"x{QUOTE}"}),
        ToolCall("f", {"a": float("nan")}),
        ToolCall("f", {"a": -(10**1000)}),
        ToolCall("f", {"a": deep(65)}),
    ],
)
def test_what_the_format_cannot_carry_is_refused(call: ToolCall) -> None:
    with pytest.raises(EdgeMtpError):
        format_calls([call])


def test_keys_are_written_in_the_templates_order() -> None:
    assert format_calls([ToolCall("f", {"b": 1, "A": 2, "a": 3})]) == "<|tool_call>call:f{A:2,a:3,b:1}<tool_call|>"


def test_exact_match_ignores_order_and_minds_types() -> None:
    one, other = ToolCall("f", {"a": 1, "b": "x"}), ToolCall("g")
    assert exact_match([one, other], [other, ToolCall("f", {"b": "x", "a": 1})])
    assert not exact_match([one], [one, one])
    assert not exact_match([one], [ToolCall("f", {"a": 1.0, "b": "x"})])
    assert not exact_match([ToolCall("f", {"a": 1})], [ToolCall("f", {"a": True})])
    assert exact_match([], [])


def tool(**function: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f", "description": "d"} | function}


def test_tools_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    path.write_text(json.dumps([tool(parameters=schema), {"name": "g"}]))
    tools = load_tools(path)
    assert [t["function"]["name"] for t in tools] == ["f", "g"]
    assert tools[0]["function"]["parameters"] == schema
    assert tools[1]["function"] == {
        "name": "g",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["integer", "number"]}, {"type": "number"}),
        ({"type": ["null"]}, {"type": "null"}),
        ({"type": ["string", "null"], "enum": ["x", None]}, {"type": "string", "enum": ["x"], "nullable": True}),
        ({"enum": ["x", "y"], "description": "d"}, {"type": "string", "enum": ["x", "y"], "description": "d"}),
        ({"enum": [1, 2.5, None]}, {"type": "number", "enum": [1, 2.5], "nullable": True}),
        ({"const": True}, {"type": "boolean", "enum": [True]}),
        (
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None, "description": "d"},
            {"type": "integer", "minimum": 1, "nullable": True, "default": None, "description": "d"},
        ),
        ({"oneOf": [{"$ref": "#/$defs/tone"}, {"type": "null"}]}, {"type": "string", "enum": ["x"], "nullable": True}),
        (
            {"anyOf": [{"enum": ["x"]}, {"type": "string", "pattern": "y+"}]},
            {"type": "string", "anyOf": [{"type": "string", "enum": ["x"]}, {"type": "string", "pattern": "y+"}]},
        ),
        ({"$ref": "#/$defs/tone", "description": "d"}, {"type": "string", "enum": ["x"], "description": "d"}),
        (
            {"type": "array", "items": {"$ref": "#/$defs/place"}},
            {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "nullable": True}}}},
        ),
        ({"type": "STRING", "anyOf": [{"pattern": "x"}]}, {"type": "STRING", "anyOf": [{"pattern": "x"}]}),
    ],
)
def test_schemas_are_put_into_the_words_of_a_declaration(schema: dict[str, Any], told: dict[str, Any]) -> None:
    defs = {
        "tone": {"enum": ["x"]},
        "place": {"type": "object", "properties": {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
    }
    tools = check_tools([tool(parameters={"properties": {"a": schema}, "$defs": defs})])
    found = tools[0]["function"]["parameters"]
    assert found["properties"] == {"a": told}
    assert check_tools(tools) == tools
    # The same values are as declared, and can be written under a grammar.
    values: list[Any] = [
        "x",
        "y",
        "yy",
        "z",
        1,
        0,
        2.5,
        None,
        True,
        False,
        [{"n": None}],
        [{"n": "x"}],
        [{"m": 1}],
        [],
        {},
    ]
    for value in values:
        before = violations({"a": value}, {"properties": {"a": schema}, "$defs": defs})
        assert bool(violations({"a": value}, found)) == bool(before), value
    tool_grammar(tools)
    # A template finds one type wherever it looks for one.
    prompt = TINY_CHAT.render([{"role": "user", "content": "Hi"}], tools)
    types = re.findall(r'[{,]type:<\|"\|>(.*?)<\|"\|>', prompt)
    assert types
    assert set(types) <= {"STRING", "INTEGER", "NUMBER", "BOOLEAN", "NULL", "ARRAY", "OBJECT"}


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        ({"name": "f"}, "dict"),
        (["f"], "'f'"),
        ([tool(name="two words")], "'two words'"),
        ([tool(name=None)], "None"),
        ([tool(), tool()], "'f'"),
        ([tool(description=3)], "3"),
        ([tool(parameters=[1])], r"\[1\]"),
        ([tool(parameters={"type": "string"})], "string"),
        ([tool(parameters={"properties": []})], r"\[\]"),
        ([tool(parameters={"properties": {"a b": {"type": "string"}}})], "'a b'"),
        ([tool(parameters={"properties": {"a": {}}})], "'a'"),
        ([tool(parameters={"properties": {"a": {"type": "object", "properties": {"b": 1}}}})], "'b'"),
        ([tool(parameters={"properties": {}, "required": ["z"]})], "'z'"),
        # What a declaration has no words for.
        (
            [tool(parameters={"properties": {"a": {"type": ["string", "integer"]}}})],
            r"'a' has several types \(integer, s",
        ),
        ([tool(parameters={"properties": {"a": {"type": []}}})], "'a' has no type"),
        ([tool(parameters={"properties": {"a": {"enum": ["x", 1]}}})], "'a' has several types"),
        ([tool(parameters={"properties": {"a": {"enum": []}}})], "'a' has no type"),
        (
            [tool(parameters={"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}})],
            "several types",
        ),
        (
            [tool(parameters={"properties": {"a": {"anyOf": [{"type": "object"}, {"type": "object"}]}}})],
            "several objects",
        ),
        ([tool(parameters={"properties": {"a": {"anyOf": [{}]}}})], "'a' has no type"),
        ([tool(parameters={"properties": {"a": {"anyOf": []}}})], "'a' has no type"),
        ([tool(parameters={"properties": {"a": {"$ref": "#/$defs/b"}}})], r"parameters\.a: \$ref '#/\$defs/b' leads"),
        ([tool(parameters={"properties": {"a": {"$ref": 3}}})], "3 leads nowhere"),
        ([tool(parameters={"properties": {"a": {"$ref": "#/properties/a"}}})], "recursive"),
        (
            [tool(parameters={"properties": {"a": {"$ref": "#/properties/b", "type": "x"}, "b": {"type": "string"}}})],
            "type",
        ),
        (
            [tool(parameters={"properties": {"a": {"type": "array", "items": {"type": ["string", "array"]}}}})],
            "'items'",
        ),
    ],
)
def test_malformed_tools_are_named_in_one_line(tools: object, named: str) -> None:
    with pytest.raises(EdgeMtpError, match=named) as caught:
        check_tools(tools)
    assert "\n" not in str(caught.value)


def test_unreadable_tools_files(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    with pytest.raises(EdgeMtpError, match=r"tools\.json.*No such file"):
        load_tools(path)
    path.write_text("[\n{]")
    with pytest.raises(EdgeMtpError, match="line 2"):
        load_tools(path)
    path.write_bytes(b"\xff\xfe[")
    with pytest.raises(EdgeMtpError, match="not UTF-8"):
        load_tools(path)
