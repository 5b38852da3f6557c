"""Whether MTP gave the text of plain decoding, and if not, why: rounding, or drafts kept that should not have been.

Three arms answered the same prompts, greedily. *plain*: one token a step. *blank*: the verify graph, whose draft rows
hold nothing that a token could match, so one token a step as well. *mtp*: the same graph with real drafts. Plain and
blank differ in the graph alone; where their texts part, two logits lay closer than the graphs' rounding, and the margin
says how close. Blank and mtp run the same graph over the same tokens; where they part, a draft was accepted that the
target did not choose, or something of a rejected one stayed behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.score.partings import Cause, first_difference, token_kind
from edge_mtp.harness.stats.statistics import Estimate, wilson

SCHEMA = 1

ArmName = Literal["plain", "blank", "mtp"]
CAUSES: dict[tuple[ArmName, ArmName], Cause] = {
    ("plain", "blank"): "numerics",
    ("blank", "mtp"): "accept or rollback",
}


@dataclass(frozen=True)
class ChosenToken:
    """A token that an arm chose. `margin`: its step's largest logit less the second largest. All but the margin are
    None where the arm's text had ended already; the margin where it was not reported."""

    id: int | None
    text: str | None
    kind: str | None
    margin: float | None


@dataclass(frozen=True)
class Divergence:
    """The first place where two arms part: token `index` of the reply to prompt `prompt`, both from 0."""

    prompt: int
    index: int
    arms: tuple[ArmName, ArmName]
    cause: Cause
    choices: tuple[ChosenToken, ChosenToken]


@dataclass(frozen=True)
class NumericsReport:
    """Three arms over some prompts. `tokens`: of the plain arm, compared. `median_margin`: of its tokens, to hold a
    divergence's against. `shares`: of the prompts that part by each cause, with 95 % intervals."""

    draft_length: int
    max_tokens: int
    prompts: int
    tokens: int
    median_margin: float | None
    shares: dict[Cause, Estimate]
    divergences: list[Divergence]

    @property
    def verdict(self) -> Literal["same", "numerics", "accept or rollback"]:
        """The graver of the causes found."""
        causes = {divergence.cause for divergence in self.divergences}
        if "accept or rollback" in causes:
            return "accept or rollback"
        return "numerics" if causes else "same"

    @property
    def explanation(self) -> str:
        """The verdict in a sentence."""
        over = f"{self.prompts} prompts, {self.tokens} tokens, draft length {self.draft_length}"
        if self.verdict == "same":
            return f"same: plain decoding, the verify graph and MTP gave the same tokens ({over})"
        found = [divergence for divergence in self.divergences if divergence.cause == self.verdict]
        prompts = f"{len(found)} of {self.prompts} prompts"
        if self.verdict == "numerics":
            margins = [choice.margin for each in found for choice in each.choices if choice.margin is not None]
            widest = f", where two logits lay within {max(margins):.3g}" if margins else ""
            return (
                "numerics: MTP does what the verify graph says, whose rounding parts from the plain graph's in"
                f" {prompts}{widest} ({over})"
            )
        return (
            f"accept or rollback: with drafts the verify graph gave another text than without in {prompts}; a draft was"
            f" accepted that should not have been, or a rejected one left something behind ({over})"
        )

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "verdict": self.verdict, "explanation": self.explanation, **asdict(self)}


def numerics_of(
    answers: Mapping[str, Sequence[Answer]], chat_format: ChatFormat, *, draft_length: int, max_tokens: int
) -> NumericsReport:
    """Where the three arms part. `answers` by arm, one a prompt, hold the tokens that are compared and no others."""
    divergences: list[Divergence] = []
    prompts = len(answers["plain"])
    for prompt in range(prompts):
        for arms, cause in CAUSES.items():
            one, other = (answers[arm][prompt] for arm in arms)
            index = first_difference(one.tokens, other.tokens)
            if index is not None:
                choices = _chosen(one, index, chat_format), _chosen(other, index, chat_format)
                divergences.append(Divergence(prompt, index, arms, cause, choices))
    margins = [margin for answer in answers["plain"] for margin in answer.margins]
    return NumericsReport(
        draft_length=draft_length,
        max_tokens=max_tokens,
        prompts=prompts,
        tokens=sum(len(answer.tokens) for answer in answers["plain"]),
        median_margin=median(margins) if margins else None,
        shares={cause: wilson(sum(each.cause == cause for each in divergences), prompts) for cause in CAUSES.values()},
        divergences=divergences,
    )


def _chosen(answer: Answer, index: int, chat_format: ChatFormat) -> ChosenToken:
    if index >= len(answer.tokens):
        return ChosenToken(None, None, None, None)
    token = answer.tokens[index]
    text = _text(chat_format, [token])
    stops = token in chat_format.stop_token_ids
    kind = "stop" if stops else token_kind(_text(chat_format, answer.tokens[:index]), text)
    return ChosenToken(token, text, kind, answer.margins[index] if index < len(answer.margins) else None)


def _text(chat_format: ChatFormat, tokens: Sequence[int]) -> str:
    return b"".join(map(chat_format.tokenizer.token_bytes, tokens)).decode(errors="replace")
