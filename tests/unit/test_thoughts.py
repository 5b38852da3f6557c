"""Thoughts apart from text: by ids as they stream, and in whole texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.chat.thoughts import Channels, is_opened, thoughts_in
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.device import Thoughts
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import split_thoughts

TOKENIZER = Tokenizer.from_file(Path(edge_mtp.__file__).parent / "tiny" / "target" / "tokenizer.json")
MARKS = thoughts_in(TOKENIZER)
assert MARKS is not None
OPEN, CLOSE = MARKS.open, MARKS.close
HEADER = TOKENIZER.encode("thought\n")


def streamed(ids: list[int], prompt: list[int] | None = None, stops: tuple[str, ...] = ()) -> tuple[str, str]:
    """The reasoning and the text, joined from the pieces that a reply would give out."""
    thoughts = Thoughts(OPEN, CLOSE, HEADER, opened=prompt is not None)
    channels = Channels(TOKENIZER, stops, thoughts, prompt or ())
    pieces = {"reasoning": "", "text": ""}
    for token in ids:
        before = channels.channel
        rest, text = channels.push(token)
        pieces[before] += rest
        pieces[channels.channel] += text
    pieces[channels.channel] += channels.finish()
    return pieces["reasoning"], pieces["text"]


@pytest.mark.parametrize(
    ("wire", "reasoning", "text"),
    [
        ("Hello", "", "Hello"),
        ("<|channel>thought\nHm.\n<channel|>Hello", "Hm.", "Hello"),
        ("<|channel>thought\nHm.<channel|>Hello", "Hm.", "Hello"),
        ("<|channel>thought\n<channel|>Hello", "", "Hello"),
        ("<|channel>thought<channel|>Hello", "", "Hello"),
        ("<|channel><channel|>Hello", "", "Hello"),
        ("<|channel>tho<channel|>Hello", "tho", "Hello"),
        ("<|channel>thought\n\n\nHm.\n\n<channel|>\nHello\n", "\n\nHm.\n", "\nHello\n"),
        ("<|channel>plan\nHm.\n<channel|>Hello", "plan\nHm.", "Hello"),  # another name is no answer either
        ("<|channel>thought\nHm.\n", "Hm.\n", ""),  # cut off
        ("<|channel>though", "", ""),
        ("<|channel>", "", ""),
        ("<|channel>thought\nA\n<channel|>one<|channel>thought\nB\n<channel|>two", "A\n\nB", "onetwo"),
        ("<|channel>thought\n<channel|><|channel>thought\nB<channel|>two", "B", "two"),
        ("<|channel>thought\nA<|channel>thought\nB<channel|>two", "A\n\nB", "two"),
        ("one<channel|>two", "", "onetwo"),  # closes nothing
        ("<|channel>thought\n<|tool_call>call:x{}<tool_call|><channel|>ok", "<|tool_call>call:x{}<tool_call|>", "ok"),
        (
            '<|tool_call>call:x{}<tool_call|><|channel>thought\nB<channel|><|tool_call>call:y{v:<|"|>a<|"|>}<tool_call|>',
            "B",
            '<|tool_call>call:x{}<tool_call|><|tool_call>call:y{v:<|"|>a<|"|>}<tool_call|>',
        ),
    ],
)
def test_a_reply_is_taken_apart(wire: str, reasoning: str, text: str) -> None:
    assert split_thoughts(wire) == (reasoning, text)
    assert streamed(TOKENIZER.encode(wire)) == (reasoning, text)


def test_a_thought_that_the_prompt_has_opened_goes_on_in_the_reply() -> None:
    begun = TOKENIZER.encode("<bos><|turn>model\n<|channel>thought\n")
    assert is_opened(begun, MARKS, TOKENIZER)
    assert streamed(TOKENIZER.encode("Hm.\n<channel|>Hello"), begun) == ("Hm.", "Hello")
    assert split_thoughts("Hm.\n<channel|>Hello", opened=True) == ("Hm.", "Hello")
    assert streamed(TOKENIZER.encode("thought\nHm."), TOKENIZER.encode("<|channel>")) == ("Hm.", "")
    assert streamed(TOKENIZER.encode("thought\n<channel|>"), begun) == ("thought", "")
    for closed in ("", "<|channel>thought\n<channel|>", "<|channel>thought\nHm<turn|>\n<|turn>model\n", "<|channel"):
        assert not is_opened(TOKENIZER.encode("<bos>" + closed), MARKS, TOKENIZER)


def test_text_in_the_likeness_of_a_mark_is_text() -> None:
    ids = [i for character in "<|channel>thought\nHm<channel|>" for i in TOKENIZER.encode(character)]
    assert not {OPEN, CLOSE} & set(ids)
    assert streamed(ids) == ("", "<|channel>thought\nHm<channel|>")


def test_a_stop_string_is_looked_for_in_the_text_alone() -> None:
    wire = "<|channel>thought\nsay END\n<channel|>well EN<|channel>thought\nD<channel|>D, END of it"
    assert streamed(TOKENIZER.encode(wire), stops=("END",)) == ("say END\n\nD", "well END, ")


def test_a_vocabulary_without_the_marks_has_no_thoughts() -> None:
    class Bare(Tokenizer):
        def token_id(self, token: str) -> int:
            raise EdgeMtpError(token)

    bare = Bare((Path(edge_mtp.__file__).parent / "tiny" / "target" / "tokenizer.json").read_bytes())
    assert thoughts_in(bare) is None
    assert Channels(bare).push(OPEN) == ("", "<|channel>")


pieces = st.sampled_from(
    [[OPEN], [CLOSE], HEADER, *map(TOKENIZER.encode, ("thought", "\n", "a", "é🙂", "<|tool_call>"))]
)


@given(st.lists(pieces | st.lists(st.integers(107, TOKENIZER.vocab_size - 1), min_size=1, max_size=3), max_size=25))
def test_streams_join_to_what_the_whole_text_is_split_into(parts: list[list[int]]) -> None:
    """And what is neither is marks, headers, line breaks before a mark, and a separator between thoughts."""
    ids = [token for part in parts for token in part]
    wire = b"".join(map(TOKENIZER.token_bytes, ids))
    reasoning, text = streamed(ids)
    assert "<|channel>" not in text
    assert "<channel|>" not in text
    try:
        whole = wire.decode()
    except UnicodeDecodeError:  # bytes without their characters: each channel has its own replacements
        return
    if TOKENIZER.encode(whole).count(OPEN) == ids.count(OPEN):  # no likeness of a mark was spelled
        assert (reasoning, text) == split_thoughts(whole)
