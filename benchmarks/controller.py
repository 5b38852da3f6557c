"""The draft-length controller beside every fixed draft length, on the devices of tests/helpers/simulated_device.py.

    python benchmarks/controller.py [--texts N] [--json benchmarks/results/controller.json]

Per profile and length of reply: the best fixed draft length and its speed-up over plain decoding; the controller from
a cold start and with remembered costs, each relative to the best fixed length and to plain decoding (mean time of a
reply, over the same texts); what the timings at load cost, in plain steps, which are not part of a reply's time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import simulated_device as simulated  # noqa: E402

REPLIES = (64, 512)


def measure(profile: simulated.Profile, texts: int) -> dict[str, Any]:
    memory = simulated.remembered(profile)
    row: dict[str, Any] = {}
    for tokens in REPLIES:
        result = simulated.compare(profile, tokens, texts, memory)
        row["calibration_plain_steps"] = result.load / simulated.PLAIN_US
        row[str(tokens)] = {
            "best_fixed": result.best,
            "best_to_plain": result.to_plain(result.fixed[result.best]),
            "cold_to_best": result.to_best(result.cold),
            "cold_to_plain": result.to_plain(result.cold),
            "remembered_to_best": result.to_best(result.remembered),
            "remembered_to_plain": result.to_plain(result.remembered),
        }
    return row


def as_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: for each length of reply best K and its gain, then cold and remembered to best (to plain)."""
    head = ["profile"]
    for tokens in REPLIES:
        head += [f"{tokens} tokens: best K", "cold", "remembered"]
    lines = [head, ["---"] * (len(head) + 1)]
    head.append("calibration")
    for name, row in rows.items():
        cells = [name]
        for tokens in REPLIES:
            part = row[str(tokens)]
            cells.append(f"{part['best_fixed']}, {part['best_to_plain']:.2f}x")
            cells += [f"{part[f'{a}_to_best']:.3f} ({part[f'{a}_to_plain']:.3f}x)" for a in ("cold", "remembered")]
        lines.append([*cells, f"{row['calibration_plain_steps']:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@click.command()
@click.option("--texts", default=400, show_default=True, help="Simulated texts a profile and length of reply.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures here.")
def main(texts: int, target: Path | None) -> None:
    rows = {name: measure(profile, texts) for name, profile in simulated.PROFILES.items()}
    click.echo(as_table(rows))
    if target is not None:
        target.write_text(json.dumps({"texts": texts, "profiles": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
