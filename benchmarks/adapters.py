"""What becomes of a LoRA on a checkpoint of 4-bit weights, by the way in which the merged weights are stored.

    python benchmarks/adapters.py [--steps N] [--rank R] [--seed S]

Puts the tiny target on a lattice (blocks of 32, every weight a step times -8 to 7), trains a LoRA of its linear layers
with peft on the first 250 items of the split `new_templates`, and stores the merged matrices in each way. On the other
150 items: KL to the float merge and agreement of the most likely token, over the gold replies; greedy replies that are
the float merge's, token for token; exact calls. Only what the adapter changed is stored otherwise than in float. The
table goes to standard output.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.export.adapter import AdaptedWeights, diffused
from edge_mtp.export.checkpoint import load_target, open_pair, tiny_pair
from edge_mtp.export.encodings import ENCODINGS, decode, encode
from edge_mtp.export.lattice import BLOCK, LATTICE
from edge_mtp.export.tiny.batches import Example, collate, reply_text
from edge_mtp.export.tiny.evaluate import generate, is_exact, load_split
from edge_mtp.export.weights import Rows

TRAINED = 250
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Stored = Callable[[str], Rows]


@click.command()
@click.option("--steps", default=60, show_default=True)
@click.option("--rank", default=8, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(steps: int, rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    target, drafter = tiny_pair()
    chat = ChatFormat.from_directory(target)
    items = load_split(target.parent, "new_templates")
    examples = [
        Example(chat.encode(item["messages"], item["tools"]), chat.tokenizer.encode(reply_text(gold(item))))
        for item in items
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        on_lattice(target, folder / "target")
        base = load_target(open_pair(folder / "target", drafter).target)
        train(base, examples[:TRAINED], folder / "adapter", steps, rank, seed)
        weights = open_pair(folder / "target", drafter, adapter=folder / "adapter").target.weights
        assert isinstance(weights, AdaptedWeights)
        measure(base, weights, chat, items[TRAINED:], examples[TRAINED:])


def gold(item: dict[str, Any]) -> Any:
    return SimpleNamespace(gold=item["gold"])


def on_lattice(source: Path, folder: Path) -> None:
    """The checkpoint in `source` with its linear layers on a lattice, steps in float16."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for name, values in tensors.items():
        if values.ndim == 2 and values.shape[1] % BLOCK == 0 and "embed" not in name:
            blocks = values.float().reshape(len(values), -1, BLOCK)
            step = (blocks.abs().amax(-1, keepdim=True).clamp_min(1e-6) / 7.6).half().float()
            levels = (blocks / step).round().clamp(-8, 7)
            tensors[name] = (levels * step).reshape(values.shape).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")


def train(base: Any, examples: list[Example], folder: Path, steps: int, rank: int, seed: int) -> None:
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR)
    tuned = peft.get_peft_model(copy.deepcopy(base), config).train()
    optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], lr=2e-3, weight_decay=0)
    order = random.Random(seed)
    for _ in range(steps):
        logits, labels = replies(tuned, order.sample(examples, 4))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    tuned.save_pretrained(folder)


def replies(model: Any, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n,V] and tokens [n] of all positions of the gold replies."""
    batch = collate(examples)
    logits = model(
        input_ids=batch.ids, attention_mask=batch.valid.long(), position_ids=batch.position_ids
    ).logits  # fmt: skip
    length = batch.reply.shape[1]
    return logits[:, -length - 1 : -1][batch.reply], batch.ids[:, -length:][batch.reply]


def ways(weights: AdaptedWeights) -> dict[str, Stored]:
    """How the changed matrices can be stored, as a kernel sees them. Rows too short for blocks are int8 everywhere."""

    def encoded(encoding: str) -> Stored:
        def stored(name: str) -> Rows:
            rows = weights.read(name)
            found = ENCODINGS[encoding if name in weights.grids else "int8"]
            return decode(encode(rows, found), found, rows.shape[1])

        return stored

    def nearest(name: str) -> Rows:
        if name not in weights.grids:
            return encoded("int8")(name)
        rows, steps = weights.read(name), weights.base.encoded(name).scales
        assert steps is not None
        levels = diffused(rows, steps.astype(np.float32), np.zeros((0, rows.shape[1]), np.float32), LATTICE)
        found: Rows = levels * np.repeat(steps.astype(np.float32), BLOCK, axis=1)
        return found

    def along(name: str) -> Rows:
        if name not in weights.grids:
            return encoded("int8")(name)
        return decode(weights.on_grid(name, 0, weights.names[name][0]), LATTICE, weights.names[name][1])

    return {
        "float32": weights.read,
        "without the adapter": weights.base.read,
        "int8": encoded("int8"),
        "int4b32, new steps": encoded("int4b32"),
        "int4b32, own steps, to the nearest": nearest,
        "int4b32, own steps, along the adapter": along,
    }


@torch.no_grad()
def measure(
    base: Any, weights: AdaptedWeights, chat: ChatFormat, items: list[dict[str, Any]], examples: list[Example]
) -> None:
    changed = [name for name in weights.names if name not in weights.encodings and moved(weights, name)]
    model = copy.deepcopy(base)
    wanted: tuple[torch.Tensor, list[list[int]]] | None = None
    click.echo("| stored as | bits | error, of the change | loss | KL, nats a token | agreement | same text | exact |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name, stored in ways(weights).items():
        matrices = {each: stored(each) for each in changed}
        state = {each: torch.from_numpy(np.ascontiguousarray(matrix)) for each, matrix in matrices.items()}
        model.load_state_dict(state, strict=False)
        parts = [replies(model, examples[at : at + 30]) for at in range(0, len(examples), 30)]
        logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
        logs, texts = logits.log_softmax(-1), generate(model, [each.prompt for each in examples])
        wanted = wanted or (logs, texts)
        error = sum(float(np.square(matrices[each] - weights.read(each)).sum()) for each in changed)
        change = sum(float(np.square(weights.base.read(each) - weights.read(each)).sum()) for each in changed)
        cells = (
            name,
            {"float32": "32", "int8": "8"}.get(name, "4.5"),
            f"{(error / change) ** 0.5:.2f}",
            f"{float(torch.nn.functional.nll_loss(logs, labels)):.4f}",
            f"{float((wanted[0].exp() * (wanted[0] - logs)).sum(-1).mean()):.5f}",
            f"{float((logs.argmax(-1) == wanted[0].argmax(-1)).float().mean()):.2%}",
            f"{sum(a == b for a, b in zip(texts, wanted[1], strict=True))} of {len(texts)}",
            str(sum(is_exact(chat, item, text) for item, text in zip(items, texts, strict=True))),
        )
        click.echo(f"| {' | '.join(cells)} |")


def moved(weights: AdaptedWeights, name: str) -> bool:
    return len(weights.names[name]) == 2 and not np.array_equal(weights.read(name), weights.base.read(name))


if __name__ == "__main__":
    main()
