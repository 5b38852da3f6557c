"""All that a run's results say: what `report` shows and `compare` judges. The JSON form: docs/results.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_mtp.harness.latency import Latency, SpeedUp, latencies, speed_ups
from edge_mtp.harness.pairwise import ArmCalls, Comparison, arm_calls, comparisons, score_all
from edge_mtp.harness.results import Results, Run
from edge_mtp.harness.score import Score
from edge_mtp.json_file import finite

SCHEMA = 1


@dataclass(frozen=True)
class Analysis:
    """`calls` and `comparisons` are empty where no item has gold. `scores` by arm and item."""

    run: Run
    latencies: list[Latency]
    speed_ups: list[SpeedUp]
    calls: list[ArmCalls]
    comparisons: list[Comparison]
    scores: dict[str, dict[str, Score]]

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = finite({"schema": SCHEMA, **asdict(self)})
        return value


def analyse(results: Results) -> Analysis:
    """The analysis of a run, complete or not."""
    scores = score_all(results)
    return Analysis(
        run=results.run,
        latencies=latencies(results),
        speed_ups=speed_ups(results),
        calls=arm_calls(results, scores),
        comparisons=comparisons(results, scores),
        scores=scores,
    )
