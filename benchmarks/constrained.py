"""What a grammar does to the tiny pair's tool calls: errors, exact calls, tokens per step, time; MTP off and on.

    python benchmarks/constrained.py [--limit N] [--json benchmarks/results/constrained.json]

Every arm answers all conversations of the four frozen splits greedily, interleaved: an item's arms in order, the next
item's in reverse. The texts of constrained arms are compared: MTP must not change them. Times are sums of steps,
without the prompt. `drafter` drafts with the drafter alone, under the grammar too; `all` also with what the grammar
forces.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import jsonschema

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.device import Outcome, Request, Step
from edge_mtp.engine import open_engine
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.tool_calls import ToolCall, ToolCallSyntaxError, exact_match, parse_calls
from edge_mtp.harness.stats.ratios import paired_ratio
from edge_mtp.harness.stats.statistics import Estimate, mcnemar, wilson

SPLITS = ("iid", "new_templates", "new_values", "new_names")
MAX_TOKENS = 160
DRAFTER, ALL = ("drafter",), ("drafter", "grammar")
MOST = 7
ARMS: dict[str, dict[str, Any]] = {
    "free, plain": {},
    "free, K=3": {"draft_length": 3},
    "free, K=7": {"draft_length": MOST},
    "free, auto": {"draft_length": MOST, "draft_policy": "auto"},
    "constrained, plain": {"constrained": True},
    "constrained, drafter K=3": {"constrained": True, "draft_length": 3, "draft_sources": DRAFTER},
    "constrained, drafter K=7": {"constrained": True, "draft_length": MOST, "draft_sources": DRAFTER},
    "constrained, grammar K=7": {"constrained": True, "draft_length": MOST, "draft_sources": ("grammar",)},
    "constrained, all K=3": {"constrained": True, "draft_length": 3, "draft_sources": ALL},
    "constrained, all K=7": {"constrained": True, "draft_length": MOST, "draft_sources": ALL},
    "constrained, all auto": {"constrained": True, "draft_length": MOST, "draft_policy": "auto", "draft_sources": ALL},
}


@dataclass
class Arm:
    """What one arm answered, item by item. `errors` are labels: truncated, syntax, schema, wrong or none ("")."""

    texts: list[tuple[int, ...]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    us: list[float] = field(default_factory=list)
    mask_us: float = 0.0
    steps: int = 0
    verify_steps: int = 0
    verify_tokens: int = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts))


def error_of(chat: ChatFormat, item: dict[str, Any], reply: list[int]) -> str:
    """The first thing that is wrong with a reply."""
    if not reply or reply[-1] not in chat.stop_token_ids:
        return "truncated"
    try:
        calls = parse_calls(chat.tokenizer.decode(reply))
    except ToolCallSyntaxError:
        return "syntax"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in item["tools"]}
    for call in calls:
        closed = {"additionalProperties": False, **schemas.get(call.name, {"not": {}})}
        if not jsonschema.Draft202012Validator(closed).is_valid(call.arguments):
            return "schema"
    return "" if exact_match(calls, [ToolCall.from_json(c) for c in item["gold"].get("calls", [])]) else "wrong"


@click.command()
@click.option("--limit", type=int, help="Items of each split; default: all.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(limit: int | None, output: Path | None) -> None:
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    folder = tiny_pair()[0].parent / "splits"
    items = [json.loads(x) for s in SPLITS for x in (folder / f"{s}.jsonl").read_text("utf-8").splitlines()[:limit]]
    arms = {name: Arm() for name in ARMS}
    with ExitStack() as stack:
        # A controller learns from all that its runner does, so each has one of its own.
        names = ["fixed", *(name for name in ARMS if name.endswith("auto"))]
        engines = {
            name: stack.enter_context(open_engine(cached_bundle("fp32", widths=VERIFY_WIDTHS), threads=1))
            for name in names
        }
        chat = engines["fixed"].chat_format
        stops = sorted(chat.stop_token_ids)
        for index, item in enumerate(stack.enter_context(click.progressbar(items, file=sys.stderr))):
            prompt = chat.encode(item["messages"], item["tools"])
            grammar = tool_grammar(item["tools"]).text
            for engine in engines.values():
                list(engine.runner.generate(Request(prompt, 1)))  # from now on the prompt is cached
            for name in ARMS if index % 2 else reversed(ARMS):
                engine = engines.get(name, engines["fixed"])
                settings = dict(ARMS[name])
                constrained = settings.pop("constrained", False)
                request = Request(prompt, MAX_TOKENS, stops, grammar=grammar if constrained else None, **settings)
                *steps, outcome = engine.runner.generate(request)
                assert isinstance(outcome, Outcome)
                done = [step for step in steps if isinstance(step, Step)]
                reply, arm = [token for step in done for token in step.tokens], arms[name]
                arm.texts.append(tuple(reply))
                arm.errors.append(error_of(chat, item, reply))
                arm.us.append(sum(step.total_us for step in done))
                arm.mask_us += sum(step.mask_us for step in done)
                arm.steps += len(done)
                verifies = [step for step in done if step.kind == "verify"]
                arm.verify_steps += len(verifies)
                arm.verify_tokens += sum(len(step.tokens) for step in verifies)
    result = summary(arms)
    show(result)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


def summary(arms: dict[str, Arm]) -> dict[str, Any]:
    free, bound = arms["free, plain"], arms["constrained, plain"]
    figures = {}
    for name, arm in arms.items():
        same = bound if name.startswith("constrained") else free
        counts = {label: arm.errors.count(label) for label in ("truncated", "syntax", "schema", "wrong")}
        exact = wilson(arm.errors.count(""), len(arm.errors))
        figures[name] = {
            **counts,
            "exact": interval(exact),
            "tokens_per_step": arm.tokens / arm.steps,
            "tokens_per_verify": arm.verify_tokens / arm.verify_steps if arm.verify_steps else None,
            "us_per_reply": median(arm.us),
            "mask_share": arm.mask_us / sum(arm.us),
            "speed_up": paired_ratio(same.us, arm.us).to_json(),
            "texts_that_differ_from_plain": sum(a != b for a, b in zip(arm.texts, same.texts, strict=True)),
        }
    lost = sum(a == "" and b != "" for a, b in zip(free.errors, bound.errors, strict=True))
    gained = sum(a != "" and b == "" for a, b in zip(free.errors, bound.errors, strict=True))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "items": len(free.errors),
        "arms": figures,
        "exact_lost_and_gained_by_the_grammar": [lost, gained],
        "mcnemar_p": mcnemar(lost, gained),
    }


def interval(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def show(result: dict[str, Any]) -> None:
    lost, gained = result["exact_lost_and_gained_by_the_grammar"]
    click.echo(f"{result['machine']}; {result['items']} conversations, greedy\n")
    columns = ["truncated", "syntax", "schema", "wrong", "exact", "tokens per step", "per verify"]
    columns += ["speed-up over its plain", "sources' and grammar's share of time", "texts that differ"]
    click.echo(f"| arm | {' | '.join(columns)} |")
    click.echo(f"|---|{'---|' * len(columns)}")
    for name, f in result["arms"].items():
        value, low, high = f["exact"]
        ratio, verify = f["speed_up"], f["tokens_per_verify"]
        cells = [
            *(str(f[label]) for label in ("truncated", "syntax", "schema", "wrong")),
            f"{value:.1%} ({low:.1%} to {high:.1%})",
            f"{f['tokens_per_step']:.2f}",
            f"{verify:.2f}" if verify else "",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
            f"{f['mask_share']:.1%}",
            str(f["texts_that_differ_from_plain"]),
        ]
        click.echo(f"| {name} | {' | '.join(cells)} |")
    click.echo(f"\nthe grammar: {gained} more exact, {lost} fewer, McNemar p = {result['mcnemar_p']:.2g}")


if __name__ == "__main__":
    main()
