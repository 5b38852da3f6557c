"""`edge-mtp export`: a checkpoint pair to a bundle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.cli.progress import export_progress, stage_progress
from edge_mtp.cli.quality import chosen_items
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import defaults
from edge_mtp.json_file import write_text
from edge_mtp.output_file import destination, refuse_inputs
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from edge_mtp.export.checkpoint import Pair
    from edge_mtp.export.pipeline import Summary
    from edge_mtp.export.verify import Verification
    from edge_mtp.harness.analyse.quality import QualityReport


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


class Names(click.ParamType[Any]):
    """Comma-separated words."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(str(value).split(","))


@click.command()
@click.option(
    "--model",
    required=True,
    metavar="NAME|DIR|FILE.gguf|HF-ID",
    help="E2B, E4B, 12B, 31B, 26B-A4B, a quantized form of one (E2B-QAT, E2B-QAT-GGUF, E2B-W4A16, E2B-mobile) or"
    " another repository on the Hugging Face Hub; OWNER/NAME/FILE.gguf, a file in one; a checkpoint directory; a GGUF"
    " file; or `tiny`, the trained pair that comes with edge-mtp.",
)
@click.option("--drafter", metavar="DIR|FILE.gguf|HF-ID", help="The drafter; default: the one that matches the model.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder whose tokenizer.json and chat template replace the model's own.",
)
@click.option("--adapter", metavar="DIR|HF-ID", help="A LoRA adapter (PEFT); the export merges it into the model.")
@click.option("--revision", help="Commit, branch or tag of the model's repository.")
@click.option("--drafter-revision", help="Commit, branch or tag of the drafter's repository.")
@click.option("--offline", is_flag=True, help="Use only what is already downloaded.")
@click.option(
    "--random-weights",
    "seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Fill the shapes of a named model with random weights, to measure without a download.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The bundle to write; default: NAME-RECIPE.litertlm in the current directory.",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    default=defaults.RECIPE,
    show_default=True,
    help="How to store the weights: fp32, fp16, int8, int4, int4-block, mixed, or a file of your own (docs/recipes.md)."
    " The export keeps the integers of a quantized checkpoint as they are.",
)
@click.option(
    "--kv", type=click.Choice(defaults.KV_TYPES), default=defaults.KV, show_default=True, help="Type of the KV cache."
)
@click.option("--context", type=click.IntRange(min=1), help="Positions in the KV cache; the default suits the model.")
@click.option(
    "--prefill",
    type=Lengths(),
    metavar="LENGTHS",
    help="Rows of the prefill graphs, comma-separated; default: 128, or 16 for a mixture of experts.",
)
@click.option(
    "--widths",
    type=Lengths(),
    metavar="WIDTHS",
    default=defaults.WIDTHS,
    help="Rows of the verify graphs, comma-separated, each one more than a draft length, at most 8; default: 2 to 6.",
)
@click.option(
    "--lean",
    is_flag=True,
    help="Write only the stock graphs. `edge-mtp run` then drafts 3 tokens a step with them, and is slower.",
)
@click.option(
    "--accelerators",
    type=Names(),
    metavar="NAMES",
    default=defaults.ACCELERATORS,
    show_default="cpu",
    help="Whose graphs to write: cpu, and with it gpu and npu; comma-separated.",
)
@click.option(
    "--report",
    is_flag=True,
    help="Afterwards measure the bundle against an fp32 one (KL, agreement, tool calls, acceptance), and write a report"
    " beside it.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Conversations for --report, in the form of `edge-mtp quality`; `tiny` has its own.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="The bundle of the same pair that --report measures against; default: --report exports one in fp32.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Afterwards check that each tensor of the bundle holds the integers and scales of the quantized checkpoint.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the path, section sizes and seconds as JSON.")
def export(
    model: str,
    drafter: str | None,
    tokenizer: Path | None,
    adapter: str | None,
    revision: str | None,
    drafter_revision: str | None,
    offline: bool,
    seed: int | None,
    output: Path | None,
    recipe: str,
    kv: str,
    context: int | None,
    prefill: tuple[int, ...] | None,
    widths: tuple[int, ...],
    lean: bool,
    accelerators: tuple[str, ...],
    report: bool,
    prompts: Path | None,
    reference: Path | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Export a Gemma 4 checkpoint and its MTP drafter to a .litertlm bundle.

    The bundle runs in the stock LiteRT-LM engine with speculative decoding on, and in `edge-mtp run`. Repeat the same
    command to resume an interrupted export.

    \b
    edge-mtp export --model tiny
    edge-mtp export --model E2B --recipe mixed
    edge-mtp export --model ./my-fine-tune --drafter ./my-drafter --recipe int8
    """
    if seed is not None and (drafter or tokenizer or adapter or revision or drafter_revision):
        raise click.UsageError("--random-weights needs a named model and goes with no other checkpoint")
    _check_report(report, prompts, reference, model, recipe, kv)
    from edge_mtp.export.catalogue import model as named
    from edge_mtp.export.checkpoint import open_pair, random_pair
    from edge_mtp.export.pipeline import export_bundle
    from edge_mtp.export.source import find
    from edge_mtp.export.verify import is_quantized
    from edge_mtp.quiet import quiet

    with export_progress() as progress, tempfile.TemporaryDirectory() as scratch:
        if seed is not None:
            name, origins = named(model).name, {}
            with quiet():
                pair = random_pair(name, seed, Path(scratch))
        else:
            source = find(
                model,
                drafter,
                adapter,
                revision=revision,
                drafter_revision=drafter_revision,
                offline=offline,
                progress=progress,
            )
            name, origins = source.name, source.origins
            with quiet():
                pair = open_pair(source.target, source.drafter, adapter=source.adapter, tokenizer=tokenizer)

        is_kept = bool(pair.target.weights.encodings or pair.drafter.weights.encodings)
        if verify and not is_quantized(pair):
            raise EdgeMtpError(f"--verify compares with a quantized checkpoint, and {model} is none: drop it")

        def exported(path: Path, recipe: str, kv: str) -> Summary:
            return export_bundle(
                pair,
                None,
                path,
                recipe=recipe,
                context=context,
                prefill=prefill,
                kv=kv,
                lean=lean,
                widths=widths,
                accelerators=accelerators,
                origins=origins,
                progress=progress,
            )

        path = output or Path(f"{name}.litertlm" if is_kept else f"{name}-{Path(recipe).stem}.litertlm")
        if report:
            inputs = (prompts, reference, pair.target.directory, pair.drafter.directory, pair.tokenizer.parent)
            refuse_inputs([path, *_report_files(path)], [*inputs, *pair.target.files])
        summary = exported(path, recipe, kv)
        verified = _verified(summary.path, pair, progress) if verify else None
        measured = None
        if report and reference is not None:
            measured = _report(reference, path, prompts)
        elif report:
            # In a folder of its own, on the disk that has the room: nothing that is there is overwritten.
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=destination(path).parent) as beside:
                passing = Path(beside) / f"{path.stem}.fp32.litertlm"
                exported(passing, "fp32", "fp32")
                measured = _report(passing, path, prompts)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "path": str(summary.path),
                    "bytes": summary.path.stat().st_size,
                    "sections": summary.sections,
                    "seconds": {stage: round(value, 2) for stage, value in summary.seconds.items()},
                    "left_out": summary.left_out,
                    "templates": {
                        "conversations": summary.templates.conversations,
                        "refused": summary.templates.refused,
                        "stock": summary.templates.stock.kind,
                        "reason": summary.templates.stock.reason,
                    },
                    "int8_instead": summary.int8_instead,
                    "kept": summary.kept,
                    "nearly": summary.nearly,
                    "anew": summary.anew,
                    "notes": summary.notes,
                    "accelerators": summary.accelerators,
                    "context": summary.context,
                    "kv_bytes": summary.kv_bytes,
                }
                | ({} if verified is None else {"verified": asdict(verified)})
                | ({} if measured is None else {"report": measured.to_json()})
            )
        )
        return
    for section, length in summary.sections.items():
        click.echo(f"{section:>20} {length / 1e6:10.2f} MB")
    for group in summary.left_out:
        click.echo(shown(f"left out: {group}"))
    for line in summary.templates.lines():
        click.echo(shown(line))
    if summary.int8_instead:
        click.echo(shown(f"stored as int8, for its rows are too short for blocks: {', '.join(summary.int8_instead)}"))
    if summary.kept:
        counts = ", ".join(f"{count} in {encoding}" for encoding, count in summary.kept.items())
        click.echo(f"as the checkpoint stores them: {counts} tensors; recipe {recipe} stores the others")
    if summary.nearly:
        counts = ", ".join(f"{count} in {encoding}" for encoding, count in summary.nearly.items())
        click.echo(f"nearly as the checkpoint stores them: {counts} tensors; int4 has no +8, and 7 stands for it")
    if summary.anew:
        counts = ", ".join(f"{count} tensors in {form}" for form, count in summary.anew.items())
        click.echo(f"rounded again, for LiteRT has no such form: {counts}; recipe {recipe} stores them")
    for note in summary.notes:
        click.echo(shown(note))
    for line in verified.lines() if verified is not None else ():
        click.echo(shown(line))
    click.echo(f"context: {summary.context:,} positions, a KV cache of {summary.kv_bytes / 1e6:,.1f} MB of memory")
    size, seconds = summary.path.stat().st_size, sum(summary.seconds.values())
    click.echo(f"{summary.path}: {size / 1e6:.2f} MB in {seconds:.0f} s")
    if measured is not None:
        from edge_mtp.harness.tell.quality_tables import show

        show(measured)


def _verified(bundle: Path, pair: Pair, progress: Callable[[str, float], None]) -> Verification:
    """Raises EdgeMtpError where a tensor differs."""
    from edge_mtp.export.verify import verify
    from edge_mtp.formats.bundle import Bundle

    found = verify(Bundle(bundle), pair, partial(progress, "verify"))
    if found.missing:
        raise EdgeMtpError(
            f"{len(found.missing)} tensors of {bundle} differ from the checkpoint, first {found.missing[0]}: export it"
            " again"
        )
    return found


def _check_report(report: bool, prompts: Path | None, reference: Path | None, model: str, recipe: str, kv: str) -> None:
    """Refuse what a report cannot be made with before the export rather than after it."""
    if not report:
        if prompts or reference:
            raise click.UsageError("--prompts and --reference are for --report: add it")
        return
    if reference is None and recipe == kv == "fp32":
        raise click.UsageError("--report measures against fp32: choose another --recipe or --kv, or give --reference")
    if prompts is None and model != "tiny":
        raise click.UsageError(f"--report needs --prompts FILE.jsonl: {model} has none of its own")
    if prompts is not None:
        from edge_mtp.harness.ask.suites import read_items

        read_items(prompts)
    if reference is not None:
        from edge_mtp.formats.bundle import Bundle

        Bundle(reference)


def _report(reference: Path, bundle: Path, prompts: Path | None) -> QualityReport:
    """Measure `bundle` against `reference` and write the report beside it, as Markdown and JSON."""
    from edge_mtp.formats.defaults import DEFAULT_MAX_TOKENS
    from edge_mtp.harness.analyse.quality import quality_of
    from edge_mtp.harness.run.quality import ask_bundles
    from edge_mtp.harness.tell.quality_tables import markdown

    items, source = chosen_items(reference, prompts, None)
    with stage_progress() as progress:
        answers = ask_bundles({reference.stem: reference, bundle.stem: bundle}, items, progress=progress)
    measured = quality_of(answers, items, source=source, max_tokens=DEFAULT_MAX_TOKENS)
    page, values = _report_files(bundle)
    write_text(page, markdown(measured))
    write_text(values, json.dumps(measured.to_json(), indent=1) + "\n")
    return measured


def _report_files(bundle: Path) -> tuple[Path, Path]:
    return bundle.with_suffix(".report.md"), bundle.with_suffix(".report.json")
