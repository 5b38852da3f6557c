"""How fast arms answered and what their drafts did: against brute force and scipy, and on runs with planted defects."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hand_results import answer, by_hand, flat, shuffled
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_results import ARMS, synthetic_results

from edge_mtp.device import Step
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.analyse import energy
from edge_mtp.harness.analyse.analysis import analyse
from edge_mtp.harness.analyse.latency import Latency, latencies
from edge_mtp.harness.analyse.speed_up import speed_ups
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.record.results import Results, Sample
from edge_mtp.harness.score.drafter_fit import first_drafts, misfit
from edge_mtp.summary import acceptance_counts

PLAIN, AUTO, FIXED, SMALL_PLAIN, SMALL_AUTO, SMALL_FIXED = (arm.label for arm in ARMS)
PHONE = [dataclasses.replace(arm, device="pixel") for arm in ARMS[:3]]


def latency(results: Results, arm: str, kind: str | None = None) -> Latency:
    return next(row for row in latencies(results) if (row.arm, row.kind) == (arm, kind))


def complete(results: Results, arm: str, kind: str | None = None) -> list[Answer]:
    return [
        answer for answer in results.of(arm) if answer.error is None and kind in (None, results.items[answer.item].kind)
    ]


# -- one arm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", [None, "tool_call", "multi_turn"])
@pytest.mark.parametrize("arm", [PLAIN, AUTO, SMALL_FIXED])
def test_latencies_are_what_a_walk_over_the_answers_finds(seed: int, kind: str | None, arm: str) -> None:
    results = synthetic_results(seed, items=14, crashes=5)
    answers = complete(results, arm, kind)
    found = latency(results, arm, kind)

    asked = [a for a in results.of(arm) if kind in (None, results.items[a.item].kind)]
    assert (found.answers, found.failed) == (len(answers), len(asked) - len(answers))
    assert found.tokens == sum(len(a.tokens) for a in answers)

    tokens, calls = [], [a.call_us / 1e3 for a in answers if a.call_us is not None]
    for each in answers:
        for step in each.steps:
            tokens += step.tokens * [step.total_us / step.tokens / 1e3]
    for distribution, times in (
        (found.token, tokens),
        (found.first_token, [a.first_token_us / 1e3 for a in answers]),
        (found.call, calls),
    ):
        assert (distribution is None) == (not times)
        if distribution is not None:
            assert distribution.count == len(times)
            assert [distribution.p50, distribution.p95, distribution.p99] == pytest.approx(
                [statistics.median(times), np.percentile(times, 95), np.percentile(times, 99)]
            )

    assert found.prefill_tokens_per_s is not None
    assert found.prefill_tokens_per_s.value == pytest.approx(
        sum(a.prompt_tokens - a.reused_tokens for a in answers) / sum(a.prefill_us for a in answers) * 1e6
    )
    assert found.decode_tokens_per_s is not None
    assert found.decode_tokens_per_s.value == pytest.approx(
        sum(len(a.tokens) - 1 for a in answers) / sum(a.total_us - a.first_token_us for a in answers) * 1e6
    )
    steps = [step for a in answers for step in a.steps]
    counted = Counter(step.planned for step in steps)
    assert found.planned == pytest.approx({k: n / len(steps) for k, n in counted.items()})
    assert found.peak_rss_bytes == max(a.rss_bytes for a in answers if a.rss_bytes)
    assert found.peak_anonymous_bytes == max(a.anonymous_bytes for a in answers if a.anonymous_bytes)


def test_rates_have_scipys_intervals_over_items() -> None:
    """The answers of an item are one draw: rounds of it tell nothing new of other prompts."""
    results = synthetic_results(3, items=40)
    found = latency(results, FIXED).decode_tokens_per_s
    assert found is not None
    sums: dict[str, list[float]] = {}
    for each in complete(results, FIXED):
        before = sums.setdefault(each.item, [0.0, 0.0])
        before[0] += len(each.tokens) - 1
        before[1] += (each.total_us - each.first_token_us) / 1e6
    theirs = scipy.stats.bootstrap(
        tuple(np.transpose(list(sums.values()))), lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True, n_resamples=9999, rng=0,
    ).confidence_interval  # fmt: skip
    half = (theirs.high - theirs.low) / 2
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * half)


def as_step(step: StepFigures) -> Step:
    return Step(
        request="r", step=0, kind="verify" if step.kind == "v" else "plain", position=0, tokens=[7] * step.tokens,
        draft=[7] * len(step.source), confidence=[], source=step.source, accepted=step.accepted, planned=step.planned,
        explore=False, draft_us=0.0, mask_us=0.0, embed_us=0.0, verify_us=0.0, select_us=0.0, total_us=step.total_us,
    )  # fmt: skip


@pytest.mark.parametrize("arm", [AUTO, FIXED])
def test_acceptance_is_that_of_the_traces(arm: str) -> None:
    """The summary of traces counts the same drafts of other records; a sum over items is a sum over answers."""
    results = synthetic_results(1, items=21)
    steps = [as_step(step) for each in complete(results, arm) for step in each.steps if step.kind == "v"]
    found = latency(results, arm)
    assert [(p.reached, p.accepted) for p in found.acceptance] == list(zip(*acceptance_counts(steps), strict=True))
    assert [p.position for p in found.acceptance] == [1, 2, 3]
    assert found.tokens_per_verify is not None
    assert found.tokens_per_verify.value == pytest.approx(sum(len(step.tokens) for step in steps) / len(steps))
    for position in found.acceptance:
        share = position.share
        assert share.value == pytest.approx(position.accepted / position.reached)
        # Clusters widen what independent drafts would have.
        alone = scipy.stats.binomtest(position.accepted, position.reached).proportion_ci(method="wilson")
        assert share.high - share.low > 0.9 * (alone.high - alone.low)


letters = st.text("dlg", min_size=1, max_size=5)


@given(st.lists(letters.flatmap(lambda s: st.tuples(st.just(s), st.integers(0, len(s)), st.integers(1, 6)))))
def test_drafts_beyond_the_end_of_a_text_are_neither_right_nor_wrong(shapes: list[tuple[str, int, int]]) -> None:
    """Against a walk over single drafts. A step gives out its accepted drafts and one more, or fewer at the end."""
    steps = [
        StepFigures("v", min(given_out, accepted + 1), source, accepted, len(source), 0.0, 0.0, 1.0, 1.0)
        for source, accepted, given_out in shapes
    ]
    expected: dict[str, list[int]] = {}
    for step in steps:
        is_cut = step.tokens <= step.accepted
        for index, letter in enumerate(step.source):
            if is_cut and index >= step.tokens:
                continue
            counts = expected.setdefault({"d": "drafter", "l": "lookup", "g": "grammar"}[letter], [0, 0])
            counts[0] += 1
            counts[1] += index < step.accepted
    found = latency(by_hand([answer("fast", steps=steps)]), "fast")
    assert {name: list(counts) for name, counts in found.sources.items()} == expected
    assert sum(p.accepted for p in found.acceptance) == sum(counts[1] for counts in expected.values())


def test_a_cut_run_goes_on_with_the_whole_item() -> None:
    """Its turns before the cut were answered twice; the last answers count."""
    cut, again = answer("slow", total_us=900.0, count=9), answer("slow", total_us=500.0, count=5)
    results = by_hand([cut, again, answer("fast", total_us=300.0)])
    assert (latency(results, "slow").answers, latency(results, "slow").tokens) == (1, 5)
    assert next(row.ratio.value for row in speed_ups(results) if row.measure == "decode") == pytest.approx(400 / 200)


def test_an_engine_that_tells_no_steps_leaves_them_out() -> None:
    found = latency(by_hand([answer("slow", item=str(i)) for i in range(8)]), "slow")
    assert (found.token, found.tokens_per_verify, found.prefill_tokens_per_s, found.call) == (None, None, None, None)
    assert (found.acceptance, found.sources, found.planned, found.peak_rss_bytes) == ([], {}, {}, None)
    assert found.decode_tokens_per_s is not None
    assert found.decode_tokens_per_s.value == pytest.approx(4 / 400e-6)


def test_an_arm_that_only_failed_has_no_figures() -> None:
    crashed = answer("fast", finish="crash", error="the runner ended with signal 9")
    results = by_hand([answer("slow"), crashed])
    found = latency(results, "fast")
    assert (found.answers, found.failed, found.first_token, found.decode_tokens_per_s) == (0, 1, None, None)
    assert speed_ups(results) == []


def test_rows_are_in_the_order_of_arms_and_kinds() -> None:
    results = synthetic_results(items=7)
    kinds = [None, "chat", "tool_call", "summarise", "code", "copy", "multi_turn", "long_prompt"]
    assert [(row.arm, row.kind) for row in latencies(results)] == [(arm.label, kind) for arm in ARMS for kind in kinds]


# -- energy ---------------------------------------------------------------------------------------------------------


def with_battery(current_ua: Callable[[float], int | None], charging: bool | None = False) -> Results:
    """The run of a slow phone, whose battery gives so much current at each second."""
    results = synthetic_results(2, items=14, arms=PHONE, slow=dict.fromkeys((PLAIN, AUTO, FIXED), 8.0))
    results.samples = [
        dataclasses.replace(sample, sensors=battery(current_ua(sample.at_s), charging)) for sample in results.samples
    ]
    return results


def battery(current_ua: int | None, charging: bool | None = False) -> Sensors:
    return Sensors(0.0, battery_current_ua=current_ua, battery_voltage_v=4.0, battery_charging=charging)


@pytest.mark.parametrize("current_ua", [500_000, -500_000])
@pytest.mark.parametrize("arm", [PLAIN, AUTO, FIXED])
def test_energy_of_a_steady_current_is_power_times_time(current_ua: int, arm: str) -> None:
    """Half an ampere at 4 volts are 2 W, whichever sign the vendor gives it."""
    results = with_battery(lambda at_s: current_ua)
    answers = complete(results, arm)
    seconds, tokens = sum(a.total_us for a in answers) / 1e6, sum(len(a.tokens) for a in answers)
    found = latency(results, arm)
    assert found.energy_mj_per_token == pytest.approx(2000 * seconds / tokens)
    assert found.energy_note.startswith("2 W of the whole device")


def test_energy_follows_the_current_of_the_arms_own_answers() -> None:
    """A current that is three times as large while one arm answers is that arm's alone."""
    results = synthetic_results(2, items=28, arms=PHONE[:2])
    spans = [(a.at_s, a.at_s + a.total_us / 1e6) for a in results.of(PLAIN)]
    samples = []
    for tick in range(0, int(10 * results.answers[-1].at_s)):
        at_s = tick / 10
        heavy = any(begin <= at_s <= end for begin, end in spans)
        samples.append(Sample("pixel", at_s, battery(-1_500_000 if heavy else -500_000)))
    results.samples = samples
    watts = {}
    for arm in (PLAIN, AUTO):
        found, answers = latency(results, arm), complete(results, arm)
        assert found.energy_mj_per_token is not None
        watts[arm] = found.energy_mj_per_token * found.tokens / sum(a.total_us for a in answers) * 1e3
    assert watts == pytest.approx({PLAIN: 6.0, AUTO: 2.0})


def test_energy_is_the_integral_of_a_rising_current() -> None:
    """Trapezoids are exact for a line: from 1 W to 3 W in 40 s."""
    steady = answer("slow", total_us=40e6, count=80)
    samples = [Sample("host", t, battery(250_000 + 12_500 * t)) for t in range(41)]
    random.Random(0).shuffle(samples)
    found = energy.energy([steady], samples)
    assert found.mj_per_token == pytest.approx(2.0 * 40 / 80 * 1e3)


@pytest.mark.parametrize(
    ("results", "note"),
    [
        (lambda: synthetic_results(items=7), "the device tells no battery current"),
        (lambda: dataclasses.replace(synthetic_results(items=7, arms=PHONE), samples=[]), "no sample of a battery"),
        (lambda: with_battery(lambda at_s: None), "the device tells no battery current"),
        (lambda: with_battery(lambda at_s: 500_000, charging=True), "unplug the device"),
        (lambda: with_battery(lambda at_s: 500_000, charging=None), "did not say that it was not"),
        (lambda: with_battery(lambda at_s: 500), "its unit is not microampere"),
        (
            lambda: with_battery(lambda at_s: 500_000 if at_s < 3 else None),
            "pairs of battery samples within one answer",
        ),
    ],
)
def test_without_a_battery_that_tells_energy_is_not_guessed(results: Callable[[], Results], note: str) -> None:
    found = latency(results(), PLAIN)
    assert found.energy_mj_per_token is None
    assert note in found.energy_note


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_the_order_of_records_says_nothing(seed: int) -> None:
    results = synthetic_results(seed, items=9, arms=PHONE[:2], rounds=2, crashes=3)
    for one, other in zip(latencies(results), latencies(shuffled(results, seed)), strict=True):
        assert flat(other) == pytest.approx(flat(one))


# -- planted defects ------------------------------------------------------------------------------------------------


def test_a_corrupted_drafter_has_few_drafts_accepted_and_the_controller_asks_for_none() -> None:
    results = synthetic_results(5, arms=ARMS[:3], items=56, acceptance={FIXED: 0.02, AUTO: 0.02}, crashes=0)
    assert latency(results, FIXED).acceptance[0].share.high < 0.1
    assert latency(results, AUTO).planned[0] > 0.8


def simulated_drafter(generator: np.random.Generator, share: float, correlation: float, prompts: int) -> Any:
    """60 first drafts of each prompt; prompts differ as a beta law of that intra-prompt correlation has them."""
    scale = (1 - correlation) / correlation
    of_prompt = generator.beta(share * scale, (1 - share) * scale, prompts)
    return first_drafts(generator.binomial(60, of_prompt).tolist(), [60] * prompts)


@pytest.mark.parametrize("prompts", [8, 24])
@pytest.mark.parametrize(
    ("share", "correlation", "least", "most"),
    [(0.003, 0.05, 0.7, 1.0), (0.08, 0.1, 0.0, 0.004), (0.15, 0.2, 0.0, 0.004), (0.5, 0.3, 0.0, 0.0)],
)
def test_a_drafter_that_does_not_fit_is_named_and_no_other(
    share: float, correlation: float, least: float, most: float, prompts: int
) -> None:
    generator = np.random.default_rng(1)
    runs = 500
    named = sum(misfit(simulated_drafter(generator, share, correlation, prompts)) is not None for _ in range(runs))
    assert least <= named / runs <= most


def test_a_drafter_that_is_never_right_is_named_once_there_are_prompts_and_drafts_enough() -> None:
    def said(prompts: int, of_each: int) -> str | None:
        first = first_drafts([0] * prompts, [of_each] * prompts)
        assert first is not None
        return misfit(first)

    assert said(7, 1000) is None  # prompts of one drafter are alike
    assert said(8, 10) is None
    assert "0 of its 480 first drafts were right" in (said(8, 60) or "")
    assert first_drafts([], []) is None


def test_first_drafts_are_the_drafters_and_not_those_of_others() -> None:
    results = synthetic_results(5, arms=ARMS[:3], items=28, acceptance={FIXED: 0.0})
    steps = [(a.item, step) for a in results.of(FIXED) for step in a.steps if step.source.startswith("d")]
    found = latency(results, FIXED).first_drafts
    assert found is not None
    assert (found.drafted, found.accepted, found.prompts) == (len(steps), 0, len({item for item, _ in steps}))
    assert latency(results, PLAIN).first_drafts is None
    told = analyse(results).misfits
    assert list(told) == [FIXED]
    assert "the drafter does not fit this target" in told[FIXED]
    assert not analyse(dataclasses.replace(results, run=dataclasses.replace(results.run, simulated=0.0))).misfits
