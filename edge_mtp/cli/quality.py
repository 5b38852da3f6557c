"""`edge-mtp quality`: what quantization costs, bundles of one family against the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_mtp.cli.progress import stage_progress
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.defaults import DEFAULT_DRAFT_LENGTH, DEFAULT_MAX_TOKENS
from edge_mtp.output_file import refuse_inputs

if TYPE_CHECKING:
    from edge_mtp.harness.ask.item import Item

DEFAULT_PROMPTS = 200


@click.command()
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="BUNDLE...")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="A file with one conversation on each line; default for bundles of the tiny pair: its own.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help=f"Use only the first N prompts; default: all of FILE, or {DEFAULT_PROMPTS} of the tiny pair.",
)
@click.option(
    "--draft-length", "draft_lengths", type=click.IntRange(1), multiple=True, metavar="K",
    help="Drafts in each step; default: 4. May be repeated.",
)  # fmt: skip
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    help="Most tokens in a reply.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: LiteRT chooses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Also draw acceptance and KL into this file."
)
def quality(
    bundles: tuple[Path, ...],
    prompts: Path | None,
    limit: int | None,
    draft_lengths: tuple[int, ...],
    max_tokens: int,
    threads: int | None,
    as_json: bool,
    markdown: bool,
    plot: Path | None,
) -> None:
    """Measure what quantization does: each BUNDLE of a family against the first, usually fp32.

    The tables have the size, the bytes that a step reads, KL divergence and argmax agreement with the first bundle on
    its replies, exact tool calls, and the acceptance at each draft position, all with 95% intervals. The command runs
    on this machine's CPU.

    Bundles of a family have the same architecture and vocabulary, such as E2B and its fine-tunes. If a bundle comes
    from another checkpoint than the first, the table says so: the distance then includes the effect of training.

    A line of FILE.jsonl is {"prompt": TEXT} or {"messages": [...]}, with optional "tools" (OpenAI's form) and "gold":
    {"calls": [{"name": ..., "arguments": {...}}]}, or {"text": ...} where no call is right. Of a line with "turns", the
    command asks the first turn.

    \b
    edge-mtp quality tiny-fp32.litertlm tiny-int8.litertlm
    edge-mtp quality fp32.litertlm int4.litertlm qat.litertlm --prompts mine.jsonl --plot quality.svg
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown contradict each other; drop one.")
    if len(bundles) < 2:
        raise click.UsageError("a bundle is measured against another; give the reference first, then others.")
    from edge_mtp.harness.analyse.quality import quality_of
    from edge_mtp.harness.run.quality import ask_bundles
    from edge_mtp.harness.tell.quality_plot import plot as draw
    from edge_mtp.harness.tell.quality_tables import markdown as as_markdown
    from edge_mtp.harness.tell.quality_tables import show

    labels = [path.stem for path in bundles]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in bundles]
    if len(set(labels)) < len(labels):
        raise EdgeMtpError(f"{next(n for n in labels if labels.count(n) > 1)} is given twice; give each bundle once")
    refuse_inputs([plot], [*bundles, prompts])
    items, source = chosen_items(bundles[0], prompts, limit)
    with stage_progress() as progress:
        answers = ask_bundles(
            dict(zip(labels, bundles, strict=True)),
            items,
            draft_lengths=draft_lengths or (DEFAULT_DRAFT_LENGTH,),
            max_tokens=max_tokens,
            threads=threads,
            progress=progress,
        )
    report = quality_of(answers, items, source=source, max_tokens=max_tokens)
    if plot is not None:
        draw(report, plot)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    elif markdown:
        click.echo(as_markdown(report), nl=False)
    else:
        show(report)


def chosen_items(bundle: Path, prompts: Path | None, limit: int | None) -> tuple[list[Item], str]:
    """The items to measure with, and what a report calls them.

    Raises EdgeMtpError where the file is wrong, or none is given and the bundle is not of the tiny pair.
    """
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.harness.ask.suites import read_items
    from edge_mtp.harness.ask.tiny_pair import TINY, is_tiny

    if prompts is not None:
        return read_items(prompts, limit), prompts.name
    if not is_tiny(Bundle(bundle)):
        raise EdgeMtpError(f"{bundle} is not of the tiny pair, which has prompts of its own; give --prompts FILE.jsonl")
    return read_items(TINY / "splits" / "iid.jsonl", limit or DEFAULT_PROMPTS), "split iid"
