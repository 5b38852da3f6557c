"""`edge-mtp eval`: tool-call errors of every arm on the same suites."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edge_mtp.cli.arm_options import ArmChoice, arm_options
from edge_mtp.cli.device_progress import notice_for
from edge_mtp.cli.measuring import (
    are_tiny,
    by_id,
    command_line,
    open_answerers,
    open_results,
    results_path,
    resumable,
    tell,
)
from edge_mtp.cli.option_groups import GroupedCommand, option_group
from edge_mtp.cli.progress import count_progress
from edge_mtp.formats.defaults import DEFAULT_MAX_TOKENS

_items = option_group("Suites")
_output = option_group("Output")


@click.command("eval", cls=GroupedCommand)
@_items(
    "--suite", "suites", multiple=True, metavar="NAME|FILE",
    help="phone, iid, new_values, new_templates, new_names, tiny (these four), bfcl, bfcl:live, bfcl:non_live or"
    " bfcl:CATEGORY (of the installed bfcl-eval), or a JSONL file; may be repeated. Default: iid for the built-in tiny"
    " model, else phone.",
)  # fmt: skip
@_items("--limit", type=click.IntRange(1), metavar="N", help="Use only the first N items of each suite.")
@_items("--max-tokens", type=click.IntRange(1), default=DEFAULT_MAX_TOKENS, show_default=True, metavar="N",
        help="Most tokens in a reply.")  # fmt: skip
@arm_options(mtp="off,auto")
@_output("--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
         help="The JSONL file for the results; default: eval-DATE-TIME.jsonl.")  # fmt: skip
@_output("--resume", is_flag=True, help="Continue an interrupted run whose results are in --output.")
@_output("--json", "as_json", is_flag=True, help="Print the analysis as one JSON object instead of text.")
def evaluate(
    suites: tuple[str, ...],
    limit: int | None,
    max_tokens: int,
    output: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure tool-call errors: every arm answers the same items.

    The command parses each reply strictly and leniently, compares it with the right answer and labels its errors
    (docs/tool-call-errors.md). It compares arms in pairs on the same items: where their texts differ, what was lost and
    gained, and whether the data suffices to tell. A crash of the runner counts as a wrong answer, and the run goes on.

    \b
    edge-mtp eval --recipe fp32,int8 --mtp off,auto
    edge-mtp eval --bundle model.litertlm --suite phone --suite bfcl:simple_python --device pixel -o results.jsonl
    edge-mtp report results.jsonl
    """
    from edge_mtp.harness.ask.suites import suite
    from edge_mtp.harness.record.provenance import new_run
    from edge_mtp.harness.run import evaluate as harness

    path = results_path("eval", output, resume=resume)
    arms, baseline = ArmChoice.take(options).resolve()
    suites = suites or ("iid" if are_tiny(arms) else "phone",)
    items = by_id((name, suite(name, limit)) for name in suites)
    run = new_run(
        "eval", arms, baseline, command=command_line(), suite=", ".join(suites),
        settings={"items": len(items), "limit": limit, "rounds": 1, "max_tokens": max_tokens},
        notice=notice_for,
    )  # fmt: skip
    writer, old = open_results(path, run, items, resume=resume)
    answered = harness.answered_questions(old) if old else set()
    with resumable(path), writer, ExitStack() as stack:
        answerers = open_answerers(stack, arms, margins=True)
        progress = stack.enter_context(count_progress("questions"))
        harness.evaluate(answerers, items, writer, max_tokens=max_tokens, answered=answered, progress=progress)
    tell(path, as_json=as_json)
