"""The forgiving parser: the strict one where that one reads, the meant call in known damage, and never an error."""

from __future__ import annotations

import contextlib
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.lenient_calls import parse_leniently, read_calls
from edge_mtp.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    QUOTE,
    ToolCall,
    ToolCallSyntaxError,
    Value,
    canonical,
    format_calls,
    parse_calls,
)

MEANT: dict[str, Value] = {"city": "Paris, France", "days": 3, "on": True}
BODY = 'city:<|"|>Paris, France<|"|>,days:3,on:true'

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,8}", fullmatch=True)
words = st.from_regex(r"[A-Za-z][a-z]{0,7}( [a-z]{1,6})?", fullmatch=True).filter(
    lambda word: word.lower() not in ("true", "false", "null", "none")
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
plain = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3), max_leaves=6)
plain_calls = st.builds(ToolCall, names, st.dictionaries(names, plain, max_size=4))
any_strings = st.text(max_size=12).filter(lambda s: QUOTE not in s)
any_calls = st.builds(ToolCall, names, st.dictionaries(names, plain | any_strings, max_size=4))
# Text made of what parsers look for, so that most of it is damage.
PIECES = (
    *(CALL_OPEN, CALL_CLOSE, QUOTE, "call:", "call:f{", "a:", "b=", '"', "'", "`", "\\", "{", "}", "[", "]", "(", ")"),
    *(
        ",",
        ":",
        "=",
        " ",
        "\n",
        "x",
        "é",
        "true",
        "None",
        "1",
        "-",
        ".5",
        "1e999",
        "<turn|>",
        "<|channel>",
        "name",
        "<|",
    ),
)
damage = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def same(a: list[ToolCall], b: list[ToolCall]) -> bool:
    return [canonical(c.to_json()) for c in a] == [canonical(c.to_json()) for c in b]


@given(st.lists(any_calls, max_size=3), st.text(max_size=10).filter(lambda t: "<" not in t))
def test_it_is_the_strict_parser_on_what_that_one_reads(calls: list[ToolCall], text: str) -> None:
    reply = text + format_calls(calls) + text
    assert same(parse_leniently(reply), calls)


@given(damage)
def test_it_never_raises_and_is_strict_where_that_is_possible(text: str) -> None:
    for reply in (text, CALL_OPEN + text):
        calls = parse_leniently(reply)
        with contextlib.suppress(ToolCallSyntaxError):
            assert same(calls, parse_calls(reply))


@given(st.text())
def test_arbitrary_text_is_read_to_its_end(text: str) -> None:
    parse_leniently(CALL_OPEN + "call:f{" + text)
    read_calls(text)


@given(plain_calls)
def test_every_call_is_read_in_other_quotes(call: ToolCall) -> None:
    text = format_calls([call])
    for quote in ('"', "'", "`"):
        assert same(parse_leniently(text.replace(QUOTE, quote)), [call])


@given(plain_calls, st.data())
def test_every_call_is_read_without_its_end(call: ToolCall, data: st.DataObject) -> None:
    text = format_calls([call]).removesuffix(CALL_CLOSE)
    kept = len(text.rstrip("}]"))
    end = data.draw(st.integers(kept, len(text)))
    # An object or array that has only been opened is there too.
    assert same(parse_leniently(text[:end]), [call])


@given(plain_calls)
def test_every_call_is_read_with_white_space_and_commas(call: ToolCall) -> None:
    text = format_calls([call])
    for mark in ("{", "[", ",", ":"):
        text = text.replace(mark, f"{mark} ")
    text = text.replace("}", " ,}").replace("]", "\n,]")
    assert same(parse_leniently(text), [call])


@given(plain_calls)
def test_every_call_is_read_as_json(call: ToolCall) -> None:
    body = canonical(call.to_json())
    assert same(parse_leniently(CALL_OPEN + body), [call])
    arguments = canonical(dict(call.arguments))
    assert same(parse_leniently(f"{CALL_OPEN}call:{call.name}{arguments}{CALL_CLOSE}"), [call])


@pytest.mark.parametrize(
    "text",
    [
        f"<|tool_call>call:f{{{BODY}}}",  # no closing mark
        f"<|tool_call>call:f{{{BODY}<tool_call|>",  # no bracket
        f"<|tool_call>call:f{{{BODY}",
        f"<|tool_call>call:f{{{BODY}}}}}<tool_call|>",  # one too many
        f"<|tool_call>call:f{{{BODY},}}<tool_call|>",
        f"<|tool_call> call: f {{ {BODY} }} <tool_call|>",
        f"<|tool_call>f{{{BODY}}}<tool_call|>",  # no `call:`
        f"<|tool_call>call:f{{{BODY}}}<turn|>",
        f"<|tool_call>call:f({BODY})<tool_call|>",
        '<|tool_call>call:f(city="Paris, France", days=3, on=True)<tool_call|>',
        "<|tool_call>call:f(city='Paris, France', days=3, on=True)<tool_call|>",
        "<|tool_call>call:f{city='Paris, France',days=3,on=true}<tool_call|>",
        '<|tool_call>call:f{"city":"Paris, France","days":3,"on":true}<tool_call|>',
        '<|tool_call>call:f{<|"|>city<|"|>:<|"|>Paris, France<|"|>,days:3,on:true}<tool_call|>',
        '<|tool_call>call:f{city:<|"|>Paris, France<|"|> days:3 on:true}<tool_call|>',
        '<|tool_call>call:f{city:<|"|>Paris, France<|"|>days:+3,on:TRUE}<tool_call|>',
        '<|tool_call>call:f{city:<|"|>Paris, France<|"|>,,days:03,on:true}<tool_call|>',
        '<|tool_call>call:f{city<|"|>Paris, France<|"|>,days:3,on:true}<tool_call|>',
        '<|tool_call>call:f{city:Paris, France<|"|>,days:3,on:true}<tool_call|>',  # no first mark
        '<|tool_call>call:f{city:<|"|>Paris, France,days:3,on:true}<tool_call|>',  # no second mark
        '<|tool_call>call:f{city:<|"|>Paris, France",days:3,on:true}<tool_call|>',
        '<|tool_call>call:f{city:"Paris, France<|"|>,days:3,on:true}<tool_call|>',
        "<|tool_call>call:f{city:Paris, France,days:3,on:true}<tool_call|>",
        '<|tool_call>call:f{on:true,days:3,city:<|"|>Paris, France}<tool_call|>',
        '<|tool_call>call:f{days:3,on:true,city:<|"|>Paris, France<tool_call|>',
        '<|tool_call>call:f{days:1,city:<|"|>Paris, France<|"|>,days:3,on:true}<tool_call|>',  # the last counts
        '<|tool_call>{"name": "f", "arguments": {"city": "Paris, France", "days": 3, "on": true}}<tool_call|>',
        '<|tool_call>{"function": {"name": "f", "parameters": {"city": "Paris, France", "days": 3, "on": true}}}',
    ],
)
def test_damage_of_one_call(text: str) -> None:
    with contextlib.suppress(ToolCallSyntaxError):
        assert not same(parse_calls(text), [ToolCall("f", MEANT)])
    assert same(parse_leniently(text), [ToolCall("f", MEANT)])


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ('a:"say "hi" now",b:1', {"a": 'say "hi" now', "b": 1}),  # the parser-breaking quote
        ('a:"she said "yes", then left"', {"a": 'she said "yes", then left'}),
        (r'a:"say \"hi\"\n\u00e9"', {"a": 'say "hi"\né'}),
        ("a:'it's'", {"a": "it's"}),
        ("a:it's late,b:1", {"a": "it's late", "b": 1}),
        ('a:<|"|>x\\n"y"<|"|>,b:01', {"a": 'x\\n"y"', "b": 1}),  # Gemma's own strings have no escapes
        ('a:["x","y, z"],b:[x, 1]', {"a": ["x", "y, z"], "b": ["x", 1]}),
        ('a:[<|"|>x<|"|>,<|"|>y,b:1', {"a": ["x", "y"], "b": 1}),
        ("a:[1,2,b:{c:3},", {"a": [1, 2], "b": {"c": 3}}),
        ("a:[1,{b:2]},c:3", {"a": [1, {"b": 2}], "c": 3}),
        ('a:[1,2,b:<|"|>x<|"|>', {"a": [1, 2], "b": "x"}),
        ("a:[\"b:c\",x,'d']", {"a": ["b:c", "x", "d"]}),
        ("a:06:40,b:1.50,c:1e999", {"a": "06:40", "b": 1.5, "c": "1e999"}),
        ('a:weather in Tokyo<|"|>', {"a": "weather in Tokyo"}),
        ("a:,b:1", {"a": "", "b": 1}),
        ("a", {}),
    ],
)
def test_damage_of_values(body: str, meant: dict[str, Value]) -> None:
    assert same(parse_leniently(f"<|tool_call>call:f{{{body}}}<tool_call|>"), [ToolCall("f", meant)])


@pytest.mark.parametrize(
    "text",
    [
        "<|tool_call>call:f{a:1}<|tool_call>call:g{}<tool_call|>",
        "<|tool_call>call:f{a:1}call:g{}<tool_call|>",
        "<|tool_call>call:f{a:1}\ncall:g<tool_call|>",
        '<|tool_call>[{"name":"f","arguments":{"a":1}},{"name":"g"}]<tool_call|>',
        "<|tool_call>call:f{a:1<tool_call|><|tool_call>call:g{}<tool_call|>",
    ],
)
def test_damage_between_calls(text: str) -> None:
    assert same(parse_leniently(text), [ToolCall("f", {"a": 1}), ToolCall("g")])


def test_an_open_string_does_not_reach_the_next_call() -> None:
    text = '<|tool_call>call:f{a:<|"|>x}<tool_call|><|tool_call>call:g{b:<|"|>y<|"|>}<tool_call|>'
    assert same(parse_leniently(text), [ToolCall("f", {"a": "x"}), ToolCall("g", {"b": "y"})])


def test_names_are_kept_as_they_are() -> None:
    assert parse_leniently("<|tool_call>call:google:mcp:make-file{a:1,}") == [
        ToolCall("google:mcp:make-file", {"a": 1})
    ]


def test_text_without_an_opening_mark_is_text() -> None:
    assert parse_leniently("call:f{a:1}<tool_call|>") == []
    assert parse_leniently("") == []


def test_what_holds_no_call_gives_none() -> None:
    for body in ("", "call:", "{}", "[]", '{"name": 3}', '{"name": "f", "arguments": 3}', "}}", "call:{a:1}"):
        assert parse_leniently(CALL_OPEN + body) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join))
def test_repetition_takes_no_more_than_its_length(unit: str) -> None:
    """Any short text repeated is read in steps that grow with its length, not its square."""

    def steps(times: int) -> int:
        count = itertools.count()

        def trace(frame: object, event: str, _: object) -> object:
            if event == "line":
                next(count)
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            read_calls("call:f{" + unit * times)
        finally:
            sys.settrace(previous)
        return next(count)

    assert steps(160) < 3 * steps(80) + 2000
