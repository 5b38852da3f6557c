"""A forgiving parser of Gemma 4's tool calls: what a reply seems to mean where the strict parser refuses it.

Servers differ in what they forgive. This reads the union of it, so that what even it cannot read no server can:

- calls without an end: no closing mark, no brackets, no quote mark at the end of a string (vLLM);
- strings between `"`, `'` or backticks, with JSON's escapes; strings without any mark, or without their first
  (vllm-project/vllm#51284, sgl-project/sglang#39240);
- quoted keys, `=` for `:`, `(` for `{` (ollama/ollama#17882, jundot/omlx#1886);
- white space anywhere, commas too many or too few (hybridgroup/yzma#243);
- numbers as `+1`, `.5` or `007`; `True`, `None`;
- several calls behind one mark; calls as JSON objects with a name and arguments;
- names with colons, which are kept; of a key that comes twice, the last.

The opening mark alone is not forgiven: it is one token, and text without it is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from edge_mtp.tool_calls import CALL_OPEN, QUOTE, ToolCall, ToolCallSyntaxError, Value, parse_call, parse_calls

# Control tokens, but for the quote mark.
MARK = re.compile(r"<\|[a-z_]+\|?>|<[a-z_]+\|>|<(?:bos|eos|pad|unk|unused[0-9]+)>")

_SPACE = re.compile(r"\s*")
_FILLING = re.compile(r"[\s,;]*")
_HEAD = re.compile(r"call\s*:\s*")
_NAME = re.compile(r"[^\s{}()\[\],\"'`<>]+")
_BARE_KEY = re.compile(r"[^:={}()\[\],\"'`<>]*")
_SEPARATOR = re.compile(r"\s*(?::|=>?)\s*")
_IDENTIFIER = r"[^\W\d][\w.\-]*"
_KEY = "(?:" + "|".join(q + _IDENTIFIER + q for q in ("", r"<\|\"\|>", '"', "'", "`")) + r")\s*[:=]"
_NEXT = re.compile(_KEY)
_NEXT_KEY = re.compile(rf",\s*{_KEY}")
# What is behind the end of a string; anything else is still the string. In other quotes than Gemma's own a comma ends
# it in an object only before a key: such text has commas too.
_BEHIND = re.compile(rf"\s*(?:[,\]}})]|\Z|{_KEY})")
_ENDS_IN_OBJECT = {q: re.compile(rf"(?<!\\){q}(?=\s*(?:[\]}})]|\Z|,\s*(?:[\]}})]|\Z)|,?\s*{_KEY}))") for q in "\"'`"}
_ENDS_IN_ARRAY = {q: re.compile(rf"(?<!\\){q}(?=\s*(?:[,\]}})]|\Z))") for q in "\"'`"}
_STRAY_QUOTE = re.compile(r"(?:<\|\"\|>|[\"'`])\Z")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[\"'`\\/nrtbf])")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_SCALAR = re.compile(rf"[\w+\-.]+(?=\s*(?:[,\]}})]|\Z)|\s+{_KEY})")
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}", re.ASCII)
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "none": None}
_CLOSES = {closer: re.compile(rf"[{re.escape(closer)}]") for closer in ("}", ")", ",]})")}
_IN_ARRAY = ",]})"
_DEEPEST = 64  # as in the strict parser


def parse_leniently(text: str) -> list[ToolCall]:
    """The calls that a reply seems to make; where it is in the strict format, those of `parse_calls`. Never raises."""
    try:
        return parse_calls(text)
    except ToolCallSyntaxError:
        pass
    calls: list[ToolCall] = []
    position = text.find(CALL_OPEN)
    while position >= 0:
        try:
            call, position = parse_call(text, position)
            calls.append(call)
        except ToolCallSyntaxError:
            begin = position + len(CALL_OPEN)
            mark = MARK.search(text, begin)
            position = mark.start() if mark else len(text)
            calls += read_calls(text[begin:position])
        position = text.find(CALL_OPEN, position)
    return calls


def read_calls(body: str) -> list[ToolCall]:
    """The calls in the text between an opening mark and the next mark. Never raises."""
    return _Reader(body).calls()


class _Reader:
    """Descent through the text of a call that takes what comes.

    Every loop moves `position` on. What ends a value without marks is told by `closer`: that of the object it is in, or
    `_IN_ARRAY`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.endless: set[re.Pattern[str]] = set()  # ends of strings that do not occur any more: searched for once

    def calls(self) -> list[ToolCall]:
        calls: list[ToolCall] = []
        while True:
            self._skip(_FILLING)
            headed = self._skip(_HEAD)
            if self._peek() in ("{", "["):
                calls += _calls_of_json(self._value(_IN_ARRAY))
                continue
            quote = self._quote()
            found = _NAME.match(self.text, self.position + len(quote))
            name = found.group().rstrip(":") if found else ""
            if found is None or not name or (calls and not headed):
                return calls
            self.position = found.end()
            if quote and self.text.startswith(quote, self.position):
                self.position += len(quote)
            self._skip(_SPACE)
            calls.append(ToolCall(name, self._object() if self._peek() in ("{", "(") else {}))

    def _value(self, closer: str) -> Value:
        self._skip(_SPACE)
        if quote := self._quote():
            return self._string(quote, closer)
        if self._peek() in ("{", "[") and self.depth < _DEEPEST:
            self.depth += 1
            value: Value = self._object() if self._peek() == "{" else self._array()
            self.depth -= 1
            return value
        return self._bare(closer)

    def _object(self) -> dict[str, Value]:
        closer = ")" if self._peek() == "(" else "}"
        self.position += 1
        result: dict[str, Value] = {}
        while True:
            self._skip(_FILLING)
            if self._peek() in ("", closer):
                self.position += 1
                return result
            key = self._key()
            if self._skip(_SEPARATOR) or self._quote() or self._peek() in ("{", "["):
                value = self._value(closer)
                if key:
                    result[key] = value
            elif not key:
                self.position += 1  # belongs to nothing

    def _array(self) -> list[Value]:
        self.position += 1
        result: list[Value] = []
        while True:
            self._skip(_FILLING)
            if self._peek() in ("", "]"):
                self.position += 1
                return result
            if self._peek() in ("}", ")") or _NEXT.match(self.text, self.position):
                return result  # its own bracket is missing
            result.append(self._value(_IN_ARRAY))

    def _key(self) -> str:
        if quote := self._quote():
            self.position += len(quote)
        found = _BARE_KEY.match(self.text, self.position)
        if found is None:  # it matches nothing, too
            return ""
        self.position = found.end()
        if quote and self.text.startswith(quote, self.position):
            self.position += len(quote)
        return found.group().strip()

    def _string(self, quote: str, closer: str) -> str:
        begin = self.position = self.position + len(quote)
        if quote == QUOTE:
            end = self.text.find(QUOTE, begin)
            if end >= 0 and _BEHIND.match(self.text, end + len(QUOTE)):
                self.position = end + len(QUOTE)
                return self.text[begin:end]
        else:
            ends = (_ENDS_IN_ARRAY if closer == _IN_ARRAY else _ENDS_IN_OBJECT)[quote]
            found = None if ends in self.endless else ends.search(self.text, begin)
            if found:
                self.position = found.end()
                return _ESCAPE.sub(_unescaped, self.text[begin : found.start()])
            self.endless.add(ends)
        return _STRAY_QUOTE.sub("", self._until(closer).rstrip())

    def _bare(self, closer: str) -> Value:
        """A value without marks: a number or a literal, or else a string, which may have its second mark."""
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
            if not ("," in string if closer == _IN_ARRAY else _NEXT_KEY.search(string)):
                self.position = end + len(QUOTE)
                return string.strip()
        return self._until(closer).strip()

    def _until(self, closer: str) -> str:
        """Text to the closer or the next key, or to the end."""
        begin = self.position
        found = _CLOSES[closer].search(self.text, begin)
        end = found.start() if found else len(self.text)
        if closer != _IN_ARRAY and (following := _NEXT_KEY.search(self.text, begin, end)):
            end = following.start()
        self.position = end
        return self.text[begin:end]

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self.text, self.position)
        if found is None:
            return False
        self.position = found.end()
        return True

    def _quote(self) -> str:
        """The quotation mark that is next, or nothing."""
        if self.text.startswith(QUOTE, self.position):
            return QUOTE
        return self._peek() if self._peek() in ('"', "'", "`") else ""


def _scalar(text: str) -> int | float | bool | None:
    """A number or a literal. Raises ValueError for what is neither."""
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


def _calls_of_json(value: Value) -> list[ToolCall]:
    """Calls as JSON has them: {"name": ..., "arguments": {...}}, perhaps within "function", or a list of such."""
    if isinstance(value, list):
        return [call for each in value for call in _calls_of_json(each)]
    if not isinstance(value, Mapping):
        return []
    inner = value.get("function")
    if isinstance(inner, Mapping):
        return _calls_of_json(inner)
    name = value.get("name", inner)
    arguments = next((value[key] for key in ("arguments", "parameters", "args") if key in value), {})
    return [ToolCall(name, arguments)] if isinstance(name, str) and name and isinstance(arguments, dict) else []
