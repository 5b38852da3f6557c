"""What a run says first: one finding for each pair of arms, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edge_mtp.harness.analyse.analysis import Analysis
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.analyse.speed_up import SpeedUp
from edge_mtp.harness.ask.arm import baseline_of
from edge_mtp.harness.stats.figures import factor, interval, percent

Tone = Literal["good", "bad", "same", "unsettled"]
SIGNS: dict[Tone, str] = {"good": "▲", "bad": "▼", "same": "=", "unsettled": "?"}
_CALL_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "same": "same"}


@dataclass(frozen=True)
class Headline:
    """An arm against another. `speed` is of decoding, or of whole answers where the engine tells no more; `calls` is
    how their tool calls compare. None where that was not measured, as speed is not by an eval."""

    arm: str
    base: str
    is_sibling: bool  # whether the two differ in MTP alone
    speed: SpeedUp | None
    calls: Comparison | None

    @property
    def speed_tone(self) -> Tone:
        return "unsettled" if self.speed is None else speed_tone(self.speed)

    @property
    def calls_tone(self) -> Tone:
        return "unsettled" if self.calls is None else calls_tone(self.calls)

    @property
    def words(self) -> list[str]:
        """A sentence of speed and of tool calls each, where measured."""
        found = []
        if self.speed is not None:
            ratio, verb = self.speed.ratio, "decodes" if self.speed.measure == "decode" else "answers"
            slower = f"{percent(self.speed.slower.value)} of {len(self.speed.items)} prompts are slower"
            found.append(
                f"{self.arm} {verb} {factor(ratio.value)} as fast as {self.base} ({interval(ratio, 2)}): "
                f"{self.speed.verdict}. {slower}."
            )
        if self.calls is not None:
            found.append(
                f"Tool calls of {self.arm} against {self.base}: {self.calls.verdict}. {self.calls.explanation}"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "base": self.base,
            "speedup": None if self.speed is None else self.speed.ratio.to_json(),
            "speed": None if self.speed is None else self.speed.verdict,
            "calls": None if self.calls is None else self.calls.verdict,
            "words": self.words,
        }


def speed_tone(speed_up: SpeedUp) -> Tone:
    if speed_up.verdict.startswith("no difference"):
        return "same"
    return "good" if speed_up.ratio.low > 1 else "bad" if speed_up.ratio.high < 1 else "unsettled"


def calls_tone(comparison: Comparison) -> Tone:
    return _CALL_TONES.get(comparison.verdict, "unsettled")


def is_identical(comparison: Comparison) -> bool:
    """Whether the two arms said the same everywhere, so that no interval about their difference is needed."""
    return not (comparison.partings or comparison.lost or comparison.gained)


def headlines(analysis: Analysis) -> list[Headline]:
    """Pairs of an arm that drafts and its plain sibling first, then arms against the run's baseline."""
    speeds = main_speed_ups(analysis)
    compared = {(each.arm, each.base): each for each in analysis.comparisons}
    arms = {arm.label: arm for arm in analysis.run.arms}
    found = []
    for arm, base in dict.fromkeys([*speeds, *compared]):
        sibling = baseline_of(arms[arm], analysis.run.arms)
        is_sibling = sibling is not None and sibling.label == base
        found.append(Headline(arm, base, is_sibling, speeds.get((arm, base)), compared.get((arm, base))))
    return sorted(found, key=lambda each: not each.is_sibling)


def main_speed_ups(analysis: Analysis) -> dict[tuple[str, str], SpeedUp]:
    """By arm and base, over all kinds: of decoding, or of whole answers where there is no other. None of an eval."""
    speed_ups = analysis.speed_ups if analysis.run.measures_speed else []
    found = {(each.arm, each.base): each for each in speed_ups if each.kind is None and each.measure == "total"}
    decode = {(each.arm, each.base): each for each in speed_ups if each.kind is None and each.measure == "decode"}
    return {**found, **decode}
