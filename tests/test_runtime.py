"""The native decode loop on the tiny pair: MTP never changes the text, limits are exact, errors harm nothing."""

import ctypes
import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mtp.bundle import Bundle
from edge_mtp.device import HostDevice, Outcome, Request, Runner, Sampling, Step
from edge_mtp.device.host import _runner_path, litert_library
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError

DRAFT_LENGTHS = range(1, 8)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(engine: Engine, tiny_split: list[dict[str, object]]) -> list[list[int]]:
    """Token ids of 24 conversations, spread over the kinds of the split."""
    chosen = random.Random(5).sample(tiny_split, 24)
    return [engine.chat_format.encode(item["messages"], item["tools"]) for item in chosen]  # type: ignore[arg-type]


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    assert all(isinstance(step, Step) for step in steps)
    return [token for step in steps for token in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


def test_greedy_text_is_the_same_at_every_draft_length(engine: Engine, prompts: list[list[int]]) -> None:
    for prompt in prompts:
        plain, _, _ = generate(engine.runner, Request(prompt, 64))
        for k in DRAFT_LENGTHS:
            drafted, steps, _ = generate(engine.runner, Request(prompt, 64, draft_length=k))
            assert drafted == plain, (k, prompt)
            assert max(len(step.draft) for step in steps) == k


def test_drafts_are_accepted(engine: Engine, prompts: list[list[int]]) -> None:
    """A drafter that is wired wrongly still gives the right text, only slowly: this is the test that notices."""
    stops = sorted(engine.chat_format.stop_token_ids)
    accepted = verifies = 0
    for prompt in prompts:
        _, steps, _ = generate(engine.runner, Request(prompt, 64, stop=stops, draft_length=3))
        accepted += sum(step.accepted for step in steps)
        verifies += sum(step.kind == "verify" for step in steps)
    assert 1 + accepted / verifies >= 2.0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
def test_sampled_text_depends_on_the_seed_and_not_on_the_drafts(
    engine: Engine, prompts: list[list[int]], temperature: float
) -> None:
    texts = set()
    for seed, prompt in enumerate(prompts[:8]):
        sampling = Sampling(temperature=temperature, top_k=40, top_p=0.95, seed=seed + (7 << 40))
        plain, _, _ = generate(engine.runner, Request(prompt, 48, sampling=sampling))
        for k in (1, 3, 7):
            for coupled in (False, True):
                request = Request(prompt, 48, draft_length=k, couple_drafts=coupled, sampling=sampling)
                assert generate(engine.runner, request)[0] == plain, (k, seed, coupled)
        texts |= {
            tuple(generate(engine.runner, Request(prompt, 48, sampling=replace(sampling, seed=s)))[0]) for s in range(4)
        }
    if temperature >= 1:
        assert len(texts) > 8  # other seeds, other texts


def test_the_number_of_tokens_is_exact_at_every_draft_length(engine: Engine, prompts: list[list[int]]) -> None:
    whole, _, _ = generate(engine.runner, Request(prompts[0], 40))
    for k in (0, *DRAFT_LENGTHS):
        for limit in (1, 2, 3, 5, 8, 9, 17):
            tokens, _, outcome = generate(engine.runner, Request(prompts[0], limit, draft_length=k))
            assert tokens == whole[:limit]
            assert outcome.finish == "length"
            assert outcome.tokens == limit


def test_a_stop_token_inside_a_step_ends_the_text_there(engine: Engine, prompts: list[list[int]]) -> None:
    for prompt in prompts[:6]:
        whole, _, _ = generate(engine.runner, Request(prompt, 40))
        for stop in set(whole[3:]):
            end = whole.index(stop) + 1
            for k in (0, 3, 7):
                tokens, _, outcome = generate(engine.runner, Request(prompt, 40, stop=[stop], draft_length=k))
                assert tokens == whole[:end]
                assert outcome.finish == "stop"


def test_the_context_is_used_to_its_last_entry_and_no_further(engine: Engine, prompts: list[list[int]]) -> None:
    """Near the end of the cache a wide write would shift back over valid entries; the text must not notice."""
    context = engine.context_length
    filler = [token for prompt in prompts for token in prompt]
    for length in (context - 1, context - 2, context - 5, context - 9, context - 130):
        prompt = filler[:length]
        plain, _, outcome = generate(engine.runner, Request(prompt, 500))
        assert outcome.finish == "context"
        assert len(plain) == context - length + 1
        for k in (1, 3, 7):
            drafted, _, outcome = generate(engine.runner, Request(prompt, 500, draft_length=k))
            assert drafted == plain, (length, k)
            assert outcome.finish == "context"


def test_prefill_in_chunks_equals_prefill_in_one_go(engine: Engine, prompts: list[list[int]]) -> None:
    """A prompt cut anywhere goes on as the longer one does: chunk borders and padding leave no mark."""
    prompt = prompts[1]
    whole, _, _ = generate(engine.runner, Request(prompt, 30))
    for cut in (1, 2, 7, 15, 29):
        longer = prompt + whole[:cut]
        rest, _, _ = generate(engine.runner, Request(longer, 30 - cut, draft_length=3))
        assert rest == whole[cut:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [10**6]}, "outside the vocabulary"),
        ({"prompt": [5] * 5000}, "context holds"),
        ({"draft_length": 9}, "draft length 9 is not in this bundle"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"sampling": Sampling(temperature=0.5, top_p=0.0)}, "out of range"),
        ({"sampling": Sampling(temperature=0.5, min_p=1.0)}, "out of range"),
        ({"sampling": Sampling(temperature=0.5, seed=-1)}, "seed"),
    ],
)
def test_a_refused_request_names_the_value_and_harms_nothing(
    engine: Engine, prompts: list[list[int]], change: dict[str, object], message: str
) -> None:
    request = Request(prompts[0], 8, draft_length=3)
    before, _, _ = generate(engine.runner, request)
    with pytest.raises(EdgeMtpError, match=message):
        generate(engine.runner, replace(request, **change))  # type: ignore[arg-type]
    assert generate(engine.runner, request)[0] == before


def test_a_cancelled_request_leaves_the_session_usable(engine: Engine, prompts: list[list[int]]) -> None:
    request = Request(prompts[2], 60, draft_length=3)
    before, _, _ = generate(engine.runner, request)
    for leave_after in (1, 2, 5):
        for index, _ in enumerate(engine.runner.generate(replace(request, max_tokens=600))):
            if index == leave_after:
                break
        assert generate(engine.runner, request)[0] == before


def test_the_trace_adds_up(engine: Engine, prompts: list[list[int]]) -> None:
    for k in (0, 3):
        tokens, steps, outcome = generate(engine.runner, Request(prompts[3], 50, draft_length=k))
        assert outcome.tokens == len(tokens)
        assert outcome.prompt_tokens == len(prompts[3])
        position = len(prompts[3])
        for index, step in enumerate(steps):
            assert step.step == index
            assert step.position == position
            position += len(step.tokens)
            assert step.tokens[: step.accepted] == step.draft[: len(step.tokens)][: step.accepted]
            assert len(step.confidence) == len(step.draft)
            assert all(0 <= c <= 1 for c in step.confidence)
            parts = step.draft_us + step.embed_us + step.verify_us + step.select_us
            assert 0 < parts <= step.total_us * 1.001
        assert outcome.total_us >= (outcome.prefill_us + sum(s.total_us for s in steps)) * 0.999


def test_int8_text_is_the_same_at_every_draft_length(tiny_int8_bundle: Path, prompts: list[list[int]]) -> None:
    with HostDevice().start(tiny_int8_bundle) as runner:
        for prompt in prompts:
            plain, _, _ = generate(runner, Request(prompt, 64))
            for k in (1, 3, 7):
                assert generate(runner, Request(prompt, 64, draft_length=k))[0] == plain


def test_packed_weights_are_kept_whole(
    tiny_bundle: Path, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = []
    for _ in range(2):
        with HostDevice().start(tiny_bundle) as runner:
            texts.append(generate(runner, Request(prompts[0], 20, draft_length=3))[0])
        kept = list((tmp_path / "edge-mtp" / "weights").iterdir())
        assert kept
        assert all(path.suffix == ".xnnpack" for path in kept), kept
    assert texts[0] == texts[1]


def test_the_runner_answers_every_line(tiny_bundle: Path) -> None:
    """Malformed lines get an error record each; requests waiting at the end of input are still served."""
    bad = [
        "{",
        "[]",
        '{"op":"dance"}',
        '{"op":"generate","request":"x","prompt":[1],"max_tokens":1,"colour":1}',
        '{"op":"generate","prompt":"hi","max_tokens":1}',
        '{"op":"generate","prompt":[1],"max_tokens":1.5}',
    ]
    good = [f'{{"op":"generate","request":"g{i}","prompt":[2,105],"max_tokens":3}}' for i in range(3)]
    command = [str(_runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library())]
    lines = "\n".join([*bad, *good]) + "\n"
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=True)
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert records[0]["event"] == "ready"
    assert [r["event"] for r in records].count("error") == len(bad)
    assert [r["request"] for r in records if r["event"] == "done"] == ["g0", "g1", "g2"]


def test_the_sanitizers_find_nothing(
    tiny_bundle: Path, prompts: list[list[int]], engine: Engine, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Whole requests through the runner built with the address and undefined-behaviour sanitizers."""
    sanitized = pytestconfig.getoption("--sanitized-runner")
    if sanitized is None:
        pytest.skip("no --sanitized-runner given; .ci/run builds one")
    command = [str(sanitized), "--bundle", str(tiny_bundle), "--litert", str(litert_library())]
    with Runner([*command, "--cache-dir", str(tmp_path)]) as runner:
        for k, temperature in [(0, 0.0), (3, 0.0), (7, 0.8)]:
            sampling = Sampling(temperature=temperature, top_k=20, top_p=0.9, seed=4)
            request = Request(prompts[4], 30, draft_length=k, sampling=sampling)
            assert generate(runner, request)[0] == generate(engine.runner, request)[0]
        with pytest.raises(EdgeMtpError, match="prompt is empty"):
            generate(runner, Request([], 4))
    assert runner.exit_code == 0  # a finding ends the process with another


def test_the_c_library_reports_its_errors(tiny_bundle: Path) -> None:
    """The same library that apps link: opening fails with a message, and describes what it opened."""

    class Options(ctypes.Structure):
        _fields_ = (("library", ctypes.c_char_p), ("cache", ctypes.c_char_p), ("threads", ctypes.c_int32))

    class Info(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_int32) for name in ("context", "vocabulary", "max_draft_length"))

    library = ctypes.CDLL(str(_runner_path().parent / "libedge_mtp.so"))
    library.edge_mtp_open.restype = ctypes.c_void_p
    library.edge_mtp_open.argtypes = (ctypes.c_char_p, ctypes.POINTER(Options))
    library.edge_mtp_error.restype = ctypes.c_char_p
    library.edge_mtp_describe.restype = Info
    library.edge_mtp_describe.argtypes = (ctypes.c_void_p,)
    library.edge_mtp_close.argtypes = (ctypes.c_void_p,)

    options = Options(os.fsencode(litert_library()), None, 1)
    assert library.edge_mtp_open(b"/absent.litertlm", ctypes.byref(options)) is None
    assert b"/absent.litertlm" in library.edge_mtp_error()
    wrong = Options(b"/absent/libLiteRt.so", None, 1)
    assert library.edge_mtp_open(os.fsencode(tiny_bundle), ctypes.byref(wrong)) is None
    assert b"/absent/libLiteRt.so" in library.edge_mtp_error()

    opened = library.edge_mtp_open(os.fsencode(tiny_bundle), ctypes.byref(options))
    assert opened
    info = library.edge_mtp_describe(opened)
    assert info.max_draft_length == 7
    assert info.vocabulary >= (Bundle(tiny_bundle).vocab_size or 0)
    library.edge_mtp_close(opened)
