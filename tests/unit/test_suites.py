"""The built-in suites and workloads: what is right in them can be said, is declared, and is in the prompt."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.tool_calls import Value, format_calls, parse_calls
from edge_mtp.harness.ask.data import make_phone, make_workloads
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.suites import SPLITS, WORKLOADS, suite, workload
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.score.gold import GoldCall

KINDS = {
    "single", "parallel", "choice", "enum", "numbers", "strings", "long_string", "no_call", "ask_back", "multi_turn",
}  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "suites.md"


@pytest.fixture(scope="module")
def phone() -> list[Item]:
    return suite("phone")


@pytest.fixture(scope="module")
def all_workloads() -> list[Item]:
    return workload(["all"])


def right_calls(item: Item) -> Iterator[tuple[int, GoldCall]]:
    """Each right call with its turn's number."""
    for number, turn in enumerate(item.turns):
        for call in turn.gold.calls if turn.gold else ():
            yield number, call


def scalars(value: Value) -> Iterator[str | int | float | None]:
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from scalars(each)
    else:
        yield value


def texts(value: Value) -> Iterator[str]:
    return (each for each in scalars(value) if isinstance(each, str))


def known_text(item: Item, turn: int) -> str:
    """All that the model has been told before it answers a turn."""
    messages = [message for each in item.turns[: turn + 1] for message in each.messages]
    return "\n".join(text for message in messages for text in map(str, scalars(dict(message))))


# -- the suite of phone actions -------------------------------------------------------------------------------------


def test_the_phone_suite_holds_what_it_says(phone: list[Item]) -> None:
    assert len(phone) >= 200
    assert len({item.id for item in phone}) == len(phone)
    assert not [item.id for item in phone if re.search(r"\{\d\}", known_text(item, 0))], "slots are filled"
    kinds = Counter(item.kind for item in phone)
    assert kinds.keys() == KINDS
    assert min(kinds.values()) >= 15
    names = {tool["function"]["name"] for item in phone for tool in item.tools}
    assert len(names) == len(make_phone.TOOLS) >= 15
    assert {call.name for item in phone for _, call in right_calls(item)} == names, "each tool is called somewhere"
    assert len({item.cluster for item in phone}) >= 100


def test_the_phone_tools_use_all_of_a_declaration() -> None:
    schemas = [json.dumps(tool) for tool in make_phone.TOOLS.values()]
    for part in ("enum", '"integer"', '"number"', '"boolean"', '"array"', '"required": []', "minimum"):
        assert any(part in schema for schema in schemas), part
    assert any(schema.count('"object"') > 1 for schema in schemas), "an object inside the parameters"


def test_what_is_right_is_declared(phone: list[Item]) -> None:
    """Every right value, by jsonschema."""
    for item in phone:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in item.tools}
        for _, call in right_calls(item):
            strict = {**schemas[call.name], "additionalProperties": False}
            least = {key: value for key, value in call.example().arguments.items() if key not in call.optional}
            right = [least, *({**least, key: value} for key, values in call.arguments.items() for value in values)]
            validator = jsonschema.validators.validator_for(strict)(strict)
            assert [error.message for given in right for error in validator.iter_errors(given)] == []


def test_what_is_right_can_be_said_and_is_recognised(phone: list[Item]) -> None:
    for item in phone:
        for turn in item.turns:
            assert turn.gold is not None
            calls = [call.example() for call in turn.gold.calls]
            assert parse_calls(format_calls(calls)) == calls
            assert turn.gold.matches(calls)
            assert turn.gold.matches(list(reversed(calls)))
            assert not calls or not turn.gold.matches(calls[1:])


def test_a_grammar_holds_the_phone_tools() -> None:
    assert tool_grammar(list(make_phone.TOOLS.values()))


def test_strings_are_in_the_prompt_word_for_word(phone: list[Item]) -> None:
    """But for choices of an enum, and dates and times, which are written in another form."""
    for item in phone:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in item.tools}
        for turn, call in right_calls(item):
            known = known_text(item, turn).casefold()
            for key, values in call.arguments.items():
                schema = schemas[call.name][key]
                if key in call.optional or "enum" in json.dumps(schema):
                    continue
                for text in texts(values[0]):
                    if not re.fullmatch(r"\d\d:\d\d|\d{4}-\d\d-\d\d", text):
                        assert text.removesuffix(".").casefold() in known, (item.id, key)


def test_numbers_are_in_the_prompt_unless_they_are_spelled_or_computed(phone: list[Item]) -> None:
    spelled = {"phone-timer-hour-1", "phone-timer-hour-2", "phone-words-1", "phone-words-2"}
    computed = {"phone-event-length-1", "phone-event-length-2"}
    missing = set()
    for item in phone:
        for turn, call in right_calls(item):
            for key, values in call.arguments.items():
                if type(values[0]) in (int, float) and key not in call.optional:
                    said = re.findall(r"\d+(?:\.\d+)?", known_text(item, turn).replace(",", ""))
                    if float(str(values[0])) not in map(float, said):
                        missing.add(item.id)
    assert missing == spelled | computed


def test_later_turns_need_what_the_tools_answered(phone: list[Item]) -> None:
    """Of the items with scripted responses some could not be answered from the user's words alone."""
    needing = 0
    for item in phone:
        assert (len(item.turns) > 1) == (item.kind == "multi_turn")
        for number, call in right_calls(item):
            before = known_text(item, number - 1) if number else ""
            roles = {message["role"] for message in item.turns[number].messages}
            if "tool" in roles:
                needing += any(text not in before for values in call.arguments.values() for text in texts(values[0]))
    assert needing >= 8


def test_no_call_items_lack_the_tool_or_want_none(phone: list[Item]) -> None:
    for item in phone:
        if item.kind in ("no_call", "ask_back"):
            gold = item.turns[0].gold
            assert gold is not None
            assert gold.text
            assert not gold.calls
            assert item.tools, "there is something to be called wrongly"


def test_distractors_lie_near(phone: list[Item]) -> None:
    assert all(len(item.tools) >= 12 for item in phone if item.kind == "choice")
    assert all(len(item.tools) >= 6 for item in phone)


# -- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [make_phone, make_workloads])
def test_the_files_are_what_their_scripts_write(made: Any) -> None:
    assert made.FILE.read_text("utf-8") == make_phone.text(made.items())


def test_the_documentation_has_the_counts(phone: list[Item], all_workloads: list[Item]) -> None:
    sections = re.split(r"^##+ ", DOCS.read_text("utf-8"), flags=re.MULTILINE)

    def told(heading: str) -> dict[str, int]:
        section = next(each for each in sections if each.startswith(heading))
        rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section, re.MULTILINE)
        return {name: int(number.replace(",", "")) for name, number in rows}

    assert told("The tiny pair's splits") == {**{name: len(suite(name)) for name in SPLITS}, "tiny": len(suite("tiny"))}
    assert told("`phone`") == Counter(item.kind for item in phone)
    counts = Counter(item.kind for item in all_workloads)
    assert told("Workloads") == {**counts, "tiny": len(workload(["tiny"]))}


def test_every_prompt_renders(phone: list[Item], all_workloads: list[Item]) -> None:
    chat_format = ChatFormat.from_directory(TINY / "target")
    for item in [*phone, *all_workloads]:
        history: list[Any] = []
        for turn in item.turns:
            history += turn.messages
            text = chat_format.render(history, item.tools)
            said = [str(each).strip()[:40].lower() for each in scalars(turn.messages[-1]["content"]) if each]
            assert all(each in text.lower() for each in said)
            calls = [call.example() for call in turn.gold.calls] if turn.gold else []
            called = [{"type": "function", "function": call.to_json()} for call in calls]
            history.append({"role": "assistant", **({"tool_calls": called} if called else {"content": "Done."})})


# -- workloads ------------------------------------------------------------------------------------------------------


def test_the_workloads_hold_what_they_say(all_workloads: list[Item]) -> None:
    kinds = Counter(item.kind for item in all_workloads)
    assert tuple(kinds) == WORKLOADS
    assert all(8 <= count <= 13 for count in kinds.values())
    assert len({item.id for item in all_workloads}) == len(all_workloads)
    prompts = [str(turn.messages[-1]["content"]) for item in all_workloads for turn in item.turns]
    assert not [prompt for prompt in prompts if re.search(r"\{[a-z]\}", prompt)], "slots are filled"
    assert len(set(prompts)) == len(prompts)
    for item in all_workloads:
        users = [message for turn in item.turns for message in turn.messages if message["role"] == "user"]
        assert len(users) in (range(3, 6) if item.kind == "multi_turn" else (1,))
        assert bool(item.tools) == (item.kind == "tool_call")


def most_tokens(text: str) -> int:
    """More than a tokenizer with a large vocabulary makes of a text: digits and marks each one, words in pieces of
    six letters."""
    words = sum(math.ceil(len(word) / 6) for word in re.findall(r"[^\W\d_]+", text))
    return words + len(re.findall(r"\d|_|[^\w\s]|\n", text))


def test_long_prompts_are_long_and_fit(all_workloads: list[Item]) -> None:
    for item in all_workloads:
        text = "\n".join(str(message["content"]) for turn in item.turns for message in turn.messages)
        if item.kind == "long_prompt":
            assert 1400 <= len(text.split()) <= 3000, item.id
            assert most_tokens(text) <= 4096 - 512, item.id
        else:
            assert most_tokens(text) <= 1024, item.id


def test_long_prompts_are_no_padding(all_workloads: list[Item]) -> None:
    """Padding repeats itself from end to end and packs to nothing; these are as dense as other writing."""
    for item in all_workloads:
        if item.kind == "long_prompt":
            text = str(item.turns[0].messages[0]["content"])
            lines = [line for line in re.split(r"\n|(?<=[.!?]) ", text) if len(line) > 60]
            assert len(set(lines)) >= 0.6 * len(lines), item.id
            assert len(set(re.findall(r"[a-z]{3,}", text.lower()))) >= 60, item.id


def test_the_tiny_workload_is_its_longest_replies() -> None:
    items, split = workload(["tiny"]), {item.id: item for item in suite("iid")}
    assert len(items) >= 20
    assert len({item.cluster for item in items}) == len(items)
    assert all(split[item.id] == item for item in items)

    def length(item: Item) -> int:
        gold = item.turns[0].gold
        return len(format_calls(call.example() for call in gold.calls)) + len(gold.text or "") if gold else 0

    shortest = min(map(length, items))
    clusters = {item.cluster for item in items}
    assert all(length(item) <= shortest for item in split.values() if item.cluster not in clusters)


# -- names ----------------------------------------------------------------------------------------------------------


def test_suites_have_names_and_limits(tmp_path: Path) -> None:
    sizes = {name: len(suite(name)) for name in SPLITS}
    assert sizes == {"iid": 1600, "new_values": 400, "new_templates": 400, "new_names": 400}
    assert [item.id.rpartition("-")[0] for item in suite("tiny", 2)] == [name for name in SPLITS for _ in range(2)]
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Hello"}\n{"prompt": "Bye"}\n')
    assert [item.id for item in suite(str(mine))] == ["mine-1", "mine-2"]
    assert [item.id for item in workload(["chat", str(mine), "tiny"], 1)][:2] == ["chat-tyre", "mine-1"]
    assert workload(["code"]) == [item for item in workload(["all"]) if item.kind == "code"]


@pytest.mark.parametrize("call", [suite, lambda name: workload([name])])
def test_unknown_names_are_refused_with_the_known_ones(call: Any, tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"'phones' is unknown; use .*tiny.* or a JSONL file") as refusal:
        call("phones")
    assert "\n" not in str(refusal.value)
    with pytest.raises(EdgeMtpError, match=r"cannot read prompts .*absent\.jsonl"):
        call(str(tmp_path / "absent.jsonl"))
