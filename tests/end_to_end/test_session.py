"""What a session keeps between requests and does besides decoding: the cache of a conversation, kept prefixes, logit
processors, stop texts, log-probabilities, draft sources. The oracle is a fresh run, or the interpreter's logits."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy_select
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mtp.device import HostDevice, Outcome, Request, Runner, Sampling, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.run.logits import Logits

SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def other(tiny_bundle: Path) -> Iterator[Runner]:
    """A second runner, for fresh runs beside the first one's conversations."""
    with HostDevice().start(tiny_bundle) as runner:
        yield runner


@pytest.fixture(scope="module")
def prompts(engine: Engine, tiny_split: list[dict[str, Any]]) -> list[list[int]]:
    chosen = random.Random(6).sample(tiny_split, 12)
    return [engine.chat_format.encode(item["messages"], item["tools"]) for item in chosen]


@pytest.fixture(scope="module")
def logits(tiny_bundle: Path) -> Logits:
    return Logits(Bundle(tiny_bundle))


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    assert all(isinstance(step, Step) for step in steps)
    return [token for step in steps for token in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


def fresh(runner: Runner, request: Request) -> list[int]:
    """The text of a cache that holds nothing of the prompt."""
    first = next(token for token in range(3, 99) if token != request.prompt[0])
    generate(runner, Request([first, first], 1))
    tokens, _, outcome = generate(runner, request)
    assert outcome.reused_tokens == 0
    return tokens


def shared(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# -- the cache of a conversation ------------------------------------------------------------------------------------


@SLOW
@given(st.data())
def test_every_turn_equals_a_fresh_run_over_the_same_tokens(
    engine: Engine, other: Runner, prompts: list[list[int]], data: st.DataObject
) -> None:
    """Turns that go on and that rewrite some of the history; stop tokens inside steps; any K; sampled or not."""
    sampling = data.draw(st.sampled_from([Sampling(), Sampling(temperature=1.0, top_k=30, seed=5)]))
    history: list[int] = list(data.draw(st.sampled_from(prompts)))
    cached: list[int] | None = None
    for _ in range(data.draw(st.integers(2, 5))):
        tokens_left = engine.context_length - len(history) - 40
        if tokens_left < 1:
            break
        stops = data.draw(st.sets(st.integers(3, 767), max_size=3)) | set(engine.chat_format.stop_token_ids)
        request = Request(
            history,
            max_tokens=data.draw(st.integers(1, 30)),
            stop=sorted(stops),
            draft_length=data.draw(st.sampled_from([0, 1, 3, 7])),
            draft_policy=data.draw(st.sampled_from(["fixed", "auto"])),
            draft_sources=data.draw(st.sampled_from([("drafter",), ("drafter", "lookup"), ("lookup",), ()])),
            sampling=sampling,
        )
        tokens, _, outcome = generate(engine.runner, request)
        if cached is not None:
            assert outcome.reused_tokens == min(shared(cached, history), len(history) - 1)
        assert tokens == fresh(other, replace(request, draft_length=0))
        cached = [*history, *tokens[:-1]]
        kept = data.draw(st.integers(len(history) // 2, len(cached) + 1))  # a template that rewrites history
        history = [*history, *tokens][:kept] + data.draw(st.lists(st.integers(3, 767), min_size=1, max_size=20))


def test_a_stop_token_inside_a_step_is_part_of_the_next_turn(
    engine: Engine, other: Runner, prompts: list[list[int]]
) -> None:
    stop = sorted(engine.chat_format.stop_token_ids)
    for prompt in prompts:
        tokens, _, outcome = generate(engine.runner, Request(prompt, 60, stop, draft_length=7))
        assert outcome.finish == "stop"
        following = Request([*prompt, *tokens, *prompts[0][:9]], 20, draft_length=7)
        answer, _, second = generate(engine.runner, following)
        # All but the stop token, which no step has run yet, is cached; drafts behind it are forgotten.
        assert second.reused_tokens == len(prompt) + len(tokens) - 1
        assert answer == fresh(other, replace(following, draft_length=0))


def test_cancelling_during_a_reply_or_its_prefill_leaves_the_session_usable(
    engine: Engine, other: Runner, prompts: list[list[int]]
) -> None:
    for prompt in prompts[:6]:
        for step, _ in enumerate(engine.runner.generate(Request(prompt, 500, draft_length=3))):
            if step == 2:
                break
        request = Request([*prompt, 7, 9], 20, draft_length=3)
        assert generate(engine.runner, request)[0] == fresh(other, request)


# -- kept prefixes --------------------------------------------------------------------------------------------------


class TestKeptPrefix:
    @pytest.fixture
    def kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "edge-mtp" / "weights"

    def test_it_is_restored_and_gives_the_same_tokens(
        self, kept: Path, tiny_bundle: Path, prompts: list[list[int]], engine: Engine
    ) -> None:
        prompt = prompts[0]
        length = len(prompt) // 2
        request = Request(prompt, 30, draft_length=3, keep_prefix=length)
        expected = fresh(engine.runner, replace(request, keep_prefix=0))
        with HostDevice().start(tiny_bundle) as runner:
            tokens, _, outcome = generate(runner, request)
            assert (tokens, outcome.reused_tokens, outcome.restored_tokens) == (expected, 0, 0)
            (file,) = kept.glob("*.prefix")
            written = file.stat().st_mtime_ns
            # A turn that goes on has the prefix in its cache: nothing is read or written.
            assert generate(runner, Request([*prompt, *tokens, 5], 3, keep_prefix=length))[2].restored_tokens == 0
            assert file.stat().st_mtime_ns == written
        with HostDevice().start(tiny_bundle) as runner:
            tokens, _, outcome = generate(runner, request)
            assert (tokens, outcome.reused_tokens, outcome.restored_tokens) == (expected, 0, length)
            # Another text that begins alike takes it too, one that differs inside the prefix does not.
            alike = Request([*prompt[:length], 9, 11, 5], 20, keep_prefix=length)
            generate(runner, Request([4, 4], 1))
            tokens, _, outcome = generate(runner, alike)
            assert outcome.restored_tokens == length
            assert tokens == fresh(engine.runner, replace(alike, keep_prefix=0))
            different = Request([9, *prompt[1:]], 5, keep_prefix=length)
            assert generate(runner, different)[2].restored_tokens == 0
        assert len(list(kept.glob("*.prefix"))) == 2

    @pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
    def test_a_damaged_file_is_not_used(
        self, harm: str, kept: Path, tiny_bundle: Path, prompts: list[list[int]], engine: Engine
    ) -> None:
        request = Request(prompts[1], 30, draft_length=3, keep_prefix=100)
        expected = fresh(engine.runner, replace(request, keep_prefix=0))
        with HostDevice().start(tiny_bundle) as runner:
            generate(runner, request)
        (file,) = kept.glob("*.prefix")
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(
            {
                "cut": whole[:-9],
                "empty": b"",
                "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            }[harm]
        )
        with HostDevice().start(tiny_bundle) as runner:
            tokens, _, outcome = generate(runner, request)
        assert (tokens, outcome.restored_tokens) == (expected, 0)
        assert file.read_bytes() == whole

    def test_another_bundle_does_not_use_it(
        self, kept: Path, tiny_bundle: Path, tiny_int8_bundle: Path, prompts: list[list[int]]
    ) -> None:
        request = Request(prompts[1], 4, keep_prefix=100)
        for bundle in (tiny_bundle, tiny_int8_bundle):
            with HostDevice().start(bundle) as runner:
                assert generate(runner, request)[2].restored_tokens == 0
        assert len(list(kept.glob("*.prefix"))) == 2


# -- logit processors -----------------------------------------------------------------------------------------------

PROCESSING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 20]),
    top_p=st.sampled_from([1.0, 0.9]),
    min_p=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 2**63 - 1),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 1.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    logit_bias=st.dictionaries(st.integers(0, 767), st.floats(-20, 20, width=32), max_size=4),
    suppress=st.lists(st.integers(0, 767), max_size=5),
)


def processed(row: NDArray[Any], sampling: Sampling, prompt: list[int], output: list[int]) -> NDArray[np.float32]:
    """The processors' definition, in float32 and token by token."""
    row = row.astype(np.float32).copy()
    for token, bias in sampling.logit_bias.items():
        row[token] += np.float32(bias)
    for token in {*prompt, *output}:
        penalty = np.float32(sampling.repetition_penalty)
        row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    for token in set(output):
        row[token] -= np.float32(sampling.presence_penalty)
        row[token] -= np.float32(sampling.frequency_penalty) * np.float32(output.count(token))
    row[list(sampling.suppress)] = -np.inf
    return row


@SLOW
@given(PROCESSING, st.data())
def test_processors_change_the_text_as_defined_and_drafts_do_not_change_it(
    engine: Engine, prompts: list[list[int]], logits: Logits, sampling: Sampling, data: st.DataObject
) -> None:
    prompt = data.draw(st.sampled_from(prompts))
    plain, _, _ = generate(engine.runner, Request(prompt, 25, sampling=sampling))
    for k in (1, 4, 7):
        request = Request(prompt, 25, draft_length=k, sampling=sampling, draft_sources=("drafter", "lookup"))
        assert generate(engine.runner, request)[0] == plain
    # Token by token from the interpreter's logits; where rounding may decide, either side of it is right.
    control = np.array([int(sampling.temperature > 0), sampling.top_k, *divmod_seed(sampling.seed), 0, 0, 0, 0])
    scalars = np.array([sampling.temperature, sampling.top_p, sampling.min_p, 0], np.float32)
    for index, row in enumerate(logits.of_reply(prompt, plain)):
        ready = processed(row, sampling, prompt, plain[:index])
        chosen = numpy_select.select(ready, control, scalars, None, len(prompt) + index)
        if chosen.token != plain[index]:
            close = chosen.margin < 1e-3 if sampling.temperature else ready.max() - ready[plain[index]] < 1e-3
            assert close, (index, chosen, plain[index])


def divmod_seed(seed: int) -> tuple[int, int]:
    low, high = seed & 0xFFFFFFFF, seed >> 32
    return low - (low >> 31 << 32), high - (high >> 31 << 32)


# -- stop texts, log-probabilities, sources -------------------------------------------------------------------------


def test_stop_texts_end_the_text_where_their_last_byte_is_written(engine: Engine, prompts: list[list[int]]) -> None:
    table = Bundle(engine.bundle.path).token_bytes
    assert table is not None
    generator = random.Random(1)
    for prompt in prompts:
        whole, _, _ = generate(engine.runner, Request(prompt, 40))
        written = [table[token] for token in whole]
        text = b"".join(written)
        for _ in range(6):
            start = generator.randrange(len(text) - 8)
            stop = text[start : start + generator.randrange(1, 8)]
            try:
                stop_text = stop.decode()
            except UnicodeDecodeError:
                continue
            end = text.index(stop) + len(stop)  # of its first occurrence
            tokens = next(n for n in range(1, len(whole) + 1) if sum(map(len, written[:n])) >= end)
            for k in (0, 3, 7):
                request = Request(prompt, 40, draft_length=k, stop_texts=["~~never~~", stop_text])
                answer, _, outcome = generate(engine.runner, request)
                assert answer == whole[:tokens], (stop_text, k)
                assert outcome.finish == "stop"


def test_log_probabilities_are_those_of_the_model(engine: Engine, prompts: list[list[int]], logits: Logits) -> None:
    for prompt, sampling in zip(
        prompts, [Sampling(), Sampling(temperature=1.2, seed=3), Sampling(logit_bias={59: 9.0})] * 4, strict=True
    ):
        described = {}
        for k in (0, 5):
            request = Request(prompt, 30, draft_length=k, sampling=sampling, logprobs=True)
            tokens, steps, _ = generate(engine.runner, request)
            described[k] = [(lp, m) for step in steps for lp, m in zip(step.logprobs, step.margins, strict=True)]
            assert len(described[k]) == len(tokens)
        rows = logits.of_reply(prompt, tokens).astype(np.float64)
        expected = (
            rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
        )
        best = np.sort(rows, 1)
        for got in described.values():
            assert [lp for lp, _ in got] == pytest.approx(expected[range(len(tokens)), tokens], abs=2e-3)
            assert [m for _, m in got] == pytest.approx(best[:, -1] - best[:, -2], abs=2e-3)
    assert generate(engine.runner, Request(prompts[0], 5))[1][0].logprobs == []


def test_each_source_drafts_what_it_says_and_none_changes_the_text(engine: Engine, prompts: list[list[int]]) -> None:
    sources: dict[str, int] = {}
    for prompt in prompts:
        plain, _, _ = generate(engine.runner, Request(prompt, 60))
        for allowed in (("drafter",), ("lookup",), ("drafter", "lookup"), ()):
            tokens, steps, _ = generate(engine.runner, Request(prompt, 60, draft_length=5, draft_sources=allowed))
            assert tokens == plain
            drawn = "".join(step.source for step in steps)
            assert set(drawn) <= {name[0] for name in allowed}
            assert all(len(step.source) == len(step.draft) for step in steps)
            if not allowed:
                assert all(step.kind == "verify" and step.draft == [] for step in steps[1:-6])
            if allowed == ("lookup",):
                sources["copied"] = sources.get("copied", 0) + sum(step.accepted for step in steps)
    assert sources["copied"] > 0


def test_the_controller_chooses_within_what_is_allowed(engine: Engine, prompts: list[list[int]]) -> None:
    for most in (1, 4, 7):
        for prompt in prompts[:4]:
            plain, _, _ = generate(engine.runner, Request(prompt, 60))
            request = Request(prompt, 60, draft_length=most, draft_policy="auto")
            tokens, steps, _ = generate(engine.runner, request)
            assert tokens == plain
            assert all(len(step.draft) <= most and step.planned <= most for step in steps)
