"""Declarations of Python functions: they accept what those of transformers accept, and wrong functions are named."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import get_json_schema

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import check_tools
from edge_mtp.function_tools import checked_tools, declaration

PLAIN = (str, int, float, bool, list, dict, Any)


class Tone(enum.Enum):
    LOUD = "loud"
    LOW = "low"


def unions(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(parts, min_size=2, max_size=3).map(lambda each: Union[tuple(each)])  # noqa: UP007


HINTS = st.recursive(
    st.sampled_from(PLAIN)
    | st.just(Tone)
    | st.lists(st.sampled_from(["a", "b", 3, 2.5]), min_size=1, unique=True).map(lambda each: Literal[tuple(each)]),
    lambda inner: (
        inner.map(lambda each: list[each])  # type: ignore[valid-type]
        | inner.map(lambda each: dict[str, each])  # type: ignore[valid-type]
        | inner.map(lambda each: Optional[each])  # noqa: UP045
        | unions(inner)
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.sampled_from(["a", "b", "loud", "", 3, 2.5, -1, True, None]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "x"]), inner, max_size=2),
    max_leaves=4,
)


def function_of(hints: Mapping[str, Any], optional: frozenset[str]) -> Callable[..., None]:
    def tool(**arguments: Any) -> None:
        pass

    parameter = inspect.Parameter
    tool.__annotations__ = dict(hints)
    tool.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter(name, parameter.KEYWORD_ONLY, default=None if name in optional else parameter.empty)
            for name in hints
        ]
    )
    for name, hint in hints.items():
        tool.__signature__ = tool.__signature__.replace(  # type: ignore[attr-defined]
            parameters=[
                each.replace(annotation=hint) if each.name == name else each
                for each in tool.__signature__.parameters.values()  # type: ignore[attr-defined]
            ]
        )
    listed = "\n".join(f"    {name}: What {name} is." for name in hints)
    tool.__doc__ = f"Does something.\n\nArgs:\n{listed}\n"
    return tool


def accepts(tool: Mapping[str, Any], value: Any) -> bool:
    return jsonschema.Draft202012Validator(tool["function"]["parameters"]).is_valid(value)


@given(st.dictionaries(st.sampled_from(["first", "second"]), HINTS, min_size=1), st.data())
def test_a_function_is_declared_as_by_transformers(hints: dict[str, Any], data: st.DataObject) -> None:
    tool = function_of(hints, data.draw(st.frozensets(st.sampled_from(sorted(hints)))))
    (ours,), (theirs,) = checked_tools([tool]), check_tools([get_json_schema(tool)])
    assert ours["function"]["name"] == theirs["function"]["name"] == "tool"
    assert ours["function"]["description"] == theirs["function"]["description"]
    for name in hints:
        told = ours["function"]["parameters"]["properties"][name]["description"]
        assert told == theirs["function"]["parameters"]["properties"][name]["description"]
    for value in data.draw(st.lists(st.dictionaries(st.sampled_from(["first", "second"]), VALUES), min_size=5)):
        assert accepts(ours, value) == accepts(theirs, value), value


class Place(TypedDict, total=False):
    city: str
    zip: int


@dataclass
class Span:
    begin: int
    end: int = 9


def book(
    place: Place,
    span: Span,
    pair: tuple[int, str],
    ids: Sequence[int],
    unit: str = "day",
    tone: Annotated[Tone, "How to say it"] = Tone.LOW,
    extra: Mapping[str, float] | None = None,
) -> str:
    """Books a room.

    Longer.

    Parameters
    ----------
    place : Place
        Where.
    unit : str
        The unit (choices: ["day", "week"])
    """
    return ""


def test_a_declaration_in_full() -> None:
    integer = {"type": "integer"}
    assert declaration(book) == {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Books a room.\n\nLonger.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}, "zip": integer},
                        "required": [],
                        "additionalProperties": False,
                        "description": "Where.",
                    },
                    "span": {
                        "type": "object",
                        "properties": {"begin": integer, "end": integer},
                        "required": ["begin"],
                        "additionalProperties": False,
                    },
                    "pair": {
                        "type": "array",
                        "prefixItems": [integer, {"type": "string"}],
                        "minItems": 2,
                        "maxItems": 2,
                    },
                    "ids": {"type": "array", "items": integer},
                    "unit": {"type": "string", "enum": ["day", "week"], "description": "The unit"},
                    "tone": {"type": "string", "enum": ["loud", "low"], "description": "How to say it"},
                    "extra": {
                        "anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]
                    },
                },
                "required": ["place", "span", "pair", "ids"],
            },
        },
    }
    assert checked_tools([book])[0]["function"]["name"] == "book"


class Lamp:
    def dim(self, percent: int) -> None:
        """Dims it."""

    def __call__(self, percent: int) -> None:
        """Dims it."""


def test_methods_and_callable_objects_are_tools() -> None:
    for tool, name in ((Lamp().dim, "dim"), (Lamp(), "Lamp")):
        function = declaration(tool)["function"]
        assert (function["name"], function["description"]) == (name, "Dims it.")
        assert list(function["parameters"]["properties"]) == ["percent"]


class Loop(TypedDict):
    inner: Loop


def untyped(a) -> None:  # type: ignore[no-untyped-def]
    pass


def starred(*many: int) -> None:
    pass


def odd(path: Path) -> None:
    pass


def keys(of: dict[int, str]) -> None:
    pass


def endless(loop: Loop) -> None:
    pass


def unknown(a: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def chosen(a: str) -> None:
    """Does.

    Args:
        a: One (choices: ['x'])
    """


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("tools.json", "'tools.json' is the name of a file; read it with edge_mtp.load_tools"),
        (Path("tools.json"), "'tools.json' is the name of a file"),
        (book, "found the function book; wrap it in"),
        ({"type": "function"}, "expected a list of tools, found dict"),
        ([{"name": 3}], "tool 0: name 3 is no text"),
        ([book, book], "tool 1: name 'book' is used twice"),
        ([lambda a: a], "tool <lambda>: it has no name that a call could use"),
        ([functools.partial(book, 1)], "tool partial"),
        ([untyped], "tool untyped, parameter a: no type hint"),
        ([starred], r"tool starred, parameter many: a call gives every argument by name"),
        ([odd], "parameter path: the hint Path has no JSON form here; use str"),
        ([keys], r"parameter of: the keys of dict\[int, str\] are not str"),
        ([endless], "Loop is nested more than 32 deep"),
        ([unknown], "its hints cannot be read .*'Missing'"),
        ([chosen], r"the choices \['x'\] are not JSON; write them with double quotes"),
    ],
)
def test_a_wrong_tool_is_named(tools: Any, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as caught:
        checked_tools(tools)
    assert "\n" not in str(caught.value)
