"""Scores: a right reply has no findings, a wrong one has; each planted defect has its label."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    QUOTE,
    ToolCall,
    ToolCallSyntaxError,
    Value,
    format_calls,
    parse_calls,
)
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.ask.judged import scored
from edge_mtp.harness.score.gold import Gold, GoldCall
from edge_mtp.harness.score.score import LABELS, LEVELS, Finish, Score, score

DECLARED: dict[str, dict[str, Any]] = {
    "set_alarm": {
        "properties": {
            "time": {"type": "string"},
            "minutes": {"type": "integer"},
            "volume": {"type": "NUMBER"},
            "repeat": {"type": "boolean"},
            "tone": {"type": "string", "enum": ["bell", "bird", "wave"]},
            "days": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "object", "properties": {"floor": {"type": "integer"}, "room": {"type": "string"}}},
        },
        "required": ["time", "minutes", "volume", "repeat", "tone", "days", "place"],
    },
    "call": {"properties": {"who": {"type": "string"}, "speaker": {"type": "boolean"}}, "required": ["who"]},
    "stop": {"properties": {}},
}
TOOLS = [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in DECLARED.items()]

words = st.from_regex(r"[A-Za-z]{4,9}( [a-z]{3,8})?", fullmatch=True).filter(
    lambda word: word.lower() not in ("true", "false", "null", "none")
)
alarms = st.builds(
    lambda time, minutes, volume, repeat, tone, days, floor, room: ToolCall(
        "set_alarm",
        {
            "time": f"{time // 60:02}:{time % 60:02}",
            "minutes": minutes,
            "volume": volume,
            "repeat": repeat,
            "tone": tone,
            "days": days,
            "place": {"floor": floor, "room": room},
        },
    ),
    st.integers(0, 1439),
    st.integers(-1000, 1000),
    st.floats(-1e3, 1e3),
    st.booleans(),
    st.sampled_from(["bell", "bird", "wave"]),
    st.lists(words, min_size=1, max_size=3),
    st.integers(0, 99),
    words,
)


@dataclass(frozen=True)
class Case:
    """Right calls and the prompt that their strings are copied from."""

    calls: list[ToolCall]
    ordered: bool = False

    @property
    def gold(self) -> Gold:
        return Gold(Gold.of(self.calls).calls, self.ordered)

    @property
    def text(self) -> str:
        return format_calls(self.calls)

    @property
    def prompt(self) -> str:
        return "Please: " + ", ".join(re.findall(r'<\|"\|>(.*?)<\|"\|>', self.text)) + "."

    def score(self, text: str, finish: Finish = "stop", error: str | None = None) -> Score:
        return score(text, finish, error, self.gold, TOOLS, self.prompt)

    def with_argument(self, key: str, value: Value) -> str:
        first = self.calls[0]
        return format_calls([ToolCall(first.name, {**first.arguments, key: value}), *self.calls[1:]])


cases = st.builds(Case, st.tuples(alarms).map(list))
pairs = st.builds(
    lambda first, one, other: Case([ToolCall("call", {"who": one}), ToolCall("call", {"who": other}), *first]),
    st.lists(alarms, max_size=1),
    words,
    words,
).filter(lambda case: case.calls[0] != case.calls[1])


def is_strictly_right(text: str, finish: Finish, error: str | None, gold: Gold) -> bool:
    try:
        return finish == "stop" and error is None and gold.matches(parse_calls(text))
    except ToolCallSyntaxError:
        return False


def check(found: Score, text: str, finish: Finish, error: str | None, gold: Gold) -> None:
    """What holds for every score."""
    assert found.is_right == is_strictly_right(text, finish, error, gold)
    assert found.primary in (None, *LABELS)
    assert [f.label for f in found.findings] == sorted((f.label for f in found.findings), key=LABELS.index)
    assert all(len(f.text) <= 200 for f in found.findings)
    assert not found.is_right or found.lenient


# -- right and wrong ------------------------------------------------------------------------------------------------

PIECES = (
    *(CALL_OPEN, CALL_CLOSE, QUOTE, "call:", "call:call{", "who:", "speaker=", '"', "'", "\\", "{", "}", "[", "]", "("),
    *(")", ",", ":", "=", " ", "\n", "Bo", "7", "true", "None", "-", ".5", "1e999", "<turn|>", "<|channel>", "<|"),
)
pieces = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
finishes: st.SearchStrategy[Finish] = st.sampled_from(
    ["stop", "stop", "stop", "length", "context", "crash", "timeout", "refused"]
)
golds = st.one_of(
    (cases | pairs).map(lambda case: case.gold),
    st.just(Gold(text="Hello")),
    st.builds(
        Gold,
        st.lists(
            st.builds(
                GoldCall,
                st.sampled_from(["call", "stop", "lost"]),
                st.dictionaries(st.sampled_from(["who", "speaker"]), st.just(("Bo", 7)), max_size=2),
            ),
            max_size=3,
        ).map(tuple),
        st.booleans(),
    ),
)
simple_calls = st.builds(
    ToolCall,
    st.sampled_from(["call", "stop", "lost", "nowhere"]),
    st.dictionaries(st.sampled_from(["who", "speaker", "x"]), st.sampled_from(["Bo", 7, 7.0, True, None, ["Bo"]])),
)


@given(pieces | st.text(), golds, finishes, st.none() | st.just("boom"))
def test_any_text_has_findings_unless_it_is_right(text: str, gold: Gold, finish: Finish, error: str | None) -> None:
    for reply in (text, CALL_OPEN + "call:call{" + text):
        check(score(reply, finish, error, gold, TOOLS, text), reply, finish, error, gold)


@given(st.lists(simple_calls, max_size=3), golds, st.booleans())
def test_calls_have_findings_unless_they_are_right(calls: list[ToolCall], gold: Gold, declared: bool) -> None:
    text = format_calls(calls)
    check(score(text, "stop", None, gold, TOOLS if declared else [], "Bo"), text, "stop", None, gold)


@given(cases | pairs, st.data())
def test_a_reply_with_something_changed_in_it(case: Case, data: st.DataObject) -> None:
    text = case.text
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(begin + 12, len(text))))
    damaged = text[:begin] + data.draw(pieces) + text[end:]
    check(case.score(damaged), damaged, "stop", None, case.gold)


@given(st.data())
def test_what_gold_allows_is_right(data: st.DataObject) -> None:
    gold = Gold(
        (GoldCall("call", {"who": ("Bo", "Bob"), "speaker": (True,)}, frozenset(["speaker"])), GoldCall("stop", {}))
    )
    who = data.draw(st.sampled_from(["Bo", "Bob"]))
    call = ToolCall("call", {"who": who} | data.draw(st.sampled_from([{}, {"speaker": True}])))
    text = "Sure. " + format_calls(data.draw(st.permutations([call, ToolCall("stop")])))
    assert score(text, "stop", None, gold, TOOLS) == Score((), lenient=True)


def test_text_without_calls_is_right_where_text_is() -> None:
    assert score("Anything.", "stop", None, Gold(text="Hello"), TOOLS) == Score((), lenient=True)


def test_levels_and_labels() -> None:
    assert len(set(LABELS)) == len(LABELS) == sum(map(len, LEVELS.values()))


# -- harness and emission -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "error", "label"),
    [
        ("crash", "the runner ended: signal 11", "crash"),
        ("crash", None, "crash"),
        ("stop", "the tokenizer failed", "crash"),
        ("timeout", "no answer for 60 s", "timeout"),
        ("refused", "the prompt has 9000 tokens, the context 4096", "refused"),
        ("refused", "cannot allocate 3 GB for the cache", "oom"),
        ("crash", "std::bad_alloc", "oom"),
        ("crash", "out of memory", "oom"),
    ],
)
def test_what_the_harness_saw(finish: Finish, error: str | None, label: str) -> None:
    case = Case([ToolCall("stop")])
    found = case.score(case.text, finish, error)
    assert [(f.label, f.text) for f in found.findings] == [(label, error or "")]
    assert not found.lenient


@given(cases)
def test_no_call(case: Case) -> None:
    found = case.score("I cannot do that.")
    assert [(f.label, f.text) for f in found.findings] == [("no_call", "I cannot do that.")]
    assert not found.lenient


@given(cases)
def test_spurious_call(case: Case) -> None:
    found = score(case.text, "stop", None, Gold(text="No."), TOOLS)
    assert [f.label for f in found.findings] == ["spurious_call"]
    assert case.text.startswith(found.findings[0].text.rstrip("…"))


@given(cases | pairs, st.data())
def test_truncated(case: Case, data: st.DataObject) -> None:
    # Between any two characters, but for those of a mark, which is one token.
    places = [m.end() for m in re.finditer(r'<\|"\|>|<\|tool_call>|<tool_call\|>|.', case.text)]
    text = case.text[: data.draw(st.sampled_from([0, *places]))]
    finish: Finish = data.draw(st.sampled_from(["length", "context"]))
    found = case.score(text, finish)
    labels = {f.label for f in found.findings}
    assert "truncated" in labels
    # What was not said yet is not held against the reply.
    assert labels <= {"no_call", "truncated", "unclosed", "degenerate_loop"}
    assert found.lenient or text != case.text


@given(cases, st.text(min_size=1, max_size=20), st.integers(0, 19))
def test_degenerate_loop(case: Case, unit: str, rest: int) -> None:
    text = "Well then: " + unit * (120 // len(unit) + 6) + unit[: rest % len(unit)]
    labels = {f.label for f in case.score(text, "length").findings}
    assert {"truncated", "degenerate_loop"} <= labels


def test_text_that_only_repeats_itself_a_little_is_no_loop() -> None:
    case = Case([ToolCall("stop")])
    for text in (
        "No, no, no, no.",
        "1. Bread\n2. Bread\n3. Bread\n4. Bread\n",
        "-" * 40,
        "la " * 19 + "and that was it",
    ):
        assert [f.label for f in case.score(text).findings] == ["no_call"]


def test_a_loop_shows_its_unit() -> None:
    found = Case([ToolCall("stop")]).score("Then " + "over and " * 30, "length")
    assert (found.findings[-1].label, found.findings[-1].text) == ("degenerate_loop", "over and ")
    assert {f.label for f in found.findings} == {"no_call", "truncated", "degenerate_loop"}


@pytest.mark.parametrize("mark", ["<|channel>", "<channel|>", "<turn|>", "<|turn>", "<|think|>", "<eos>", "<unused7>"])
def test_channel_leak(mark: str) -> None:
    found = Case([ToolCall("stop")]).score(f"Hm. {mark}thought\nthe user wants me to stop")
    assert [f.label for f in found.findings] == ["no_call", "channel_leak"]
    assert found.findings[1].text.startswith(mark)


WEIGHED = "<|tool_call>call:stop{}<tool_call|> or not?"  # a thought


@pytest.mark.parametrize(("finish", "labels"), [("stop", ["open_thought"]), ("length", ["open_thought", "truncated"])])
@pytest.mark.parametrize("gold", [Gold.of([ToolCall("stop")]), Gold()])
def test_a_reply_that_ends_inside_a_thought_has_not_answered(finish: Finish, labels: list[str], gold: Gold) -> None:
    """Even where no call is right; and a call in the thought is none, so it is neither missing nor spurious."""
    found = score("", finish, None, gold, TOOLS, open_thought=WEIGHED)
    assert [each.label for each in found.findings] == labels
    assert {each.text for each in found.findings} == {WEIGHED}
    assert not found.is_right


def test_a_thought_that_repeats_itself_is_a_loop() -> None:
    found = score("", "length", None, Gold(), TOOLS, open_thought="So " + "over and " * 30)
    assert [each.label for each in found.findings] == ["open_thought", "truncated", "degenerate_loop"]


def test_an_answer_is_judged_by_its_text_alone() -> None:
    """As `eval` has it: what was thought, calls and marks included, changes nothing."""
    item = Item("i", "single", "i", (Turn(({"role": "user", "content": "Stop"},), Gold.of([ToolCall("stop")])),), TOOLS)
    right = Answer("a", "i", 0, 0, 0.0, format_calls([ToolCall("stop")]), "stop", reasoning="<|turn> call:stop{} twice")
    wrong = replace(right, text="No.", reasoning=format_calls([ToolCall("stop")]))
    assert scored(right, item) == Score((), lenient=True)
    found = scored(wrong, item)
    assert found is not None
    assert [each.label for each in found.findings] == ["no_call"]
    unended = scored(replace(right, text="", in_thought=True), item)
    assert unended is not None
    assert unended.primary == "open_thought"


# -- syntax ---------------------------------------------------------------------------------------------------------


def replaced(old: str, new: str, count: int = -1) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, count)


def at_one_quote(text: str, index: int, new: str) -> str:
    """The text with one of its quote marks replaced."""
    places = [found.start() for found in re.finditer(re.escape(QUOTE), text)]
    place = places[index % len(places)]
    return text[:place] + new + text[place + len(QUOTE) :]


# Damage to the text of a right call, and the label that it has.
SYNTAX: list[tuple[str, Callable[[str], str]]] = [
    ("unclosed", replaced(CALL_CLOSE, "")),
    ("unclosed", replaced("}" + CALL_CLOSE, "")),
    ("unclosed", replaced("}" + CALL_CLOSE, CALL_CLOSE)),
    ("bad_delimiter", replaced("}" + CALL_CLOSE, "}}" + CALL_CLOSE)),
    ("bad_delimiter", replaced("}" + CALL_CLOSE, ",}" + CALL_CLOSE)),
    ("bad_delimiter", replaced("}" + CALL_CLOSE, ")" + CALL_CLOSE)),
    ("bad_delimiter", replaced("call:", "")),
    ("bad_delimiter", replaced("call:", " call:")),
    ("bad_delimiter", replaced("set_alarm{", "set_alarm(")),
    ("bad_delimiter", replaced("set_alarm{", "set_alarm {")),
    ("bad_delimiter", replaced("set_alarm{", "set_alarm{ ")),
    ("bad_delimiter", replaced("set_alarm{", "my:set_alarm{")),
    ("bad_delimiter", replaced(",minutes:", ", minutes:")),
    ("bad_delimiter", replaced(",minutes:", ",,minutes:")),
    ("bad_delimiter", replaced(",minutes:", " minutes:")),
    ("bad_delimiter", replaced(",minutes:", "minutes:")),
    ("bad_delimiter", replaced("minutes:", "minutes: ")),
    ("bad_delimiter", replaced("minutes:", "minutes :")),
    ("bad_delimiter", replaced("minutes:", "minutes=")),
    ("bad_delimiter", replaced("floor:", "floor:0")),
    ("bad_delimiter", replaced("floor:", "floor:+")),
    ("bad_delimiter", replaced("minutes:", "minutes:,time:")),
    ("bad_delimiter", replaced("repeat:t", "repeat:T")),
    ("bad_delimiter", replaced("place:", "place")),
    ("bad_delimiter", replaced(",volume", ";volume")),
    ("bad_delimiter", replaced(CALL_OPEN, "")),
    ("bad_key", replaced("minutes:", '"minutes":')),
    ("bad_key", replaced("minutes:", "'minutes':")),
    ("bad_key", replaced("minutes:", f"{QUOTE}minutes{QUOTE}:")),
    ("bad_key", replaced("minutes:", "some minutes:")),
    ("bad_key", replaced("minutes:", "5minutes:")),
    ("bad_key", replaced("minutes:", ":")),
    ("bad_key", replaced("floor:", '"floor":')),
    ("wrong_quote", replaced(QUOTE, '"')),
    ("wrong_quote", replaced(QUOTE, "'")),
    ("wrong_quote", replaced(QUOTE, "`")),
    ("wrong_quote", replaced(QUOTE, "\N{LEFT DOUBLE QUOTATION MARK}")),
    ("wrong_quote", replaced(QUOTE, "")),
    *(("wrong_quote", lambda text, i=i: at_one_quote(text, i, "")) for i in range(12)),
    *(("wrong_quote", lambda text, i=i: at_one_quote(text, i, '"')) for i in range(12)),
]


@settings(max_examples=50)
@given(cases)
def test_damaged_syntax(case: Case) -> None:
    for label, damage in SYNTAX:
        text = damage(case.text)
        if text == case.text:  # no `repeat:true` in it
            continue
        found = case.score(text)
        check(found, text, "stop", None, case.gold)
        assert found.primary == label, text
        assert found.findings[0].text, text
        assert found.findings[0].text.rstrip("…") in text


def test_every_damage_to_the_syntax_is_damage() -> None:
    arguments: dict[str, Value] = {"time": "06:40", "minutes": 5, "volume": 0.5, "repeat": True, "tone": "bell"}
    place: dict[str, Value] = {"floor": 0, "room": "hall"}
    text = format_calls([ToolCall("set_alarm", {**arguments, "days": ["Monday"], "place": place})])
    assert all(damage(text) != text for _, damage in SYNTAX)


@given(words)
def test_a_quote_that_breaks_parsers(word: str) -> None:
    """A `"` inside a string is right between Gemma's marks, and breaks the call where `"` is the mark."""
    case = Case([ToolCall("call", {"who": f'{word} "Bo" Smith', "speaker": True})])
    assert case.score(case.text).is_right
    found = case.score(case.text.replace(QUOTE, '"'))
    assert [f.label for f in found.findings] == ["wrong_quote"]
    assert found.lenient


# What a forgiving parser reads as it was meant.
FORGIVEN = [
    *(damage for label, damage in SYNTAX if label == "unclosed"),
    replaced(",minutes:", ", minutes:"),
    replaced(",minutes:", " minutes:"),
    replaced("minutes:", "minutes="),
    replaced("set_alarm{", "set_alarm("),
    replaced("minutes:", '"minutes":'),
    replaced(QUOTE, '"'),
    replaced(QUOTE, "'"),
]


@settings(max_examples=50)
@given(cases)
def test_damage_that_is_forgiven_is_all_there_is(case: Case) -> None:
    for damage in FORGIVEN:
        found = case.score(damage(case.text))
        assert len(found.findings) == 1, damage(case.text)
        assert found.lenient


@given(pairs, st.sampled_from(["", "<turn|>"]))
def test_each_call_is_judged_by_itself(case: Case, end: str) -> None:
    """One call's missing end does not hide that the others are right."""
    text = format_calls(case.calls[:1]).removesuffix(CALL_CLOSE) + end + format_calls(case.calls[1:])
    found = case.score(text)
    assert [f.label for f in found.findings] == (["channel_leak"] if end else []) + ["unclosed"]
    assert found.lenient


# -- schema ---------------------------------------------------------------------------------------------------------


@given(cases, st.sampled_from(["set_alarms", "setAlarm", "alarm"]))
def test_unknown_tool(case: Case, name: str) -> None:
    found = case.score(case.text.replace("set_alarm", name))
    assert [(f.label, f.text) for f in found.findings] == [("unknown_tool", name)]


@given(cases)
def test_wrong_tool(case: Case) -> None:
    found = case.score(format_calls([ToolCall("call", {"who": "Bo"})]))
    assert [(f.label, f.text) for f in found.findings] == [("wrong_tool", "call")]


@given(cases, st.sampled_from(sorted(DECLARED["set_alarm"]["properties"])))
def test_missing_required(case: Case, key: str) -> None:
    arguments = {k: v for k, v in case.calls[0].arguments.items() if k != key}
    found = case.score(format_calls([ToolCall("set_alarm", arguments)]))
    assert [(f.label, f.text) for f in found.findings] == [("missing_required", key)]


@given(cases)
def test_extra_argument(case: Case) -> None:
    found = case.score(case.with_argument("loud", True))
    assert [(f.label, f.text) for f in found.findings] == [("extra_argument", "loud: true")]


@given(cases)
def test_duplicate_key(case: Case) -> None:
    # Of two the last counts: here the right one, there 1.
    for text, minutes in (
        (case.text.replace(",minutes:", ",minutes:1,minutes:"), case.calls[0].arguments["minutes"]),
        (case.text.replace(",place:", ",minutes:1,place:"), 1),
    ):
        found = case.score(text)
        assert found.primary == "duplicate_key"
        assert found.lenient == (minutes == case.calls[0].arguments["minutes"])


@given(cases, st.data())
def test_wrong_type(case: Case, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(case.calls[0].arguments)))
    before = case.calls[0].arguments[key]
    after: Value = 7 if isinstance(before, str | list | dict) else str(before)
    found = case.score(case.with_argument(key, after))
    assert [(f.label, f.text) for f in found.findings] == [("wrong_type", f"{key}: {json.dumps(after)}")]


@given(cases)
def test_wrong_type_inside_a_value(case: Case) -> None:
    found = case.score(case.with_argument("place", {"floor": "3", "room": "hall"}))
    assert [(f.label, f.text) for f in found.findings] == [("wrong_type", 'place.floor: "3"')]


@given(cases)
def test_enum_violation(case: Case) -> None:
    found = case.score(case.with_argument("tone", "drum"))
    assert (found.primary, found.findings[0].text) == ("enum_violation", 'tone: "drum"')


# -- values ---------------------------------------------------------------------------------------------------------


def flipped(text: str, index: int, by: int) -> str:
    """The text with one digit changed, never to a leading zero."""
    places = [found.start() for found in re.finditer("[0-9]", text)]
    place = places[index % len(places)]
    return text[:place] + str(1 + (int(text[place]) + by) % 9) + text[place + 1 :]


@given(cases, st.integers(0, 20), st.integers(0, 8))
def test_digit_corruption(case: Case, index: int, by: int) -> None:
    body = case.text[len(CALL_OPEN) :]
    text = CALL_OPEN + flipped(body, index, by)
    assume(not is_strictly_right(text, "stop", None, case.gold))
    found = case.score(text)
    assert [f.label for f in found.findings] == ["digit_corruption"]


@given(cases, st.integers(1, 99))
def test_digits_that_are_lost(case: Case, more: int) -> None:
    found = case.score(case.text.replace("floor:", f"floor:{more}"))
    assert [f.label for f in found.findings] == ["digit_corruption"]


@given(cases, st.integers(0, 3), st.sampled_from(["drop", "double", "case"]))
def test_copy_error(case: Case, index: int, how: str) -> None:
    room = str(case.calls[0].arguments["place"]["room"])  # type: ignore[index,call-overload]
    character = room[index]
    altered = {"drop": "", "double": character * 2, "case": character.swapcase()}[how]
    place = {**case.calls[0].arguments["place"], "room": room[:index] + altered + room[index + 1 :]}  # type: ignore[dict-item]
    found = case.score(case.with_argument("place", place))
    assert [f.label for f in found.findings] == ["copy_error"]
    # What stands nowhere in the prompt has been copied from nowhere.
    text = case.with_argument("place", place)
    assert score(text, "stop", None, case.gold, TOOLS, "Set it").primary == "other_value"


@given(cases)
def test_other_value(case: Case) -> None:
    found = case.score(case.with_argument("repeat", not case.calls[0].arguments["repeat"]))
    assert [f.label for f in found.findings] == ["other_value"]
    found = case.score(case.with_argument("place", {**case.calls[0].arguments["place"], "room": "0"}))  # type: ignore[dict-item]
    assert [f.label for f in found.findings] == ["other_value"]
    found = case.score(case.with_argument("days", []))
    assert [(f.label, f.text) for f in found.findings] == [("other_value", "days: []")]


def test_values_that_no_schema_asks_for() -> None:
    case = Case([ToolCall("call", {"who": "Bo", "speaker": True})])
    found = case.score(format_calls([ToolCall("call", {"who": "Bo"})]))
    assert [(f.label, f.text) for f in found.findings] == [("other_value", "speaker")]
    case = Case([ToolCall("call", {"who": "Bo"})])
    found = case.score(format_calls([ToolCall("call", {"who": "Bo", "speaker": True})]))
    assert [(f.label, f.text) for f in found.findings] == [("other_value", "speaker: true")]


def test_the_same_number_in_another_form_is_no_other_digit() -> None:
    tools = [{"name": "f", "parameters": {"properties": {"n": {"type": "number"}}}}]
    gold = Gold.of([ToolCall("f", {"n": 20})])
    assert score(format_calls([ToolCall("f", {"n": 20.0})]), "stop", None, gold, tools).primary == "other_value"
    assert score(format_calls([ToolCall("f", {"n": 25.0})]), "stop", None, gold, tools).primary == "digit_corruption"


def test_a_wrong_value_is_held_against_the_nearest_right_one() -> None:
    gold = Gold((GoldCall("set_alarm", {"days": (["Monday"], ["Monday", "Friday"])}),))
    found = score(
        format_calls([ToolCall("set_alarm", {"days": ["Monday", "Fridy"]})]),
        "stop", None, gold, [], "on Monday and Friday",
    )  # fmt: skip
    assert [(f.label, f.text) for f in found.findings] == [
        ("unknown_tool", "set_alarm"),
        ("copy_error", 'days: "Fridy"'),
    ]


# -- sets -----------------------------------------------------------------------------------------------------------


@given(pairs, st.data())
def test_count_of_missing_calls(case: Case, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(case.calls), min_size=1, max_size=len(case.calls) - 1, unique_by=id))
    found = case.score(format_calls(kept))
    missing = [call.name for call in case.calls if call not in kept]
    assert [(f.label, f.text) for f in found.findings] == [("count", ", ".join(missing))]


@given(pairs, st.data())
def test_count_of_extra_calls(case: Case, data: st.DataObject) -> None:
    extra = data.draw(st.sampled_from(case.calls))
    found = case.score(format_calls(data.draw(st.permutations([*case.calls, extra]))))
    assert [f.label for f in found.findings] == ["count"]
    assert found.findings[0].text.startswith(CALL_OPEN)


@given(pairs)
def test_order(case: Case) -> None:
    backwards = format_calls(case.calls[::-1])
    assert case.score(backwards).is_right
    found = Case(case.calls, ordered=True).score(backwards)
    assert [f.label for f in found.findings] == ["order"]


@given(pairs, st.sampled_from(["{} and {}", "{}, {}"]), st.booleans())
def test_merged(case: Case, form: str, swapped: bool) -> None:
    whos = [str(call.arguments["who"]) for call in case.calls[:2]]
    one, other = whos[::-1] if swapped else whos
    assume(one.casefold() not in other.casefold() and other.casefold() not in one.casefold())
    found = case.score(format_calls([ToolCall("call", {"who": form.format(one, other)}), *case.calls[2:]]))
    assert [f.label for f in found.findings] == ["merged"]


@given(words, words)
def test_merged_calls_of_two_tools(who: str, room: str) -> None:
    assume(who.casefold() not in room.casefold() and room.casefold() not in who.casefold())
    tools = [
        {"name": "call", "parameters": {"properties": {"who": {"type": "string"}}}},
        {"name": "book", "parameters": {"properties": {"room": {"type": "string"}}}},
    ]
    gold = Gold.of([ToolCall("call", {"who": who}), ToolCall("book", {"room": room})])
    found = score(format_calls([ToolCall("call", {"who": who, "room": room})]), "stop", None, gold, tools)
    assert [f.label for f in found.findings] == ["extra_argument", "merged"]


@given(cases, words)
def test_one_wrong_call_of_two_is_not_both(case: Case, who: str) -> None:
    """Calls are held against the gold that they are most like, whatever their order."""
    both = Case([*case.calls, ToolCall("call", {"who": who})])
    wrong = ToolCall("set_alarm", {**case.calls[0].arguments, "repeat": not case.calls[0].arguments["repeat"]})
    found = both.score(format_calls([both.calls[1], wrong]))
    assert [f.label for f in found.findings] == ["other_value"]


# -- all of it ------------------------------------------------------------------------------------------------------


def split_items() -> list[dict[str, Any]]:
    path = Path(edge_mtp.__file__).parent / "tiny" / "splits" / "iid.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def damaged(calls: list[ToolCall], tools: list[Mapping[str, Any]], rng: random.Random) -> tuple[str, set[str]]:
    """The text of some calls with a defect planted, and the labels that would name it."""
    text, first = format_calls(calls), calls[0]
    strings = [k for k, v in first.arguments.items() if isinstance(v, str) and len(v) >= 4 and v.isalpha()]
    numbers = [k for k, v in first.arguments.items() if isinstance(v, int) and not isinstance(v, bool)]

    def changed(key: str, value: Value) -> str:
        return format_calls([ToolCall(first.name, {**first.arguments, key: value}), *calls[1:]])

    ways: list[tuple[str, set[str]]] = [
        (text.replace(CALL_CLOSE, "", 1), {"unclosed"}),
        (text.replace("{", "{ ", 1), {"bad_delimiter"}),
        (text.replace(first.name + "{", first.name + "_{", 1), {"unknown_tool"}),
        (text + format_calls([first]), {"count"}),
        ("Sorry.", {"no_call"}),
    ]
    if QUOTE in text:
        ways.append((text.replace(QUOTE, '"'), {"wrong_quote"}))
    for key in numbers:
        ways.append((changed(key, first.arguments[key] + 1), {"digit_corruption"}))  # type: ignore[operator]
    for key in strings:
        ways.append((changed(key, str(first.arguments[key])[1:]), {"copy_error"}))
    return rng.choice(ways)


def test_the_tiny_splits_with_defects_planted() -> None:
    """On the items that arms are compared on: right replies are right, and planted defects are named."""
    rng = random.Random(6)
    for item in split_items():
        gold, prompt, tools = Gold.from_json(item["gold"]), item["messages"][-1]["content"], item["tools"]
        calls = [ToolCall.from_json(call) for call in item["gold"].get("calls", [])]
        right = format_calls(calls) if calls else item["gold"]["text"]
        assert score(right, "stop", None, gold, tools, prompt) == Score((), lenient=True)
        if not calls:
            assert score(format_calls([ToolCall("f")]), "stop", None, gold, tools, prompt).primary == "spurious_call"
            continue
        text, labels = damaged(calls, tools, rng)
        found = score(text, "stop", None, gold, tools, prompt)
        assert found.primary in labels, (text, found)
