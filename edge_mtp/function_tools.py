"""Tools as Python functions: a declaration from a function's type hints and docstring.

    def set_alarm(hour: int, minute: int = 0, days: list[Literal["Mo", "Tu"]] | None = None):
        \"\"\"Sets an alarm.

        Args:
            hour: of 24.
        \"\"\"

A hint becomes the JSON schema of what `json.loads` gives for it. As in transformers' `get_json_schema`, a description
that ends with `(choices: ["a", "b"])` restricts its parameter to these.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

import docstring_parser

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import check_tools

Tool = Mapping[str, Any] | Callable[..., Any]
Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    Sequence: {"type": "array"},
    Mapping: {"type": "object"},
    Any: {},
    object: {},
}
_LISTS = (list, Sequence, Iterable)
_MARKS = tuple(getattr(typing, name) for name in ("Required", "NotRequired", "ReadOnly") if hasattr(typing, name))
_DEEPEST = 32
_CHOICES = re.compile(r"\(choices:\s*(\[.*?\])\s*\)\s*$", re.DOTALL | re.IGNORECASE)
_KINDS = "str, int, float, bool, list, tuple, dict, Literal, Enum, TypedDict, a dataclass, Any, or a union of them"


def checked_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Declarations in OpenAI's form of declarations (see `check_tools`) and functions, in any mixture.

    Raises EdgeMtpError naming the first value that is wrong.
    """
    if isinstance(tools, str) or hasattr(tools, "__fspath__"):
        raise EdgeMtpError(f"tools: {str(tools)!r} is the name of a file; read it with edge_mtp.load_tools")
    if callable(tools):
        raise EdgeMtpError(f"tools: expected a list, found the function {_name(tools)}; wrap it in [ ]")
    if isinstance(tools, list | tuple):
        tools = [declaration(each) if callable(each) else each for each in tools]
    return check_tools(tools)


def declaration(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's declaration in OpenAI's form. A parameter without a default is required.

    Raises EdgeMtpError for a function without a name, a parameter without a hint, a hint that JSON cannot express, and
    a parameter that cannot be given by name.
    """
    name = _name(function)
    where = f"tool {name}"
    if not name.isidentifier():
        raise EdgeMtpError(f"{where}: it has no name that a call could use; define it with def")
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_hinted(function), include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise EdgeMtpError(f"{where}: its hints cannot be read ({error}); give types that its module knows") from None
    text = docstring_parser.parse(inspect.getdoc(_hinted(function)) or "")
    told = {each.arg_name: each.description or "" for each in text.params}
    properties: dict[str, Schema] = {}
    required = []
    for parameter in signature.parameters.values():
        at = f"{where}, parameter {parameter.name}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise EdgeMtpError(f"{at}: a call gives every argument by name; give it no *, ** or /")
        if parameter.name not in hints:
            raise EdgeMtpError(f"{at}: no type hint; add one of {_KINDS}")
        properties[parameter.name] = _described(_schema(hints[parameter.name], at), told.get(parameter.name, ""), at)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters: Schema = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    description = "\n\n".join(part for part in (text.short_description, text.long_description) if part)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _hinted(function: Any) -> Any:
    """Where a callable keeps hints and docstring: an object that can be called has them in its class."""
    return function if inspect.isroutine(function) else type(function).__call__


def _described(schema: Schema, description: str, at: str) -> Schema:
    """`schema` with a parameter's description, and restricted to the choices that this ends with."""
    if (found := _CHOICES.search(description)) is not None:
        try:
            choices = json.loads(found[1])
        except ValueError:
            raise EdgeMtpError(f"{at}: the choices {found[1]} are not JSON; write them with double quotes") from None
        description = description[: found.start()].rstrip()
        schema = {**schema, "enum": choices}
    return {**schema, "description": description} if description else schema


def _schema(hint: Any, at: str) -> Schema:
    """The JSON schema of a hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or not arguments:  # typing.List is list
        origin = origin or hint
        if isinstance(origin, Hashable) and origin in _PLAIN:
            return dict(_PLAIN[origin])
    if origin is typing.Annotated:
        texts = [each for each in arguments[1:] if isinstance(each, str)]
        return _described(_schema(arguments[0], at), texts[0] if texts else "", at)
    if origin in _MARKS:
        return _schema(arguments[0], at)
    if origin is Literal:
        return _enumeration(arguments, at)
    if origin in (Union, types.UnionType):
        return _union(arguments, at)
    if origin in _LISTS:
        return {"type": "array", "items": _schema(arguments[0], at)}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return {"type": "array", "items": _schema(arguments[0], at)}
        parts = [_schema(each, at) for each in arguments if each != ()]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    if origin in (dict, Mapping):
        if arguments[0] is not str:
            raise EdgeMtpError(f"{at}: the keys of {hint} are not str, as JSON's are; use dict[str, ...]")
        return {"type": "object", "additionalProperties": _schema(arguments[1], at)}
    if isinstance(hint, type):
        if issubclass(hint, enum.Enum):
            return _enumeration([each.value for each in hint], at)
        if typing.is_typeddict(hint) or dataclasses.is_dataclass(hint):
            return _fields(hint, at)
    raise EdgeMtpError(f"{at}: the hint {getattr(hint, '__name__', hint)} has no JSON form here; use {_KINDS}")


def _enumeration(values: Sequence[Any], at: str) -> Schema:
    """A schema of some values; of one type where they have one."""
    if any(not isinstance(each, str | int | float | bool | None) for each in values):
        raise EdgeMtpError(f"{at}: the choices {list(values)} are not all text, numbers, True, False or None")
    kinds = {json.dumps(_PLAIN[type(each)]) for each in values}
    return {**(json.loads(kinds.pop()) if len(kinds) == 1 else {}), "enum": list(values)}


def _union(arguments: Sequence[Any], at: str) -> Schema:
    """`X | None` is X or null; other unions are any of their parts, as a list of types where these say all."""
    parts = [_schema(each, at) for each in arguments]
    if all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        return {"type": [part["type"] for part in parts]}
    return {"anyOf": parts}


def _fields(hint: Any, at: str) -> Schema:
    """The object that a TypedDict or a dataclass describes."""
    if at.count(".") == _DEEPEST:
        raise EdgeMtpError(f"{at[:80]}...: {hint.__name__} is nested more than {_DEEPEST} deep; write the declaration")
    hints = typing.get_type_hints(hint, include_extras=True)
    if dataclasses.is_dataclass(hint):
        fields = [each for each in dataclasses.fields(hint) if each.init]
        names = [each.name for each in fields]
        missing = dataclasses.MISSING
        required = [each.name for each in fields if each.default is missing and each.default_factory is missing]
    else:
        names, required = list(hints), [name for name in hints if name in hint.__required_keys__]
    properties = {name: _schema(hints[name], f"{at}.{name}") for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
