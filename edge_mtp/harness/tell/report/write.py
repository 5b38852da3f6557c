"""Writes a report: the page, CSV, JSON and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.replies import last_answers
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.tell.report.facts import Source
from edge_mtp.harness.tell.report.page import pictures, render
from edge_mtp.json_file import write_text
from edge_mtp.output_file import refuse_inputs
from edge_mtp.safe_text import shown
from edge_mtp.summary import count_drafts

# The columns of the CSV, one row an answer. Times in milliseconds; empty: not known, or not so.
COLUMNS = (
    "results",  # name of the results file
    "arm",
    "item",
    "kind",
    "cluster",
    "turn",
    "round",
    "at_s",  # seconds since the run began
    "finish",
    "error",  # JSON string
    "prompt_tokens",
    "reused_tokens",
    "tokens",
    "first_token_ms",
    "first_answer_ms",  # the first that is none of a thought
    "prefill_ms",
    "call_ms",
    "total_ms",
    "steps",
    "verify_steps",
    "drafts",  # verified, but for those beyond the text's end
    "accepted",  # of them
    "draft_ms",
    "verify_ms",
    "rss_bytes",
    "anonymous_bytes",
    "right",  # of the item under the arm, all turns: 1 or 0; empty without gold
    "lenient",  # 1 or 0: right to a forgiving parser
    "primary",  # what goes wrong first
    "labels",  # all that goes wrong, with spaces between
    "text",  # JSON string: one line
    "reasoning",  # JSON string: what was thought
)
# What a spreadsheet takes for the beginning of a formula, or skips before one; full-width forms count there too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    page: Path
    table: Path
    analyses: list[Path]
    pictures: list[Path]


def write_report(
    sources: Sequence[Source], page: Path, folder: Path | None = None, *, inputs: Sequence[Path] = ()
) -> Written:
    """Writes `page`, a CSV beside it, a JSON for each source, and into `folder`, if given, charts as pictures.

    A picture is of the first source that has it; pictures of tool calls prefer an eval to a bench, which asks few
    items. Everything is made before anything is written, and each file appears whole or not at all. Raises EdgeMtpError
    if a file cannot be written or is one of `inputs`, or matplotlib is missing.
    """
    table, analyses = beside(page, len(sources))
    html = render(sources).encode("utf-8", "replace").decode()  # half a surrogate pair in a reply is no UTF-8
    images: dict[str, str] = {}
    if folder is not None:
        for source in sorted(sources, key=lambda source: source.analysis.run.kind != "eval"):
            images = {**pictures(source), **images}
        refuse_inputs([folder / name for name in images], inputs)
    for path, source in zip(analyses, sources, strict=True):
        write_text(path, json.dumps(source.analysis.to_json(), indent=1, allow_nan=False) + "\n")
    write_text(table, answers_csv(sources))
    written = []
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeMtpError(f"cannot make '{folder}': {error.strerror}; name another folder") from None
        for name, image in images.items():
            write_text(folder / name, image)
            written.append(folder / name)
    write_text(page, html)
    return Written(page, table, analyses, written)


def answers_csv(sources: Sequence[Source]) -> str:
    """One row an answer, `COLUMNS` as its head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for source in sources:
        for answer in last_answers(source.results.answers):
            writer.writerow({column: _cell(value) for column, value in _row(source, answer).items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value as it is; text in one line, and with an apostrophe before it where a spreadsheet would compute it."""
    if not isinstance(value, str):
        return value
    return shown(f"'{value}" if value.startswith(_FORMULA) else value)


def _row(source: Source, answer: Answer) -> dict[str, Any]:
    item = source.results.items[answer.item]
    score = source.analysis.scores.get(answer.arm, {}).get(answer.item)
    steps = answer.steps
    drafts = [count_drafts(step.tokens, len(step.source), step.accepted) for step in steps]
    return {
        "results": source.name,
        "arm": answer.arm,
        "item": answer.item,
        "kind": item.kind,
        "cluster": item.cluster,
        "turn": answer.turn,
        "round": answer.round,
        "at_s": round(answer.at_s, 3),
        "finish": answer.finish,
        "error": None if answer.error is None else json.dumps(answer.error),
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "tokens": answer.count,
        "first_token_ms": _ms(answer.first_token_us) if answer.is_complete else None,
        "first_answer_ms": _ms(answer.first_answer_us),
        "prefill_ms": _ms(answer.prefill_us) if answer.is_complete else None,
        "call_ms": _ms(answer.call_us),
        "total_ms": _ms(answer.total_us) if answer.is_complete else None,
        "steps": len(steps) or None,
        "verify_steps": sum(step.kind == "v" for step in steps) if steps else None,
        "drafts": sum(each.verified for each in drafts) if steps else None,
        "accepted": sum(each.accepted for each in drafts) if steps else None,
        "draft_ms": _ms(sum(step.draft_us for step in steps)) if steps else None,
        "verify_ms": _ms(sum(step.verify_us for step in steps)) if steps else None,
        "rss_bytes": answer.rss_bytes,
        "anonymous_bytes": answer.anonymous_bytes,
        "right": None if score is None else int(score.is_right),
        "lenient": None if score is None else int(score.lenient),
        "primary": None if score is None else score.primary,
        "labels": None if score is None else " ".join(finding.label for finding in score.findings),
        "text": json.dumps(answer.text),
        "reasoning": json.dumps(answer.reasoning) if answer.reasoning else None,
    }


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 3)


def beside(page: Path, sources: int) -> tuple[Path, list[Path]]:
    """The CSV of a page, and its JSON files, one a source."""
    suffixes = [".json"] if sources == 1 else [f".{number}.json" for number in range(1, sources + 1)]
    return page.with_suffix(".csv"), [page.with_suffix(suffix) for suffix in suffixes]
