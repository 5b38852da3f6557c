"""Train the tiny pair and write everything under `edge_mtp/tiny`.

    python -m edge_mtp.export.tiny.train --out DIR --seed 0

The steps, the seed and the number of threads determine the result, not the clock: on one machine and one version of
torch the files come out byte for byte the same.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.export.tiny import evaluate
from edge_mtp.export.tiny.batches import (
    Batch,
    batches,
    draft_masks,
    drafter_step,
    examples,
    reply_text,
    target_forward,
)
from edge_mtp.export.tiny.conversations import SPLITS, conversation
from edge_mtp.export.tiny.model import STOP_TOKEN_IDS, centroid_head, load_pair, new_pair, save_pair
from edge_mtp.export.tiny.tokenizer import VOCAB_SIZE, build_tokenizer, tokenizer_config
from edge_mtp.formats.tool_calls import load_tools

TOKENIZER_CORPUS = 6000  # conversations that the merges are learned from
UNROLL = 7  # draft steps that the drafter is trained for


def assets_directory() -> Path:
    """The folder of the committed pair, `edge_mtp/tiny`."""
    import edge_mtp

    return Path(edge_mtp.__file__).resolve().parent / "tiny"


# -- target ---------------------------------------------------------------------------------------------------------


def target_loss(target: Gemma4ForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the reply tokens."""
    labels = batch.ids[:, -batch.reply.shape[1] :][batch.reply]
    logits = target_forward(target, batch).logits[batch.reply]
    return F.cross_entropy(logits, labels)


class NameRecall(torch.nn.Module):
    """A training-only head that predicts the start of a tool's name from the tokens of its description.

    A declaration names its tool before describing it, so the state at the name does not know what the tool does. To
    call the tool that fits a request, attention must find the name through the description. Small models easily learn
    to find what follows a description (the parameters), but hardly what precedes it. The head reads the state that
    enters the last full-attention layer with its own KV.
    """

    def __init__(self, target: Gemma4ForCausalLM, tokenizer: Tokenizer) -> None:
        super().__init__()
        config = target.config
        assert config.layer_types is not None
        own = config.layer_types[: config.num_hidden_layers - config.num_kv_shared_layers]
        last_full = len(own) - 1 - own[::-1].index("full_attention")
        self.read = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        torch.nn.init.normal_(self.read.weight, std=config.hidden_size**-0.5)
        self.begin = tokenizer.token_id("declaration:")
        self.describe = tokenizer.token_id("{description:")
        self.ends = [
            tokenizer.token_id(t) for t in (",parameters:{properties:{", ",parameters:{type:", "<tool|>", "<turn|>")
        ]
        self.state = torch.empty(0)
        target.model.layers[last_full - 1].register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self.state = output

    def forward(self, target: Gemma4ForCausalLM, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over description tokens, from the state of the last forward pass."""
        ids = batch.ids[:, :-1]
        latest = torch.arange(ids.shape[1]).expand_as(ids)

        def last(tokens: list[int]) -> torch.Tensor:
            found = torch.isin(ids, torch.tensor(tokens))
            return torch.where(found, latest, -1).cummax(1).values

        begin, describe = last([self.begin]), last([self.describe])
        inside = (describe > begin) & (describe > last(self.ends))
        names = ids.gather(1, (begin + 1).clamp(max=ids.shape[1] - 1))
        state = F.rms_norm(self.read(self.state[inside]), (self.read.out_features,))
        logits = F.linear(state, target.model.embed_tokens.weight.detach())
        return F.cross_entropy(logits, names[inside]) if inside.any() else logits.sum()


# -- drafter --------------------------------------------------------------------------------------------------------


def drafter_loss(
    target: Gemma4ForCausalLM, drafter: Gemma4AssistantForCausalLM, batch: Batch, with_centroids: bool
) -> torch.Tensor:
    """Distillation of the frozen target's next-token distributions, UNROLL steps from every reply position at once.

    A round starts at a reply position P with the token there, which is not cached yet, and the hidden state that
    produced it. All its steps use position P and see the KV of 0..P-1, as in transformers'
    `SinglePositionMultiTokenCandidateGenerator`. Later steps take the drafter's own projected state and the reply's
    tokens. The loss covers the full logits and, once there are clusters, the clusters' logits.
    """
    with torch.no_grad():
        out = target_forward(target, batch)
        teacher = F.softmax(out.logits, dim=-1)  # [B,R,V]: column r predicts the reply token r
        embedded = target.model.embed_tokens(batch.ids[:, -batch.reply.shape[1] :])
    rounds = batch.reply.shape[1] - 1
    masks, position_ids = draft_masks(target, batch, rounds)
    loss = torch.zeros(())
    total = 0.0
    state = out.hidden[:, :rounds]
    for step in range(min(UNROLL, rounds)):
        last = rounds - step  # rounds that still have a token to predict at this step
        inputs = torch.cat([embedded[:, step : step + last], state[:, :last]], dim=-1)
        output, state = drafter_step(
            drafter, inputs, {k: m[:, :, :last] for k, m in masks.items()}, position_ids[:, :last], out.shared_kv
        )
        real = batch.reply[:, :last]
        wanted = teacher[:, step + 1 : step + 1 + last][real]
        weight = 0.85**step
        total += weight
        loss = loss + weight * soft_cross_entropy(drafter.lm_head(output[real]), wanted)
        if with_centroids:
            clusters = centroid_head(drafter).token_ordering.view(drafter.config.num_centroids, -1)
            scores = centroid_head(drafter).centroids(output[real])
            loss = loss + 0.5 * weight * soft_cross_entropy(scores, wanted[:, clusters].sum(-1))
    return loss / total


def soft_cross_entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return -(wanted * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def cluster_tokens(drafter: Gemma4AssistantForCausalLM) -> None:
    """Order the vocabulary by a balanced k-means of the drafter's trained head, and start the centroids there."""
    rows = F.normalize(drafter.lm_head.weight.detach(), dim=-1)
    count = drafter.config.num_centroids
    size = len(rows) // count
    centroids = rows[torch.randperm(len(rows))[:count]]
    for _ in range(30):
        similarity = rows @ centroids.T
        assigned = torch.full((len(rows),), -1)
        room = [size] * count
        # The tokens with the highest similarity choose first; if a cluster is full, later ones take their next best.
        for token in similarity.max(-1).values.argsort(descending=True, stable=True).tolist():
            for cluster in similarity[token].argsort(descending=True, stable=True).tolist():
                if room[cluster]:
                    room[cluster] -= 1
                    assigned[token] = cluster
                    break
        centroids = F.normalize(torch.stack([rows[assigned == c].mean(0) for c in range(count)]), dim=-1)
    with torch.no_grad():
        centroid_head(drafter).token_ordering.copy_(assigned.argsort(stable=True))
        centroid_head(drafter).centroids.weight.copy_(centroids)


# -- optimisation ---------------------------------------------------------------------------------------------------


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms; warm-up, then cosine to zero."""

    def __init__(self, model: torch.nn.Module, steps: int, muon_lr: float, adam_lr: float) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        inner = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
        chosen = set(map(id, inner))
        rest = [p for _, p in named if id(p) not in chosen]
        self.parameters = [*inner, *rest]
        self.steps = steps
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, self._scale) for o in self.optimizers]

    def _scale(self, step: int) -> float:
        warm_up = min(100, max(1, self.steps // 10))
        if step < warm_up:
            return (step + 1) / warm_up
        progress = min(1.0, (step - warm_up) / max(1, self.steps - warm_up))
        return 0.5 * (1 + math.cos(math.pi * progress)) * 0.98 + 0.02

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()


class LossLines:
    """Prints a line every `every` steps: the loss since the last line, and the time per step."""

    def __init__(self, name: str, steps: int, every: int = 25) -> None:
        self.name, self.steps, self.every = name, steps, every
        self.losses: list[float] = []
        self.start = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            seconds = time.monotonic() - self.start
            mean = sum(self.losses) / len(self.losses)
            print(f"{self.name} {step + 1}/{self.steps} loss {mean:.4f}, {seconds / (step + 1):.2f} s/step", flush=True)
            self.losses = []


def train_target(target: Gemma4ForCausalLM, stream: Iterator[Batch], steps: int, horizon: int) -> None:
    """Train on replies only. With a `horizon` beyond `steps`, training ends while the learning rate is still high."""
    optimizer = Optimizer(target, horizon, muon_lr=6e-3, adam_lr=4e-3)
    progress = LossLines("target", steps)
    target.train()
    for step in range(steps):
        loss = target_loss(target, next(stream))
        optimizer.step(loss)
        progress(step, loss.item())
    target.train(False)


def train_selection(target: Gemma4ForCausalLM, tokenizer: Tokenizer, stream: Iterator[Batch], steps: int) -> None:
    """Train on replies, and on recalling names from descriptions."""
    recall = NameRecall(target, tokenizer)
    both = torch.nn.ModuleDict({"target": target, "recall": recall})
    optimizer = Optimizer(both, steps, muon_lr=5e-3, adam_lr=3e-3)
    progress, recalled = LossLines("selection", steps), LossLines("  name recall", steps)
    target.train()
    for step in range(steps):
        batch = next(stream)
        loss = target_loss(target, batch)
        extra = recall(target, batch)
        optimizer.step(loss + 0.3 * extra)
        progress(step, loss.item())
        recalled(step, extra.item())
    target.train(False)


def train_drafter(
    target: Gemma4ForCausalLM, drafter: Gemma4AssistantForCausalLM, stream: Iterator[Batch], steps: int
) -> None:
    """Train the drafter against the frozen target; after a third of the steps, make the clusters from its own head."""
    target.requires_grad_(False)
    optimizer = Optimizer(drafter, steps, muon_lr=6e-3, adam_lr=4e-3)
    progress = LossLines("drafter", steps)
    drafter.train()
    for step in range(steps):
        if step == steps // 3:
            cluster_tokens(drafter)
        loss = drafter_loss(target, drafter, next(stream), with_centroids=step >= steps // 3)
        optimizer.step(loss)
        progress(step, loss.item())
    drafter.train(False)
    target.requires_grad_(True)


# -- files ----------------------------------------------------------------------------------------------------------


def write_formats(out: Path, seed: int) -> ChatFormat:
    """Write tools, chat template, tokenizer and splits; return the chat format that they define."""
    assets = assets_directory()
    (out / "target").mkdir(parents=True, exist_ok=True)
    (out / "drafter").mkdir(parents=True, exist_ok=True)
    (out / "splits").mkdir(parents=True, exist_ok=True)
    for name in ("tools.json", "target/chat_template.jinja"):
        if (out / name).resolve() != (assets / name).resolve():
            shutil.copyfile(assets / name, out / name)
    template = (out / "target/chat_template.jinja").read_text(encoding="utf-8")
    tools = load_tools(out / "tools.json")

    unmerged = ChatFormat(Tokenizer('{"model": {"type": "BPE", "vocab": {}, "merges": []}}'), template, frozenset())
    corpus = (conversation("train", i, seed, tools) for i in range(TOKENIZER_CORPUS))
    tokenizer = build_tokenizer(unmerged.render(c.messages, c.tools) + reply_text(c) for c in corpus)
    tokenizer.save(str(out / "target/tokenizer.json"))
    write_json(out / "target/tokenizer_config.json", tokenizer_config())
    for split, count in SPLITS.items():
        lines = (json.dumps(conversation(split, i).to_json(), ensure_ascii=False) for i in range(count))
        (out / "splits" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ChatFormat(Tokenizer.from_file(out / "target/tokenizer.json"), template, frozenset(STOP_TOKEN_IDS))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Schedule:
    """The steps of each stage, and how many conversations of the easier mix come first.

    The target learns replies at a high rate (`steps`), then to recall names from descriptions (`selection_steps`), then
    replies again while the rate falls to zero (`final_steps`). Then the drafter learns.
    """

    steps: int = 1500
    selection_steps: int = 1000
    final_steps: int = 1300
    drafter_steps: int = 500
    warm_up: int = 20_000


def train(out: Path, seed: int, schedule: Schedule) -> None:
    """Write the whole directory `out`: formats, splits, weights."""
    chat = write_formats(out, seed)
    tools = load_tools(out / "tools.json")
    target, drafter = new_pair(seed)
    assert target.config.vocab_size == VOCAB_SIZE == chat.tokenizer.vocab_size
    stream = batches(examples(chat, tools, seed, schedule.warm_up), seed)

    def rounded() -> Gemma4ForCausalLM:
        """The target as saved and loaded: each stage starts with rounded weights, a new optimizer and the same seed."""
        save_pair(out, target, drafter)
        saved, _ = load_pair(out)
        torch.manual_seed(seed)
        return saved

    train_target(target, stream, schedule.steps, horizon=32 * schedule.steps // 15)
    target = rounded()
    train_selection(target, chat.tokenizer, stream, schedule.selection_steps)
    target = rounded()
    train_target(target, stream, schedule.final_steps, horizon=schedule.final_steps)
    target = rounded()
    train_drafter(target, drafter, stream, schedule.drafter_steps)
    save_pair(out, target, drafter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    for stage in fields(Schedule):
        flag = "--" + stage.name.replace("_", "-")
        parser.add_argument(flag, type=int, default=stage.default, help=f"default {stage.default}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; part of what determines the result")
    parser.add_argument("--no-evaluation", action="store_true", help="stop after the weights are written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    train(options.out, options.seed, Schedule(**{f.name: getattr(options, f.name) for f in fields(Schedule)}))
    if not options.no_evaluation:
        results = evaluate.evaluate(options.out)
        write_json(options.out / "results.json", results)
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
