"""`edge-mtp export`: a checkpoint pair to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_mtp.cli.progress import export_progress
from edge_mtp.export import tiny

TINY = "tiny"
DEFAULT_CONTEXT = 4096
DEFAULT_PREFILL = (128,)


class Lengths(click.ParamType[Any]):
    """Comma-separated positive numbers."""

    name = "lengths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            lengths = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            lengths = (0,)
        if min(lengths) < 1:
            self.fail(f"{value!r} is not a list of positive numbers such as 16,128", param, ctx)
        return lengths


@click.command()
@click.option(
    "--model",
    required=True,
    metavar="tiny|DIR",
    help="Target checkpoint directory, or `tiny`: the trained pair that comes with edge-mtp.",
)
@click.option("--drafter", type=click.Path(path_type=Path), help="Drafter checkpoint directory. Not with `tiny`.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Bundle to write; default NAME-QUANTIZATION.litertlm in the current directory.",
)
@click.option(
    "--quantize",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8: weights int8, activations and KV cache float32.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help=f"Positions in the KV cache; default {DEFAULT_CONTEXT}, {tiny.CONTEXT} for `tiny`.",
)
@click.option(
    "--prefill",
    type=Lengths(),
    metavar="LENGTHS",
    default=DEFAULT_PREFILL,
    help="Rows of the prefill graphs, comma-separated; default 128.",
)
@click.option(
    "--lean",
    is_flag=True,
    help="Only the stock runtime's graphs, as its GPU backend needs; `edge-mtp run` then decodes plainly.",
)
@click.option("--json", "as_json", is_flag=True, help="Print path, section sizes and seconds as JSON.")
def export(
    model: str,
    drafter: Path | None,
    output: Path | None,
    quantize: str,
    context: int | None,
    prefill: tuple[int, ...],
    lean: bool,
    as_json: bool,
) -> None:
    """Export a Gemma 4 checkpoint and its MTP drafter to a .litertlm bundle.

    The bundle runs in the stock LiteRT-LM engine with speculative decoding on, and in `edge-mtp run`.

    \b
    edge-mtp export --model tiny
    edge-mtp export --model ./gemma-4-E2B-it --drafter ./gemma-4-E2B-it-assistant --quantize int8
    """
    if (model == TINY) == (drafter is not None):
        raise click.UsageError(
            "--model tiny brings its own drafter" if drafter else "--drafter is needed: a target alone has no MTP"
        )
    from edge_mtp.export.checkpoint import tiny_pair
    from edge_mtp.export.pipeline import export_bundle

    if drafter is None:
        target, drafter = tiny_pair()
    else:
        target = Path(model)
    name = TINY if model == TINY else target.resolve().name
    with export_progress() as progress:
        summary = export_bundle(
            target,
            drafter,
            output or Path(f"{name}-{quantize}.litertlm"),
            quantization=quantize,
            context=context or (tiny.CONTEXT if model == TINY else DEFAULT_CONTEXT),
            prefill=prefill,
            lean=lean,
            progress=progress,
        )
    size = summary.path.stat().st_size
    if as_json:
        click.echo(
            json.dumps(
                {
                    "path": str(summary.path),
                    "bytes": size,
                    "sections": summary.sections,
                    "seconds": {stage: round(value, 2) for stage, value in summary.seconds.items()},
                }
            )
        )
        return
    for section, length in summary.sections.items():
        click.echo(f"{section:>20} {length / 1e6:10.2f} MB")
    click.echo(f"{summary.path}: {size / 1e6:.2f} MB in {sum(summary.seconds.values()):.0f} s")
