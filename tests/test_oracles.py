"""Texts and acceptance against other engines: transformers, and the stock LiteRT-LM engine on our own bundle."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_mtp.device import Request, Step
from edge_mtp.engine import Engine, open_engine

PROMPTS = 64
TOKENS = 128
# Two float32 implementations of one model round differently; a choice between logits closer than this is a toss-up.
TIE = 1e-3


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def conversations(engine: Engine, tiny_split: list[dict[str, Any]]) -> list[list[int]]:
    return [engine.chat_format.encode(item["messages"], item["tools"]) for item in tiny_split[:PROMPTS]]


def text_of(engine: Engine, request: Request) -> tuple[list[int], list[Step]]:
    steps = [record for record in engine.runner.generate(request) if isinstance(record, Step)]
    return [token for step in steps for token in step.tokens], steps


def test_greedy_text_is_that_of_transformers(engine: Engine, conversations: list[list[int]], tiny_target: Any) -> None:
    """128 tokens past any stop: MTP = plain = transformers, but where transformers itself sees a tie."""
    import torch

    ties = 0
    for prompt in conversations:
        plain, _ = text_of(engine, Request(prompt, TOKENS))
        drafted, _ = text_of(engine, Request(prompt, TOKENS, draft_length=3))
        assert drafted == plain
        with torch.no_grad():
            ids = torch.tensor([prompt + plain])
            logits = tiny_target(ids).logits[0, len(prompt) - 1 : -1]
        best = logits.argmax(-1).tolist()
        # Teacher forcing on our text: every token must be transformers' own choice after the same prefix.
        for index, (ours, theirs) in enumerate(zip(plain, best, strict=True)):
            if ours != theirs:
                margin = float(logits[index, theirs] - logits[index, ours])
                assert margin < TIE, (prompt, index, ours, theirs, margin)
                ties += 1
    assert ties <= PROMPTS * TOKENS // 1000


def test_plain_text_is_that_of_transformers_generate(
    engine: Engine, conversations: list[list[int]], tiny_target: Any
) -> None:
    import torch

    for prompt in conversations[:16]:
        ours, _ = text_of(engine, Request(prompt, 48))
        with torch.no_grad():
            out = tiny_target.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=48, eos_token_id=None, pad_token_id=0
            )
        assert ours == out[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def transformers_acceptance(engine: Engine, conversations: list[list[int]], tiny_target: Any) -> float:
    """Accepted over drafted tokens of `generate(assistant_model=...)` with three drafts a round, up to the stop.

    After a rejection transformers lets its drafter see one entry too many: the KV of the rejected draft, which stands
    where the last confirmed token's will. Neither LiteRT runtime does; the entry is cut off here (docs/drafter-position.md).
    """
    import torch
    from transformers import Gemma4AssistantForCausalLM
    from transformers.generation import candidate_generator

    from edge_mtp.export.checkpoint import drafters_allowed, tiny_pair

    accepted = drafted = 0
    generator: Any = candidate_generator.SinglePositionMultiTokenCandidateGenerator
    original, draft = generator.update_candidate_strategy, generator.get_candidates

    def without_stale_entry(self: Any, input_ids: Any, model_outputs: Any = None, **others: Any) -> Any:
        states = getattr(model_outputs, "shared_kv_states", None)
        if states:
            known = input_ids.shape[1] - 1
            model_outputs.shared_kv_states = {
                kind: (keys[:, :, :known], values[:, :, :known]) for kind, (keys, values) in states.items()
            }
        return draft(self, input_ids=input_ids, model_outputs=model_outputs, **others)

    def count(self: Any, input_ids: Any, scores: Any, num_matches: int) -> Any:
        nonlocal accepted, drafted
        accepted += int(num_matches)
        drafted += scores.shape[1] - 1
        return original(self, input_ids, scores, num_matches)

    generator.update_candidate_strategy, generator.get_candidates = count, without_stale_entry
    try:
        with drafters_allowed():
            drafter = Gemma4AssistantForCausalLM.from_pretrained(tiny_pair()[1], dtype="float32").eval()
            drafter.generation_config.num_assistant_tokens = 3
            drafter.generation_config.num_assistant_tokens_schedule = "constant"
            drafter.generation_config.assistant_confidence_threshold = 0.0
            for prompt in conversations:
                with torch.no_grad():
                    tiny_target.generate(
                        torch.tensor([prompt]),
                        assistant_model=drafter,
                        do_sample=False,
                        max_new_tokens=TOKENS,
                        eos_token_id=sorted(engine.chat_format.stop_token_ids),
                    )
    finally:
        generator.update_candidate_strategy, generator.get_candidates = original, draft
    return accepted / drafted


def test_acceptance_is_that_of_transformers(
    engine: Engine, conversations: list[list[int]], transformers_acceptance: float
) -> None:
    stops = sorted(engine.chat_format.stop_token_ids)
    accepted = drafted = 0
    for prompt in conversations:
        for step in text_of(engine, Request(prompt, TOKENS, stops, draft_length=3))[1]:
            accepted += step.accepted
            drafted += len(step.draft)
    assert accepted / drafted == pytest.approx(transformers_acceptance, abs=0.02)


@contextmanager
def log_of_native_code() -> Iterator[list[str]]:
    """What is written to file descriptor 2 inside, once it is left."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            lines += log.read().decode(errors="replace").splitlines()


def test_the_stock_engine_drafts_from_the_same_file(
    engine: Engine, tiny_bundle: Path, tiny_split: list[dict[str, Any]], transformers_acceptance: float, tmp_path: Path
) -> None:
    """Same text, and the acceptance of transformers: the drafter's position convention is the right one."""
    import litert_lm

    chat = engine.chat_format
    stops = sorted(chat.stop_token_ids)
    with log_of_native_code() as log:
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
        stock = litert_lm.Engine(
            str(tiny_bundle),
            backend=litert_lm.Backend.CPU(thread_count=1),
            enable_speculative_decoding=True,
            cache_dir=str(tmp_path),
        )
        for item in tiny_split[:PROMPTS]:
            prompt = chat.render(item["messages"], item["tools"])
            with stock.create_session(max_output_tokens=TOKENS, apply_prompt_template=False) as session:
                session.run_prefill([prompt.removeprefix("<bos>")])  # the engine puts the start token itself
                theirs = session.run_decode().texts[0]
            ours, _ = text_of(engine, Request(chat.tokenizer.encode(prompt), TOKENS, stops, draft_length=3))
            text = chat.tokenizer.decode([token for token in ours if token not in chat.stop_token_ids])
            if len(ours) < TOKENS:
                assert theirs == text
            else:  # the stock engine gives out the whole of the step that passes its limit
                assert theirs.startswith(text)
        stock.close()
    rates = [float(rate) for rate in re.findall(r"Success rate: ([0-9.eE+-]+)", "\n".join(log))]
    assert rates, "the stock engine logged no success rate"
    assert rates[-1] == pytest.approx(transformers_acceptance, abs=0.02)
