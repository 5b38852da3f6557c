"""`edge-mtp check`: whether MTP on a device gives the text of plain decoding, and if not, why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_mtp.cli.loading_options import loading_options
from edge_mtp.formats.defaults import DEFAULT_DRAFT_LENGTH, DEFAULT_MAX_TOKENS

DEFAULT_PROMPTS = 50
BUILT_IN = "built-in"  # what --numerics stands for without a FILE


@click.command()
@click.option(
    "--numerics", is_flag=False, flag_value=BUILT_IN, metavar="[FILE.jsonl]",
    help=f"Compare token by token on these prompts; default: {DEFAULT_PROMPTS} prompts of the tiny model.",
)  # fmt: skip
@click.option("--bundle", type=click.Path(path_type=Path), help="The .litertlm file; default: the built-in tiny model.")
@click.option("--device", default="host", show_default=True, help="The device; host is this machine.")
@click.option("--draft-length", type=click.IntRange(1), metavar="K", help="Drafts in each step; default: 4.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only the first N prompts.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    help="Most tokens in a reply.",
)
@loading_options()
@click.option("--strict", is_flag=True, help="Exit with 1 also if rounding alone changed a text.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def check(
    numerics: str | None,
    bundle: Path | None,
    device: str,
    draft_length: int | None,
    limit: int | None,
    max_tokens: int,
    strict: bool,
    as_json: bool,
    **loading: Any,
) -> None:
    """Check that MTP on a device gives the text of plain decoding.

    With --numerics, three arms answer the same prompts greedily: plain decoding, the verify graph with every draft
    blank, and MTP. Where the first two differ, the graphs round differently; the margin between the two largest logits
    says by how little. Where the last two differ, the runner accepted a wrong draft, or kept the state of a rejected
    one: that is a fault of the device or of edge-mtp, and the exit status is 1.

    A line of FILE.jsonl is {"prompt": TEXT} or {"messages": [...]}, with optional "tools" (OpenAI's form). Of a line
    with "turns", the command asks the first turn.

    \b
    edge-mtp check --numerics prompts.jsonl --bundle model.litertlm --device host
    """
    if numerics is None:
        raise click.UsageError("say what to check: --numerics FILE.jsonl, or --numerics alone for built-in prompts.")
    from edge_mtp.cli.measuring import measured_engine
    from edge_mtp.cli.progress import count_progress, export_progress
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.harness.analyse.numerics import numerics_of
    from edge_mtp.harness.ask.runner_engine import answerers_on
    from edge_mtp.harness.ask.suites import read_items
    from edge_mtp.harness.ask.tiny_pair import TINY, is_tiny
    from edge_mtp.harness.run.check import ask_numerics_arms, numerics_arms
    from edge_mtp.harness.tell.numerics_lines import numerics_lines

    built_in = numerics == BUILT_IN
    if built_in and bundle is not None and not is_tiny(Bundle(bundle)):
        raise click.UsageError(f"the built-in prompts are for the tiny pair, not {bundle}; give --numerics FILE.")
    path = TINY / "splits" / "iid.jsonl" if built_in else Path(numerics)
    items = read_items(path, limit or (DEFAULT_PROMPTS if built_in else None))
    if bundle is None:
        from edge_mtp.export.defaults import VERIFY_WIDTHS
        from edge_mtp.export.tiny.bundle import cached_bundle

        with export_progress() as progress:
            bundle = cached_bundle("fp32", widths=VERIFY_WIDTHS, progress=progress)
    with measured_engine(bundle, device, **loading) as engine, count_progress("prompts, three arms") as advance:
        k = draft_length or min(DEFAULT_DRAFT_LENGTH, max(1, engine.max_draft_length))
        answers = ask_numerics_arms(
            answerers_on(engine, numerics_arms(str(bundle), k), margins=True),
            engine.chat_format,
            engine.runner.ready,
            items,
            draft_length=k,
            max_tokens=max_tokens,
            progress=advance,
        )
        report = numerics_of(answers, engine.chat_format, draft_length=k, max_tokens=max_tokens)
    if as_json:
        click.echo(json.dumps({"bundle": str(bundle), "device": device, "source": path.name, **report.to_json()}))
    else:
        click.echo("\n".join(numerics_lines(report)))
    if report.verdict == "accept or rollback" or (strict and report.verdict != "same"):
        raise SystemExit(1)
