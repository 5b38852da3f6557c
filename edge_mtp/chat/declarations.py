"""Rewrites tool declarations with only the keywords that a chat template writes.

For a parameter, Gemma's templates write one `type`, its `description`, `enum` (of strings), `nullable`, `items`,
`properties` and `required`, and nothing else. Given a list of types, or no type, they write nonsense. `declarations`
expresses a schema with those keywords, and the rest as short text in the descriptions:

    {"type": ["integer", "string"], "minimum": 1, "description": "Line."}
    -> {"type": "integer", "description": "Line. Either an integer (At least 1.), or a string."}

A reference is replaced by its target, but inside that target only by its name. Keywords without a wording here are
quoted as JSON. Left out are `$comment`, `$id`, `x-...` and other keywords without a meaning in JSON schema, and
`additionalProperties: false`, which a model assumes anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from edge_mtp.formats.json_schema import is_of_type, resolve, type_of
from edge_mtp.formats.tool_calls import check_tools

Told = dict[str, Any]

_LARGEST = 1000  # schemas to which one tool's references may expand; further references are named only
_PLAINLY = {"array": "A list.", "object": "An object."}
_NOUNS = {
    **{"string": "a string", "number": "a number", "integer": "an integer", "boolean": "true or false"},
    **{"array": "a list", "object": "an object", "null": "null"},
}
_OBJECT_KEYWORDS = (
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"),
    *("maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
)
_ARRAY_KEYWORDS = (
    *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains"),
    *("maxContains", "unevaluatedItems"),
)
_STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "contentEncoding", "contentMediaType", "contentSchema")
_NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_QUOTED = (  # quoted as JSON, since there is no wording for them
    *("if", "then", "else", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
    *("contentSchema", "$dynamicRef", "$recursiveRef"),
)


def declarations(tools: Any, *, untold: Collection[str] = (), described: bool = False) -> list[dict[str, Any]]:
    """Rewrites tools, given as for `check_tools`, for a chat template. Raises `EdgeMtpError` like `check_tools`.

    `untold` are property names that the template leaves out (two of Google's take `type` and `description` for keywords
    everywhere); the description of the containing object mentions them instead. `described` gives every list and object
    a description, without which the same two templates misplace a comma.
    """
    told = []
    for tool in check_tools(tools):
        function = tool["function"]
        root = _Teller(function["parameters"], frozenset(untold), described).tell(function["parameters"])
        own = root.pop("description", "")
        description = _joined([function["description"], "" if own == _PLAINLY["object"] else own])
        parameters = {keyword: root[keyword] for keyword in ("type", "properties", "required") if keyword in root}
        told.append(
            {
                "type": "function",
                "function": {"name": function["name"], "description": description, "parameters": parameters},
            }
        )
    return told


class _Teller:
    def __init__(self, root: Any, untold: frozenset[str], described: bool) -> None:
        self._root = root
        self._described = described
        self._untold = untold
        self._open = ["#"]  # references being followed
        self._count = 0

    def tell(self, schema: Any, key: str = "") -> Told:
        """The schema of the property `key` with one type, and the rest of it as text in the description."""
        self._count += 1
        if isinstance(schema, bool):
            return {"type": "string", "description": "Any JSON value." if schema else "No value is allowed."}
        followed: list[str] = []
        flat = self._flat(schema, followed)
        if isinstance(flat, str):
            again = self._kinds(schema)
            kind = next((kind for kind in again if kind != "null"), "string")
            return self._finished({"type": kind}, [schema.get("description") or "", f"Again {flat}."])
        self._open += followed
        told = self._told(flat, key)
        del self._open[len(self._open) - len(followed) :]
        return told

    # -- one flat schema

    def _flat(self, schema: Mapping[str, Any], followed: list[str]) -> dict[str, Any] | str:
        """The schema with its `$ref` and `allOf` merged into it; for a recursive reference, the name of its target."""
        flat = {keyword: value for keyword, value in schema.items() if keyword not in ("$ref", "allOf", "also")}
        parts = list(schema.get("allOf", []))
        if "$ref" in schema:
            reference = schema["$ref"]
            found = resolve(reference, self._root)
            if found is None:
                flat.setdefault("also", []).append(f"As in {reference}.")
            elif reference in self._open or reference in followed or self._count > _LARGEST:
                name = found.get("title") if isinstance(found, Mapping) else None
                return str(name or reference.rsplit("/", 1)[-1].replace("#", "") or "the arguments as a whole")
            else:
                followed.append(reference)
                parts.insert(0, found)
        for part in parts:
            if isinstance(part, bool):
                if not part:
                    flat.setdefault("also", []).append("No value is allowed.")
                continue
            inner = self._flat(part, followed)
            if isinstance(inner, str):
                flat.setdefault("also", []).append(f"Again {inner}.")
            else:
                self._merge(flat, inner)
        return flat

    def _merge(self, flat: dict[str, Any], other: Mapping[str, Any]) -> None:
        """Merges another schema into `flat`; keywords that cannot be merged become text."""
        rest: dict[str, Any] = {}
        for keyword, value in other.items():
            mine: Any = flat.get(keyword)
            if keyword not in flat:
                flat[keyword] = value
            elif mine == value or keyword in ("description", "title", "default", "examples", "$defs", "definitions"):
                continue
            elif keyword == "also":
                flat[keyword] = [*mine, *value]
            elif keyword == "properties":
                both = {key: {"allOf": [mine[key], value[key]]} for key in mine.keys() & value.keys()}
                flat[keyword] = {**mine, **value, **both}
            elif keyword == "required":
                flat[keyword] = list(dict.fromkeys([*mine, *value]))
            elif keyword == "type":
                kinds = [kind for kind in _listed(mine) if kind in _listed(value)]
                kinds = kinds or (["integer"] if {*_listed(mine), *_listed(value)} <= {"integer", "number"} else [])
                flat[keyword] = kinds or mine
            elif keyword == "enum":
                flat[keyword] = [each for each in mine if each in value] or mine
            elif keyword in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
                flat[keyword] = max(mine, value)
            elif keyword in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
                flat[keyword] = min(mine, value)
            else:
                rest[keyword] = value
        if rest:
            flat.setdefault("also", []).append(f"Also: {_json(rest)}.")

    def _kinds(self, schema: Any, followed: frozenset[str] = frozenset()) -> list[str]:
        """The types that a schema names, in the same order."""
        if not isinstance(schema, Mapping):
            return []
        if "type" in schema:
            return _listed(schema["type"])
        if "$ref" in schema and schema["$ref"] not in followed:
            return self._kinds(resolve(schema["$ref"], self._root), followed | {schema["$ref"]})
        if "const" in schema or "enum" in schema:
            return list(dict.fromkeys(map(type_of, schema.get("enum", [schema.get("const")]))))
        branches = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
        kinds = list(dict.fromkeys(kind for branch in branches for kind in self._kinds(branch, followed)))
        return kinds or _hinted(schema)

    def _told(self, schema: dict[str, Any], key: str) -> Told:
        words: list[str] = []
        own = schema.get("description") or self._title(schema, key)
        choice = next((keyword for keyword in ("anyOf", "oneOf") if keyword in schema), None)
        if choice is not None:
            told = self._choice(schema, choice, words)
            if told is not None:
                return self._finished(told, [own, *words, *self._always(schema)])
        if "const" in schema or "enum" in schema:
            told = self._values(schema, words)
            return self._finished(told, [own, *words, *self._always(schema)])
        kinds = _listed(schema.get("type", [])) or self._kinds(schema)
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        nullable = "null" in kinds and len(kinds) > 1
        kinds = [kind for kind in kinds if kind != "null" or not nullable]
        if not kinds:
            told = {"type": "string"}
            words.append("Any JSON value.")
        elif len(kinds) == 1:
            told = self._typed(schema, kinds[0], words)
        else:
            alternatives = [self._finished(each, text) for each, text in self._each(schema, kinds)]
            told = dict(alternatives[0])
            told.pop("description", None)
            words.append(f"Either {_alternatives(alternatives)}.")
        if nullable:
            told["nullable"] = True
        return self._finished(told, [own, *words, *self._always(schema)])

    def _each(self, schema: dict[str, Any], kinds: Sequence[str]) -> Iterable[tuple[Told, list[str]]]:
        for kind in kinds:
            words: list[str] = []
            yield self._typed(schema, kind, words), words

    def _title(self, schema: Mapping[str, Any], key: str) -> str:
        """The title, if it says more than the property's name."""
        title = schema.get("title") or ""
        return "" if _letters(title) == _letters(key) or not key else title

    def _always(self, schema: Mapping[str, Any]) -> list[str]:
        """Text for the keywords that apply to values of any type."""
        words = list(schema.get("also", []))
        if "format" in schema:
            words.append(f"Format: {_plain(schema['format'])}.")
        if "not" in schema:
            words.append(f"Not {_phrase(self.tell(schema['not']))}.")
        if schema.get("default") is not None:
            words.append(f"Default: {_json(schema['default'])}.")
        examples = schema.get("examples", [schema["example"]] if "example" in schema else [])
        if examples:
            listed = examples if isinstance(examples, list) else [examples]
            words.append(f"For example {', '.join(map(_json, listed))}.")
        for keyword, text in (("deprecated", "Deprecated."), ("readOnly", "Read-only."), ("writeOnly", "Write-only.")):
            if schema.get(keyword) is True:
                words.append(text)
        quoted = {keyword: schema[keyword] for keyword in _QUOTED if keyword in schema}
        if quoted:
            words.append(f"As JSON schema: {_json(quoted)}.")
        return words

    # -- choices

    def _choice(self, schema: dict[str, Any], keyword: str, words: list[str]) -> Told | None:
        """A schema with alternatives; None if they only list required properties, which then become text."""
        base = {k: v for k, v in schema.items() if k not in (keyword, "description", "title", "also", *_ALWAYS)}
        options = schema[keyword]
        if other := base.pop("oneOf" if keyword == "anyOf" else "anyOf", None):
            words.append(f"Also one of: {'; '.join(_phrase(self.tell(option)) for option in other)}.")
        names: list[Any] = [option.get("required") for option in options if isinstance(option, Mapping)]
        if len(names) == len(options) and all(names) and all(set(o) <= {"required", "title"} for o in options):
            sets = "; ".join(" and ".join(map(_json, each)) for each in names)
            words.append(f"{'Exactly one' if keyword == 'oneOf' else 'At least one'} of these is needed: {sets}.")
            del schema[keyword]
            return None
        values = [_constants(option) for option in options]
        if all(each is not None for each in values):
            return self._constants(base, options, words)
        merged: list[Any] = []
        nullable = False
        for option in options:
            if isinstance(option, Mapping) and _kinds_of_null(option):
                nullable = True
            else:
                merged.append({"allOf": [option, base]} if base else option)
        told = [self.tell(option) for option in merged]
        if not told:
            return {"type": "null"}
        nullable = nullable or any(each.pop("nullable", False) for each in told)
        first = dict(told[0])
        if len(told) == 1:
            words.append(first.pop("description", ""))
        elif all(each["type"] == "object" for each in told):
            first = self._one_object(merged, told, words)
        else:
            first.pop("description", None)
            if len({each["type"] for each in told}) == 1 and first["type"] == "string":
                # An enum of one alternative would exclude the strings of the others.
                enums = [each.get("enum") for each in told]
                first.pop("enum", None)
                if all(enums):
                    first["enum"] = list(dict.fromkeys(value for each in enums for value in each or []))
            words.append(f"Either {_alternatives(told)}.")
        if nullable:
            first["nullable"] = True
        return first

    def _one_object(self, options: Sequence[Any], told: Sequence[Told], words: list[str]) -> Told:
        """Merges objects of several forms into one with all their properties."""
        schemas: dict[str, list[Any]] = {}
        followed: list[str] = []
        for option in options:
            flat = self._flat(option, followed)
            for key, value in (flat.get("properties", {}) if isinstance(flat, dict) else {}).items():
                if value is not False and value not in schemas.setdefault(key, []):
                    schemas[key].append(value)
        self._open += followed
        properties = {
            key: self.tell(each[0] if len(each) == 1 else {"anyOf": each}, key) for key, each in schemas.items() if each
        }
        del self._open[len(self._open) - len(followed) :]
        required = [key for key in told[0].get("required", []) if all(key in each.get("required", []) for each in told)]
        forms = []
        for each in told:
            keys = ", ".join(
                _json(key)
                + (f" {_literal(inner)}" if _literal(inner) else "")
                + ("" if key in each.get("required", []) else " (optional)")
                for key, inner in each.get("properties", {}).items()
            )
            text = each.get("description", "")
            forms.append((f"with {keys}" if keys else "an object") + (f" ({text})" if text else ""))
        words.append(f"One of these forms: {'; '.join(dict.fromkeys(forms))}.")
        return {"type": "object", "properties": properties, **({"required": required} if required else {})}

    def _constants(self, base: Mapping[str, Any], options: Sequence[Mapping[str, Any]], words: list[str]) -> Told:
        """A choice among values, some of which may have titles."""
        values, titles = [], []
        for option in options:
            text = option.get("title") or option.get("description")
            for value in _constants(option) or []:
                values.append(value)
                if text and text != value:
                    titles.append(f"{_json(value)}: {_sentence(text).removesuffix('.')}")
        told = self._values({**base, "enum": values}, words)
        if titles:
            words.append(f"{'; '.join(titles)}.")
        return told

    def _values(self, schema: Mapping[str, Any], words: list[str]) -> Told:
        values: list[Any] = schema.get("enum", [schema.get("const")])
        if "enum" in schema and "const" in schema:
            values = [schema["const"]]
        allowed = _listed(schema.get("type", []))
        fitting = [
            value for value in values if not allowed or any(is_of_type(value, name) for name in allowed)
        ] or list(values)
        rest = [value for value in fitting if value is not None]
        if not rest:
            return {"type": "null"}
        kinds = list(dict.fromkeys(map(type_of, rest)))
        kind = "number" if set(kinds) == {"integer", "number"} else kinds[0]
        told: Told = {"type": kind}
        if kinds == ["string"]:
            told["enum"] = rest
        else:
            words.append(f"Always {_json(rest[0])}." if len(rest) == 1 else f"One of {', '.join(map(_json, rest))}.")
        if kind == "array":
            told["items"] = {}
        if kind == "object":
            told["properties"] = {}
        if None in fitting:
            told["nullable"] = True
        return told

    # -- types

    def _typed(self, schema: Mapping[str, Any], kind: str, words: list[str]) -> Told:
        tellers: dict[str, Callable[[Mapping[str, Any], list[str]], Told]] = {
            "object": self._object, "array": self._array, "string": self._string,
        }  # fmt: skip
        if kind in ("integer", "number"):
            words += _limits(schema)
        told = tellers[kind](schema, words) if kind in tellers else {}
        return {"type": kind, **told}

    def _string(self, schema: Mapping[str, Any], words: list[str]) -> Told:
        words += _counted(schema, "minLength", "maxLength", "character")
        if "pattern" in schema:
            words.append(f"Matches the regular expression {_json(schema['pattern'])}.")
        if "contentEncoding" in schema:
            words.append(f"Encoded in {_plain(schema['contentEncoding'])}.")
        if "contentMediaType" in schema:
            words.append(f"Holds {_plain(schema['contentMediaType'])}.")
        return {}

    def _array(self, schema: Mapping[str, Any], words: list[str]) -> Told:
        ordered = schema.get("prefixItems", schema["items"] if isinstance(schema.get("items"), list) else [])
        rest = schema.get("additionalItems") if isinstance(schema.get("items"), list) else schema.get("items")
        items: Told = {}
        if ordered:
            each = "; ".join(_phrase(self.tell(item)) for item in ordered)
            behind = "" if rest is None or rest is True else "; then no more" if rest is False else (
                f"; then each {_phrase(self.tell(rest))}"
            )  # fmt: skip
            words.append(f"In this order: {each}{behind}.")
        elif rest is False:
            words.append("Always empty.")
        elif isinstance(rest, Mapping) and rest:
            items = self.tell(rest)
        words += _counted(schema, "minItems", "maxItems", "item")
        if schema.get("uniqueItems") is True:
            words.append("No item twice.")
        if "contains" in schema:
            least, most = schema.get("minContains", 1), schema.get("maxContains")
            count = f"at least {least}" if most is None else f"{least} to {most}"
            words.append(f"Of its items {count} must be {_phrase(self.tell(schema['contains']))}.")
        return {"items": items}

    def _object(self, schema: Mapping[str, Any], words: list[str]) -> Told:
        additional = schema.get("additionalProperties")
        properties = {key: value for key, value in schema.get("properties", {}).items() if value is not False}
        required = list(dict.fromkeys(schema.get("required", [])))
        for key in required:
            properties.setdefault(key, additional if isinstance(additional, Mapping) else True)
        told = {key: self.tell(value, key) for key, value in properties.items()}
        for pattern, value in schema.get("patternProperties", {}).items():
            words.append(f"Keys that match {_json(pattern)}: {_phrase(self.tell(value))}.")
        if isinstance(additional, Mapping) and additional:
            which = "Any other key" if told or "patternProperties" in schema else "Any key"
            words.append(f"{which}: {_phrase(self.tell(additional))}.")
        elif additional is True or additional == {}:
            words.append("Other keys are allowed." if told else "Any keys.")
        elif additional is None and not told and not schema.keys() & {"properties", "patternProperties"}:
            words.append("Any keys.")
        if "propertyNames" in schema:
            words.append(f"Each key is {_phrase(self.tell(schema['propertyNames']))}.")
        words += _counted(schema, "minProperties", "maxProperties", "key")
        for key, others in schema.get("dependentRequired", {}).items():
            if others:
                words.append(f"With {_json(key)} goes {' and '.join(map(_json, others))}.")
        for key in [key for key in told if key in self._untold]:
            need = "required" if key in required else "optional"
            words.append(f"Property {_json(key)} ({need}): {_phrase(told[key])}.")
        return {"properties": told, **({"required": required} if required else {})}

    def _finished(self, told: Told, words: Iterable[str]) -> Told:
        """The keywords in a fixed order, including a type's own even if empty, since some templates expect them."""
        description = _joined(words) or (_PLAINLY.get(told["type"], "") if self._described else "")
        told = {**told, **({"description": description} if description else {})}
        if told["type"] == "object":
            told.setdefault("properties", {})
        if told["type"] == "array":
            told.setdefault("items", {})
        return told


_ALWAYS = (
    *("format", "not", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$defs"),
    *("definitions", "$schema", "$id", "$comment", "discriminator", "nullable", *_QUOTED),
)


# -- text -----------------------------------------------------------------------------------------------------------


def _phrase(told: Told) -> str:
    """A declared value in a few words: "a list, each a string (1 to 5 characters)"."""
    kind = told["type"]
    noun = _literal(told) or _NOUNS[kind]
    if kind == "array" and told.get("items"):
        noun += f", each {_phrase(told['items'])}"
    if kind == "object" and told.get("properties"):
        required = told.get("required", [])
        noun += " with " + ", ".join(
            f"{_json(key)}{'' if key in required else ' (optional)'}: {_phrase(inner)}"
            for key, inner in told["properties"].items()
        )
    if told.get("nullable"):
        noun += " or null"
    text = told.get("description", "")
    if text == "Any JSON value.":
        return "any JSON value"
    return f"{noun} ({text})" if text else noun


def _literal(told: Told) -> str:
    values = told.get("enum", [])
    return _json(values[0]) if len(values) == 1 else f"one of {', '.join(map(_json, values))}" if values else ""


def _alternatives(told: Sequence[Told]) -> str:
    return ", or ".join(dict.fromkeys(map(_phrase, told)))


def _limits(schema: Mapping[str, Any]) -> list[str]:
    words = []
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is True:  # draft 4
        above, low = low, None
    if below is True:
        below, high = high, None
    if low is not None and high is not None:
        words.append(f"From {_json(low)} to {_json(high)}.")
    else:
        words += [f"At least {_json(low)}."] if low is not None else []
        words += [f"At most {_json(high)}."] if high is not None else []
    words += [f"More than {_json(above)}."] if above is not None and above is not False else []
    words += [f"Less than {_json(below)}."] if below is not None and below is not False else []
    if "multipleOf" in schema:
        words.append(f"A multiple of {_json(schema['multipleOf'])}.")
    return words


def _counted(schema: Mapping[str, Any], least: str, most: str, noun: str) -> list[str]:
    low, high = schema.get(least), schema.get(most)
    if low is None and high is None:
        return []
    ending = "" if (low if high is None else high) == 1 else "s"
    if low is None:
        return [f"At most {_json(high)} {noun}{ending}."]
    if high is None:
        return [f"At least {_json(low)} {noun}{ending}."] if low else []
    return [
        f"Exactly {_json(low)} {noun}{ending}." if low == high else f"{_json(low)} to {_json(high)} {noun}{ending}."
    ]


def _joined(words: Iterable[str]) -> str:
    """Joins texts as sentences, without duplicates."""
    kept = list(dict.fromkeys(text for word in words if (text := word.strip())))
    return " ".join([*map(_sentence, kept[:-1]), *kept[-1:]])


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", ":", ";")) else f"{text}."


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()


# -- schemas --------------------------------------------------------------------------------------------------------


def _listed(kinds: Any) -> list[str]:
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _hinted(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema without `type` implies by its keywords."""
    hints = {
        "object": _OBJECT_KEYWORDS, "array": _ARRAY_KEYWORDS, "string": _STRING_KEYWORDS, "number": _NUMBER_KEYWORDS,
    }  # fmt: skip
    return [kind for kind, keywords in hints.items() if any(keyword in schema for keyword in keywords)]


def _constants(option: Any) -> list[Any] | None:
    """The values of an option that only lists values; None for any other option."""
    if not isinstance(option, Mapping) or not option.keys() & {"const", "enum"}:
        return None if not isinstance(option, Mapping) or not _kinds_of_null(option) else [None]
    if option.keys() - {"const", "enum", "type", "title", "description"}:
        return None
    return list(option.get("enum", [option.get("const")]))


def _kinds_of_null(option: Mapping[str, Any]) -> bool:
    return option.get("type") in ("null", ["null"]) or option.get("const", 0) is None or option.get("enum") == [None]
