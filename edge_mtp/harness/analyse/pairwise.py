"""Tool calls of the arms of one run, each alone and in pairs on the same items.

Only round 0 counts. The further ones of a `bench` say the same at temperature 0, and at others are no further items.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edge_mtp.formats.lenient_calls import MARK as CONTROL
from edge_mtp.formats.tool_calls import QUOTE
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm, baseline_of
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.judged import scored
from edge_mtp.harness.record.results import Results, Run
from edge_mtp.harness.score.gold import Gold
from edge_mtp.harness.score.partings import Cause, first_difference, token_kind
from edge_mtp.harness.score.score import LABELS, Score, score
from edge_mtp.harness.stats import figures, statistics
from edge_mtp.harness.stats.statistics import Estimate

MARGIN = 0.01  # a loss of exact calls that is called none
ALPHA = 0.05
# Margins this small beside a usual one are ties, which rounding may break either way.
TIE = 0.1

MARK = re.compile(rf"{re.escape(QUOTE)}|{CONTROL.pattern}")
PIECE = re.compile(rf"{MARK.pattern}|\d| ?[^\W\d]+|.", re.DOTALL)  # about what a token is

Verdict = Literal["same", "better", "worse", "not enough data"]
Turns = Mapping[int, Answer]  # by number of the turn
Replies = dict[str, dict[str, dict[int, Answer]]]  # by arm, item and turn


@dataclass(frozen=True)
class Errors:
    """How often a label is the first thing wrong, and how often it is wrong at all."""

    label: str
    primary: int
    all: int
    share: Estimate  # of items, by primary label


@dataclass(frozen=True)
class ArmCalls:
    """One arm: of `items`, those that are right (strictly parsed) and right to a forgiving parser. `echoes` is its
    plain sibling, where the two say the same to every item, word for word."""

    arm: str
    items: int
    right: int
    lenient: int
    exact: Estimate
    lenient_share: Estimate
    kinds: dict[str, tuple[int, int, Estimate]]  # by item kind: right, items, share
    errors: list[Errors]
    echoes: str | None = None


@dataclass(frozen=True)
class Parting:
    """The first place where the replies of two arms to one item part. Of each pair the first is the arm's, the second
    the base's.

    `index` counts tokens, or characters where an engine does not tell its tokens (`unit`). What stands there is read
    off the texts: `chosen` ("" where one had ended), and `token_class` of the base's as `numerics.token_kind` names it,
    thought inside one, stop where the base had ended, None where tokens differ and texts do not. `margins`: of the
    logits that each chose from, the largest less the second; None where not known. `texts` whole, thoughts included.
    `primary`: each arm's primary label, None for right.
    """

    item: str
    turn: int
    index: int
    token_class: str | None
    margins: tuple[float | None, float | None]
    chosen: tuple[str, str]
    texts: tuple[str, str]
    primary: tuple[str | None, str | None]
    unit: Literal["token", "character"] = "token"


@dataclass(frozen=True)
class Comparison:
    """An arm against a base arm on the same items.

    `partings` come first: where texts are equal nothing else can differ. `cause` is of those between an arm that drafts
    and its plain sibling; where the same arm with blank drafts is in the run it decides, as `numerics` has it. `lost`
    items are right in the base alone, `gained` in the arm alone. `p_value` is exact McNemar's for clusters,
    `p_adjusted` Holm's over the comparisons of the run in which any item differs. `difference` is the arm's share of
    right items less the base's, with an interval over clusters; `non_inferior` whether its whole interval lies above a
    loss of `MARGIN`.

    `verdict`: better or worse where `p_adjusted` is at most `ALPHA`; else same where no text differs or `non_inferior`;
    else not enough data. `needed` is then about how many items would settle it with 80 % power, were what was seen so
    far the truth. `explanation` is for people, in a few sentences.
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


def score_all(results: Results) -> dict[str, dict[str, Score]]:
    """By arm and item: the score of its first wrong turn (`later_turn` tells), or of its last with gold where all are
    right.

    A crash, a timeout or a refusal is wrong in any turn; of an arm that refused everything nothing is said. Items
    without gold are left out, and those that an arm has answered neither to their end nor to a wrong turn.
    """
    scores: dict[str, dict[str, Score]] = {}
    refused = results.refused
    for arm, replies in _replies(results).items():
        if arm in refused:
            replies = {}
        found = {name: _score_of(results.items[name], turns) for name, turns in replies.items()}
        scores[arm] = {name: each for name, each in found.items() if each is not None}
    return scores


def arm_calls(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[ArmCalls]:
    """Every arm on the items that it answered. Intervals are Wilson's at the effective number of items, since those of
    a cluster are not independent (`statistics.share`)."""
    told = echoes(results.run.arms, _replies(results), scores)
    return [
        _calls_of(arm.label, results.items, scores[arm.label], told.get(arm.label))
        for arm in results.run.arms
        if scores[arm.label]
    ]


def comparisons(results: Results, scores: Mapping[str, Mapping[str, Score]]) -> list[Comparison]:
    """Each arm that drafts against its plain sibling, and each arm against the run's baseline, on the items that both
    answered. Of an arm that echoes its sibling (`echoes`) what holds of that one holds: it is not asked again."""
    replies = _replies(results)
    told = echoes(results.run.arms, replies, scores)
    pairs = []
    for arm, base in pairs_of(results.run):
        names = [name for name in results.items if name in scores[arm.label] and name in scores[base.label]]
        if names and told.get(arm.label, base.label) == base.label:
            pairs.append(_Pair(arm, base, {name: results.items[name] for name in names}, replies, scores))
    # A pair that differs in no item finds nothing, whatever is true: it takes nothing from the others (Tarone, 1990,
    # Biometrics 46:515).
    differing = [pair for pair in pairs if pair.lost + pair.gained]
    adjusted = dict(zip(differing, statistics.holm([pair.p_value for pair in differing]), strict=True))
    return [
        _comparison(pair, adjusted.get(pair, 1.0), len(differing), _cause(pair, results.run.arms, replies, scores))
        for pair in pairs
    ]


def echoes(arms: Sequence[Arm], replies: Replies, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, str]:
    """The arms that say word for word what their plain siblings say to the same scored items, and those siblings."""
    found = {}
    for arm in arms:
        sibling = baseline_of(arm, arms)
        if sibling is not None and scores[arm.label] and scores[arm.label].keys() == scores[sibling.label].keys():
            ours, theirs = replies[arm.label], replies[sibling.label]
            if all(_said(ours[name]) == _said(theirs[name]) for name in scores[arm.label]):
                found[arm.label] = sibling.label
    return found


def pairs_of(run: Run) -> list[tuple[Arm, Arm]]:
    """Which arm is held against which, the base second. No two arms meet twice, whichever of them were the base."""
    siblings = [(arm, baseline_of(arm, run.arms)) for arm in run.arms]
    baseline = run.arm(run.baseline)
    pairs: dict[frozenset[str], tuple[Arm, Arm]] = {}
    for arm, base in [*siblings, *((arm, baseline) for arm in run.arms)]:
        if base is not None and arm.label != base.label:
            pairs.setdefault(frozenset((arm.label, base.label)), (arm, base))
    return list(pairs.values())


# -- arms alone -----------------------------------------------------------------------------------------------------


def _replies(results: Results) -> Replies:
    """What each arm said in round 0; where an item was asked again, the last."""
    replies: Replies = {arm.label: {} for arm in results.run.arms}
    for answer in results.answers:
        if answer.round == 0:
            turns = replies[answer.arm].setdefault(answer.item, {})
            if answer.turn == 0:
                turns.clear()
            turns[answer.turn] = answer
    return replies


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
        return statistics.share(_sums(clusters, of.values()), _sums(clusters, [1] * len(clusters)))

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


def _sums(clusters: Sequence[str], values: Iterable[int]) -> list[int]:
    """The values of each cluster together, clusters in order of first appearance."""
    totals = dict.fromkeys(clusters, 0)
    for cluster, value in zip(clusters, values, strict=True):
        totals[cluster] += value
    return list(totals.values())


# -- where texts part -----------------------------------------------------------------------------------------------


def _parting(name: str, arm: Turns, base: Turns, primary: tuple[str | None, str | None]) -> Parting | None:
    """The first place where two replies to an item part; None where they do not, or one failed before."""
    for turn in sorted(arm.keys() & base.keys()):
        one, other = arm[turn], base[turn]
        if not (one.is_complete and other.is_complete):
            return None
        by_token = bool(one.tokens and other.tokens)
        texts = one.whole, other.whole
        index = first_difference(one.tokens, other.tokens) if by_token else first_difference(*texts)
        if index is None:
            continue
        at = _parts_at(*texts)
        chosen = _piece(texts[0], at), _piece(texts[1], at)
        kind: str | None = _kind_at(other, at) if chosen[1] else "stop"
        if texts[0] == texts[1] and index + 1 < max(len(one.tokens), len(other.tokens)):
            kind = None  # other tokens for the same text
        return Parting(
            item=name,
            turn=turn,
            index=index,
            token_class=kind,
            margins=(_margin(one, index), _margin(other, index)) if by_token else (None, None),
            chosen=chosen,
            texts=texts,
            primary=primary,
            unit="token" if by_token else "character",
        )
    return None


def _kind_at(answer: Answer, at: int) -> str:
    """What stands at a character of all that was said."""
    answer_begins = len(answer.whole) - len(answer.text)
    if at < answer_begins:
        return "thought"
    return token_kind(answer.text[: at - answer_begins], _piece(answer.whole, at))


def _parts_at(one: str, other: str) -> int:
    """The character at which two texts part. Marks are whole: two that begin alike part at their beginning."""
    index = first_difference(one, other)
    at = len(one) if index is None else index
    return min([at, *(mark.start() for text in (one, other) for mark in MARK.finditer(text) if mark.end() > at)])


def _piece(text: str, at: int) -> str:
    found = PIECE.match(text, at)
    return found[0] if found else ""


def _margin(answer: Answer, index: int) -> float | None:
    return answer.margins[index] if index < len(answer.margins) else None


# -- pairs ----------------------------------------------------------------------------------------------------------


class _Pair:
    """What an arm and its base said to the same items, counted."""

    def __init__(
        self,
        arm: Arm,
        base: Arm,
        items: Mapping[str, Item],
        replies: Replies,
        scores: Mapping[str, Mapping[str, Score]],
    ) -> None:
        self.arm, self.base, self.items = arm, base, items
        self.scores = scores[arm.label], scores[base.label]
        ours, theirs = replies[arm.label], replies[base.label]
        self.partings = _partings(items, (ours, theirs), self.scores)
        self.is_identical = all(_said(ours[name]) == _said(theirs[name]) for name in items)
        self.right = tuple([of[name].is_right for name in items] for of in self.scores)
        lost = [theirs and not ours for ours, theirs in zip(*self.right, strict=True)]
        gained = [ours and not theirs for ours, theirs in zip(*self.right, strict=True)]
        self.lost, self.gained = sum(lost), sum(gained)
        clusters = [item.cluster for item in items.values()]
        sums = _sums(clusters, lost), _sums(clusters, gained), _sums(clusters, [1] * len(clusters))
        self.p_value = statistics.clustered_mcnemar(*sums[:2])
        self.difference = statistics.paired_difference(*sums)
        self.design_effect = statistics.design_effect(*sums) if len(sums[0]) > 1 else float(len(clusters))
        self.margins = [margin for name in items for answer in theirs[name].values() for margin in answer.margins]

    @property
    def is_non_inferior(self) -> bool:
        return self.difference.low > -MARGIN

    def changed_labels(self, verdict: Verdict) -> Counter[str | None]:
        """The primary labels of the items that the arm has lost, or of those that it has gained."""
        wrong, right = self.scores if verdict == "worse" else reversed(self.scores)
        return Counter(wrong[name].primary for name in self.items if right[name].is_right and not wrong[name].is_right)

    def verdict(self, p_adjusted: float) -> Verdict:
        if self.is_identical:
            return "same"
        if p_adjusted <= ALPHA:
            return "worse" if self.difference.value < 0 else "better"
        return "same" if self.is_non_inferior else "not enough data"

    def needed(self, comparisons: int) -> int:
        """Items that settle it one way or the other, whichever takes fewer. Few items may show none that differ: half a
        one is counted in."""
        items = len(self.items)
        change = self.difference.value
        discordance = max(abs(change), (self.lost + self.gained + 0.5) / (items + 1))
        independent = min(
            statistics.mcnemar_items(discordance, change, alpha=ALPHA / max(1, comparisons)),
            statistics.non_inferiority_items(discordance, change, MARGIN),
        )
        return max(items + 1, math.ceil(independent * self.design_effect))


def _said(turns: Turns) -> dict[int, tuple[str, bool]]:
    return {turn: (answer.whole, answer.is_complete) for turn, answer in turns.items()}


def _partings(
    names: Iterable[str],
    replies: tuple[Mapping[str, Turns], Mapping[str, Turns]],
    scores: tuple[Mapping[str, Score], Mapping[str, Score]],
) -> list[Parting]:
    """Those of an arm and a base, on items that both answered and that have scores."""
    found = []
    for name in names:
        primary = scores[0][name].primary, scores[1][name].primary
        found.append(_parting(name, replies[0][name], replies[1][name], primary))
    return [each for each in found if each is not None]


def _cause(
    pair: _Pair, arms: Sequence[Arm], replies: Replies, scores: Mapping[str, Mapping[str, Score]]
) -> tuple[Cause | None, str]:
    """Why an arm parts from its plain sibling, and what says so; nothing for other pairs.

    As `numerics` has it: where the same arm with blank drafts parts alike, graphs round differently; where that one
    says otherwise, drafts did it. The rule holds for graphs of one width. The verify graph of another rounds
    differently too, but breaks only ties; so do margins tell without a blank arm, and then only suggest.
    """
    sibling = baseline_of(pair.arm, arms)
    if not pair.partings or sibling is None or sibling.label != pair.base.label:
        return None, ""
    if pair.arm.mtp == "blank":
        return "numerics", "No draft was verified, so the graphs round differently (numerics)."
    blank = next((arm for arm in arms if arm.mtp == "blank" and arm.is_sibling(pair.arm)), None)
    names = [] if blank is None else [each.item for each in pair.partings if each.item in scores[blank.label]]
    if blank is None or not names:
        _, words = _ties(pair.partings, pair)
        tells = "An arm with mtp=blank tells rounding from drafts that were wrongly kept."
        return None, f"{words}. {tells}" if words else tells
    both = replies[pair.arm.label], replies[blank.label]
    apart = _partings(names, both, (scores[pair.arm.label], scores[blank.label]))
    if not apart:
        return "numerics", "With blank drafts they part alike, so the graphs round differently (numerics)."
    found = f"With blank drafts {len(apart)} of {len(names)} say otherwise"
    ties, words = (False, "") if pair.arm.draft_length == blank.draft_length else _ties(apart, pair)
    if ties is None:
        return (
            None,
            f"{found}, at other draft lengths; mtp={blank.draft_length} tells rounding from wrongly kept drafts.",
        )
    if ties:
        return "numerics", f"{found}. {words} (numerics)."
    reason = "a draft was kept that should not have been, or a rejected one left something behind (accept or rollback)"
    return "accept or rollback", ". ".join(filter(None, [found, words])) + f": {reason}."


def _ties(partings: Sequence[Parting], pair: _Pair) -> tuple[bool | None, str]:
    """Whether all of them lie where two logits nearly tied, and that in words; None where margins do not tell.

    They are of the model's own logits. What is sampled, or chosen among the tokens that a grammar allows, may be far
    from the largest, and a wide margin then says nothing.
    """
    margins = [abs(margin) for parting in partings for margin in parting.margins if margin is not None]
    if not margins or not pair.margins or pair.arm.temperature > 0:
        return None, ""
    widest, usual = max(margins), median(pair.margins)
    if widest <= TIE * usual:
        return True, f"There two logits lie within {widest:.2g} (usually {usual:.2g}), and rounding breaks such ties"
    if pair.arm.constrained:
        return None, ""
    return False, f"There one logit leads by up to {widest:.2g} (usually {usual:.2g}), more than rounding moves"


def _conclusion(pair: _Pair, verdict: Verdict, p_adjusted: float, comparisons: int, needed: int | None) -> str:
    items = len(pair.items)
    if pair.is_identical:
        return f"All {items} items are answered word for word alike."
    shares = [f"{sum(right)} of {items} items ({figures.percent(sum(right) / items)})" for right in pair.right]
    found = (
        f"Right in {shares[0]} instead of {shares[1]}: {pair.lost} lost, {pair.gained} gained,"
        f" {figures.points(pair.difference)}."
    )
    if verdict == "same":
        return f"{found} So less than {100 * MARGIN:g} point is lost, which counts as the same."
    if verdict == "not enough data":
        return f"{found} That is not enough data to tell; about {figures.about(needed or 1):,} items would be."
    p = figures.spoken_p(p_adjusted)
    over = f", Holm's over {comparisons} comparisons" if comparisons > 1 else ""
    label, count = pair.changed_labels(verdict).most_common(1)[0]
    of = f"{pair.lost} lost items {count} now" if verdict == "worse" else f"{pair.gained} gained items {count} before"
    return f"{found} That is {verdict} ({p}{over}). Of the {of} fail first with {label}."


def _where(pair: _Pair) -> str:
    if not pair.partings:
        return ""
    classes = Counter(each.token_class or "other tokens for the same text" for each in pair.partings).most_common()
    where = ", ".join(f"{name} {count}" for name, count in classes)
    return f"Replies part in {len(pair.partings)} of {len(pair.items)} items, first at: {where}."


def _comparison(pair: _Pair, p_adjusted: float, comparisons: int, cause: tuple[Cause | None, str]) -> Comparison:
    verdict = pair.verdict(p_adjusted)
    needed = pair.needed(comparisons) if verdict == "not enough data" else None
    sentences = [_conclusion(pair, verdict, p_adjusted, comparisons, needed), _where(pair), cause[1]]
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
