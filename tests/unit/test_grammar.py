"""Grammars of tool calls: what they generate parses and satisfies the schema; what satisfies it is generated."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_constraint import Compiler, Constraint, library

import edge_mtp
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.formats.tool_calls import ToolCall, format_calls, parse_calls

TINY = Path(edge_mtp.__file__).parent / "tiny"
TOKENIZER = Tokenizer.from_file(TINY / "target" / "tokenizer.json")
STOP = [106, 50]  # <turn|> and <|tool_response>
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    tokens = library().tokens(token_table(TINY / "target" / "tokenizer.json", TOKENIZER.vocab_size))
    return tokens.compiler(STOP)


def accepts(compiler: Compiler, grammar: str, text: str) -> bool:
    """Whether a constraint takes a text in its canonical tokens and then lets it end."""
    constraint = compiler.constraint(grammar)
    return all(constraint.accept(token) for token in TOKENIZER.encode(text)) and constraint.accept(STOP[0])


def walk(constraint: Constraint, seed: int, longest: int = 300) -> list[int] | None:
    """Tokens drawn from the mask, the last one a stop token; None if there is no end within `longest`."""
    draw = random.Random(seed)
    tokens: list[int] = []
    while not constraint.finished:
        if len(tokens) == longest:
            return None
        allowed = constraint.allowed()
        assert allowed
        # Where the text is free, an even draw would never leave it: ends and marks are drawn more often.
        marks = [token for token in allowed if token < 110]
        token = draw.choice(marks if marks and draw.random() < 0.3 else allowed)
        assert constraint.accept(token)
        tokens.append(token)
    return tokens


# -- schemas and their values ---------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,6}", fullmatch=True)
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda s: "<|" not in s)
finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30)


@st.composite
def scalars(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["string", "integer", "number", "boolean", "null", "enum", "bounded", "counted"]))
    if kind == "enum":
        values = draw(
            st.lists(plain | st.integers(-99, 99) | finite | st.booleans() | st.none(), min_size=1, max_size=4)
        )
        return {"enum": values, "description": "one of them"}
    if kind == "bounded":
        low = draw(st.integers(-2000, 2000))
        high = low + draw(st.integers(0, 3000))
        return {"type": draw(st.sampled_from(["integer", "number"])), "minimum": low, "maximum": high}
    if kind == "counted":
        low = draw(st.integers(0, 4))
        return {"type": "string", "minLength": low, "maxLength": low + draw(st.integers(0, 5))}
    return {"type": kind}


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    keys = draw(st.lists(names, max_size=5, unique_by=str.lower))
    properties = {key: draw(values) for key in keys}
    required = [key for key in keys if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required}


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    low = draw(st.integers(0, 2))
    return {"type": "array", "items": draw(values), "minItems": low, "maxItems": low + draw(st.integers(0, 2))}


def unions(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda options: {"anyOf": options}, st.lists(values, min_size=1, max_size=3))


schemas = st.recursive(scalars(), lambda v: objects(v) | lists(v) | unions(v), max_leaves=6)
tool_lists = st.lists(st.tuples(names, objects(schemas)), min_size=1, max_size=3, unique_by=lambda t: t[0]).map(
    lambda tools: [
        {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}
        for name, schema in tools
    ]
)


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """JSON schema, so far as these tests use it, with integers told from real numbers."""
    if "anyOf" in schema:
        return any(valid(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(option) and value == option for option in schema["enum"])
    kind = schema["type"]
    if kind in ("integer", "number"):
        of_type = type(value) is int or (kind == "number" and type(value) is float)
        return of_type and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if kind == "string":
        return type(value) is str and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    if kind == "array":
        of_length = type(value) is list and schema["minItems"] <= len(value) <= schema["maxItems"]
        return of_length and all(valid(item, schema["items"]) for item in value)
    if kind == "object":
        return (
            type(value) is dict
            and value.keys() <= schema["properties"].keys()
            and set(schema["required"]) <= value.keys()
            and all(valid(item, schema["properties"][key]) for key, item in value.items())
        )
    return type(value) is {"boolean": bool, "null": type(None)}[kind]


def instance(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """A value of a schema, as a call can carry it."""
    if "anyOf" in schema:
        return instance(draw, draw(st.sampled_from(schema["anyOf"])))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kind = schema["type"]
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind == "integer" or (kind == "number" and (low is not None or draw(st.booleans()))):
        return draw(st.integers(low if low is not None else -(10**30), high if high is not None else 10**30))
    if kind == "string" and "maxLength" in schema:
        characters = st.characters(exclude_categories=["Cs"], exclude_characters="|")
        return draw(st.text(characters, min_size=schema["minLength"], max_size=schema["maxLength"]))
    if kind == "array":
        return [
            instance(draw, schema["items"]) for _ in range(draw(st.integers(schema["minItems"], schema["maxItems"])))
        ]
    if kind == "object":
        kept = [key for key in schema["properties"] if key in schema["required"] or draw(st.booleans())]
        return {key: instance(draw, schema["properties"][key]) for key in kept}
    return draw({"string": plain, "number": finite, "boolean": st.booleans(), "null": st.none()}[kind])


def parameters(tools: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == name)


# -- generated texts ------------------------------------------------------------------------------------------------


@QUICK
@given(tool_lists, st.sampled_from(["auto", "required"]), st.booleans(), st.integers(0, 1 << 30))
def test_what_a_grammar_generates_is_valid(
    compiler: Compiler, tools: list[dict[str, Any]], choice: str, parallel: bool, seed: int
) -> None:
    tokens = walk(compiler.constraint(tool_grammar(tools, choice=choice, parallel=parallel).text), seed)
    assume(tokens is not None)
    assert tokens is not None
    text = TOKENIZER.decode(tokens[:-1])
    calls = parse_calls(text)
    assert all(valid(dict(call.arguments), parameters(tools, call.name)) for call in calls)
    assert calls or choice == "auto"
    assert parallel or len(calls) <= 1
    if choice == "required":
        assert text.startswith("<|tool_call>")
    assert not calls or text.endswith("<tool_call|>")


@QUICK
@given(tool_lists, st.data())
def test_every_valid_call_is_accepted(compiler: Compiler, tools: list[dict[str, Any]], data: st.DataObject) -> None:
    grammar = tool_grammar(tools, choice=data.draw(st.sampled_from(["auto", "required"]))).text
    functions = [tool["function"] for tool in data.draw(st.lists(st.sampled_from(tools), min_size=1, max_size=2))]
    calls = [ToolCall(f["name"], instance(data.draw, f["parameters"])) for f in functions]
    assert accepts(compiler, grammar, format_calls(calls))


@QUICK
@given(tool_lists, st.data())
def test_every_invalid_call_is_refused(compiler: Compiler, tools: list[dict[str, Any]], data: st.DataObject) -> None:
    grammar = tool_grammar(tools).text
    function = data.draw(st.sampled_from(tools))["function"]
    schema = function["parameters"]
    arguments = instance(data.draw, schema)
    kind = data.draw(st.sampled_from(["missing", "extra", "value", "tool", "twice"]))
    name = function["name"]
    if kind == "missing":
        assume(schema["required"])
        del arguments[data.draw(st.sampled_from(schema["required"]))]
    elif kind == "extra":
        key = data.draw(names)
        assume(key not in schema["properties"])
        arguments[key] = 1
    elif kind == "value":
        assume(arguments)
        key = data.draw(st.sampled_from(sorted(arguments)))
        arguments[key] = data.draw(st.none() | st.booleans() | st.integers() | plain | st.just([]) | st.just({}))
        assume(not valid(arguments[key], schema["properties"][key]))
    elif kind == "tool":
        name = data.draw(names)
        assume(all(name != tool["function"]["name"] for tool in tools))
    text = format_calls([ToolCall(name, arguments)])
    if kind == "twice":
        assume(arguments)
        body = text[text.index("{") + 1 : text.rindex("}")]
        text = text.replace("{" + body + "}", "{" + body + "," + body + "}")
    assert not accepts(compiler, grammar, text)


@pytest.mark.parametrize("split", ["iid", "new_names", "new_templates", "new_values"])
def test_gold_replies_are_accepted(compiler: Compiler, split: str) -> None:
    refused = []
    # Every item has tools of its own, whose grammar takes longer to compile than to follow: one of eight.
    for line in (TINY / "splits" / f"{split}.jsonl").read_text("utf-8").splitlines()[::8]:
        item = json.loads(line)
        gold = item["gold"]
        text = format_calls(map(ToolCall.from_json, gold["calls"])) if "calls" in gold else gold["text"]
        if not accepts(compiler, tool_grammar(item["tools"]).text, text):
            refused.append(item["id"])
    assert not refused


# -- choice ---------------------------------------------------------------------------------------------------------

TOOLS = [
    {"name": "a", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    {"name": "b"},
]
A, B = "<|tool_call>call:a{x:1}<tool_call|>", "<|tool_call>call:b{}<tool_call|>"
TEXTS = ["", "Hi < |!\n", A, A + B, "Hi" + B, A + "Hi", "<|channel>thought\nHm<channel|>" + A]


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"parallel": False}, [0, 1, 2, 4]),
        ({"choice": "required"}, [2, 3]),
        ({"choice": "required", "parallel": False}, [2]),
        ({"choice": "none"}, [0, 1]),
        ({"choice": "a"}, [2]),
        ({"thinking": "may"}, [0, 1, 2, 3, 4, 6]),
        ({"thinking": "may", "choice": "required"}, [2, 3, 6]),
    ],
)
def test_choice(compiler: Compiler, options: dict[str, Any], accepted: list[int]) -> None:
    grammar = tool_grammar(TOOLS, **options).text
    assert [i for i, text in enumerate(TEXTS) if accepts(compiler, grammar, text)] == accepted


def test_no_tools_leave_text(compiler: Compiler) -> None:
    assert accepts(compiler, tool_grammar([]).text, "Hi")
    assert not accepts(compiler, tool_grammar([]).text, B)


def test_marks_spelled_in_ordinary_characters_are_refused(compiler: Compiler) -> None:
    ordinary = [token for c in "<|tool_call>" for token in TOKENIZER.encode(c)]
    constraint = compiler.constraint(tool_grammar(TOOLS).text)
    assert [constraint.accept(token) for token in ordinary[:2]] == [True, False]


def test_the_grammar_grows_with_the_declaration_not_faster() -> None:
    def size(count: int) -> int:
        properties = {f"p{i:03}": {"type": "string"} for i in range(count)}
        return len(tool_grammar([{"name": "f", "parameters": {"type": "object", "properties": properties}}]).text)

    assert size(200) < 2.5 * size(100)


# -- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"type": "STRING"}, ['<|"|>x<|"|>', '<|"|><|"|>'], ["x", '"x"', "1", 'x<|"|>']),
        ({"type": "integer"}, ["0", "-0", "10", "-7"], ["01", "1.0", "1e3", "+1", "", "-", '<|"|>1<|"|>']),
        ({"type": "number"}, ["0", "-1.50", "1e3", "2E-400", "9e307", "10.5e+07"], [".5", "1.", "1e", "1e999", "NaN"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "1", "null", "truefalse"]),
        ({"type": "null"}, ["null"], ["", "None"]),
        ({"type": "boolean", "nullable": True}, ["true", "null"], ["0"]),
        ({"type": ["integer", "null"]}, ["3", "null"], ["true"]),
        ({"const": {"k": ["v", 1.0]}}, ['{k:[<|"|>v<|"|>,1.0]}'], ["{}", '{k:[<|"|>v<|"|>,1]}']),
        ({"type": "string", "enum": ["a", None], "nullable": True}, ['<|"|>a<|"|>', "null"], ['<|"|>b<|"|>']),
        ({"enum": ["<turn|>", 'q"\\']}, ['<|"|>q"\\<|"|>'], ['<|"|>q"<|"|>']),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1]", "[1,2,3]"], ["[1,]", "[,1]", "[1 ,2]", "1"]),
        ({"type": "array", "minItems": 2, "items": {"type": "null"}}, ["[null,null]"], ["[null]", "[]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({}, ["1", "true", '<|"|>x<|"|>', "[1,null]"], ["", "x"]),
        ({"type": "integer", "exclusiveMinimum": 3, "maximum": 5.5}, ["4", "5"], ["3", "6", "45"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.25", "1.00"], ["-0.5", "1.5", "1e0", "2"]),
        ({"type": "number", "minimum": -2}, ["-2", "-1.5", "-2.0", "7.5"], ["-3", "-2.5"]),
        ({"type": "string", "pattern": "^[0-2]\\d:[0-5]\\d$"}, ['<|"|>23:59<|"|>'], ['<|"|>3:59<|"|>']),
        ({"$ref": "#/$defs/T", "description": "of two"}, ['<|"|>x<|"|>', "null"], ["1"]),
    ],
)
def test_values(compiler: Compiler, schema: dict[str, Any], accepted: list[str], refused: list[str]) -> None:
    defs = {"T": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    declared = {"type": "object", "properties": {"v": schema}, "required": ["v"], "$defs": defs}
    grammar = tool_grammar([{"name": "f", "parameters": declared}], choice="required").text
    call = "<|tool_call>call:f{{v:{}}}<tool_call|>"
    assert [v for v in accepted if not accepts(compiler, grammar, call.format(v))] == []
    assert [v for v in refused if accepts(compiler, grammar, call.format(v))] == []


@given(st.integers(-300, 300), st.integers(0, 600), st.booleans(), st.booleans())
def test_integer_ranges(low: int, span: int, open_below: bool, open_above: bool) -> None:
    schema = {"type": "integer"}
    schema |= {} if open_below else {"minimum": low}
    schema |= {} if open_above else {"maximum": low + span}
    grammar = tool_grammar([{"name": "f", "parameters": {"type": "object", "properties": {"v": schema}}}]).text
    expression = re.search(r'Regex\("([^"]*)"\)', grammar)
    assert expression is not None
    for n in range(-1100, 1101):
        inside = (open_below or low <= n) and (open_above or n <= low + span)
        assert (re.fullmatch(expression[1], str(n)) is not None) == inside, n


patterns = st.sampled_from(
    [
        r"^\d{3}-[A-F]{2}$",
        r"a+b?|c",
        r"^(foo|ba[rz])*$",
        r"^\w+@\w+\.(com|org)$",
        r"^[^a-z]{1,3}$",
        r"\.",
        r"^.{2,}?$",
        r"^(?:x|(?<n>y))[\]\\-]?$",
        r"^c(a+b*)?c$",
        r"^\x41\u0042\t$",
        r"^[^\uD7FF]{1,2}[\uD7FE-\uE001]$",
    ]
)


@QUICK
@given(patterns, st.integers(0, 1 << 30))
def test_patterns(compiler: Compiler, pattern: str, seed: int) -> None:
    schema = {"type": "object", "properties": {"v": {"type": "string", "pattern": pattern}}, "required": ["v"]}
    grammar = tool_grammar([{"name": "f", "parameters": schema}], choice="required").text
    tokens = walk(compiler.constraint(grammar), seed)
    assume(tokens is not None)
    assert tokens is not None
    read = re.compile(pattern.replace("(?<", "(?P<").replace("$", r"\Z"), re.ASCII)
    assert all(read.search(str(call.arguments["v"])) for call in parse_calls(TOKENIZER.decode(tokens[:-1])))


@QUICK
@given(patterns, st.data())
def test_patterns_accept_what_matches(compiler: Compiler, pattern: str, data: st.DataObject) -> None:
    read = re.compile(pattern.replace("(?<", "(?P<").replace("$", r"\Z"), re.ASCII)
    text = data.draw(st.from_regex(read, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="|")))
    assume(not re.search("[\x1c-\x1f\x85]", text))  # spaces to Python alone
    assume(not re.search("[\r\u2028\u2029]", text))  # ends of lines to ECMAScript alone, which its dot leaves out
    schema = {"type": "object", "properties": {"v": {"type": "string", "pattern": pattern}}}
    grammar = tool_grammar([{"name": "f", "parameters": schema}]).text
    assert accepts(compiler, grammar, format_calls([ToolCall("f", {"v": text})]))


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "string", "maxLength": 1.5}, "maxLength"),
        ({"type": "string", "pattern": "a(?=x)"}, "assertion"),
        ({"type": "string", "pattern": 3}, "pattern"),
        ({"type": "integer", "multipleOf": 0}, "multipleOf"),
        ({"type": "number", "minimum": "0"}, "minimum"),
        ({"type": "array", "uniqueItems": 1}, "uniqueItems"),
        ({"type": "array", "prefixItems": {}}, "prefixItems"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "required": "z"}, "required"),
        ({"type": "text"}, "'text'"),
        ({"oneOf": []}, "oneOf"),
        ({"allOf": {}}, "allOf"),
        ({"anyOf": []}, "anyOf"),
        ({"enum": []}, "enum"),
        ({"$ref": "http://x"}, "leads nowhere"),
        ({"$ref": "#/properties/w"}, "leads nowhere"),
        (3, "not a schema"),
    ],
)
def test_schemas_that_are_refused(schema: Any, named: str) -> None:
    with pytest.raises(EdgeMtpError) as refusal:
        tool_grammar([{"name": "f", "parameters": {"type": "object", "properties": {"v": schema}}}], strict=True)
    message = str(refusal.value)
    assert named in message
    assert "tool 'f'" in message or "(f)" in message
    assert "/properties/v" in message or "parameters.v" in message or named == "properties"
    assert "\n" not in message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"enum": ['<|"|>', "\udc00"]},
        {"type": "integer", "enum": ["x"]},
        {"$ref": "#/properties/v"},
        False,
    ],
)
def test_a_required_argument_without_values_is_refused(schema: Any) -> None:
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    with pytest.raises(EdgeMtpError, match=r"tool 'f'.*no value satisfies|\(f\).*leads to itself"):
        tool_grammar([{"name": "f", "parameters": parameters}], strict=True)


@pytest.mark.parametrize("tools", [{}, "f", [1], [{}], [{"name": "a<|turn>"}], [{"name": "a"}, {"name": "a"}]])
def test_tools_that_are_refused(tools: Any) -> None:
    with pytest.raises(EdgeMtpError):
        tool_grammar(tools)


@pytest.mark.parametrize("choice", ["c", "required"])
def test_choices_that_are_refused(choice: str) -> None:
    with pytest.raises(EdgeMtpError, match=choice):
        tool_grammar([], choice=choice)


# -- reports --------------------------------------------------------------------------------------------------------


def test_each_tool_is_reported(compiler: Compiler) -> None:
    pattern = {"type": "string", "pattern": "a(?=x)"}
    tools = [
        {"name": "google:mcp:whole", "inputSchema": {"type": "object", "properties": {"$filter": {"type": "integer"}}}},
        {"name": "partly", "parameters": {"type": "object", "properties": {"v": pattern, "n": {"type": "integer"}}}},
        {"name": "not", "parameters": {"type": "object", "required": ["v"], "properties": {"v": False}}},
    ]
    grammar = tool_grammar(tools)
    assert [(report.name, report.enforced) for report in grammar.reports] == [
        ("google:mcp:whole", "whole"),
        ("partly", "partly"),
        ("not", "not"),
    ]
    assert [each.keyword for each in grammar.reports[1].unenforced] == ["pattern"]
    assert "/properties/v" in grammar.reports[1].unenforced[0].place
    lines = [str(report) for report in grammar.reports]
    assert all(report.name in line and "\n" not in line for report, line in zip(grammar.reports, lines, strict=True))
    assert grammar.reports[1].to_json()["unenforced"][0]["keyword"] == "pattern"
    # What is left open is open, and the others are not.
    call = "<|tool_call>call:{}<tool_call|>"
    for body in ("google:mcp:whole{$filter:1}", 'partly{n:1,v:<|"|>any<|"|>}', 'not{v:<|"|>x<|"|>}'):
        assert accepts(compiler, grammar.text, call.format(body)), body
    for body in ("google:mcp:whole{$filter:true}", "partly{n:true}", "not[]"):
        assert not accepts(compiler, grammar.text, call.format(body)), body
    assert [report.name for report in tool_grammar(tools, choice="partly").reports] == ["partly"]
    assert tool_grammar(tools, choice="none").reports == ()
    assert tool_grammar(tools[:1], strict=True).reports[0].enforced == "whole"
    with pytest.raises(EdgeMtpError, match=r"tool 'partly'.*pattern"):
        tool_grammar(tools[:2], strict=True)


@pytest.mark.parametrize(
    ("schema", "enforced"),
    [
        ({"type": ["string", "number"]}, "whole"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, "whole"),
        ({"allOf": [{"$ref": "#/$defs/tone"}], "default": "x"}, "whole"),
        ({}, "whole"),
        ({"$ref": "#/$defs/node"}, "whole"),
        ({"enum": ["a", 1, None, True]}, "whole"),
        ({"type": "object"}, "whole"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "whole"),
        ({"type": "object", "patternProperties": {"^x-": {"type": "string"}}}, "whole"),
        ({"type": "string", "maxLength": 65536}, "whole"),
        ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 2.25}, "whole"),
        ({"type": "number", "multipleOf": 0.01}, "whole"),
        ({"type": "string", "contentEncoding": "base64", "format": "byte"}, "whole"),
        ({"oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}, "whole"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "partly"),
    ],
)
def test_kinds_of_schemas_that_tools_have(schema: Any, enforced: str) -> None:
    defs = {
        "tone": {"enum": ["x"]},
        "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}},
    }
    parameters = {"type": "object", "properties": {"v": schema}, "$defs": defs}
    assert tool_grammar([{"name": "f", "parameters": parameters}]).reports[0].enforced == enforced
