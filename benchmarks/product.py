"""What the op `edge_mtp.product` gains: step times of bundles with and without it, interleaved.

    python benchmarks/product.py --bundle FILE --bundle FILE [--draft-lengths 0,3,4,5] [--threads N] [--rounds N]
        [--json FILE]

Every bundle has a runner of its own. A round is one reply of each for each draft length, the next round in reverse.
Ratios of the same round: of a step to the first bundle's, and of a verify to the bundle's own plain step. The median of
the rounds counts. Random weights serve too: a verify takes as long whatever it accepts.
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
from attention import Figures, reply

from edge_mtp.device import HostDevice
from edge_mtp.device.load_options import LoadOptions

PROMPT = 64


def measure(bundles: list[Path], lengths: list[int], threads: int, rounds: int) -> list[dict[str, dict[int, Figures]]]:
    """The figures of each round, by the bundle's place and the draft length."""
    prompt = [random.Random(1).randrange(10, 500) for _ in range(PROMPT)]
    found = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.environ["XDG_CACHE_HOME"] = folder
        runners = {
            f"{place}: {bundle.name}": stack.enter_context(HostDevice().start(bundle, LoadOptions(threads=threads)))
            for place, bundle in enumerate(bundles)
        }
        turns = [(name, length) for length in lengths for name in runners]
        for turn in range(rounds + 1):
            figures: dict[str, dict[int, Figures]] = {name: {} for name in runners}
            for name, length in turns if turn % 2 == 0 else reversed(turns):
                figures[name][length] = reply(runners[name], prompt, length)
            if turn > 0:  # the first replies read the weights from the disk
                found.append(figures)
    return found


@click.command()
@click.option("--bundle", "bundles", multiple=True, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--draft-lengths", default="0,3,4,5", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(bundles: tuple[Path, ...], draft_lengths: str, threads: int, rounds: int, output: Path | None) -> None:
    lengths = [int(length) for length in draft_lengths.split(",")]
    found = measure(list(bundles), lengths, threads, rounds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    click.echo(f"{machine}, load {os.getloadavg()[0]:.1f}; {threads} threads\n")
    names = ("bundle", "draft length", "step, ms", "less drafts", "step to the first", "verify to plain", "prefill")
    click.echo(f"| {' | '.join(names)} |")
    click.echo("|---|---|---|---|---|---|---|")
    table = []
    first = next(iter(found[0]))
    for name in found[0]:
        for length in lengths:
            row: dict[str, Any] = {"bundle": name, "draft_length": length}
            for key in ("step_ms", "verify_ms"):
                row[key] = median(_part(figures[name][length], key) for figures in found)
            row["to_first"] = median(
                figures[name][length]["step_ms"] / figures[first][length]["step_ms"] for figures in found
            )
            plain = min(lengths)
            row["verify_to_plain"] = median(
                _part(figures[name][length], "verify_ms") / figures[name][plain]["step_ms"] for figures in found
            )
            row["prefill_token_ms"] = median(figures[name][length]["prefill_token_ms"] for figures in found)
            table.append(row)
            click.echo("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    if output is not None:
        result = {"machine": machine, "threads": threads, "rounds": rounds, "rows": table}
        output.write_text(json.dumps(result, indent=1) + "\n")


def _part(figures: Figures, key: str) -> float:
    """A step's time, or without that of its drafts."""
    return figures["step_ms"] - (figures["draft_ms"] if key == "verify_ms" else 0)


if __name__ == "__main__":
    main()
