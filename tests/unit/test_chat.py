"""Prompts and streaming: rendering, encoding, and a detokenizer that never shows half a character."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import load_tools

TINY = Path(edge_mtp.__file__).parent / "tiny"
CHAT = ChatFormat.from_directory(TINY / "target")
TOKENIZER = CHAT.tokenizer
USER = {"role": "user", "content": "Wake me at 6:40"}


@given(st.text(max_size=60))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(max_size=60) | st.text(alphabet="aé漢🙂👩\u200d👧 <|turn>", max_size=20))
def test_streamed_pieces_join_to_the_text(text: str) -> None:
    stream = Detokenizer(TOKENIZER)
    ids = TOKENIZER.encode(text)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in p for p in pieces)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_streaming_any_ids_ends_at_their_bytes(ids: list[int]) -> None:
    stream = Detokenizer(TOKENIZER)
    text = "".join([stream.push(i) for i in ids] + [stream.finish()])
    assert text == b"".join(map(TOKENIZER.token_bytes, ids)).decode("utf-8", "replace")
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert text == TOKENIZER.decode(ids)


@given(
    st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20)
    | st.text("abé🙂", max_size=12).map(TOKENIZER.encode),
    st.lists(st.text("abé🙂<|", min_size=1, max_size=4), max_size=3),
)
def test_a_text_ends_where_its_first_stop_string_begins(ids: list[int], stops: list[str]) -> None:
    """Against a search of the whole text: the string that ends first counts, of those the longest."""
    stream = Detokenizer(TOKENIZER, stops)
    whole = b"".join(map(TOKENIZER.token_bytes, ids))
    wanted = [stop.encode() for stop in stops]
    ends = [(end, end - len(s)) for s in wanted for end in range(len(s), len(whole) + 1) if whole[:end].endswith(s)]
    text = ""
    pushed = 0
    for token in ids:
        text += stream.push(token)
        pushed += len(TOKENIZER.token_bytes(token))
        assert stream.stopped == bool(ends and min(ends)[0] <= pushed)
        if not stream.stopped:
            # Nothing is held back without need.
            held = max(
                n for n in range(pushed + 1) if not n or any(s.startswith(whole[pushed - n : pushed]) for s in wanted)
            )
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            assert text == decoder.decode(whole[: pushed - held])
            assert stream.holds == (held > 0 or decoder.getstate()[0] != b"")
    assert text + stream.finish() == whole[: min(ends)[1] if ends else None].decode("utf-8", "replace")
    assert not stream.stopped


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(EdgeMtpError, match="stop string is empty"):
        Detokenizer(TOKENIZER, ["a", ""])


def test_the_kept_prefix_is_what_all_conversations_share() -> None:
    tools = load_tools(TINY / "tools.json")
    system = {"role": "system", "content": "Be brief."}
    for head, declared in [([system], []), ([], tools), ([system], tools)]:
        prompts = [
            CHAT.encode([*head, {"role": "user", "content": text}], declared) for text in ("hi", "\n no", "Ab 9")
        ]
        lengths = {CHAT.prefix_length(prompt, head, declared) for prompt in prompts}
        assert len(lengths) == 1
        length = lengths.pop()
        assert {tuple(prompt[:length]) for prompt in prompts} == {tuple(prompts[0][:length])}
        assert CHAT.tokenizer.decode(prompts[0][:length]).endswith("<turn|>\n<|turn>user\n")
    assert CHAT.prefix_length(CHAT.encode([USER]), [USER]) == 0


def test_a_detokenizer_can_be_used_again() -> None:
    stream = Detokenizer(TOKENIZER)
    half = TOKENIZER.encode("é")[:1]
    assert [stream.push(i) for i in half] == [""]
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    assert "".join(stream.push(i) for i in TOKENIZER.encode("again")) == "again"


def test_prompt_in_gemmas_form() -> None:
    tools = load_tools(TINY / "tools.json")[:1]
    assert CHAT.render([USER], tools) == (
        '<bos><|turn>system\n<|tool>declaration:set_alarm{description:<|"|>Set an alarm for a time<|"|>,'
        'parameters:{properties:{time:{description:<|"|>time as HH:MM<|"|>,type:<|"|>STRING<|"|>}},'
        'required:[<|"|>time<|"|>],type:<|"|>OBJECT<|"|>}}<tool|><turn|>\n'
        "<|turn>user\nWake me at 6:40<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    )


def test_history_keeps_the_model_turn_open_across_tool_responses() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"b": [1, "x", None], "A": {"k": True}}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "name": "f", "content": {"ok": True}},
        {"role": "tool", "name": "f", "content": "fine"},
    ]
    one = '<|tool_call>call:f{A:{k:true},b:[1,<|"|>x<|"|>,null]}<tool_call|>'
    opened = (
        f"<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nhi<turn|>\n<|turn>model\n{one}{one}"
        "<|tool_response>response:f{ok:true}<tool_response|>"
        '<|tool_response>response:f{value:<|"|>fine<|"|>}<tool_response|>'
    )
    assert CHAT.render(messages) == opened
    closed = CHAT.render([*messages, {"role": "assistant", "content": "Done."}, USER])
    assert closed.startswith(opened + "Done.<turn|>\n<|turn>user\n")
    assert CHAT.render([*messages, USER]).startswith(opened + "<turn|>\n<|turn>user\n")


def test_thinking_and_generation_prompt_are_variables() -> None:
    assert CHAT.render([USER], add_generation_prompt=False).endswith("6:40<turn|>\n")
    thinking = CHAT.render([USER], enable_thinking=True)
    assert thinking.startswith("<bos><|turn>system\n<|think|><turn|>\n")
    assert thinking.endswith("<|turn>model\n")


def test_control_tokens_have_gemmas_ids() -> None:
    assert CHAT.stop_token_ids == {106, 50}
    assert CHAT.encode([USER])[:2] == [2, 105]
    assert TOKENIZER.token_id("<|tool_call>") == 48
    assert TOKENIZER.token_text(52) == '<|"|>'


def test_malformed_parts_are_refused_in_one_line(tmp_path: Path) -> None:
    for make, named in (
        (lambda: Tokenizer(b"\xff"), "tokenizer.json"),
        (lambda: Tokenizer("{}"), "tokenizer.json"),
        (lambda: Tokenizer.from_file(tmp_path / "none.json"), "none.json"),
        (lambda: ChatFormat.from_directory(tmp_path), "chat_template.jinja"),
        (lambda: TOKENIZER.token_id("<nothing>"), "<nothing>"),
        (lambda: TOKENIZER.token_text(10**6), "1000000"),
        (lambda: ChatFormat(TOKENIZER, "{% if %}", frozenset()).render([USER]), "chat template"),
        (lambda: ChatFormat(TOKENIZER, "{{ raise_exception('no') }}", frozenset()).render([USER]), "no"),
    ):
        with pytest.raises(EdgeMtpError, match=named) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_templates_are_sandboxed() -> None:
    hostile = ChatFormat(TOKENIZER, "{{ messages.__class__.__mro__ }}{{ messages.append(1) }}", frozenset())
    with pytest.raises(EdgeMtpError):
        hostile.render([USER])
