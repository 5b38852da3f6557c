"""The plan of a device: what costs and acceptance come to against enumeration, simulation and known figures; measuring
against devices whose costs are known; the verb on the tiny pair."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.cli import main
from edge_mtp.device import Outcome, Request, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Ready
from edge_mtp.harness.analyse import plan
from edge_mtp.harness.analyse.plan import (
    BestDraftLength,
    ContextCosts,
    DrafterAcceptance,
    Plan,
    StepCost,
    acceptance_of,
    break_even,
    costs_of,
    expected_tokens,
)
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.run import step_costs
from edge_mtp.harness.run.first_replies import drafter_replies
from edge_mtp.harness.run.step_costs import check_drafter, chosen_contexts, measure_steps, tokens_needed
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.reply import Reply

shares = st.floats(0.0, 1.0)


def sure(value: float) -> Estimate:
    return Estimate(value, value, value)


def step_cost(k: int, cost: float, low: float | None = None, high: float | None = None) -> StepCost:
    return StepCost(k, sure(10.0), sure(90.0), Estimate(cost, low or cost, high or cost))


# --- what costs and acceptance come to -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draft", "verify", "expected"), [(0.05, 1.1, 0.20), (0.1, 1.3, 0.39), (0.15, 1.8, 0.62), (0.3, 2.5, 0.89)]
)
def test_break_even_has_the_known_figures(draft: float, verify: float, expected: float) -> None:
    """Of K = 3, from the costs of a draft and a verify pass in plain steps."""
    assert break_even(3 * draft + verify, 3) == pytest.approx(expected, abs=0.005)


@given(st.lists(shares, min_size=1, max_size=9), st.integers(1, 9))
def test_expected_tokens_are_those_of_all_outcomes(acceptance: list[float], k: int) -> None:
    """Weighs every pattern of right and wrong drafts by its probability."""
    each = [acceptance[min(j, len(acceptance) - 1)] for j in range(k)]
    total = 0.0
    for pattern in itertools.product([True, False], repeat=k):
        weight = math.prod(a if right else 1 - a for a, right in zip(each, pattern, strict=True))
        total += weight * (1 + next((j for j, right in enumerate(pattern) if not right), k))
    assert expected_tokens(acceptance, k) == pytest.approx(total, rel=1e-9)


@given(st.integers(1, 8), st.floats(0.01, 12.0))
def test_break_even_is_exact(k: int, cost: float) -> None:
    at = break_even(cost, k)
    if cost > k + 1:
        assert at is None
    elif cost <= 1:
        assert at == 0.0
    else:
        assert at is not None
        assert expected_tokens([at], k) >= cost
        assert expected_tokens([math.nextafter(at, 0.0)], k) <= cost  # no smaller acceptance gives more than it costs
        roots = np.roots([*[1.0] * k, 1.0 - cost])
        real = [root.real for root in roots if abs(root.imag) < 1e-9 and -1e-9 <= root.real <= 1 + 1e-9]
        assert min(abs(root - at) for root in real) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    acceptance=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5),
    k=st.integers(1, 7),
    plain=st.floats(0.1, 50.0),
    drafting=st.floats(0.0, 2.0),
    verifying=st.floats(0.5, 4.0),
    seed=st.integers(0, 2**32),
)
def test_the_gain_is_that_of_a_simulated_text(
    acceptance: list[float], k: int, plain: float, drafting: float, verifying: float, seed: int
) -> None:
    """Time to write a text plainly over the time of as many steps as it takes with drafts that are right by chance."""
    steps = 20_000
    each = np.array([acceptance[min(j, len(acceptance) - 1)] for j in range(k)])
    right = np.random.default_rng(seed).random((steps, k)) < each
    tokens = 1 + np.cumprod(right, axis=1).sum(1)
    took = steps * (drafting + verifying) * plain
    simulated = plain * tokens.sum() / took
    error = tokens.std() / math.sqrt(steps)
    unlucky = 10 * k / steps  # where a wrong draft is so rare that none came, or a few did
    gain = step_cost(k, drafting + verifying).gain(acceptance).value
    assert simulated == pytest.approx(gain, abs=(6 * error + unlucky) / (drafting + verifying))


@given(
    st.dictionaries(st.integers(1, 8), st.floats(0.5, 9.0), min_size=1),
    st.lists(shares, min_size=1, max_size=4),
)
def test_the_best_k_gains_most_and_break_even_is_where_plain_decoding_is_level(
    costs: dict[int, float], acceptance: list[float]
) -> None:
    measured = ContextCosts(128, sure(100.0), [step_cost(k, cost) for k, cost in sorted(costs.items())])
    gains = {k: expected_tokens(acceptance, k) / cost for k, cost in costs.items()}
    best = measured.best(acceptance)
    assert best.gain.value == max(gains.values())
    assert gains[best.draft_length] == best.gain.value
    easiest = measured.easiest
    if easiest is None:
        assert all(cost > k + 1 for k, cost in costs.items())
        return
    at = easiest.break_even.value
    assert at is not None
    below = measured.best([max(0.0, at - 0.01)]).gain.value
    assert below <= 1 or at == 0.0
    assert measured.best([at]).gain.value >= 1 - 1e-9


@given(st.integers(1, 8), st.lists(st.floats(0.5, 12.0), min_size=3, max_size=3).map(sorted), shares)
def test_intervals_follow_from_the_costs(k: int, cost: list[float], acceptance: float) -> None:
    low, value, high = cost
    step = step_cost(k, value, low, high)
    gain, at = step.gain([acceptance]), step.break_even
    assert gain.low <= gain.value <= gain.high
    assert gain.low == step_cost(k, high).gain([acceptance]).value
    bounds = [2.0 if bound is None else bound for bound in (at.low, at.value, at.high)]  # never: beyond 1
    assert bounds == sorted(bounds)


# --- in words --------------------------------------------------------------------------------------------------------


def words(steps: list[StepCost], *acceptances: DrafterAcceptance) -> list[str]:
    costs = ContextCosts(128, sure(100.0), steps)
    return Plan([costs], acceptances).verdict(costs)


def test_a_device_whose_verify_costs_too_much_is_told_so() -> None:
    """LiteRT-LM issue 2227: a step of seven plain ones at K = 3."""
    said = words([step_cost(3, 7.0), step_cost(1, 2.4)], DrafterAcceptance("0.9", [0.9]))
    assert said[0].startswith("MTP cannot pay: even where every draft is right")
    assert said[1] == "At 0.9: decode plainly; the best that drafts is K = 1, 0.79x (0.79x to 0.79x)."


def test_a_device_that_gains_is_told_from_where_and_with_which_k() -> None:
    steps = [step_cost(1, 1.3, 1.2, 1.4), step_cost(3, 1.6, 1.5, 1.7), step_cost(7, 3.5, 3.4, 9.0)]
    said = words(
        steps,
        DrafterAcceptance("0.2", [0.2]),
        DrafterAcceptance("0.9", [0.9]),
        DrafterAcceptance("x.jsonl", [0.8, 0.6], [sure(0.8)], 5),
    )
    assert said == [
        "MTP can pay: from an acceptance of 0.30 on (0.20 to 0.40), with 1 draft a step.",
        "At 0.2: K = 1 cannot be told from plain decoding, 0.92x (0.86x to 1.00x).",
        "At 0.9: K = 3, 2.15x (2.02x to 2.29x).",
        "At the acceptance of x.jsonl: K = 3, 1.60x (1.51x to 1.71x).",
    ]


def test_a_step_that_costs_no_more_than_a_plain_one_always_pays() -> None:
    assert words([step_cost(2, 0.95)])[0].startswith("MTP pays at any acceptance: a step with 2 drafts")


def test_an_interval_may_reach_beyond_every_acceptance() -> None:
    said = words([step_cost(1, 1.95, 1.9, 2.1)])
    assert "from an acceptance of 0.95 on (0.90 to never)" in said[0]


@pytest.mark.parametrize(("low", "high", "pays"), [(1.01, 1.2, "yes"), (0.8, 0.99, "no"), (0.99, 1.01, "unclear")])
def test_what_pays_is_what_the_interval_says(low: float, high: float, pays: str) -> None:
    assert BestDraftLength(3, Estimate((low + high) / 2, low, high)).pays == pays


# --- measuring -------------------------------------------------------------------------------------------------------


class SimulatedDevice:
    """A runner whose steps cost what is said, times a speed that may drift, and now and then much more.

    `costs[k]`: microseconds of the drafter and of the rest of a step with k drafts; `offers`: how many drafts its
    drafter can make, like a bundle's folded graphs.
    """

    def __init__(
        self, costs: dict[int, tuple[float, float]], *, offers: set[int] | None = None, acceptance: float = 0.0,
        drift: float = 0.0, interrupted: float = 0.0,
    ) -> None:  # fmt: skip
        self.costs, self.offers, self.acceptance = costs, offers or set(costs), acceptance
        self.drift, self.interrupted = drift, interrupted
        self.ready = Ready(2, 4096, 99, max(costs), True, 1.0)
        self.rng = random.Random(7)
        self.ran = 0
        self.requests: list[Request] = []
        self.cancelled = 0

    def generate(self, request: Request) -> Generator[Step | Outcome, None, None]:
        self.requests.append(request)
        given = index = 0
        try:
            while given < request.max_tokens:
                most = min(request.draft_length, request.max_tokens - given - 1)
                k = max((offer for offer in self.offers if offer <= most), default=0) if index else 0
                yield self.step(index, k, given)
                given += self.given
                index += 1
            yield Outcome("r", "length", len(request.prompt), 0, 0, given, 1.0, 1.0)
        except GeneratorExit:
            self.cancelled += 1
            raise

    def step(self, index: int, k: int, position: int) -> Step:
        draft, rest = self.costs[k]
        self.ran += 1
        speed = (1 + self.drift * self.ran) * (1.5 if index < step_costs.WARM_UP else 1.0)
        if self.rng.random() < self.interrupted:
            speed *= 8
        accepted = next((j for j in range(k) if self.rng.random() >= self.acceptance), k)
        self.given = accepted + 1
        return Step(
            "r", index, "verify" if k else "plain", position, [3] * self.given, [3] * k, [0.5] * k, "d" * k, accepted,
            k, False, draft * speed, 0.0, 0.0, rest * speed, 0.0, (draft + rest) * speed,
        )  # fmt: skip


PHONE = {0: (0.0, 100.0), 1: (6.0, 118.0), 2: (11.0, 121.0), 3: (16.0, 124.0), 5: (26.0, 150.0)}


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_costs_are_measured_whatever_is_accepted(acceptance: float) -> None:
    device = SimulatedDevice(PHONE, acceptance=acceptance)
    costs = costs_of(measure_steps(device, [5, 6, 7], 10, rounds=6))
    assert costs.plain_us == sure(100.0)
    assert [step.draft_length for step in costs.steps] == [1, 2, 3, 5]  # its drafter gives no 4
    for step in costs.steps:
        draft, rest = PHONE[step.draft_length]
        assert step.draft_us == sure(draft)
        assert (step.verify_us.value, step.cost.value) == pytest.approx((rest, (draft + rest) / 100))
    assert {tuple(request.prompt) for request in device.requests} == {(5, 6, 7, 5, 6, 7, 5, 6, 7, 5)}
    assert all(tuple(request.draft_sources) == ("drafter",) and not request.stop for request in device.requests)


def test_a_device_that_slows_down_and_is_interrupted_has_the_same_plan() -> None:
    """By the end of this it takes 1.6 times as long; one step in ten takes 8 times as long."""
    device = SimulatedDevice(PHONE, acceptance=0.5, drift=1e-3, interrupted=0.1)
    costs = costs_of(measure_steps(device, [5], 64, rounds=9))
    assert device.ran * device.drift > 0.5
    for step in costs.steps:
        expected = sum(PHONE[step.draft_length]) / 100
        assert step.cost.value == pytest.approx(expected, rel=0.03)
        assert step.cost.low <= expected * 1.02
        assert step.cost.high >= expected * 0.98


def test_only_the_lengths_that_are_asked_for_are_measured() -> None:
    device = SimulatedDevice(PHONE)
    costs = costs_of(measure_steps(device, [5], 64, [3, 1, 3], rounds=6))
    assert [step.draft_length for step in costs.steps] == [1, 3]
    assert {request.draft_length for request in device.requests} == {0, 1, 3}


def test_progress_is_told_and_ends() -> None:
    told: list[tuple[str, int, int]] = []
    measure_steps(SimulatedDevice(PHONE), [5], 64, rounds=6, progress=lambda *what: told.append(what))
    for stage in {what for what, _, _ in told}:
        done = [(at, total) for what, at, total in told if what == stage]
        assert done[0][0] == 0
        assert done[-1][0] == done[-1][1]
        assert [at for at, _ in done] == sorted(at for at, _ in done)


def test_a_drafter_that_does_not_give_what_is_asked_is_named() -> None:
    with pytest.raises(EdgeMtpError, match="does not give 4 drafts"):
        measure_steps(SimulatedDevice(PHONE), [5], 64, [4], rounds=6)
    silent = SimulatedDevice({0: (0.0, 100.0), 3: (1.0, 2.0)}, offers={0})
    with pytest.raises(EdgeMtpError, match="proposes nothing"):
        measure_steps(silent, [5], 64, rounds=6)


READY = Ready(2, 512, 99, 7, True, 1.0)


@pytest.mark.parametrize(
    ("ready", "lengths", "message"),
    [
        (replace(READY, max_draft_length=0), [], "x.litertlm: no verify graph.*export it again"),
        (replace(READY, has_drafter=False), [], "x.litertlm: no drafter.*export"),
        (READY, [3, 9], "draft length 9 is beyond the 7.*use 1 to 7"),
    ],
)
def test_a_bundle_that_cannot_draft_so_is_refused(ready: Ready, lengths: list[int], message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message):
        check_drafter(ready, "x.litertlm", lengths)
    check_drafter(READY, "x.litertlm", [1, 7])


@given(st.integers(1, 5000), st.integers(1, 8), st.lists(st.integers(1, 5000), max_size=3))
def test_every_context_that_is_measured_fits(length: int, k: int, wanted: list[int]) -> None:
    ready = replace(READY, context_length=length)
    fits = [context + tokens_needed(k) <= length for context in wanted]
    if length <= tokens_needed(k):
        with pytest.raises(EdgeMtpError, match="too short to measure"):
            chosen_contexts(ready, wanted or None, k)
    elif not all(fits):
        with pytest.raises(EdgeMtpError, match=f"context {wanted[fits.index(False)]} .* use 1 to"):
            chosen_contexts(ready, wanted, k)
    else:
        chosen = chosen_contexts(ready, wanted or None, k)
        assert all(1 <= context <= length - tokens_needed(k) for context in chosen)
        assert chosen == (sorted(set(wanted)) if wanted else chosen)
        assert chosen


@given(st.integers(1200, 10000))
def test_contexts_are_those_of_a_short_and_a_long_prompt_where_nobody_says(length: int) -> None:
    assert chosen_contexts(replace(READY, context_length=length), None, 7) == [128, 1024]


# --- on the tiny pair ------------------------------------------------------------------------------------------------


def test_acceptance_is_counted_on_real_replies(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the drafts held to the reply's own tokens, which nothing of the trace's `accepted` goes into."""
    items = read_items(TINY / "splits" / "iid.jsonl", 12)
    replies: list[Reply] = []
    answer = Engine.answer

    def spied(self: Engine, *args: Any, **kwargs: Any) -> Reply:
        replies.append(answer(self, *args, **kwargs))
        return replies[-1]

    monkeypatch.setattr(Engine, "answer", spied)
    with open_engine(tiny_bundle) as engine:
        found = acceptance_of(drafter_replies(engine, items, 4, max_tokens=90), 4, "these")
    reached, right = [0] * 4, [0] * 4
    for reply in replies:
        at = 0
        for step in reply.steps:
            for j, token in enumerate(step.draft):
                if at + j >= len(reply.tokens) or step.draft[:j] != reply.tokens[at : at + j]:
                    break
                reached[j] += 1
                right[j] += token == reply.tokens[at + j]
            at += len(step.tokens)
    assert len(replies) == 12
    assert found.prompts == 12
    assert found.by_position == pytest.approx([a / b for a, b in zip(right, reached, strict=True)])
    assert all(share.low <= share.value <= share.high for share in found.measured)
    assert found.by_position[0] > 0.5  # the pair is trained


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_the_verb_measures_and_its_figures_belong_together(tiny_bundle: Path) -> None:
    result = run("--context", "40,130", "--acceptance", "0.7,0.9/0.4", "--limit", "5", "--rounds", "6", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["schema"] == plan.SCHEMA
    assert told["device"]["kind"] == "host"
    assert [each["by_position"] for each in told["acceptances"][:2]] == [[0.7], [0.9, 0.4]]
    measured = told["acceptances"][2]
    assert (measured["label"], measured["prompts"]) == ("split iid", 5)
    assert [context["context"] for context in told["contexts"]] == [40, 130]
    for context in told["contexts"]:
        assert [step["draft_length"] for step in context["steps"]] == list(range(1, 8))
        assert len(context["verdict"]) == 4
        for step in context["steps"]:
            cost = step["cost"]["value"]
            assert 0 < step["cost"]["low"] <= cost <= step["cost"]["high"]
            assert step["draft_us"]["low"] > 0
            assert step["verify_us"]["low"] > 0
            at = step["break_even"]["value"]
            assert at is None or at == 0 or expected_tokens([at], step["draft_length"]) == pytest.approx(cost)
        for acceptance, gains in zip(told["acceptances"], context["gains"], strict=True):
            values = {int(k): gain["value"] for k, gain in gains["by_draft_length"].items()}
            for step in context["steps"]:
                k = step["draft_length"]
                tokens = expected_tokens(acceptance["by_position"], k)
                assert values[k] == pytest.approx(tokens / step["cost"]["value"])
            assert values[gains["best"]] == max(values.values())
    assert "warm-up" in result.stderr


def test_the_table_is_plain_text_of_a_terminals_width(tiny_bundle: Path) -> None:
    result = run("--bundle", str(tiny_bundle), "--limit", "3", "--rounds", "6", "--context", "30")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    table, _, rest = result.stdout.partition("MTP ")
    assert all(len(line.rstrip()) <= 80 for line in table.splitlines())
    assert "…" not in table
    rows = [line.split() for line in table.splitlines() if line.split()[:1] and line.split()[0].isdecimal()]
    assert [row[0] for row in rows] == [str(k) for k in range(8)]
    assert table.count("*") == 4  # a best K, or plain decoding, at each acceptance
    assert "At the acceptance of split iid" in rest
    assert "3 prompts" in rest


def test_prompts_of_ones_own_tell_their_acceptance(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "Wake me at 6:40"}\n{"prompt": "Turn on the torch"}\n')
    result = run("--prompts", str(file), "--draft-length", "2", "--rounds", "6", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["acceptances"][-1]["label"] == "mine.jsonl"
    assert told["acceptances"][-1]["prompts"] == 2
    assert [step["draft_length"] for step in told["contexts"][0]["steps"]] == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draft-length", "9"], "Error: draft length 9 is beyond the 7 that this bundle verifies; use 1 to 7\n"),
        (["--context", "500"], "do not fit the bundle's 512; use 1 to 448\n"),
        (["--prompts", "/nowhere.jsonl"], "nowhere.jsonl"),
        (["--bundle", "/nowhere.litertlm"], "nowhere.litertlm"),
    ],
)
def test_a_refusal_is_one_line(tiny_bundle: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--acceptance", "1.2"], ["--acceptance", "0.5,"], ["--acceptance", "nan"], ["--acceptance", "a/b"],
     ["--context", "0"], ["--context", "-3"], ["--context", "x"], ["--rounds", "5"]],
)  # fmt: skip
def test_wrong_usage_is_told_before_anything_is_measured(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_a_bundle_without_prompts_of_its_own_is_planned_without_them(tiny_bundle: Path) -> None:
    from edge_mtp.cli.plan import chosen_items
    from edge_mtp.formats.bundle import Bundle

    bundle = Bundle(tiny_bundle)
    assert bundle.manifest is not None
    bundle.manifest["source"]["target"]["model.safetensors"] = "another"
    assert chosen_items(bundle, None, None) == ([], "")
    with pytest.raises(EdgeMtpError, match="--limit is of prompts"):
        chosen_items(bundle, None, 3)
