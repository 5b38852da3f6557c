"""Gemma 4's tool-call wire format: strict parser, its inverse, exact-match scoring, and tools files.

    <|tool_call>call:NAME{key:<|"|>text<|"|>,n:3,b:true,xs:[1,2],o:{k:null}}<tool_call|>

Calls follow one another without a separator. Names and keys are bare, strings stand between `<|"|>` marks and have no
escapes, numbers are JSON numbers. The strict grammar has no white space between tokens and no trailing comma.

A name or key may hold any character, so a rule says where it ends. A name ends at the first `{`. A key ends at the
first `:` behind which a value begins: `{`, `[`, `<|"|>`, or a number or literal that a `,` or `}` follows. Nothing
holds the text of a control token. A parser that has the declared tools knows their names and keys, whatever they hold.
It takes other names and keys only if they are identifiers, or if a schema allows keys of any name: `{"city":..}` has a
key with quotation marks only if a tool declares one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.json_schema import TYPES, resolve

CALL_OPEN = "<|tool_call>"
CALL_CLOSE = "<tool_call|>"
RESPONSE_OPEN = "<|tool_response>"
RESPONSE_CLOSE = "<tool_response|>"
QUOTE = '<|"|>'
CHANNEL_OPEN = "<|channel>"
CHANNEL_CLOSE = "<channel|>"
THOUGHT_HEADER = "thought\n"
THOUGHT_SEPARATOR = "\n\n"  # between the thoughts of one reply

# The texts of control tokens, which no name or key can contain.
CONTROL = re.compile(r"<\|\"\|>|<\|[a-z_]+\|?>|<[a-z_]+\|>|<(?:bos|eos|pad|unk|unused[0-9]+)>")
SURROGATE = re.compile(r"[\uD800-\uDFFF]")  # half of a character in UTF-16; a Python string can hold one, UTF-8 cannot

IDENTIFIER = re.compile(r"[^\W\d][\w.\-]*")
# A key that cannot be damaged text: no white space, quotation marks, separators or most brackets.
PLAIN_KEY = re.compile(r"[^\s:={}()\[\],\"'`<>|;][^\s:={}(),\"'`<>|;]*")
PLAIN_NAME = re.compile(r"[^\s={}()\[\],\"'`<>|;][^\s={}(),\"'`<>|;]*")

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Tools: TypeAlias = "Sequence[Mapping[str, Any]]"

_DIGITS = r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?"
NUMBER = re.compile(_DIGITS, re.ASCII)
_BEGINS_VALUE = re.compile(rf":(?:[{{\[]|{re.escape(QUOTE)}|(?:true|false|null|{_DIGITS})(?=[,}}]))", re.ASCII)
_DEEPEST = 64  # levels of nesting that the parser accepts
_LONGEST_INTEGER = 1000  # digits
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class ToolCallSyntaxError(ValueError):
    """Text that is not in the wire format; `position` is the offset of the first offending character.

    `expected` is what the grammar requires there: its literal text, or "a tool name", "a key", "a value", "a new key"
    (the key is a duplicate), "the end of a string"; empty if a limit of the parser was exceeded.
    """

    def __init__(self, message: str, position: int, expected: str = "") -> None:
        super().__init__(f"{message} at character {position}")
        self.position = position
        self.expected = expected


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments by parameter name.

    `id` distinguishes calls of one tool; the tool's answer names it. Equality ignores ids.
    """

    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    id: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ToolCall:
        return cls(value["name"], dict(value["arguments"]))


# -- parsing --------------------------------------------------------------------------------------------------------


class Declared:
    """The names and keys of declared tools, as a parser needs them."""

    def __init__(self, tools: Tools) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        self._keys: dict[str, tuple[tuple[str, ...], bool]] = {}
        for function in functions:
            keys = set(schema_keys(schema := _schema_of(function)))
            # Longest first: with keys `a` and `a:b`, the text `a:b:` begins with both.
            ordered = tuple(sorted(keys, key=len, reverse=True))
            self._keys[function["name"]] = ordered, _is_open(schema)
        self.names = tuple(sorted(self._keys, key=len, reverse=True))

    def keys(self, name: str) -> tuple[tuple[str, ...], bool]:
        """All keys that a tool's schema declares, and whether some object in it allows keys of any name."""
        return self._keys.get(name, ((), False))


def parse_calls(text: str, tools: Tools | None = None) -> list[ToolCall]:
    """The calls in a reply, in order; text outside `<|tool_call>..<tool_call|>` is ignored.

    `tools` are the declared ones (as for `check_tools`); without them, names and keys end by the module's rules.
    Raises `ToolCallSyntaxError` for a call that is not closed or not in the strict grammar, and for a duplicate key.
    """
    calls = []
    declared = None if tools is None else Declared(tools)
    position = text.find(CALL_OPEN)
    while position >= 0:
        call, position = parse_call(text, position, declared)
        calls.append(call)
        position = text.find(CALL_OPEN, position)
    return calls


def parse_call(text: str, position: int, declared: Declared | None = None) -> tuple[ToolCall, int]:
    """The call whose `<|tool_call>` is at `position`, and the offset after it. Raises `ToolCallSyntaxError`."""
    parser = _Parser(text, position, declared)
    return parser.call(), parser.position


class _Parser:
    """Recursive descent over the strict grammar; `position` is the next character to read."""

    def __init__(self, text: str, position: int, declared: Declared | None) -> None:
        self.text = text
        self.position = position
        self.depth = 0
        self.declared = declared
        self.keys: tuple[str, ...] = ()
        self.any_key = declared is None

    def call(self) -> ToolCall:
        self._expect(CALL_OPEN)
        self._expect("call:")
        name = self.name()
        if self.declared is not None:
            self.keys, self.any_key = self.declared.keys(name)
        arguments = self._object()
        self._expect(CALL_CLOSE)
        return ToolCall(name, arguments)

    def name(self) -> str:
        if self.declared is None:
            end = self.text.find("{", self.position, self._mark())
            if end <= self.position:
                raise ToolCallSyntaxError("expected a tool name", self.position, "a tool name")
            self.position, name = end, self.text[self.position : end]
            return name
        for name in self.declared.names:
            if self._at(name + "{"):
                self.position += len(name)
                return name
        return self._match(IDENTIFIER, "a tool name")

    def key(self) -> str:
        declared = [key for key in self.keys if self._at(key + ":")]
        for key in declared:
            if _BEGINS_VALUE.match(self.text, self.position + len(key)):
                self.position += len(key)
                return key
        plain = PLAIN_KEY.match(self.text, self.position)
        if not declared and self.any_key and not self._at("}") and not (self.declared and plain is None):
            found = _BEGINS_VALUE.search(self.text, self.position, self._mark(QUOTE))
            if found:
                self.position, key = found.start(), self.text[self.position : found.start()]
                return key
        if declared:
            self.position += len(declared[-1])
            return declared[-1]
        return self._match(IDENTIFIER, "a key")

    def _mark(self, behind: str = "") -> int:
        """The offset of the next control token, or of its end if the token is `behind`."""
        found = CONTROL.search(self.text, self.position)
        return len(self.text) if found is None else found.end() if found.group() == behind else found.start()

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
        number = self._match(NUMBER, "a value")
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
            key = self.key()
            # A grammar cannot prevent duplicates among keys of any name; as in JSON, the last one counts.
            is_free = self.declared is not None and self.any_key
            if key in result and not is_free:
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


# -- thoughts -------------------------------------------------------------------------------------------------------


def split_thoughts(text: str, *, opened: bool = False) -> tuple[str, str]:
    """Splits a reply's wire text into its reasoning (`edge_mtp.chat.thoughts`) and the rest, without the marks.

    `opened`: the prompt ended inside a thought, after its header. An unfinished thought counts as reasoning too.
    """
    pieces = _CHANNEL_MARKS.split(text)  # texts and marks alternate
    thoughts: list[str] = []
    rest = ""
    inside, has_header = opened, False
    for i in range(0, len(pieces), 2):
        piece, closed = pieces[i], i + 1 < len(pieces)
        if not inside:
            rest += piece
        else:
            if has_header and (piece == THOUGHT_HEADER.rstrip() if closed else THOUGHT_HEADER.startswith(piece)):
                piece = ""
            elif has_header:
                piece = piece.removeprefix(THOUGHT_HEADER)
            thoughts.append(piece.removesuffix("\n") if closed else piece)
        inside = has_header = closed and pieces[i + 1] == CHANNEL_OPEN
    return THOUGHT_SEPARATOR.join(filter(None, thoughts)), rest


_CHANNEL_MARKS = re.compile(f"({re.escape(CHANNEL_OPEN)}|{re.escape(CHANNEL_CLOSE)})")


# -- formatting -----------------------------------------------------------------------------------------------------


def format_calls(calls: Iterable[ToolCall], tools: Tools | None = None, *, is_read: bool = True) -> str:
    """The wire text of some calls: `parse_calls(format_calls(calls, tools), tools) == calls`.

    Raises `EdgeMtpError` for calls that the format cannot represent: a name or key that contains a control token's text
    or would be parsed as something else (see the module; the declared `tools` make more names unambiguous), a string
    with the quote mark, a number that is not finite or too long, values nested too deep. Text that is never parsed
    again, such as a history, needs no `is_read`: its names and keys may be ambiguous.
    """
    formatter = _Formatter(None if tools is None else Declared(tools), is_read=is_read)
    return "".join(map(formatter.call, calls))


def format_response(name: str, answer: Value) -> str:
    """The wire text of a tool's answer: an object's own keys, or any other answer under `value`.

    Raises like `format_calls`, but accepts names and keys that would be parsed as something else, since answers are
    never parsed.
    """
    body = answer if isinstance(answer, Mapping) else {"value": answer}
    return f"{RESPONSE_OPEN}response:{name}{_Formatter(None, is_read=False).value(dict(body), name)}{RESPONSE_CLOSE}"


class _Formatter:
    """`is_read`: the text will be parsed again."""

    def __init__(self, declared: Declared | None, *, is_read: bool = True) -> None:
        self._declared = declared
        self._is_read = is_read

    def call(self, call: ToolCall) -> str:
        _check_carried("tool name", call.name)
        text = call.name + self.value(dict(call.arguments), call.name)
        if self._is_read and _read(lambda: _parsed(text, self._declared, "").name()) != call.name:
            raise EdgeMtpError(f"tool name {call.name!r} cannot be told from what follows it in a call; rename it")
        return f"{CALL_OPEN}call:{text}{CALL_CLOSE}"

    def value(self, value: Value, tool: str, depth: int = 0) -> str:
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
            # The order of the chat template's `dictsort`, so that a call is the same in a reply and in the history.
            items = sorted(value.items(), key=lambda item: item[0].lower())
            return "{" + ",".join(self._pair(key, inner, tool, depth) for key, inner in items) + "}"
        return "[" + ",".join(self.value(inner, tool, depth + 1) for inner in value) + "]"

    def _pair(self, key: str, value: Value, tool: str, depth: int) -> str:
        _check_carried("argument name", key)
        pair = f"{key}:{self.value(value, tool, depth + 1)}"
        if not self._is_read or IDENTIFIER.fullmatch(key):
            return pair
        if key.startswith("}") or _read(lambda: _parsed(pair + ",", self._declared, tool).key()) != key:
            raise EdgeMtpError(f"argument name {key!r} reads as something else in a call; rename it")
        return pair


def _parsed(text: str, declared: Declared | None, tool: str) -> _Parser:
    parser = _Parser(text, 0, declared)
    if declared is not None:
        parser.keys, parser.any_key = declared.keys(tool)
    return parser


def _read(read: Callable[[], str]) -> str | None:
    try:
        return read()
    except ToolCallSyntaxError:
        return None


def _check_carried(what: str, name: str) -> None:
    if found := CONTROL.search(name):
        raise EdgeMtpError(f"{what} {name!r} holds the control token {found.group()}; rename it")


# -- scoring --------------------------------------------------------------------------------------------------------


def exact_match(predicted: Sequence[ToolCall], gold: Sequence[ToolCall]) -> bool:
    """Whether two lists hold the same calls.

    The order of arguments does not matter, but their types do (1 is neither 1.0 nor true). Calls compare as a multiset,
    since parallel calls have no order.
    """
    return sorted(canonical(c.to_json()) for c in predicted) == sorted(canonical(c.to_json()) for c in gold)


def canonical(value: Value) -> str:
    """Text that is the same only for equal values. 1, 1.0 and true differ; the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# -- tools files ----------------------------------------------------------------------------------------------------

_SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema")
# Keywords that contain schemas, by the form in which they do.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = (
    *("additionalProperties", "propertyNames", "unevaluatedProperties", "not", "if", "then", "else"),
    *("contains", "additionalItems", "unevaluatedItems", "items"),
)


def load_tools(path: str | Path) -> list[dict[str, Any]]:
    """Tool declarations from a JSON file, in OpenAI's form `[{"type": "function", "function": {...}}]`.

    Also accepts a bare list of functions `[{"name": .., "parameters": ..}]`, and an MCP server's response to
    `tools/list` (`{"tools": [{"name": .., "inputSchema": ..}]}`, or only its list). Raises `EdgeMtpError` if the file
    cannot be read or contains an invalid declaration (see `check_tools`).
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
    """The tools in OpenAI's form. Raises `EdgeMtpError` naming the first value that is wrong.

    A schema may be any JSON schema whose values are objects. It is kept whole, but types in capitals and `nullable`,
    which other APIs use, are translated to standard JSON schema. Refuses an invalid schema, a duplicate name, and a
    name or key that a call cannot represent: one with a control token's text or half of a surrogate pair, and one that
    is ambiguous next to another declared one. `title` replaces a missing description; a tool's other fields
    (`annotations`, `strict`, `outputSchema`, ...) do not affect calls and are left out.
    """
    if isinstance(tools, Mapping) and isinstance(tools.get("tools"), list):
        tools = tools["tools"]
    if not isinstance(tools, list | tuple):
        raise EdgeMtpError(f"{source}: expected a list of tools, found {type(tools).__name__}; wrap it in [ ]")
    checked: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        where = f"{source}, tool {i}"
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        if not isinstance(function, Mapping):
            raise EdgeMtpError(f"{where}: expected an object, found {function!r}; give a name and parameters")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise EdgeMtpError(f"{where}: name {name!r} is no text; give the tool a name")
        _check_name("name", name, where)
        if any(name == other["function"]["name"] for other in checked):
            raise EdgeMtpError(f"{where}: name {name!r} is used twice; rename one")
        description = function.get("description")
        if description is None:
            description = function.get("title") or ""
        if not isinstance(description, str):
            raise EdgeMtpError(f"{where} ({name}): description {description!r} is not plain text; use a string")
        schemas = {key: function[key] for key in _SCHEMA_KEYS if function.get(key) is not None}
        if len(schemas) > 1 and len(set(map(canonical, schemas.values()))) > 1:
            raise EdgeMtpError(f"{where} ({name}): {' and '.join(schemas)} differ; keep one")
        schema = next(iter(schemas.values()), {"type": "object", "properties": {}})
        parameters = _Checker(schema, f"{where} ({name}): parameters").root()
        checked.append(
            {
                "type": "function",
                "function": {"name": name, "description": description, "parameters": parameters},
            }
        )
    _check_told_apart([tool["function"]["name"] for tool in checked], "{", source)
    return checked


_SAYS_NOTHING = {"type", "title", "description", "$schema", "$id", "$comment"}


class _Checker:
    """Checks a tool's schema, and copies it as standard JSON schema. `where` names the tool in errors."""

    def __init__(self, root: Any, where: str) -> None:
        self._root = root
        self._where = where

    def root(self) -> dict[str, Any]:
        schema = self.schema(self._root, self._where, 0)
        if isinstance(schema, bool):
            schema = {} if schema else self._wrong(self._where, "false allows nothing; give it properties")
        kinds = self._kinds(self._root)
        if "object" not in kinds:
            self._wrong(self._where, f"{self._root!r} is not a schema of type object; give it properties")
        if not schema.keys() - _SAYS_NOTHING:  # servers declare a tool without parameters like this
            schema = {**schema, "properties": {}}
        return {"type": "object", **schema, **({"type": "object"} if schema.get("type") else {})}

    def schema(self, schema: Any, at: str, depth: int) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            return self._wrong(at, f"{schema!r} is not a schema; use an object with a type")
        if depth > _DEEPEST:
            return self._wrong(at, f"is nested deeper than {_DEEPEST}; flatten it")
        copy = dict(schema)
        for keyword in _MAPS:
            if keyword in copy:
                if not isinstance(inner := copy[keyword], Mapping):
                    self._wrong(at, f"{keyword} {inner!r} is not an object; map each name to a schema")
                copy[keyword] = {
                    key: self.schema(
                        value, f"{at}.{key}" if keyword == "properties" else f"{at}.{keyword}.{key}", depth + 1
                    )
                    for key, value in inner.items()
                }
        for keyword in _LISTS:
            if keyword in copy:
                if not isinstance(inner := copy[keyword], list) or not inner:
                    self._wrong(at, f"{keyword} {inner!r} is no list of schemas; list at least one")
                copy[keyword] = [self.schema(v, f"{at}.{keyword}[{i}]", depth + 1) for i, v in enumerate(inner)]
        for keyword in _SINGLES:
            if keyword in copy:
                if keyword == "items" and isinstance(copy["items"], list):  # before draft 2020-12
                    copy["items"] = [self.schema(v, f"{at}.items[{i}]", depth + 1) for i, v in enumerate(copy["items"])]
                else:
                    copy[keyword] = self.schema(copy[keyword], f"{at}.{keyword}", depth + 1)
        self._check(copy, at)
        return _nullable(copy)

    def _check(self, schema: dict[str, Any], at: str) -> None:
        if "type" in schema:
            declared = schema["type"]
            names = [declared] if isinstance(declared, str) else declared
            if (
                not isinstance(names, list)
                or not names
                or not all(isinstance(name, str) and name.lower() in TYPES for name in names)
            ):
                self._wrong(at, f"type {declared!r} is none; use {', '.join(TYPES)}")
            schema["type"] = declared.lower() if isinstance(declared, str) else [name.lower() for name in names]
        if not isinstance(schema.get("enum", [None]), list) or not schema.get("enum", [None]):
            self._wrong(at, f"enum {schema['enum']!r} lists nothing; list at least one value")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._wrong(at, f"required {required!r} is no list of names; list the names of properties")
        for key in [*schema.get("properties", {}), *required]:
            _check_name("property", key, at)
        _check_told_apart(list(schema.get("properties", {})), ":", at)
        if "$ref" in schema:
            self._check_reference(schema["$ref"], at)
        for keyword in ("description", "title"):
            if not isinstance(schema.get(keyword) or "", str):
                self._wrong(at, f"{keyword} {schema[keyword]!r} is not plain text; use a string")

    def _check_reference(self, reference: Any, at: str) -> None:
        if not isinstance(reference, str):
            self._wrong(at, f"$ref {reference!r} is no text; point into the tool's own $defs")
        followed = []
        while isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            if reference in followed:
                self._wrong(at, f"$ref {reference!r} leads to itself; say what it is")
            followed.append(reference)
            found = resolve(reference, self._root)
            if not isinstance(found, Mapping | bool):
                self._wrong(at, f"$ref {reference!r} leads nowhere; point into the tool's own $defs")
            reference = found.get("$ref") if isinstance(found, Mapping) else None

    def _kinds(self, schema: Any, followed: frozenset[str] = frozenset()) -> set[str]:
        """The types that a schema may allow."""
        if not isinstance(schema, Mapping):
            return set(TYPES) if schema else set()
        kinds = set(TYPES)
        if "type" in schema:
            names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            kinds &= {name.lower() for name in names}
        reference = schema.get("$ref")
        if reference is not None and reference not in followed:
            found = resolve(reference, self._root)
            kinds &= set(TYPES) if found is None else self._kinds(found, followed | {reference})
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                kinds &= set().union(*(self._kinds(option, followed) for option in schema[keyword]))
        for option in schema.get("allOf", []):
            kinds &= self._kinds(option, followed)
        return kinds

    def _wrong(self, at: str, trouble: str) -> Any:
        raise EdgeMtpError(f"{at}: {trouble}")


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with OpenAPI's `nullable` translated to standard JSON schema."""
    if not isinstance(schema.get("nullable"), bool):
        return schema
    nullable = schema.pop("nullable")
    if not nullable:
        return schema
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        schema["type"] = list(dict.fromkeys([schema["type"], "null"]))
    elif "type" in schema:
        schema["type"] = list(dict.fromkeys([*schema["type"], "null"]))
    if not schema.keys() & {"$ref", "const", "anyOf", "oneOf", "allOf", "not", "if"}:
        return schema
    said: dict[str, Any] = {
        keyword: schema.pop(keyword) for keyword in ("title", "description", "default", "examples") if keyword in schema
    }
    return {**said, "anyOf": [schema, {"type": "null"}]}


def _check_name(what: str, name: str, where: str) -> None:
    """Refuses a name that a call cannot represent."""
    if found := CONTROL.search(name):
        raise EdgeMtpError(f"{where}: {what} {name!r} holds the control token {found.group()}; rename it")
    if what == "property" and name.startswith("}"):
        raise EdgeMtpError(f"{where}: property {name!r} begins with the bracket that ends a call; rename it")
    if SURROGATE.search(name):
        raise EdgeMtpError(f"{where}: {what} {name!r} has half of a surrogate pair, which is no character; rename it")


def _check_told_apart(names: Sequence[str], end: str, where: str) -> None:
    """Refuses a name that begins with another name and `end`, since a call of it could be read as one of the other."""
    known = set(names)
    for name in names:
        for found in re.finditer(re.escape(end), name):
            behind = name[found.start() :] + end
            if name[: found.start()] in known and (end == "{" or _BEGINS_VALUE.match(behind)):
                raise EdgeMtpError(
                    f"{where}: {name!r} cannot be told from {name[: found.start()]!r} in a call; rename one"
                )


def schema_keys(schema: Any) -> Iterator[str]:
    """All property names that a schema declares, and all keys in the values that it lists."""
    if isinstance(schema, Mapping):
        for keyword, inner in schema.items():
            if keyword == "properties" and isinstance(inner, Mapping):
                yield from inner
                for value in inner.values():
                    yield from schema_keys(value)
            elif keyword in ("enum", "const"):
                yield from _value_keys(inner)
            elif keyword in _MAPS and isinstance(inner, Mapping):
                for value in inner.values():
                    yield from schema_keys(value)
            elif keyword in _LISTS or keyword in _SINGLES:
                yield from schema_keys(inner)
            elif keyword == "required" and isinstance(inner, list):
                yield from (name for name in inner if isinstance(name, str))
    elif isinstance(schema, list):
        for inner in schema:
            yield from schema_keys(inner)


def _value_keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from value
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _value_keys(inner)


def _is_open(schema: Any) -> bool:
    """Whether some object in a schema allows keys of any name."""
    if schema is True:
        return True
    if isinstance(schema, list):
        return any(map(_is_open, schema))
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type", [])
    is_object = "object" in str(kinds).lower() or not (kinds or schema.keys() & _SAYS)
    if is_object and "properties" not in schema and schema.get("additionalProperties") is not False:
        return True
    if schema.get("additionalProperties") not in (None, False) or "patternProperties" in schema:
        return True
    inner = [value for keyword in _MAPS for value in _values(schema.get(keyword))]
    return any(map(_is_open, [*inner, *(schema[k] for k in (*_LISTS, *_SINGLES) if k in schema)]))


_SAYS = {"$ref", "enum", "const", "anyOf", "oneOf", "allOf", "not", "if"}


def _values(mapping: Any) -> Iterable[Any]:
    return mapping.values() if isinstance(mapping, Mapping) else ()


def _schema_of(function: Mapping[str, Any]) -> Any:
    return next((function[key] for key in _SCHEMA_KEYS if function.get(key) is not None), {})
