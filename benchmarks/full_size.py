"""Memory, load and step times of one bundle in our runner and in the stock LiteRT-LM engine, interleaved in one run.

    python benchmarks/full_size.py --bundle FILE [--threads N] [--rounds N] [--draft-lengths 3,4,5] [--json FILE]

Every engine is a process of its own. Each loads the bundle twice: cold, into an empty folder of packed weights, and
warm. The warm ones stay, and take turns: a round is one reply of each arm in order, the next in reverse. A checkpoint
with random weights serves too: what counts is the time of a step, and whatever is drafted is verified. Memory is of
the process that holds the weights; RssAnon is what is no file's. The stock engine tells no step times: its decoding
time a token, times the tokens a step that the success rate in its log means, stands for them.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click

from edge_mtp.formats.bundle import Bundle

PROMPT_TOKENS = 129  # of which the last is left for the first step
DECODED = 24
AUTO = -1  # as a draft length: the controller chooses
Figures = dict[str, float]


def memory(pid: int | str) -> Figures:
    """MiB, of /proc/PID/status."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    names = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem")
    return {name: int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in names}


def serve_ours(bundle: Path, threads: int) -> None:
    """Answers each draft length on standard input with the figures of a reply; starts with those of the load."""
    from edge_mtp.device import HostDevice, Outcome, Request, Step
    from edge_mtp.device.load_options import LoadOptions

    _, tokens = prompt_of(bundle)
    with HostDevice().start(bundle, LoadOptions(threads=threads)) as runner:
        say({"load_s": runner.ready.load_us / 1e6, "RssAnon": memory(runner.pid)["RssAnon"]})
        other = tokens[::-1]  # so that the prompt is never cached
        for line in sys.stdin:
            k = int(line)
            most, policy = (runner.ready.max_draft_length, "auto") if k == AUTO else (k, "fixed")
            list(runner.generate(Request(other, 1)))
            request = Request(tokens, DECODED, draft_length=most, draft_policy=policy)  # type: ignore[arg-type]
            *all_steps, outcome = runner.generate(request)
            assert isinstance(outcome, Outcome)
            steps = [s for s in all_steps if isinstance(s, Step) and (k == AUTO or (s.kind == "verify") == (k > 0))]
            parts = {
                "step_ms": [s.total_us for s in steps],
                "draft_ms": [s.draft_us for s in steps],
                "verify_ms": [s.verify_us for s in steps],
                "outside_litert_ms": [s.total_us - s.draft_us - s.verify_us for s in steps],
            }
            figures = {name: median(values) / 1e3 for name, values in parts.items()}
            figures["prefill_tokens_per_s"] = (len(tokens) - 1) / (outcome.prefill_us / 1e6)
            figures["token_ms"] = sum(s.total_us for s in steps) / sum(len(s.tokens) for s in steps) / 1e3
            figures["tokens_per_step"] = sum(len(s.tokens) for s in steps) / len(steps)
            say(figures)
        say(memory(runner.pid))


def serve_stock(bundle: Path, threads: int, mtp: bool, cache: Path) -> None:
    """As serve_ours; the last figures have the success rate too."""
    from edge_mtp.harness.ask.litert_lm_process import StockEngine

    text, tokens = prompt_of(bundle)
    engine = StockEngine(bundle, mtp="on" if mtp else "off", threads=threads, cache=cache, counts=True)
    say({"load_s": engine.load_us / 1e6, "RssAnon": memory(engine.pid)["RssAnon"]})
    for _ in sys.stdin:
        reply = engine.reply(text, DECODED)
        assert reply.decoded
        token_ms = (reply.total_us - reply.prefill_us) / reply.decoded / 1e3
        prefill = len(tokens) / (reply.prefill_us / 1e6)
        say({"step_ms": token_ms, "token_ms": token_ms, "prefill_tokens_per_s": prefill})
    figures = memory(engine.pid)
    say(figures | {"success_rate": engine.close() or 0.0})


def say(figures: Figures) -> None:
    print(json.dumps(figures), flush=True)


def prompt_of(bundle: Path) -> tuple[str, list[int]]:
    """A text that is PROMPT_TOKENS tokens in this bundle's tokenizer, and those tokens."""
    from edge_mtp.chat.tokenizer import Tokenizer
    from edge_mtp.formats.bundle import Bundle

    data = Bundle(bundle).tokenizer_json
    assert data is not None, "the bundle has no tokenizer.json"
    tokenizer = Tokenizer(data)
    letters = random.Random(1)
    text = ""
    while len(tokens := tokenizer.encode(text)) < PROMPT_TOKENS:
        text += letters.choice("abcdefghijklmnopqrstuvwxyz ")
    return text, tokens[:PROMPT_TOKENS]


class Child:
    """One engine with the bundle loaded, in a process of its own; `cache` is where its packed weights are kept."""

    def __init__(self, engine: str, bundle: Path, threads: int, cache: Path) -> None:
        command = [sys.executable, __file__, "--bundle", str(bundle), "--threads", str(threads), "--child", engine]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        self._process = subprocess.Popen(
            [*command, "--cache", str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.load = self._read()

    def reply(self, draft_length: int) -> Figures:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{draft_length}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> Figures:
        assert self._process.stdin is not None
        self._process.stdin.close()
        figures = self._read()
        self._process.wait(timeout=60)
        return figures

    def _read(self) -> Figures:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                figures: Figures = json.loads(line)
                return figures
        raise click.ClickException(f"an engine ended with exit code {self._process.wait(timeout=60)}")


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=4, show_default=True, help="Replies of every arm.")
@click.option("--draft-lengths", default="3,4,5", show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
@click.option("--child", hidden=True)
@click.option("--cache", type=click.Path(path_type=Path), hidden=True)
def main(
    bundle: Path,
    threads: int,
    rounds: int,
    draft_lengths: str,
    output: Path | None,
    child: str | None,
    cache: Path | None,
) -> None:
    if child == "ours":
        serve_ours(bundle, threads)
    elif child is not None and cache is not None:
        serve_stock(bundle, threads, child == "stock MTP", cache)
    else:
        known = (Bundle(bundle).manifest or {}).get("draft_lengths", [])
        result = measure(bundle, threads, rounds, [k for k in map(int, draft_lengths.split(",")) if k in known])
        show(result)
        if output is not None:
            output.write_text(json.dumps(result, indent=1) + "\n")


def measure(bundle: Path, threads: int, rounds: int, lengths: list[int]) -> dict[str, Any]:
    engines = ["stock plain", "stock MTP", "ours"]
    arms = [("stock plain", 0), ("stock MTP", 3), *(("ours", k) for k in [0, *lengths, AUTO])]
    replies: dict[tuple[str, int], list[Figures]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: Path(folder) / name.replace(" ", "-") for name in engines}
        for cache in caches.values():
            cache.mkdir()
        loads: dict[str, dict[str, Figures]] = {}
        for name in engines:
            cold = Child(name, bundle, threads, caches[name])
            loads[name] = {"cold": {**cold.load, "VmHWM": cold.close()["VmHWM"]}}
        children = {name: Child(name, bundle, threads, caches[name]) for name in engines}
        for turn in range(rounds + 1):
            for name, k in arms if turn % 2 == 0 else reversed(arms):
                figures = children[name].reply(k)
                if turn > 0:  # the first replies read the weights from the disk
                    replies[name, k].append(figures)
        for name in engines:
            loads[name]["warm"] = children[name].load
            loads[name]["end"] = children[name].close()
        packed = {name: sum(f.stat().st_size for f in cache.rglob("*xnnpack*")) for name, cache in caches.items()}
    # A step of the stock engine gives 1 + 3 * success rate tokens.
    per_step = 1 + 3 * loads["stock MTP"]["end"]["success_rate"]
    for figures in replies["stock MTP", 3]:
        figures |= {"step_ms": figures["step_ms"] * per_step, "tokens_per_step": per_step}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_average": os.getloadavg()[0],
        "bundle_bytes": bundle.stat().st_size,
        "packed_bytes": packed,
        "threads": threads,
        "rounds": rounds,
        "engines": loads,
        "arms": {
            f"{name} K={'auto' if k == AUTO else k}": {
                key: {"median": median(values), "low": min(values), "high": max(values)}
                for key in runs[0]
                for values in [[run[key] for run in runs]]
            }
            for (name, k), runs in replies.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['machine']}, load {result['load_average']:.1f}; {result['threads']} threads;"
        f" {result['bundle_bytes'] / 1e9:.2f} GB; median (range) of {result['rounds']} replies\n"
    )
    click.echo("| engine | load, cold, s | warm, s | private then, MiB | peak memory, MiB | private at the end, MiB |")
    click.echo("|---|---|---|---|---|---|")
    for name, figures in result["engines"].items():
        warm, end = figures["warm"], figures["end"]
        click.echo(
            f"| {name} | {figures['cold']['load_s']:.1f} | {warm['load_s']:.1f} | {warm['RssAnon']:.0f} |"
            f" {end['VmHWM']:.0f} | {end['RssAnon']:.0f} |"
        )
    columns = [
        "prefill_tokens_per_s",
        "token_ms",
        "step_ms",
        "draft_ms",
        "verify_ms",
        "outside_litert_ms",
        "tokens_per_step",
    ]
    click.echo(f"\n| arm | {' | '.join(column.replace('_', ' ') for column in columns)} |")
    click.echo(f"|---|{'---|' * len(columns)}")
    for name, figures in result["arms"].items():
        cells = []
        for column in columns:
            if column not in figures:
                cells.append("")
                continue
            low, mid, high = (figures[column][key] for key in ("low", "median", "high"))
            digits = 0 if high >= 100 else 1 if high >= 10 else 3
            cells.append(f"{mid:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
