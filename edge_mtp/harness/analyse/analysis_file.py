"""The summary of a run, read back: the JSON that `Analysis.to_json` gives. Schema: docs/results.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.codec import LARGEST, WrongError, check_depth, decode
from edge_mtp.harness.analyse.analysis import SCHEMA, Analysis
from edge_mtp.json_file import read_json
from edge_mtp.safe_text import shown

_FIGURES = ("latencies", "speed_ups", "calls", "comparisons")
_ENDLESS = {"value": math.nan, "low": -math.inf, "high": math.inf}  # an `Estimate`, where null stands in its place


def read_summary(path: str | Path) -> Analysis:
    """Raises EdgeMtpError for a file that is no summary, or of another schema; unknown fields are ignored."""
    where = f"summary '{path}'"
    value = read_json(path, "summary")
    if not isinstance(value, dict) or "schema" not in value or "run" not in value:
        raise EdgeMtpError(f"{where} holds no run; give a file that bench, eval or report wrote")
    if type(value["schema"]) is not int or value["schema"] != SCHEMA:
        raise EdgeMtpError(f"{where} is of another schema than {SCHEMA}; make it again from the results")
    try:
        check_depth(value)
        analysis = decode(
            Analysis, {name: _with_ends(of, name) if name in _FIGURES else of for name, of in value.items()}
        )
        analysis.run.check()
        _check_arms(analysis)
    except WrongError as error:
        raise EdgeMtpError(f"{where}: {error}; make it again from the results") from None
    return analysis


def _with_ends(value: Any, where: str) -> Any:
    """Figures with the infinite ends of intervals, which JSON has as null. Raises WrongError for a number that no
    measurement gives."""
    if isinstance(value, dict):
        ends = _ENDLESS if _ENDLESS.keys() <= value.keys() else {}
        return {
            key: ends[key] if each is None and key in ends else _with_ends(each, f"{where}.{key}")
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_with_ends(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise WrongError(f"{shown(where[:80])} is no measurement")
    return value


def _check_arms(analysis: Analysis) -> None:
    """Raises WrongError where figures are of an arm that the run does not have."""
    labels = {arm.label for arm in analysis.run.arms}
    named = {*analysis.scores, *analysis.refused}
    named |= {each.arm for each in analysis.latencies} | {each.arm for each in analysis.calls}
    named |= {label for each in analysis.speed_ups for label in (each.arm, each.base)}
    named |= {label for each in analysis.comparisons for label in (each.arm, each.base)}
    for unknown in sorted(named - labels):
        raise WrongError(f"figures are of arm {unknown[:40]!r}, which the run does not have")
