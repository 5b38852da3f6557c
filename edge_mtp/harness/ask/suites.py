"""Suites and workloads: items by the name of a built-in set, or from a JSONL file (docs/suites.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import format_calls
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.score.gold import Gold
from edge_mtp.json_file import read_text

_HERE = Path(__file__).parent
SPLITS = ("iid", "new_values", "new_templates", "new_names")
WORKLOADS = ("chat", "tool_call", "summarise", "code", "copy", "multi_turn", "long_prompt")
_TINY_WORKLOAD = 24  # items


def read_items(path: str | Path, limit: int | None = None) -> list[Item]:
    """The first `limit` items of a JSONL file, in the form of docs/suites.md; empty lines are skipped.

    A line without `id` is called after the file and its number. Raises EdgeMtpError naming the file, the line and the
    part of it that is wrong.
    """
    # Not splitlines(): a string in JSON may hold U+2028 and others that it would split at.
    lines = read_text(path, "prompts").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise EdgeMtpError(f"prompts '{path}' hold no line; write one JSON object a line")
    items: dict[str, Item] = {}
    for number, line in numbered[:limit]:
        where = f"{path}, line {number}"
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text that a model can be given
        except (ValueError, RecursionError) as error:
            raise EdgeMtpError(f"{where}: not JSON ({error}); write one object a line") from None
        if isinstance(value, dict):
            value.setdefault("id", f"{Path(path).stem}-{number}")
        try:
            item = Item.from_json(value)
        except EdgeMtpError as error:
            raise EdgeMtpError(f"{where}: {error}") from None
        if item.id in items:
            raise EdgeMtpError(f"{where}: id {item.id!r} is used twice; give each line its own")
        items[item.id] = item
    return list(items.values())


def suite(name: str, limit: int | None = None) -> list[Item]:
    """The items of a tool-call suite: phone, a split of the tiny pair (tiny: all four), bfcl:CATEGORY (bfcl: all that
    are scored), or a JSONL file.

    `limit` is of each split and category. Raises EdgeMtpError for an unknown name, for a file that is wrong, and where
    the data of bfcl-eval is not installed.
    """
    if name == "phone":
        return read_items(_HERE / "data" / "phone.jsonl", limit)
    if name in SPLITS:
        return read_items(TINY / "splits" / f"{name}.jsonl", limit)
    if name == "tiny":
        return [item for split in SPLITS for item in suite(split, limit)]
    if name == "bfcl" or name.startswith("bfcl:"):
        from edge_mtp.harness.ask import bfcl

        return [item for category in bfcl.categories(name) for item in bfcl.items(category)[:limit]]
    return _of_file(name, limit, "suite", ("phone", *SPLITS, "tiny", "bfcl", "bfcl:CATEGORY"))


def workload(names: Sequence[str], limit: int | None = None) -> list[Item]:
    """The items of some workloads in turn, `limit` of each: kinds of the built-in one (all: all of them), tiny, or
    JSONL files.

    `tiny` is what the tiny pair can answer: the items of its first split with the longest replies, no two of one
    cluster. Raises EdgeMtpError for an unknown name or a file that is wrong.
    """
    items: list[Item] = []
    for name in names:
        if name == "tiny":
            items += _longest_replies(suite("iid"))[:limit]
        elif name in WORKLOADS or name == "all":
            built_in = read_items(_HERE / "data" / "workloads.jsonl")
            for kind in WORKLOADS if name == "all" else (name,):
                items += [item for item in built_in if item.kind == kind][:limit]
        else:
            items += _of_file(name, limit, "workload", (*WORKLOADS, "all", "tiny"))
    return items


def _of_file(name: str, limit: int | None, what: str, names: Sequence[str]) -> list[Item]:
    if not name.endswith(".jsonl") and not Path(name).is_file():
        raise EdgeMtpError(f"{what} '{name}' is unknown; use {', '.join(names)}, or a JSONL file")
    return read_items(name, limit)


def _longest_replies(items: Sequence[Item]) -> list[Item]:
    longest: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: -_length(item.turns[0].gold)):
        longest.setdefault(item.cluster, item)
    return list(longest.values())[:_TINY_WORKLOAD]


def _length(gold: Gold | None) -> int:
    """Characters of a right reply."""
    if gold is None:
        return 0
    return len(format_calls(call.example() for call in gold.calls)) + len(gold.text or "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
