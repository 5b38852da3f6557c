"""Texts and acceptance against other engines: transformers, and the stock LiteRT-LM engine on our own bundle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stock_engine

from edge_mtp.device import Request, Step
from edge_mtp.engine import Engine, open_engine

PROMPTS = 64
TOKENS = 128
DRAFTS = 3
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
def transformers_rounds(engine: Engine, conversations: list[list[int]], tiny_target: Any) -> list[list[int]]:
    """Accepted drafts in each round of `generate(assistant_model=...)`, three drafts a round, for each conversation."""
    import torch
    from transformers import Gemma4AssistantForCausalLM
    from transformers.generation import candidate_generator

    from edge_mtp.export.checkpoint import drafters_allowed, tiny_pair

    rounds: list[list[int]] = []
    generator: Any = candidate_generator.SinglePositionMultiTokenCandidateGenerator
    original = generator.update_candidate_strategy

    def count(self: Any, input_ids: Any, scores: Any, num_matches: int) -> Any:
        if scores.shape[1] == 1 + DRAFTS:  # the first round of a text has no drafts
            rounds[-1].append(int(num_matches))
        return original(self, input_ids, scores, num_matches)

    generator.update_candidate_strategy = count
    try:
        with drafters_allowed():
            drafter = Gemma4AssistantForCausalLM.from_pretrained(tiny_pair()[1], dtype="float32").eval()
            drafter.generation_config.num_assistant_tokens = DRAFTS
            drafter.generation_config.num_assistant_tokens_schedule = "constant"
            drafter.generation_config.assistant_confidence_threshold = 0.0
            for prompt in conversations:
                rounds.append([])
                with torch.no_grad():
                    tiny_target.generate(
                        torch.tensor([prompt]),
                        assistant_model=drafter,
                        do_sample=False,
                        max_new_tokens=TOKENS,
                        eos_token_id=sorted(engine.chat_format.stop_token_ids),
                    )
    finally:
        generator.update_candidate_strategy = original
    return rounds


@pytest.fixture(scope="module")
def our_rounds(engine: Engine, conversations: list[list[int]]) -> list[list[int]]:
    """The same of our runner, which like the stock engine also counts drafts that agree beyond a stop token."""
    stops = sorted(engine.chat_format.stop_token_ids)
    rounds = []
    for prompt in conversations:
        _, steps = text_of(engine, Request(prompt, TOKENS, stops, draft_length=DRAFTS))
        rounds.append([step.accepted for step in steps if step.kind == "verify"])
    return rounds


def acceptance(rounds: list[list[int]]) -> float:
    return sum(map(sum, rounds)) / (DRAFTS * sum(map(len, rounds)))


def test_acceptance_is_that_of_transformers(our_rounds: list[list[int]], transformers_rounds: list[list[int]]) -> None:
    """In all rounds but each text's last, where transformers leaves out the drafts after the stop token."""
    ours, theirs = [text[:-1] for text in our_rounds], [text[:-1] for text in transformers_rounds]
    assert acceptance(ours) == pytest.approx(acceptance(theirs), abs=0.02)
    assert sum(map(len, our_rounds)) == pytest.approx(sum(map(len, transformers_rounds)), rel=0.02)


def test_the_stock_engine_drafts_from_the_same_file(
    engine: Engine, tiny_bundle: Path, tiny_split: list[dict[str, Any]], our_rounds: list[list[int]]
) -> None:
    """Same text, and our acceptance, which is that of transformers: its P - 1 and our P are one position."""
    chat = engine.chat_format
    stops = sorted(chat.stop_token_ids)
    prompts = [chat.render(item["messages"], item["tools"]) for item in tiny_split[:PROMPTS]]
    stock = stock_engine.replies(tiny_bundle, prompts, TOKENS, drafting=True)
    for prompt, theirs in zip(prompts, stock.texts, strict=True):
        ours, _ = text_of(engine, Request(chat.tokenizer.encode(prompt), TOKENS, stops, draft_length=3))
        text = chat.tokenizer.decode([token for token in ours if token not in chat.stop_token_ids])
        if len(ours) < TOKENS:
            assert theirs == text
        else:  # the stock engine gives out the whole of the step that passes its limit
            assert theirs.startswith(text)
    assert stock.success_rate == pytest.approx(acceptance(our_rounds), abs=0.02)
