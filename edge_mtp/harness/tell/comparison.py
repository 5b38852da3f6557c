"""A comparison and its rules: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
import re
from typing import Any

from edge_mtp.harness.analyse.compare import SCHEMA, Row, Versus
from edge_mtp.harness.analyse.judging import Judged
from edge_mtp.harness.analyse.matching import Pair
from edge_mtp.harness.analyse.metrics import METRICS, Metric
from edge_mtp.harness.analyse.notes import notes
from edge_mtp.harness.analyse.rules import Verdict
from edge_mtp.harness.analyse.side import Side
from edge_mtp.harness.stats.changes import Figure, value_of
from edge_mtp.harness.stats.figures import UNKNOWN, count_of, is_unbounded, size
from edge_mtp.harness.tell.text_tables import aligned, markdown


def text_lines(versus: Versus, judged: list[Judged], status: int) -> list[str]:
    """For a terminal or a log: the outcome first."""
    lines = [*_outcome(judged, status), *_heads(versus), *notes(versus)]
    for pair in versus.pairs:
        lines += ["", _title(versus, pair), *(f"  {line}" for line in aligned(_cells(versus, pair)))]
        if said := versus.comparison(pair):
            lines.append(f"  Tool calls: {said.explanation}")
    if judged:
        lines += ["", "Rules"]
    for each in judged:
        lines.append(f"  {each.verdict.value}: {each.rule}")
        lines += [f"    {arm}: {figure}, {verdict}" for arm, figure, verdict in _judgements(each)]
    return lines


def markdown_lines(versus: Versus, judged: list[Judged], status: int) -> list[str]:
    """The same, rules first: in a pull request they are what is looked for."""
    lines = ["### edge-mtp compare", ""]
    if judged:
        lines += [*(f"**{line}**" for line in _outcome(judged, status)), ""]
        rows = [
            [_escaped(str(each.rule)), _escaped(arm), figure, f"**{verdict}**" if verdict == "triggered" else verdict]
            for each in judged
            for arm, figure, verdict in _judgements(each)
        ]
        lines += [*markdown([["rule", "arm", "figure (95% interval)", "verdict"], *rows]), ""]
    lines += [f"- {_escaped(line)}" for line in [*_heads(versus), *notes(versus)]]
    for pair in versus.pairs:
        lines += [
            "",
            f"**{_escaped(_title(versus, pair))}**",
            "",
            *markdown([[_escaped(cell) for cell in row] for row in _cells(versus, pair)]),
        ]
        if said := versus.comparison(pair):
            lines += ["", f"Tool calls: {_escaped(said.explanation)}"]
    return lines


def to_json(versus: Versus, judged: list[Judged], status: int) -> dict[str, Any]:
    """What `--json` prints; schema: docs/results.md."""
    return {
        "schema": SCHEMA,
        "a": _side_json(versus.a),
        "b": _side_json(versus.b),
        "paired": versus.is_paired,
        "notes": notes(versus),
        "pairs": [
            {"a": pair.a, "b": pair.b, "metrics": [_row_json(row) for row in versus.rows(pair)], **_calls(versus, pair)}
            for pair in versus.pairs
        ],
        "rules": [
            {
                "rule": str(each.rule),
                "verdict": each.verdict.value,
                "threshold": each.rule.threshold,
                "arms": [
                    {"arm": it.arm, "figure": _figure_json(it.figure), "verdict": it.verdict.value}
                    for it in each.judgements
                ],
            }
            for each in judged
        ],
        "exit_status": status,
    }


def _calls(versus: Versus, pair: Pair) -> dict[str, Any]:
    said = versus.comparison(pair)
    if said is None:
        return {"toolcalls": None}
    return {
        "toolcalls": {
            "items": said.items,
            "lost": said.lost,
            "gained": said.gained,
            "p_value": said.p_value,
            "difference": _figure_json(said.difference),
            "non_inferior": said.non_inferior,
            "verdict": said.verdict,
            "explanation": said.explanation,
        }
    }


def _side_json(side: Side) -> dict[str, Any]:
    run = side.run
    return {"file": side.name, "kind": run.kind, "started": run.started, "suite": run.suite, "arms": side.labels}


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "a": _figure_json(row.a),
        "b": _figure_json(row.b),
        "change": _figure_json(row.change),
        "is_relative": row.is_relative,
        "better": row.better,
    }


def _figure_json(figure: Figure | None) -> dict[str, float | None] | None:
    """Ends of an interval are null where there is none or it has no end."""
    if figure is None:
        return None
    if isinstance(figure, float):
        return {"value": figure, "low": None, "high": None}
    return {name: value if math.isfinite(value) else None for name, value in figure.to_json().items()}


def _heads(versus: Versus) -> list[str]:
    sides = {"Run": versus.b} if versus.is_one_run else {"A": versus.a, "B": versus.b}
    return [
        f"{name}: {side.name} ({side.run.kind} of {side.run.started[:10]}, {side.run.suite})"
        for name, side in sides.items()
    ]


def _title(versus: Versus, pair: Pair) -> str:
    if pair.a == pair.b:
        return pair.b
    return f"{pair.a} -> {pair.b}"


def _cells(versus: Versus, pair: Pair) -> list[list[str]]:
    heads = ("A", "B") if not versus.is_one_run else (pair.a, pair.b)
    cells = [["metric", *heads, "change (95% interval)", ""]]
    for row in versus.rows(pair):
        metric = METRICS[row.metric.partition("[")[0]]
        change = "" if row.change is None else _shown(row.change, metric, row.is_relative, not metric.is_change)
        word = "" if row.better is None else "better" if row.better else "worse"
        own = ["" if each is None else _point(value_of(each), metric) for each in (row.a, row.b)]
        cells.append([row.metric, *own, change, word])
    return cells


def _judgements(judged: Judged) -> list[tuple[str, str, str]]:
    """Arm, figure and verdict in words."""
    rule = judged.rule
    return [
        (each.arm, _shown(each.figure, rule.of, rule.is_relative, rule.is_change), each.verdict.value)
        for each in judged.judgements
    ]


def _outcome(judged: list[Judged], status: int) -> list[str]:
    """`PASS: 0 of 2 rules triggered`; nothing without rules."""
    if not judged:
        return []
    triggered, untold = (
        sum(each.verdict is verdict for each in judged) for verdict in (Verdict.TRIGGERED, Verdict.CANNOT_TELL)
    )
    told = f"{'FAIL' if status else 'PASS'}: {triggered} of {count_of(judged, 'rule')} triggered"
    return [f"{told}, {untold} cannot tell" if untold else told]


def _shown(figure: Figure, metric: Metric, is_relative: bool, is_change: bool) -> str:
    def one(value: float) -> str:
        if not math.isfinite(value):
            return "∞" if value > 0 else "-∞"
        if is_relative:
            return f"{_rounded(value, 3):+.1%}"
        if not is_change:
            return _point(value, metric)
        if metric.quantity.name == "share":
            return f"{100 * _rounded(value, 4):+.2f} pp"
        return f"{'-' if value < 0 else '+'}{_point(abs(value), metric)}"

    if isinstance(figure, float):
        return one(figure)
    if is_unbounded(figure):
        return f"{one(figure.value)} ({UNKNOWN})"
    return f"{one(figure.value)} ({one(figure.low)} to {one(figure.high)})"


def _point(value: float, metric: Metric) -> str:
    quantity = metric.quantity
    if not math.isfinite(value):
        return "∞"
    if quantity.name == "share":
        return f"{value:.1%}" if value in (0.0, 1.0) or 0.001 <= value <= 0.999 else f"{value:.3%}"
    if quantity.name == "bytes":
        return size(round(value))
    if quantity.name == "factor":
        return f"{value:.3f}x"
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{shown} {quantity.base}".rstrip()


def _rounded(value: float, digits: int) -> float:
    """Without a sign where nothing is left."""
    return round(value, digits) + 0.0


def _escaped(text: str) -> str:
    """As Markdown shows it unchanged, inside a table too."""
    text = re.sub(r"([\\|`*_\[\]])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
