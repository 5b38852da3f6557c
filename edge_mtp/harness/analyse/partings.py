"""Where the replies of two arms to an item part, and what stands there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edge_mtp.formats.lenient_calls import MARK as CONTROL
from edge_mtp.formats.tool_calls import QUOTE
from edge_mtp.harness.analyse.replies import Turns
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.score.partings import first_difference, token_kind
from edge_mtp.harness.score.score import Score

MARK = re.compile(rf"{re.escape(QUOTE)}|{CONTROL.pattern}")
PIECE = re.compile(rf"{MARK.pattern}|\d| ?[^\W\d]+|.", re.DOTALL)  # about what a token is


@dataclass(frozen=True)
class Parting:
    """The first place where the replies of two arms to one item part. Of each pair the first is the arm's, the second
    the base's.

    `index` counts tokens, or characters where an engine does not tell its tokens (`unit`). What stands there is read
    off the texts: `chosen` ("" where one had ended), and `token_class` of the base's as `token_kind` names it,
    thought inside one, stop where the base had ended, None where tokens differ and texts do not. `margins`: of the
    logits that each chose from, the largest less the second; None where not known. `texts` whole, thoughts included.
    `primary`: each arm's primary label, None for right.
    """

    item: str
    turn: int
    index: int
    token_class: str | None
    margins: tuple[float | None, float | None]
    chosen: tuple[str, str]
    texts: tuple[str, str]
    primary: tuple[str | None, str | None]
    unit: Literal["token", "character"] = "token"


def partings_of(
    names: Iterable[str],
    replies: tuple[Mapping[str, Turns], Mapping[str, Turns]],
    scores: tuple[Mapping[str, Score], Mapping[str, Score]],
) -> list[Parting]:
    """Those of an arm and a base, on items that both answered and that have scores."""
    found = []
    for name in names:
        primary = scores[0][name].primary, scores[1][name].primary
        found.append(_parting(name, replies[0][name], replies[1][name], primary))
    return [each for each in found if each is not None]


def _parting(name: str, arm: Turns, base: Turns, primary: tuple[str | None, str | None]) -> Parting | None:
    """The first place where two replies to an item part; None where they do not, or one failed before."""
    for turn in sorted(arm.keys() & base.keys()):
        one, other = arm[turn], base[turn]
        if not (one.is_complete and other.is_complete):
            return None
        by_token = bool(one.tokens and other.tokens)
        texts = one.whole, other.whole
        index = first_difference(one.tokens, other.tokens) if by_token else first_difference(*texts)
        if index is None:
            continue
        at = _parts_at(*texts)
        chosen = _piece(texts[0], at), _piece(texts[1], at)
        kind: str | None = _kind_at(other, at) if chosen[1] else "stop"
        if texts[0] == texts[1] and index + 1 < max(len(one.tokens), len(other.tokens)):
            kind = None  # other tokens for the same text
        return Parting(
            item=name,
            turn=turn,
            index=index,
            token_class=kind,
            margins=(_margin(one, index), _margin(other, index)) if by_token else (None, None),
            chosen=chosen,
            texts=texts,
            primary=primary,
            unit="token" if by_token else "character",
        )
    return None


def _kind_at(answer: Answer, at: int) -> str:
    """What stands at a character of all that was said."""
    answer_begins = len(answer.whole) - len(answer.text)
    if at < answer_begins:
        return "thought"
    return token_kind(answer.text[: at - answer_begins], _piece(answer.whole, at))


def _parts_at(one: str, other: str) -> int:
    """The character at which two texts part. Two marks that begin alike part at their beginning."""
    index = first_difference(one, other)
    at = len(one) if index is None else index
    return min([at, *(mark.start() for text in (one, other) for mark in MARK.finditer(text) if mark.end() > at)])


def _piece(text: str, at: int) -> str:
    found = PIECE.match(text, at)
    return found[0] if found else ""


def _margin(answer: Answer, index: int) -> float | None:
    return answer.margins[index] if index < len(answer.margins) else None
