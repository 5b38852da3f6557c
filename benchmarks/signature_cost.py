"""What our extra signatures cost the stock LiteRT-LM engine: the full bundle against the lean one.

    python benchmarks/signature_cost.py [--full FILE --lean FILE] [--rounds N] [--json FILE]

Each measurement is a process of its own that loads the engine with speculative decoding on, decodes a few tokens
and reports load time and peak resident memory; the two bundles take turns. "warm" loads find the packed weights in
the engine's cache from an earlier load, "cold" loads an empty cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import click

from edge_mtp.harness.run.loop import interleave
from edge_mtp.harness.stats.ratios import paired_ratio

CHILD = """
import json, re, sys, time
import litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
start = time.perf_counter()
engine = litert_lm.Engine(sys.argv[1], backend=litert_lm.Backend.CPU(thread_count=1), enable_speculative_decoding=True,
                          cache_dir=sys.argv[2])
loaded = time.perf_counter() - start
with engine.create_session(max_output_tokens=8, apply_prompt_template=False) as session:
    session.run_prefill(["<|turn>user\\nHello<turn|>\\n<|turn>model\\n"])
    session.run_decode()
# Not getrusage: its maximum begins with that of the process that forked this one.
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())
print(json.dumps([loaded, int(peak[1]) / 1024]))
"""


def load(bundle: Path, cache: Path | None) -> tuple[float, float]:
    """Seconds to load and MiB of peak resident memory; `cache` None is a cold start."""
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-c", CHILD, str(bundle), str(cache or empty)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    seconds, mib = json.loads(ran.stdout.splitlines()[-1])
    return seconds, mib


@click.command()
@click.option("--full", type=click.Path(path_type=Path, exists=True), help="Default: the tiny pair, fp32.")
@click.option("--lean", type=click.Path(path_type=Path, exists=True), help="Default: the tiny pair, fp32, lean.")
@click.option("--rounds", default=8, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the result here.")
def main(full: Path | None, lean: Path | None, rounds: int, output: Path | None) -> None:
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    bundles = {
        "full": full or cached_bundle("fp32", widths=VERIFY_WIDTHS),
        "lean": lean or cached_bundle("fp32", lean=True),
    }
    result: dict[str, object] = {"bytes": {name: path.stat().st_size for name, path in bundles.items()}}
    click.echo("| start | | full | lean | full / lean |\n|---|---|---|---|---|")
    for start in ("cold", "warm"):
        with tempfile.TemporaryDirectory() as folder:
            caches: dict[str, Path | None] = dict.fromkeys(bundles)
            if start == "warm":
                for name, path in bundles.items():
                    caches[name] = cache = Path(folder) / name
                    cache.mkdir()
                    load(path, cache)
            memory: dict[str, list[float]] = {name: [] for name in bundles}

            def seconds(name: str, caches: dict[str, Path | None], memory: dict[str, list[float]]) -> float:
                taken, mib = load(bundles[name], caches[name])
                memory[name].append(mib)
                return taken

            times = interleave([partial(seconds, name, caches, memory) for name in bundles], rounds)
        for what, unit, (a, b) in (("load", "s", times), ("peak memory", "MiB", list(memory.values()))):
            ratio = paired_ratio(a, b)
            result[f"{start} {what}"] = {"full": median(a), "lean": median(b), "ratio": ratio.to_json()}
            digits = 3 if unit == "s" else 0
            click.echo(
                f"| {start} | {what}, {unit} | {median(a):.{digits}f} | {median(b):.{digits}f} |"
                f" {ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f}) |"
            )
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
