"""The summary of a run, read back: the JSON that `Analysis.to_json` gives. Schema: docs/results.md."""

from __future__ import annotations

from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import SCHEMA, Analysis
from edge_mtp.harness.record.decoded import WrongError, check_depth, decoded
from edge_mtp.json_file import read_json


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
        analysis: Analysis = decoded(Analysis, value)
        analysis.run.check()
        _check_arms(analysis)
    except WrongError as error:
        raise EdgeMtpError(f"{where}: {error}; make it again from the results") from None
    return analysis


def _check_arms(analysis: Analysis) -> None:
    """Raises WrongError where figures are of an arm that the run does not have."""
    labels = {arm.label for arm in analysis.run.arms}
    named = {*analysis.scores, *analysis.refused}
    named |= {each.arm for each in analysis.latencies} | {each.arm for each in analysis.calls}
    named |= {label for each in analysis.speed_ups for label in (each.arm, each.base)}
    named |= {label for each in analysis.comparisons for label in (each.arm, each.base)}
    for unknown in sorted(named - labels):
        raise WrongError(f"figures are of arm {unknown[:40]!r}, which the run does not have")
