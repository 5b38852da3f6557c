"""What a check of numerics found, in lines."""

from __future__ import annotations

from edge_mtp.harness.analyse.numerics import ChosenToken, NumericsReport


def numerics_lines(report: NumericsReport) -> list[str]:
    """The verdict, how often texts part by each cause, and each place where they do."""
    lines = [report.explanation]
    for cause, share in report.shares.items():
        if any(each.cause == cause for each in report.divergences):
            lines.append(f"{cause}: {share.value:.1%} of prompts (95% interval {share.low:.1%} to {share.high:.1%})")
    for each in report.divergences:
        one, other = (_described(arm, choice) for arm, choice in zip(each.arms, each.choices, strict=True))
        lines.append(f"  prompt {each.prompt}, token {each.index}, {each.cause}: {one}; {other}")
    if report.divergences and report.median_margin is not None:
        lines.append(f"median margin of all tokens {report.median_margin:.3g}")
    return lines


def _described(arm: str, choice: ChosenToken) -> str:
    if choice.id is None:
        return f"{arm} had ended"
    margin = "" if choice.margin is None else f", margin {choice.margin:.3g}"
    return f"{arm} {choice.text!r} ({choice.kind}{margin})"
