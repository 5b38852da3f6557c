"""The metrics that rules and tables know, and where an analysis holds them. Table for users: docs/results.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from edge_mtp.harness.analyse.analysis import Analysis
from edge_mtp.harness.analyse.calls import ArmCalls
from edge_mtp.harness.analyse.latency import Latency
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.analyse.speed_up import MEASURES, SpeedUp
from edge_mtp.harness.analyse.times import Timed, times
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import baseline_of
from edge_mtp.harness.record.results import Results, Run
from edge_mtp.harness.score.score import LABELS, LATER_TURN, Score
from edge_mtp.harness.stats.changes import Figure, Parts, complement
from edge_mtp.harness.stats.quantiles import quantile as quantile_of
from edge_mtp.harness.stats.statistics import Estimate, share, wilson


class Quantity(NamedTuple):
    """What a metric is a number of: its units, each in base units ("": may be left out), and the base unit's name."""

    name: str
    units: Mapping[str, float]
    base: str


SHARE = Quantity("share", {"": 1.0, "%": 0.01}, "")
FACTOR = Quantity("factor", {"": 1.0, "x": 1.0}, "")
COUNT = Quantity("count", {"": 1.0}, "")
TIME = Quantity("time", {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}, "ms")
RATE = Quantity("rate", {"": 1.0, "tok/s": 1.0}, "tok/s")
BYTES = Quantity("bytes", {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}, "B")
ENERGY = Quantity("energy", {"": 1.0, "mJ": 1.0, "J": 1e3}, "mJ")

LEVELS = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

# Whose figure it is: an arm's own, an arm's against its plain sibling, or that of B's arm against A's.
Scope = Literal["arm", "sibling", "pair"]


class Place(NamedTuple):
    """Where to look for a figure: an arm, the arm that it is compared with (`sibling` and `pair`), and a kind of items.

    `results` are the results that were analysed, None where only a summary is there. They then hold items of the kind
    alone, and `kind` is None.
    """

    analysis: Analysis
    results: Results | None
    arm: str
    base: str | None = None
    kind: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class Metric:
    """A metric, and how to find its figure (`look`; None where it was not measured).

    `paired` names the speed-up whose ratio is the relative change of this metric, or its reciprocal where higher is
    worse, when both sides answered the same items. `parts`: the sums, by item, whose ratio the figure is; two such
    figures can be correlated. `quantile`: the times that the figure is a quantile of, and its level.
    """

    name: str
    quantity: Quantity
    better: Literal["higher", "lower"]
    help: str
    look: Callable[[Place], Figure | None]
    scope: Scope = "arm"
    has_position: bool = False
    paired: str | None = None
    parts: Callable[[Place], Parts] | None = None
    quantile: tuple[Timed, float] | None = None

    @property
    def is_speed(self) -> bool:
        """Whether it is one of speed, which an eval does not measure fairly."""
        return self.quantity in (TIME, RATE, FACTOR, ENERGY) or self.name == "slower"

    @property
    def is_change(self) -> bool:
        """Whether it speaks of A and B both, so that it has no change of its own."""
        return self.scope == "pair"


def sibling_of(run: Run, arm: str) -> str | None:
    """The label of the arm that differs from `arm` in decoding plainly alone."""
    base = baseline_of(run.arm(arm), run.arms)
    return None if base is None else base.label


def latency_of(at: Place) -> Latency | None:
    return next((each for each in at.analysis.latencies if (each.arm, each.kind) == (at.arm, at.kind)), None)


def speed_up_of(at: Place, measure: str) -> SpeedUp | None:
    wanted = (at.arm, at.base, at.kind, measure)
    of = at.analysis.speed_ups
    return next((each for each in of if (each.arm, each.base, each.kind, each.measure) == wanted), None)


def calls_of(at: Place) -> ArmCalls | None:
    return next((each for each in at.analysis.calls if each.arm == at.arm), None)


def comparison_of(at: Place) -> Comparison | None:
    """None too where a kind is asked for: an analysis compares over all kinds."""
    of = at.analysis.comparisons if at.kind is None else []
    return next((each for each in of if (each.arm, each.base) == (at.arm, at.base)), None)


def same_texts(results: Results, arm: str, base: str) -> Estimate | None:
    """The share of items, by cluster, to which two arms say and think the same in every turn and round that both
    answered."""
    told = {(each.item, each.turn, each.round): each.whole for each in results.of(base) if each.is_complete}
    same: dict[str, bool] = {}
    for each in results.of(arm):
        text = told.get((each.item, each.turn, each.round))
        if each.is_complete and text is not None:
            same[each.item] = same.get(each.item, True) and each.whole == text
    clusters: dict[str, list[bool]] = {}
    for item, is_same in same.items():
        clusters.setdefault(results.items[item].cluster, []).append(is_same)
    counts = list(clusters.values())
    return share([sum(each) for each in counts], [len(each) for each in counts]) if counts else None


def _field(name: str) -> Callable[[Place], Figure | None]:
    def look(at: Place) -> Figure | None:
        latency = latency_of(at)
        figure = None if latency is None else getattr(latency, name)
        return float(figure) if isinstance(figure, int) else figure

    return look


def _quantile(name: Timed, quantile: str) -> Callable[[Place], Figure | None]:
    """With an interval where there is more than a summary."""

    def look(at: Place) -> Figure | None:
        if at.results is not None:
            values, items = times(at.results, at.arm, name)
            return quantile_of(values, items, LEVELS[quantile]) if items else None
        latency = latency_of(at)
        known = None if latency is None else getattr(latency, name)
        return None if known is None else float(getattr(known, quantile))

    return look


def _parts(of: Callable[[Place], Iterable[tuple[str, float, float]]]) -> Callable[[Place], Parts]:
    """Sums by item of what `of` names for each answer, step or score."""

    def parts(at: Place) -> Parts:
        sums: dict[str, tuple[float, float]] = {}
        for item, top, bottom in of(at):
            before = sums.get(item, (0.0, 0.0))
            sums[item] = (before[0] + top, before[1] + bottom)
        return sums

    return parts


def _answers(at: Place) -> list[Answer]:
    return [] if at.results is None else at.results.of(at.arm)


def _scored(is_so: Callable[[Score], bool]) -> Callable[[Place], Parts]:
    """Of the items with a score, whether it `is_so`; an analysis has scores of all kinds."""

    def parts(at: Place) -> Parts:
        scores = at.analysis.scores.get(at.arm, {})
        return {} if at.kind is not None else {item: (float(is_so(score)), 1.0) for item, score in scores.items()}

    return parts


@_parts
def _decode_parts(at: Place) -> Iterable[tuple[str, float, float]]:
    known = ((answer.item, MEASURES["decode"](answer)) for answer in _answers(at) if answer.is_complete)
    return [(item, figure[1], figure[0]) for item, figure in known if figure is not None]


@_parts
def _prefill_parts(at: Place) -> Iterable[tuple[str, float, float]]:
    return [(x.item, x.prompt_tokens - x.reused_tokens, x.prefill_us) for x in _answers(at) if x.is_complete]


@_parts
def _verify_parts(at: Place) -> Iterable[tuple[str, float, float]]:
    steps = ((answer.item, step) for answer in _answers(at) if answer.is_complete for step in answer.steps)
    return [(item, step.tokens, 1.0) for item, step in steps if step.kind == "v"]


@_parts
def _failed_parts(at: Place) -> Iterable[tuple[str, float, float]]:
    return [(answer.item, float(not answer.is_complete), 1.0) for answer in _answers(at)]


def _acceptance(at: Place) -> Estimate | None:
    latency = latency_of(at)
    positions = [] if latency is None else latency.acceptance
    return next((each.share for each in positions if each.position == at.position), None)


def _speed_up(measure: str) -> Callable[[Place], Estimate | None]:
    def look(at: Place) -> Estimate | None:
        found = speed_up_of(at, measure)
        return None if found is None else found.ratio

    return look


def _slower(at: Place) -> Estimate | None:
    found = speed_up_of(at, "decode")
    return None if found is None else found.slower


def _same_text(at: Place) -> Estimate | None:
    if at.results is not None and at.base is not None:
        return same_texts(at.results, at.arm, at.base)
    found = comparison_of(at)
    if found is None or not found.items:
        return None
    return wilson(found.items - len({parting.item for parting in found.partings}), found.items)


def _changed_text(at: Place) -> Estimate | None:
    same = _same_text(at)
    return None if same is None else complement(same)


def _exact(at: Place) -> Estimate | None:
    calls = calls_of(at)
    if calls is None or at.kind is None:
        return None if calls is None else calls.exact
    return calls.kinds[at.kind][2] if at.kind in calls.kinds else None


def _error(at: Place) -> Estimate | None:
    exact = _exact(at)
    return None if exact is None else complement(exact)


def _lenient(at: Place) -> Estimate | None:
    calls = calls_of(at)
    return None if calls is None or at.kind is not None else calls.lenient_share


def _is_first(label: str, score: Score) -> bool:
    return score.primary == label


def _label(label: str) -> Callable[[Place], Estimate | None]:
    def look(at: Place) -> Estimate | None:
        calls = calls_of(at)
        if calls is None or at.kind is not None or not calls.items:
            return None
        # Labels that nothing bears are not listed: of clusters that all agree each counts as one trial.
        items = {} if at.results is None else at.results.items
        clusters = {items[item].cluster for item in at.analysis.scores.get(at.arm, {}) if item in items}
        none = share([0] * len(clusters), [1] * len(clusters)) if clusters else wilson(0, calls.items)
        return next((each.share for each in calls.errors if each.label == label), none)

    return look


def _times(name: Timed, what: str, paired: str | None) -> list[Metric]:
    quantiles = (("", "p50", "median"), (".p50", "p50", "median"), (".p95", "p95", "95%"), (".p99", "p99", "99%"))
    return [
        Metric(
            name + suffix, TIME, "lower", f"{what}: {spoken}", _quantile(name, quantile),
            paired=paired if quantile == "p50" else None, quantile=(name, LEVELS[quantile]),
        )
        for suffix, quantile, spoken in quantiles
    ]  # fmt: skip


_MEASURES = {
    "": ("decode", "time per token after the first"),
    ".first_token": ("first_token", "time to the first token"),
    ".first_answer": ("first_answer", "time to the first token behind the same thoughts"),
    ".call": ("call", "time to the complete tool call"),
    ".total": ("total", "time to the last token"),
}

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("decode", RATE, "higher", "tokens per second after the first", _field("decode_tokens_per_s"),
               paired="decode", parts=_decode_parts),
        Metric("prefill", RATE, "higher", "prompt tokens per second", _field("prefill_tokens_per_s"),
               parts=_prefill_parts),
        *_times("first_token", "time to the first token", "first_token"),
        *_times("first_answer", "time to the first token behind the thoughts", "first_answer"),
        *_times("call", "time to the complete tool call", "call"),
        *_times("token", "time per token", None),
        *(
            Metric(f"speedup{suffix}", FACTOR, "higher", f"how many times as fast as plain decoding: {what}",
                   _speed_up(measure), "sibling")
            for suffix, (measure, what) in _MEASURES.items()
        ),
        Metric("slower", SHARE, "lower", "share of items slower than with plain decoding", _slower, "sibling"),
        *(
            Metric(f"speed{suffix}", FACTOR, "higher", f"how many times as fast B is as A: {what}",
                   _speed_up(measure), "pair")
            for suffix, (measure, what) in _MEASURES.items()
        ),
        Metric("acceptance", SHARE, "higher", "drafts accepted at a position, of those that reached it", _acceptance,
               has_position=True),
        Metric("tokens_per_verify", COUNT, "higher", "tokens given out per verify", _field("tokens_per_verify"),
               parts=_verify_parts),
        Metric("memory.rss", BYTES, "lower", "the runner's largest resident memory", _field("peak_rss_bytes")),
        Metric("memory.anonymous", BYTES, "lower", "of it, what no file backs", _field("peak_anonymous_bytes")),
        Metric("energy", ENERGY, "lower", "energy per token, from the battery", _field("energy_mj_per_token")),
        Metric("failed", SHARE, "lower", "answers that ended in a crash, a timeout or a refusal",
               _field("failed_share"), parts=_failed_parts),
        Metric("toolcall.exact", SHARE, "higher", "items whose calls are right, strictly parsed", _exact,
               parts=_scored(lambda score: score.is_right)),
        Metric("toolcall.lenient", SHARE, "higher", "items whose calls are right to a forgiving parser", _lenient,
               parts=_scored(lambda score: score.lenient)),
        Metric("toolcall.error", SHARE, "lower", "items whose calls are not right, strictly parsed", _error,
               parts=_scored(lambda score: not score.is_right)),
        *(
            Metric(f"toolcall.error.{label}", SHARE, "lower", f"items where {label} is the first thing wrong",
                   _label(label), parts=_scored(partial(_is_first, label)))
            for label in LABELS
            if label != LATER_TURN
        ),
        Metric("same_text", SHARE, "higher", "items with the text of plain decoding", _same_text, "sibling"),
        Metric("changed_text", SHARE, "lower", "items whose text in B is not that in A", _changed_text, "pair"),
    )
}  # fmt: skip


def metric_names() -> str:
    """All names in a line, the labels of errors and quantiles summed up."""
    names = [
        f"{name}[N]" if metric.has_position else name
        for name, metric in METRICS.items()
        if not name.startswith("toolcall.error.") and not name.endswith((".p50", ".p95", ".p99"))
    ]
    at = names.index("toolcall.error") + 1
    return (
        ", ".join([*names[:at], "toolcall.error.LABEL", *names[at:]])
        + " (first_token, first_answer, call, token also .p95, .p99)"
    )
