"""One of two results that are compared: a results file, or only its summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import Analysis, analyse
from edge_mtp.harness.analyse.analysis_file import read_summary
from edge_mtp.harness.analyse.metrics import Place
from edge_mtp.harness.record.results import Results, Run, read_results


class Side:
    """A result: its analysis, and the records that it was made from, None where only a summary is there."""

    def __init__(self, name: str, of: Results | Analysis) -> None:
        """Results are analysed when first asked for."""
        self.name = name
        self.run: Run = of.run
        self.results = of if isinstance(of, Results) else None
        self._analyses: dict[str | None, Analysis] = {None: of} if isinstance(of, Analysis) else {}

    @property
    def labels(self) -> list[str]:
        return [arm.label for arm in self.run.arms]

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """The arms that refused all that they were asked, and why."""
        return self._analyses[None].refused if self.results is None else self.results.refused

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of items, in the order of first appearance."""
        if self.results is not None:
            return list(dict.fromkeys(item.kind for item in self.results.items.values()))
        analysis = self._analyses[None]
        kinds = [each.kind for each in analysis.latencies if each.kind is not None]
        return list(dict.fromkeys([*kinds, *(kind for calls in analysis.calls for kind in calls.kinds)]))

    def place(self, arm: str, base: str | None = None, kind: str | None = None, position: int | None = None) -> Place:
        """Where to look for a figure. Of one kind: the analysis of its items alone, or what a summary has of it."""
        if self.results is None:
            return Place(self._analyses[None], None, arm, base, kind, position)
        results = self.results
        if kind is not None:
            results = restricted(results, {name for name, item in results.items.items() if item.kind == kind})
        if kind not in self._analyses:
            self._analyses[kind] = analyse(results)
        return Place(self._analyses[kind], results, arm, base, None, position)


def read_side(path: str | Path) -> Side:
    """A results file, or the summary of one. Raises EdgeMtpError for what is neither."""
    name = str(path)
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline()
    except OSError as error:
        raise EdgeMtpError(
            f"cannot read '{path}': {error.strerror}; give a file that bench, eval or report wrote"
        ) from None
    try:
        value = json.loads(first)
        is_record = isinstance(value, dict) and "event" in value
    except (ValueError, RecursionError):
        is_record = False
    return Side(name, read_results(path) if is_record else read_summary(path))


def restricted(results: Results, items: set[str]) -> Results:
    """The results of these items alone."""
    kept = {name: item for name, item in results.items.items() if name in items}
    answers = [answer for answer in results.answers if answer.item in kept]
    return replace(results, items=kept, answers=answers)
