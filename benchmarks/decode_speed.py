"""Decode speed of our runner, of the stock LiteRT-LM engine and of transformers: plain and MTP, one pair, interleaved.

    python benchmarks/decode_speed.py [--bundle FILE] [--prompts N] [--rounds N] [--draft-lengths 1,2,3] [--json FILE]

The bundle must be of the tiny pair: its prompts are, and transformers runs the checkpoint. All use one thread.
Every arm answers the same prompts greedily; a round visits the arms in order, the next in reverse. Speed is the
tokens of a reply over the time from the prefilled prompt to its last token. Figures are ratios of paired replies.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click

from edge_mtp.device import Outcome, Request, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.checkpoint import drafters_allowed, tiny_pair
from edge_mtp.harness.ask.litert_lm_process import StockEngine
from edge_mtp.harness.run.loop import interleave
from edge_mtp.harness.stats.ratios import paired_ratio

MAX_TOKENS = 128
AUTO = -1  # as a draft length: the controller chooses
TRANSFORMERS_DRAFTS = 4


@dataclass
class Prompt:
    text: str
    ids: list[int]


def longest_replies(engine: Engine, count: int) -> list[Prompt]:
    """Of the first 200 conversations of the tiny pair's first split, those with the longest replies.

    A reply of ten tokens is over before the caches are warm, and measures only that.
    """
    path = tiny_pair()[0].parent / "splits" / "iid.jsonl"
    items = [json.loads(line) for line in path.read_text("utf-8").splitlines()[:200]]
    texts = [engine.chat_format.render(item["messages"], item["tools"]) for item in items]
    prompts = [Prompt(text, engine.chat_format.tokenizer.encode(text)) for text in texts]
    return sorted(prompts, key=lambda prompt: -ours_steps(engine, 0, prompt)[1].tokens)[:count]


def ours_steps(engine: Engine, draft_length: int, prompt: Prompt) -> tuple[list[Step], Outcome]:
    stops = sorted(engine.chat_format.stop_token_ids)
    most, policy = (engine.max_draft_length, "auto") if draft_length == AUTO else (draft_length, "fixed")
    request = Request(prompt.ids, MAX_TOKENS, stops, most, policy)  # type: ignore[arg-type]
    reply = engine.generate(request).wait()
    assert reply.outcome is not None
    return reply.steps, reply.outcome


def ours_speed(engine: Engine, draft_length: int, prompt: Prompt) -> float:
    """Tokens per second."""
    _, outcome = ours_steps(engine, draft_length, prompt)
    return outcome.tokens / ((outcome.total_us - outcome.prefill_us) / 1e6)


class Transformers:
    """The checkpoint in transformers: float32, eager, one thread; MTP is `generate(assistant_model=)`."""

    def __init__(self) -> None:
        import torch
        from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

        torch.set_num_threads(1)
        target, drafter = tiny_pair()
        self._target: Any = Gemma4ForCausalLM.from_pretrained(target, dtype="float32").eval()
        with drafters_allowed():
            self._drafter: Any = Gemma4AssistantForCausalLM.from_pretrained(drafter, dtype="float32").eval()
        generation = self._drafter.generation_config
        generation.num_assistant_tokens, generation.num_assistant_tokens_schedule = TRANSFORMERS_DRAFTS, "constant"
        generation.assistant_confidence_threshold = 0.0

    def speed(self, mtp: bool, stops: list[int], prompt: Prompt) -> float:
        """Tokens per second, after the prompt: the time of a reply less that of its first token."""
        import torch

        ids = torch.tensor([prompt.ids])
        drafts = {"assistant_model": self._drafter} if mtp else {}
        settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": stops}
        with torch.no_grad(), drafters_allowed():
            times = []
            for most in (1, MAX_TOKENS):
                start = time.perf_counter()
                reply = self._target.generate(ids, max_new_tokens=most, **settings, **(drafts if most > 1 else {}))
                times.append(time.perf_counter() - start)
        return float(reply.shape[1] - len(prompt.ids) - 1) / (times[1] - times[0])


def stock_speed(engine: StockEngine, tokens: dict[str, int], prompt: Prompt) -> float:
    """Tokens per second. The text is ours, so its number of tokens is too; the engine's own count varies with MTP."""
    reply = engine.reply(prompt.text.removeprefix("<bos>"), MAX_TOKENS)
    return tokens[prompt.text] / ((reply.total_us - reply.prefill_us) / 1e6)


def tokens_per_verify(engine: Engine, draft_length: int, prompts: list[Prompt]) -> float:
    steps = [s for p in prompts for s in ours_steps(engine, draft_length, p)[0] if s.kind == "verify"]
    return sum(step.accepted + 1 for step in steps) / len(steps)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="Default: the tiny pair, fp32.")
@click.option("--prompts", default=12, show_default=True)
@click.option("--rounds", default=4, show_default=True, help="Visits of every prompt by every arm.")
@click.option("--draft-lengths", default="1,2,3,4,5,7", show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(bundle: Path | None, prompts: int, rounds: int, draft_lengths: str, output: Path | None) -> None:
    if bundle is None:
        from edge_mtp.export.defaults import VERIFY_WIDTHS
        from edge_mtp.export.tiny.bundle import cached_bundle

        bundle = cached_bundle("fp32", widths=VERIFY_WIDTHS)
    with (
        StockEngine(bundle, mtp="off", threads=1) as stock_plain,
        StockEngine(bundle, mtp="on", threads=1) as stock_mtp,
        open_engine(bundle, threads=1) as engine,
    ):
        result = measure(engine, stock_plain, stock_mtp, prompts, rounds, [int(k) for k in draft_lengths.split(",")])
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    show(result)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


def measure(
    engine: Engine, stock_plain: StockEngine, stock_mtp: StockEngine, prompts: int, rounds: int, lengths: list[int]
) -> dict[str, Any]:
    transformers, stops = Transformers(), sorted(engine.chat_format.stop_token_ids)
    chosen = longest_replies(engine, prompts)
    tokens = {prompt.text: ours_steps(engine, 0, prompt)[1].tokens for prompt in chosen}
    arms: dict[str, Callable[[Prompt], float]] = {
        "stock plain": partial(stock_speed, stock_plain, tokens),
        "stock MTP": partial(stock_speed, stock_mtp, tokens),
        "ours plain": partial(ours_speed, engine, 0),
        **{f"ours MTP K={k}": partial(ours_speed, engine, k) for k in lengths},
        "ours MTP auto": partial(ours_speed, engine, AUTO),
        "transformers plain": partial(transformers.speed, False, stops),
        f"transformers MTP K={TRANSFORMERS_DRAFTS}": partial(transformers.speed, True, stops),
    }
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for prompt in chosen:
        for arm in arms.values():
            arm(prompt)  # warm up
        measured = interleave([partial(arm, prompt) for arm in arms.values()], rounds)
        for name, values in zip(arms, measured, strict=True):
            speeds[name] += values
    against = {
        name: {
            base: paired_ratio(values, speeds[base]).to_json() for base in ("stock plain", "stock MTP", "ours plain")
        }
        for name, values in speeds.items()
    }
    per_verify = {f"ours MTP K={k}": tokens_per_verify(engine, k, chosen) for k in lengths}
    per_verify["ours MTP auto"] = tokens_per_verify(engine, AUTO, chosen)
    return {
        "prompts": len(chosen),
        "reply_tokens": sorted(tokens.values()),
        "rounds": rounds,
        "tokens_per_s": {name: median(values) for name, values in speeds.items()},
        "ratio_to": against,
        "tokens_per_verify": per_verify,
    }


def show(result: dict[str, Any]) -> None:
    click.echo(f"{result['machine']}; {result['prompts']} prompts x {result['rounds']} rounds; median paired ratios\n")
    click.echo("| arm | tokens/s | to stock plain | to stock MTP | to our plain | tokens per verify |")
    click.echo("|---|---|---|---|---|---|")
    for name, speed in result["tokens_per_s"].items():
        ratios = [f"{r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in result["ratio_to"][name].values()]
        per_verify = result["tokens_per_verify"].get(name)
        click.echo(f"| {name} | {speed:,.0f} | {' | '.join(ratios)} | {f'{per_verify:.2f}' if per_verify else ''} |")


if __name__ == "__main__":
    main()
