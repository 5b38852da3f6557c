"""How often prompt look-up is right, by the length of the match: what device/native/lookup.cc calls its confidence.

    python benchmarks/lookup_hits.py

Over the replies of the tiny pair's splits (gold calls after their prompts) and over the second half of prose and code
of this repository, in the tiny tokenizer's tokens: at every token, the longest suffix of up to 6 tokens that stands
earlier, and whether what followed it there comes here too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.formats.tool_calls import format_calls
from edge_mtp.harness.ask.suites import read_items

LONGEST = 6
ROOT = Path(__file__).parent.parent
TINY = Path(edge_mtp.__file__).parent / "tiny"
FILES = [
    "README.md",
    "docs/recipes.md",
    "edge_mtp/harness/statistics.py",
    "edge_mtp/bundle.py",
    "device/native/session.cc",
]
ITEMS = 150


def main() -> None:
    chat_format = ChatFormat.from_directory(TINY / "target")
    for split in ("iid", "new_names", "new_values"):
        texts = []
        for item in read_items(TINY / "splits" / f"{split}.jsonl", ITEMS):
            prompt = chat_format.encode(item.turns[0].messages, item.tools)
            if (gold := item.turns[0].gold) and gold.calls:
                calls = [call.example() for call in gold.calls]
                texts.append((prompt + chat_format.tokenizer.encode(format_calls(calls)), len(prompt)))
        show(f"split {split}", texts)
    for name in FILES:
        tokens = chat_format.tokenizer.encode((ROOT / name).read_text("utf-8"))
        show(name, [(tokens, len(tokens) // 2)])


def show(name: str, texts: Iterable[tuple[Sequence[int], int]]) -> None:
    right, tried = hits(texts)
    shares = {length: round(right[length] / tried[length], 2) for length in sorted(tried)}
    print(json.dumps({"text": name, "hits": shares, "of": {length: tried[length] for length in shares}}))


def hits(texts: Iterable[tuple[Sequence[int], int]]) -> tuple[Counter[int], Counter[int]]:
    """Right and tried look-ups by match length, of each text's tokens from its given index on."""
    right: Counter[int] = Counter()
    tried: Counter[int] = Counter()
    for tokens, start in texts:
        followed: dict[tuple[int, ...], int] = {}
        for i, token in enumerate(tokens):
            grams = [tuple(tokens[i - n : i]) for n in range(1, min(LONGEST, i) + 1)]
            match = next((gram for gram in reversed(grams) if gram in followed), None)
            if i >= start and match is not None:
                tried[len(match)] += 1
                right[len(match)] += followed[match] == token
            followed |= dict.fromkeys(grams, token)
    return right, tried


if __name__ == "__main__":
    main()
