"""What the static 8-bit ranges of Google's mobile form do to the distributions, and what leaving them out does.

    python benchmarks/static_ranges.py [--limit N] [--json FILE]

The tiny pair in that form (tests/helpers/quantized_checkpoints.py), with ranges from its own activations on other
prompts than those measured. transformers rounds the input and output of each module to these ranges; our CPU kernels
take the range of each row as it comes. All are asked for the distributions along the same replies:

- `ranges`: transformers' loading, as it was trained;
- `ranges, floats out of the head`: the same, with no range on the logits;
- `no ranges`: transformers, with zeros in their place;
- `bundle`: the exported bundle in LiteRT on this CPU;
- `fp32`: the tiny pair before quantization, for the scale of what the weights' own rounding does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import quantized_checkpoints

from edge_mtp.engine import open_engine
from edge_mtp.export.checkpoint import open_pair, tiny_pair
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.run.logits import Logits, kl_divergence
from edge_mtp.harness.stats import statistics
from edge_mtp.quiet import quiet

CALIBRATING = 64  # prompts
MAX_TOKENS = 96
REFERENCES = {
    "ranges": ("ranges, floats out of the head", "no ranges", "bundle"),
    "no ranges": ("bundle",),
    "fp32": ("no ranges",),
}

LogitsOf = Callable[[Sequence[int], Sequence[int]], Any]


@click.command()
@click.option("--limit", default=100, show_default=True, help="Prompts to measure with.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(limit: int, output: Path | None) -> None:
    found = []
    click.echo("| fewest bits | reference | against | KL, nats a token | same argmax |\n|---|---|---|---|---|")
    for fewest in (2, 8):
        with tempfile.TemporaryDirectory() as folder:
            for line in measured(Path(folder), fewest, limit):
                found.append(line)
                kl, same = line["kl"], line["agreement"]
                click.echo(
                    f"| {fewest} | {line['reference']} | {line['against']} | {kl[0]:.2g} ({kl[1]:.2g} to {kl[2]:.2g}) |"
                    f" {same[0]:.1%} ({100 * same[1]:.1f} to {100 * same[2]:.1f}) |"
                )
    if output is not None:
        output.write_text(json.dumps({"prompts": limit, "calibrated on": CALIBRATING, "pairs": found}, indent=1) + "\n")


def measured(folder: Path, fewest: int, limit: int) -> list[dict[str, Any]]:
    zeros = quantized_checkpoints.gemma(folder / "zeros", fewest=fewest)
    bundle = folder / "bundle.litertlm"
    export_bundle(open_pair(zeros, tiny_pair()[1]), None, bundle, recipe="int8", widths=(2, 5))
    with open_engine(bundle, threads=1) as engine:

        def texts(split: str, count: int) -> list[tuple[list[int], list[int]]]:
            made = []
            for item in read_items(TINY / "splits" / f"{split}.jsonl", count):
                prompt = engine.chat_format.encode(item.turns[0].messages, item.tools)
                reply = engine.chat(
                    item.turns[0].messages, tools=item.tools, max_tokens=MAX_TOKENS, draft_length=0, constrained=False
                )
                made.append((prompt, list(reply.wait().tokens)))
            return made

        calibrating, replies = texts("new_templates", CALIBRATING), texts("iid", limit)
    ranges = quantized_checkpoints.calibrated(folder / "ranges", zeros, [[*p, *r] for p, r in calibrating])
    arms: dict[str, LogitsOf] = {
        "ranges": by_transformers(ranges),
        "ranges, floats out of the head": by_transformers(ranges, head_out=False),
        "no ranges": by_transformers(zeros),
        "fp32": by_transformers(tiny_pair()[0]),
        "bundle": Logits(Bundle(bundle), threads=1).of_reply,
    }
    logits = {name: [of(*text) for text in replies] for name, of in arms.items()}
    lines = []
    for reference, others in REFERENCES.items():
        for other in others:
            pairs = list(zip(logits[reference], logits[other], strict=True))
            kl = [kl_divergence(p, q) for p, q in pairs]
            counts = [len(each) for each in kl]
            mean = statistics.mean([each.sum() for each in kl], counts)
            same = statistics.share([int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in pairs], counts)
            lines.append(
                {
                    "fewest_bits": fewest,
                    "reference": reference,
                    "against": other,
                    "tokens": sum(counts),
                    "kl": [mean.value, mean.low, mean.high],
                    "kl_p99": float(np.quantile(np.concatenate(kl), 0.99)),
                    "agreement": [same.value, same.low, same.high],
                }
            )
    return lines


def by_transformers(checkpoint: Path, *, head_out: bool = True) -> LogitsOf:
    """The logits [reply,V] of transformers' own loading, eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    if not head_out:
        model.lm_head.output_activation_scale.data.zero_()

    def of(prompt: Sequence[int], reply: Sequence[int]) -> Any:
        with torch.no_grad():
            return model.eval()(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1].numpy()

    return of


if __name__ == "__main__":
    main()
