"""A plan as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_mtp.harness.analyse.plan import ContextCosts, DrafterAcceptance, spoken_range
from edge_mtp.harness.stats.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table


def plan_table(costs: ContextCosts, acceptances: Sequence[DrafterAcceptance], title: str) -> Table:
    """What a step costs at each K, from which acceptance on it pays, and its gain at each of `acceptances`."""
    from rich import box
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    heads = ["prompts" if acceptance.measured else f"at {acceptance.label}" for acceptance in acceptances]
    for head in ("K", "draft\nms", "verify\nms", "plain\nsteps", "pays from\nacceptance"):
        shown.add_column(head, justify="right", no_wrap=True)
    for head in heads:
        shown.add_column(f"gain\n{head}", justify="right", min_width=5, overflow="fold")
    choices = [costs.best(acceptance.by_position) for acceptance in acceptances]
    best = [choice.draft_length if choice.gain.value > 1.0 else 0 for choice in choices]

    def gains(k: int, values: Sequence[float]) -> list[str]:
        return [f"{value:.2f}{'*' if k == of else ' '}" for value, of in zip(values, best, strict=True)]

    shown.add_row("0", "", _ms(costs.plain_us), "1", "", *gains(0, [1.0] * len(best)))
    for step in costs.steps:
        at = step.break_even
        pays = "never" if at.value is None else f"{at.value:.2f}"
        shown.add_row(
            str(step.draft_length),
            _ms(step.draft_us),
            _ms(step.verify_us),
            f"{step.cost.value:.2f}",
            pays if spoken_range(at) == pays else f"{pays} ({spoken_range(at).replace(' to ', '-')})",
            *gains(step.draft_length, [step.gain(acceptance.by_position).value for acceptance in acceptances]),
        )
    return shown


def _ms(us: Estimate) -> str:
    return f"{us.value / 1e3:.3g}"
