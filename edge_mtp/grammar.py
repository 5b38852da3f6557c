"""Grammars of tool calls: tool declarations to the EBNF that a constrained text follows (docs/grammar.md).

The grammar of a declaration generates calls in the wire format of `tool_calls`, keys in the order in which the chat
template writes them, so that every text it generates parses strictly and satisfies the declared schema: what is
required is there, nothing is there twice or undeclared, values have their types. A schema keyword that could not be
enforced is refused by name, never dropped; annotations (`description`, `default`, `format`, ...) constrain nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from edge_mtp.errors import EdgeMtpError
from edge_mtp.pattern import SURROGATE, engine_pattern
from edge_mtp.tool_calls import CALL_CLOSE, CALL_OPEN, QUOTE, ToolCall, format_calls

Schema = Mapping[str, Any]
Choice = Literal["auto", "required", "none"]
Thinking = Literal["no", "may", "open"]  # whether a reply may begin with a thought, or begins inside one

_NAME = re.compile(r"[^\W\d][\w.\-]*")
_DIGITS = 40  # before a number's point; the strict parser follows 1000, but each is a state of the automaton
_LONGEST_COUNTED = 64  # characters; each is a state of the automaton, which the engine tries on the whole vocabulary
_DEEPEST = 60  # nesting of a value; the strict parser follows 64

_ANNOTATIONS = {
    *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "format"),
    *("$comment", "$schema", "$id", "$defs", "definitions"),
}
_KEYWORDS: dict[str, frozenset[str]] = {
    "string": frozenset(["minLength", "maxLength", "pattern"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "number": frozenset(["minimum", "maximum"]),
    "boolean": frozenset(),
    "null": frozenset(),
    "array": frozenset(["items", "minItems", "maxItems"]),
    "object": frozenset(["properties", "required", "additionalProperties"]),
}
_NOT_ENFORCED = {
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas"),
    *("contains", "minContains", "maxContains", "uniqueItems"),
}
_COMMON = {"type", "nullable"}


def tool_grammar(
    tools: Sequence[Mapping[str, Any]], *, choice: str = "auto", parallel: bool = True, thinking: Thinking = "no"
) -> str:
    """The grammar of a reply that calls some tools, as EBNF in the dialect of docs/grammar.md.

    `tools` are in OpenAI's form, as for `tool_calls.check_tools`, or bare functions. `choice`: "auto" (text, calls, or
    text and then calls), "required" (calls only), "none" (text only), or the name of the one tool that is to be
    called. `parallel` allows several calls in one reply. `thinking` "may" allows a thought channel before all that;
    "open" is for a prompt that has opened the thought already.

    Raises `EdgeMtpError` naming the tool, the place in its schema and the keyword for what the grammar cannot hold.
    """
    functions = _functions(tools)
    if choice not in ("auto", "none"):
        if not functions:
            raise EdgeMtpError(f"tool choice {choice!r} needs a tool to call; declare one or use 'auto'")
        if choice != "required":
            functions = {name: schema for name, schema in functions.items() if name == choice}
            if not functions:
                raise EdgeMtpError(
                    f"tool choice {choice!r} is no declared tool; use one of {', '.join(_functions(tools))}, "
                    "'auto', 'required' or 'none'"
                )
    rules = _Rules()
    calls = ""
    if functions and choice != "none":
        bodies = [_quoted(name) + " " + _Parameters(rules, name, schema).rule() for name, schema in functions.items()]
        call = f'"{CALL_OPEN}call:" {rules.choice(bodies)} "{CALL_CLOSE}"'
        calls = rules.add(call) + ("+" if parallel else "")
    text = rules.add_text()
    replies = {"auto": f"{text} {calls}?" if not parallel else f"{text} ({calls})?", "none": text}
    reply = calls if choice not in replies else replies[choice] if calls else text
    thoughts = {
        "no": "",
        "may": f'("<|channel>thought\\n" {text} "<channel|>")? ',
        "open": f'{text} "<channel|>" ',
    }
    return rules.text(thoughts[thinking] + reply)


def response_schema(source: str) -> str:
    """A JSON schema as a constraint takes it: `source` checked to be JSON and an object or a boolean.

    Raises `EdgeMtpError` otherwise, and for a keyword that would not be enforced; the runtime refuses some more when it
    compiles the schema.
    """
    try:
        schema = json.loads(source, parse_constant=_no_constant)
    except ValueError as error:
        raise EdgeMtpError(f"the response schema is not JSON ({error}); correct it") from None
    if not isinstance(schema, dict | bool):
        raise EdgeMtpError(f"the response schema is a {type(schema).__name__}; pass a JSON schema, which is an object")
    _check_enforced(schema, "")
    checked = json.dumps(schema, ensure_ascii=False)
    if half := SURROGATE.search(checked):
        raise EdgeMtpError(
            f"the response schema has {half[0]!r}, half of a surrogate pair and no character; take it out"
        )
    return checked


def _check_enforced(schema: Any, at: str) -> None:
    """Refuses the keywords that the engine reads over without a word."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        place = f"{at}/{keyword}"
        if keyword in _NOT_ENFORCED:
            raise EdgeMtpError(f"the response schema has {place}, which a grammar does not enforce; take it out")
        if keyword in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
            for name, inner in value.items():
                _check_enforced(inner, f"{place}/{name}")
        elif keyword in ("items", "additionalProperties", "propertyNames"):
            _check_enforced(value, place)
        elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            for i, inner in enumerate(value):
                _check_enforced(inner, f"{place}/{i}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# -- rules ----------------------------------------------------------------------------------------------------------


class _Rules:
    """Rules of a grammar as they are made; equal bodies share one rule."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, body: str) -> str:
        """The name of the rule with this body."""
        return self._names.setdefault(body, f"r{len(self._names)}")

    def add_text(self) -> str:
        """The name of a rule for any text without `<|`, with which the marks of a call and of a string begin.

        Spelled in ordinary characters they would be marks to whoever parses the text. Two states are all that the
        engine tries on its vocabulary: it makes a loop of a rule that ends by naming itself.
        """
        self._names['"" | [^<] text | "\\u003C" text_begun'] = "text"
        self._names['"" | [^<|] text | "\\u003C" text_begun'] = "text_begun"
        return "text"

    def choice(self, bodies: Sequence[str]) -> str:
        distinct = list(dict.fromkeys(bodies))
        return distinct[0] if len(distinct) == 1 else self.add(" | ".join(distinct))

    def text(self, root: str) -> str:
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for body, name in self._names.items())]
        return "\n".join(lines) + "\n"


def _regex(pattern: str) -> str:
    return 'Regex("' + "".join(c if c == "[" else _escaped(c) for c in pattern) + '")'


def _quoted(text: str) -> str:
    """A literal of ordinary text. What could begin a special token's text is escaped, which keeps it ordinary."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character in "<[" or not character.isprintable():
        return f"\\u{ord(character):04X}" if ord(character) < 0x10000 else f"\\U{ord(character):08X}"
    return character


# -- declarations ---------------------------------------------------------------------------------------------------


def _functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Schema]:
    """Parameters by name of function."""
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise EdgeMtpError(f"tools: expected a list of tools, found {type(tools).__name__}; wrap it in [ ]")
    functions: dict[str, Schema] = {}
    for i, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        if not isinstance(function, Mapping):
            raise EdgeMtpError(f"tool {i}: expected an object, found {function!r}; give a name and parameters")
        name = function.get("name")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise EdgeMtpError(f"tool {i}: name {name!r} is not an identifier; use letters, digits, '_', '.', '-'")
        if name in functions:
            raise EdgeMtpError(f"tool {i}: name {name!r} is used twice; rename one")
        functions[name] = function.get("parameters") or {"type": "object", "properties": {}}
    return functions


class _Parameters:
    """The rules of one tool's parameters. `at` is a place in its schema, for errors."""

    def __init__(self, rules: _Rules, tool: str, schema: Schema) -> None:
        self._rules = rules
        self._tool = tool
        self._schema = schema
        self._open: list[str] = []  # references being followed

    def rule(self) -> str:
        schema = self._resolved(self._schema, "parameters")
        if not isinstance(schema.get("type", "object"), str) or schema.get("type", "object").lower() != "object":
            raise self._error("parameters", "type", "is not 'object'; give it properties")
        return self._value({"properties": {}, **schema, "type": "object"}, "parameters", 0)

    def _error(self, at: str, keyword: str, trouble: str) -> EdgeMtpError:
        return EdgeMtpError(f"tool {self._tool!r}, {at}: {keyword} {trouble}")

    def _resolved(self, schema: Any, at: str) -> Schema:
        """The schema that `schema` is or refers to."""
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            raise EdgeMtpError(f"tool {self._tool!r}, {at}: {schema!r} is not a schema; use an object with a type")
        if "$ref" not in schema:
            return schema
        reference = schema["$ref"]
        found: Any = self._schema
        parts = reference.removeprefix("#/").split("/") if isinstance(reference, str) else []
        for part in parts:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/") or not isinstance(found, Mapping):
            raise self._error(at, "$ref", f"{reference!r} leads nowhere; point into the tool's own $defs")
        if others := schema.keys() - _ANNOTATIONS - {"$ref", "nullable"}:
            raise self._error(at, min(others), "beside $ref is not enforced; move it to the schema referred to")
        return {**found, "nullable": True} if schema.get("nullable") else found

    def _value(self, schema: Any, at: str, depth: int) -> str:
        """An expression for the values of a schema; a rule where it is more than a literal."""
        if depth > _DEEPEST:
            raise EdgeMtpError(
                f"tool {self._tool!r}, {at}: values nested deeper than {_DEEPEST}; end the recursion or flatten it"
            )
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if reference is not None:
            if reference in self._open:
                raise self._error(at, "$ref", f"{reference!r} is recursive; unroll it to the depth that is needed")
            self._open.append(reference)
        found = self._resolved(schema, at)
        chained = reference is not None and "$ref" in found
        expression = self._value(found, at, depth) if chained else self._resolved_value(found, at, depth)
        if reference is not None:
            self._open.pop()
        return expression

    def _resolved_value(self, schema: Schema, at: str, depth: int) -> str:
        nullable = self._flag(schema, "nullable", at)
        options: list[str]
        if "enum" in schema or "const" in schema:
            options = self._literals(schema, at)
        elif "anyOf" in schema:
            options = self._any_of(schema, at, depth)
        else:
            types = self._types(schema, at)
            known = frozenset().union(*(_KEYWORDS[kind] for kind in types)) if types else frozenset[str]()
            self._refuse_unknown(schema, known, at, ", ".join(types) or "a value without a type")
            options = [self._typed(kind, schema, at, depth) for kind in types] if types else self._untyped()
        return self._rules.choice([*options, '"null"'] if nullable else options)

    def _refuse_unknown(self, schema: Schema, known: frozenset[str], at: str, what: str) -> None:
        for keyword in schema.keys() - known - _COMMON - _ANNOTATIONS:
            if not keyword.startswith("x-"):
                raise self._error(at, keyword, f"is not enforced for {what}; take it out (docs/grammar.md)")

    def _flag(self, schema: Schema, keyword: str, at: str) -> bool:
        value = schema.get(keyword, False)
        if not isinstance(value, bool):
            raise self._error(at, keyword, f"is {value!r}; use true or false")
        return value

    def _types(self, schema: Schema, at: str) -> list[str]:
        declared = schema.get("type", [])
        names = [declared] if isinstance(declared, str) else declared
        if not isinstance(names, Sequence) or not all(isinstance(n, str) and n.lower() in _KEYWORDS for n in names):
            raise self._error(at, "type", f"{declared!r} is no type; use {', '.join(_KEYWORDS)}")
        if "type" in schema and not names:
            raise self._error(at, "type", "is an empty list; name a type")
        kinds = list(dict.fromkeys(name.lower() for name in names))
        # Every integer is a number: a reply has one way to say it.
        return [kind for kind in kinds if kind != "integer" or "number" not in kinds]

    def _literals(self, schema: Schema, at: str) -> list[str]:
        keyword = "enum" if "enum" in schema else "const"
        self._refuse_unknown(schema, frozenset([keyword]), at, keyword)
        values = schema["enum"] if keyword == "enum" else [schema["const"]]
        if not isinstance(values, list) or not values:
            raise self._error(at, "enum", f"is {values!r}; list at least one value")
        types = self._types(schema, at)
        allowed = [value for value in values if not types or any(_is_of(value, kind) for kind in types)]
        if not allowed:
            raise self._error(at, keyword, f"{values!r} has no value of type {', '.join(types)}; correct one of them")
        return [self._literal(value, keyword, at) for value in allowed]

    def _literal(self, value: Any, keyword: str, at: str) -> str:
        """A literal of the value as `format_calls` writes it."""
        try:
            call = format_calls([ToolCall("f", {"v": value})])
        except EdgeMtpError as error:
            raise self._error(at, keyword, f"holds what a call cannot carry: {error}") from None
        if SURROGATE.search(call):
            raise self._error(
                at, keyword, f"{value!r} has half of a surrogate pair, which is no character; take it out"
            )
        text = call.removeprefix(f"{CALL_OPEN}call:f{{v:").removesuffix(f"}}{CALL_CLOSE}")
        pieces = [_quoted(piece)[1:-1] for piece in text.split(QUOTE)]
        return '"' + _QUOTE_IN_LITERAL.join(pieces) + '"'

    def _any_of(self, schema: Schema, at: str, depth: int) -> list[str]:
        self._refuse_unknown(schema, frozenset(["anyOf"]), at, "anyOf")
        branches = schema["anyOf"]
        if not isinstance(branches, list) or not branches:
            raise self._error(at, "anyOf", f"is {branches!r}; list at least one schema")
        options = []
        for i, branch in enumerate(branches):
            if "type" in schema and isinstance(branch, Mapping) and "$ref" not in branch and "type" not in branch:
                branch = {**branch, "type": schema["type"]}
            elif "type" in schema and not self._narrows(branch, schema, at):
                raise self._error(at, "type", f"{schema['type']!r} beside anyOf excludes option {i}; take it out")
            options.append(self._value(branch, f"{at}.anyOf[{i}]", depth))
        return options

    def _narrows(self, branch: Any, schema: Schema, at: str) -> bool:
        return set(self._types(self._resolved(branch, at), at)) <= set(self._types(schema, at))

    # -- types

    def _typed(self, kind: str, schema: Schema, at: str, depth: int) -> str:
        if kind == "boolean":
            return self._rules.add('"true" | "false"')
        if kind == "null":
            return '"null"'
        if kind == "string":
            return self._string(schema, at)
        if kind == "integer":
            return self._integer(schema, at)
        if kind == "number":
            return self._number(schema, at)
        return self._array(schema, at, depth) if kind == "array" else self._object(schema, at, depth)

    def _untyped(self) -> list[str]:
        scalars = [self._typed(kind, {}, "", 0) for kind in ("string", "number", "boolean", "null")]
        scalar = self._rules.choice(scalars)
        return [*scalars, self._rules.add(_list(scalar, 0, None))]

    def _string(self, schema: Schema, at: str) -> str:
        low, high = self._bounds(schema, "minLength", "maxLength", at)
        if "pattern" in schema:
            if "minLength" in schema or "maxLength" in schema:
                raise self._error(at, "pattern", "beside a length is not enforced; say the length in the pattern")
            try:
                content = self._rules.add(_regex(engine_pattern(schema["pattern"])))
            except EdgeMtpError as error:
                raise self._error(at, "pattern", str(error)) from None
        elif low == 0 and high is None:
            content = self._rules.add_text()
        else:
            if max(low, high or 0) > _LONGEST_COUNTED:
                keyword = "maxLength" if (high or 0) > _LONGEST_COUNTED else "minLength"
                raise self._error(
                    at, keyword, f"{schema[keyword]} is more than the {_LONGEST_COUNTED} that are counted; take it out"
                )
            content = self._rules.add(_regex(f"[^|]{_repetition(low, high)}"))
        return self._rules.add(f'"{_QUOTE_IN_LITERAL}" {content} "{_QUOTE_IN_LITERAL}"')

    def _bounds(self, schema: Schema, least: str, most: str, at: str) -> tuple[int, int | None]:
        for keyword in (least, most):
            value = schema.get(keyword, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise self._error(at, keyword, f"is {value!r}; use a whole number that is not negative")
        low, high = schema.get(least, 0), schema.get(most)
        if high is not None and high < low:
            raise self._error(at, most, f"{high} is less than {least} {low}; swap them")
        return low, high

    def _integer(self, schema: Schema, at: str) -> str:
        low = self._limit(schema, "minimum", "exclusiveMinimum", at, math.ceil, 1)
        high = self._limit(schema, "maximum", "exclusiveMaximum", at, math.floor, -1)
        self._check_order(low, high, at)
        return self._rules.add(_regex(_signed(low, high, _whole)))

    def _limit(
        self, schema: Schema, keyword: str, exclusive: str, at: str, rounded: Callable[[float], int], inward: int
    ) -> int | None:
        """The inclusive limit of an integer that two keywords give together."""
        limits = []
        for name in (keyword, exclusive):
            if name in schema:
                value = schema[name]
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise self._error(at, name, f"is {value!r}; use a number")
                whole = rounded(value)
                limits.append(whole + inward if name == exclusive and whole == value else whole)
        return None if not limits else max(limits) if inward > 0 else min(limits)

    def _number(self, schema: Schema, at: str) -> str:
        if "minimum" not in schema and "maximum" not in schema:
            return self._rules.add(_regex(_REAL))
        for keyword in ("minimum", "maximum"):
            value = schema.get(keyword, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
                raise self._error(at, keyword, f"is {value!r}; whole limits are enforced for numbers, others are not")
        low, high = (None if schema.get(k) is None else int(schema[k]) for k in ("minimum", "maximum"))
        self._check_order(low, high, at)
        return self._rules.add(_regex(_signed(low, high, _decimal)))

    def _check_order(self, low: int | None, high: int | None, at: str) -> None:
        if low is not None and high is not None and low > high:
            raise self._error(at, "minimum", f"leaves no value: {low} to {high}; widen it")
        if any(limit is not None and len(str(abs(limit))) > _DIGITS for limit in (low, high)):
            raise self._error(at, "minimum or maximum", f"has more than {_DIGITS} digits; use a smaller one")

    def _array(self, schema: Schema, at: str, depth: int) -> str:
        low, high = self._bounds(schema, "minItems", "maxItems", at)
        if schema.get("items") is False:
            raise self._error(at, "items", "is false; say maxItems 0")
        item = self._value(schema.get("items", {}), f"{at}[]", depth + 1)
        return self._rules.add(_list(item, low, high))

    def _object(self, schema: Schema, at: str, depth: int) -> str:
        properties, required = schema.get("properties"), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise self._error(at, "properties", f"is {properties!r}; map the name of each parameter to its schema")
        if not isinstance(required, list):
            raise self._error(at, "required", f"is {required!r}; list names")
        for name in required:
            if name not in properties:
                raise self._error(at, "required", f"names {name!r}, which is no property; add it or drop it")
        if not isinstance(schema.get("additionalProperties", False), bool):
            raise self._error(at, "additionalProperties", "is a schema, which is not enforced; list the properties")
        pairs = []
        # The order of `format_calls` and of the chat template.
        for name in sorted(properties, key=str.lower):
            if _NAME.fullmatch(name) is None:
                raise self._error(at, "properties", f"has {name!r}, no identifier; use letters, digits, '_', '.', '-'")
            value = self._value(properties[name], f"{at}.{name}", depth + 1)
            pairs.append((f"{_quoted(name + ':')} {value}", name in required))
        return self._rules.add(f'"{{" {self._members(pairs)} "}}"' if pairs else '"{}"')

    def _members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """Pairs in order, separated by commas, each left out unless it is required: two rules a pair."""
        first_required = next((i for i, (_, required) in enumerate(pairs) if required), len(pairs))
        begin = after = '""'  # what may follow while no pair stands, and once one does
        for i, (pair, required) in reversed(list(enumerate(pairs))):
            if i <= first_required:
                begin = self._rules.add(f"{pair} {after}" if required else f"{pair} {after} | {begin}")
            after = self._rules.add(f'"," {pair} {after}' if required else f'("," {pair})? {after}') if i else after
        return begin


_QUOTE_IN_LITERAL = QUOTE.replace('"', '\\"')


def _is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value has a schema's type."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        return kind in ("integer", "number")
    types = {"string": str, "number": float, "array": list, "object": Mapping, "null": type(None)}
    return isinstance(value, types.get(kind, ()))


def _repetition(low: int, high: int | None) -> str:
    return f"{{{low},}}" if high is None else f"{{{low},{high}}}"


def _list(item: str, low: int, high: int | None) -> str:
    """`[a,b,..]` of `low` to `high` items."""
    if high == 0:
        return '"[]"'
    more = f'("," {item})' + _repetition(max(low - 1, 0), None if high is None else high - 1)
    return f'"[" {item} {more} "]"' if low else f'"[" ({item} {more})? "]"'


# -- numbers --------------------------------------------------------------------------------------------------------

# Regular expressions for the engine. An option is written `(x|)`: of a group that ends in a loop, xgrammar 0.2.8 makes
# `(x)?` take the loop alone. A real number has an exponent that leaves it finite.
_REAL = (
    rf"-?((0|[1-9][0-9]{{0,{_DIGITS - 1}}})(\.[0-9]+|)([eE](-[0-9]+|\+?[0-9]{{1,2}})|)"
    r"|[0-9](\.[0-9]+|)[eE]\+?([12][0-9][0-9]|30[0-7]))"
)


def _signed(low: int | None, high: int | None, magnitude: Callable[[int, int | None], str]) -> str:
    """Values from `low` to `high`; `magnitude` gives those of one sign, by inclusive limits."""
    parts = []
    if high is None or high >= 0:
        parts.append(magnitude(max(low or 0, 0), high))
    if low is None or low < 0:
        nearest = 0 if high is None or high >= 0 else -high
        if low is None or -low >= nearest:
            parts.append(f"-({magnitude(nearest, None if low is None else -low)})")
    return "|".join(parts)


def _whole(low: int, high: int | None) -> str:
    """Decimal integers from `low` >= 0 to `high`, without leading zeros."""
    parts = []
    length = len(str(low))
    while high is None or length <= len(str(high)):
        first = max(low, 0 if length == 1 else 10 ** (length - 1))
        if high is None and first == 10 ** (length - 1):
            parts.append(f"[1-9][0-9]{{{length - 1},{_DIGITS - 1}}}")
            break
        last = 10**length - 1 if high is None else min(high, 10**length - 1)
        parts.extend(_same_length(str(first), str(last)))
        length += 1
    return "|".join(parts)


def _same_length(low: str, high: str) -> list[str]:
    """Alternatives for the digit strings from `low` to `high`, which are equally long."""
    rest = len(low) - 1
    if low == high:
        return [low]
    if set(low) == {"0"} and set(high) == {"9"}:
        return [f"[0-9]{{{len(low)}}}"]
    if low[0] == high[0]:
        return [f"{low[0]}({'|'.join(_same_length(low[1:], high[1:]))})"]
    begin, end = int(low[0]), int(high[0])
    below, above = [], []
    if set(low[1:]) - {"0"}:
        below = [f"{begin}({'|'.join(_same_length(low[1:], '9' * rest))})"]
        begin += 1
    if set(high[1:]) - {"9"}:
        above = [f"{end}({'|'.join(_same_length('0' * rest, high[1:]))})"]
        end -= 1
    middle = [f"[{begin}-{end}]" + (f"[0-9]{{{rest}}}" if rest else "")] if begin <= end else []
    return below + middle + above


def _decimal(low: int, high: int | None) -> str:
    """Decimal numbers from `low` >= 0 to `high`, without exponents."""
    if high is None:
        return rf"({_whole(low, None)})(\.[0-9]+|)"
    parts = [_whole(low, high), rf"{high}\.0+"]
    if low < high:
        parts.append(rf"({_whole(low, high - 1)})\.[0-9]+")
    return "|".join(parts)
