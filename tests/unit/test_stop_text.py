"""Stop strings, in the runner and in Python, by shared cases; and in the runner against a search of the whole text.

Python's own search is in test_chat.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_parts import Refused, StopText

from edge_mtp.chat.detokenizer import Detokenizer

FILE = Path(__file__).parents[1] / "helpers" / "stop_cases.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
each_case = pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])


def bytes_of(case: dict[str, Any]) -> list[bytes]:
    """The bytes of each token: text, or a list of bytes that need not be text."""
    return [text.encode() if isinstance(text, str) else bytes(text) for text in case["tokens"]]


@each_case
def test_the_runner_ends_a_text_at_the_token_of_the_case(case: dict[str, Any]) -> None:
    stops = StopText(bytes_of(case), [stop.encode() for stop in case["stops"]])
    found = [stops.push(token) for token in case["output"]]
    at = next((place for place, stop in enumerate(found) if stop >= 0), None)
    assert (at, None if at is None else found[at]) == (case["ends_at"], case["stop"])


@each_case
def test_python_ends_a_text_at_the_token_of_the_case_and_before_its_string(case: dict[str, Any]) -> None:
    tokenizer = SimpleNamespace(token_bytes=bytes_of(case).__getitem__)
    stream = Detokenizer(tokenizer, case["stops"])  # type: ignore[arg-type]  # all that it asks of a tokenizer
    text, ends = "", []
    for token in case["output"]:
        text += stream.push(token)
        ends.append(stream.stopped)
    assert (ends.index(True) if any(ends) else None) == case["ends_at"]
    assert text + stream.finish() == case["text"]


def search(texts: list[bytes], strings: list[bytes], output: list[int]) -> list[int]:
    """For each token of the output: of the strings that end in it, the first to end, then the longest, then the first
    given; -1 where none does."""
    answers, text = [], b""
    for token in output:
        start = len(text)
        text += texts[token]
        ends = [
            (end, -len(string), index)
            for end in range(start + 1, len(text) + 1)
            for index, string in enumerate(strings)
            if text[:end].endswith(string)
        ]
        answers.append(min(ends)[2] if ends else -1)
    return answers


# Two letters make overlaps, borders and nested strings frequent.
letters = st.lists(st.sampled_from([b"a", b"b"]), max_size=6).map(b"".join)


@settings(max_examples=1500, deadline=None)
@given(
    texts=st.lists(letters, min_size=1, max_size=8),
    strings=st.lists(letters.filter(bool), min_size=1, max_size=5),
    picks=st.lists(st.integers(0, 1000), max_size=40),
)
def test_every_answer_is_that_of_a_search(texts: list[bytes], strings: list[bytes], picks: list[int]) -> None:
    output = [pick % len(texts) for pick in picks]
    stops = StopText(texts, strings)
    assert [stops.push(token) for token in output] == search(texts, strings, output)


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(st.binary(max_size=4), min_size=2, max_size=30),
    picks=st.lists(st.integers(0, 1000), min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 12)), min_size=1, max_size=4),
)
def test_strings_cut_from_the_text_are_found(texts: list[bytes], picks: list[int], cuts: list[tuple[int, int]]) -> None:
    """Any bytes, zeros and halves of UTF-8 characters among them; strings that begin and end inside tokens."""
    output = [pick % len(texts) for pick in picks]
    text = b"".join(texts[token] for token in output)
    strings = [text[at % (len(text) + 1) :][:size] for at, size in cuts]
    strings = [string for string in strings if string] or [b"x"]
    stops = StopText(texts, strings)
    assert [stops.push(token) for token in output] == search(texts, strings, output)


def test_a_string_that_spans_tokens_ends_the_text_in_its_last_one() -> None:
    stops = StopText([b"User", b":", b"\n", b"\nUs", b"er:"], [b"\nUser:"])
    assert [stops.push(token) for token in (2, 3, 4)] == [-1, -1, 0]
    assert [stops.push(token) for token in (2, 0, 0, 2, 0, 1)] == [-1, -1, -1, -1, -1, 0]


def test_no_string_never_stops_and_an_empty_one_is_refused() -> None:
    assert StopText([b"a"], []).push(0) == -1
    with pytest.raises(Refused, match="a stop string is empty"):
        StopText([b"a"], [b"x", b""])
