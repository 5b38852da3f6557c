"""The runtime beside its peers, in one run: writes benchmarks/results/runtime.{json,md}.

    python benchmarks/runtime.py [--full-size FILE] [--recipe mixed] [--threads 2]

Three tables: decode speed on the tiny trained pair (our runner, the stock engine, transformers); load, memory and step
times of that pair's bundle; the same of the E2B shape, which is exported with random weights unless a bundle is given.
Takes ten minutes and 6 GB of disk. Every table is one interleaved run of its own script, which also runs alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

HERE = Path(__file__).parent


def run(script: str, *options: str, output: Path) -> tuple[str, dict[str, object]]:
    """What a benchmark prints, and its figures."""
    click.echo(f"{script} {' '.join(options)}", err=True)
    command = [sys.executable, str(HERE / script), *options, "--json", str(output)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=3600).stdout
    return text, json.loads(output.read_text())


@click.command()
@click.option(
    "--full-size", type=click.Path(path_type=Path, exists=True), help="A bundle of E2B's shape; default: made."
)
@click.option("--recipe", default="mixed", show_default=True, help="Of the bundle that is made.")
@click.option("--threads", default=2, show_default=True, help="Of both engines at full size.")
@click.option("--rounds", default=4, show_default=True)
def main(full_size: Path | None, recipe: str, threads: int, rounds: int) -> None:
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if full_size is None:
            full_size = scratch / "e2b.litertlm"
            model = ["--model", "E2B", "--random-weights", "1", "--recipe", recipe]
            subprocess.run(["edge-mtp", "export", *model, "-o", str(full_size)], check=True, timeout=3600)
        out, common = scratch / "figures.json", ["--rounds", str(rounds)]
        tables = {
            "Decoding the tiny trained pair, one thread": run("decode_speed.py", *common, output=out),
            "The tiny pair's bundle, one thread": run(
                "full_size.py",
                "--bundle",
                str(cached_bundle("fp32", widths=VERIFY_WIDTHS)),
                "--threads",
                "1",
                *common,
                output=out,
            ),
            f"The shape of E2B, random weights, recipe {recipe}": run(
                "full_size.py", "--bundle", str(full_size), "--threads", str(threads), *common, output=out
            ),
        }
    results = HERE / "results"
    figures = {title: values for title, (_, values) in tables.items()}
    (results / "runtime.json").write_text(json.dumps(figures, indent=1) + "\n")
    parts = [f"## {title}\n\n{text.strip()}\n" for title, (text, _) in tables.items()]
    (results / "runtime.md").write_text("# python benchmarks/runtime.py\n\n" + "\n".join(parts))
    click.echo((results / "runtime.md").read_text())


if __name__ == "__main__":
    main()
