"""Text of a conversation that looks like control tokens.

A user's message, a tool's description or a tool's answer can hold `<turn|>` or `<|tool_call>`. Rendered into a prompt
and tokenized, that would end the turn or begin a call: a web page could speak as the user. So such text gets a mark
before a template sees it, and the tokenizer spells marked text in ordinary tokens. The model reads the same
characters.

The mark is a number behind the text's first character. Templates trim, sort, upper-case and JSON-encode their input;
a number survives that.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

_FIRST_MARK = 7306182549
_SHAPES = r"<[^<>\s]+>|\[[^\[\]\s]+\]"


def looks_special(text: str) -> bool:
    """Whether a text has the form of a control token, such as `<unused7>` or `[multimodal]`."""
    return re.fullmatch(_SHAPES, text) is not None


class ControlTokens:
    """The control tokens of a vocabulary: each is one id wherever its text stands."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(filter(None, texts))

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Splits a text into parts, and says for each whether it is a control token."""
        begin = at = 0
        while found := self._pattern.search(text, at):
            if found[0] not in self.texts:  # a token may begin inside the match
                at = found.start() + 1
                continue
            if found.start() > begin:
                yield text[begin : found.start()], False
            yield found[0], True
            begin = at = found.end()
        if begin < len(text):
            yield text[begin:], False

    def marked(self, value: Any, mark: str) -> Any:
        """A JSON value with `mark` in all text that looks like a control token, keys included."""
        if isinstance(value, str):
            return "".join(part[0] + mark + part[1:] if control else part for part, control in self.split(value))
        if isinstance(value, Mapping):
            return {self.marked(key, mark): self.marked(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(item, mark) for item in value]
        return value

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds all control tokens and other text of their shape: a vocabulary has thousands of `<unused..>`."""
        others = [text for text in self.texts if not looks_special(text)]
        longest_first = sorted(map(re.escape, others), key=len, reverse=True)
        return re.compile("|".join([*longest_first, _SHAPES]))


def new_mark(text: str, than: int = 0) -> str:
    """A number that does not occur in `text`: the `than`-th such number."""
    numbers = (str(_FIRST_MARK + n) for n in itertools.count())
    return next(itertools.islice((number for number in numbers if number not in text), than, None))
