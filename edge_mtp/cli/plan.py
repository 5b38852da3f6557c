"""`edge-mtp plan`: from a device's step costs, at what acceptance MTP pays and with which draft length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_mtp.cli.arm_options import words
from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.engine import Engine
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.harness.analyse.plan import Plan
    from edge_mtp.harness.ask.item import Item

DEFAULT_PROMPTS = 16
DEFAULT_ROUNDS = 9
LEAST_ROUNDS = 6  # of fewer, no interval for a median reaches 95 %


def _contexts(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    parts = words(value)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{value}' are not numbers of tokens; give such as 128,1024.")
    return [int(part) for part in parts]


def _acceptances(ctx: click.Context, parameter: click.Parameter, value: str) -> list[tuple[str, list[float]]]:
    found = []
    for part in words(value):
        try:
            shares = [float(each) for each in part.split("/")]
        except ValueError:
            shares = []
        if not shares or not all(0.0 <= each <= 1.0 for each in shares):
            raise click.BadParameter(f"'{part}' is no share from 0 to 1, nor several by position, such as 0.9/0.8/0.7.")
        found.append((part, shares))
    return found


@click.command()
@click.option(
    "--device", default="host", show_default=True, metavar="NAME", help="The device to measure; host is this machine."
)
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE",
              help="The .litertlm file; default: the built-in tiny model.")  # fmt: skip
@click.option("--context", "contexts", callback=_contexts, metavar="LIST",
              help="Lengths of the prompt to measure after; default: 128,1024 where they fit.")  # fmt: skip
@click.option("--draft-length", "draft_lengths", type=click.IntRange(1), multiple=True, metavar="K",
              help="Measure only steps with K drafts. May be repeated. Default: every K that the bundle"
                   " verifies.")  # fmt: skip
@click.option("--acceptance", "acceptances", callback=_acceptances, default="0.5,0.7,0.9", show_default=True,
              metavar="LIST",
              help="Acceptance rates to compute the gain for; 0.9/0.8 gives one for each position.")  # fmt: skip
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE.jsonl",
              help="Also measure the acceptance on these prompts; default for the tiny pair: its own.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N",
              help=f"Use only the first N prompts; default: all of FILE, or {DEFAULT_PROMPTS} of the tiny"
                   " pair.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(2), default=128, show_default=True, help="Most tokens in a reply.")
@click.option("--rounds", type=click.IntRange(LEAST_ROUNDS), default=DEFAULT_ROUNDS, show_default=True, metavar="N",
              help="How often to measure each K; the figures are medians.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; default: LiteRT chooses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def plan(
    device: str,
    bundle: Path | None,
    contexts: list[int] | None,
    draft_lengths: tuple[int, ...],
    acceptances: list[tuple[str, list[float]]],
    prompts: Path | None,
    limit: int | None,
    max_tokens: int,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure a device's step costs and compute at what acceptance MTP pays off.

    The command measures on the device a plain step and a step with K drafts: the drafter, and the target's graph that
    verifies them. For each K it computes the acceptance from which drafts are faster than plain decoding, and the
    speed-up at given acceptance rates. Step costs do not depend on the weights, so you can plan with random weights
    before you train a drafter.

    A line of FILE.jsonl is {"prompt": TEXT} or {"messages": [...]}, with optional "tools" (OpenAI's form).

    \b
    edge-mtp plan --device pixel --bundle model.litertlm
    edge-mtp plan --bundle model.litertlm --context 512,2048 --prompts mine.jsonl
    """
    from edge_mtp.cli.arm_options import tiny_bundles
    from edge_mtp.cli.measuring import command_line, measured_engine
    from edge_mtp.cli.progress import stage_progress
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.harness.analyse.plan import DrafterAcceptance, Plan, acceptance_of, costs_of
    from edge_mtp.harness.record.provenance import versions
    from edge_mtp.harness.run.first_replies import drafter_replies
    from edge_mtp.harness.run.step_costs import check_drafter, chosen_contexts, measure_steps

    path = bundle or tiny_bundles(["fp32"])[0]
    items, label = chosen_items(Bundle(path), prompts, limit)
    with measured_engine(path, device, threads=threads) as engine, stage_progress() as progress:
        ready = engine.runner.ready
        check_drafter(ready, str(path), draft_lengths)
        longest = max(draft_lengths, default=ready.max_draft_length)
        text = filling(engine, items)
        costs = [
            costs_of(measure_steps(engine.runner, text, context, draft_lengths, rounds=rounds, progress=progress))
            for context in chosen_contexts(ready, contexts, longest)
        ]
        supposed = [DrafterAcceptance(name, shares) for name, shares in acceptances]
        if items:
            k = max(step.draft_length for step in costs[0].steps)
            replies = drafter_replies(engine, items, k, max_tokens=max_tokens, progress=progress)
            supposed.append(acceptance_of(replies, k, label))
        assert engine.device is not None
        fingerprint = engine.device.fingerprint().to_json()
    found = Plan(costs, supposed)
    if as_json:
        made = {"command": command_line(), "versions": versions(), "device": fingerprint, "bundle": str(path)}
        click.echo(json.dumps({**made, "rounds": rounds, "threads": threads, **found.to_json()}))
    else:
        show(found, f"{path.name} on {device}")


def chosen_items(bundle: Bundle, prompts: Path | None, limit: int | None) -> tuple[list[Item], str]:
    """The prompts whose replies tell the acceptance, and what they are called; none for a bundle without its own."""
    from edge_mtp.harness.ask.suites import read_items
    from edge_mtp.harness.ask.tiny_pair import TINY, is_tiny

    if prompts is not None:
        return read_items(prompts, limit), prompts.name
    if is_tiny(bundle):
        return read_items(TINY / "splits" / "iid.jsonl", limit or DEFAULT_PROMPTS), "split iid"
    if limit is not None:
        raise EdgeMtpError("--limit is of prompts, and there are none; give --prompts FILE.jsonl")
    return [], ""


def filling(engine: Engine, items: Sequence[Item]) -> list[int]:
    """Token ids to fill contexts with: those of the prompts, where there are any."""
    from edge_mtp.harness.run.step_costs import FILLER

    encode = engine.chat_format.encode
    if not items:
        return encode([{"role": "user", "content": FILLER}], ())
    return [token for item in items for token in encode(item.turns[0].messages, item.tools)]


def show(found: Plan, what: str) -> None:
    """The tables and their verdicts on standard output."""
    from rich.console import Console

    from edge_mtp.harness.tell.plan_table import plan_table

    console = Console()
    for costs in found.costs:
        console.print(plan_table(costs, found.acceptances, f"{what}, {costs.context} tokens of context"))
        for sentence in found.verdict(costs):
            click.echo(sentence)
        click.echo()
    for acceptance in found.acceptances:
        if acceptance.measured:
            shares = ", ".join(f"{s.value:.2f} ({s.low:.2f} to {s.high:.2f})" for s in acceptance.measured)
            click.echo(f"acceptance of {acceptance.label} by draft position, {acceptance.prompts} prompts: {shares}")
    click.echo("gain: how many times as fast as plain decoding, in a long reply; * the best K. Intervals are 95%.")
