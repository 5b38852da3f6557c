"""The draft-length controller on simulated devices, and what it must hold whatever it is told.

The bars: within 5 % of the best fixed draft length, and at least 0.98 of plain decoding from a cold start, 0.99 with
remembered costs, in the mean over texts, for replies of 64 and of 512 tokens. EXCEPTIONS names the profiles that miss
one and the bar they hold; docs/controller.md says what they trade.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_device import (
    CODE,
    DRAFTER,
    GRAMMAR,
    HOSTILE,
    INT8,
    LOOKUP,
    MIXED,
    PHONE_GPU,
    PLAIN_US,
    POWERVR,
    PROFILES,
    Controller,
    Profile,
    Proposal,
    compare,
    fixed_reply,
    library,
    remembered,
)

TEXTS = 200
TO_BEST, COLD_TO_PLAIN, REMEMBERED_TO_PLAIN = 0.95, 0.98, 0.99
# (profile, tokens, start) -> (to the best fixed draft length, to plain decoding)
EXCEPTIONS = {
    ("tiny model", 64, "cold"): (0.85, 1.0),
    ("tiny model", 512, "cold"): (0.89, 1.0),
    ("tiny model, cold caches", 64, "cold"): (0.75, 1.0),
    ("tiny model, cold caches", 512, "cold"): (0.82, 1.0),
    ("tiny model, cold caches", 64, "remembered"): (0.80, 1.0),
    ("tiny model, cold caches", 512, "remembered"): (0.86, 1.0),
    ("tiny model", 64, "remembered"): (0.93, 1.0),
    ("useless confidence, freeform", 64, "cold"): (0.92, 1.0),
    ("useless confidence, freeform", 64, "remembered"): (0.94, 1.0),
    ("hostile text, int8", 64, "cold"): (0.96, 0.96),
    ("hostile text, int8", 64, "remembered"): (0.98, 0.98),
    ("hostile text, useless confidence", 64, "cold"): (0.95, 0.95),
}


# ---- simulated replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_is_near_the_best_fixed_length_and_never_slower_than_plain(name: str) -> None:
    profile = PROFILES[name]
    memory = remembered(profile)
    for tokens in (64, 512):
        result = compare(profile, tokens, TEXTS, memory)
        for start, us, plain_bar in (
            ("cold", result.cold, COLD_TO_PLAIN),
            ("remembered", result.remembered, REMEMBERED_TO_PLAIN),
        ):
            to_best, to_plain = EXCEPTIONS.get((name, tokens, start), (TO_BEST, plain_bar))
            assert result.to_best(us) >= to_best, (tokens, start, result)
            assert result.to_plain(us) >= to_plain, (tokens, start, result)


def test_drafts_at_once_where_costs_make_the_prior_worth_it_and_never_where_drafting_cannot_pay() -> None:
    for profile, drafts in ((PHONE_GPU, True), (POWERVR, False)):
        controller = Controller(profile.device())
        controller.load(1)
        controller.begin()
        assert (controller.plan(200, 60).drafts > 0) == drafts
    assert all(remembered(replace(POWERVR, acceptance=(CODE,))).reply(seed, 512).drafted == 0 for seed in range(5))


def test_one_kind_of_text_does_not_poison_another() -> None:
    code, hostile = replace(MIXED, acceptance=(CODE,)), replace(MIXED, acceptance=(HOSTILE,))
    after_code = compare(hostile, 512, 60, _moved(remembered(code), hostile))
    assert after_code.to_plain(after_code.remembered) >= COLD_TO_PLAIN
    after_hostile = compare(code, 512, 60, _moved(remembered(hostile), code))
    assert after_hostile.to_best(after_hostile.remembered) >= TO_BEST


def test_a_remembered_cost_that_no_longer_holds_is_unlearnt_by_the_second_reply() -> None:
    """Verify five times dearer than remembered; the first reply pays for it."""
    now = replace(POWERVR, acceptance=(CODE,))
    controller = _moved(remembered(replace(INT8, acceptance=(CODE,))), now)
    controller.reply(1, 512)
    later = sum(controller.reply(seed, 512).us for seed in range(2, 12))
    plain = sum(fixed_reply(controller.device, 0, seed, 512).us for seed in range(2, 12))
    assert plain / later >= 0.96  # a session also times at load, and forgets what is so far off


def _moved(controller: Controller, profile: Profile) -> Controller:
    """What was remembered of one device, on another with the same bundle."""
    moved = Controller(profile.device())
    assert moved.restore(controller.save())
    return moved


@pytest.mark.parametrize("slow", [0.7, 1.28, 3.0])
def test_texts_that_begin_on_cold_caches_do_not_make_drafting_dear(slow: float) -> None:
    """A thousand replies that were decoded plainly, each first step another time than the rest: what a verify costs
    beside a plain step is believed as it was."""
    controller = trained(replace(INT8, acceptance=(CODE,)))
    blank = Proposal.of([])
    for _ in range(1000):
        controller.begin()
        for step in range(12):
            controller.observe(200, 0, 1, blank, 0, 0.0, PLAIN_US * (slow if step == 0 else 1.0))
    controller.begin()
    for _ in range(3):
        controller.observe(200, 0, 1, blank, 0, 0.0, PLAIN_US)
    assert controller.trim(200, Proposal.of([0.99] * 3, DRAFTER)) == 3
    assert controller.plan(200, 60).drafts > 0


# ---- costs in the long run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["E2B int8 CPU, code", "E2B mixed CPU, freeform", "hostile text", "K = 3 alone"])
def test_no_use_makes_what_a_cost_is_believed_to_be_drift(name: str) -> None:
    """Fixed K, plain and auto in turn and in stretches, other contexts, another speed of the machine in every reply."""
    controller = Controller(PROFILES[name].device())
    controller.load(1)
    for part in range(4):
        drift = controller.drift(part, 10_000)
        assert drift.seen > 1000
        assert drift.rms < 0.055, (part, drift.rms)
        assert drift.mean < 0.1, (part, drift.mean)
        assert drift.most < 0.4, (part, drift.most)


def test_remembered_costs_that_are_far_from_those_timed_at_load_are_forgotten() -> None:
    plain, widest, drafts = PLAIN_US, 1.643 * PLAIN_US, 0.374 * PLAIN_US
    for timings, holds in (
        ([(1, 0, plain), (6, 0, widest), (0, 5, drafts)], True),
        ([(1, 0, 3 * plain), (6, 0, 3.3 * widest), (0, 5, 2.8 * drafts)], True),  # a slower moment
        ([(1, 0, plain), (6, 0, 2.5 * widest), (0, 5, drafts)], False),
        ([(1, 0, plain), (6, 0, widest), (0, 5, 0.3 * drafts)], False),
        ([(1, 0, 1e5 * plain), (6, 0, 1e5 * widest), (0, 5, 1e5 * drafts)], False),
    ):
        controller = remembered(MIXED)
        assert controller.check(timings) == holds, timings
        assert controller.calibrated == holds
        if not holds:
            controller.load(5)
            assert controller.believed_us(200, 6) == pytest.approx(widest, rel=0.3)


GOOD = (0.75,) * 5
SPELLS = {
    "hostile text": {"acceptance": ((0.005,) * 5,)},
    "everything slow": {"slow": (3.0, 3.0, 3.0)},
    "verifying slow": {"slow": (1.0, 3.0, 1.0)},
    "drafting slow": {"slow": (1.0, 1.0, 6.0)},
}
# Those that differ in costs or confidences, and the one that misses the bar.
RECOVERY = ["phone GPU, chat", "PowerVR, chat", "E2B mixed CPU, code", "E2B int8 CPU, code", "MoE, calls"]
RECOVERY += ["tiny model", "noisy costs", "long context", "useless confidence", "overconfident", "K = 3 alone"]
RECOVERED = {("useless confidence", "hostile text"): 0.92}


@pytest.mark.parametrize("name", RECOVERY)
@pytest.mark.parametrize("spell", SPELLS)
def test_is_back_at_the_best_within_200_tokens_after_a_spell(name: str, spell: str) -> None:
    profile = replace(PROFILES[name], acceptance=(GOOD,))
    good, bad = profile.device(), replace(profile, **SPELLS[spell]).device()
    memory, best, ours = remembered(profile), dict.fromkeys((0, *profile.drafts), 0.0), 0.0
    for run in range(8):
        controller = memory.copy()
        controller.device, tokens = bad, 64 if run % 2 else 250
        for seed in range(2000 // tokens + 1):
            controller.reply(10_000 * run + seed, tokens)
        controller.device = good
        for seed in range(7):
            us = controller.reply(100 * run + seed, 64).us
            if seed >= 3:  # 192 tokens on
                ours += us
                for k in best:
                    best[k] += fixed_reply(good, k, 100 * run + seed, 64).us
    assert min(best.values()) / ours >= RECOVERED.get((name, spell), 0.95)


@pytest.mark.parametrize("name", ["phone GPU, chat", "E2B mixed CPU, code", "E2B int8 CPU, code", "MoE, calls"])
def test_is_back_within_200_tokens_in_the_same_text(name: str) -> None:
    """Three quarters of it hostile."""
    hostile = (0.005,) * 5
    profile = replace(PROFILES[name], acceptance=(hostile, hostile, hostile, GOOD))
    memory, device, late = remembered(replace(profile, acceptance=(GOOD,))), profile.device(), 2000 + 200
    best, ours = dict.fromkeys((0, *profile.drafts), 0.0), 0.0
    for seed in range(20):
        controller = memory.copy()
        controller.device = device
        ours += controller.reply(seed, 2667, late=late).us
        for k in best:
            best[k] += fixed_reply(device, k, seed, 2667, late).us
    assert min(best.values()) / ours >= 0.95


def test_counts_the_first_drafts_of_all_texts_and_keeps_the_count() -> None:
    controller = Controller(MIXED.device())
    controller.load(1)
    controller.begin()
    for right in (1, 0, 0):
        controller.observe(200, 2, 3, Proposal.of([0.5, 0.5]), right, PLAIN_US, PLAIN_US)
    controller.observe(200, 2, 1, Proposal.of([0.5, 0.5]), 1, PLAIN_US, PLAIN_US)  # cut away, and compared
    controller.observe(200, 0, 2, Proposal.of([0.5], GRAMMAR), 1, 0.0, PLAIN_US)  # not the drafter's
    assert controller.first_drafts == (4, 2)
    fresh = Controller(MIXED.device())
    assert fresh.restore(controller.save())
    assert fresh.first_drafts == (4, 2)


def test_is_deterministic() -> None:
    runs = [_reply_bytes(MIXED), _reply_bytes(MIXED)]
    assert runs[0] == runs[1]


def _reply_bytes(profile: Profile) -> tuple[float, bytes]:
    controller = Controller(profile.device())
    controller.load(3)
    return controller.reply(3, 256).us, controller.save()


# ---- trim -------------------------------------------------------------------------------------------------


def trained(profile: Profile) -> Controller:
    controller = remembered(profile)
    controller.begin()
    controller.plan(200, 0)  # no exploration
    return controller


def test_trim_fills_a_graph_or_takes_all() -> None:
    controller = trained(replace(MIXED, verifies={3: 1.3, 6: 1.6}))
    for count in range(6):
        for confidence in (0.01, 0.5, 0.99):
            assert controller.trim(200, Proposal.of([confidence] * count)) in {0, 2, 5, count}


def test_trim_verifies_what_is_likely_and_drops_what_is_not() -> None:
    controller = trained(MIXED)
    assert controller.trim(200, Proposal.of([0.99] * 5)) == 5
    assert controller.trim(200, Proposal.of([0.01] * 5)) == 0
    assert 1 <= controller.trim(200, Proposal.of([0.99, 0.99, 0.01, 0.01, 0.01])) <= 4


@pytest.mark.parametrize("source", [LOOKUP, GRAMMAR])
def test_free_drafts_are_judged_without_a_drafter(source: int) -> None:
    controller = Controller(replace(MIXED, drafts={}).device())
    for rows, us in ((1, PLAIN_US), (2, 1.33 * PLAIN_US), (6, 1.64 * PLAIN_US)):
        controller.calibrate(0, rows, 0, us)
    assert controller.calibrated
    controller.begin()
    assert controller.plan(100, 60).drafts == 5
    assert controller.plan(100, 3).drafts == 3
    free = Proposal.of([0.9] * 5, source)
    assert controller.trim(100, free) == 5
    for _ in range(40):  # all wrong
        controller.observe(100, 0, 6, free, 0, 0.0, 1.64 * PLAIN_US)
    assert controller.trim(100, free) == 0


def test_forced_tokens_are_verified_though_the_drafter_is_not_asked() -> None:
    controller = trained(replace(MIXED, acceptance=(HOSTILE,)))
    assert controller.trim(200, Proposal.of([1.0] * 5, GRAMMAR)) == 5
    assert controller.trim(200, Proposal.of([0.1] * 5, DRAFTER)) == 0


def test_a_plain_step_after_a_draft_still_teaches() -> None:
    controller = Controller(replace(MIXED, drafts={1: 0.1}).device())
    controller.load(1)
    controller.begin()
    draft = Proposal.of([0.8])
    before = controller.trim(200, draft)
    for _ in range(60):
        controller.observe(200, 1, 1, draft, 0, 0.1 * PLAIN_US, PLAIN_US)
    assert (before, controller.trim(200, draft)) == (1, 0)
    for _ in range(200):
        controller.observe(200, 1, 1, draft, 1, 0.1 * PLAIN_US, PLAIN_US)
    assert controller.trim(200, draft) == 1


# ---- whatever it is told ----------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 31), max_size=6, unique=True).map(sorted)
WIDTHS = st.lists(st.integers(2, 32), max_size=6, unique=True).map(sorted)
HOSTILE_US = st.one_of(
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e12, 5e-324, 1e300]), st.floats(1.0, 1e6)
)
HOSTILE_CONFIDENCE = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 2.0, math.nan, math.inf]), st.floats(0.0, 1.0))
POSITIONS = st.one_of(st.integers(0, 5000), st.sampled_from([-1, 0, 2**31 - 1, -(2**31)]))
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "position": POSITIONS,
            "most": st.integers(-2, 40),
            "k": st.integers(-1, 33),
            "rows": st.integers(-1, 33),
            "confidences": st.lists(HOSTILE_CONFIDENCE, max_size=31),
            "source": st.integers(0, 2),
            "accepted": st.integers(-2, 40),
            "draft_us": HOSTILE_US,
            "rest_us": HOSTILE_US,
            "calibrate": st.booleans(),
            "begin": st.booleans(),
        }
    ),
    max_size=30,
)


def bundle(lengths: list[int], widths: list[int]) -> Controller:
    """With the undefined-behaviour sanitizer and the checks of the standard library."""
    profile = replace(MIXED, drafts=dict.fromkeys(lengths, 0.1), verifies=dict.fromkeys(widths, 1.2))
    return Controller(profile.device(), code=library(checked=True))


def tell(controller: Controller, step: dict[str, Any]) -> None:
    if step["begin"]:
        controller.begin()
    if step["calibrate"]:
        controller.calibrate(step["position"], step["rows"], step["k"], step["rest_us"])
        return
    proposal = Proposal.of(step["confidences"], step["source"])
    controller.observe(
        step["position"], step["k"], step["rows"], proposal, step["accepted"], step["draft_us"], step["rest_us"]
    )


@settings(deadline=None, max_examples=120)
@given(LENGTHS, WIDTHS, STEPS)
def test_plans_are_possible_and_finite_whatever_was_observed(
    lengths: list[int], widths: list[int], steps: list[dict[str, Any]]
) -> None:
    controller = bundle(lengths, widths)
    holds = widths[-1] - 1 if widths else 0
    for step in steps:
        plan = controller.plan(step["position"], step["most"])
        usable = {k for k in lengths if k <= holds}
        allowed = usable | {0} if usable else set(range(holds + 1))
        assert plan.drafts in allowed
        assert 0 <= plan.drafts <= max(step["most"], 0)
        assert math.isfinite(plan.tokens_per_ms)
        assert math.isfinite(plan.plain_tokens_per_ms)
        assert plan.tokens_per_ms >= 0
        assert plan.plain_tokens_per_ms >= 0
        proposal = Proposal.of(step["confidences"], step["source"])
        worth = controller.trim(step["position"], proposal)
        assert 0 <= worth <= min(proposal.count, holds)
        assert worth in {0, proposal.count, *(rows - 1 for rows in widths)}
        tell(controller, step)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, WIDTHS, STEPS, STEPS)
def test_restores_what_it_saved(
    lengths: list[int], widths: list[int], before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    controller = bundle(lengths, widths)
    for step in before:
        controller.plan(step["position"], step["most"])
        tell(controller, step)
    text = controller.save()
    first, second = bundle(lengths, widths), bundle(lengths, widths)
    assert first.restore(text)
    assert second.restore(text)
    assert first.calibrated == controller.calibrated
    controller.begin()
    assert first.plan(200, 40).values() == controller.plan(200, 40).values()
    second.plan(200, 40)
    for step in after:
        tell(first, step)
        tell(second, step)
        assert (
            first.plan(step["position"], step["most"]).values() == second.plan(step["position"], step["most"]).values()
        )


def test_refuses_what_does_not_fit() -> None:
    controller = remembered(MIXED)
    text, state = controller.save(), controller.copy()
    assert controller.restore(text)
    for other in (replace(MIXED, drafts={1: 0.1, 2: 0.2}), replace(MIXED, verifies={2: 1.2, 6: 1.5})):
        assert not Controller(other.device()).restore(text)
    words = text.split(b" ")
    broken = [b"", b"{}", text[:-1], text + b" 0", text + b"0", text.replace(b"controller-3", b"controller-2")]
    broken += [b" ".join([*words[:-1], bad]) for bad in (b"7ff8000000000000", b"fff0000000000000", b"zzzzzzzzzzzzzzzz")]
    broken += [b" ".join(words[:-1]), text + b" " + words[-1], text.upper()]
    for garbage in broken:
        assert not state.restore(garbage), garbage
    assert state.save() == text  # a refusal changes nothing


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 10_000), st.booleans())
def test_survives_garbage(garbage: bytes, at: int, whole: bool) -> None:
    text = saved_text()
    at %= len(text)
    controller = Controller(MIXED.device(), code=library(checked=True))
    if controller.restore(garbage if whole else text[:at] + garbage + text[at + len(garbage) :]):
        plan = controller.plan(200, 40)
        assert plan.drafts in {0, *MIXED.drafts}
        assert math.isfinite(plan.tokens_per_ms)


@cache
def saved_text() -> bytes:
    return remembered(MIXED).save()


# ---- costs ------------------------------------------------------------------------------------------------


def test_knows_when_it_is_calibrated() -> None:
    controller = bundle([1, 3], [2, 4, 6])
    for rows, k in ((1, 0), (2, 0), (6, 0), (0, 3)):
        assert not controller.calibrated
        controller.calibrate(0, rows, k, 1000.0)
    assert controller.calibrated
    plain = bundle([], [])
    plain.calibrate(0, 1, 0, 1000.0)
    assert plain.calibrated


def test_an_outlier_moves_no_choice() -> None:
    controller = remembered(PROFILES["phone GPU, chat"])
    controller.begin()
    for _ in range(10):
        plan = controller.plan(200, 60)
        proposal = Proposal.of([0.9] * plan.drafts)
        controller.observe(200, plan.drafts, plan.drafts + 1, proposal, plan.drafts, 0.3 * PLAIN_US, 1.2 * PLAIN_US)
    before = controller.plan(200, 60)
    proposal = Proposal.of([0.9] * before.drafts)
    controller.observe(200, before.drafts, before.drafts + 1, proposal, 2, 3.0 * PLAIN_US, 100.0 * PLAIN_US)
    after = controller.plan(200, 60)
    assert after.drafts == before.drafts
    assert after.plain_tokens_per_ms == pytest.approx(before.plain_tokens_per_ms)


def test_a_hotter_machine_changes_the_speed_and_not_the_choice() -> None:
    controller = remembered(PROFILES["phone GPU, chat"])
    controller.begin()
    rates = []
    for factor in (1.0, 2.2):
        for _ in range(20):
            plan = controller.plan(200, 60)
            proposal = Proposal.of([0.9] * plan.drafts)
            rows = plan.drafts + 1
            us = factor * PLAIN_US * (1.0 if rows == 1 else 1.1 + 0.04 * (rows - 2))
            controller.observe(
                200, plan.drafts, rows, proposal, plan.drafts, factor * 0.06 * plan.drafts * PLAIN_US, us
            )
            assert plan.drafts > 0 or plan.explore
        rates.append(plan.plain_tokens_per_ms)
    assert rates[0] / rates[1] == pytest.approx(2.2, rel=0.15)


def test_a_reply_allocates_nothing() -> None:
    controller = remembered(MIXED)
    before = controller.allocations
    controller.reply(1, 256)
    assert controller.allocations == before
    controller.save()
    assert controller.allocations > before
