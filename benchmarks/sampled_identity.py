"""How often is a sampled reply another one with MTP? The same seed off, at K and under auto, by recipe and temperature.

    python benchmarks/sampled_identity.py --json FILE [--replies 100000] [--seconds S] [--recipe NAME]...

Replies of up to 64 tokens over the frozen prompts of the built-in pair, prompts and seeds in a fixed order. The JSON
file is written every few seconds, and a run goes on where it ends. The interval is Clopper and Pearson's, 95 %.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from scipy.stats import beta

from edge_mtp.device import Request, Sampling
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.tiny.bundle import cached_bundle

TOKENS = 64
TEMPERATURES = (0.0, 0.7, 1.0, 1.5)
# Name -> the arguments of cached_bundle.
RECIPES: dict[str, dict[str, str]] = {
    "fp32": {"recipe": "fp32"},
    "int8": {"recipe": "int8"},
    "int4-block": {"recipe": "int4-block"},
    "mixed": {"recipe": "mixed"},
    "int8, kv int8": {"recipe": "int8", "kv": "int8"},
}


@click.command()
@click.option("--json", "output", required=True, type=click.Path(path_type=Path), help="Results, and where to go on.")
@click.option("--replies", default=100_000, show_default=True, help="Of each recipe and arm.")
@click.option("--seconds", default=float("inf"), help="Stop each recipe after so long.")
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(list(RECIPES)), default=list(RECIPES))
def main(output: Path, replies: int, seconds: float, recipes: tuple[str, ...]) -> None:
    results: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.exists() else {}
    folder = tiny_pair()[0].parent / "splits"
    items = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()
    ]
    for name in recipes:
        measured = results.setdefault(name, {"replies": 0, "by_temperature": {}, "differences": []})
        with open_engine(cached_bundle(**RECIPES[name], widths=VERIFY_WIDTHS), threads=1) as engine:
            end, saved = time.monotonic() + seconds, time.monotonic()
            while measured["replies"] < replies and time.monotonic() < end:
                one(engine, items, measured)
                if time.monotonic() > saved + 5:
                    save(output, results)
                    saved = time.monotonic()
        save(output, results)
        click.echo(sentence(name, measured))


def one(engine: Engine, items: list[dict[str, Any]], measured: dict[str, Any]) -> None:
    """The next reply: plain, with the most drafts, and under the controller."""
    seed = measured["replies"]
    item, temperature = items[seed * 7919 % len(items)], TEMPERATURES[seed % len(TEMPERATURES)]
    prompt = engine.chat_format.encode(item["messages"], item["tools"])
    most = min(TOKENS, engine.context_length - len(prompt))

    def text(draft_length: int, policy: str = "fixed") -> list[int]:
        sampling = Sampling(temperature=temperature, seed=seed)
        request = Request(prompt, most, draft_length=draft_length, draft_policy=policy, sampling=sampling)
        return engine.generate(request).wait().tokens

    plain, longest = text(0), engine.max_draft_length
    arms = {f"K={longest}": text(longest), "auto": text(longest, "auto")}
    counts = measured["by_temperature"].setdefault(str(temperature), {"replies": 0, **dict.fromkeys(arms, 0)})
    counts["replies"] += 1
    measured["replies"] += 1
    for arm, tokens in arms.items():
        if tokens == plain:
            continue
        counts[arm] += 1
        at = next(i for i, (a, b) in enumerate(zip(plain, tokens, strict=True)) if a != b)
        measured["differences"].append({"seed": seed, "temperature": temperature, "arm": arm, "token": at})


def sentence(name: str, measured: dict[str, Any]) -> str:
    parts = []
    for temperature, counts in sorted(measured["by_temperature"].items()):
        found = {arm: count for arm, count in counts.items() if arm != "replies"}
        for arm, count in found.items():
            low, high = (1e5 * share for share in interval(count, counts["replies"]))
            rate = f"{1e5 * count / counts['replies']:.0f} ({low:.0f} to {high:.0f}) in 100,000"
            parts.append(f"  temperature {temperature}, {arm}: {count} of {counts['replies']:,} differ, {rate}")
    return "\n".join([f"{name}: {measured['replies']:,} replies", *parts])


def interval(count: int, replies: int) -> tuple[float, float]:
    low = float(beta.ppf(0.025, count, replies - count + 1)) if count else 0.0
    return low, float(beta.ppf(0.975, count + 1, replies - count)) if count < replies else 1.0


def save(output: Path, results: dict[str, Any]) -> None:
    part = output.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    part.replace(output)


if __name__ == "__main__":
    main()
