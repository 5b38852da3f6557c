"""Whether MTP gives the text of plain decoding, and if not, why: rounding, or drafts kept that should not have been.

Three arms answer the same prompts, greedily. *plain*: one token a step. *blank*: the verify graph, whose draft rows
hold nothing that a token could match, so one token a step as well. *mtp*: the same graph with real drafts. Plain and
blank differ in the graph alone; where their texts part, two logits lay closer than the graphs' rounding, and the margin
says how close. Blank and mtp run the same graph over the same tokens; where they part, a draft was accepted that the
target did not choose, or something of a rejected one stayed behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Protocol

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.device import Outcome, Ready, Request, Step
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.score.partings import Cause, first_difference, token_kind
from edge_mtp.harness.stats.statistics import Estimate, wilson

SCHEMA = 1

Arm = Literal["plain", "blank", "mtp"]
ARMS: tuple[Arm, ...] = ("plain", "blank", "mtp")
CAUSES: dict[tuple[Arm, Arm], Cause] = {("plain", "blank"): "numerics", ("blank", "mtp"): "accept or rollback"}

# Called before each item: its number from 0, and how many there are.
Progress = Callable[[int, int], None]


class Generates(Protocol):
    """What of a runner is needed here."""

    @property
    def ready(self) -> Ready: ...
    def generate(self, request: Request) -> Iterator[Step | Outcome]: ...


@dataclass(frozen=True)
class Choice:
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
    arms: tuple[Arm, Arm]
    cause: Cause
    choices: tuple[Choice, Choice]


@dataclass(frozen=True)
class Report:
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


def measure(
    runner: Generates,
    chat_format: ChatFormat,
    items: Sequence[Item],
    *,
    draft_length: int,
    max_tokens: int,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Runs the three arms over the first turn of each of `items` and compares the first `max_tokens` tokens of each
    reply.

    Raises EdgeMtpError where the bundle cannot verify `draft_length` drafts or its drafter gives fewer, and for a
    prompt that leaves no room in the context.
    """
    most = runner.ready.max_draft_length
    if not 0 < draft_length <= most:
        cure = f"use 1 to {most}" if most else "export the bundle with its verify graphs (without --lean)"
        raise EdgeMtpError(f"draft length {draft_length} is beyond the {most} that this bundle verifies; {cure}")
    if not runner.ready.has_drafter:
        raise EdgeMtpError("the bundle has no drafter, so there is no MTP to check; export it with its drafter")
    divergences: list[Divergence] = []
    margins: list[float] = []
    tokens = 0
    for number, item in enumerate(items):
        progress(number, len(items))
        prompt = chat_format.encode(item.turns[0].messages, item.tools)
        # Near the end of what may be generated graphs of other widths run: that end is generated and not compared.
        end = draft_length + 1
        compared = min(max_tokens, runner.ready.context_length - len(prompt) - end)
        if compared < 1:
            raise EdgeMtpError(
                f"prompt {number} has {len(prompt)} tokens and leaves no room in the context of"
                f" {runner.ready.context_length}; shorten it or export with a larger --context"
            )
        replies = {
            arm: _Reply.of(runner, request, compared)
            for arm, request in _requests(prompt, chat_format, draft_length, compared + end).items()
        }
        if 0 < (drafted := replies["mtp"].drafted) < draft_length:
            raise EdgeMtpError(
                f"asked for {draft_length} drafts, the bundle's drafter gives {drafted}; use --draft-length {drafted}"
            )
        tokens += len(replies["plain"].tokens)
        margins += replies["plain"].margins
        for arms, cause in CAUSES.items():
            one, other = (replies[arm] for arm in arms)
            index = first_difference(one.tokens, other.tokens)
            if index is not None:
                choices = (one.choice(index, chat_format), other.choice(index, chat_format))
                divergences.append(Divergence(number, index, arms, cause, choices))
    shares = {cause: wilson(sum(each.cause == cause for each in divergences), len(items)) for cause in CAUSES.values()}
    return Report(
        draft_length=draft_length,
        max_tokens=max_tokens,
        prompts=len(items),
        tokens=tokens,
        median_margin=median(margins) if margins else None,
        shares=shares,
        divergences=divergences,
    )


def _requests(prompt: Sequence[int], chat_format: ChatFormat, draft_length: int, max_tokens: int) -> dict[Arm, Request]:
    def request(length: int, *sources: Literal["drafter"]) -> Request:
        return Request(
            prompt=prompt,
            max_tokens=max_tokens,
            stop=sorted(chat_format.stop_token_ids),
            stop_texts=chat_format.stop_texts,
            draft_length=length,
            draft_sources=sources,
            logprobs=True,
        )

    return {"plain": request(0), "blank": request(draft_length), "mtp": request(draft_length, "drafter")}


@dataclass(frozen=True)
class _Reply:
    """The compared tokens of an arm; `drafted` is the most drafts that a step had."""

    tokens: list[int]
    margins: list[float]
    drafted: int

    @classmethod
    def of(cls, runner: Generates, request: Request, compared: int) -> _Reply:
        steps = [event for event in runner.generate(request) if isinstance(event, Step)]
        tokens = [token for step in steps for token in step.tokens]
        margins = [margin for step in steps for margin in step.margins]
        drafted = max((len(step.draft) for step in steps), default=0)
        return cls(tokens[:compared], margins[:compared], drafted)

    def choice(self, index: int, chat_format: ChatFormat) -> Choice:
        if index >= len(self.tokens):
            return Choice(None, None, None, None)
        text = _text(chat_format, [self.tokens[index]])
        stops = self.tokens[index] in chat_format.stop_token_ids
        kind = "stop" if stops else token_kind(_text(chat_format, self.tokens[:index]), text)
        margin = self.margins[index] if index < len(self.margins) else None
        return Choice(self.tokens[index], text, kind, margin)


def _text(chat_format: ChatFormat, tokens: Sequence[int]) -> str:
    return b"".join(map(chat_format.tokenizer.token_bytes, tokens)).decode(errors="replace")
