"""Rules for results: `METRIC[.bound][@ARM][#KIND] OP VALUE[unit]`. The language: docs/results.md.

speedup < 1.0
toolcall.error > +1pp
first_token.p95@"int8, mtp auto"#chat > +10%
"""

from __future__ import annotations

import difflib
import json
import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.metrics import METRICS, Metric, metric_names
from edge_mtp.harness.stats.changes import Figure
from edge_mtp.harness.stats.statistics import Estimate

Bound = Literal["value", "low", "high"]
BOUNDS: Final[tuple[Bound, ...]] = ("value", "low", "high")
Operator = Literal["<", "<=", ">", ">="]
OPERATORS: Final[tuple[Operator, ...]] = ("<=", ">=", "<", ">")  # the longer first
POINTS = "pp"
SLACK = 1e-9  # figures this near to each other, relative to the larger or 1, are equal: sums of floats are not exact

_NAME = re.compile(r"[A-Za-z0-9_.]*")
_POSITION = re.compile(r"\[\s*([0-9]{1,6})\s*\]")
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BARE = re.compile(r'[^"<>#]+')


class Verdict(str, Enum):
    """What the figures say of a condition."""

    TRIGGERED = "triggered"
    NOT_TRIGGERED = "not triggered"
    CANNOT_TELL = "cannot tell"


class RuleError(EdgeMtpError):
    """A rule that says nothing: wrong usage, not a wrong result."""


@dataclass(frozen=True)
class Rule:
    """A condition. `str` gives it back as text that `parse_rule` reads.

    `position`: of `acceptance[N]`, from 1. `bound` None asks the whole interval. `arm` and `kind` None: each arm; all
    kinds. With `is_change` the condition is on the change from A to B: of `value` per cent of A with unit `%`, else
    in the metric's own unit (`pp` for shares). Otherwise it is on B's own figure.
    """

    metric: str
    operator: Operator
    value: float
    unit: str = ""
    is_change: bool = False
    position: int | None = None
    bound: Bound | None = None
    arm: str | None = None
    kind: str | None = None

    @property
    def of(self) -> Metric:
        return METRICS[self.metric]

    @property
    def is_relative(self) -> bool:
        return self.is_change and self.unit == "%"

    @property
    def threshold(self) -> float:
        """In the metric's base unit; a fraction of A where the rule is relative."""
        if self.is_relative or self.unit == POINTS:
            return self.value / 100
        return self.value * self.of.quantity.units[self.unit]

    @property
    def name(self) -> str:
        """The metric with its position: `acceptance[1]`."""
        return self.metric if self.position is None else f"{self.metric}[{self.position}]"

    def judge(self, figure: Figure) -> Verdict:
        """Whether the condition holds for a figure in the unit of `threshold`.

        With an interval and no bound: it holds where all of the interval satisfies it, and does not where none does.
        Raises EdgeMtpError where `bound` is that of an interval and the figure has none.
        """
        if self.bound is not None:
            return self._at(self._point(figure))
        if isinstance(figure, float):
            return self._at(figure)
        ends = {self._at(figure.low), self._at(figure.high)}
        return ends.pop() if len(ends) == 1 else Verdict.CANNOT_TELL

    def _point(self, figure: Figure) -> float:
        if isinstance(figure, Estimate):
            return float(getattr(figure, self.bound or "value"))
        if self.bound != "value":
            raise EdgeMtpError(f"rule '{self}': {self.name} has no interval here; drop .{self.bound}")
        return figure

    def _at(self, figure: float) -> Verdict:
        if math.isnan(figure):
            return Verdict.CANNOT_TELL
        near = math.isclose(figure, self.threshold, rel_tol=SLACK, abs_tol=SLACK)
        above = figure > self.threshold and not near
        holds = {">": above, "<": not (above or near), ">=": above or near, "<=": not above}[self.operator]
        return Verdict.TRIGGERED if holds else Verdict.NOT_TRIGGERED

    def __str__(self) -> str:
        bound = f".{self.bound}" if self.bound else ""
        arm = f"@{_quoted(self.arm)}" if self.arm is not None else ""
        kind = f"#{_quoted(self.kind)}" if self.kind is not None else ""
        sign = "" if not self.is_change else "-" if math.copysign(1.0, self.value) < 0 else "+"
        return f"{self.name}{bound}{arm}{kind} {self.operator} {sign}{_decimal(abs(self.value))}{self.unit}"


def parse_rule(text: str) -> Rule:
    """Reads a rule. Raises RuleError, one line with the place and the cure."""
    reader = _Reader(text)
    metric, position, bound = _metric(reader)
    arm = _label(reader, "@", "ARM")
    kind = _label(reader, "#", "KIND")
    operator = _operator(reader)
    value, unit, is_change = _value(reader, metric)
    return Rule(metric.name, operator, value, unit, is_change, position, bound, arm, kind)


class _Reader:
    """A rule and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What `pattern` matches here, read."""
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def takes(self, text: str) -> bool:
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def wrong(self, what: str, at: int | None = None) -> RuleError:
        at = self.at if at is None else at
        rest = self.text[at : at + 20]
        place = f"character {at + 1}, '{rest}'" if rest.strip() else "its end"
        return RuleError(" ".join(f"rule '{self.text}', at {place}: {what}".split()))


def _metric(reader: _Reader) -> tuple[Metric, int | None, Bound | None]:
    reader.skip()
    begin = reader.at
    found = reader.take(_NAME)
    path = found[0] if found else ""
    bound: Bound | None = None
    name, _, last = path.rpartition(".")
    if path not in METRICS and name in METRICS and last in BOUNDS:
        path, bound = name, _as_bound(last)
    if path not in METRICS:
        near = difflib.get_close_matches(path, METRICS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise reader.wrong(
            f"'{path}' is no metric; {meant}There are {metric_names()}; after it may come .value, .low or .high", begin
        )
    metric = METRICS[path]
    at = reader.at
    position = reader.take(_POSITION)
    if position is not None and (not metric.has_position or int(position[1]) == 0):
        what = "positions count from 1" if metric.has_position else f"{path} has no positions; drop {position[0]}"
        raise reader.wrong(what, at)
    if metric.has_position and position is None:
        raise reader.wrong(f"{path} needs a position, as in {path}[1]", at)
    if position is not None and bound is None and reader.takes("."):
        last = (reader.take(_NAME) or "")[0]
        if last not in BOUNDS:
            raise reader.wrong(f"'.{last}' is no bound; use .value, .low or .high", at + len(position[0]))
        bound = _as_bound(last)
    return metric, None if position is None else int(position[1]), bound


def _as_bound(text: str) -> Bound:
    return next(bound for bound in BOUNDS if bound == text)


def _label(reader: _Reader, mark: str, noun: str) -> str | None:
    reader.skip()
    begin = reader.at
    if not reader.takes(mark):
        return None
    reader.skip()
    if quoted := reader.take(_STRING):
        try:
            label = str(json.loads(quoted[0], strict=False))
        except ValueError:
            raise reader.wrong(f"{quoted[0]} is no string; escape as in JSON", begin + 1) from None
    else:
        bare = reader.take(_BARE)
        label = bare[0].strip() if bare else ""
    if not label:
        raise reader.wrong(f'{mark} needs {noun}, in double quotes if it has one of " < > #', begin)
    return label


def _operator(reader: _Reader) -> Operator:
    reader.skip()
    for operator in OPERATORS:
        if reader.takes(operator):
            return operator
    raise reader.wrong("a comparison is missing; use <, <=, > or >=, then a value")


def _value(reader: _Reader, metric: Metric) -> tuple[float, str, bool]:
    reader.skip()
    begin = reader.at
    sign = -1.0 if reader.takes("-") else 1.0
    is_change = sign < 0 or reader.takes("+")
    number = reader.take(_NUMBER)
    if number is None:
        raise reader.wrong("a number is missing, as in 1.05, 300ms, 98%, +1pp or -3%")
    value = sign * float(number[0])
    if not math.isfinite(value):
        raise reader.wrong("the number is too large", begin)
    reader.skip()
    at, unit = reader.at, reader.text[reader.at :].strip()
    units = metric.quantity.units
    allowed = [*units, *(("%",) if is_change else ()), *((POINTS,) if is_change and "%" in units else ())]
    if is_change and metric.is_change:
        raise reader.wrong(f"{metric.name} is a change from A to B already; drop the sign", begin)
    if unit == POINTS and "%" in units and not is_change:
        raise reader.wrong("pp is a difference from A; write +1pp or -1pp, or 1% for B's own figure", begin)
    if unit not in allowed:
        known = ", ".join(dict.fromkeys(each or "none" for each in allowed))
        cure = "; per cent of A: write +5% or -5%" if unit == "%" else ""
        what = f"'{unit[:20]}' is no unit of {metric.name}" if unit else f"{metric.name} needs a unit"
        raise reader.wrong(f"{what}; use {known}{cure}", at)
    if "%" in units and unit != "%" and abs(value) > (100 if unit == POINTS else 1):
        raise reader.wrong(f"{metric.name} is a share; write {_decimal(abs(value))}%, or a number from 0 to 1", begin)
    return value, unit, is_change


def _quoted(label: str) -> str:
    """A label as a rule names it: bare where it can be."""
    bare = _BARE.fullmatch(label) and label == label.strip() and label.isprintable()
    return label if bare else json.dumps(label, ensure_ascii=not label.isprintable())


def _decimal(value: float) -> str:
    text = repr(value)
    return text.removesuffix(".0")
