"""All that reads a vocabulary, on a real one: 262,144 tokens, byte fallback, added tokens that are not special."""

from __future__ import annotations

import json
import random
import re
import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from gemma_vocabulary import VOCABULARY, tokenizer_json
from hypothesis import given, settings
from hypothesis import strategies as st
from native_constraint import Compiler, Constraint, library
from tiny_checkpoints import CONTROL

from edge_mtp.chat import Detokenizer, Tokenizer
from edge_mtp.export.token_bytes import token_table
from edge_mtp.grammar import tool_grammar

END = 106
QUICK = settings(deadline=None, max_examples=60)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(tokenizer_json())


@cache
def oracle() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(tokenizer_json()))


@cache
def table() -> bytes:
    return token_table(tokenizer_json(), VOCABULARY)


@cache
def rows() -> list[bytes]:
    """The table's texts, read as its layout says."""
    magic, version, count, *offsets = struct.unpack_from(f"<4sII{VOCABULARY + 1}I", table())
    assert (magic, version, count) == (b"EMTB", 1, VOCABULARY)
    text = memoryview(table())[12 + 4 * len(offsets) :]
    return [bytes(text[start:end]) for start, end in zip(offsets, offsets[1:], strict=False)]


@pytest.fixture(scope="module", autouse=True)
def _vocabulary() -> None:
    tokenizer_json()  # or skip


# -- bytes ----------------------------------------------------------------------------------------------------------


def test_the_bytes_of_every_token_are_what_its_tokenizer_decodes() -> None:
    """Between two letters, so that nothing is stripped; the bytes of the fallback, which alone are no text, by name."""
    around = oracle().encode("x", add_special_tokens=False).ids
    decoded = oracle().decode_batch(
        [[*around, token, *around] for token in range(VOCABULARY)], skip_special_tokens=False
    )
    wrong = {}
    bytes_seen = 0
    for token, (text, row) in enumerate(zip(decoded, rows(), strict=True)):
        byte = re.fullmatch("<0x([0-9A-F]{2})>", str(oracle().id_to_token(token)))
        bytes_seen += byte is not None
        right = bytes([int(byte[1], 16)]) if byte else text[1:-1].encode()
        if not row == right == tokenizer().token_bytes(token):
            wrong[token] = row
    assert wrong == {}
    assert bytes_seen == 256


def test_special_are_the_control_tokens() -> None:
    flags = np.frombuffer(table()[-VOCABULARY:], np.uint8)
    special = {int(token) for token in np.flatnonzero(flags & 1)}
    assert set(CONTROL) < special
    assert special == {entry["id"] for entry in _added() if entry["special"]}
    assert all(rows()[token].decode() == name for token, name in CONTROL.items())


def _added() -> list[dict[str, Any]]:
    added: list[dict[str, Any]] = json.loads(tokenizer_json().read_text(encoding="utf-8"))["added_tokens"]
    return added


# Of every kind that a text can hold: scripts, combining marks, joined emoji, white space, what only bytes spell, marks.
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(
        [
            *("the ", "Wecker", " 07:30", "{", '"key": ', "</td>", "<table>", "\n", "\n\n\n", "\t\t", " " * 2, " " * 37, "▁"),
            *("é", "e\u0301", "한국어", "漢字かな", "العربية", "हिन्दी", "👩\u200d👩\u200d👧", "🏳️‍🌈", "\U0001f9ff", "\u200b", "\ufeff", "\x00", "\x1b", "𓀀"),
            *CONTROL.values(),
        ]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=400)
@given(TEXTS)
def test_encoding_keeps_a_texts_bytes(text: str) -> None:
    ids = tokenizer().encode(text)
    assert ids == oracle().encode(text, add_special_tokens=False).ids
    # What a literal U+2581 becomes is the tokenizer's affair: it writes spaces so.
    assert b"".join(rows()[token] for token in ids).decode() == text.replace("▁", " ")
    streamed = Detokenizer(tokenizer())
    pieces = [streamed.push(token) for token in ids]
    assert "".join(pieces) + streamed.finish() == oracle().decode(ids, skip_special_tokens=False)


@settings(max_examples=400)
@given(
    st.lists(st.integers(0, VOCABULARY - 1) | st.integers(238, 493), max_size=24),
    st.lists(TEXTS.filter(bool), max_size=3),
)
def test_streamed_ids_end_at_the_first_stop_string(ids: list[int], stops: list[str]) -> None:
    """Any ids, bytes of characters that are not whole among them."""
    whole = b"".join(rows()[token] for token in ids)
    if whole and stops:
        stops.append(whole[len(whole) // 3 :].decode(errors="ignore")[:5] or "x")
    found = [(at + len(stop.encode()), at) for stop in stops if (at := whole.find(stop.encode())) >= 0]
    right = whole[: min(found)[1]] if found else whole
    streamed = Detokenizer(tokenizer(), stops)
    pieces = [streamed.push(token) for token in ids]
    assert "".join(pieces) + streamed.finish() == right.decode(errors="replace")
