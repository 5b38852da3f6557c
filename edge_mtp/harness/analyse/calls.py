"""Tool calls of each arm of a run: scores of its replies, and the errors in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_mtp.harness.analyse.replies import Replies, Turns, replies_of, said
from edge_mtp.harness.ask.arm import Arm, baseline_of
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.judged import scored
from edge_mtp.harness.record.results import Results
from edge_mtp.harness.score.gold import Gold
from edge_mtp.harness.score.score import LABELS, Score, score
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate

Scores = Mapping[str, Mapping[str, Score]]  # by arm and item


@dataclass(frozen=True)
class Errors:
    """How often a label is the first thing wrong, and how often it is wrong at all."""

    label: str
    primary: int
    all: int
    share: Estimate  # of items, by primary label


@dataclass(frozen=True)
class ArmCalls:
    """Tool calls of one arm, on the `items` that it answered.

    `right`: items that are right when parsed strictly; `lenient`: right to a forgiving parser. `echoes` names the plain
    sibling of an arm that says the same as it to every item, word for word.
    """

    arm: str
    items: int
    right: int
    lenient: int
    exact: Estimate
    lenient_share: Estimate
    kinds: dict[str, tuple[int, int, Estimate]]  # by item kind: right, items, share
    errors: list[Errors]
    echoes: str | None = None


def score_all(results: Results) -> dict[str, dict[str, Score]]:
    """The score of each item, by arm and item.

    It is the score of the first wrong turn (`later_turn` names it), or of the last turn with gold where all are right.
    A crash, a timeout or a refusal is wrong in any turn. Left out are items without gold, arms that refused everything,
    and items that an arm has answered neither to their end nor to a wrong turn.
    """
    scores: dict[str, dict[str, Score]] = {}
    refused = results.refused
    for arm, replies in replies_of(results).items():
        if arm in refused:
            replies = {}
        found = {name: _score_of(results.items[name], turns) for name, turns in replies.items()}
        scores[arm] = {name: each for name, each in found.items() if each is not None}
    return scores


def arm_calls(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[ArmCalls]:
    """The tool calls of every arm on the items that it answered.

    Intervals are Wilson's at the effective number of items: the items of a cluster are not independent
    (`statistics.share`).
    """
    told = echoes(results.run.arms, replies_of(results), scores)
    return [
        _calls_of(arm.label, results.items, scores[arm.label], told.get(arm.label))
        for arm in results.run.arms
        if scores[arm.label]
    ]


def echoes(arms: Sequence[Arm], replies: Replies, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, str]:
    """By arm, the plain sibling to which it is equal: both say the same to every scored item, word for word."""
    found = {}
    for arm in arms:
        sibling = baseline_of(arm, arms)
        if sibling is not None and scores[arm.label] and scores[arm.label].keys() == scores[sibling.label].keys():
            ours, theirs = replies[arm.label], replies[sibling.label]
            if all(said(ours[name]) == said(theirs[name]) for name in scores[arm.label]):
                found[arm.label] = sibling.label
    return found


def _score_of(item: Item, turns: Turns) -> Score | None:
    if all(turn.gold is None for turn in item.turns):
        return None
    found: Score | None = None
    for number, turn in enumerate(item.turns):
        answer = turns.get(number)
        if answer is None:
            return None
        if not answer.is_complete:
            found = score(answer.text, answer.finish, answer.error, turn.gold or Gold(), item.tools)
        else:
            found = scored(answer, item) or found
        if found is not None and not found.is_right:
            return found.in_turn(number, len(item.turns))
    return found


def _calls_of(arm: str, items: Mapping[str, Item], scores: Mapping[str, Score], echoed: str | None) -> ArmCalls:
    def share(of: Mapping[str, bool]) -> Estimate:
        clusters = [items[name].cluster for name in of]
        return statistics.share(cluster_sums(clusters, of.values()), cluster_sums(clusters, [1] * len(clusters)))

    right = {name: found.is_right for name, found in scores.items()}
    lenient = {name: found.lenient for name, found in scores.items()}
    kinds: dict[str, dict[str, bool]] = {}
    for name, is_right in right.items():
        kinds.setdefault(items[name].kind, {})[name] = is_right
    bearing = Counter(label for found in scores.values() for label in {each.label for each in found.findings})
    errors = []
    for label in LABELS:
        if label in bearing:
            primary = {name: found.primary == label for name, found in scores.items()}
            errors.append(Errors(label, sum(primary.values()), bearing[label], share(primary)))
    return ArmCalls(
        arm=arm,
        items=len(scores),
        right=sum(right.values()),
        lenient=sum(lenient.values()),
        exact=share(right),
        lenient_share=share(lenient),
        kinds={kind: (sum(of.values()), len(of), share(of)) for kind, of in kinds.items()},
        errors=errors,
        echoes=echoed,
    )


def cluster_sums(clusters: Sequence[str], values: Iterable[int]) -> list[int]:
    """The values of each cluster together, clusters in order of first appearance."""
    totals = dict.fromkeys(clusters, 0)
    for cluster, value in zip(clusters, values, strict=True):
        totals[cluster] += value
    return list(totals.values())
