"""Our runner on bundles without our parts: the same semantics on the stock signatures alone."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from official_bundle import DRAFTS, Variant, write
from stock_engine import replies

from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.cli import main
from edge_mtp.device import HostDevice, Outcome, Request, Runner, Sampling, Step
from edge_mtp.device.host import litert_library, runner_path
from edge_mtp.device.process import LocalProcess
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import response_grammar

OFFICIAL = Variant()
FLOAT = [
    Variant("fp32"),
    Variant("fp32", "f16", param_tensor=False),
    Variant("fp32", "f32", param_tensor=False),
]
DRAFTING = [OFFICIAL, Variant(mask="f16"), Variant(mask="f32", param_tensor=False), *FLOAT]
NO_DRAFTER, NO_VERIFY = Variant(drafter=False), Variant(verify=False)
PLAIN_ONLY = [NO_VERIFY, Variant(drafter=False, verify=False)]
TOKENS = 64

Start = Callable[[Variant], Runner]
Written = Callable[[Variant], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("official")
    return cache(lambda variant: write(variant, folder / f"{variant}.litertlm"))


@pytest.fixture(scope="module")
def start(written: Written) -> Iterator[Start]:
    """Runners by variant, which the tests share."""
    with ExitStack() as stack:
        yield cache(lambda variant: stack.enter_context(HostDevice().start(written(variant))))


@pytest.fixture(scope="module")
def edge(tiny_bundle: Path) -> Iterator[Runner]:
    """The bundle with our parts, of the same weights."""
    with HostDevice().start(tiny_bundle) as runner:
        yield runner


@pytest.fixture(scope="module")
def chat(written: Written) -> ChatFormat:
    return chat_format_of(Bundle(written(OFFICIAL)))


@pytest.fixture(scope="module")
def prompts(chat: ChatFormat, tiny_split: list[dict[str, Any]]) -> list[list[int]]:
    chosen = random.Random(11).sample(tiny_split, 16)
    return [chat.encode(item["messages"], item["tools"]) for item in chosen]


@pytest.fixture(scope="module")
def stops(chat: ChatFormat) -> list[int]:
    return sorted(chat.stop_token_ids)


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    assert all(isinstance(step, Step) for step in steps)
    return [token for step in steps for token in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


def tokens_of(runner: Runner, request: Request) -> list[int]:
    return generate(runner, request)[0]


def fresh(written: Written, variant: Variant, tmp_path: Path, *options: str) -> Runner:
    """A runner that nothing was asked of yet."""
    command = [str(runner_path()), "--bundle", str(written(variant)), "--litert", str(litert_library())]
    return Runner(LocalProcess([*command, "--cache-dir", str(tmp_path), *options]))


@pytest.mark.parametrize("variant", DRAFTING, ids=str)
def test_the_bundle_says_what_it_can_do(variant: Variant, start: Start) -> None:
    ready = start(variant).ready
    assert (ready.context_length, ready.vocabulary) == (512, 1024)
    assert ready.max_draft_length == DRAFTS
    assert ready.has_drafter


@pytest.mark.parametrize("variant", DRAFTING, ids=str)
def test_greedy_text_is_the_same_at_every_draft_length(
    variant: Variant, start: Start, prompts: list[list[int]], stops: list[int]
) -> None:
    runner = start(variant)
    for prompt in prompts:
        plain, steps, _ = generate(runner, Request(prompt, TOKENS, stops))
        assert {step.kind for step in steps} == {"plain"}
        for k in range(1, DRAFTS + 1):
            drafted, steps, _ = generate(runner, Request(prompt, TOKENS, stops, draft_length=k))
            assert drafted == plain, (k, prompt)
            assert all(len(step.draft) <= k for step in steps)


@pytest.mark.parametrize("variant", FLOAT, ids=str)
def test_the_text_is_that_of_the_bundle_with_our_parts(
    variant: Variant, start: Start, edge: Runner, prompts: list[list[int]], stops: list[int]
) -> None:
    """Greedy, sampled and with penalties: equal weights, equal text, whichever signatures compute it."""
    for seed, prompt in enumerate(prompts):
        for sampling in (
            Sampling(),
            Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=seed),
            Sampling(repetition_penalty=1.2, presence_penalty=0.3, logit_bias={stops[0]: -1.0}),
        ):
            request = Request(prompt, TOKENS, stops, draft_length=DRAFTS, sampling=sampling)
            assert tokens_of(start(variant), request) == tokens_of(edge, request)


@pytest.mark.parametrize("variant", DRAFTING, ids=str)
def test_the_text_is_that_of_the_stock_engine(
    variant: Variant, start: Start, written: Written, chat: ChatFormat, prompts: list[list[int]], stops: list[int]
) -> None:
    rendered = [chat.tokenizer.decode(prompt) for prompt in prompts]
    theirs = replies(written(variant), rendered, TOKENS, drafting=True)
    for prompt, text in zip(prompts, theirs.texts, strict=True):
        ours = tokens_of(start(variant), Request(prompt, TOKENS, stops, draft_length=DRAFTS))
        assert ours[-1] in stops or len(ours) == TOKENS
        decoded = chat.tokenizer.decode([token for token in ours if token not in stops])
        # At its limit the stock engine gives out the whole of the step that passes it.
        assert text.startswith(decoded) if len(ours) == TOKENS else text == decoded


@pytest.mark.parametrize("variant", DRAFTING, ids=str)
def test_drafts_are_accepted_as_often_as_the_folded_ones(
    variant: Variant, start: Start, edge: Runner, prompts: list[list[int]], stops: list[int]
) -> None:
    def acceptance(runner: Runner) -> float:
        steps: list[Step] = []
        for prompt in prompts:
            steps += generate(runner, Request(prompt, TOKENS, stops, draft_length=DRAFTS))[1]
        drafted = sum(len(step.draft) for step in steps)
        assert {source for step in steps for source in step.source} == {"d"}
        return sum(step.accepted for step in steps) / drafted

    expected = acceptance(edge)
    assert expected > 0.6
    assert acceptance(start(variant)) == pytest.approx(expected, abs=0.01 if variant.kv == "fp32" else 0.05)


@pytest.mark.parametrize("variant", [OFFICIAL, FLOAT[0]], ids=str)
def test_sampled_text_depends_on_the_seed_and_not_on_the_drafts(
    variant: Variant, start: Start, prompts: list[list[int]]
) -> None:
    runner, others = start(variant), 0
    for seed, prompt in enumerate(prompts[:8]):
        free = Sampling(temperature=1.5, min_p=0.001, seed=seed)
        held = Sampling(temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.3, suppress=(9,), seed=seed)
        for sampling in (free, held):
            plain = tokens_of(runner, Request(prompt, 40, sampling=sampling))
            for k in range(1, DRAFTS + 1):
                for coupled in (False, True):
                    request = Request(prompt, 40, draft_length=k, couple_drafts=coupled, sampling=sampling)
                    assert tokens_of(runner, request) == plain, (k, seed, coupled)
        texts = [
            tokens_of(runner, Request(prompt, 40, sampling=replace(free, seed=s))) for s in (seed, seed + (1 << 40))
        ]
        others += texts[0] != texts[1]
    assert others >= 4


def test_the_number_of_tokens_is_exact(start: Start, prompts: list[list[int]]) -> None:
    whole = tokens_of(start(OFFICIAL), Request(prompts[0], 20))
    for k in range(DRAFTS + 1):
        for limit in (1, 2, 3, 4, 5, 8, 13):
            tokens, _, outcome = generate(start(OFFICIAL), Request(prompts[0], limit, draft_length=k))
            assert tokens == whole[:limit]
            assert (outcome.finish, outcome.tokens) == ("length", limit)


def test_the_context_is_used_to_its_last_entry_and_no_further(start: Start, prompts: list[list[int]]) -> None:
    """The prompt's chunks (32 and 128 rows), padded, and the verify's four rows all end inside the cache."""
    runner = start(OFFICIAL)
    context = runner.ready.context_length
    filler = [token for prompt in prompts for token in prompt]
    for length in (context - 1, context - 2, context - 4, context - 5, context - 33):
        plain, _, outcome = generate(runner, Request(filler[:length], 500))
        assert outcome.finish == "context"
        assert len(plain) == context - length + 1
        for k in range(1, DRAFTS + 1):
            drafted, _, outcome = generate(runner, Request(filler[:length], 500, draft_length=k))
            assert drafted == plain, (length, k)
            assert outcome.finish == "context"


def test_a_next_turn_equals_a_fresh_run_over_the_same_tokens(
    written: Written, start: Start, prompts: list[list[int]], stops: list[int], tmp_path: Path
) -> None:
    for prompt in prompts[:4]:
        for k in (0, DRAFTS):
            first = tokens_of(start(OFFICIAL), Request(prompt, TOKENS, stops, draft_length=k))
            turn = Request([*prompt, *first, *prompts[5][-20:]], 32, stops, draft_length=k)
            following, _, outcome = generate(start(OFFICIAL), turn)
            assert outcome.reused_tokens >= len(prompt) + len(first) - 1
            with fresh(written, OFFICIAL, tmp_path) as runner:
                expected, _, outcome = generate(runner, turn)
                assert outcome.reused_tokens == 0
            assert following == expected


def test_an_int8_cache_is_kept_and_restored(written: Written, prompts: list[list[int]], tmp_path: Path) -> None:
    request = Request(prompts[0], 24, draft_length=DRAFTS, keep_prefix=len(prompts[0]) - 10)
    texts, restored = [], []
    for _ in range(2):
        with fresh(written, OFFICIAL, tmp_path) as runner:
            tokens, _, outcome = generate(runner, request)
            texts.append(tokens)
            restored.append(outcome.restored_tokens)
    assert restored == [0, request.keep_prefix]
    assert texts[0] == texts[1]


def test_log_probabilities_are_those_of_plain_decoding(start: Start, prompts: list[list[int]]) -> None:
    def logprobs(k: int) -> list[float]:
        _, steps, _ = generate(start(OFFICIAL), Request(prompts[1], 24, draft_length=k, logprobs=True))
        return [value for step in steps for value in step.logprobs]

    plain = logprobs(0)
    assert len(plain) == 24
    assert max(plain) <= 0
    assert logprobs(DRAFTS) == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("variant", [OFFICIAL, FLOAT[1]], ids=str)
def test_more_drafts_than_verify_has_rows_for_are_refused(
    variant: Variant, start: Start, prompts: list[list[int]]
) -> None:
    before = tokens_of(start(variant), Request(prompts[0], 8, draft_length=DRAFTS))
    with pytest.raises(EdgeMtpError, match=r"draft length 4 .* 0 to 3$") as refusal:
        tokens_of(start(variant), Request(prompts[0], 8, draft_length=DRAFTS + 1))
    assert "\n" not in str(refusal.value)
    assert tokens_of(start(variant), Request(prompts[0], 8, draft_length=DRAFTS)) == before


def test_without_a_drafter_its_drafts_are_refused_and_others_work(
    start: Start, prompts: list[list[int]], stops: list[int]
) -> None:
    runner = start(NO_DRAFTER)
    assert not runner.ready.has_drafter
    assert runner.ready.max_draft_length == DRAFTS
    accepted = 0
    for prompt in prompts:
        plain = tokens_of(runner, Request(prompt, TOKENS, stops))
        assert plain == tokens_of(start(OFFICIAL), Request(prompt, TOKENS, stops))
        for sources in ((), ("lookup",), ("drafter", "lookup")):
            request = Request(prompt, TOKENS, stops, draft_length=DRAFTS, draft_sources=sources)
            drafted, steps, _ = generate(runner, request)
            assert drafted == plain, sources
            assert {source for step in steps for source in step.source} <= ({"l"} if sources else set())
            accepted += sum(step.accepted for step in steps)
    assert accepted > 0  # tool names are copied from the prompt
    with pytest.raises(EdgeMtpError, match="this bundle has no drafter") as refusal:
        tokens_of(runner, Request(prompts[0], 8, draft_length=1))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", PLAIN_ONLY, ids=str)
def test_without_verify_a_bundle_decodes_plainly(
    variant: Variant, start: Start, prompts: list[list[int]], stops: list[int]
) -> None:
    runner = start(variant)
    assert runner.ready.max_draft_length == 0
    for prompt in prompts[:4]:
        request = Request(prompt, TOKENS, stops)
        assert tokens_of(runner, request) == tokens_of(start(OFFICIAL), request)
        for sources in (("drafter",), ("lookup",), ()):
            with pytest.raises(EdgeMtpError, match="no verify signature") as refusal:
                tokens_of(runner, replace(request, draft_length=1, draft_sources=sources))
            assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("section", ["prefill_decode", "mtp_drafter"])
def test_an_input_that_nobody_fills_is_refused(section: Any, written: Written) -> None:
    """Left at zero it would give another text than the bundle's maker meant, or no draft that is right."""
    with pytest.raises(EdgeMtpError, match="'colour'") as refusal:
        HostDevice().start(written(Variant(extra_input=section))).close()
    assert "\n" not in str(refusal.value)


def test_a_drafter_of_another_target_is_refused(written: Written) -> None:
    """Its drafts would be noise, and nobody would know why they are never right."""
    with pytest.raises(EdgeMtpError, match=r"the drafter of .* does not fit .*'kv_cache_k_9'") as refusal:
        HostDevice().start(written(Variant(stray=True))).close()
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def token_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the bundle lacks, as a file."""
    from edge_mtp.export.checkpoint import tiny_pair
    from edge_mtp.formats.token_bytes import token_table

    path = tmp_path_factory.mktemp("token_bytes") / "token_bytes"
    path.write_bytes(token_table(tiny_pair()[0] / "tokenizer.json", 1024))
    return path


def test_stop_texts_need_the_token_bytes(
    written: Written, start: Start, chat: ChatFormat, prompts: list[list[int]], token_bytes: Path, tmp_path: Path
) -> None:
    whole = tokens_of(start(OFFICIAL), Request(prompts[0], 24))
    text = chat.tokenizer.decode(whole)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    request = Request(prompts[0], 24, stop_texts=[stop], draft_length=DRAFTS)
    with pytest.raises(EdgeMtpError, match="--token-bytes"):
        tokens_of(start(OFFICIAL), request)
    with fresh(written, OFFICIAL, tmp_path, "--token-bytes", str(token_bytes)) as runner:
        for k in range(DRAFTS + 1):
            tokens, _, outcome = generate(runner, replace(request, draft_length=k))
            assert outcome.finish == "stop"
            assert tokens == whole[: len(tokens)]
            assert stop in chat.tokenizer.decode(tokens)
            assert stop not in chat.tokenizer.decode(tokens[:-1])


def test_a_schema_holds_with_drafts_and_without(
    written: Written,
    start: Start,
    chat: ChatFormat,
    prompts: list[list[int]],
    stops: list[int],
    token_bytes: Path,
    tmp_path: Path,
) -> None:
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    request = Request(prompts[0], 40, stops, grammar=response_grammar(schema))
    with pytest.raises(EdgeMtpError, match="--token-bytes"):
        tokens_of(start(OFFICIAL), request)
    with fresh(written, OFFICIAL, tmp_path, "--token-bytes", str(token_bytes)) as runner:
        plain = tokens_of(runner, request)
        assert chat.tokenizer.decode(plain[:-1]) in ('{"on": true}', '{"on": false}')
        assert plain[-1] in stops
        for k in range(1, DRAFTS + 1):
            assert tokens_of(runner, replace(request, draft_length=k)) == plain


@pytest.mark.parametrize("variant", [OFFICIAL, NO_DRAFTER, *PLAIN_ONLY], ids=str)
def test_the_command_line_takes_a_bundle_without_our_parts(variant: Variant, written: Written) -> None:
    path = str(written(variant))

    def edge_mtp(*arguments: str) -> str:
        ran = CliRunner().invoke(main, arguments)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    assert "prefill_decode" in edge_mtp("inspect", path)
    assert Bundle(path).manifest is None
    assert len(edge_mtp("run", "--bundle", path, "--max-tokens", "8", "Wake me at 6:40")) > 0


def test_the_sanitizers_find_nothing(
    written: Written, start: Start, prompts: list[list[int]], pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Drafts step by step and selection from logits, in the runner built with sanitizers."""
    sanitized = pytestconfig.getoption("--sanitized-runner")
    if sanitized is None:
        pytest.skip("no --sanitized-runner given; .ci/run builds one")
    for variant in (OFFICIAL, NO_DRAFTER, NO_VERIFY):
        command = [str(sanitized), "--bundle", str(written(variant)), "--litert", str(litert_library())]
        process = LocalProcess([*command, "--cache-dir", str(tmp_path)])
        with Runner(process) as runner:
            drafts = runner.ready.max_draft_length
            for sampling in (Sampling(), Sampling(temperature=1.1, top_k=30, repetition_penalty=1.1, seed=3)):
                request = Request(prompts[0], 24, draft_length=drafts, sampling=sampling)
                request = replace(request, draft_sources=("drafter", "lookup"))
                assert tokens_of(runner, request) == tokens_of(start(OFFICIAL), replace(request, draft_length=0))
        assert process.wait(10) == 0  # a finding ends the process with another
