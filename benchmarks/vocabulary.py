"""What 262,144 tokens cost: loading the tokenizer, the table of its bytes, compiling grammars, masks.

    python benchmarks/vocabulary.py [--output benchmarks/results/vocabulary]

The vocabulary is that of tests/helpers/gemma_vocabulary.py, the native code that of tests/helpers/native_constraint.py.
Times are of the processor, one thread, so that a machine's other work counts little. A mask is timed at each token of a
text that the grammar allows, drawn at random.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from gemma_vocabulary import VOCABULARY, tokenizer_json
from native_constraint import Constraint, Native, library
from tool_declarations import many_tools

from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.token_bytes import token_table

END = 106
STEPS = 60
CHARACTERS = '[^"\\\\\\x00-\\x1f]'  # of a JSON string, escapes aside
SCHEMAS: dict[str, Any] = {
    "one integer": {"type": "object", "properties": {"celsius": {"type": "integer"}}, "required": ["celsius"]},
    "40 properties of all types": {
        "type": "object",
        "properties": {
            f"field_{i}": [
                {"type": "string"},
                {"type": "number"},
                {"enum": ["a", "b", i]},
                {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            ][i % 4]
            for i in range(40)
        },
        "required": [f"field_{i}" for i in range(20)],
    },
}
T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and its milliseconds."""
    start = time.thread_time()
    return function(), 1e3 * (time.thread_time() - start)


def masks(constraint: Constraint) -> list[float]:
    """Milliseconds of each mask on the way through a text."""
    draw, found = random.Random(1), []
    for _ in range(STEPS):
        mask, milliseconds = timed(constraint.mask)
        found.append(milliseconds)
        allowed = np.flatnonzero(mask)
        if not len(allowed):
            break
        constraint.accept(int(draw.choice(allowed)))
    return found


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Also write PATH.json and PATH.md.")
@click.option(
    "--library", "prebuilt", type=click.Path(path_type=Path), help="The native test library, if it is built already."
)
def main(output: Path | None, prebuilt: Path | None) -> None:
    path = tokenizer_json()
    _, load = timed(lambda: Tokenizer.from_file(path))
    table, making = timed(lambda: token_table(path, VOCABULARY))
    native = Native(prebuilt) if prebuilt else library()
    compiler = native.tokens(table).compiler([END])
    _, vocabulary = timed(lambda: compiler.constraint('root ::= "a"'))
    grammars = {
        **{f"tool grammar, {count} tools": tool_grammar(many_tools(count)).text for count in (1, 10, 50)},
        **{f"JSON schema, {name}": response_grammar(schema) for name, schema in SCHEMAS.items()},
        "string of any length": f'root ::= "\\"" {CHARACTERS}* "\\""',
        **{
            f"string of at most {most} characters": f'root ::= "\\"" {CHARACTERS}{{0,{most}}} "\\""'
            for most in (64, 1000, 5000)
        },
    }
    rows = {}
    for name, grammar in grammars.items():
        constraint, compiling = timed(lambda g=grammar: compiler.constraint(g))  # type: ignore[misc]
        found = masks(constraint)
        p50, p99 = (float(np.quantile(found, share)) for share in (0.5, 0.99))
        rows[name] = {"compile_ms": compiling, "mask_p50_ms": p50, "mask_p99_ms": p99, "mask_first_ms": found[0]}
        click.echo(f"{name}: {compiling:.0f} ms", err=True)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, load {os.getloadavg()[0]:.1f}",
        "vocabulary": VOCABULARY,
        "tokenizer_load_ms": load,
        "token_table_ms": making,
        "vocabulary_for_grammars_ms": vocabulary,
        "steps": STEPS,
        "grammars": rows,
    }
    text = report(result)
    click.echo(text)
    if output is not None:
        output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        output.with_suffix(".md").write_text("# python benchmarks/vocabulary.py\n\n" + text + "\n")


def report(result: dict[str, Any]) -> str:
    lines = [
        f"{result['machine']}; {result['vocabulary']:,} tokens; milliseconds of processor time, one thread",
        "",
        f"Tokenizer from its file {result['tokenizer_load_ms']:,.0f}; table of token bytes "
        f"{result['token_table_ms']:,.0f}, once an export; the vocabulary as grammars need it "
        f"{result['vocabulary_for_grammars_ms']:,.0f}, once a runner.",
        "",
        "| grammar | compile | mask p50 | p99 |",
        "|---|---|---|---|",
    ]
    for name, row in result["grammars"].items():
        lines.append(f"| {name} | {row['compile_ms']:,.0f} | {row['mask_p50_ms']:.2f} | {row['mask_p99_ms']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
