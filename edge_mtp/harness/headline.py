"""What a run says first: one finding for each pair of arms, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_mtp.harness.analysis import Analysis
from edge_mtp.harness.arm import baseline_of
from edge_mtp.harness.figures import factor, interval, percent
from edge_mtp.harness.latency import SpeedUp
from edge_mtp.harness.pairwise import Comparison
from edge_mtp.harness.statistics import Estimate

Tone = Literal["good", "bad", "same", "unsettled"]
SIGNS: dict[Tone, str] = {"good": "▲", "bad": "▼", "same": "=", "unsettled": "?"}
_CALL_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "same": "same"}


@dataclass(frozen=True)
class Headline:
    """An arm against another. `speed` is of decoding, or of whole answers where the engine tells no more; `calls` is
    how their tool calls compare. None where that was not measured."""

    arm: str
    base: str
    is_sibling: bool  # whether the two differ in MTP alone
    speed: SpeedUp | None
    calls: Comparison | None

    @property
    def speed_tone(self) -> Tone:
        """By the interval about 1; within 2 % of it on both sides is the same."""
        return "unsettled" if self.speed is None else ratio_tone(self.speed.ratio)

    @property
    def calls_tone(self) -> Tone:
        return "unsettled" if self.calls is None else calls_tone(self.calls)

    @property
    def speed_sentence(self) -> str:
        """Empty where speed was not measured."""
        if self.speed is None:
            return ""
        ratio, what = self.speed.ratio, "decodes" if self.speed.measure == "decode" else "answers"
        return (
            f"{self.arm} {what} {factor(ratio.value)} as fast as {self.base} ({interval(ratio, 2)}); "
            f"{percent(self.speed.slower.value)} of {len(self.speed.items)} prompts are slower."
        )

    @property
    def calls_sentence(self) -> str:
        """Empty where tool calls were not compared."""
        return "" if self.calls is None else f"Tool calls: {self.calls.verdict}. {self.calls.explanation}"

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "base": self.base,
            "speedup": None if self.speed is None else self.speed.ratio.to_json(),
            "speed": None if self.speed is None else self.speed.verdict,
            "calls": None if self.calls is None else self.calls.verdict,
        }


def ratio_tone(ratio: Estimate) -> Tone:
    """Of a speed-up, by where its interval lies."""
    if ratio.low > 1:
        return "good"
    if ratio.high < 1:
        return "bad"
    return "same" if ratio.low > 0.98 and ratio.high < 1.02 else "unsettled"


def calls_tone(comparison: Comparison) -> Tone:
    return _CALL_TONES.get(comparison.verdict, "unsettled")


def headlines(analysis: Analysis) -> list[Headline]:
    """Pairs of an arm that drafts and its plain sibling first, then arms against the run's baseline."""
    speeds = main_speed_ups(analysis.speed_ups)
    compared = {(each.arm, each.base): each for each in analysis.comparisons}
    arms = {arm.label: arm for arm in analysis.run.arms}
    found = []
    for arm, base in dict.fromkeys([*speeds, *compared]):
        sibling = baseline_of(arms[arm], analysis.run.arms)
        is_sibling = sibling is not None and sibling.label == base
        found.append(Headline(arm, base, is_sibling, speeds.get((arm, base)), compared.get((arm, base))))
    return sorted(found, key=lambda each: not each.is_sibling)


def main_speed_ups(speed_ups: Sequence[SpeedUp]) -> dict[tuple[str, str], SpeedUp]:
    """By arm and base, over all kinds: of decoding, or of whole answers where there is no other."""
    found = {(each.arm, each.base): each for each in speed_ups if each.kind is None and each.measure == "total"}
    decode = {(each.arm, each.base): each for each in speed_ups if each.kind is None and each.measure == "decode"}
    return {**found, **decode}
