"""`edge-mtp compare`: a result against another, or the arms of one, with rules for CI."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_mtp.safe_text import shown

TRIGGERED = 3
CANNOT_TELL = 4


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="A [B]")
@click.option(
    "--fail-if", "rules", multiple=True, metavar="RULE",
    help="METRIC[@ARM][#KIND] OP VALUE: 'speedup < 1.0', 'toolcall.error > +1pp'. May be repeated.",
)  # fmt: skip
@click.option(
    "--arm", "arms", multiple=True, metavar="A_LABEL=B_LABEL",
    help="Compare this arm of A with that arm of B; default: arms with the same label. May be repeated.",
)  # fmt: skip
@click.option("--unpaired", is_flag=True, help="Compare runs that share no items, by the totals of each.")
@click.option("--strict", is_flag=True, help=f"Exit with {CANNOT_TELL} if no rule is triggered and one cannot be told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request or GITHUB_STEP_SUMMARY.")
@click.pass_context
def compare(
    ctx: click.Context,
    files: tuple[Path, ...],
    rules: tuple[str, ...],
    arms: tuple[str, ...],
    unpaired: bool,
    strict: bool,
    as_json: bool,
    markdown: bool,
) -> None:
    """Compare the result B with the base A, and fail if a rule is triggered.

    A and B are results files of bench or eval, or the JSON files of `edge-mtp report`. Two results files are compared
    on the items that both have. With A alone, the command compares its arms that draft with those that decode plainly.

    A signed VALUE is a change from A to B: +1pp, -3%, +5ms. An unsigned VALUE is B's own figure. A rule is triggered
    if the whole 95% interval satisfies it; METRIC.value, .low or .high compares that point alone. docs/results.md lists
    all metrics.

    Exit status: 0 no rule is triggered, 1 an error, 2 wrong usage, 3 a rule is triggered, 4 (with --strict) no rule is
    triggered and one cannot be told.

    \b
    edge-mtp compare main.jsonl branch.jsonl --fail-if 'speedup < 1.0' --fail-if 'toolcall.error > +1pp'
    edge-mtp compare run.jsonl --fail-if 'same_text.value < 100%'
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown contradict each other; drop one.")
    if len(files) > 2:
        raise click.UsageError(f"{len(files)} files are given; give A and B, or A alone.")
    from edge_mtp.harness.analyse.compare import Versus
    from edge_mtp.harness.analyse.judging import judge
    from edge_mtp.harness.analyse.rules import RuleError, Verdict, parse_rule
    from edge_mtp.harness.analyse.side import read_side
    from edge_mtp.harness.tell.comparison import markdown_lines, text_lines, to_json

    try:
        parsed = [parse_rule(text) for text in rules]
    except RuleError as error:
        raise click.UsageError(str(error)) from None
    sides = [read_side(path) for path in files]
    versus = Versus(sides[0], sides[-1], arms)
    if not unpaired:
        versus.check_shared()
    judged = [judge(versus, rule) for rule in parsed]
    verdicts = {each.verdict for each in judged}
    status = 0
    if Verdict.TRIGGERED in verdicts:
        status = TRIGGERED
    elif strict and Verdict.CANNOT_TELL in verdicts:
        status = CANNOT_TELL
    if as_json:
        click.echo(json.dumps(to_json(versus, judged, status), allow_nan=False))
    elif markdown:
        click.echo("\n".join(map(shown, markdown_lines(versus, judged, status))))
    else:
        click.echo("\n".join(map(shown, text_lines(versus, judged, status))))
    ctx.exit(status)
