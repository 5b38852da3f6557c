"""The arguments of a call checked against the tool's declared parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edge_mtp.formats.json_schema import is_of_type, resolve
from edge_mtp.formats.tool_calls import Value, canonical

Path: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True)
class Violation:
    """One way in which an argument is not as declared.

    `label` is missing_required, extra_argument, wrong_type or enum_violation. `path` leads to the `value` and begins
    with the argument's name. A missing argument has no value.
    """

    label: str
    path: Path
    value: Value = None


def declarations(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The parameters of tools, in OpenAI's form or bare functions, by the tool's name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}


def violations(arguments: Mapping[str, Value], parameters: Mapping[str, Any]) -> list[Violation]:
    """The violations of a tool's schema in the arguments of a call.

    Types may be in capitals, as in Gemma's declarations. 1.0 is no integer, and no enum takes it for 1. A property that
    is not declared is extra, unless the schema has `additionalProperties`. The check follows `anyOf`, `oneOf` (as
    anyOf), `allOf`, `nullable` and references into the schema itself; it ignores limits and patterns.
    """
    return list(_Checker(parameters).object(dict(arguments), parameters, (), is_open=False))


class _Checker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def value(self, value: Value, schema: Any, path: Path, followed: frozenset[str] = frozenset()) -> list[Violation]:
        """`followed` are the references on the way from the value to this schema: a circle of them says nothing."""
        if not isinstance(schema, Mapping) or (value is None and schema.get("nullable") is True):
            return []
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in followed:
            found = self.value(value, resolve(reference, self._root), path, followed | {reference})
            if found:
                return found
        declared = schema.get("type", [])
        types = [name.lower() for name in ([declared] if isinstance(declared, str) else declared)]
        if types and not any(is_of_type(value, name) for name in types):
            return [Violation("wrong_type", path, value)]
        allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if allowed is not None and canonical(value) not in map(canonical, allowed):
            return [Violation("enum_violation", path, value)]
        for branch in schema.get("allOf", []):
            if found := self.value(value, branch, path, followed):
                return found
        for branches in (schema.get("anyOf", []), schema.get("oneOf", [])):
            all_found = [self.value(value, branch, path, followed) for branch in branches]
            if all_found and all(all_found):
                # What is wrong is told by the option that was meant: one of the value's type.
                return min(all_found, key=lambda found: (Violation("wrong_type", path, value) in found, len(found)))
        if isinstance(value, Mapping) and "properties" in schema:
            return list(self.object(value, schema, path, is_open=False))
        if isinstance(value, Mapping):
            return list(self.object(value, schema, path, is_open=True))
        if isinstance(value, list) and "items" in schema:
            return [v for i, item in enumerate(value) for v in self.value(item, schema["items"], (*path, i))]
        return []

    def object(
        self, value: Mapping[str, Value], schema: Mapping[str, Any], path: Path, *, is_open: bool
    ) -> Iterator[Violation]:
        """`is_open`: nothing is said of what it may hold."""
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield Violation("missing_required", (*path, name))
        additional = schema.get("additionalProperties", is_open)
        for name, inner in value.items():
            if name in properties:
                yield from self.value(inner, properties[name], (*path, name))
            elif additional is False:
                yield Violation("extra_argument", (*path, name), inner)
            else:
                yield from self.value(inner, additional, (*path, name))
