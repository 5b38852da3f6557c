"""Drafts from a tape set the acceptance and never the text; a fresh request profits from none before it."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edge_mtp.device import HostDevice, Outcome, Request, Runner, Sampling, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.simulated_drafts import draft_tape

TOKENS = 40
BUCKETS, KINDS = 32, 3  # of device/native/cost_model.h
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(engine: Engine, tiny_split: list[dict[str, Any]]) -> list[list[int]]:
    chosen = random.Random(11).sample(tiny_split, 8)
    return [engine.chat_format.encode(item["messages"], item["tools"]) for item in chosen]


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    kept = [step for step in steps if isinstance(step, Step)]
    assert len(kept) == len(steps)
    return [token for step in kept for token in step.tokens], kept, outcome


def tape_of(plain: list[int], wrong: list[bool], vocabulary: int) -> list[int]:
    """The text's own tokens, with another one where `wrong`."""
    return [(token + 1) % vocabulary if bad else token for token, bad in zip(plain, wrong, strict=False)]


@SLOW
@given(
    which=st.integers(0, 7),
    wrong=st.lists(st.booleans(), max_size=TOKENS + 8),
    noise=st.lists(st.integers(0, 767), max_size=TOKENS + 8),
    k=st.integers(0, 7),
    policy=st.sampled_from(["fixed", "auto"]),
    temperature=st.sampled_from([0.0, 0.8]),
    couple=st.booleans(),
    sources=st.sampled_from([("drafter",), ("drafter", "grammar"), ("drafter", "lookup")]),
)
def test_no_tape_changes_the_text(
    engine: Engine, prompts: list[list[int]], which: int, wrong: list[bool], noise: list[int], k: int,
    policy: Any, temperature: float, couple: bool, sources: Any,
) -> None:  # fmt: skip
    prompt, sampling = prompts[which], Sampling(temperature=temperature, top_k=30, seed=which)
    plain, _, _ = generate(engine.runner, Request(prompt, TOKENS, sampling=sampling))
    for tape in (tape_of(plain, wrong, 768), noise):
        request = Request(
            prompt, TOKENS, draft_length=k, draft_policy=policy, draft_sources=sources, couple_drafts=couple,
            sampling=sampling, draft_tape=tape,
        )  # fmt: skip
        drafted, steps, _ = generate(engine.runner, request)
        assert drafted == plain
        for step in steps:
            first = step.position - len(prompt)
            taped = tape[first : first + len(step.draft)]
            assert all(
                draft == token
                for draft, source, token in zip(step.draft, step.source, taped, strict=False)
                if source == "d"
            )


@SLOW
@given(which=st.integers(0, 7), wrong=st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS), k=st.integers(1, 7))
def test_a_step_accepts_what_the_tape_has_right(
    engine: Engine, prompts: list[list[int]], which: int, wrong: list[bool], k: int
) -> None:
    """Every step's accepted length is that of an independent walk along the tape."""
    prompt = prompts[which]
    plain, _, _ = generate(engine.runner, Request(prompt, TOKENS))
    tape = tape_of(plain, wrong, 768)
    _, steps, _ = generate(engine.runner, Request(prompt, TOKENS, draft_length=k, draft_tape=tape))
    expected, at = [0], 1  # the first step has no hidden state to draft from
    while at < TOKENS:
        most = min(k, TOKENS - at - 1)
        run = next((j for j in range(most) if wrong[at + j]), most)
        expected.append(run)
        at += run + 1
    assert [step.accepted for step in steps] == expected
    assert all(step.draft_us > 0 for step in steps[1:] if step.draft)  # the drafter ran
    assert all(c == 0.5 for step in steps for c in step.confidence)


def test_beyond_its_end_the_drafters_own_stays(engine: Engine, prompts: list[list[int]]) -> None:
    """A tape of one wrong token costs that one draft and nothing after."""
    for prompt in prompts:
        plain, own, _ = generate(engine.runner, Request(prompt, TOKENS, draft_length=3))
        tape = tape_of(plain, [False, True], 768)
        _, taped, _ = generate(engine.runner, Request(prompt, TOKENS, draft_length=3, draft_tape=tape))
        assert taped[1].draft[0] == tape[1]
        assert taped[1].draft[1:] == own[1].draft[1:]
        assert taped[1].confidence[1:] == own[1].confidence[1:]
        assert taped[1].accepted == 0


def test_under_a_grammar_the_text_is_the_same(engine: Engine, prompts: list[list[int]]) -> None:
    """Tokens that it does not allow are cut off the tape; what it forces is still drafted."""
    grammar, stops = 'root ::= "<|tool_call>call:" [a-z_]{1,30} "{}<tool_call|>"', [1, 106]
    rng = random.Random(3)
    forced = 0
    for prompt in prompts:
        plain, _, _ = generate(engine.runner, Request(prompt, TOKENS, stops, grammar=grammar))
        for k in (1, 4, 7):
            tape = tape_of(plain, [rng.random() < 0.5 for _ in plain], 768)
            request = Request(prompt, TOKENS, stops, draft_length=k, grammar=grammar, draft_tape=tape)
            drafted, steps, _ = generate(engine.runner, request)
            assert drafted == plain
            forced += sum(step.source.count("g") for step in steps)
    assert forced > 0


def test_a_stepwise_drafter_gives_way_to_the_tape_too(
    tiny_bundle: Path, engine: Engine, prompts: list[list[int]], tmp_path: Path
) -> None:
    from edge_mtp.device.host import litert_library, runner_path
    from edge_mtp.device.process import LocalProcess

    command = [str(runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library()), "--stepwise"]
    with Runner(LocalProcess(command)) as runner:
        for prompt in prompts[:3]:
            plain, _, _ = generate(engine.runner, Request(prompt, TOKENS))
            drafted, steps, _ = generate(runner, Request(prompt, TOKENS, draft_length=4, draft_tape=plain))
            assert drafted == plain
            assert all(step.accepted == len(step.draft) for step in steps)


def costs(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.costs")}


def test_what_a_tape_teaches_is_not_kept(
    tiny_bundle: Path, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated acceptance must not be the belief with which the next real reply starts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(*requests: Request) -> dict[str, bytes]:
        with HostDevice().start(tiny_bundle) as runner:
            for request in requests:
                generate(runner, request)
        return costs(tmp_path)

    real = Request(prompts[0], TOKENS, draft_length=4, draft_policy="auto")
    first = run(real)
    assert first
    learnt = run(real)
    assert learnt != first  # else the next line shows nothing
    taped = Request(prompts[1], TOKENS, draft_length=4, draft_policy="auto", draft_tape=[9] * TOKENS)

    # What steps cost is measured at every load; what is believed of drafts stands in front and behind.
    assert beliefs(run(taped, taped)) == beliefs(learnt)
    drafted = Request(prompts[0], TOKENS, draft_length=4)  # in every step, whether or not it pays here
    assert beliefs(run(drafted, taped)) != beliefs(learnt)  # what went before the tape is kept


def beliefs(kept: dict[str, bytes]) -> list[list[bytes]]:
    """Of each memory: the header with the first drafts, and the counts of drafts by position and confidence."""
    found = []
    for memory in kept.values():
        words = memory.split()
        at = words.index(b"state")
        names = words[:at]
        lengths, widths, first = (names.index(name) for name in (b"lengths", b"widths", b"first"))
        arms = (widths - lengths - 1) + (first - widths - 1)
        counts = at + 5
        for _ in range(BUCKETS):
            counts += 1 + (2 * KINDS + 2 * arms) * (words[counts] != b"0" * 16)
        found.append([*names, *words[counts:]])
    return found


def test_a_fresh_request_reuses_nothing(engine: Engine, prompts: list[list[int]]) -> None:
    prompt = prompts[0]
    text, _, _ = generate(engine.runner, Request(prompt, TOKENS))
    again, _, reused = generate(engine.runner, Request(prompt, TOKENS))
    assert reused.reused_tokens == len(prompt) - 1
    anew, _, outcome = generate(engine.runner, Request(prompt, TOKENS, draft_length=3, fresh=True))
    assert (outcome.reused_tokens, outcome.restored_tokens) == (0, 0)
    assert text == again == anew
    turn, _, outcome = generate(engine.runner, Request(prompt + text, 9))
    assert outcome.reused_tokens >= len(prompt) + TOKENS - 2  # it leaves its own cache behind
    assert generate(engine.runner, Request(prompt + text, 9, fresh=True))[0] == turn


def test_a_fresh_request_reads_a_kept_prefix_only_when_asked(
    tiny_bundle: Path, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prompt = prompts[0]
    with HostDevice().start(tiny_bundle) as runner:
        text, _, _ = generate(runner, Request(prompt, 20, keep_prefix=30))
        asked, _, outcome = generate(runner, Request(prompt, 20, keep_prefix=30, fresh=True))
        assert (outcome.reused_tokens, outcome.restored_tokens) == (0, 30)
        plain, _, outcome = generate(runner, Request(prompt, 20, fresh=True))
        assert (outcome.reused_tokens, outcome.restored_tokens) == (0, 0)
    assert text == asked == plain


def test_options_of_a_reply_reach_the_runner(engine: Engine) -> None:
    plain = engine.chat("Wake me at 6:40", max_tokens=20, draft_length=0).wait()
    engine.chat("Wake me at 6:40", max_tokens=20, draft_length=0, fresh=True).wait()
    taped = engine.chat("Wake me at 6:40", max_tokens=20, draft_length=3, fresh=True, draft_tape=plain.tokens).wait()
    assert taped.outcome is not None
    assert taped.outcome.reused_tokens == 0
    assert taped.tokens == plain.tokens
    assert all(step.accepted == len(step.draft) for step in taped.steps)


# --- tapes of a chosen acceptance ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replies(engine: Engine, tiny_split: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """Prompts and their plain replies, which end where they end."""
    stops = sorted(engine.chat_format.stop_token_ids)
    chosen = random.Random(12).sample(tiny_split, 40)
    prompts = [engine.chat_format.encode(item["messages"], item["tools"]) for item in chosen]
    return [(prompt, generate(engine.runner, Request(prompt, 120, stops))[0]) for prompt in prompts]


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_at_every_position_the_runner_accepts_the_share_that_was_asked_for(
    engine: Engine, replies: list[tuple[list[int], list[int]]], acceptance: float, k: int
) -> None:
    """Given that the drafts before it were accepted; beyond the reply's end there is nothing to accept."""
    stops = sorted(engine.chat_format.stop_token_ids)
    reached, accepted = [0] * k, [0] * k
    for seed, (prompt, plain) in enumerate(replies):
        tape = draft_tape(plain, acceptance, engine.runner.ready.vocabulary, seed)
        request = Request(prompt, 120, stops, draft_length=k, draft_sources=("drafter",), draft_tape=tape)
        drafted, steps, _ = generate(engine.runner, request)
        assert drafted == plain
        for step in steps:
            for j in range(min(len(step.draft), step.accepted + 1, len(step.tokens))):
                reached[j] += 1
                accepted[j] += step.accepted > j
    assert sum(reached) > 200
    for hits, trials in zip(accepted, reached, strict=True):
        if trials:  # nothing reaches the later positions when nothing is accepted
            interval = binomtest(hits, trials).proportion_ci(
                0.9999
            )  # 15 cases of up to 7: one in 100 would fail by luck
            assert interval.low <= acceptance <= interval.high, (hits, trials)


@given(
    reply=st.lists(st.integers(0, 30), max_size=50),
    acceptances=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**32),
)
def test_a_tape_is_repeatable_and_right_more_often_at_a_higher_acceptance(
    reply: list[int], acceptances: tuple[float, float], seed: int
) -> None:
    low, high = (draft_tape(reply, acceptance, 31, seed) for acceptance in sorted(acceptances))
    assert low == draft_tape(reply, min(acceptances), 31, seed)
    assert len(low) == len(reply)
    assert all(0 <= token < 31 for token in low + high)
    assert all(b == right for a, b, right in zip(low, high, reply, strict=True) if a == right)


def test_any_wrong_token_may_stand_for_a_right_one() -> None:
    seen = {token for seed in range(400) for token in draft_tape([3], 0.0, 8, seed)}
    assert seen == {0, 1, 2, 4, 5, 6, 7}


@pytest.mark.parametrize(
    ("reply", "acceptance", "message"),
    [([1], 1.01, "acceptance 1.01"), ([1], -0.5, "from 0 to 1"), ([1], float("nan"), "nan"), ([9], 0.5, "token 9")],
)
def test_a_tape_of_what_cannot_be_is_refused(reply: list[int], acceptance: float, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message):
        draft_tape(reply, acceptance, 8, 0)
