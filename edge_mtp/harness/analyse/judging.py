"""Rules applied to the figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.compare import Versus
from edge_mtp.harness.analyse.matching import listed
from edge_mtp.harness.analyse.metrics import Metric
from edge_mtp.harness.analyse.rules import Rule, Verdict
from edge_mtp.harness.stats.changes import Figure


@dataclass(frozen=True)
class Judgement:
    """The verdict of a rule on one arm of B, and the figure behind it, in the unit of the rule's threshold."""

    arm: str
    figure: Figure
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """The verdicts of a rule on every arm that it is about; at least one."""

    rule: Rule
    judgements: list[Judgement]

    @property
    def verdict(self) -> Verdict:
        """It holds where it holds for one arm, and cannot be told where it cannot for one and holds for none."""
        verdicts = {each.verdict for each in self.judgements}
        of_all = (Verdict.TRIGGERED, Verdict.CANNOT_TELL, Verdict.NOT_TRIGGERED)
        return next(verdict for verdict in of_all if verdict in verdicts)


def judge(versus: Versus, rule: Rule) -> Judged:
    """Raises EdgeMtpError where the rule is about an arm, a kind or a figure that is not there: a rule that never
    can hold is no check."""
    _check(versus, rule)
    figures: dict[str, Figure] = {}
    for arm, find in _subjects(versus, rule).items():
        figure = find()
        if figure is not None:
            figures[arm] = figure
    if not figures:
        whom = f" of arm '{rule.arm}'" if rule.arm is not None else ""
        raise EdgeMtpError(f"rule '{rule}': {rule.name}{whom} {_reason(versus, rule)}; drop the rule")
    return Judged(rule, [Judgement(arm, figure, rule.judge(figure)) for arm, figure in figures.items()])


def _subjects(versus: Versus, rule: Rule) -> dict[str, Callable[[], Figure | None]]:
    """The arms of B that a rule is about, and how to find what it asks of each."""
    metric, pairs = rule.of, [pair for pair in versus.pairs if rule.arm in (None, pair.b)]
    if metric.scope == "pair" or _falls_back(versus, metric):
        return {pair.b: partial(versus.between, metric, pair, rule.kind) for pair in pairs}
    if rule.is_change:
        how = (rule.kind, rule.position, rule.is_relative)
        return {pair.b: partial(versus.change, metric, pair, *how) for pair in pairs}
    arms = [arm for arm in versus.b.labels if rule.arm in (None, arm)]
    return {arm: partial(versus.own, versus.b, metric, arm, rule.kind, rule.position) for arm in arms}


def _falls_back(versus: Versus, metric: Metric) -> bool:
    """Whether A's arms stand in for plain siblings, because B has none."""
    return metric.scope == "sibling" and not versus.is_one_run and not versus.has_siblings


def _check(versus: Versus, rule: Rule) -> None:
    if rule.arm is not None and rule.arm not in versus.b.labels:
        raise EdgeMtpError(
            f"rule '{rule}': '{versus.b.name}' has no arm '{rule.arm}'; its arms are {listed(versus.b.labels)}"
        )
    for arm, reason in versus.b.refused.items():
        if rule.arm in (None, arm):
            raise EdgeMtpError(
                f"rule '{rule}': arm '{arm}' of '{versus.b.name}' refused everything ({reason}), so nothing can be"
                " said of it; ask it what it can do, or leave it out"
            )
    if rule.kind is not None and rule.kind not in versus.b.kinds:
        raise EdgeMtpError(
            f"rule '{rule}': '{versus.b.name}' has no items of kind '{rule.kind}'; its kinds are "
            f"{listed(versus.b.kinds)}"
        )
    is_of_both = rule.is_change or rule.of.scope == "pair" or _falls_back(versus, rule.of)
    measured = versus.measures_speed if is_of_both else versus.b.run.measures_speed
    if rule.of.is_speed and not measured:
        raise EdgeMtpError(f"rule '{rule}': eval does not measure speed; give results of edge-mtp bench")
    if rule.is_change and _falls_back(versus, rule.of):
        raise EdgeMtpError(
            f"rule '{rule}': without plain siblings in '{versus.b.name}' {rule.metric} is that of B against A, which "
            "has no change; drop the sign"
        )


def _reason(versus: Versus, rule: Rule) -> str:
    """Why there is no figure for a rule."""
    if rule.is_change or rule.of.scope == "pair":
        if not any(rule.arm in (None, pair.b) for pair in versus.pairs):
            return "has nothing to be held against: no arm of A is matched with it"
        return "was not measured in both" if not versus.is_one_run else "was not measured in both arms"
    arms = versus.b.labels if rule.arm is None else [rule.arm]
    if rule.of.scope == "sibling" and not any(versus.sibling(versus.b, arm) for arm in arms):
        return "needs an arm that drafts and its plain sibling in one run"
    return f"was not measured in '{versus.b.name}'"
