"""The forgiving parser: the strict one where that one reads, the meant call in known damage, and never an error."""

from __future__ import annotations

import contextlib
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.formats.lenient_calls import parse_leniently, read_calls
from edge_mtp.formats.repairs import QUOTES, Repairs, TooManyError
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    QUOTE,
    Declared,
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
    """No text hides the call behind it, and what has no name is no call."""
    behind = ToolCall("g", {"a": 1})
    calls = parse_leniently(CALL_OPEN + "call:f{" + text + format_calls([behind]))
    assert same(calls[-1:], [behind])
    assert all(call.name for call in calls + read_calls(text))


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
        ("a:[1,2,b:{c:3},", {"a": [1, 2], "b": {"c": 3}}),
        ("a:[1,{b:2]},c:3", {"a": [1, {"b": 2}], "c": 3}),
        ('a:[1,2,b:<|"|>x<|"|>', {"a": [1, 2], "b": "x"}),
        ("a:[\"b:c\",x,'d']", {"a": ["b:c", "x", "d"]}),
        ("a:06:40,b:1.50,c:1e999", {"a": "06:40", "b": 1.5, "c": "1e999"}),
        ('a:weather in Tokyo<|"|>', {"a": "weather in Tokyo"}),
        ("a:,b:1", {"b": 1}),  # nothing is no value
        ("a::1", {"a": 1}),
        ('a:<|"|>{"b": "c", "d": [1, 2]}', {"a": '{"b": "c", "d": [1, 2]}'}),  # a whole JSON text
        ("a", {}),
    ],
)
def test_damage_of_values(body: str, meant: dict[str, Value]) -> None:
    assert same(parse_leniently(f"<|tool_call>call:f{{{body}}}<tool_call|>"), [ToolCall("f", meant)])


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        # Two readings: the string may hold what follows it, or have lost its mark before that.
        ('call:f{a:<|"|>Paris, France,days:3,on:true}', [ToolCall("f", {})]),
        ('call:f{n:1,a:<|"|>Paris,days:3,on:true}', [ToolCall("f", {"n": 1})]),
        ('call:f{n:1,a:[<|"|>x<|"|>,<|"|>y,b:1}', [ToolCall("f", {"n": 1})]),
        ('call:f{a:<|"|>x,b:<|"|>y<|"|>}', [ToolCall("f", {})]),
        ('call:f{a:<|"|>x}call:g{b:1}', [ToolCall("f", {})]),
        ('call:f{n:1,a:[<|"|>,null]}', [ToolCall("f", {"n": 1})]),  # or an empty string before the comma
        ('call:f{n:1,a:[",null]}', [ToolCall("f", {"n": 1})]),
        ('{"name":"f","arguments":{"n":1,"a":[",null]}}', [ToolCall("f", {"n": 1})]),
        ("call:f{a:1b:2}", [ToolCall("f", {})]),  # a comma is missing, or the text has a colon
        ("call:f{a:1,2],b:3}", [ToolCall("f", {})]),  # a list that lost its bracket
        ("call:f{a:[[1,2],b:3}", [ToolCall("f", {})]),
        ("call:f{a:{b:1,c:2}", [ToolCall("f", {})]),  # c may be an argument of its own
        ("call:f{n:1,a:b:1,c:2},d:3}", [ToolCall("f", {"n": 1})]),
        ("call:f{a:1,two words: 2,b:3}", [ToolCall("f", {"a": 1, "b": 3})]),
        # The text is no name, or goes on behind it.
        ("call:save:BEGIN_ARG report END_ARG", []),
        ("call:save report{a:1}", []),
        ("callf{a:1}", []),
        ("call:fa:{}}", []),
        ("call:f{a:{{b:1}}", [ToolCall("f", {})]),
        ("call:fa:1,b:2}", []),
        ('call:f{}{"name":"g"}', [ToolCall("f")]),
    ],
)
def test_what_has_two_readings_is_left_out(body: str, meant: list[ToolCall]) -> None:
    assert same(parse_leniently(f"<|tool_call>{body}<tool_call|>"), meant)


def test_every_repair_of_a_text_is_found() -> None:
    repaired = sorted(set(Repairs('call:f{a:[<|"|>,null]}', Declared([]))))
    assert repaired == ['call:f{a:[<|"|>,null<|"|>]}', 'call:f{a:[<|"|><|"|>,null]}']
    assert list(Repairs("call:f{a:[1,2]}", Declared([]))) == []


def test_a_text_with_too_many_repairs_keeps_its_name_only() -> None:
    numbers = ",".join(["1"] * 400)
    with pytest.raises(TooManyError):
        list(Repairs(f"call:f{{a:[[{numbers}]}}", Declared([])))
    assert parse_leniently(f"<|tool_call>call:f{{a:[[{numbers}]}}<tool_call|>") == [ToolCall("f")]


def test_a_string_of_json_is_no_arguments() -> None:
    text = '<|tool_call>call:run_js{data:<|"|>{"conversion": "ll_to_mgrs", "lat": 34.05}<tool_call|>'
    assert parse_leniently(text) == [ToolCall("run_js", {"data": '{"conversion": "ll_to_mgrs", "lat": 34.05}'})]
    assert parse_leniently(text.replace("}", "")) == [ToolCall("run_js")]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("<|tool_call>call:get_wea", []),
        ("<|tool_call>call:f{a:1,ci", [ToolCall("f", {"a": 1})]),
        ("<|tool_call>call:f{a:1,city:", [ToolCall("f", {"a": 1})]),
        ("<|tool_call>call:f{on:tr", [ToolCall("f", {})]),
        ('<|tool_call>call:f{a:<|"|>Paris, days:3}', [ToolCall("f", {"a": "Paris, days:3}"})]),
        ('<|tool_call>call:f{a:[<|"|>x<|"|>,<|"|>y,b:1', [ToolCall("f", {"a": ["x", "y,b:1"]})]),
        ('<|tool_call>{"arguments":{"a":1},"name":"get_wea', []),
    ],
)
def test_what_is_cut_off_is_read_so_far(text: str, meant: list[ToolCall]) -> None:
    assert same(parse_leniently(text), meant)


def test_declared_names_and_keys_are_known() -> None:
    tools = [{"name": "a b", "parameters": {"type": "object", "properties": {"issue[title]": {}, "x y": {}, "p": {}}}}]
    text = "<|tool_call>call:a b{issue[title]: 1, x y: 2, 'p': [3],}<tool_call|>"
    assert parse_leniently(text, tools) == [ToolCall("a b", {"issue[title]": 1, "x y": 2, "p": [3]})]


# Calls in pieces, to damage between the strings: those have what structure is made of.
rough = st.text(st.sampled_from("ab ,:{}[]=1"), max_size=8)
rough_values = st.recursive(
    st.none() | st.booleans() | st.integers() | rough,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3),
    max_leaves=6,
)
rough_calls = st.builds(ToolCall, names, st.dictionaries(names, rough_values, max_size=4))


def pieces(value: Value) -> list[str]:
    if isinstance(value, str):
        return [QUOTE, value, QUOTE]
    if isinstance(value, dict):
        inner = [[key, ":", *pieces(item)] for key, item in value.items()]
    elif isinstance(value, list):
        inner = [pieces(item) for item in value]
    else:
        return [canonical(value)]
    joined = [piece for each in inner for piece in [*each, ","]][:-1]
    return ["{", *joined, "}"] if isinstance(value, dict) else ["[", *joined, "]"]


STRUCTURE = {QUOTE, CALL_OPEN, CALL_CLOSE, "call:", ":", ",", "{", "}", "[", "]"}


def begun(part: Value, whole: Value) -> bool:
    """Whether a value is another one, or the beginning of it."""
    if canonical(part) == canonical(whole):
        return True
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(begun, part, whole))
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and begun(item, whole[key]) for key, item in part.items())
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    return type(part) is int and type(whole) is int and str(whole).startswith(str(part))


def check_nothing_invented(found: list[ToolCall], meant: list[ToolCall], is_cut: bool) -> None:
    left = list(meant)
    for call in found:
        match = next((i for i, other in enumerate(left) if other.name == call.name), None)
        assert match is not None, call
        original = left.pop(match).arguments
        for key, value in call.arguments.items():
            assert key in original, (key, call)
            same_value = canonical(value) == canonical(original[key])
            assert same_value or (is_cut and begun(value, original[key])), (key, value)


@given(st.lists(rough_calls, min_size=1, max_size=2, unique_by=lambda c: c.name), st.data())
def test_nothing_is_invented_where_a_reply_is_cut_off(calls: list[ToolCall], data: st.DataObject) -> None:
    text = format_calls(calls)
    end = data.draw(st.integers(0, len(text)))
    check_nothing_invented(parse_leniently(text[:end]), calls, is_cut=True)


@given(st.lists(rough_calls, min_size=1, max_size=2, unique_by=lambda c: c.name), st.data())
def test_nothing_is_invented_where_a_mark_is_lost_or_doubled(calls: list[ToolCall], data: st.DataObject) -> None:
    parts = [
        part for call in calls for part in [CALL_OPEN, "call:", call.name, *pieces(dict(call.arguments)), CALL_CLOSE]
    ]
    at = data.draw(st.sampled_from([i for i, part in enumerate(parts) if part in STRUCTURE]))
    # `call:` twice is a name that begins with it.
    times = 0 if parts[at] == "call:" else data.draw(st.sampled_from([0, 2]))
    text = "".join([*parts[:at], parts[at] * times, *parts[at + 1 :]])
    try:
        strict = parse_calls(text, [])
    except ToolCallSyntaxError:
        for quote in QUOTES:
            check_nothing_invented(parse_leniently(text.replace(QUOTE, quote)), calls, is_cut=False)
    else:
        assert same(parse_leniently(text), strict)  # with a bracket or comma less it can be another call's text


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
