"""What becomes of the schemas of the official JSON-Schema-Test-Suite: the table of docs/grammar.md.

    python benchmarks/json_schemas.py [REPLIES]

REPLIES random replies a schema (default 10) are validated. Needs the test extra, and builds the tests' library.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from native_constraint import library  # noqa: E402
from schema_suite import VALIDATORS, cases, suite, tally  # noqa: E402

import edge_mtp  # noqa: E402
from edge_mtp.chat.tokenizer import Tokenizer  # noqa: E402
from edge_mtp.formats.token_bytes import token_table  # noqa: E402

STOP = 106


def main() -> None:
    replies = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    pair = Path(edge_mtp.__file__).parent / "tiny" / "target" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(pair)
    compiler = library().tokens(token_table(pair, tokenizer.vocab_size)).compiler([STOP])
    kept = ROOT / ".pytest_cache" / "d" / "schema-suite"
    kept.mkdir(parents=True, exist_ok=True)
    tests = suite(kept)
    print("| draft | schemas | enforced | allow nothing | refused | accept a valid instance | replies | wrong | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    told = []
    for draft in VALIDATORS:
        start = time.monotonic()
        found = tally(cases(tests, draft), draft, compiler, tokenizer, STOP, replies)
        useful = f"{found.useful} of {found.useful + len(found.useless)}"
        print(
            f"| {draft} | {found.schemas} (and {found.remote} remote) | {found.enforced} | {found.impossible} "
            f"| {len(found.refused)} | {useful} | {found.replies} | {len(found.wrong)} "
            f"| {time.monotonic() - start:.0f} |"
        )
        told += [f"refused, {line}" for line in found.refused] + [f"none accepted, {n}" for n in found.useless]
        told += [f"WRONG, {line}" for line in found.wrong]
    print("", *told, sep="\n")


if __name__ == "__main__":
    main()
