"""Prompt look-up against a search of the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_parts import Lookup, Refused

MAX_DRAFTS = 31  # proposal.h


def search(text: list[int], least: int, most: int) -> tuple[int, list[int]]:
    """Length of the longest suffix that stands earlier, at most `Lookup.longest()`, and what followed it last."""
    n = len(text)
    for length in range(min(Lookup.longest(), n - 1), max(least, 1) - 1, -1):
        for end in range(n - 1, length - 1, -1):
            if text[end - length : end] == text[n - length :]:
                followed = text[end:]
                while len(followed) < most:  # a text that goes in circles goes on
                    followed.append(followed[len(followed) - (n - end)])
                return length, followed[: min(most, MAX_DRAFTS)]
    return 0, []


@settings(max_examples=600, deadline=None)
@given(
    alphabet=st.sampled_from([1, 2, 3, 10, 1000]),
    moves=st.lists(st.tuples(st.integers(0, 10**9), st.booleans()), min_size=1, max_size=120),
    least=st.integers(0, 7),
    most=st.integers(0, 40),
)
def test_every_proposal_is_that_of_a_search(
    alphabet: int, moves: list[tuple[int, bool]], least: int, most: int
) -> None:
    text: list[int] = []
    lookup = Lookup(capacity=60)
    for number, push in moves:
        if push and len(text) < 60:
            text.append(number % alphabet)
            lookup.push(text[-1])
        elif number % 4 == 0:
            del text[number % (len(text) + 1) :]
            lookup.truncate(len(text))
        assert len(lookup) == len(text)
        assert lookup.propose(least, most)[0] == search(text, least, most)[1]


def test_a_truncated_index_is_the_index_of_what_is_left() -> None:
    """After thousands of appends and cuts every proposal is that of an index which saw the remaining text alone."""
    rng = np.random.default_rng(2)
    lookup = Lookup(capacity=4096)
    text: list[int] = []
    for _ in range(60):
        for token in rng.integers(0, rng.choice([2, 30, 262144]), rng.integers(1, 300)).tolist():
            if len(text) < 4096:
                text.append(token)
                lookup.push(token)
        keep = int(rng.integers(0, len(text) + 1))
        del text[keep:]
        lookup.truncate(keep)
    fresh = Lookup(capacity=4096)
    for token in text:
        fresh.push(token)
    for _ in range(500):
        token = int(rng.choice(text[-50:]))
        for index in (lookup, fresh):
            index.push(token)
        assert lookup.propose(1, 8) == fresh.propose(1, 8)


def test_begin_forgets_the_text_before() -> None:
    lookup = Lookup(capacity=8)
    for token in (5, 6, 5):
        lookup.push(token)
    assert lookup.propose(1, 1)[0] == [6]
    lookup.begin(16)
    assert len(lookup) == 0
    assert lookup.propose(1, 1)[0] == []
    for token in (6, 7, 6):
        lookup.push(token)
    assert lookup.propose(1, 1)[0] == [7]


def test_longer_matches_are_trusted_more() -> None:
    """The confidence is a probability and grows with the match, through the draft as well."""
    text = list(range(100, 120))
    previous = 0.0
    for length in range(1, Lookup.longest() + 1):
        lookup = Lookup(capacity=64)
        for token in [*text, 7, *text[5 : 5 + length]]:
            lookup.push(token)
        tokens, confidences = lookup.propose(1, 4)
        assert tokens == text[5 + length : 9 + length]
        assert confidences == sorted(confidences)
        assert previous < confidences[0] < 1.0
        previous = confidences[0]


def test_a_full_index_refuses_the_next_token() -> None:
    lookup = Lookup(capacity=2)
    lookup.push(1)
    lookup.push(1)
    with pytest.raises(Refused, match="full at 2 tokens"):
        lookup.push(1)
    assert lookup.propose(1, 3)[0] == [1, 1, 1]
