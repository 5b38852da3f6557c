"""The arms of one run in pairs, on the same items: which of two has more tool calls right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_mtp.harness.analyse.calls import echoes
from edge_mtp.harness.analyse.causes import cause_of
from edge_mtp.harness.analyse.comparison_words import conclusion, where
from edge_mtp.harness.analyse.paired_calls import PairedCalls, Verdict
from edge_mtp.harness.analyse.partings import Parting
from edge_mtp.harness.analyse.replies import replies_of
from edge_mtp.harness.ask.arm import Arm, baseline_of, held_against
from edge_mtp.harness.record.results import Results, Run
from edge_mtp.harness.score.partings import Cause
from edge_mtp.harness.score.score import Score
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate


@dataclass(frozen=True)
class Comparison:
    """An arm against a base arm on the same items.

    `partings` come first: where texts are equal nothing else can differ. `cause` says why an arm that drafts parts from
    its plain sibling; the same arm with blank drafts decides it, where it is in the run (`causes`). `lost` items are
    right in the base alone, `gained` items in the arm alone. `p_value` is exact McNemar's for clusters; `p_adjusted` is
    Holm's over the comparisons of the run in which any item differs. `difference` is the arm's share of right items
    less the base's, with an interval over clusters; `non_inferior` says whether the whole interval lies above a loss of
    `MARGIN`.

    `verdict`: better or worse where `p_adjusted` is at most `ALPHA`; else same where no text differs or `non_inferior`;
    else not enough data. `needed` is then about how many items would settle it with 80 % power, if the true rates are
    those seen so far. `explanation` is for people, in a few sentences.
    """

    arm: str
    base: str
    items: int
    partings: list[Parting]
    cause: Cause | None
    lost: int
    gained: int
    p_value: float
    p_adjusted: float
    difference: Estimate
    non_inferior: bool
    needed: int | None
    verdict: Verdict
    explanation: str


def comparisons(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[Comparison]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline, on the items that both
    answered. An arm that echoes its sibling (`echoes`) is not compared with the baseline: the sibling is."""
    replies = replies_of(results)
    told = echoes(results.run.arms, replies, scores)
    pairs = []
    for arm, base in pairs_of(results.run):
        names = [name for name in results.items if name in scores[arm.label] and name in scores[base.label]]
        if names and told.get(arm.label, base.label) == base.label:
            pairs.append(PairedCalls(arm, base, {name: results.items[name] for name in names}, replies, scores))
    # A pair that differs in no item cannot find a difference, so it does not count as a comparison (Tarone, 1990,
    # Biometrics 46:515).
    differing = [pair for pair in pairs if pair.lost + pair.gained]
    adjusted = dict(zip(differing, statistics.holm([pair.p_value for pair in differing]), strict=True))
    return [
        _comparison(pair, adjusted.get(pair, 1.0), len(differing), cause_of(pair, results.run.arms, replies, scores))
        for pair in pairs
    ]


def pairs_of(run: Run) -> list[tuple[Arm, Arm]]:
    """The pairs of arms that are compared, the base second. No two arms are compared twice."""
    siblings = [(arm, baseline_of(arm, run.arms)) for arm in run.arms]
    baseline = run.arm(run.baseline)
    pairs: dict[frozenset[str], tuple[Arm, Arm]] = {}
    for arm, base in [*siblings, *((arm, held_against(arm, baseline, run.arms)) for arm in run.arms)]:
        if base is not None:
            pairs.setdefault(frozenset((arm.label, base.label)), (arm, base))
    return list(pairs.values())


def _comparison(pair: PairedCalls, p_adjusted: float, comparisons: int, cause: tuple[Cause | None, str]) -> Comparison:
    verdict = pair.verdict(p_adjusted)
    needed = pair.needed(comparisons) if verdict == "not enough data" else None
    sentences = [conclusion(pair, verdict, p_adjusted, comparisons, needed), where(pair), cause[1]]
    return Comparison(
        arm=pair.arm.label,
        base=pair.base.label,
        items=len(pair.items),
        partings=pair.partings,
        cause=cause[0],
        lost=pair.lost,
        gained=pair.gained,
        p_value=pair.p_value,
        p_adjusted=p_adjusted,
        difference=pair.difference,
        non_inferior=pair.is_non_inferior,
        needed=needed,
        verdict=verdict,
        explanation=" ".join(sentence for sentence in sentences if sentence),
    )
