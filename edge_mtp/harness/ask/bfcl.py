"""The single-turn categories of the Berkeley Function Calling Leaderboard, from an installed `bfcl-eval`.

Source of the data and of the rules by which answers are right: github.com/ShishirPatil/gorilla, folder
berkeley-function-call-leaderboard, bfcl_eval/eval_checker/ast_eval/ast_checker.py (Apache-2.0). Only the package's data
files are read: nothing of it is imported, so its dependencies need not be there. What is scored otherwise than there is
in docs/suites.md.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import ToolCall, Value, canonical, check_tools, format_calls
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.score.gold import Gold, GoldCall, folded
from edge_mtp.json_file import read_text

NON_LIVE = (
    "simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple", "irrelevance",
)  # fmt: skip
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance")
# Some call is right, whichever: nothing that a gold could say.
UNSCORED = ("live_relevance",)
CATEGORIES = (*NON_LIVE, *LIVE, *UNSCORED)

_TYPES = {
    **{"integer": "integer", "long": "integer", "short": "integer", "byte": "integer", "Bigint": "integer"},
    **{"float": "number", "double": "number", "number": "number"},
    **{"boolean": "boolean", "Boolean": "boolean", "bool": "boolean"},
    **{"array": "array", "list": "array", "tuple": "array", "Array": "array", "ArrayList": "array"},
    **{"Queue": "array", "Stack": "array", "Set": "array"},
    **{"dict": "object", "object": "object", "HashMap": "object", "Hashtable": "object"},
}  # the others are text: string, String, char, any
_MOST_ALTERNATIVES = 1000  # of one argument


def categories(name: str) -> tuple[str, ...]:
    """What `bfcl` (all that are scored), `bfcl:live`, `bfcl:non_live` and `bfcl:CATEGORY` stand for.

    Raises EdgeMtpError for another name.
    """
    groups = {"bfcl": (*NON_LIVE, *LIVE), "bfcl:live": LIVE, "bfcl:non_live": NON_LIVE}
    found = groups.get(name) or tuple(each for each in CATEGORIES if name == f"bfcl:{each}")
    if not found:
        raise EdgeMtpError(f"suite '{name}' is unknown; use bfcl, bfcl:live, bfcl:non_live or bfcl:CATEGORY, one of"
                           f" {', '.join(CATEGORIES)}")  # fmt: skip
    return found


def items(category: str) -> list[Item]:
    """The items of a category. Left out are those that no grammar can hold, and those whose declarations forbid the
    answer.

    Raises EdgeMtpError where bfcl-eval is not installed, or its files have changed.
    """
    return [item for item in converted(category).values() if isinstance(item, Item)]


def converted(category: str) -> dict[str, Item | str]:
    """By BFCL's id the item, or why there is none."""
    folder = _data()
    questions = _lines(folder, category)
    answers: dict[str, Any] = {}
    if category not in UNSCORED and not category.endswith("irrelevance"):
        answers = {each["id"]: each["ground_truth"] for each in _lines(folder / "possible_answer", category)}
    found: dict[str, Item | str] = {}
    for question in questions:
        try:
            found[question["id"]] = _item(category, question, answers.get(question["id"]))
        except _NotConvertibleError as error:
            found[question["id"]] = str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EdgeMtpError(
                f"{question.get('id')} of {folder} is in a form that this version does not know ({error!r});"
                " install bfcl-eval 2026.3.23"
            ) from None
    return found


class _NotConvertibleError(Exception):
    """Declarations that no grammar can hold, or a right answer that they forbid."""


def _data() -> Path:
    spec = importlib.util.find_spec("bfcl_eval")
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "data" if places else None
    if folder is None or not folder.is_dir():
        raise EdgeMtpError("BFCL's data is not installed; run: pip install --no-deps bfcl-eval")
    return folder


def _lines(folder: Path, category: str) -> list[dict[str, Any]]:
    files = [path for path in folder.glob("BFCL_v*.json") if re.fullmatch(rf"BFCL_v\d+_{category}.json", path.name)]
    if not files:
        raise EdgeMtpError(f"'{folder}' has no category {category}; run: pip install --no-deps -U bfcl-eval")
    file = max(files)
    try:
        return [json.loads(line) for line in read_text(file, "BFCL's").split("\n") if line.strip()]
    except ValueError as error:
        raise EdgeMtpError(f"'{file}' is not JSONL ({error}); install bfcl-eval again") from None


def _item(category: str, question: Mapping[str, Any], answers: Sequence[Mapping[str, Any]] | None) -> Item:
    (messages,) = question["question"]
    tools = check_tools([_declaration(function) for function in question["function"]], question["id"])
    gold: Gold | None = None
    if category.endswith("irrelevance"):
        gold = Gold()
    elif answers is not None:
        gold = Gold(tuple(_call(answer, tools) for answer in answers))
    elif category not in UNSCORED:
        raise _NotConvertibleError("it has no right answer")
    cluster = question["id"]
    if category in (*LIVE, *UNSCORED):  # live_CATEGORY_NUMBER-TOOLS-NUMBER: who wrote these tools asked several times
        cluster = f"{category}/{cluster.split('-')[1]}"
    return Item(question["id"], category, f"bfcl/{cluster}", (Turn(tuple(messages), gold),), tuple(tools))


# -- declarations ---------------------------------------------------------------------------------------------------


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _schema(function["parameters"])
    return {"name": function["name"], "description": function.get("description", ""), "parameters": parameters}


def _schema(declared: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of a declaration, whose types are Python's, Java's or JavaScript's.

    A default goes into the description, the only place where Gemma's format has room for it.
    """
    schema: dict[str, Any] = {"type": _TYPES.get(declared.get("type", ""), "string")}
    description = declared.get("description", "")
    if "default" in declared and declared["default"] is not None:
        description = f"{description} Default: {json.dumps(declared['default'], ensure_ascii=False)}".strip()
    if description:
        schema["description"] = description
    if schema["type"] == "object":
        if "properties" not in declared:
            raise _NotConvertibleError("it has an object of undeclared keys, to which no grammar can hold a call")
        schema["properties"] = {name: _schema(inner) for name, inner in declared["properties"].items()}
        schema["required"] = [name for name in declared.get("required", []) if name in schema["properties"]]
    if schema["type"] == "array" and "items" in declared:
        schema["items"] = _schema(declared["items"])
    choices = [value for value in declared.get("enum", []) if _fits(value, schema)]
    if choices and schema["type"] not in ("object", "array"):
        schema["enum"] = choices
    return schema


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is what a schema of `_schema` allows."""
    if "enum" in schema and not any(canonical(value) == canonical(choice) for choice in schema["enum"]):
        return False
    if schema["type"] == "object":
        inner = schema["properties"]
        return (
            isinstance(value, dict)
            and set(schema["required"]) <= value.keys() <= inner.keys()
            and all(_fits(each, inner[key]) for key, each in value.items())
        )
    if schema["type"] == "array":
        return isinstance(value, list) and all(_fits(each, schema["items"]) for each in value if "items" in schema)
    if schema["type"] == "boolean" or isinstance(value, bool):
        return schema["type"] == "boolean" and isinstance(value, bool)
    if schema["type"] == "integer":
        return isinstance(value, int)
    if schema["type"] == "number":
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, str)


# -- right answers --------------------------------------------------------------------------------------------------


def _call(answer: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> GoldCall:
    """An answer {tool: {argument: [right value, ...]}}; among the values "" says that it may be left out."""
    ((name, arguments),) = answer.items()
    schema = next((tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == name), None)
    if schema is None:
        raise _NotConvertibleError(f"{name} is right and not declared")
    properties, required = schema.get("properties", {}), set(schema.get("required", []))
    if missing := required - arguments.keys():
        raise _NotConvertibleError(f"{name}: {min(missing)} is required and not among what is right")
    right: dict[str, tuple[Value, ...]] = {}
    optional = set()
    for key, values in arguments.items():
        if key not in properties:
            raise _NotConvertibleError(f"{name}: {key} is right and not declared")
        may_lack = "" in values and key not in required
        fitting = {canonical(each): each for value in values for each in _spellings(value, properties[key])}
        if len(fitting) > _MOST_ALTERNATIVES:
            raise _NotConvertibleError(f"{name}: {key} has more than {_MOST_ALTERNATIVES} right values")
        if not fitting and not may_lack:
            raise _NotConvertibleError(f"{name}: its declaration forbids all that is right for {key}")
        if fitting:
            right[key] = tuple(fitting.values())
            if may_lack:
                optional.add(key)
    return GoldCall(name, right, frozenset(optional), loose=True)


def _spellings(value: Any, schema: Mapping[str, Any]) -> Iterator[Value]:
    """The values that a right one stands for and that are declared: each choice of an object's alternatives, a number
    with and without its fraction of zero, a text as the choice of an enum that it is but for case."""
    for choice in itertools.islice(_choices(value), _MOST_ALTERNATIVES + 1):
        for spelled in (choice, _respelled(choice, schema, float), _respelled(choice, schema, int)):
            if _fits(spelled, schema) and _is_sayable(spelled):
                yield spelled


def _choices(value: Any) -> Iterator[Any]:
    """An object is {key: [right value, ...]}, "" where the key may be left out; a list of objects has such objects."""
    if isinstance(value, dict):
        alternatives = [each if isinstance(each, list) else [each] for each in value.values()]
        for chosen in itertools.product(*alternatives):
            yield {key: each for key, each in zip(value, chosen, strict=True) if each != ""}
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for elements in itertools.product(*(list(_choices(each)) for each in value)):
            yield list(elements)
    else:
        yield value


def _is_sayable(value: Value) -> bool:
    """Whether Gemma's format has a way to write a value: a key that is a path has none."""
    try:
        format_calls([ToolCall("tool", {"argument": value})])
    except EdgeMtpError:
        return False
    return True


def _respelled(value: Any, schema: Mapping[str, Any], kind: type[int] | type[float]) -> Any:
    """The value with each number that is declared as one written as `kind` where that is the same number, and each
    text of an enum as it is declared."""
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {key: _respelled(each, inner.get(key, {}), kind) for key, each in value.items()}
    if isinstance(value, list):
        return [_respelled(each, schema.get("items", {}), kind) for each in value]
    if isinstance(value, str):
        return next((each for each in schema.get("enum", []) if folded(each) == folded(value)), value)
    if schema.get("type") == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return kind(value) if kind(value) == value else value
    return value
