"""Suites and workloads: items by the name of a built-in set, or from a JSONL file."""

from __future__ import annotations

import json
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.item import Item
from edge_mtp.json_file import read_text


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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
