"""Sampled text has the model's own law: the joint distribution of a step's tokens against the exact one."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from edge_mtp.device import Request, Sampling, Step
from edge_mtp.engine import open_engine

SEEDS = 20_000
TOP_K = 3
TEMPERATURE = 4.0  # spreads the law of a model that is sure of itself
DRAFTS = 3
LENGTH = 1 + DRAFTS + 1  # a plain token, then all rows of a verify


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
        prompt = engine.chat_format.encode([{"role": "user", "content": "Tell me something"}])
        law = exact_law(tiny_target, prompt)
        seen: Counter[tuple[int, ...]] = Counter()
        accepted: Counter[int] = Counter()
        for seed in range(SEEDS):
            sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
            request = Request(prompt, LENGTH, draft_length=DRAFTS, sampling=sampling)
            steps = [record for record in engine.runner.generate(request) if isinstance(record, Step)]
            seen[tuple(itertools.chain.from_iterable(step.tokens for step in steps))] += 1
            accepted[steps[1].accepted] += 1

    assert set(seen) <= set(law)  # nothing outside top-k
    assert min(accepted[n] for n in range(DRAFTS + 1)) >= SEEDS / 200, accepted  # rows accepted, and not, in numbers
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
