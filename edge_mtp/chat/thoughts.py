"""Thoughts, which Gemma 4 writes in a channel of their own, before its answer or between its calls.

    <|channel>thought
    TEXT
    <channel|>ANSWER

The marks are control tokens, and only their ids count: text that looks like a mark is text. A thought's text begins
behind the header and ends before the closing mark; templates write a line break before the mark, which is no part of
the text. A channel of another name is a thought too, and its name stays in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.request import Thoughts
from edge_mtp.formats.tool_calls import CHANNEL_CLOSE, CHANNEL_OPEN, THOUGHT_HEADER, THOUGHT_SEPARATOR

Channel = Literal["text", "reasoning"]

# A prompt ends an open channel with one of these.
_BORDERS = ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>")


def thoughts_in(tokenizer: Tokenizer) -> Thoughts | None:
    """The marks of thoughts; None where the vocabulary has none."""
    try:
        opening, closing = tokenizer.token_id(CHANNEL_OPEN), tokenizer.token_id(CHANNEL_CLOSE)
    except EdgeMtpError:
        return None
    return Thoughts(opening, closing, tuple(tokenizer.encode(THOUGHT_HEADER)))


def is_opened(prompt: Sequence[int], thoughts: Thoughts, tokenizer: Tokenizer) -> bool:
    """Whether the prompt ends inside a thought, so that the reply starts there."""
    borders = {thoughts.open, thoughts.close}
    for token in prompt[::-1]:
        if token in borders or tokenizer.token_text(token) in _BORDERS:
            return token == thoughts.open
    return False


class Channels:
    """Ids of a reply to its text and its reasoning, as they come. The joined pieces of each are the whole.

    Stop strings end the text. A thought may contain them, and none continues across a thought.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_texts: Sequence[str] = (),
        thoughts: Thoughts | None = None,
        prompt: Sequence[int] = (),
    ) -> None:
        """`prompt`: the ids before the reply, needed if `thoughts` says that they end inside a thought.

        Raises EdgeMtpError for an empty stop string.
        """
        self._marks = thoughts
        self._text = Detokenizer(tokenizer, stop_texts)
        self._thought = _Thought(tokenizer)
        self._inside = thoughts is not None and thoughts.opened
        self.channel: Channel = "reasoning" if self._inside else "text"  # of the last token pushed
        if thoughts is not None and thoughts.opened:
            mark = next((i for i in reversed(range(len(prompt))) if prompt[i] == thoughts.open), len(prompt) - 1)
            self._thought.open(tokenizer.decode(prompt[mark + 1 :]))

    @property
    def holds(self) -> bool:
        """Whether the next call may still give out text of earlier tokens."""
        return self._thought.holds if self._inside else self._text.holds

    def push(self, token: int) -> tuple[str, str]:
        """The rest of the text before `token`, if it ends the channel; and the text that `token` adds."""
        marks = self._marks
        if marks is not None and token == marks.open:
            rest = self._thought.close() if self._inside else self._text.finish()
            self._thought.open()
            self._inside, self.channel = True, "reasoning"
            return rest, ""
        if marks is not None and token == marks.close:  # a mark that closes nothing is no text either
            rest = self._thought.close() if self._inside else ""
            self.channel = "reasoning" if self._inside else "text"
            self._inside = False
            return rest, ""
        self.channel = "reasoning" if self._inside else "text"
        return "", self._thought.push(token) if self._inside else self._text.push(token)

    def finish(self) -> str:
        """The rest of the text, at the end of the reply; it belongs to the last token."""
        return self._thought.finish() if self._inside else self._text.finish()


class _Thought:
    """The joined text of thoughts, without headers and final line breaks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = Detokenizer(tokenizer)
        self._any = False  # whether an earlier thought had text
        self.open()

    @property
    def holds(self) -> bool:
        return bool(self._head or self._break or self._bytes.holds)

    def open(self, begun: str = "") -> None:
        """Begins a thought; `begun` is its beginning in the prompt."""
        self._header = THOUGHT_HEADER[len(begun) :] if THOUGHT_HEADER.startswith(begun) else ""  # still to come
        self._head = ""  # the part of the header that has arrived
        self._break = ""  # a line break that may be the final one
        self._begun = False

    def push(self, token: int) -> str:
        return self._given(self._bytes.push(token))

    def close(self) -> str:
        """The rest of a thought that is closed."""
        rest = self._given(self._bytes.finish())
        name = self._header.removesuffix("\n")
        head, self._head, self._header, self._break = self._head, "", "", ""
        rest += "" if head == name else self._given(head)
        self._any |= self._begun
        self._break = ""
        return rest

    def finish(self) -> str:
        """The rest of a thought that stays open, without what may be the beginning of a header."""
        rest = self._given(self._bytes.finish()) + self._break
        self._head = self._break = ""
        return rest

    def _given(self, text: str) -> str:
        """The text to give out now: `text` behind what was held back before, without what is held back now."""
        if self._header:
            self._head += text
            if len(self._head) < len(self._header) and self._header.startswith(self._head):
                return ""
            text, self._head = self._head.removeprefix(self._header), ""
            self._header = ""
        text, self._break = self._break + text, ""
        if text.endswith("\n"):
            text, self._break = text[:-1], "\n"
        if text and not self._begun:
            self._begun = True
            text = (THOUGHT_SEPARATOR if self._any else "") + text
        return text
