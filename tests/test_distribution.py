"""Sampled text has the model's own law: the joint distribution of a step's tokens against the exact one."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edge_mtp.device import Request, Sampling, Step
from edge_mtp.engine import open_engine

SEEDS = 20_000
TOP_K = 3
TEMPERATURE = 1.3
LENGTH = 4  # one plain token, then the rows of a verify with K = 3


def exact_law(model: Any, prompt: list[int]) -> dict[tuple[int, ...], float]:
    """Probability of every continuation of LENGTH tokens, from transformers' own logits."""
    import torch

    law = {(): 1.0}
    for _ in range(LENGTH):
        contexts = list(law)
        with torch.no_grad():
            rows = model(torch.tensor([prompt + list(c) for c in contexts])).logits[:, -1].double().numpy()
        longer = {}
        for context, row in zip(contexts, rows, strict=True):
            kept = np.argsort(-row, kind="stable")[:TOP_K]
            weights = np.exp((row[kept] - row[kept].max()) / TEMPERATURE)
            for token, share in zip(kept, weights / weights.sum(), strict=True):
                longer[(*context, int(token))] = law[context] * float(share)
        law = longer
    return law


def test_the_joint_law_of_a_step_is_the_targets(tiny_bundle: Path, tiny_target: Any) -> None:
    with open_engine(tiny_bundle) as engine:
        # A greeting has many plausible replies: the law is spread over its support.
        prompt = engine.chat_format.encode([{"role": "user", "content": "Hello"}])
        law = exact_law(tiny_target, prompt)
        seen: Counter[tuple[int, ...]] = Counter()
        accepted: Counter[int] = Counter()
        for seed in range(SEEDS):
            sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
            request = Request(prompt, LENGTH, draft_length=LENGTH - 1, sampling=sampling)
            steps = [record for record in engine.runner.generate(request) if isinstance(record, Step)]
            seen[tuple(itertools.chain.from_iterable(step.tokens for step in steps))] += 1
            accepted[steps[1].accepted] += 1

    assert set(seen) <= set(law)  # nothing outside top-k
    assert min(accepted[n] for n in range(LENGTH)) >= SEEDS / 200, accepted  # rows accepted, and not, in numbers
    expected = {tokens: share * SEEDS for tokens, share in law.items()}
    common = [tokens for tokens, count in expected.items() if count >= 5]
    rare = sum(count for count in expected.values() if count < 5)
    observed_cells = [seen[tokens] for tokens in common]
    expected_cells = [expected[tokens] for tokens in common]
    if rare >= 5:
        observed_cells.append(SEEDS - sum(observed_cells))
        expected_cells.append(rare)
    expected_cells = [count * sum(observed_cells) / sum(expected_cells) for count in expected_cells]
    assert len(common) >= 20  # a law of one continuation would test nothing
    assert stats.chisquare(observed_cells, expected_cells).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
def test_coupled_drafts_are_accepted_at_least_as_often_as_greedy_ones(
    tiny_bundle: Path, tiny_split: list[dict[str, Any]], temperature: float
) -> None:
    """Drafting with the target's own random numbers loses nothing, and gains where sampling is free to wander."""
    rates = {}
    with open_engine(tiny_bundle) as engine:
        stops = sorted(engine.chat_format.stop_token_ids)
        prompts = [engine.chat_format.encode(item["messages"], item["tools"]) for item in tiny_split[:24]]
        for greedily in (False, True):
            accepted = verifies = 0
            for seed, prompt in enumerate(prompts):
                for repeat in range(3):
                    sampling = Sampling(temperature=temperature, seed=seed * 3 + repeat)
                    request = Request(prompt, 40, stops, 3, greedily, sampling)
                    steps = [r for r in engine.runner.generate(request) if isinstance(r, Step) and r.kind == "verify"]
                    accepted += sum(step.accepted for step in steps)
                    verifies += len(steps)
            rates[greedily] = accepted / verifies
    assert rates[False] >= rates[True] - 0.1
