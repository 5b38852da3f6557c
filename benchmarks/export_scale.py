"""What exports of the real models take: time, anonymous memory, scratch disk, size of the bundle.

    python benchmarks/export_scale.py [MODEL...] [--recipe mixed] [--from-disk] [--again] [--json FILE]

Random weights in the real shapes, made up as they are read; with --from-disk written as a sharded bf16 checkpoint
first and read from there, as a real one would be. Each export runs in a process of its own, without pieces kept by
earlier ones; with --again it is then repeated with them, as for another fine-tune of the same model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
from process import measured

from edge_mtp.export import catalogue

SHARD_BYTES = 4 << 30
RUN = "from edge_mtp.cli import main; main()"


@click.command()
@click.argument("models", nargs=-1)
@click.option("--recipe", default="mixed", show_default=True)
@click.option("--from-disk", is_flag=True)
@click.option("--again", is_flag=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; default: a passing folder.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the results here.")
def main(
    models: tuple[str, ...], recipe: str, from_disk: bool, again: bool, folder: Path | None, output: Path | None
) -> None:
    """Export each of MODELS, default all that the catalogue has."""
    results = {}
    for name in models or catalogue.MODELS:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            root = Path(work)
            arguments = ["--model", name, "--random-weights", "1"]
            if from_disk:
                target, drafter = write_checkpoint(name, root)
                arguments = ["--model", str(target), "--drafter", str(drafter)]
            command = [sys.executable, "-c", RUN, "export", *arguments, "--recipe", recipe]
            environment = os.environ | {"XDG_CACHE_HOME": str(root / "cache")}
            for label in [name, f"{name} again"][: 1 + again]:
                scratch = root / "scratch"
                scratch.mkdir()
                results[label] = measured([*command, "-o", "x.litertlm"], scratch, environment)
                click.echo(f"{label}: {json.dumps(results[label])}", err=True)
                shutil.rmtree(scratch)
    click.echo(json.dumps({"recipe": recipe, "from_disk": from_disk, "models": results}, indent=1))
    if output:
        output.write_text(json.dumps({"recipe": recipe, "from_disk": from_disk, "models": results}, indent=1) + "\n")


def write_checkpoint(name: str, root: Path) -> tuple[Path, Path]:
    """Random weights of a model and its drafter as sharded bf16 safetensors."""
    import torch
    from safetensors.torch import save_file

    from edge_mtp.export.checkpoint import random_pair

    pair = random_pair(name, 1, root / "random")
    for role, checkpoint in (("target", pair.target), ("drafter", pair.drafter)):
        directory, shards, size = root / "random" / role, [{}], 0
        for tensor in checkpoint.weights.names:
            rows = torch.from_numpy(checkpoint.weights.read(tensor))
            rows = rows if rows.dtype == torch.int32 else rows.to(torch.bfloat16)
            if size and size + rows.nbytes > SHARD_BYTES:
                save_file(shards[-1], directory / f"model-{len(shards):05}.safetensors", metadata={"format": "pt"})
                shards[-1] = dict.fromkeys(shards[-1])
                shards.append({})
                size = 0
            shards[-1][tensor] = rows
            size += rows.nbytes
        save_file(shards[-1], directory / f"model-{len(shards):05}.safetensors", metadata={"format": "pt"})
        places = {name: f"model-{number:05}.safetensors" for number, shard in enumerate(shards, 1) for name in shard}
        index = {"metadata": {}, "weight_map": places}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    from edge_mtp.export.checkpoint import tiny_pair

    for each in ("chat_template.jinja", "generation_config.json"):
        shutil.copy(tiny_pair()[0] / each, root / "random" / "target" / each)
    return root / "random" / "target", root / "random" / "drafter"


if __name__ == "__main__":
    main()
