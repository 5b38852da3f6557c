"""Which arms of two results are compared, and one run of each pair.

Answers to the same items are paired: the two arms are put into one run of their own, so that every statistic is that
of one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.metrics import comparison_of, sibling_of, speed_up_of
from edge_mtp.harness.analyse.side import Side, restricted
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.record.results import Results


class Pair(NamedTuple):
    """Labels of two arms that are compared: `a` in A, `b` in B."""

    a: str
    b: str


class Matching:
    """The pairs of arms of two results, and their answers to the same items put together.

    With one result `a` and `b` are the same, and its drafting arms are paired with their plain siblings.
    """

    def __init__(self, a: Side, b: Side, matched: Sequence[str] = ()) -> None:
        """`matched` names pairs as `A_LABEL=B_LABEL`; without it arms of the same label are paired.

        Raises EdgeMtpError where no arm of A can be compared with one of B.
        """
        self.a, self.b = a, b
        self.pairs = _matched(a, b, matched) if matched else self._natural_pairs()
        if not self.pairs and not self.is_one_run:
            raise EdgeMtpError(
                f"no arm of '{a.name}' ({listed(a.labels)}) has the label of one of '{b.name}' "
                f"({listed(b.labels)}); match them with --arm A_LABEL=B_LABEL"
            )
        # Both sides with only the items that both have; None where nothing can be paired.
        self.common = self._shared()
        self._joined: dict[Pair, Side | None] = {}

    @property
    def is_one_run(self) -> bool:
        return self.a is self.b

    def check_shared(self) -> None:
        """Raises EdgeMtpError for two results files without a common item."""
        if self.common is None and self.a.results is not None and self.b.results is not None:
            raise EdgeMtpError(
                f"'{self.a.name}' and '{self.b.name}' share no items, so no answer can be compared with another; give"
                " runs of the same suite, or --unpaired to compare the totals of each"
            )

    @property
    def is_paired(self) -> bool:
        """Whether answers to the same items can be paired."""
        return bool(self.common and self.common[0].results is not None)

    @property
    def measures_speed(self) -> bool:
        """Whether both can be compared in speed."""
        return self.a.run.measures_speed and self.b.run.measures_speed

    @cached_property
    def has_siblings(self) -> bool:
        """Whether B holds an arm and its plain sibling."""
        return any(self.sibling(self.b, arm) for arm in self.b.labels)

    def _natural_pairs(self) -> list[Pair]:
        if self.is_one_run:
            siblings = ((self.sibling(self.b, arm), arm) for arm in self.b.labels)
            return [Pair(base, arm) for base, arm in siblings if base is not None]
        if len(self.a.labels) == len(self.b.labels) == 1:
            return [Pair(self.a.labels[0], self.b.labels[0])]
        return [Pair(label, label) for label in self.b.labels if label in self.a.labels]

    @staticmethod
    def sibling(side: Side, arm: str) -> str | None:
        """The label of the plain sibling of an arm."""
        return sibling_of(side.run, arm)

    def _shared(self) -> tuple[Side, Side] | None:
        """Both sides with the items alone that both have; None where nothing can be paired."""
        if self.is_one_run:
            return self.a, self.b
        if self.a.results is None or self.b.results is None:
            return None
        shared = shared_items(self.a.results, self.b.results)
        if not shared:
            return None

        def common(side: Side, results: Results) -> Side:
            return side if len(results.items) == len(shared) else Side(side.name, restricted(results, shared))

        return common(self.a, self.a.results), common(self.b, self.b.results)

    def names(self, pair: Pair) -> tuple[str, str]:
        """The labels of B's arm and of A's in their joint run."""
        return (pair.b, pair.a) if self.is_one_run else (f"B: {pair.b}", f"A: {pair.a}")

    def joint(self, pair: Pair) -> Side | None:
        """One run of the pair alone, A's arm its baseline; None where answers cannot be paired."""
        if pair not in self._joined:
            self._joined[pair] = self._join(pair)
        return self._joined[pair]

    def _join(self, pair: Pair) -> Side | None:
        if self.common is None:
            return None
        a, b = self.common
        if self.is_one_run:
            # What the run says of the pair itself knows its other arms too.
            at = b.place(pair.b, pair.a)
            if speed_up_of(at, "decode") is not None or comparison_of(at) is not None:
                return b
        if a.results is None or b.results is None:
            return None
        name_b, name_a = self.names(pair)
        given = [(a.results.of(pair.a), name_a), (b.results.of(pair.b), name_b)]
        asked = [{_question(answer) for answer in answers} for answers, _ in given]
        both = asked[0] & asked[1]
        if not both:
            return None
        joint = [replace(x, arm=name) for answers, name in given for x in answers if _question(x) in both]
        # With bundles of their own they are no siblings, of which the plain one would be the base.
        arms = [
            replace(side.run.arm(arm), label=name, bundle=name)
            for side, arm, name in ((a, pair.a, name_a), (b, pair.b, name_b))
        ]
        return Side(b.name, Results(replace(b.run, arms=arms, baseline=name_a), b.results.items, joint))


def _question(answer: Answer) -> tuple[str, int, int]:
    return answer.item, answer.turn, answer.round


def shared_items(a: Results, b: Results) -> set[str]:
    """The items that are in both under one name, with the same content."""
    return {name for name, item in a.items.items() if b.items.get(name) == item}


def _matched(a: Side, b: Side, matched: Sequence[str]) -> list[Pair]:
    """The pairs that `A_LABEL=B_LABEL` name; labels may hold `=` themselves."""
    pairs = []
    for text in matched:
        cuts = [(text[:i].strip(), text[i + 1 :].strip()) for i, letter in enumerate(text) if letter == "="]
        found = [Pair(left, right) for left, right in cuts if left in a.labels and right in b.labels]
        if len(found) != 1:
            what = "can be read in several ways" if found else "is not A_LABEL=B_LABEL"
            raise EdgeMtpError(
                f"--arm '{text}' {what}; arms of '{a.name}': {listed(a.labels)}; of '{b.name}': {listed(b.labels)}"
            )
        pairs.append(found[0])
    twice = next((pair.b for pair in pairs if [each.b for each in pairs].count(pair.b) > 1), None)
    if twice is not None:
        raise EdgeMtpError(f"--arm names '{twice}' of B twice; hold each arm of B against one of A")
    return pairs


def listed(labels: Sequence[str]) -> str:
    return ", ".join(f"'{label}'" for label in labels) or "none"
