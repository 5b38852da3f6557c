"""Parsed JSON as what annotations say that it is, or what is wrong with it and where: for files that anybody may have
written."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.safe_text import shown

ENDLESS = {"value": math.nan, "low": -math.inf, "high": math.inf}  # what null stands for in an interval
DEEPEST = 64  # of nested lists and objects
LARGEST = 10**18  # of a number: no time, count or size is beyond it


class WrongError(Exception):
    """What does not have the form of its type, and where it is, in one line."""


def check_depth(value: Any) -> None:
    """Raises WrongError for what is nested more deeply than anybody who walks through it is ready for."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise WrongError(f"it is nested more than {DEEPEST} levels deep")
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for of in inner for each in of]


def decoded(kind: Any, value: Any, where: str = "") -> Any:
    """`value`, parsed JSON, as `kind`: a dataclass, a container or a plain type, as annotations name them. Numbers are
    finite and at most `LARGEST`. Raises WrongError."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _object(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in arguments):
            raise WrongError(f"{where} is {_shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin in (list, tuple):
        _check(value, list, where)
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise WrongError(f"{where} has {len(value)} entries, not {len(arguments)}")
            pairs = zip(arguments, value, strict=True)
            return tuple(decoded(of, each, f"{where}[{i}]") for i, (of, each) in enumerate(pairs))
        return origin(decoded(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        _check(value, dict, where)
        return {
            _key(arguments[0], key, where): decoded(arguments[1], each, f"{where}.{key}") for key, each in value.items()
        }
    if kind is float and type(value) is int:
        _check_size(value, where)
        return float(value)
    _check(value, kind, where)
    if kind in (int, float):
        _check_size(value, where)
    return value


def _object(kind: Any, value: Any, where: str) -> Any:
    _check(value, dict, where)
    hints = _hints(kind)
    found = {}
    for field in fields(kind):
        at = f"{where}.{field.name}".lstrip(".")
        if kind is Estimate and value.get(field.name, 0) is None:
            found[field.name] = ENDLESS[field.name]
        elif field.name in value:
            found[field.name] = decoded(hints[field.name], value[field.name], at)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise WrongError(f"{at} is missing")
    return kind(**found)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return decoded(kind, value, where)
        except WrongError:
            continue
    return decoded(kinds[-1], value, where)


def _key(kind: Any, key: str, where: str) -> str | int:
    if kind is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise WrongError(f"{where} has the key {_shown(key)}, which is no number") from None


def _check(value: Any, kind: type, where: str) -> None:
    is_right = isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool))
    if not is_right:
        raise WrongError(f"{where or 'it'} is {_shown(value)}, not {kind.__name__}")


def _check_size(value: float, where: str) -> None:
    if not -LARGEST <= value <= LARGEST:
        raise WrongError(f"{where} is {_shown(value)}, which is no measurement")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        return "a number beyond all others"  # whose digits Python may refuse to write
    text = repr(value)
    return shown(text if len(text) <= 40 else f"{text[:37]}...")
