"""BFCL's data as items: a package of the same layout, and the real one where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.tool_calls import ToolCall, format_calls, parse_calls
from edge_mtp.harness.ask import bfcl
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.suites import suite
from edge_mtp.harness.score.gold import GoldCall

OFFICE = {
    "name": "office.book_room",
    "description": "Book a room",
    "parameters": {
        "type": "dict",
        "required": ["floor", "hours"],
        "properties": {
            "floor": {"type": "integer", "description": "Which floor."},
            "hours": {"type": "float", "description": "For how long."},
            "equipment": {"type": "tuple", "items": {"type": "string"}, "default": ["screen"]},
            "sizes": {"type": "array", "items": {"type": "float"}},
            "layout": {"type": "string", "enum": ["Rows", "Circle", None], "default": "Rows", "optional": True},
            "contact": {
                "type": "dict",
                "properties": {"name": {"type": "string"}, "phone": {"type": "any"}, "age": {"type": "integer"}},
                "required": ["name"],
            },
            "windows": {"type": "boolean"},
        },
    },
}
RIGHT: dict[str, list[Any]] = {
    "floor": [4],
    "hours": [2, 2.5],
    "equipment": [["screen", "phone"], ""],
    "layout": ["", "circle"],
    "contact": [{"name": ["Ada", "Ada L."], "phone": ["", "555"]}],
    "windows": ["", None],
}


def question(name: str, *functions: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "user", "content": "Book me a room."}
    return {"id": name, "question": [[message]], "function": list(functions) or [OFFICE]}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of an installed bfcl-eval that cannot be imported."""
    folder = tmp_path / "bfcl_eval" / "data"
    (folder / "possible_answer").mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('nothing of it may be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bfcl_eval", raising=False)
    return folder


def write(data: Path, category: str, questions: Sequence[Any], answers: Sequence[Any] | None = None) -> None:
    (data / f"BFCL_v4_{category}.json").write_text("\n".join(map(json.dumps, questions)), "utf-8")
    if answers is not None:
        lines = [{"id": q["id"], "ground_truth": answer} for q, answer in zip(questions, answers, strict=True)]
        (data / "possible_answer" / f"BFCL_v4_{category}.json").write_text("\n".join(map(json.dumps, lines)), "utf-8")


def gold_of(data: Path, right: Mapping[str, Any], function: Mapping[str, Any] = OFFICE) -> GoldCall | str:
    """The right call that possible answers become, or why the item is left out."""
    write(data, "simple_python", [question("simple_python_0", function)], [[{function["name"]: right}]])
    item = bfcl.converted("simple_python")["simple_python_0"]
    if isinstance(item, str):
        return item
    assert item.turns[0].gold is not None
    (call,) = item.turns[0].gold.calls
    return call


def test_declarations_become_json_schemas(data: Path) -> None:
    write(data, "simple_python", [question("simple_python_0")], [[{"office.book_room": RIGHT}]])
    (item,) = suite("bfcl:simple_python")
    assert (item.id, item.kind, item.cluster) == ("simple_python_0", "simple_python", "bfcl/simple_python_0")
    function = item.tools[0]["function"]
    assert function["name"] == "office.book_room"
    assert function["parameters"]["required"] == ["floor", "hours"]
    assert function["parameters"]["properties"] == {
        "floor": {"type": "integer", "description": "Which floor."},
        "hours": {"type": "number", "description": "For how long."},
        "equipment": {"type": "array", "description": 'Default: ["screen"]', "items": {"type": "string"}},
        "sizes": {"type": "array", "items": {"type": "number"}},
        "layout": {"type": "string", "description": 'Default: "Rows"', "enum": ["Rows", "Circle"]},
        "contact": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "phone": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name"],
        },
        "windows": {"type": "boolean"},
    }


def test_possible_answers_become_gold(data: Path) -> None:
    call = gold_of(data, RIGHT)
    assert isinstance(call, GoldCall)
    least = {"floor": 4, "hours": 2, "contact": {"name": "Ada"}}
    assert call.matches(ToolCall("office.book_room", least))
    for right in (
        {"hours": 2.0}, {"hours": 2.5}, {"equipment": ["screen", "phone"]}, {"layout": "Circle"},
        {"contact": {"name": "Ada L.", "phone": "555"}},
    ):  # fmt: skip
        assert call.matches(ToolCall("office.book_room", {**least, **right}))
    for wrong in (
        {"floor": 4.0}, {"hours": 3}, {"equipment": []}, {"layout": "Rows"}, {"windows": True}, {"sizes": []},
        {"contact": {"name": "Ada", "age": 3}}, {"contact": {"phone": "555"}},
    ):  # fmt: skip
        assert not call.matches(ToolCall("office.book_room", {**least, **wrong}))
    assert not call.matches(ToolCall("office.book_room", {key: least[key] for key in ("floor", "hours")}))


def test_texts_are_compared_as_the_leaderboard_does(data: Path) -> None:
    call = gold_of(
        data, {"floor": [1], "hours": [1], "equipment": [["Flip-chart", "Ada's screen"]], "layout": ["Rows"]}
    )
    assert isinstance(call, GoldCall)
    assert call.accepts("equipment", ["flip chart", 'ada"s Screen.'])
    assert not call.accepts("equipment", ["flap chart", "Ada's screen"])
    assert not call.accepts("equipment", ["Ada's screen", "Flip-chart"])
    assert not call.accepts("floor", "1")


def test_numbers_in_lists_are_written_either_way(data: Path) -> None:
    call = gold_of(data, {"floor": [1], "hours": [1], "sizes": [[1, 2.0, 2.5]]})
    assert isinstance(call, GoldCall)
    assert call.accepts("sizes", [1.0, 2.0, 2.5])
    assert call.accepts("sizes", [1, 2, 2.5])
    assert not call.accepts("sizes", [2.5, 2, 1])


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        ({"floor": ["four"], "hours": [1]}, "forbids all that is right for floor"),
        ({"floor": [True], "hours": [1]}, "forbids all that is right for floor"),
        ({"floor": [1], "hours": [1], "layout": ["Square"]}, "forbids all that is right for layout"),
        ({"floor": [1], "hours": [1], "contact": [{"phone": ["1"]}]}, "forbids all that is right for contact"),
        ({"floor": [1], "hours": [1], "sizes": []}, "forbids all that is right for sizes"),
        ({"floor": [1], "hours": [1], "seats": [3]}, "seats is right and not declared"),
        ({"floor": [1]}, "hours is required and not among what is right"),
    ],
)
def test_items_whose_declarations_forbid_what_is_right_are_left_out(
    data: Path, right: dict[str, Any], reason: str
) -> None:
    found = gold_of(data, right)
    assert isinstance(found, str)
    assert reason in found
    assert suite("bfcl:simple_python") == []


def test_items_that_no_grammar_can_hold_are_left_out(data: Path) -> None:
    parameters = {"type": "dict", "required": ["x"], "properties": {"x": {"type": "dict"}}}
    found = gold_of(data, {"x": [{"a": [1]}]}, {"name": "f", "description": "", "parameters": parameters})
    assert isinstance(found, str)
    assert "no grammar" in found


def test_irrelevance_is_a_reply_without_calls_and_relevance_is_not_scored(data: Path) -> None:
    write(data, "irrelevance", [question("irrelevance_0")])
    write(data, "live_relevance", [question("live_relevance_3-2-1")])
    (none,), (some,) = suite("bfcl:irrelevance"), suite("bfcl:live_relevance")
    assert none.turns[0].gold is not None
    assert none.turns[0].gold.matches([])
    assert not none.turns[0].gold.matches([ToolCall("office.book_room", {"floor": 1, "hours": 1})])
    assert some.turns[0].gold is None
    assert some.cluster == "bfcl/live_relevance/2"


def test_categories_have_names_and_limits(data: Path) -> None:
    """Each file is its own category's, whatever other name its name ends with."""
    for category in bfcl.CATEGORIES:
        names = [f"{category}_{n}-{n}-0" for n in range(3)]
        answers = None if "relevance" in category else [[{"office.book_room": RIGHT}]] * 3
        write(data, category, [question(name) for name in names], answers)
    assert {item.kind for item in suite("bfcl:multiple")} == {"multiple"}
    assert len(suite("bfcl")) == 3 * (len(bfcl.CATEGORIES) - 1)
    assert {item.kind for item in suite("bfcl")} == {*bfcl.CATEGORIES} - {"live_relevance"}
    assert [item.id for item in suite("bfcl:live", 1)] == [f"{category}_0-0-0" for category in bfcl.LIVE]
    assert len(suite("bfcl:non_live", 2)) == 2 * len(bfcl.NON_LIVE)


def test_what_cannot_be_read_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeMtpError, match=r"bfcl:nonsense.*simple_python"):
        suite("bfcl:nonsense")
    with pytest.raises(EdgeMtpError, match="no category multiple"):
        suite("bfcl:multiple")
    for line in ("nonsense", '{"id": "multiple_0"}'):
        (data / "BFCL_v4_multiple.json").write_text(line)
        (data / "possible_answer" / "BFCL_v4_multiple.json").write_text("")
        with pytest.raises(EdgeMtpError, match="install bfcl-eval") as refusal:
            suite("bfcl:multiple")
        assert "\n" not in str(refusal.value)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    importlib.invalidate_caches()
    if importlib.util.find_spec("bfcl_eval") is None:
        with pytest.raises(EdgeMtpError, match="pip install --no-deps bfcl-eval"):
            suite("bfcl:simple_python")


@pytest.mark.parametrize("category", bfcl.CATEGORIES)
def test_the_real_data_converts(category: str) -> None:
    """Every item is asked within its own declarations: by jsonschema, through the wire format, under a grammar."""
    if importlib.util.find_spec("bfcl_eval") is None:
        pytest.skip("bfcl-eval is not installed: pip install --no-deps bfcl-eval")
    found = bfcl.converted(category)
    items = [item for item in found.values() if isinstance(item, Item)]
    left_out = len(found) - len(items)
    grammars = {json.dumps(item.tools): tool_grammar(item.tools).text for item in items}
    assert all(grammars.values())
    # Java's and JavaScript's answers are often expressions, which are no values of a declared type.
    assert left_out <= len(found) * (0.3 if category in ("simple_java", "simple_javascript") else 0.05)
    for item in items:
        assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
        gold = item.turns[0].gold
        assert (gold is None) == (category in bfcl.UNSCORED)
        calls = [call.example() for call in gold.calls] if gold else []
        assert gold is None or gold.matches(calls)
        assert bool(calls) == ("relevance" not in category)
        assert parse_calls(format_calls(calls)) == calls
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in item.tools}
        for call in gold.calls if gold else ():
            for key, values in call.arguments.items():
                for value in values:
                    arguments = {**call.example().arguments, key: value}
                    jsonschema.validate(arguments, {**schemas[call.name], "additionalProperties": False})
