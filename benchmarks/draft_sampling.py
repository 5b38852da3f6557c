"""Acceptance of sampled text: drafting greedily against drafting with the target's own random numbers.

    python benchmarks/draft_sampling.py [--prompts N] [--json FILE]

Both give the same text. A greedy draft is accepted with the target's probability of the drafter's favourite; a coupled
one where both distributions put the same token under the shared uniform number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_mtp.device import Request, Sampling
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.tiny.bundle import cached_bundle
from edge_mtp.summary import acceptance_counts

TEMPERATURES = (0.3, 0.7, 1.0, 1.5)
DRAFT_LENGTH = 3


@click.command()
@click.option("--prompts", default=100, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(prompts: int, output: Path | None) -> None:
    path = tiny_pair()[0].parent / "splits" / "iid.jsonl"
    items = [json.loads(line) for line in path.read_text("utf-8").splitlines()[:prompts]]
    rows = []
    with open_engine(cached_bundle("fp32", widths=VERIFY_WIDTHS), threads=1) as engine:
        for temperature in TEMPERATURES:
            for coupled in (False, True):
                rows.append(measure(engine, items, temperature, coupled))
    click.echo("| temperature | drafts | tokens per verify | accepted at position 1, 2, 3 |\n|---|---|---|---|")
    for row in rows:
        shares = ", ".join(f"{share:.0%}" for share in row["acceptance"])
        click.echo(f"| {row['temperature']} | {row['drafts']} | {row['tokens_per_verify']:.2f} | {shares} |")
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n")


def measure(engine: Engine, items: list[dict[str, Any]], temperature: float, coupled: bool) -> dict[str, Any]:
    stops = sorted(engine.chat_format.stop_token_ids)
    steps = []
    for seed, item in enumerate(items):
        prompt = engine.chat_format.encode(item["messages"], item["tools"])
        request = Request(prompt, 64, stops, DRAFT_LENGTH, coupled, Sampling(temperature=temperature, seed=seed))
        steps += [step for step in engine.generate(request).wait().steps if len(step.draft) == DRAFT_LENGTH]
    reached, accepted = acceptance_counts(steps)
    return {
        "temperature": temperature,
        "drafts": "coupled" if coupled else "greedy",
        "verifies": len(steps),
        "tokens_per_verify": sum(step.accepted + 1 for step in steps) / len(steps),
        "acceptance": [a / r for a, r in zip(accepted, reached, strict=True)],
    }


if __name__ == "__main__":
    main()
