"""The summary of a run, read back: the JSON that `Analysis.to_json` gives. Schema: docs/results.md."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analysis import SCHEMA, Analysis
from edge_mtp.harness.statistics import Estimate
from edge_mtp.json_file import read_json

ENDLESS = {"value": math.nan, "low": -math.inf, "high": math.inf}  # what null stands for in an interval


def read_summary(path: str | Path) -> Analysis:
    """Raises EdgeMtpError for a file that is no summary, or of another schema; unknown fields are ignored."""
    where = f"summary '{path}'"
    value = read_json(path, "summary")
    if not isinstance(value, dict) or "schema" not in value or "run" not in value:
        raise EdgeMtpError(f"{where} holds no run; give a file that bench, eval or report wrote")
    if value["schema"] != SCHEMA:
        raise EdgeMtpError(f"{where} is of schema {value['schema']!r}, not {SCHEMA}; make it again from the results")
    try:
        analysis: Analysis = _decoded(Analysis, value, "")
    except _WrongError as error:
        raise EdgeMtpError(f"{where}: {error}; make it again from the results") from None
    return analysis


class _WrongError(Exception):
    """What does not have the form of its type, and where it is."""


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """`value`, parsed JSON, as `kind`: a dataclass, a container or a plain type, as annotations name them."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _object(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise _WrongError(f"{where} is {_shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin in (list, tuple):
        _check(value, list, where)
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise _WrongError(f"{where} has {len(value)} entries, not {len(arguments)}")
            pairs = zip(arguments, value, strict=True)
            return tuple(_decoded(of, each, f"{where}[{i}]") for i, (of, each) in enumerate(pairs))
        return origin(_decoded(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        _check(value, dict, where)
        return {
            _key(arguments[0], key, where): _decoded(arguments[1], each, f"{where}.{key}")
            for key, each in value.items()
        }
    if kind is float and type(value) is int:
        return float(value)
    _check(value, kind, where)
    return value


def _object(kind: Any, value: Any, where: str) -> Any:
    _check(value, dict, where)
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        at = f"{where}.{field.name}".lstrip(".")
        if kind is Estimate and value.get(field.name, 0) is None:
            found[field.name] = ENDLESS[field.name]
        elif field.name in value:
            found[field.name] = _decoded(hints[field.name], value[field.name], at)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _WrongError(f"{at} is missing")
    return kind(**found)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return _decoded(kind, value, where)
        except _WrongError:
            continue
    return _decoded(kinds[-1], value, where)


def _key(kind: Any, key: str, where: str) -> str | int:
    if kind is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise _WrongError(f"{where} has the key {_shown(key)}, which is no number") from None


def _check(value: Any, kind: type, where: str) -> None:
    is_right = isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool))
    if not is_right:
        raise _WrongError(f"{where or 'it'} is {_shown(value)}, not {kind.__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
