"""A ByteLevel tokenizer (GPT-2 style): Python streams the bytes that the runner has in its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.formats.token_bytes import TokenBytes, token_table

STOP = "<|end|>"


def _tokenizer() -> Tokenizer:
    """A token for each byte, one for "th", and one for the first two bytes of the euro sign."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second, _ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("€")[0][0]
    merges = [("t", "h"), (first, second)]
    vocabulary = {piece: n for n, piece in enumerate([*alphabet, *map("".join, merges)])}
    made = Library(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(STOP, special=True)])
    return Tokenizer(made.to_str())


TOKENIZER = _tokenizer()


def streamed(ids: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    stream = Detokenizer(TOKENIZER, stops)
    return [*map(stream.push, ids), stream.finish()]


def test_a_character_comes_with_the_token_of_its_last_byte() -> None:
    assert streamed(TOKENIZER.encode("aé€🙂th")) == ["a", "", "é", "", "€", "", "", "", "🙂", "th", ""]


@given(st.text(max_size=40) | st.text("aé漢🙂€ \nth", max_size=20))
def test_streamed_pieces_are_the_text_and_never_half_a_character(text: str) -> None:
    pieces = streamed(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_any_tokens_are_the_text_of_their_bytes(ids: list[int]) -> None:
    assert "".join(streamed(ids)) == b"".join(map(TOKENIZER.token_bytes, ids)).decode("utf-8", "replace")


def test_a_stop_string_is_found_across_tokens_that_are_halves_of_characters() -> None:
    assert "".join(streamed(TOKENIZER.encode("12 € and"), ("€",))) == "12 "


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TokenBytes:
    path: Path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    path.write_text(TOKENIZER.source, encoding="utf-8")
    return TokenBytes(memoryview(token_table(path, TOKENIZER.vocab_size + 1)))


def test_the_table_has_the_bytes_that_python_streams(table: TokenBytes) -> None:
    assert [table[token] for token in range(TOKENIZER.vocab_size)] == [
        TOKENIZER.token_bytes(token) for token in range(TOKENIZER.vocab_size)
    ]
    assert {table[token] for token in range(256)} == {bytes([byte]) for byte in range(256)}
    assert table[TOKENIZER.token_id(STOP)] == STOP.encode()
    assert table[TOKENIZER.vocab_size] == b""
