"""A reply: the text and the tokens that a runner generates, as they come."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from edge_mtp.chat.thoughts import Channel, Channels
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.device import Outcome, Sensors, Step, Thoughts
from edge_mtp.device.sensors import Sampler
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.drafting import SOURCE_OF_LETTER
from edge_mtp.formats.tool_calls import ToolCall, parse_calls
from edge_mtp.summary import Summary, summarize
from edge_mtp.turns import Stream, Turns

_NOT_COMPLETE = "the reply is not complete; iterate it to its end first, or call wait()"


@dataclass(frozen=True)
class Token:
    """One generated token.

    `text` is what the token adds to the reply's text, or to its reasoning where `channel` is "reasoning". It is empty
    while bytes of a character are missing, while the text may become a stop string, and for the marks of a thought,
    which belong to the reasoning. `source` is where the draft came from that the target confirmed; None: the target
    chose the token by itself. `logprob` is the token's log-probability, where the options ask for it.
    """

    id: int
    text: str
    source: str | None = None
    logprob: float | None = None
    channel: Channel = "text"

    @property
    def drafted(self) -> bool:
        """Whether the token is an accepted draft; otherwise the target chose it by itself."""
        return self.source is not None


class Reply:
    """A text being generated: iterate over its tokens, then read the rest. You can iterate once, with `for` or with
    `async for`, which leaves the event loop free.

    Leaving the iteration early cancels the reply; the tokens generated so far stay readable.

    Replies of one engine take turns, each from its first token that is read to its last. A reply waits for another
    that is being read. It cancels another that nobody has read for a second; or at once, if the same asyncio task or
    the main thread left that one to begin this one. Whoever reads on in a cancelled reply gets an EdgeMtpError, and
    its `outcome` stays None.

    `prompt` has the ids of the prompt, and `tokens` those of the reply so far, with the stop token or the tokens of the
    stop string.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        events: Generator[Step | Outcome, None, None],
        tokenizer: Tokenizer,
        stop: frozenset[int],
        stop_texts: Sequence[str] = (),
        sampler: Sampler | None = None,
        thoughts: Thoughts | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        turns: Turns | None = None,
    ) -> None:
        self.prompt = prompt
        self._tools = tools
        self._stream = Stream(turns or Turns(), self._tokens())
        self.tokenizer = tokenizer
        self._events = events
        self._channels = Channels(tokenizer, stop_texts, thoughts, prompt)
        self._stop = stop
        self._sampler = sampler
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.steps: list[Step] = []
        self.outcome: Outcome | None = None
        self._text = ""
        self._reasoning = ""

    def __iter__(self) -> Generator[Token, None, None]:
        return iter(self._stream)

    def __aiter__(self) -> AsyncGenerator[Token, None]:
        return aiter(self._stream)

    def _tokens(self) -> Generator[Token, None, None]:
        last: Token | None = None  # waits for what its text may become
        with self._sampler or contextlib.nullcontext(), contextlib.closing(self._events):
            for event in self._events:
                if isinstance(event, Outcome):
                    if event.finish != "cancelled":
                        self.outcome = event
                    continue
                self.steps.append(event)
                for index, token in enumerate(event.tokens):
                    self.tokens.append(token)
                    self.logprobs += event.logprobs[index : index + 1]
                    rest, text = ("", "") if token in self._stop else self._channels.push(token)
                    if last is not None:
                        yield self._lengthened(last, rest)
                    source = SOURCE_OF_LETTER.get(event.source[index]) if index < event.accepted else None
                    logprob = event.logprobs[index] if event.logprobs else None
                    last = self._lengthened(Token(token, "", source, logprob, self._channels.channel), text)
                    if not self._channels.holds:
                        yield last
                        last = None
        if self.outcome is not None:
            self._stream.complete()
        if last is not None:
            yield self._lengthened(last, self._channels.finish())

    def _lengthened(self, token: Token, text: str) -> Token:
        """`token` with more text, which is the reply's too."""
        if not text:
            return token
        if token.channel == "text":
            self._text += text
        else:
            self._reasoning += text
        return replace(token, text=token.text + text)

    def wait(self) -> Reply:
        """Generates to the end. Returns the reply."""
        for _ in self:
            pass
        return self

    async def wait_async(self) -> Reply:
        """As `wait`, in a thread, so that the event loop goes on. Cancelling the task cancels the reply."""
        await self._stream.drain()
        return self

    def cancel(self) -> None:
        """Ends the reply, from any thread; its reader gets the tokens generated so far, and then the end."""
        self._stream.cancel()

    @property
    def sensors(self) -> list[Sensors]:
        """The device's state before the reply, once a second during it, and after; empty unless the engine reads it."""
        return self._sampler.samples if self._sampler is not None else []

    @property
    def text(self) -> str:
        """The model's answer, without what ends it, once the reply is complete or cancelled.

        Raises EdgeMtpError before; the tokens have the text as it comes.
        """
        self._check_over()
        return self._text

    @property
    def reasoning(self) -> str:
        """The model's thoughts without their marks, an empty line between two. Raises as `text`."""
        self._check_over()
        return self._reasoning

    def _check_over(self) -> None:
        if self.outcome is None and not self._stream.over:
            raise EdgeMtpError(_NOT_COMPLETE)

    @cached_property
    def summary(self) -> Summary:
        """Speed and acceptance, once the reply is complete. Raises EdgeMtpError before."""
        if self.outcome is None:
            raise EdgeMtpError(_NOT_COMPLETE)
        return summarize(self.steps, self.outcome)

    @cached_property
    def tool_calls(self) -> list[ToolCall]:
        """The calls in the text, not those in thoughts.

        Raises ToolCallSyntaxError for calls that are not in Gemma 4's format, and EdgeMtpError before the reply is
        complete.
        """
        return parse_calls(self.text, self._tools or None)
