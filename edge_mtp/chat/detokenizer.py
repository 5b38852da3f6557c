"""Token ids to text as they come, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import utf8


class Detokenizer:
    """Ids to text as they come: whole characters, and nothing of the stop string that ends the text.

    The pieces from `push` and the last one from `finish`, joined, are the UTF-8 text of the tokens' bytes, up to the
    beginning of the first of `stop_texts`; bytes that are no UTF-8 become U+FFFD. The search for stop strings is the
    runner's (device/native/stop_text.h; tests/helpers/stop_cases.json tries both): of several, the string that ends
    first counts, and of those that end together the longest.
    """

    def __init__(self, tokenizer: Tokenizer, stop_texts: Sequence[str] = ()) -> None:
        """Raises `EdgeMtpError` for an empty stop string."""
        if not all(stop_texts):
            raise EdgeMtpError("a stop string is empty; give at least one character")
        self._tokenizer = tokenizer
        self._stops = [utf8(text, f"the stop string {text!r}") for text in stop_texts]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""  # may be the beginning of a stop string
        self.stopped = False  # a stop string is complete, and the text is over

    @property
    def holds(self) -> bool:
        """Whether `finish` may still give out bytes."""
        return bool(self._held or self._decoder.getstate()[0])

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while bytes of a character are missing."""
        if self.stopped:
            return ""
        text = self._held + self._tokenizer.token_bytes(token)
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, b""
            return self._decoder.decode(text[: min(found)[1]])
        longest = max(map(len, self._stops), default=1) - 1
        held = next(n for n in range(min(longest, len(text)), -1, -1) if not n or self._may_begin(text[-n:]))
        self._held = text[len(text) - held :]
        return self._decoder.decode(text[: len(text) - held])

    def finish(self) -> str:
        """The rest of the text; afterwards the detokenizer can take another text."""
        rest = self._decoder.decode(self._held, final=True)
        self._decoder.reset()
        self._held, self.stopped = b"", False
        return rest

    def _may_begin(self, text: bytes) -> bool:
        return any(stop.startswith(text) for stop in self._stops)
