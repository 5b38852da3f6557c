"""An answer: what an arm said in one turn of an item, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edge_mtp.formats.codec import Amount, Count, TokenId
from edge_mtp.formats.drafting import SOURCE_OF_LETTER
from edge_mtp.formats.tool_calls import CHANNEL_CLOSE, CHANNEL_OPEN, THOUGHT_HEADER
from edge_mtp.harness.score.score import Finish

WIDEST = 1024  # tokens of a step: beyond any verify graph
StepCount = Annotated[int, Meta(ge=0, le=WIDEST)]


class StepFigures(NamedTuple):
    """A step of an answer, in the order of the list that it is in the file. Times in microseconds.

    `kind` is "p" (plain) or "v" (verify); `tokens` given out; `source` a letter for each verified draft (d, l, g);
    `accepted` of the drafts; `planned`: K asked of the drafter. `verify_us` is the target: embedding, graph, selection.
    """

    kind: Literal["p", "v"]
    tokens: StepCount
    source: Annotated[str, Meta(pattern=rf"^[{''.join(SOURCE_OF_LETTER)}]*\Z", max_length=WIDEST)]
    accepted: StepCount
    planned: StepCount
    draft_us: Amount
    mask_us: Amount
    verify_us: Amount
    total_us: Amount


@dataclass(frozen=True)
class Answer:
    """What an arm said in one turn of an item. Times in microseconds on the runner's clock, `at_s` in seconds since
    the run began.

    `text` is the answer and `reasoning` what was thought before it, without the marks of thoughts; `in_thought`: the
    reply ended inside a thought. `first_token_us`: from the request to its first token. `first_answer_us`: to the first
    token that is none of a thought, None where there is none. `call_us`: to the token that closes the first tool call,
    None without one. `total_us`: to the last token. `tokens` are ids, the stop token included; empty, like `steps`
    and `margins`, where the engine does not tell them, and `count` is then what is known of their number. `margins`: of
    each token its logit less the runner-up's, where asked for. `error` says what became of a crash, a timeout or a
    refusal. Memory is the runner's, as last read: the largest that was ever resident, and what is not backed by a file;
    arms that share a runner share it.
    """

    arm: str
    item: str
    turn: Count
    round: Count
    at_s: Amount
    text: str
    finish: Finish
    prompt_tokens: Count = 0
    reused_tokens: Count = 0
    count: Count = 0
    first_token_us: Amount = 0.0
    prefill_us: Amount = 0.0
    call_us: Amount | None = None
    total_us: Amount = 0.0
    tokens: list[TokenId] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    steps: list[StepFigures] = field(default_factory=list)
    rss_bytes: Count | None = None
    anonymous_bytes: Count | None = None
    error: str | None = None
    reasoning: str = ""
    in_thought: bool = False
    first_answer_us: Amount | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is an answer at all, right or wrong."""
        return self.error is None

    @property
    def whole(self) -> str:
        """All that was said: the thoughts, in their marks, and then the answer."""
        if not (self.reasoning or self.in_thought):
            return self.text
        return f"{CHANNEL_OPEN}{THOUGHT_HEADER}{self.reasoning}{'' if self.in_thought else CHANNEL_CLOSE}{self.text}"
