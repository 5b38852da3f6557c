"""Figures of a trace, against independent reckonings."""

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.device import Outcome, Step
from edge_mtp.summary import Drafted, summarize, summarize_all

Finish = Literal["stop", "length", "context", "cancelled"]


def make_step(accepted: int, drafted: int, count: int, total_us: float, index: int = 0, source: str = "") -> Step:
    return Step(
        request="r", step=index, kind="verify" if drafted else "plain", position=index, tokens=[7] * count,
        draft=[7] * drafted, confidence=[0.5] * drafted, source=source or "d" * drafted, accepted=accepted,
        planned=drafted, explore=index % 3 == 1, draft_us=1.0, mask_us=3.0 * index, embed_us=1.0, verify_us=1.0,
        select_us=0.0, total_us=total_us,
    )  # fmt: skip


def make_outcome(tokens: int, prompt: int = 10, reused: int = 0, finish: Finish = "length") -> Outcome:
    return Outcome("r", finish, prompt, reused, 0, tokens, 1500.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7), st.integers(1, 8), st.floats(1, 1e6)), max_size=40))
def test_summary_counts_what_the_steps_did(shapes: list[tuple[int, int, int, float]]) -> None:
    """A step gives out its accepted drafts and one more token, or fewer where the text ends in it: what was drafted
    beyond is neither right nor wrong."""
    verifies = [make_step(min(a, k), k, min(g, min(a, k) + 1), us) for k, a, g, us in shapes]
    steps = [make_step(0, 0, 1, 500.0), *verifies]
    tokens = sum(len(s.tokens) for s in steps)
    summary = summarize(steps, make_outcome(tokens))

    assert summary.time_to_first_token_s == pytest.approx(0.002)
    assert summary.verify_steps == len(verifies)
    if not verifies:
        assert summary.tokens_per_s is None
        assert summary.tokens_per_verify is None
        return
    assert summary.tokens_per_verify == pytest.approx(np.mean([len(s.tokens) for s in verifies]))
    assert summary.tokens_per_s == pytest.approx((tokens - 1) / sum(s.total_us for s in verifies) * 1e6)
    for j, share in enumerate(summary.acceptance):
        reached = [s for s in verifies if len(s.draft) > j and s.accepted >= j and len(s.tokens) > j]
        assert summary.acceptance_counts[j] == len(reached)
        assert share == pytest.approx(np.mean([s.accepted > j for s in reached]))


letters = st.lists(st.sampled_from("dlg"), min_size=1, max_size=7)


@given(st.lists(letters.flatmap(lambda s: st.tuples(st.just("".join(s)), st.integers(0, len(s)))), max_size=30))
def test_drafts_are_counted_by_where_they_came_from(drafts: list[tuple[str, int]]) -> None:
    """Against a walk over single drafts. Every third step ends the text with its first token: an accepted draft, or
    the target's own."""
    given_out = [1 if i % 3 == 0 else a + 1 for i, (_, a) in enumerate(drafts)]
    steps = [make_step(a, len(s), n, 9.0, i, s) for i, ((s, a), n) in enumerate(zip(drafts, given_out, strict=True))]
    seen = [
        (letter, j < a)
        for (s, a), n in zip(drafts, given_out, strict=True)
        for j, letter in enumerate(s)
        if j < n or n > a  # of a text that goes on, or whose end the target chose, all that was verified
    ]
    summary = summarize(steps, make_outcome(1))
    names = {"d": "drafter", "l": "lookup", "g": "grammar"}
    assert summary.sources == {
        names[key]: Drafted(sum(k == key for k, _ in seen), sum(k == key and a for k, a in seen))
        for key in {k for k, _ in seen}
    }
    assert summary.explored == sum(i % 3 == 1 for i in range(len(steps)))
    assert summary.mask_ms == pytest.approx(np.mean([3e-3 * i for i in range(len(steps))]) if steps else 0)
    assert sum(summary.planned.values()) == len(steps)
    assert sum(k * n for k, n in summary.planned.items()) == sum(len(s) for s, _ in drafts)


def test_several_texts_add_up() -> None:
    texts = [
        ([make_step(0, 0, 1, 500.0), make_step(2, 3, 3, 300.0)], make_outcome(4, 10, 0)),
        ([make_step(0, 0, 1, 700.0), make_step(1, 3, 2, 200.0)], make_outcome(3, 14, 9, "stop")),
    ]
    total = summarize_all(texts)
    assert (total.prompt_tokens, total.reused_tokens, total.tokens, total.finish) == (24, 9, 7, "stop")
    assert total.tokens_per_s == pytest.approx(5 / 500e-6)  # neither text's first token is decoding
    assert total.time_to_first_token_s == pytest.approx((2000e-6 + 2200e-6) / 2)
    assert total.acceptance_counts == [2, 2, 1]
    assert total.acceptance == [1.0, 0.5, 0.0]
    assert json.loads(json.dumps(total.to_json()))["sources"] == {"drafter": {"verified": 6, "accepted": 3}}
