"""What a runner is asked to generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from edge_mtp.formats.drafting import DraftPolicy, DraftSource


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
class _Prompted:
    """The first fields of a `Request`: its prompt, and what ends its text."""

    prompt: Sequence[int]
    max_tokens: int
    stop: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a text is generated. `Request` and `edge_mtp.ReplyOptions` share these fields.

    `stop_texts` end the text; in thoughts they are not looked for.

    Drafting never changes the text. `draft_length` is K, the most tokens drafted in a step; 0 is plain decoding. Under
    the policy "auto" the controller chooses each step's own K up to it (docs/controller.md), under "fixed" every step
    drafts K. `draft_sources` is where drafts may come from. `couple_drafts` makes a sampled text draft the token that
    the target's own random number picks from the drafter's probabilities, instead of the likeliest one.

    `grammar` (EBNF, docs/grammar.md) constrains the text.
    """

    stop_texts: Sequence[str] = ()
    draft_length: int | None = None
    draft_policy: DraftPolicy | None = None
    draft_sources: Sequence[DraftSource] | None = None
    couple_drafts: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    grammar: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Marked:
    """The field of a `Request` between those of `Generation` and `Extras`."""

    thoughts: Thoughts | None = None


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What the runner reports, keeps and measures beside the text; nothing here changes the text. `Request` and
    `edge_mtp.ReplyOptions` share these fields.

    `logprobs` asks for the log-probability of every chosen token. `keep_prefix` is the number of leading prompt tokens
    whose cache is kept on the device's disk, and read from there by the next request that starts with them.

    Two are for measurements. `fresh`: the runner uses nothing of its cache, so that requests do not profit from one
    another. `draft_tape`: entry i replaces the drafter's proposal for the reply's token i (from 0); the drafter runs
    all the same. The tape sets the acceptance (`edge_mtp.harness.ask.simulated_drafts`).
    """

    logprobs: bool = False
    keep_prefix: int = 0
    fresh: bool = False
    draft_tape: Sequence[int] = ()


# The bases stand so that the fields come in the protocol's order: a dataclass has those of its last base first.
@dataclass(frozen=True)
class Request(Extras, _Marked, Generation, _Prompted):
    """One text to generate: token ids in, at most `max_tokens` token ids out. Other fields: `Generation`, `Extras`.

    `prompt` is the whole context; the runner does not compute again what its cache holds of it. A token of `stop` ends
    the text and is the last one given out, and so is the token that completes one of `stop_texts`. Without
    `draft_sources` the runner verifies K blank rows, which match no token (`edge-mtp check --numerics`). `thoughts`
    tells how the model marks its thoughts, and limits them.
    """

    draft_length: int = 0
    draft_policy: DraftPolicy = "fixed"
    draft_sources: Sequence[DraftSource] = ("drafter", "grammar")

    def to_json(self, name: str) -> dict[str, Any]:
        """The request record of the runner's protocol (docs/trace.md), with every field under its own name."""
        return {"op": "generate", "request": name, **_record(self)}


def _record(group: object) -> dict[str, Any]:
    """The fields of a dataclass in JSON, as their declared types say; those of its groups stand beside its own."""
    record: dict[str, Any] = {}
    for each in fields(group):  # type: ignore[arg-type]  # every group is a dataclass
        value, declared = getattr(group, each.name), str(each.type)
        if isinstance(value, Sampling):
            record |= _record(value)
        elif each.name == "thoughts":
            record |= _thoughts_record(value)
        elif declared.startswith("Sequence"):
            record[each.name] = list(value)
        elif declared.startswith("Mapping"):
            record[each.name] = [list(pair) for pair in value.items()]
        else:
            record[each.name] = "" if value is None else value
    return record


def _thoughts_record(thoughts: Thoughts | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "thought_marks": [] if thoughts is None else [thoughts.open, thoughts.close],
        "thought_header": [] if thoughts is None else list(thoughts.header),
        "thought_opened": thoughts is not None and thoughts.opened,
    }
    return record if thoughts is None or thoughts.budget is None else {**record, "thought_budget": thoughts.budget}
