"""A forgiving parser of Gemma 4's tool calls, for replies that the strict parser refuses.

Servers differ in what they forgive. This parser forgives all that any of them does, so no server reads a reply that it
cannot read:

- calls without an end: no closing mark, no brackets, no quote mark at the end of a string (vLLM);
- strings between `"`, `'` or backticks, with JSON's escapes; strings without any mark, or without the first one
  (vllm-project/vllm#51284, sgl-project/sglang#39240);
- quoted keys, `=` for `:`, `(` for `{` (ollama/ollama#17882, jundot/omlx#1886);
- white space anywhere, commas too many or too few (hybridgroup/yzma#243);
- numbers as `+1`, `.5` or `007`; `True`, `None`;
- several calls after one mark; calls as JSON objects with a name and arguments;
- names with colons, which are kept; duplicate keys, of which the last counts.

It invents nothing. Each name, key and value is a piece of the text, in a place that has one reading. Where there are
two readings, it leaves out the argument and the rest of the call. So it reads a string without its end mark if the
string is the last of its call, and not if the text in it could be further arguments. A call that lost a mark, or has
one twice, may have come from several calls of the strict format (`repairs`); the parser then reads only the part in
which all of them agree. Where the text ends inside a call, the last value is read as far as it goes; a name is not.

The opening mark is never forgiven: it is one token, and text without it is text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_mtp.formats.repairs import Repairs, TooManyError
from edge_mtp.formats.tool_calls import (
    CALL_OPEN,
    IDENTIFIER,
    PLAIN_KEY,
    PLAIN_NAME,
    QUOTE,
    Declared,
    ToolCall,
    ToolCallSyntaxError,
    Value,
    canonical,
    parse_call,
)

# Control tokens, except the quote mark.
MARK = re.compile(r"<\|[a-z_]+\|?>|<[a-z_]+\|>|<(?:bos|eos|pad|unk|unused[0-9]+)>")

_SPACE = re.compile(r"\s*")
_FILLING = re.compile(r"[\s,;]*")
_HEAD = re.compile(r"call\s*:\s*")
_BARE_KEY = re.compile(r"[^:={}()\[\],\"'`<>]*")
_SEPARATOR = re.compile(r"\s*(?::|=>?)[\s:]*")
_KEY = "(?:" + "|".join(q + IDENTIFIER.pattern + q for q in ("", r"<\|\"\|>", '"', "'", "`")) + r")\s*[:=]"
_NEXT = re.compile(_KEY)
_NEXT_KEY = re.compile(rf",\s*{_KEY}")
_KEY_INSIDE = re.compile(r"(?<![\w.\-])[\w.\-]*[^\W\d][\w.\-]*\s*(?::(?!//)|=)")
# What may follow the end of a string; otherwise the string continues. With quotes other than Gemma's, a comma ends a
# string in an object only before a key, since such strings contain commas too.
_BEHIND = re.compile(rf"\s*(?:[,\]}})]|\Z|{_KEY})")
_ENDS_IN_OBJECT = {q: re.compile(rf"(?<!\\){q}(?=\s*(?:[\]}})]|\Z|,\s*(?:[\]}})]|\Z)|,?\s*{_KEY}))") for q in "\"'`"}
_ENDS_IN_ARRAY = {q: re.compile(rf"(?<!\\){q}(?=\s*(?:[,\]}})]|\Z))") for q in "\"'`"}
_BEFORE_QUOTE = re.compile(r"[:=\[,({]\s*\Z")  # stands before the start of a string, and rarely at its end
_LAST_STRING = re.compile(r"([^{}()\[\]]*?)([\s\]})]*)")  # to the end of a call: text, then closing brackets
_CUT_QUOTE = re.compile(r"<(?:\|(?:\"(?:\|)?)?)?\Z")
_BEGINS_VALUE = re.compile(rf"\s*(?:[{{\[\"'`]|{re.escape(QUOTE)}|[\w+\-.]+\s*(?:[,\]}})]|\Z))")
_EMPTY_BEFORE_COMMA = re.compile(r"\s*,(?![\s,]*[}\])])")
_SWAPPED = re.compile(r"\]\s*\}")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[\"'`\\/nrtbf])")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_SCALAR = re.compile(rf"[\w+\-.]+(?=\s*(?:[,\]}})]|\Z)|\s+{_KEY})")
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}", re.ASCII)
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "none": None}
_CLOSES = {closer: re.compile(rf"[{re.escape(closer)}]") for closer in ("}", ")", ",]})")}
_IN_ARRAY = ",]})"
_DEEPEST = 64  # as in the strict parser
_PLAIN = Declared([])


class _UnclearError(Exception):
    """The text has two possible readings."""


def parse_leniently(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> list[ToolCall]:
    """The calls that a reply makes. A reply in the strict format gives the calls of `parse_calls`. Never raises.

    With the declared `tools`, their names and keys are known, whatever characters they hold. Without them, only calls
    with plain names and keys are strict: quotation marks around a key are damage.
    """
    declared = _PLAIN if tools is None else Declared(tools)
    calls: list[ToolCall] = []
    position = text.find(CALL_OPEN)
    while position >= 0:
        try:
            call, position = parse_call(text, position, declared)
            calls.append(call)
        except ToolCallSyntaxError:
            begin = position + len(CALL_OPEN)
            mark = MARK.search(text, begin)
            position = mark.start() if mark else len(text)
            calls += read_calls(text[begin:position], declared, is_cut=mark is None)
        position = text.find(CALL_OPEN, position)
    return calls


def read_calls(body: str, declared: Declared = _PLAIN, *, is_cut: bool = False) -> list[ToolCall]:
    """The calls in the text between an opening mark and the next mark, or the text's end (`is_cut`). Never raises."""
    calls = _Reader(body, declared, is_cut).calls()
    if is_cut:
        return calls
    try:
        for repaired in Repairs(body, declared) if calls else ():
            calls = _agreed(calls, _Reader(repaired, declared).calls())
    except TooManyError:
        return [ToolCall(call.name) for call in calls]
    return calls


def _agreed(calls: list[ToolCall], others: list[ToolCall]) -> list[ToolCall]:
    """The calls and arguments that two readings have in common."""
    return [
        ToolCall(call.name, {key: value for key, value in call.arguments.items() if _has(other, key, value)})
        for call, other in zip(calls, others, strict=False)
        if call.name == other.name
    ]


def _has(call: ToolCall, key: str, value: Value) -> bool:
    return key in call.arguments and canonical(call.arguments[key]) == canonical(value)


class _Reader:
    """Recursive descent through the text of a call that accepts any text.

    Every loop advances `position`. `closer` says what ends a value without marks: the closing bracket of its object, or
    `_IN_ARRAY`. Text with two possible readings raises `_UnclearError`, which ends the reading of the call.
    """

    def __init__(self, text: str, declared: Declared, is_cut: bool = False) -> None:
        self.text = text
        self.declared = declared
        self.is_cut = is_cut
        self.keys: tuple[str, ...] = ()
        self.position = 0
        self.depth = 0
        self.unclosed = False  # an object reached the end of the text without its bracket
        self.ended_inside = False  # the text was cut inside a value
        self.endless: set[re.Pattern[str]] = set()  # ends of strings that do not occur again, to search only once

    def calls(self) -> list[ToolCall]:
        calls: list[ToolCall] = []
        while True:
            self._skip(_FILLING)
            headed = self._skip(_HEAD)
            if calls and not headed:
                return calls
            if self._peek() in ("{", "["):
                try:
                    calls += _calls_of_json(self._value(_IN_ARRAY), is_cut=self.ended_inside)
                except _UnclearError:
                    return calls
                continue
            name = self._name(headed)
            self._skip(_SPACE)
            if not name:
                return calls
            if self._peek() not in ("{", "("):
                # Without brackets, a name counts only if nothing else follows.
                is_whole = self.position == len(self.text) and not self.is_cut
                return [*calls, ToolCall(name)] if is_whole or self.text.startswith("call:", self.position) else calls
            self.keys, _ = self.declared.keys(name)
            arguments: dict[str, Value] = {}
            calls.append(ToolCall(name, arguments))
            try:
                self._arguments(arguments)
            except _UnclearError:
                return calls

    def _name(self, headed: bool) -> str:
        quote = self._quote()
        begin = self.position + len(quote)
        known = [name for name in self.declared.names if self.text.startswith(name, begin)]
        name = next((n for n in known if re.compile(r"\W").match(self.text, begin + len(n))), "")
        if not name:
            found = PLAIN_NAME.match(self.text, begin)
            name = found.group() if found else ""
            if name.endswith(":") or (not headed and name.startswith("call")):
                return ""  # unclear where the name ends or begins
            begin = found.end() if found else begin
        else:
            begin += len(name)
        self.position = begin
        if quote and self.text.startswith(quote, self.position):
            self.position += len(quote)
        return name

    def _arguments(self, arguments: dict[str, Value]) -> None:
        """Adds the arguments of a call as they are read, and removes one that later text makes ambiguous."""
        self.unclosed = False
        self._object(arguments)
        if self.unclosed and not self.is_cut and arguments:
            last = next(reversed(arguments))
            # The missing bracket may belong to the inner object.
            if _most_pairs(arguments[last]) > 1:
                del arguments[last]

    def _value(self, closer: str) -> Value:
        self._skip(_SPACE)
        if quote := self._quote():
            return self._string(quote, closer)
        if self._peek() in ("{", "[") and self.depth < _DEEPEST:
            self.depth += 1
            value: Value = self._object({}) if self._peek() == "{" else self._array()
            self.depth -= 1
            return value
        return self._bare(closer)

    def _object(self, result: dict[str, Value]) -> dict[str, Value]:
        closer = ")" if self._peek() == "(" else "}"
        self.position += 1
        if self.depth and self._skip(_EMPTY_BEFORE_COMMA):
            raise _UnclearError  # the object may be empty, and the following pair an argument of the call
        latest = None
        while True:
            self._skip(_FILLING)
            if self._peek() == closer or (not self.depth and self._peek() in ("}", ")")):
                self.position += 1
                return result
            if self._peek() == "":
                self.unclosed = True
                self.ended_inside |= self.is_cut
                if self.depth and not self.is_cut and len(result) > 1:
                    raise _UnclearError
                return result
            if self.depth and result and _SWAPPED.match(self.text, self.position):
                self.position += 1
                continue
            begin = self.position
            key = self._key()
            if self._skip(_SEPARATOR) or self._quote() or self._peek() in ("{", "["):
                try:
                    value = self._value(closer)
                except _NoValueError:
                    continue
                if key is not None:
                    result[key] = value
                    latest = key
                elif self.depth:
                    raise _UnclearError
                continue
            # Stray text, which may be part of the argument before it.
            if self.position == begin:
                self.position += 1
            if self._peek() == "" and self.is_cut:
                return result
            if latest is not None:
                del result[latest]
            if latest is not None or self.depth:
                raise _UnclearError

    def _array(self) -> list[Value]:
        self.position += 1
        result: list[Value] = []
        while True:
            self._skip(_FILLING)
            if self._peek() == "]":
                self.position += 1
                return result
            if self._peek() in ("", "}", ")") or _NEXT.match(self.text, self.position):
                # The array's own bracket is missing.
                cut = self._peek() == "" and self.is_cut
                key = _NEXT.match(self.text, self.position)
                if not cut and any(isinstance(item, list) for item in result):
                    raise _UnclearError
                if self._peek() in ("}", ")") and self.text.find("]", self.position) >= 0:
                    raise _UnclearError  # this bracket may be one too many, with the array's own after it
                if key and not _BEGINS_VALUE.match(self.text, key.end()):
                    raise _UnclearError
                return result
            try:
                result.append(self._value(_IN_ARRAY))
            except _NoValueError:
                continue

    def _key(self) -> str | None:
        """The next key, or None for text that cannot be one."""
        begin, quote = self.position, self._quote()
        inner = begin + len(quote)
        for key in self.keys:
            if self.text.startswith(key + quote, inner):
                end = inner + len(key) + len(quote)
                if _SEPARATOR.match(self.text, end):
                    self.position = end
                    return key
        found = PLAIN_KEY.match(self.text, inner)
        self.position = found.end() if found else inner
        if quote and self.text.startswith(quote, self.position):
            self.position += len(quote)
            return found.group() if found else None
        if quote:
            return None
        if found is None or self._skip(_SPACE) is False:
            return None
        if self._peek() in (":", "=", "{", "[", "") or self._quote():
            return found.group()
        # Several words before a separator are no key.
        rest = _BARE_KEY.match(self.text, self.position)
        self.position = rest.end() if rest else self.position
        return None

    def _string(self, quote: str, closer: str) -> str:
        begin = self.position = self.position + len(quote)
        if quote == QUOTE:
            end = self.text.find(QUOTE, begin)
            if end >= 0:
                string = self.text[begin:end]
                if _BEHIND.match(self.text, end + len(QUOTE)) and not _BEFORE_QUOTE.search(string[-8:]):
                    self.position = end + len(QUOTE)
                    return string
                raise _UnclearError
        else:
            ends = (_ENDS_IN_ARRAY if closer == _IN_ARRAY else _ENDS_IN_OBJECT)[quote]
            found = None if ends in self.endless else ends.search(self.text, begin)
            if found:
                self.position = found.end()
                return _ESCAPE.sub(_unescaped, self.text[begin : found.start()])
            self.endless.add(ends)
        return self._unclosed_string(quote, closer)

    def _unclosed_string(self, quote: str, closer: str) -> str:
        """A string without its closing mark."""
        rest = self.text[self.position :]
        if self.is_cut:
            self.ended_inside = True
            if quote != QUOTE and QUOTE in rest:
                raise _UnclearError
            self.position = len(self.text)
            return _CUT_QUOTE.sub("", rest)
        # The string may end with another kind of mark than it began with, if that occurs only once.
        others = [mark for mark in (QUOTE, '"', "'", "`") if mark != quote and mark in rest]
        if len(others) == 1 and rest.count(others[0]) == 1:
            end = rest.index(others[0])
            if _BEHIND.match(rest, end + len(others[0])) and not _NEXT_KEY.search(rest, 0, end):
                self.position += end + len(others[0])
                return rest[:end]
        whole = next((text for text in (rest, rest.rstrip().removesuffix("}")) if _is_json(text)), None)
        if quote == QUOTE and whole is not None:
            self.position += len(whole)
            return whole
        found = _LAST_STRING.fullmatch(rest)
        if found is None or not found.group(1).strip() or _NEXT_KEY.search(rest):
            raise _UnclearError
        self.position += found.end(1)
        return found.group(1).rstrip()

    def _bare(self, closer: str) -> Value:
        """A value without an opening mark: a number, a literal, or else a string, which may have its closing mark."""
        begin = self.position
        if found := _SCALAR.match(self.text, begin):
            try:
                value = _scalar(found.group())
            except ValueError:
                pass
            else:
                self.position = found.end()
                return value
        end = self.text.find(QUOTE, begin)
        if end >= 0 and _BEHIND.match(self.text, end + len(QUOTE)):
            string = self.text[begin:end]
            if not ("," in string if closer == _IN_ARRAY else _NEXT_KEY.search(string) or _BEFORE_QUOTE.search(string)):
                self.position = end + len(QUOTE)
                return string.strip()
        found = _CLOSES[closer].search(self.text, begin)
        stop = found.start() if found else len(self.text)
        if closer != _IN_ARRAY and (following := _NEXT_KEY.search(self.text, begin, stop)):
            stop = following.start()
        text = self.text[begin:stop]
        self.position = stop
        if stop == len(self.text) and self.is_cut:
            self.ended_inside = True
            text = _CUT_QUOTE.sub("", text)
        string = text.strip()
        if not string or (stop == len(self.text) and self.is_cut and _is_begun(string)):
            raise _NoValueError
        if QUOTE in string or _KEY_INSIDE.search(string) or set("{}[]()") & set(string):
            raise _UnclearError
        return string

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self.text, self.position)
        if found is None:
            return False
        self.position = found.end()
        return True

    def _quote(self) -> str:
        """The quotation mark at the current position; empty if there is none."""
        if self.text.startswith(QUOTE, self.position):
            return QUOTE
        return self._peek() if self._peek() in ('"', "'", "`") else ""


class _NoValueError(Exception):
    """A value is missing."""


def _most_pairs(value: Value) -> int:
    """The number of pairs in a value's largest object."""
    if isinstance(value, Mapping):
        return max([len(value), *map(_most_pairs, value.values())])
    return max(map(_most_pairs, value), default=0) if isinstance(value, list) else 0


def _is_json(text: str) -> bool:
    """Whether a text is a complete JSON object or list."""
    if text.strip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_begun(text: str) -> bool:
    """Whether a text is an incomplete number or literal."""
    return text == "-" or any(literal.startswith(text) for literal in ("true", "false", "null"))


def _scalar(text: str) -> int | float | bool | None:
    """Parses a number or a literal. Raises ValueError for any other text."""
    if text.lower() in _LITERALS:
        return _LITERALS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _REAL.fullmatch(text) or math.isinf(float(text)):
        raise ValueError(text)
    return float(text)


def _unescaped(escape: re.Match[str]) -> str:
    what = escape.group(1)
    return chr(int(what[1:], 16)) if len(what) > 1 else _ESCAPED.get(what, what)


def _calls_of_json(value: Value, *, is_cut: bool) -> list[ToolCall]:
    """Calls in JSON form: {"name": ..., "arguments": {...}}, perhaps within "function", or a list of these.

    `is_cut`: the text ended inside the value, so its last part may be incomplete.
    """
    if isinstance(value, list):
        return [
            call for i, each in enumerate(value) for call in _calls_of_json(each, is_cut=is_cut and i + 1 == len(value))
        ]
    if not isinstance(value, Mapping) or not value:
        return []
    inner = value.get("function")
    if isinstance(inner, Mapping):
        return _calls_of_json(inner, is_cut=is_cut)
    name = value.get("name", inner)
    if is_cut and next(reversed(value)) in ("name", "function"):
        return []
    arguments = next((value[key] for key in ("arguments", "parameters", "args") if key in value), {})
    return [ToolCall(name, arguments)] if isinstance(name, str) and name and isinstance(arguments, dict) else []
