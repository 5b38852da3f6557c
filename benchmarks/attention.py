"""What a cache costs: step and prefill times of bundles that differ in its size or their graphs, interleaved.

    python benchmarks/attention.py --bundle FILE [--bundle FILE ...] [--positions 500,2000] [--draft-length K]
        [--threads N] [--rounds N] [--json FILE]

Every bundle has a runner of its own, and they take turns: a round is one reply of each at each position, the next round
in reverse. A reply begins at a position behind a prompt of so many random tokens. Ratios are to the first bundle, of
the same round; the median of the rounds counts, which a busy machine disturbs least. Random weights serve too.
"""

from __future__ import annotations

import json
import os
import platform
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click

from edge_mtp.device import HostDevice, Outcome, Request, Step
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.formats.bundle import Bundle

DECODED = 24
Figures = dict[str, float]


def reply(runner: Any, prompt: list[int], draft_length: int) -> Figures:
    """Milliseconds of the median step and of a token of the prompt."""
    list(runner.generate(Request(prompt[:1] * 2, 1)))  # so that the prompt is not cached
    request = Request(prompt, DECODED, draft_length=draft_length)
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    kind = "verify" if draft_length else "plain"
    steps = [step for step in steps if isinstance(step, Step) and (step.kind == "verify") == bool(draft_length)]
    assert steps, f"no {kind} step"
    return {
        "step_ms": median(step.total_us for step in steps) / 1e3,
        "draft_ms": median(step.draft_us for step in steps) / 1e3,
        "prefill_token_ms": outcome.prefill_us / 1e3 / (len(prompt) - 1),
    }


def measure(
    bundles: list[Path], positions: list[int], draft_length: int, threads: int, rounds: int
) -> dict[str, dict[int, list[Figures]]]:
    """The figures of each round by the bundle's name and the position."""
    found: dict[str, dict[int, list[Figures]]] = {bundle.name: {p: [] for p in positions} for bundle in bundles}
    rooms = {bundle.name: int((Bundle(bundle).manifest or {})["context"]) for bundle in bundles}
    numbers = random.Random(1)
    prompts = {position: [numbers.randrange(10, 500) for _ in range(position)] for position in positions}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.environ["XDG_CACHE_HOME"] = folder
        runners = {
            bundle.name: stack.enter_context(HostDevice().start(bundle, LoadOptions(threads=threads)))
            for bundle in bundles
        }
        turns = [(name, p) for p in positions for name in runners if p + DECODED + 8 < rooms[name]]
        for turn in range(rounds + 1):
            for name, position in turns if turn % 2 == 0 else reversed(turns):
                figures = reply(runners[name], prompts[position], draft_length)
                if turn > 0:  # the first replies read the weights from the disk
                    found[name][position].append(figures)
    return found


@click.command()
@click.option("--bundle", "bundles", multiple=True, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--positions", default="500", show_default=True)
@click.option("--draft-length", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(
    bundles: tuple[Path, ...], positions: str, draft_length: int, threads: int, rounds: int, output: Path | None
) -> None:
    found = measure(list(bundles), [int(p) for p in positions.split(",")], draft_length, threads, rounds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    click.echo(f"{machine}, load {os.getloadavg()[0]:.1f}; {threads} threads; draft length {draft_length}\n")
    click.echo("| bundle | position | step, ms | ratio | draft, ms | ratio | prefill, ms a token | ratio |")
    click.echo("|---|---|---|---|---|---|---|---|")
    table = []
    for name, by_position in found.items():
        for position, replies in by_position.items():
            if not replies:
                continue
            firsts = found[bundles[0].name][position] or replies
            row: dict[str, Any] = {"bundle": name, "position": position}
            for key in ("step_ms", "draft_ms", "prefill_token_ms"):
                row[key] = median(each[key] for each in replies)
                ratios = [each[key] / first[key] for each, first in zip(replies, firsts, strict=True) if first[key]]
                row[f"{key}_ratio"] = median(ratios) if ratios else 1.0
            table.append(row)
            click.echo("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    if output is not None:
        result = {"machine": machine, "threads": threads, "rounds": rounds, "draft_length": draft_length, "rows": table}
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
