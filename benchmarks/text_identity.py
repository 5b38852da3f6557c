"""Every frozen prompt once: is the text with MTP the plain text, and is that transformers' own?

    python benchmarks/text_identity.py [--limit N] [--json FILE]

128 greedy tokens for each prompt of the four splits, past any stop token. fp32: MTP at K = 3 and 7 against plain,
and plain against transformers (eager, float32) by teacher forcing: at every position transformers, given our text so
far, must choose our token, which by induction makes the two greedy texts one. int8: MTP against plain. A difference
is reported with the margin between the two tokens' logits in transformers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edge_mtp.device import Request
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.tiny.bundle import cached_bundle

TOKENS = 128
LENGTHS = {"fp32": (3, 7), "int8": (3, 7)}
BATCH = 32


@dataclass
class Difference:
    """`arm` chose `token` where the reference chose `reference`, `margin` apart in transformers' logits."""

    arm: str
    prompt: str
    position: int
    token: int
    reference: int
    margin: float | None


@click.command()
@click.option("--limit", type=int, help="Only so many prompts of each split.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(limit: int | None, output: Path | None) -> None:
    items = [item for path in sorted((tiny_pair()[0].parent / "splits").glob("*.jsonl")) for item in read(path, limit)]
    differences: list[Difference] = []
    compared: dict[str, int] = {}
    for quantization, lengths in LENGTHS.items():
        with open_engine(cached_bundle(quantization, widths=VERIFY_WIDTHS), threads=1) as engine:
            prompts = {item["id"]: engine.chat_format.encode(item["messages"], item["tools"]) for item in items}
            plain = texts(engine, prompts, 0, f"{quantization} plain")
            for k in lengths:
                arm = f"{quantization} MTP K={k} against plain"
                drafted = texts(engine, prompts, k, arm)
                compared[arm] = len(prompts)
                differences += [
                    first_difference(arm, i, drafted[i], plain[i]) for i in prompts if drafted[i] != plain[i]
                ]
            if quantization == "fp32":
                arm = "fp32 plain against transformers"
                compared[arm] = len(prompts)
                differences += against_transformers(arm, prompts, plain)
    result = {"tokens": TOKENS, "compared": compared, "differences": [asdict(d) for d in differences]}
    for arm, count in compared.items():
        found = [d for d in differences if d.arm == arm]
        margins = f", margins {sorted(d.margin for d in found if d.margin is not None)}" if found else ""
        click.echo(f"{arm}: {count - len({d.prompt for d in found})} of {count} texts the same{margins}")
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path, limit: int | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()[:limit]]


def texts(engine: Engine, prompts: dict[str, list[int]], draft_length: int, label: str) -> dict[str, list[int]]:
    result = {}
    with click.progressbar(prompts.items(), label=label, file=sys.stderr) as bar:
        for name, prompt in bar:
            limit = min(TOKENS, engine.context_length - len(prompt))
            result[name] = engine.generate(Request(prompt, limit, draft_length=draft_length)).wait().tokens
    return result


def first_difference(arm: str, prompt: str, text: list[int], reference: list[int]) -> Difference:
    position = next(i for i, (a, b) in enumerate(zip(text, reference, strict=True)) if a != b)
    return Difference(arm, prompt, position, text[position], reference[position], None)


def against_transformers(arm: str, prompts: dict[str, list[int]], ours: dict[str, list[int]]) -> list[Difference]:
    import torch
    from transformers import Gemma4ForCausalLM

    model = Gemma4ForCausalLM.from_pretrained(tiny_pair()[0], dtype="float32", attn_implementation="eager").eval()
    names = sorted(prompts, key=lambda name: len(prompts[name]))
    found = []
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        rows = [prompts[name] + ours[name] for name in batch]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, tokens in enumerate(rows):  # padding on the right: causal attention never sees it
            ids[row, : len(tokens)] = torch.tensor(tokens)
        with torch.no_grad():
            logits = model(ids).logits
        for row, name in enumerate(batch):
            for position, token in enumerate(ours[name]):
                scores = logits[row, len(prompts[name]) + position - 1]
                best = int(scores.argmax())
                if best != token:
                    margin = float(scores[best] - scores[token])
                    found.append(Difference(arm, name, position, token, best, margin))
    return found


if __name__ == "__main__":
    main()
