"""The choice between CPU and GPU with the controller on it, beside the best of both at every fixed draft length.

    python benchmarks/accelerator_choice.py [--devices N] [--json benchmarks/results/accelerator_choice.json]

On random devices (tests/helpers/simulated_choice.py), each with texts of an acceptance from 0.3 to 0.95: the time of
the best combination beside that of what is used after a few texts. First with the acceptance of those texts, as the
runner chooses, then with the one that is expected of an unknown pair.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import simulated_choice as simulated  # noqa: E402

NEAR = 0.95


def measure(devices: int, learns: bool) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    found = np.array([simulated.to_best(simulated.random_sides(rng), seed, learns=learns) for seed in range(devices)])
    return {
        "mean": round(float(found.mean()), 4),
        "worst": round(float(found.min()), 3),
        "share_within_5_percent": round(float((found >= NEAR).mean()), 4),
    }


@click.command()
@click.option("--devices", default=1200, show_default=True, help="Simulated devices.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures here.")
def main(devices: int, target: Path | None) -> None:
    rows = {"acceptance of the texts": measure(devices, True), "acceptance of an unknown pair": measure(devices, False)}
    for name, row in rows.items():
        click.echo(f"{name}: {row}")
    if target is not None:
        target.write_text(json.dumps({"devices": devices, "to_best": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
