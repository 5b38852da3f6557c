"""What is wrong with a reply to a prompt with tools, by labels. Their rules: docs/tool-call-errors.md."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edge_mtp.formats.lenient_calls import MARK, parse_leniently
from edge_mtp.formats.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    IDENTIFIER,
    ToolCall,
    Value,
    canonical,
)
from edge_mtp.harness.score.call_syntax import CallSyntax, read_call_syntax
from edge_mtp.harness.score.gold import Gold, GoldCall, maximum_matching
from edge_mtp.harness.score.schema_check import Violation, declarations, violations

Finish = Literal["stop", "length", "context", "crash", "timeout", "refused"]  # how a reply ended

# Where a conversation went wrong: beside what went wrong there, and so never primary.
LATER_TURN = "later_turn"
# Levels from the first to go wrong to the last, with their labels. The primary label is the first that applies.
LEVELS: dict[str, tuple[str, ...]] = {
    "harness": ("crash", "timeout", "oom", "refused"),
    "emission": ("open_thought", "no_call", "spurious_call", "truncated", "degenerate_loop", "channel_leak"),
    "syntax": ("unclosed", "bad_delimiter", "bad_key", "wrong_quote"),
    "schema": (
        "unknown_tool", "wrong_tool", "missing_required", "extra_argument", "duplicate_key", "wrong_type",
        "enum_violation",
    ),
    "value": ("digit_corruption", "copy_error", "other_value"),
    "set": ("count", "order", "merged"),
    "turn": (LATER_TURN,),
}  # fmt: skip
LABELS = tuple(label for labels in LEVELS.values() for label in labels)

_LONGEST = 200  # characters of a finding's text
_LOOP_TIMES, _LOOP_LENGTH, _LOOP_WINDOW = 6, 60, 3000
_ALIKE = 0.5  # of difflib's ratio: from here on a string is another one altered
_COMPARED = 500  # characters of strings that are held against each other
_MEMORY = re.compile(r"out of memory|(?:not enough|too little|insufficient) memory|cannot allocate|bad_alloc", re.I)
_CALL_BEGIN = re.compile(rf"call:\s*({IDENTIFIER.pattern})\s*[{{(]")
_DIGITS = re.compile(r"[0-9]+")
_ABSENT = object()


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its label, and the text that shows it, or the name of what is missing. The text has 200
    characters at most; it is empty where there is nothing to show."""

    label: str
    text: str


@dataclass(frozen=True)
class Score:
    """A reply compared with its gold. `findings` are in the order of `LEVELS`; a right reply has none.

    `lenient`: whether the calls that a forgiving parser reads are right, whatever `findings` say of their syntax.
    """

    findings: tuple[Finding, ...]
    lenient: bool

    @property
    def is_right(self) -> bool:
        return not self.findings

    @property
    def primary(self) -> str | None:
        return self.findings[0].label if self.findings else None

    def in_turn(self, turn: int, turns: int) -> Score:
        """The score of a conversation of `turns` turns that first went wrong in `turn`, from 0; `self` is that turn's
        score.
        """
        if turn == 0 or self.is_right:
            return self
        return replace(self, findings=(*self.findings, Finding(LATER_TURN, f"turn {turn + 1} of {turns}")))


def score(
    text: str,
    finish: Finish,
    error: str | None,
    gold: Gold,
    tools: Sequence[Mapping[str, Any]],
    prompt: str = "",
    *,
    open_thought: str | None = None,
) -> Score:
    """Holds a reply against what is right. `prompt` is what the values of arguments may be copied from.

    `text` is the answer alone: what was thought is not judged. `open_thought` is the thought inside which the reply
    ended, None where it did not.

    A reply is right, and has no findings, if it ended by itself (`finish` is "stop", and no `error`) and not inside a
    thought, each call in it is in the strict format, and together they match `gold`.
    """
    if error is not None or finish not in ("stop", "length", "context"):
        return Score((Finding(_fate(finish, error), _excerpt(error or "")),), lenient=False)
    made = read_call_syntax(text, tools)
    lenient = gold.matches(parse_leniently(text, tools))
    ended = finish == "stop" and open_thought is None
    if ended and not any(each.labels for each in made) and gold.matches([c for a in made for c in a.calls]):
        return Score((), lenient)
    declared = declarations(tools)
    findings = [
        *_emission(text, finish, gold, made, declared, open_thought),
        *(Finding(label, each.shown) for each in made for label in each.labels),
        *_comparison(made, gold, declared, prompt, is_cut=not ended),
    ]
    unique = dict.fromkeys(Finding(f.label, _excerpt(f.text)) for f in findings)
    return Score(tuple(sorted(unique, key=lambda finding: LABELS.index(finding.label))), lenient)


def _fate(finish: Finish, error: str | None) -> str:
    if error is not None and _MEMORY.search(error):
        return "oom"
    return finish if finish in LEVELS["harness"] else "crash"


def _excerpt(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# -- emission -------------------------------------------------------------------------------------------------------


def _emission(
    text: str,
    finish: Finish,
    gold: Gold,
    made: Sequence[CallSyntax],
    declared: Mapping[str, Any],
    open_thought: str | None,
) -> Iterator[Finding]:
    if open_thought is not None:
        yield Finding("open_thought", open_thought[-_LONGEST:])
    elif gold.calls and not made:
        begins = [found.start() for found in _CALL_BEGIN.finditer(text) if found.group(1) in declared]
        if begins or CALL_CLOSE in text:  # a call but for its opening mark
            yield Finding("bad_delimiter", text[min(begins, default=0) :])
        else:
            yield Finding("no_call", text)
    if made and not gold.calls:
        yield Finding("spurious_call", made[0].text)
    last = text if open_thought is None else open_thought  # what was said last
    if finish != "stop":
        yield Finding("truncated", last[-_LONGEST:])
    if unit := _repeated(last):
        yield Finding("degenerate_loop", unit)
    for mark in MARK.finditer(text):
        if mark.group() not in (CALL_OPEN, CALL_CLOSE):
            yield Finding("channel_leak", text[mark.start() : mark.end() + 40])
            break


def _repeated(text: str) -> str:
    """What the text repeats at its end, or nothing: the shortest unit that stands there often enough.

    The Z-function of the reversed text tells for each length of a unit how far back the repetition goes.
    """
    window = text[: -_LOOP_WINDOW - 1 : -1]
    reach = [0] * len(window)
    left = right = 0
    for length in range(1, len(window)):
        same = min(right - length, reach[length - left]) if length < right else 0
        while length + same < len(window) and window[same] == window[length + same]:
            same += 1
        reach[length] = same
        if length + same > right:
            left, right = length, length + same
        if length + same >= max(_LOOP_LENGTH, _LOOP_TIMES * length):
            return text[len(text) - length :]
    return ""


# -- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """A call of a reply; `text` is its attempt's, `is_cut` says that some of its arguments are not there."""

    call: ToolCall
    text: str
    is_cut: bool


def _comparison(
    attempted: Sequence[CallSyntax], gold: Gold, declared: Mapping[str, Mapping[str, Any]], prompt: str, *, is_cut: bool
) -> Iterator[Finding]:
    """What is wrong with calls as they were understood: schema, value and set."""
    made = [_Made(call, each.text, each.is_cut) for each in attempted for call in each.calls]
    fits = [[not each.is_cut and right.matches(each.call) for right in gold.calls] for each in made]
    exact = maximum_matching(fits)
    pairs = _aligned(made, gold, exact)
    left = [right for j, right in enumerate(gold.calls) if j not in {*exact.values(), *pairs.values()}]
    missing, merging = [], set()
    for right in left:
        carriers = (i for i, j in pairs.items() if _carries(made[i].call, gold.calls[j], right))
        if (i := next(carriers, None)) is None:
            missing.append(right.name)
        else:
            merging.add(i)
            yield Finding("merged", made[i].text)

    for i, each in enumerate(made):
        if i in exact or each.is_cut:
            continue
        partner = gold.calls[pairs[i]] if i in pairs else None
        found: list[Violation] = []
        if each.call.name not in declared:
            yield Finding("unknown_tool", each.call.name)
        else:
            if partner is not None and partner.name != each.call.name:
                yield Finding("wrong_tool", each.call.name)
            found = violations(each.call.arguments, declared[each.call.name])
            for violation in found:
                yield Finding(violation.label, _shown(violation))
        if partner is not None and partner.name == each.call.name and i not in merging:
            yield from _values(each.call, partner, found, prompt)

    if attempted and gold.calls:
        extra = [each.text for i, each in enumerate(made) if i not in exact and i not in pairs]
        if extra or (missing and not is_cut):
            yield Finding("count", ", ".join(extra or missing))
        if gold.ordered and Gold(gold.calls).matches([each.call for each in made]):
            yield Finding("order", ", ".join(each.call.name for each in made))


def _aligned(made: Sequence[_Made], gold: Gold, exact: Mapping[int, int]) -> dict[int, int]:
    """For each call that is not right, the gold call that it seems to be meant as; the most similar pairs first."""
    rest = [i for i in range(len(made)) if i not in exact]
    free = [j for j in range(len(gold.calls)) if j not in exact.values()]

    def unlikeness(pair: tuple[int, int]) -> tuple[bool, bool, int]:
        call, right = made[pair[0]].call, gold.calls[pair[1]]
        accepted = sum(right.accepts(key, value) for key, value in call.arguments.items())
        return (made[pair[0]].is_cut, call.name != right.name, -accepted)

    pairs: dict[int, int] = {}
    for i, j in sorted(((i, j) for i in rest for j in free), key=unlikeness):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _carries(call: ToolCall, one: GoldCall, other: GoldCall) -> bool:
    """Whether one call holds the values of two gold calls, each of which has a value that the other lacks."""
    said = list(_leaves(list(call.arguments.values())))
    first, second = ([leaf for v in right.arguments.values() for leaf in _leaves(v[0])] for right in (one, other))
    return (
        all(_is_in(leaf, said) for leaf in (*first, *second))
        and any(not _is_in(leaf, first) for leaf in second)
        and any(not _is_in(leaf, second) for leaf in first)
    )


def _leaves(value: Value) -> Iterator[Value]:
    if isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def _is_in(leaf: Value, said: Sequence[Value]) -> bool:
    if any(canonical(leaf) == canonical(each) for each in said):
        return True
    words = str(leaf) if isinstance(leaf, str | int | float) and not isinstance(leaf, bool) else ""
    pattern = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.I)
    return bool(words) and any(isinstance(each, str) and pattern.search(each) for each in said)


# -- values ---------------------------------------------------------------------------------------------------------


def _shown(violation: Violation) -> str:
    place = ".".join(map(str, violation.path))
    return place if violation.label == "missing_required" else f"{place}: {canonical(violation.value)}"


def _values(call: ToolCall, right: GoldCall, found: Sequence[Violation], prompt: str) -> Iterator[Finding]:
    """The values of a call to the right tool that differ from the gold.

    A value that breaks its declaration has a finding already. The exception is an enum: here it is told why the value
    is none of its members.
    """
    told = {violation.path[0] for violation in found if violation.label != "enum_violation"}
    for key, value in call.arguments.items():
        if key in told or right.accepts(key, value):
            continue
        if key not in right.arguments:
            yield Finding("other_value", f"{key}: {canonical(value)}")
            continue
        differences = min((list(_differences(value, each)) for each in right.arguments[key]), key=_extent)
        for said, meant in differences:
            shown = f"{key}: {canonical(value if said is _ABSENT else said)}"
            yield Finding(_label(said, meant, prompt), shown)
    for key in right.arguments.keys() - right.optional - call.arguments.keys() - told:
        yield Finding("other_value", key)


def _differences(said: Any, meant: Any) -> Iterator[tuple[Any, Any]]:
    """The innermost pairs of values that differ; what one side lacks is `_ABSENT`."""
    if isinstance(said, dict) and isinstance(meant, dict):
        for key in (*said, *(meant.keys() - said.keys())):
            yield from _differences(said.get(key, _ABSENT), meant.get(key, _ABSENT))
    elif isinstance(said, list) and isinstance(meant, list) and len(said) == len(meant):
        for one, other in zip(said, meant, strict=True):
            yield from _differences(one, other)
    elif said is _ABSENT or meant is _ABSENT or canonical(said) != canonical(meant):
        yield said, meant


def _extent(differences: Sequence[tuple[Any, Any]]) -> tuple[int, int]:
    """How much is different: a whole list is more than something in it."""
    return sum(isinstance(said, list | dict) for said, _ in differences), len(differences)


def _label(said: Any, meant: Any, prompt: str) -> str:
    if _is_number(said) and _is_number(meant):
        return "digit_corruption" if said != meant else "other_value"
    if isinstance(said, str) and isinstance(meant, str):
        if _DIGITS.sub("0", said) == _DIGITS.sub("0", meant):
            return "digit_corruption"
        if _is_copied(meant, prompt) and _are_alike(said, meant):
            return "copy_error"
    return "other_value"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_copied(text: str, prompt: str) -> bool:
    plain = " ".join(text.casefold().split())
    return bool(plain) and plain in " ".join(prompt.casefold().split())


def _are_alike(said: str, meant: str) -> bool:
    return difflib.SequenceMatcher(None, said[:_COMPARED], meant[:_COMPARED], autojunk=False).ratio() >= _ALIKE
