"""Gold: what matches it, against brute force; and its JSON form."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import QUOTE, ToolCall, Value, exact_match
from edge_mtp.harness.score.gold import Gold, GoldCall

# Few names and values, so that calls often match, and in more than one way.
values: st.SearchStrategy[Value] = st.sampled_from(
    [0, 1, 1.0, True, False, "1", None, [1], [1.0], {"x": 1}, {"x": 1.0}]
)
keys = st.sampled_from("ab")
calls = st.builds(ToolCall, st.sampled_from("fg"), st.dictionaries(keys, values, max_size=2))


@st.composite
def gold_calls(draw: st.DrawFn) -> GoldCall:
    arguments = draw(st.dictionaries(keys, st.lists(values, min_size=1, max_size=4).map(tuple), max_size=2))
    optional = draw(st.sets(st.sampled_from(sorted(arguments)))) if arguments else set()
    return GoldCall(draw(st.sampled_from("fg")), arguments, frozenset(optional))


golds = st.builds(Gold, st.lists(gold_calls(), max_size=4).map(tuple), st.booleans()) | st.builds(
    Gold, text=st.text(max_size=5)
)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def is_right(call: ToolCall, gold: GoldCall) -> bool:
    for key in {*call.arguments, *gold.arguments}:
        if key not in call.arguments:
            if key not in gold.optional:
                return False
        elif not any(same(call.arguments[key], value) for value in gold.arguments.get(key, ())):
            return False
    return call.name == gold.name


@given(st.lists(calls, max_size=4), golds)
def test_matching_is_what_some_order_of_the_calls_gives(reply: list[ToolCall], gold: Gold) -> None:
    orders = [reply] if gold.ordered else itertools.permutations(reply)
    expected = len(reply) == len(gold.calls) and any(all(map(is_right, order, gold.calls)) for order in orders)
    assert gold.matches(reply) == expected


@given(golds, st.data())
def test_what_is_drawn_from_gold_matches_it(gold: Gold, data: st.DataObject) -> None:
    reply = []
    for call in gold.calls:
        left_out = data.draw(st.sets(st.sampled_from(sorted(call.optional)))) if call.optional else set()
        arguments = {k: data.draw(st.sampled_from(v)) for k, v in call.arguments.items() if k not in left_out}
        reply.append(ToolCall(call.name, arguments))
    assert gold.matches(reply if gold.ordered else data.draw(st.permutations(reply)))
    assert not gold.matches([*reply, ToolCall("f")])


@given(st.lists(calls, max_size=3), st.lists(calls, max_size=3))
def test_exact_gold_is_the_exact_match(reply: list[ToolCall], right: list[ToolCall]) -> None:
    assert Gold.of(right).matches(reply) == exact_match(reply, right)
    assert Gold.of(right).matches(right[::-1])


def test_a_call_that_fits_two_leaves_the_other_to_who_fits_one() -> None:
    wide, narrow = GoldCall("f", {"a": (1, 2)}), GoldCall("f", {"a": (1,)})
    one, two = ToolCall("f", {"a": 1}), ToolCall("f", {"a": 2})
    for reply in itertools.permutations([one, two]):
        for gold in itertools.permutations([wide, narrow]):
            assert Gold(gold).matches(reply)
            assert not Gold(gold).matches([two, two])


def test_order_counts_where_gold_says_so() -> None:
    gold = Gold.from_json({"calls": [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}], "ordered": True})
    assert gold.matches([ToolCall("f"), ToolCall("g")])
    assert not gold.matches([ToolCall("g"), ToolCall("f")])


@given(golds)
def test_json_round_trip(gold: Gold) -> None:
    value = json.loads(json.dumps(gold.to_json()))
    again = Gold.from_json(value)
    # Through JSON text, which tells 1 from 1.0 from true.
    assert json.dumps(again.to_json()) == json.dumps(gold.to_json())
    assert again == gold


def test_exact_gold_reads_as_the_splits_have_it() -> None:
    value = {"calls": [{"name": "f", "arguments": {"a": [1], "b": "x"}}]}
    gold = Gold.from_json(value)
    assert gold.matches([ToolCall("f", {"b": "x", "a": [1]})])
    assert gold.to_json() == value
    assert Gold.from_json({"text": "Hello"}) == Gold(text="Hello")
    assert Gold.from_json({"text": "Hello"}).matches([])
    assert Gold.from_json({"calls": []}).to_json() == {"calls": []}


def gold_call(**changed: object) -> dict[str, object]:
    return {"calls": [{"name": "f", "accept": {"a": [1]}, "optional": ["a"]} | changed]}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "None"),
        ([], r"\[\]"),
        ({}, r"\{\}"),
        ({"calls": [], "text": "x"}, "neither"),
        ({"calls": [], "order": True}, "'order'"),
        ({"calls": {}}, r"\{\}"),
        ({"calls": [], "ordered": 1}, "1"),
        ({"text": 3}, "3"),
        ({"text": "x", "ordered": True}, "'ordered'"),
        ({"calls": ["f"]}, "'f'"),
        ({"calls": [{"name": 3, "arguments": {}}]}, "3"),
        ({"calls": [{"name": "f"}]}, "'f'"),
        ({"calls": [{"name": "f", "arguments": [1]}]}, "'f'"),
        ({"calls": [{"name": "f", "arguments": {}, "optional": []}]}, "'optional'"),
        ({"calls": [{"name": "two{words", "arguments": {"a": 1}}]}, "two{words"),
        ({"calls": [{"name": "two{words", "arguments": {}}]}, "two{words"),
        ({"calls": [{"name": "f", "arguments": {"a:1,b": 1}}]}, "'a:1,b'"),
        ({"calls": [{"name": "f", "arguments": {"a": QUOTE}}]}, "'a'"),
        ({"calls": [{"name": "f", "arguments": {"a": float("nan")}}]}, "nan"),
        ({"calls": [{"name": "f", "arguments": {"a": 10**2000}}]}, "digits"),
        (gold_call(arguments={}), "'arguments'"),
        (gold_call(accept={"a": []}), r"\[\]"),
        (gold_call(accept={"a": 1}), "1"),
        (gold_call(optional="a"), "'a'"),
        (gold_call(optional=["b"]), "'b'"),
        (gold_call(optional=[["b"]]), "'b'"),
    ],
)
def test_what_is_no_gold_is_named_in_one_line(value: Any, named: str) -> None:
    with pytest.raises(EdgeMtpError, match=named) as caught:
        Gold.from_json(value)
    assert "\n" not in str(caught.value)


def test_every_gold_of_the_splits_is_read() -> None:
    for split in (Path(edge_mtp.__file__).parent / "tiny" / "splits").glob("*.jsonl"):
        for line in split.read_text("utf-8").splitlines():
            gold = json.loads(line)["gold"]
            assert Gold.from_json(gold).to_json() == gold
