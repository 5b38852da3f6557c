"""What a runner is asked to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits; docs/verify-op.md fixes the order of the processors.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch the processor off. The token at a position
    depends on `seed` and the position alone, so the same seed gives the same text at any draft length.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One text to generate: token ids in, at most `max_tokens` token ids out.

    `stop` tokens end the text and are the last one given out. `draft_length` is K; 0 is plain decoding.
    `couple_drafts` makes a sampled request draft the token that the target's own random number picks from the
    drafter's probabilities, instead of the likeliest one; it changes acceptance, never the text.
    """

    prompt: Sequence[int]
    max_tokens: int
    stop: Sequence[int] = ()
    draft_length: int = 0
    couple_drafts: bool = False
    sampling: Sampling = field(default_factory=Sampling)

    def to_json(self, name: str) -> dict[str, Any]:
        """The request record of the runner's protocol (docs/trace.md)."""
        return {
            "op": "generate",
            "request": name,
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "draft_length": self.draft_length,
            "couple_drafts": self.couple_drafts,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "min_p": self.sampling.min_p,
            "seed": self.sampling.seed,
        }
