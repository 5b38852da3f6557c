"""Makes batches of training examples, and runs both models over a whole batch with the conventions of decoding."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.export.tiny.conversations import KINDS, Conversation, conversation
from edge_mtp.formats.tool_calls import ToolCall, format_calls

BATCH_TOKENS = 6144
POOL = 1024  # conversations that are sorted by length together

# Short prompts full of made-up words come first: on those, copying is learned within a few hundred steps.
WARM_UP_KINDS = {"single": 0.5, "parallel": 0.1, "repeat": 0.3, "no_call": 0.05, "ask_back": 0.05}


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of the reply to it, stop token included."""

    prompt: list[int]
    reply: list[int]


@dataclass(frozen=True)
class Batch:
    """Left-padded sequences: `ids` i64 [B,L], `valid` bool [B,L], `reply` bool [B,R] over the last R positions."""

    ids: torch.Tensor
    valid: torch.Tensor
    reply: torch.Tensor

    @property
    def position_ids(self) -> torch.Tensor:
        return (self.valid.long().cumsum(1) - 1).clamp(min=0)


def reply_text(item: Conversation) -> str:
    """The gold reply in wire format: calls end with the start of a tool response, text with the end of the turn."""
    if "calls" in item.gold:
        return format_calls(ToolCall.from_json(c) for c in item.gold["calls"]) + "<|tool_response>"
    return f"{item.gold['text']}<turn|>"


def examples(chat: ChatFormat, default_tools: list[dict[str, Any]], seed: int, warm_up: int) -> Iterator[Example]:
    """An endless stream of training examples; the first `warm_up` come from the easier mix."""
    index = 0
    while True:
        easy = index < warm_up
        item = conversation(
            "train",
            index,
            seed,
            () if easy else default_tools,
            widest=2 if easy else 4,
            kinds=WARM_UP_KINDS if easy else KINDS,
        )
        yield Example(chat.encode(item.messages, item.tools), chat.tokenizer.encode(reply_text(item)))
        index += 1


def batches(stream: Iterator[Example], seed: int) -> Iterator[Batch]:
    """Batches of sequences of similar length, in random order within a pool."""
    rng = random.Random(seed)
    while True:
        pool = sorted((next(stream) for _ in range(POOL)), key=lambda e: (len(e.prompt) + len(e.reply), len(e.reply)))
        groups: list[list[Example]] = [[]]
        for example in pool:
            length = len(example.prompt) + len(example.reply)
            if groups[-1] and (len(groups[-1]) + 1) * length > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from map(collate, groups)


def collate(group: list[Example]) -> Batch:
    length = max(len(e.prompt) + len(e.reply) for e in group)
    longest_reply = max(len(e.reply) for e in group)
    ids = torch.zeros(len(group), length, dtype=torch.long)
    reply = torch.zeros(len(group), longest_reply, dtype=torch.bool)
    valid = torch.zeros(len(group), length, dtype=torch.bool)
    for row, e in enumerate(group):
        tokens = torch.tensor(e.prompt + e.reply)
        ids[row, -len(tokens) :] = tokens
        valid[row, -len(tokens) :] = True
        reply[row, -len(e.reply) :] = True
    return Batch(ids, valid, reply)


# -- models -----


@dataclass(frozen=True)
class TargetOutput:
    """The target's output for a batch: logits [B,R,V] and states after the final norm [B,R,H] at the R positions that
    predict a reply, and the KV that the drafter reads, by layer type, [B,1,L-1,D] each."""

    logits: torch.Tensor
    hidden: torch.Tensor
    shared_kv: dict[str, tuple[torch.Tensor, torch.Tensor]]


def target_forward(target: Gemma4ForCausalLM, batch: Batch) -> TargetOutput:
    """Runs the target over all tokens but the last.

    KV-shared layers write no KV, so they run on those R positions only.
    """
    length = batch.ids.shape[1] - 1
    at = torch.arange(length)
    causal = (at[None, :] <= at[:, None]) & batch.valid[:, None, :length]
    causal |= torch.eye(length, dtype=torch.bool)  # padding rows see themselves: no empty softmax
    near = at[:, None] - at[None, :] < target.config.sliding_window
    out = target.model(
        input_ids=batch.ids[:, :-1],
        attention_mask={"full_attention": causal[:, None], "sliding_attention": (causal & near)[:, None]},
        position_ids=batch.position_ids[:, :-1],
        logits_to_keep=batch.reply.shape[1],
        return_shared_kv_states=True,
        use_cache=False,
    )
    cap: Any = target.config.final_logit_softcapping
    logits = torch.tanh(target.lm_head(out.last_hidden_state) / cap) * cap
    return TargetOutput(logits, out.last_hidden_state, dict(out.shared_kv_states))


def drafter_step(
    drafter: Gemma4AssistantForCausalLM,
    inputs: torch.Tensor,
    masks: dict[str, torch.Tensor],
    position_ids: torch.Tensor,
    shared_kv: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One draft step of many rounds: inputs [B,R,2H] to the state before the head [B,R,h] and its projection [B,R,H].

    Does the same as `Gemma4AssistantForCausalLM.forward`, whose own masks allow only R = 1.
    """
    state = drafter.model(
        inputs_embeds=drafter.pre_projection(inputs),
        attention_mask=masks,
        position_ids=position_ids,
        shared_kv_states=shared_kv,
        logits_to_keep=torch.tensor(0),  # not an int: keep every position
        use_cache=False,
    ).last_hidden_state
    return state, drafter.post_projection(state)


def draft_masks(target: Gemma4ForCausalLM, batch: Batch, rounds: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Masks bool [B,1,rounds,L-1] of what the round at each reply position P sees (0..P-1), and P itself."""
    length = batch.ids.shape[1]
    key = torch.arange(length - 1)
    query = torch.arange(length - rounds - 1, length - 1)
    past = (key[None, :] < query[:, None]) & batch.valid[:, None, : length - 1]
    past |= ~past.any(-1, keepdim=True)  # rounds of padding see anything: no empty softmax
    near = query[:, None] - key[None, :] <= target.config.sliding_window
    sliding = past & near
    sliding |= ~sliding.any(-1, keepdim=True)
    masks = {"full_attention": past[:, None], "sliding_attention": sliding[:, None]}
    return masks, batch.position_ids[:, query]
