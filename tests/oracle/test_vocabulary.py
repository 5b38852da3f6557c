"""All that reads a vocabulary, on a real one: 262,144 tokens, byte fallback, added tokens that are not special."""

from __future__ import annotations

import json
import random
import re
import struct
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tokenizers
from gemma_vocabulary import VOCABULARY, tokenizer_json
from hypothesis import given, settings
from hypothesis import strategies as st
from native_constraint import Compiler, library
from tiny_checkpoints import CONTROL
from tool_declarations import many_tools

from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.formats.grammar import tool_grammar
from edge_mtp.formats.token_bytes import token_table

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
    return [bytes(text[start:end]) for start, end in pairwise(offsets)]


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
            *("the ", "Wecker", " 07:30", "{", '"key": ', "</td>", "<table>", "\n", "\n\n\n", "\t\t", "  ", " " * 37),
            *("é", "e\u0301", "한국어", "漢字かな", "العربية", "हिन्दी", "👩\u200d👩\u200d👧", "\U0001f9ff", "▁"),
            *("\u200b", "\ufeff", "\x00", "\x1b", "\U00013000", *CONTROL.values()),
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


# -- constraints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return library().tokens(table()).compiler([END])


GRAMMARS = [
    tool_grammar(many_tools(5)).text,
    tool_grammar(many_tools(50), choice="required").text,
    'root ::= "{" pair ("," pair)* "}"\npair ::= "\\"" [a-z_]{1,12} "\\":" " "? value\n'
    'value ::= "\\"" [^"\\\\]* "\\"" | "-"? [0-9]{1,9} | "[" (value ("," value)*)? "]" | "true" | "null"',
    'root ::= Regex("[\\u4E00-\\u9FFF]{2,5}([a-zé]+|[\\U0001F300-\\U0001FAFF]{1,3})")',
    'root ::= ([^<"]{0,20} "<|\\"|>")* [\\u0400-\\u04FF ]{3,9} "</td>"?',
]
# The first token of each length and first byte: shorter than the whole vocabulary, and as varied.
PROBES = 4000


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(GRAMMARS), st.integers(0, 1 << 30))
def test_a_mask_is_what_accept_takes(compiler: Compiler, grammar: str, seed: int) -> None:
    """In each state some thousands of tokens are tried: all kinds, and what the mask allows beside what it does not."""
    draw = random.Random(seed)
    constraint = compiler.constraint(grammar)
    for _ in range(8):
        mask = constraint.mask()
        allowed = np.flatnonzero(mask)
        tried = {draw.randrange(VOCABULARY) for _ in range(PROBES)} | set(CONTROL) | set(range(238, 494))
        tried |= set(draw.sample(allowed.tolist(), min(len(allowed), PROBES)))
        if len(allowed):  # neighbours of what is allowed begin like it
            pick = rows()[int(draw.choice(allowed))]
            tried |= {token for token in range(draw.randrange(97), VOCABULARY, 97) if rows()[token][:1] == pick[:1]}
        for token in tried:
            taken = constraint.accept(token)
            if taken:
                constraint.rollback(1)
            assert taken == mask[token], (token, rows()[token])
        if not len(allowed):
            return
        marks = [int(token) for token in allowed if token in CONTROL]
        assert constraint.accept(int(draw.choice(marks if marks and draw.random() < 0.5 else allowed)))


@pytest.mark.parametrize(
    ("counted", "fits"),
    [
        ('[^"\\\\]{0,5}', r'[^"\\]{1,5}'),
        ("[a-z]{2,40}", "[a-z]{1,40}"),
        ("[\u3040-\u30ff\u4e00-\u9fff]{1,3}", "[\u3040-\u30ff\u4e00-\u9fff]{1,3}"),
        ("([a-z]{1,6} | [0-9]{3})", "[a-z]{1,6}|[0-9]{1,3}"),
    ],
)
def test_a_counted_class_allows_just_the_tokens_that_fit(compiler: Compiler, counted: str, fits: str) -> None:
    """Against Python, over all tokens that are text by themselves."""
    mask = compiler.constraint(f"root ::= {counted}").mask()
    special = {entry["id"] for entry in _added() if entry["special"]}
    wrong = []
    for token, row in enumerate(rows()):
        try:
            text = row.decode()
        except UnicodeDecodeError:
            continue
        right = token not in special and re.fullmatch(fits, text) is not None
        if mask[token] != right and token != END:
            wrong.append((token, text))
    assert wrong == []


@settings(deadline=None, max_examples=150)
@given(TEXTS.filter(bool))
def test_forced_text_comes_in_the_tokens_that_the_tokenizer_writes(compiler: Compiler, text: str) -> None:
    """But for tags and runs of white space, which Gemma's tokenizer takes whole: there the draft may be another."""
    text = re.sub("[\x00\r▁]", "", text)[:60]  # a grammar holds no NUL
    right = tokenizer().encode(text)
    if END in right:
        return
    literal = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" if c not in '"\\' else "\\" + c
        for c in text
    )
    forced = compiler.constraint(f'root ::= "{literal}"').forced(len(text.encode()) + 1)
    assert forced[-1] == END
    assert b"".join(rows()[token] for token in forced[:-1]) == text.encode()
    if not re.search(r"<|\s\s|[^\S ]", text):
        assert forced[:-1] == right
