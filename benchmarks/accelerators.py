"""Whether an accelerator gives the CPU's text, and what a step crosses between host and accelerator.

    python benchmarks/accelerators.py --accelerator gpu [--recipe fp32] [--prompts 32] [--json FILE]

Exports the tiny pair with graphs for the accelerator. Prompts of its held-out split are answered without drafts, with
three in every step, and under the controller; greedily and sampled; with and without the grammar of their tools. Each
text is compared with the CPU's, and with the accelerator's own text without drafts. The costs of passes come from
`edge-mtp plan` on either. A figure of a GPU in software says nothing of a real one's speed.
"""

from __future__ import annotations

import itertools
import json
import platform
from pathlib import Path
from statistics import median
from typing import Any

import click

from edge_mtp.device import Sampling
from edge_mtp.device.runner import Runner
from edge_mtp.engine import open_engine
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.formats.accelerator import ACCELERATORS, AcceleratorChoice

MAX_TOKENS = 48
SETTINGS = list(itertools.product((0, 3, None), (0.0, 0.8), (False, True)))  # drafts, temperature, constrained
Settings = tuple[int | None, float, bool]


def memory_mib(runner: Runner) -> dict[str, float]:
    lines = Path(f"/proc/{runner.pid}/status").read_text("ascii").splitlines()
    figures = dict(line.split(":", 1) for line in lines)
    return {name: int(figures[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS", "RssAnon")}


def answers(
    bundle: Path, accelerator: AcceleratorChoice, items: list[dict[str, Any]]
) -> tuple[dict[tuple[int, Settings], list[int]], dict[str, Any]]:
    """The tokens of each reply by prompt and settings; and the load's figures, and those of steps by their kind."""
    texts: dict[tuple[int, Settings], list[int]] = {}
    crossed: dict[str, list[Any]] = {}
    with open_engine(bundle, accelerator=accelerator, threads=1) as engine:
        told: dict[str, Any] = {"load_s": engine.runner.ready.load_us / 1e6}
        for number, item in enumerate(items):
            for settings in SETTINGS:
                drafts, temperature, constrained = settings
                reply = engine.chat(
                    item["messages"],
                    tools=item["tools"],
                    draft_length=drafts,
                    sampling=Sampling(temperature, seed=number),
                    constrained=constrained,
                    max_tokens=MAX_TOKENS,
                ).wait()
                texts[number, settings] = list(reply.tokens)
                way = f"{'sampled' if temperature else 'greedy'}{', grammar' if constrained else ''}"
                for step in reply.steps[1:]:
                    crossed.setdefault(f"{step.kind}, {way}", []).append(step)
        told["memory_mib"] = memory_mib(engine.runner)
    told["steps"] = {
        name: {
            "count": len(steps),
            "waits": median(step.waits for step in steps),
            "bytes_to_accelerator": median(step.bytes_to_accelerator for step in steps),
            "bytes_from_accelerator": median(step.bytes_from_accelerator for step in steps),
            "median_us": median(step.total_us for step in steps),
        }
        for name, steps in sorted(crossed.items())
    }
    return texts, told


@click.command()
@click.option("--accelerator", type=click.Choice(ACCELERATORS[1:]), default="gpu", show_default=True)
@click.option("--recipe", default="fp32", show_default=True)
@click.option("--prompts", default=32, show_default=True, type=click.IntRange(1))
@click.option("--bundle", type=click.Path(path_type=Path), help="Made by an earlier call; else it is exported here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there, too.")
def main(
    accelerator: AcceleratorChoice, recipe: str, prompts: int, bundle: Path | None, json_file: Path | None
) -> None:
    target, drafter = tiny_pair()
    lines = (target.parent / "splits" / "iid.jsonl").read_text("utf-8").splitlines()
    items = [item for item in map(json.loads, lines) if item["tools"]]
    if bundle is None:
        bundle = Path(f"accelerated-{recipe}.litertlm")
        every = ("cpu", "gpu", "npu")
        export_bundle(target, drafter, bundle, recipe=recipe, widths=(4, 6), accelerators=every)
    reference, cpu = answers(bundle, "cpu", items[:prompts])
    texts, there = answers(bundle, accelerator, items[:prompts])
    own = [texts[number, (0, *settings[1:])] == tokens for (number, settings), tokens in texts.items()]
    result = {
        "accelerator": accelerator,
        "recipe": recipe,
        "prompts": prompts,
        "machine": platform.platform(),
        "texts": len(texts),
        "equal_without_drafts": sum(own),
        "equal_to_cpu": sum(texts[each] == tokens for each, tokens in reference.items()),
        "cpu": cpu,
        "there": there,
    }
    click.echo(json.dumps(result, indent=1))
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
