"""All that a run's results say: what `report` shows and `compare` judges. The JSON form: docs/results.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edge_mtp.harness.analyse.calls import ArmCalls, arm_calls, score_all
from edge_mtp.harness.analyse.latency import Latency, latencies
from edge_mtp.harness.analyse.pairwise import Comparison, comparisons
from edge_mtp.harness.analyse.speed_up import SpeedUp, speed_ups
from edge_mtp.harness.record.results import Results, Run
from edge_mtp.harness.score.drafter_fit import misfit
from edge_mtp.harness.score.score import Score
from edge_mtp.json_file import finite

SCHEMA = 1
NO_SPEED = "Speed is not shown: eval computes margins and warms nothing up. To measure it: edge-mtp bench."


@dataclass(frozen=True)
class Analysis:
    """`calls` and `comparisons` are empty where no item has gold. `scores` by arm and item. `refused`: the arms that
    refused all that they were asked, and why; nothing else is said of them."""

    run: Run
    latencies: list[Latency]
    speed_ups: list[SpeedUp]
    calls: list[ArmCalls]
    comparisons: list[Comparison]
    scores: dict[str, dict[str, Score]]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def misfits(self) -> dict[str, str]:
        """By arm: a sentence on a drafter that does not fit its target; none on drafts that were simulated."""
        drafting = [each for each in self.latencies if each.kind is None and each.first_drafts is not None]
        if self.run.simulated is not None:
            return {}
        told = {each.arm: misfit(each.first_drafts) for each in drafting if each.first_drafts is not None}
        return {arm: sentence for arm, sentence in told.items() if sentence is not None}

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
        refused=results.refused,
    )


def incompletion(results: Results) -> str | None:
    """Of a run that was cut before it had all answers; None of a whole one, and of one that runs for a time."""
    run, rounds = results.run, results.run.settings.get("rounds")
    asked = len(run.arms) * len(results.items) * (rounds if isinstance(rounds, int) else 0)
    answered = len({(answer.arm, answer.item, answer.round) for answer in results.answers})
    if answered >= asked:
        return None
    return f"Not complete: {answered:,} of {asked:,} questions were answered. Its command goes on with --resume."


def refusal(arm: str, reason: str) -> str:
    """Of an arm that refused all that it was asked."""
    return f"{arm} refused everything that it was asked, so nothing can be said of it: {reason}"
