"""The arguments of a call checked against the tool's declared parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edge_mtp.formats.tool_calls import Value, canonical

Path: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True)
class Violation:
    """`label` is missing_required, extra_argument, wrong_type or enum_violation; `path` leads to the `value`, from the
    name of the argument on. What is missing has no value."""

    label: str
    path: Path
    value: Value = None


def declarations(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The parameters of tools, in OpenAI's form or bare functions, by the tool's name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}


def violations(arguments: Mapping[str, Value], parameters: Mapping[str, Any]) -> list[Violation]:
    """What in the arguments of a call is not as declared.

    Types may be in capitals, as Gemma's declarations have them. 1.0 is no integer, and equal to 1 in no enum. What is
    not declared is extra, unless the schema has `additionalProperties`. Followed are `anyOf`, `oneOf` (as anyOf),
    `allOf`, `nullable` and references into the schema itself; limits and patterns are not looked at.
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
            found = self.value(value, self._referred(reference), path, followed | {reference})
            if found:
                return found
        declared = schema.get("type", [])
        types = [name.lower() for name in ([declared] if isinstance(declared, str) else declared)]
        if types and not any(_is_of(value, name) for name in types):
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

    def _referred(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        return found


def _is_of(value: Value, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str, "integer": int, "number": (int, float), "null": type(None), "array": list, "object": Mapping,
    }  # fmt: skip
    return isinstance(value, kinds.get(name, ()))
