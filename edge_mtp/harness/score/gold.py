"""What a right reply to a prompt with tools is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import ToolCall, Value, canonical, format_calls


@dataclass(frozen=True)
class GoldCall:
    """A right call: for each argument the values that are right, at least one; `optional` ones may be left out.

    `loose`: texts that differ in case, spaces, the marks , . / - _ * ^ and the kind of quotes alone are as right.
    """

    name: str
    arguments: Mapping[str, Sequence[Value]]
    optional: frozenset[str] = frozenset()
    loose: bool = False

    @classmethod
    def of(cls, call: ToolCall) -> GoldCall:
        """The gold that only this call matches."""
        return cls(call.name, {key: (value,) for key, value in call.arguments.items()})

    def example(self) -> ToolCall:
        """A call that is right: the first of the right values of each argument."""
        return ToolCall(self.name, {key: values[0] for key, values in self.arguments.items()})

    def accepts(self, argument: str, value: Value) -> bool:
        """Whether a value is right for an argument. Types are strict: 1 is neither 1.0 nor true."""
        alike = folded if self.loose else canonical
        return any(alike(value) == alike(right) for right in self.arguments.get(argument, ()))

    def matches(self, call: ToolCall) -> bool:
        """Whether a call is right: its name, each of its arguments, and nothing left out but what is optional."""
        return (
            call.name == self.name
            and self.arguments.keys() - self.optional <= call.arguments.keys()
            and all(self.accepts(key, value) for key, value in call.arguments.items())
        )

    def to_json(self) -> dict[str, Any]:
        if not self.optional and not self.loose and all(len(values) == 1 for values in self.arguments.values()):
            return {"name": self.name, "arguments": {key: values[0] for key, values in self.arguments.items()}}
        accept = {key: list(values) for key, values in self.arguments.items()}
        value = {"name": self.name, "accept": accept, "optional": sorted(self.optional)}
        return value | {"loose": True} if self.loose else value

    @classmethod
    def from_json(cls, value: Any) -> GoldCall:
        """Reads the form that `to_json` writes. Raises EdgeMtpError naming what is wrong."""
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise EdgeMtpError(f"gold call {value!r} has no name; name the tool that is to be called")
        name, form = value["name"], "accept" if "accept" in value else "arguments"
        arguments = value.get(form)
        if not isinstance(arguments, Mapping):
            raise EdgeMtpError(
                f"gold call {name!r} has neither arguments nor accept as an object; map each argument to its value, "
                "or in accept to a list of right values"
            )
        allowed = {"name", "arguments"} if form == "arguments" else {"name", "accept", "optional", "loose"}
        if unknown := value.keys() - allowed:
            raise EdgeMtpError(f"gold call {name!r} has {min(unknown)!r} beside {form}; take it out")
        if form == "arguments":
            call = cls.of(ToolCall(name, arguments))
        else:
            for key, values in arguments.items():
                if not isinstance(values, list) or not values:
                    raise EdgeMtpError(f"gold call {name!r}, {key!r}: {values!r} is no list of right values; give one")
            optional = value.get("optional", [])
            if not isinstance(optional, list) or not all(isinstance(key, str) for key in optional):
                raise EdgeMtpError(f"gold call {name!r}: optional {optional!r} is no list of names; correct it")
            if unknown := set(optional) - arguments.keys():
                raise EdgeMtpError(f"gold call {name!r}: optional names {min(unknown)!r}, which accept lacks; add it")
            loose = value.get("loose", False)
            if not isinstance(loose, bool):
                raise EdgeMtpError(f"gold call {name!r}: loose {loose!r} is neither true nor false; correct it")
            call = cls(name, {key: tuple(values) for key, values in arguments.items()}, frozenset(optional), loose)
        for alternative in itertools.chain([{}], ({k: v} for k, values in call.arguments.items() for v in values)):
            try:
                format_calls([ToolCall(name, alternative)])
            except EdgeMtpError as error:
                place = "".join(f", {key!r}" for key in alternative)
                raise EdgeMtpError(f"gold call {name!r}{place}: no reply can say it: {error}") from None
        return call


@dataclass(frozen=True)
class Gold:
    """The calls that a right reply makes, each once; none where text is right and a call is wrong.

    Parallel calls have no order between them unless `ordered`. `text` is a reply without calls, as an example: any
    other text is as right.
    """

    calls: tuple[GoldCall, ...] = ()
    ordered: bool = False
    text: str | None = None

    @classmethod
    def of(cls, calls: Sequence[ToolCall]) -> Gold:
        """The gold that only these calls match, in any order."""
        return cls(tuple(map(GoldCall.of, calls)))

    def matches(self, calls: Sequence[ToolCall]) -> bool:
        """Whether the calls of a reply are right, each of the gold's made by one of its own."""
        if len(calls) != len(self.calls):
            return False
        fits = [[right.matches(call) for right in self.calls] for call in calls]
        if self.ordered:
            return all(row[i] for i, row in enumerate(fits))
        return len(maximum_matching(fits)) == len(calls)

    def to_json(self) -> dict[str, Any]:
        """`{"calls": [...]}`, with `"ordered": true` where it is; `{"text": ...}` where no call is right."""
        if self.text is not None:
            return {"text": self.text}
        value: dict[str, Any] = {"calls": [call.to_json() for call in self.calls]}
        return value | {"ordered": True} if self.ordered else value

    @classmethod
    def from_json(cls, value: Any) -> Gold:
        """Reads `{"calls": [...]}` or `{"text": ...}`.

        A call is {"name": ..., "arguments": {...}} with the exact values, or {"name": ..., "accept": {argument: [value,
        ...]}, "optional": [...], "loose": true}. Raises EdgeMtpError naming what is wrong, and for what no reply could
        say.
        """
        if not isinstance(value, Mapping) or ("calls" in value) == ("text" in value):
            raise EdgeMtpError(
                f'gold {value!r} is neither {{"calls": [...]}} nor {{"text": ...}}; say what is right: calls, or text'
            )
        if unknown := value.keys() - ({"calls", "ordered"} if "calls" in value else {"text"}):
            raise EdgeMtpError(f"gold has unknown key {min(unknown)!r}; take it out")
        if "text" in value:
            if not isinstance(value["text"], str):
                raise EdgeMtpError(f"gold text {value['text']!r} is no text; use a string")
            return cls(text=value["text"])
        calls, ordered = value["calls"], value.get("ordered", False)
        if not isinstance(calls, list):
            raise EdgeMtpError(f"gold calls {calls!r} are no list; wrap them in [ ]")
        if not isinstance(ordered, bool):
            raise EdgeMtpError(f"gold ordered {ordered!r} is neither true nor false; correct it")
        return cls(tuple(map(GoldCall.from_json, calls)), ordered)


def folded(value: Value) -> str:
    """Text that is the same for values that differ as `GoldCall.loose` allows. The rule is that of BFCL's checker
    (`standardize_string` in bfcl_eval/eval_checker/ast_eval/ast_checker.py)."""

    def fold(value: Value) -> Value:
        if isinstance(value, str):
            return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
        if isinstance(value, list):
            return [fold(each) for each in value]
        return {key: fold(each) for key, each in value.items()} if isinstance(value, dict) else value

    return canonical(fold(value))


def maximum_matching(fits: Sequence[Sequence[bool]]) -> dict[int, int]:
    """As many rows as can have a column of their own where the matrix is true, and which (Kuhn's augmenting paths)."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    for row in range(len(fits)):
        place(row, set())
    return {row: column for column, row in row_of.items()}
