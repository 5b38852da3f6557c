"""What each recipe costs the tiny pair, and which part of the pair it costs: size, KL, tool calls, acceptance.

    python benchmarks/recipes.py [--limit N] [--arms NAME,NAME] [--bundles DIR] [--json FILE] [--plot FILE]

Exports the pair with every predefined recipe, and in arms that lower one part alone and leave the rest in fp32; then
measures each against fp32, greedily, on the first N prompts of each of the four frozen splits. Bundles already in DIR
are not exported again: empty it when the exporter has changed. The Markdown goes to standard output and, with --json,
beside that file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.export.recipes import RECIPES
from edge_mtp.harness.analyse.quality import QualityReport, quality_of
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.run.quality import ask_bundles
from edge_mtp.harness.tell import quality_plot, quality_tables

REFERENCE = "fp32"
# Above the longest reply that ends by itself. One that never does would weigh as ten others.
MAX_TOKENS = 96
SPLITS = ("iid", "new_templates", "new_values", "new_names")
DRAFTER = ("drafter", "drafter_head")
DECODER = ("attention", "mlp", "per_layer")
EMBEDDERS = ("embedder", "per_layer_embedder")


@dataclass(frozen=True)
class Arm:
    """A predefined recipe with the encoding of some roles replaced, and the type of the KV cache."""

    base: str
    roles: Mapping[str, str] = field(default_factory=dict)
    kv: str = "fp32"

    def recipe(self, folder: Path) -> str:
        """The predefined recipe's name, or a TOML file in `folder`."""
        if not self.roles:
            return self.base
        path = folder / "arm.toml"
        lines = [f'base = "{self.base}"', "[roles]", *(f'{role} = "{value}"' for role, value in self.roles.items())]
        path.write_text("\n".join(lines) + "\n")
        return str(path)


def one_part(roles: Sequence[str], encoding: str) -> Arm:
    return Arm(REFERENCE, dict.fromkeys(roles, encoding))


ARMS = {
    **{name: Arm(name) for name in (REFERENCE, *(name for name in RECIPES if name != REFERENCE))},
    "drafter int8": one_part(DRAFTER, "int8"),
    "drafter int4": one_part(DRAFTER, "int4"),
    "drafter int4b32": one_part(DRAFTER, "int4b32"),
    "head int8": one_part(["head"], "int8"),
    "head int4": one_part(["head"], "int4"),
    "head int4b32": one_part(["head"], "int4b32"),
    "decoder int4": one_part(DECODER, "int4"),
    "decoder int4b32": one_part(DECODER, "int4b32"),
    "embedders int4": one_part(EMBEDDERS, "int4"),
    "KV int8": Arm(REFERENCE, kv="int8"),
    "mixed + KV int8": Arm("mixed", kv="int8"),
}


@click.command()
@click.option("--limit", default=200, show_default=True, help="Prompts of each split.")
@click.option("--arms", "chosen", help="Only these, comma-separated; the reference always.")
@click.option("--bundles", type=click.Path(path_type=Path), help="Keep the bundles here; default: a passing folder.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the report here, and FILE.md beside it.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw acceptance and KL into this file.")
def main(limit: int, chosen: str | None, bundles: Path | None, output: Path | None, plot: Path | None) -> None:
    names = list(ARMS)
    if chosen is not None:
        names = [REFERENCE, *(name for name in chosen.split(",") if name != REFERENCE)]
    if unknown := [name for name in names if name not in ARMS]:
        raise click.UsageError(f"no arm {unknown[0]!r}; take some of {', '.join(ARMS)}")
    with tempfile.TemporaryDirectory() as passing:
        folder = bundles or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: exported(name, folder) for name in names}
        items = [each for split in SPLITS for each in read_items(TINY / "splits" / f"{split}.jsonl", limit)]
        source = f"the first {limit} of each of {', '.join(SPLITS)}"
        answers = ask_bundles(paths, items, draft_lengths=(4,), max_tokens=MAX_TOKENS, threads=1, progress=tell)
        report = quality_of(answers, items, source=source, max_tokens=MAX_TOKENS)
    text = markdown(report, limit)
    click.echo(text, nl=False)
    if output is not None:
        value = report.to_json()
        for measurement in value["measurements"]:
            measurement["file"] = Path(measurement["file"]).name
        output.write_text(json.dumps(value, indent=1) + "\n")
        output.with_suffix(".md").write_text(text)
    if plot is not None:
        quality_plot.plot(report, plot)


def exported(name: str, folder: Path) -> Path:
    path = folder / f"{name.replace(' + ', '-').replace(' ', '-')}.litertlm"
    if not path.exists():
        click.echo(f"{name}: export", err=True)
        target, drafter = tiny_pair()
        with tempfile.TemporaryDirectory() as scratch:
            recipe = ARMS[name].recipe(Path(scratch))
            export_bundle(target, drafter, path, recipe=recipe, kv=ARMS[name].kv, widths=VERIFY_WIDTHS)
    return path


def tell(stage: str, done: int, total: int) -> None:
    if done == 0:
        print(f"{stage}, {total} prompts", file=sys.stderr)


def markdown(report: QualityReport, limit: int) -> str:
    command = f"python benchmarks/recipes.py --limit {limit} --json benchmarks/results/recipes.json"
    return f"# Recipes on the tiny pair\n\n    {command}\n\n{quality_tables.markdown(report)}"


if __name__ == "__main__":
    main()
