"""Gemma 4's tool-call wire format: strict parser, its inverse, exact-match scoring, and tools files.

    <|tool_call>call:NAME{key:<|"|>text<|"|>,n:3,b:true,xs:[1,2],o:{k:null}}<tool_call|>

Calls follow one another without a separator. Keys are bare, strings stand between `<|"|>` marks and have no escapes,
numbers are JSON numbers. The strict grammar has no white space between tokens and no trailing comma.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from edge_mtp.errors import EdgeMtpError

CALL_OPEN = "<|tool_call>"
CALL_CLOSE = "<tool_call|>"
QUOTE = '<|"|>'

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"

_NAME = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_DEEPEST = 64  # nesting that the parser follows
_LONGEST_INTEGER = 1000  # digits
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class ToolCallSyntaxError(ValueError):
    """Text that is not in the wire format; `position` is the offset of the first offending character.

    `expected` is what the grammar has there: its literal text, or "a tool name", "a key", "a value", "a new key" (the
    one there is a duplicate), "the end of a string"; empty where a limit of the parser was met.
    """

    def __init__(self, message: str, position: int, expected: str = "") -> None:
        super().__init__(f"{message} at character {position}")
        self.position = position
        self.expected = expected


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments by parameter name."""

    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ToolCall:
        return cls(value["name"], dict(value["arguments"]))


# -- parsing --------------------------------------------------------------------------------------------------------


def parse_calls(text: str) -> list[ToolCall]:
    """The calls in a reply, in order; text outside `<|tool_call>..<tool_call|>` is ignored.

    Raises `ToolCallSyntaxError` for a call that is not closed or not in the strict grammar, and for a duplicate key.
    """
    calls = []
    position = text.find(CALL_OPEN)
    while position >= 0:
        call, position = parse_call(text, position)
        calls.append(call)
        position = text.find(CALL_OPEN, position)
    return calls


def parse_call(text: str, position: int) -> tuple[ToolCall, int]:
    """The call whose `<|tool_call>` is at `position`, and the offset behind it. Raises `ToolCallSyntaxError`."""
    parser = _Parser(text, position)
    return parser.call(), parser.position


class _Parser:
    """Recursive descent over the strict grammar; `position` is the next character to read."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.depth = 0

    def call(self) -> ToolCall:
        self._expect(CALL_OPEN)
        self._expect("call:")
        name = self._match(_NAME, "a tool name")
        arguments = self._object()
        self._expect(CALL_CLOSE)
        return ToolCall(name, arguments)

    def _value(self) -> Value:
        if self._at(QUOTE):
            return self._string()
        if self._at("{") or self._at("["):
            if self.depth == _DEEPEST:
                raise ToolCallSyntaxError(f"nested deeper than {_DEEPEST}", self.position)
            self.depth += 1
            nested: Value = self._object() if self._at("{") else self._array()
            self.depth -= 1
            return nested
        for literal, value in _LITERALS.items():
            if self._at(literal):
                self.position += len(literal)
                return value
        start = self.position
        number = self._match(_NUMBER, "a value")
        real = any(c in number for c in ".eE")
        if (real and math.isinf(float(number))) or (not real and len(number) > _LONGEST_INTEGER):
            raise ToolCallSyntaxError("number too large", start)
        return float(number) if real else int(number)

    def _string(self) -> str:
        self._expect(QUOTE)
        end = self.text.find(QUOTE, self.position)
        if end < 0:
            raise ToolCallSyntaxError("unclosed string", self.position, "the end of a string")
        string = self.text[self.position : end]
        self.position = end + len(QUOTE)
        return string

    def _object(self) -> dict[str, Value]:
        self._expect("{")
        result: dict[str, Value] = {}
        while not self._at("}"):
            if result:
                self._expect(",")
            start = self.position
            key = self._match(_NAME, "a key")
            if key in result:
                raise ToolCallSyntaxError(f"duplicate key {key!r}", start, "a new key")
            self._expect(":")
            result[key] = self._value()
        self._expect("}")
        return result

    def _array(self) -> list[Value]:
        self._expect("[")
        result: list[Value] = []
        while not self._at("]"):
            if result:
                self._expect(",")
            result.append(self._value())
        self._expect("]")
        return result

    def _at(self, literal: str) -> bool:
        return self.text.startswith(literal, self.position)

    def _expect(self, literal: str) -> None:
        if not self._at(literal):
            raise ToolCallSyntaxError(f"expected {literal!r}", self.position, literal)
        self.position += len(literal)

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.position)
        if found is None:
            raise ToolCallSyntaxError(f"expected {what}", self.position, what)
        self.position = found.end()
        return found.group()


# -- formatting -----------------------------------------------------------------------------------------------------


def format_calls(calls: Iterable[ToolCall]) -> str:
    """The wire text of some calls: `parse_calls(format_calls(calls)) == calls`.

    Raises `EdgeMtpError` for what the format cannot carry: a name or key that is not an identifier, a string that
    holds the quote mark, a number that is not finite or too long, values nested too deep.
    """
    return "".join(f"{CALL_OPEN}call:{_name(c.name)}{_format(dict(c.arguments))}{CALL_CLOSE}" for c in calls)


def _format(value: Value, depth: int = 0) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if QUOTE in value:
            raise EdgeMtpError(f"tool-call string {value!r} holds the quote mark {QUOTE}; remove it")
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, int):
        if abs(value) >= 10 ** (_LONGEST_INTEGER - 1):
            raise EdgeMtpError(f"a tool-call number has {_LONGEST_INTEGER} digits or more; pass it as a string")
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EdgeMtpError(f"tool-call number {value} is not finite; pass a finite one or null")
        return repr(value)
    if depth > _DEEPEST:
        raise EdgeMtpError(f"tool-call values are nested deeper than {_DEEPEST}; flatten them")
    if isinstance(value, Mapping):
        # The order of the chat template's `dictsort`, so that a call reads the same in a reply and in the history.
        items = sorted(value.items(), key=lambda item: item[0].lower())
        return "{" + ",".join(f"{_name(k)}:{_format(v, depth + 1)}" for k, v in items) + "}"
    return "[" + ",".join(_format(v, depth + 1) for v in value) + "]"


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise EdgeMtpError(f"tool-call name {name!r} is not an identifier; use letters, digits, '_', '.' and '-'")
    return name


# -- scoring --------------------------------------------------------------------------------------------------------


def exact_match(predicted: Sequence[ToolCall], gold: Sequence[ToolCall]) -> bool:
    """Whether two lists hold the same calls.

    Arguments compare without order and with their types (1 is neither 1.0 nor true). Calls compare as a multiset:
    parallel calls have no order between them.
    """
    return sorted(canonical(c.to_json()) for c in predicted) == sorted(canonical(c.to_json()) for c in gold)


def canonical(value: Value) -> str:
    """Text that is the same for equal values only: 1, 1.0 and true are three values, the order of keys is none."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# -- tools files ----------------------------------------------------------------------------------------------------


def load_tools(path: str | Path) -> list[dict[str, Any]]:
    """Tool declarations from a JSON file, in OpenAI's form `[{"type": "function", "function": {...}}]`.

    A bare list of functions `[{"name": ..., "parameters": ...}]` is accepted too. Raises `EdgeMtpError` for a file
    that cannot be read or that declares something a prompt cannot carry.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EdgeMtpError(f"cannot read tools file {str(path)!r}: {reason}; pass a JSON file of tools") from None
    try:
        tools = json.loads(text)
    except json.JSONDecodeError as error:
        raise EdgeMtpError(
            f"tools file {str(path)!r} is not JSON: {error.msg} in line {error.lineno}; correct that line"
        ) from None
    except RecursionError:
        raise EdgeMtpError(f"tools file {str(path)!r} is nested too deeply to be read; give another file") from None
    return check_tools(tools, f"tools file {str(path)!r}")


def check_tools(tools: Any, source: str = "tools") -> list[dict[str, Any]]:
    """The tools in OpenAI's form, or `EdgeMtpError` naming the first value that is wrong.

    Gemma's chat template writes one `type` for a parameter, `nullable` and `enum`, and nothing of `anyOf`, `$ref` or a
    list of types: the model would not be told what they say. They are put into those words where that can be done, as
    with an optional value (`anyOf` of a type and null) or a reference, and are refused where not.
    """
    if not isinstance(tools, list):
        raise EdgeMtpError(f"{source}: expected a list of tools, found {type(tools).__name__}; wrap it in [ ]")
    checked: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        where = f"{source}, tool {i}"
        function = tool.get("function", tool) if isinstance(tool, dict) else tool
        if not isinstance(function, dict):
            raise EdgeMtpError(f"{where}: expected an object, found {function!r}; give a name and parameters")
        name = function.get("name")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise EdgeMtpError(f"{where}: name {name!r} is not an identifier; use letters, digits, '_', '.', '-'")
        if any(name == other["function"]["name"] for other in checked):
            raise EdgeMtpError(f"{where}: name {name!r} is used twice; rename one")
        description = function.get("description", "")
        if not isinstance(description, str) or QUOTE in description:
            raise EdgeMtpError(f"{where} ({name}): description {description!r} is not plain text; use a string")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        parameters = _Declaration(parameters).object(parameters, f"{where} ({name}): parameters")
        checked.append(
            {
                "type": "function",
                "function": {"name": name, "description": description, "parameters": parameters},
            }
        )
    return checked


class _Declaration:
    """The schema of a tool's parameters, on its way into the words of a declaration."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._open: list[str] = []  # references being followed

    def object(self, schema: Any, where: str) -> dict[str, Any]:
        schema = self._referred(schema, where, lambda found: self.object(found, where))
        if not isinstance(schema, dict) or str(schema.get("type", "object")).lower() != "object":
            raise EdgeMtpError(f"{where}: {schema!r} is not a schema of type object; give it properties")
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise EdgeMtpError(f"{where}: properties {properties!r} is not an object; map each name to a schema")
        for key in properties:
            if _NAME.fullmatch(key) is None:
                raise EdgeMtpError(f"{where}: {key!r} is not an identifier; use letters, digits, '_', '.', '-'")
        required = schema.get("required", [])
        for name in required if isinstance(required, list) else [required]:
            if name not in properties:
                raise EdgeMtpError(f"{where}: required names {name!r}, which is no property; add it or drop it")
        told = {key: self._value(value, key, where) for key, value in properties.items()}
        return {"type": "object", **schema, **({"properties": told} if told else {})}

    def _value(self, schema: Any, key: str, where: str) -> dict[str, Any]:
        place = f"{where}.{key}"
        found = self._referred(schema, place, lambda found: self._value(found, key, where))
        if not isinstance(found, dict):
            raise EdgeMtpError(f'{where}: {key!r} has no type; add one, such as "type": "string"')
        told = found if isinstance(found.get("type"), str) else self._with_type(found, key, where)
        kind = told["type"].lower()
        if kind == "object":
            return self.object(told, place)
        if kind == "array" and told.get("items"):
            return {**told, "items": self._value(told["items"], "items", place)}
        return told

    def _with_type(self, schema: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        """A schema that has not one type, said with one; a null among what is allowed becomes `nullable`."""
        rest = {keyword: value for keyword, value in schema.items() if keyword != "type"}
        choice = next((keyword for keyword in ("anyOf", "oneOf") if isinstance(schema.get(keyword), list)), None)
        if isinstance(schema.get("type"), list):
            kinds = {str(kind).lower() for kind in schema["type"]}
        elif choice:
            told = [self._value(option, key, where) for option in rest.pop(choice)]
            kinds = {option["type"].lower() for option in told}
            kinds |= {"null" for option in told if option.get("nullable") is True}
            options = [option for option in told if option["type"].lower() != "null"]
            if len(options) == 1:
                rest = {**options[0], **rest}
            elif options:
                rest[choice] = options
            if len(options) > 1 and kinds & {"object", "array"}:
                raise EdgeMtpError(f"{where}: {key!r} is one of several objects or lists; declare a tool for each")
        else:
            if "const" in rest:
                rest["enum"] = [rest.pop("const")]
            kinds = set(map(_kind, rest["enum"])) if isinstance(rest.get("enum"), list) else set()
        if "number" in kinds:
            kinds.discard("integer")
        nullable = len(kinds) > 1 and "null" in kinds
        if nullable:
            kinds.remove("null")
            if isinstance(rest.get("enum"), list):
                rest["enum"] = [value for value in rest["enum"] if value is not None]
        if not kinds:
            raise EdgeMtpError(f'{where}: {key!r} has no type; add one, such as "type": "string"')
        if len(kinds) > 1:
            several = ", ".join(sorted(kinds))
            raise EdgeMtpError(
                f"{where}: {key!r} has several types ({several}), but a declaration names one; choose one"
            )
        return {**rest, "type": kinds.pop(), **({"nullable": True} if nullable else {})}

    def _referred(self, schema: Any, where: str, told: Callable[[Any], dict[str, Any]]) -> Any:
        """The schema itself, or `told` what it refers to, with its own description."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if reference is None:
            return schema
        found = self._root
        for part in reference.split("/")[1:] if isinstance(reference, str) and reference.startswith("#/") else [None]:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if part and isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise EdgeMtpError(f"{where}: $ref {reference!r} leads nowhere; point into the tool's own $defs")
        if reference in self._open:
            raise EdgeMtpError(f"{where}: $ref {reference!r} is recursive; unroll it to the depth that is needed")
        if others := schema.keys() - _BESIDE_REFERENCE:
            raise EdgeMtpError(f"{where}: {min(others)} beside $ref has no effect; move it to the schema referred to")
        self._open.append(reference)
        whole = {**told(found), **{keyword: value for keyword, value in schema.items() if keyword != "$ref"}}
        self._open.pop()
        return whole


_BESIDE_REFERENCE = {"$ref", "title", "description", "default", "examples", "deprecated", "nullable"}


def _kind(value: Any) -> str:
    """The type of a JSON value, as a schema names it."""
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", type(None): "null", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
