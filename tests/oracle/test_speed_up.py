"""How many times as fast arms are: against a walk over the pairs and scipy, and on runs with planted defects."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
import scipy.stats
from hand_results import answer, by_hand, flat, shuffled
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_results import ARMS, synthetic_results

from edge_mtp.harness.analyse.speed_up import SpeedUp, speed_ups
from edge_mtp.harness.record.results import Results
from edge_mtp.harness.stats import ratios

PLAIN, AUTO, FIXED, SMALL_PLAIN, SMALL_AUTO, SMALL_FIXED = (arm.label for arm in ARMS)
PHONE = [dataclasses.replace(arm, device="pixel") for arm in ARMS[:3]]


def speed_up(results: Results, arm: str, base: str, measure: str = "decode", kind: str | None = None) -> SpeedUp:
    rows = {(row.arm, row.base, row.measure, row.kind): row for row in speed_ups(results)}
    return rows[arm, base, measure, kind]


def test_arms_are_held_against_their_plain_sibling_and_the_baseline() -> None:
    pairs = list(dict.fromkeys((row.arm, row.base) for row in speed_ups(synthetic_results(items=7))))
    assert pairs == [
        (AUTO, PLAIN),
        (FIXED, PLAIN),
        (SMALL_PLAIN, PLAIN),
        (SMALL_AUTO, SMALL_PLAIN),
        (SMALL_AUTO, PLAIN),
        (SMALL_FIXED, SMALL_PLAIN),
        (SMALL_FIXED, PLAIN),
    ]


def test_measures_are_over_all_kinds_and_decode_by_kind_too() -> None:
    rows = [row for row in speed_ups(synthetic_results(items=7)) if (row.arm, row.base) == (AUTO, PLAIN)]
    kinds = [None, "chat", "tool_call", "summarise", "code", "copy", "multi_turn", "long_prompt"]
    rest = [("first_token", None), ("call", None), ("total", None)]
    assert [(row.measure, row.kind) for row in rows] == [("decode", kind) for kind in kinds] + rest


@pytest.mark.parametrize("measure", ["decode", "first_token", "call", "total"])
@pytest.mark.parametrize("seed", range(2))
def test_speed_ups_are_what_a_walk_over_the_pairs_finds(measure: str, seed: int) -> None:
    """Turns summed, medians over rounds and over items; scipy's Wilson interval for the items that are slower."""
    results = synthetic_results(seed, items=28, crashes=12)
    logarithms: dict[str, list[float]] = {}
    for item in results.items:
        for number in range(3):
            sums = {}
            for arm in (PLAIN, AUTO):
                answers = [a for a in results.of(arm) if (a.item, a.round) == (item, number)]
                if any(a.error is not None for a in answers):
                    break
                times, over = 0.0, 0
                for each in answers:
                    if measure == "decode":
                        times, over = times + each.total_us - each.first_token_us, over + len(each.tokens) - 1
                    elif (time := getattr(each, measure + "_us")) is not None:
                        times, over = times + time, 1
                if over:
                    sums[arm] = times / over
            if len(sums) == 2:
                logarithms.setdefault(item, []).append(math.log(sums[PLAIN] / sums[AUTO]))
    medians = {item: statistics.median(values) for item, values in logarithms.items()}

    found = speed_up(results, AUTO, PLAIN, measure)
    assert {each.item: each.ratio for each in found.items} == pytest.approx(
        {item: math.exp(value) for item, value in medians.items()}
    )
    assert found.ratio.value == pytest.approx(math.exp(statistics.median(medians.values())))
    slower = scipy.stats.binomtest(sum(value < 0 for value in medians.values()), len(medians))
    interval = slower.proportion_ci(method="wilson")
    assert (found.slower.low, found.slower.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.slower.value == pytest.approx(slower.statistic)


def test_turns_are_summed_and_the_one_that_an_arm_lacks_left_out() -> None:
    results = by_hand(
        [
            answer("slow", turn=0, total_us=500.0, count=5),
            answer("slow", turn=1, total_us=1300.0, count=9),
            answer("slow", turn=2, total_us=9999.0),
            answer("fast", turn=0, total_us=300.0, count=5),
            answer("fast", turn=1, total_us=500.0, count=9),
            answer("fast", turn=2, finish="timeout", error="no answer within 60 s", total_us=60e6),
        ],
        turns=3,
    )
    assert speed_up(results, "fast", "slow").ratio.value == pytest.approx((400 + 1200) / (200 + 400))
    assert speed_up(results, "fast", "slow", "total").ratio.value == pytest.approx(1800 / 800)


def test_longer_replies_are_compared_by_token_alone() -> None:
    """Of ten items two are answered at greater length by the arm: their total says nothing of speed. One of those makes
    the same call, and one that is as long makes another."""
    answers = []
    for number in range(10):
        count, text = (
            9 if number < 2 else 5,
            "call:f{x:2}<tool_call|>" if number in (1, 2) else "call:f{x:1}<tool_call|>",
        )
        answers += [
            answer("slow", item=str(number), call_us=400.0, text="call:f{x:1}<tool_call|>"),
            answer(
                "fast", item=str(number), total_us=100.0 + 50.0 * (count - 1), count=count, call_us=200.0, text=text
            ),
        ]
    results = by_hand(answers)
    assert speed_up(results, "fast", "slow").ratio.value == pytest.approx(2.0)
    assert speed_up(results, "fast", "slow").verdict == "faster"
    for measure, left_out, why in (
        ("total", {0, 1}, "whose replies are as long"),
        ("call", {1, 2}, "whose first calls are the same"),
    ):
        found = speed_up(results, "fast", "slow", measure)
        assert [each.item for each in found.items] == [str(n) for n in range(10) if n not in left_out]
        assert found.verdict == f"faster (the 8 of 10 items {why})"


def test_replies_of_unknown_length_are_compared_where_they_are_the_same() -> None:
    """An engine may tell no tokens."""
    told = {"count": 0, "text": "yes"}
    results = by_hand([answer("slow", **told), answer("fast", **told), answer("slow", "b"), answer("fast", "b")])
    assert len(speed_up(results, "fast", "slow", "total").items) == 2
    assert [each.item for each in speed_up(results, "fast", "slow").items] == ["b"]
    results.answers[1] = answer("fast", **{**told, "text": "no"})
    assert [each.item for each in speed_up(results, "fast", "slow", "total").items] == ["b"]


swaps = settings(max_examples=15)


@swaps
@given(st.integers(0, 1000))
def test_the_order_of_records_says_nothing(seed: int) -> None:
    results = synthetic_results(seed, items=9, arms=PHONE[:2], rounds=2, crashes=3)
    for one, other in zip(speed_ups(results), speed_ups(shuffled(results, seed)), strict=True):
        assert flat(other) == pytest.approx(flat(one))


@swaps
@given(st.integers(0, 1000), st.sampled_from(["decode", "first_token", "total"]))
def test_swapped_arms_have_the_inverse_ratio(seed: int, measure: str) -> None:
    arms = [dataclasses.replace(arm, mtp="off") for arm in PHONE[:2]]
    results = synthetic_results(seed, items=9, arms=arms, crashes=2)
    swapped = dataclasses.replace(results, run=dataclasses.replace(results.run, baseline=AUTO))
    one, other = speed_up(results, AUTO, PLAIN, measure), speed_up(swapped, PLAIN, AUTO, measure)
    assert (other.ratio.value, other.ratio.low, other.ratio.high) == pytest.approx(
        (1 / one.ratio.value, 1 / one.ratio.high, 1 / one.ratio.low)
    )
    assert other.slower.value == pytest.approx(1 - one.slower.value)


@swaps
@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_a_slower_machine_changes_no_ratio(seed: int, factor: float) -> None:
    results = synthetic_results(seed, items=9, arms=ARMS[:3], rounds=2)
    scaled = dataclasses.replace(
        results,
        answers=[
            dataclasses.replace(
                a,
                first_token_us=factor * a.first_token_us,
                total_us=factor * a.total_us,
                call_us=a.call_us and factor * a.call_us,
            )
            for a in results.answers
        ],
    )
    for one, other in zip(speed_ups(results), speed_ups(scaled), strict=True):
        assert flat(other) == pytest.approx(flat(one))


def test_the_time_to_the_answer_is_compared_where_thoughts_are_the_same() -> None:
    results = synthetic_results(3, arms=ARMS[:2], items=14, rounds=1, crashes=0)
    answers = [
        dataclasses.replace(a, reasoning=f"on {a.item}", first_answer_us=(3 if a.arm == PLAIN else 2) * 1e5)
        for a in results.answers
    ]
    results = dataclasses.replace(results, answers=answers)
    found = speed_up(results, AUTO, PLAIN, "first_answer")
    assert [each.ratio for each in found.items] == pytest.approx([1.5] * 14)
    first = next(iter(results.items))
    other = [dataclasses.replace(a, reasoning="else") if (a.arm, a.item) == (AUTO, first) else a for a in answers]
    verdict = speed_up(dataclasses.replace(results, answers=other), AUTO, PLAIN, "first_answer").verdict
    assert "(the 13 of 14 items with the same thoughts)" in verdict


def test_too_few_items_say_so() -> None:
    results = synthetic_results(0, arms=ARMS[:2], items=ratios.LEAST_ITEMS - 1)
    found = speed_up(results, AUTO, PLAIN)
    assert found.verdict == "not enough data: 5 of about 6 items"
    assert (found.ratio.low, found.ratio.high) == (0.0, math.inf)


# -- planted defects ------------------------------------------------------------------------------------------------


def test_an_arm_3_percent_slower_is_found() -> None:
    """Equal but for that; 84 items of all kinds, three rounds, answers that vary by 5 %."""
    arms = [ARMS[0], dataclasses.replace(ARMS[0], label="candidate")]
    results = synthetic_results(4, arms=arms, items=84, slow={"candidate": 1.03})
    found = speed_up(results, "candidate", PLAIN)
    assert found.verdict == "slower"
    assert found.ratio.low <= 1 / 1.03 <= found.ratio.high


def test_equal_arms_are_called_equal() -> None:
    """40 runs of 24 items: were the truth 5 % false alarms, more than 5 would come up once in seventy."""
    arms = [ARMS[0], dataclasses.replace(ARMS[0], label="candidate")]
    verdicts = [speed_up(synthetic_results(s, arms=arms, items=24), "candidate", PLAIN).verdict for s in range(40)]
    assert sum(words in ("faster", "slower") for words in verdicts) <= 5
    assert {words.split(" within")[0].split(":")[0] for words in verdicts} <= {
        "faster", "slower", "no difference", "not enough data"
    }  # fmt: skip


def test_a_corrupted_drafter_is_slower_with_the_same_text() -> None:
    """Nearly no draft is right: a fixed K is slower than plain decoding, for every kind; the controller is not."""
    results = synthetic_results(5, arms=ARMS[:3], items=56, acceptance={FIXED: 0.02, AUTO: 0.02}, crashes=0)
    texts = [[a.text for a in results.of(arm)] for arm in (PLAIN, AUTO, FIXED)]
    assert sorted(texts[0]) == sorted(texts[1]) == sorted(texts[2])
    for measure in ("decode", "call", "total"):
        assert speed_up(results, FIXED, PLAIN, measure).verdict == "slower"
    assert {speed_up(results, FIXED, PLAIN, kind=kind).verdict for kind in ("chat", "tool_call", "code")} == {"slower"}
    assert speed_up(results, FIXED, PLAIN).slower.low > 0.9
    assert speed_up(results, AUTO, PLAIN).ratio.low > 0.9
