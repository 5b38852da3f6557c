"""The tool-call wire format: parser and formatter are inverse, malformed text is refused, tools files are checked."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import (
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


# Names and keys of what structure is made of.
odd = st.text(st.sampled_from(list("ab:,{}[] \"'`<|>1$@/=.-é\n")), max_size=6)
odd_values = st.recursive(
    st.none() | st.integers() | strings, lambda v: st.lists(v, max_size=2) | st.dictionaries(odd, v, max_size=2)
)


@given(odd, st.dictionaries(odd, odd_values, max_size=3))
def test_any_name_and_key_is_read_again_or_refused(name: str, arguments: dict[str, Value]) -> None:
    call = ToolCall(name, arguments)
    try:
        text = format_calls([call])
    except EdgeMtpError:
        return
    assert parse_calls(text) == [call]


@given(
    odd.filter(lambda name: name and "{" not in name and "<" not in name), odd.filter(lambda k: not set("<:}") & set(k))
)
def test_a_name_without_a_bracket_and_a_key_without_a_colon_are_carried(name: str, key: str) -> None:
    call = ToolCall(name, {key: "x"})
    assert parse_calls(format_calls([call])) == [call]


@given(odd, odd, st.dictionaries(odd, st.none() | st.integers() | strings, max_size=4))
def test_what_is_declared_is_carried(name: str, other: str, arguments: dict[str, Value]) -> None:
    """What a declaration tells apart, whatever its characters: `check_tools` refuses the rest by name."""
    tools = [{"name": name, "parameters": {"properties": {key: {} for key in arguments}}}, {"name": other}]
    try:
        check_tools(tools)
    except EdgeMtpError:
        return
    call = ToolCall(name, arguments)
    assert parse_calls(format_calls([call], tools), tools) == [call]


@pytest.mark.parametrize(
    "name", ["google:mcp:create-pdf-file", "server:tool", "github/create_issue", "3d-render", "größe"]
)
@pytest.mark.parametrize(
    "key", ["$filter", "@type", "issue[title]", "a:b", "a,b", "a{b", "two words", '"quoted"', "日付"]
)
def test_names_and_keys_of_published_tools(name: str, key: str) -> None:
    tools = [{"name": name, "parameters": {"properties": {key: {}, "a": {}}}}]
    call = ToolCall(name, {key: [1, {"a": "x"}], "a": True})
    assert parse_calls(format_calls([call])) == [call]
    assert parse_calls(format_calls([call], tools), check_tools(tools)) == [call]


def test_with_declarations_odd_keys_are_those_declared() -> None:
    tools = [{"name": "f", "parameters": {"properties": {"city": {}}}}]
    with pytest.raises(ToolCallSyntaxError, match="expected a key"):
        parse_calls('<|tool_call>call:f{"city":1}<tool_call|>', tools)
    assert parse_calls("<|tool_call>call:f{town:1}<tool_call|>", tools) == [ToolCall("f", {"town": 1})]
    open_tools = [{"name": "f", "parameters": {"type": "object"}}]
    assert parse_calls("<|tool_call>call:f{a b:1}<tool_call|>", open_tools) == [ToolCall("f", {"a b": 1})]
    assert parse_calls("<|tool_call>call:f{k:1,k:2}<tool_call|>", open_tools) == [ToolCall("f", {"k": 2})]
    # A brace in a name is no bracket, where the name is known.
    assert parse_calls("<|tool_call>call:a{b{x:1}<tool_call|>", [{"name": "a{b"}]) == [ToolCall("a{b", {"x": 1})]


def test_ids_are_no_part_of_equality() -> None:
    assert ToolCall("f", {"a": 1}, "1") == ToolCall("f", {"a": 1}, id="2")


@given(st.lists(calls, min_size=1, max_size=2), st.data())
def test_every_truncation_is_refused(expected: list[ToolCall], data: st.DataObject) -> None:
    text = format_calls(expected[:1])
    end = data.draw(st.integers(len("<|tool_call>"), len(text) - 1))
    # A cut inside a string may swallow nothing that closes the call: it is an error wherever it falls.
    with pytest.raises(ToolCallSyntaxError):
        parse_calls(text[:end])


@given(st.text(alphabet='<|>"tool_calegbr:{}[],1.5 nu', max_size=40))
def test_parser_never_fails_otherwise(text: str) -> None:
    """What is read at all means the same when it is written and read again."""
    with contextlib.suppress(ToolCallSyntaxError):
        calls = parse_calls("<|tool_call>" + text)
        assert parse_calls(format_calls(calls)) == calls


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
        ToolCall(""),
        ToolCall("a{b"),  # a tool `a`, without the declarations
        ToolCall("<|tool_call>"),
        ToolCall("f", {"<turn|>": 1}),
        ToolCall("f", {"a:1,b": 1}),  # two arguments
        ToolCall("f", {"a:{b": 1}),
        ToolCall("f", {"}": 1}),
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


def deep_schema(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


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


def test_tools_of_other_apis_are_put_into_one_form(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    path = tmp_path / "tools.json"
    mcp = {
        "name": "f",
        "title": "Eff",
        "inputSchema": schema,
        "outputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": True},
    }
    for told, description in [
        ({"tools": [mcp]}, "Eff"),
        ([mcp], "Eff"),
        ([{"type": "function", "name": "f", "description": None, "parameters": schema, "strict": True}], ""),
        ([{"name": "f", "description": "d", "input_schema": schema}], "d"),
        ([{"name": "f", "parameters": schema, "inputSchema": schema}], ""),
    ]:
        path.write_text(json.dumps(told))
        function = {"name": "f", "description": description, "parameters": schema}
        assert load_tools(path) == [{"type": "function", "function": function}]


def test_words_of_other_schemas_become_those_of_json_schema() -> None:
    properties = {
        "a": {"type": "STRING", "nullable": True, "enum": ["x"]},
        "b": {"$ref": "#/$defs/n", "nullable": True, "description": "d"},
        "c": {"type": "integer", "nullable": False},
    }
    parameters = {"type": "OBJECT", "properties": properties, "$defs": {"n": {"type": "NUMBER"}}}
    [checked] = check_tools([{"name": "f", "parameters": parameters}])
    assert checked["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "b": {"description": "d", "anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
            "c": {"type": "integer"},
        },
        "$defs": {"n": {"type": "number"}},
    }
    assert check_tools([checked]) == [checked]


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        ({"name": "f"}, "dict"),
        (["f"], "'f'"),
        ([tool(name="")], "''"),
        ([tool(name="a<turn|>")], "control token <turn|>"),
        ([tool(name="a\ud800")], "surrogate"),
        ([tool(name="a"), tool(name="a{b")], "'a{b' cannot be told from 'a'"),
        ([tool(name=None)], "None"),
        ([tool(), tool()], "'f'"),
        ([tool(description=3)], "3"),
        ([tool(parameters=[1])], r"\[1\]"),
        ([tool(parameters={"type": "string"})], "string"),
        ([tool(parameters={"properties": []})], r"\[\]"),
        ([tool(parameters={"properties": {"a": 3}})], r"parameters\.a: 3 is not a schema"),
        ([tool(parameters={"properties": {'<|"|>': {}}})], "control token"),
        ([tool(parameters={"properties": {"}a": {}}})], "'}a'"),
        ([tool(parameters={"properties": {"a": {}, "a:1,b": {}}})], "'a:1,b' cannot be told from 'a'"),
        ([tool(parameters={"properties": {"a": {"type": "object", "properties": {"b": 1}}}})], r"a\.b: 1"),
        ([tool(parameters={"properties": {"a": {"type": []}}})], "parameters.a: type"),
        ([tool(parameters={"properties": {"a": {"type": "text"}}})], "'text'"),
        ([tool(parameters={"properties": {"a": {"enum": []}}})], "enum"),
        ([tool(parameters={"properties": {"a": {"anyOf": []}}})], "anyOf"),
        ([tool(parameters={"properties": {"a": {"required": True}}})], "required True"),
        ([tool(parameters={"properties": {"a": {"description": 3}}})], "description 3"),
        ([tool(parameters={"properties": {"a": {"$ref": "#/$defs/b"}}})], r"parameters\.a: \$ref '#/\$defs/b' leads"),
        ([tool(parameters={"properties": {"a": {"$ref": 3}}})], "3 is no text"),
        ([tool(parameters={"properties": {"a": {"$ref": "#/properties/a"}}})], "leads to itself"),
        ([tool(parameters=deep_schema(100))], "nested deeper"),
        ([tool(parameters={}, inputSchema={"type": "object"})], "parameters and inputSchema differ"),
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
