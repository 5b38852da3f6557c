"""What a runner is asked to generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DraftPolicy = Literal["auto", "fixed"]
DraftSource = Literal["drafter", "lookup", "grammar"]


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits; docs/verify-op.md fixes the order of the processors.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch the processor off. The token at a position
    depends on `seed` and the position alone, so the same seed gives the same text at any draft length.

    `repetition_penalty` divides (or, below zero, multiplies) the logits of all tokens of prompt and output;
    `presence_penalty` is subtracted from tokens of the output, `frequency_penalty` once for each time. `logit_bias` is
    added by token id; tokens in `suppress` are never chosen.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    suppress: Sequence[int] = ()


@dataclass(frozen=True)
class Thoughts:
    """How a model marks its thoughts: the control tokens `open` and `close`, and the ids of the `header` between.

    `opened`: the prompt ends inside a thought. `budget` is the most tokens that the thoughts of a text have together,
    headers and marks not counted: then the next token is `close`, and no further thought is opened.
    """

    open: int
    close: int
    header: Sequence[int] = ()
    opened: bool = False
    budget: int | None = None


@dataclass(frozen=True)
class Request:
    """One text to generate: token ids in, at most `max_tokens` token ids out.

    `prompt` is the whole context; what the runner's cache holds of it already (an earlier turn) is not computed again.
    `stop` tokens end the text and are the last one given out; so does the token that completes one of `stop_texts`.

    `draft_length` is K, the most tokens drafted in a step; 0 is plain decoding. Under the policy "auto" the controller
    chooses each step's own K up to it (docs/controller.md), under "fixed" every step drafts K. `draft_sources` is where
    drafts may come from; with none, K blank rows are verified, which match no token (`edge-mtp check --numerics`).
    `couple_drafts` makes a sampled request draft the token that the target's own random number picks from the
    drafter's probabilities, instead of the likeliest one; it changes acceptance, never the text.

    `grammar` (EBNF, docs/grammar.md) constrains the output. `logprobs` asks for the log-probability of every chosen
    token. `keep_prefix` is the number of leading prompt tokens whose cache is kept on the device's disk, and read from
    there by the next request that starts with them. In `thoughts` no stop string is looked for, and they can be
    limited.

    Two are for measurements. `fresh`: nothing of the runner's cache is used, so that requests do not profit from one
    another. `draft_tape`: entry i is proposed in place of whatever the drafter drafts as the reply's token i (from 0);
    the drafter runs all the same. It sets the acceptance (`edge_mtp.harness.ask.simulated_drafts`), never the text.
    """

    prompt: Sequence[int]
    max_tokens: int
    stop: Sequence[int] = ()
    draft_length: int = 0
    draft_policy: DraftPolicy = "fixed"
    draft_sources: Sequence[DraftSource] = ("drafter", "grammar")
    couple_drafts: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    stop_texts: Sequence[str] = ()
    grammar: str | None = None
    thoughts: Thoughts | None = None
    logprobs: bool = False
    keep_prefix: int = 0
    fresh: bool = False
    draft_tape: Sequence[int] = ()

    def to_json(self, name: str) -> dict[str, Any]:
        """The request record of the runner's protocol (docs/trace.md)."""
        sampling, thoughts = self.sampling, self.thoughts
        limit = {} if thoughts is None or thoughts.budget is None else {"thought_budget": thoughts.budget}
        return {
            "op": "generate",
            "request": name,
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "stop_texts": list(self.stop_texts),
            "draft_length": self.draft_length,
            "draft_policy": self.draft_policy,
            "draft_sources": list(self.draft_sources),
            "couple_drafts": self.couple_drafts,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "seed": sampling.seed,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
            "suppress": list(sampling.suppress),
            "grammar": self.grammar or "",
            "thought_marks": [] if thoughts is None else [thoughts.open, thoughts.close],
            "thought_header": [] if thoughts is None else list(thoughts.header),
            "thought_opened": thoughts is not None and thoughts.opened,
            **limit,
            "logprobs": self.logprobs,
            "keep_prefix": self.keep_prefix,
            "fresh": self.fresh,
            "draft_tape": list(self.draft_tape),
        }
