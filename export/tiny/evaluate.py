"""Evaluates the pair on the frozen splits: exact calls, and tokens per verify of the drafter alone.

python -m edge_mtp.export.tiny.evaluate DIR
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.export.tiny.batches import Example, collate, draft_masks, drafter_step, target_forward
from edge_mtp.export.tiny.conversations import SPLITS
from edge_mtp.export.tiny.model import centroid_head, load_pair
from edge_mtp.formats.tool_calls import ToolCall, ToolCallSyntaxError, exact_match, parse_calls
from edge_mtp.harness.stats.statistics import wilson

MAX_NEW_TOKENS = 128
LONGEST_DRAFT = 7


def load_split(directory: str | Path, split: str) -> list[dict[str, Any]]:
    """The items of a split, each with id, kind, template, messages, tools and gold."""
    path = Path(directory) / "splits" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def generate(
    target: Gemma4ForCausalLM, prompts: Sequence[list[int]], batch_size: int = 64, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[list[int]]:
    """Greedy replies, including the stop token, in the order of the prompts."""
    replies: dict[int, list[int]] = {}
    model: Any = target  # transformers annotates `generate` for its own protocol
    stops = set(model.generation_config.eos_token_id)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        length = max(len(prompts[i]) for i in chosen)
        ids = torch.zeros(len(chosen), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, length - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, length - len(prompts[i]) :] = 1
        out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens)
        for row, i in zip(out[:, length:].tolist(), chosen, strict=True):
            end = next((n for n, token in enumerate(row) if token in stops), len(row) - 1)
            replies[i] = row[: end + 1]
    return [replies[i] for i in range(len(prompts))]


def is_exact(chat: ChatFormat, item: dict[str, Any], reply: Sequence[int]) -> bool:
    """Whether a reply makes exactly the gold calls (none, where the gold reply is text) and ends with a stop token."""
    if not reply or reply[-1] not in chat.stop_token_ids:
        return False
    try:
        calls = parse_calls(chat.tokenizer.decode(reply))
    except ToolCallSyntaxError:
        return False
    return exact_match(calls, [ToolCall.from_json(c) for c in item["gold"].get("calls", [])])


@torch.no_grad()
def accepted_drafts(
    target: Gemma4ForCausalLM,
    drafter: Gemma4AssistantForCausalLM,
    examples: Sequence[Example],
    longest: int = LONGEST_DRAFT,
) -> list[list[int]]:
    """How many of `longest` drafts would be accepted, for each reply and each of its positions but the last.

    The replies must be the target's greedy ones. All rounds of a batch run at once, each on its own drafts.
    """
    accepted: dict[int, list[int]] = {}
    order = sorted((i for i, e in enumerate(examples) if len(e.reply) > 1), key=lambda i: len(examples[i].reply))
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        batch = collate([examples[i] for i in chosen])
        out = target_forward(target, batch)
        rounds = batch.reply.shape[1] - 1
        masks, position_ids = draft_masks(target, batch, rounds)
        tokens = batch.ids[:, -rounds - 1 : -1]
        state = out.hidden[:, :rounds]
        alive = torch.ones_like(tokens, dtype=torch.bool)
        count = torch.zeros_like(tokens)
        reply = torch.nn.functional.pad(batch.ids[:, -rounds:], (0, longest), value=-1)
        for step in range(longest):
            inputs = torch.cat([target.model.embed_tokens(tokens), state], dim=-1)
            output, state = drafter_step(drafter, inputs, masks, position_ids, out.shared_kv)
            tokens = centroid_head(drafter)(output, drafter.lm_head.weight).argmax(-1)
            alive &= tokens == reply[:, step : step + rounds]
            count += alive
        for row, i in enumerate(chosen):
            accepted[i] = count[row, rounds - len(examples[i].reply) + 1 :].tolist()
    return [accepted.get(i, []) for i in range(len(examples))]


def tokens_per_verify(accepted: Sequence[Sequence[int]], draft_length: int) -> float:
    """Tokens after the first divided by verify steps, when a decoder with this draft length generates the replies."""
    tokens = steps = 0
    for reply in accepted:
        tokens += len(reply)
        position = 0
        while position < len(reply):
            steps += 1
            position += min(reply[position], draft_length) + 1
    return tokens / steps


def evaluate(directory: str | Path, limit: int | None = None) -> dict[str, Any]:
    """The results of the pair under `directory` on its splits (on the first `limit` items of each, if given)."""
    directory = Path(directory)
    chat = ChatFormat.from_directory(directory / "target")
    target, drafter = load_pair(directory)
    results: dict[str, Any] = {}
    for split in SPLITS:
        items = load_split(directory, split)[:limit]
        prompts = [chat.encode(i["messages"], i["tools"]) for i in items]
        replies = generate(target, prompts)
        exact = [is_exact(chat, item, reply) for item, reply in zip(items, replies, strict=True)]
        kinds: dict[str, Counter[bool]] = {}
        for item, good in zip(items, exact, strict=True):
            kinds.setdefault(item["kind"], Counter())[good] += 1
        interval = wilson(sum(exact), len(exact))
        accepted = accepted_drafts(target, drafter, [Example(p, r) for p, r in zip(prompts, replies, strict=True)])
        results[split] = {
            "items": len(items),
            "exact": sum(exact) / len(exact),
            "exact_interval_95": [interval.low, interval.high],
            "exact_by_kind": {k: [c[True], c.total()] for k, c in sorted(kinds.items())},
            "tokens_per_verify": {k: tokens_per_verify(accepted, k) for k in range(1, LONGEST_DRAFT + 1)},
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--limit", type=int, help="items of each split")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(evaluate(options.directory, options.limit), indent=2))


if __name__ == "__main__":
    main()
