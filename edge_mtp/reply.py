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


@dataclass(frozen=True)
class Token:
    """One generated token.

    `text` is what the token adds to the reply's text, or where `channel` is "reasoning" to its reasoning; empty while
    the bytes of a character are still missing, or while the text may become a stop string, and for the marks of a
    thought, which are of its channel. `source` proposed it as a draft that the target confirmed; None: the target chose
    it by itself. `logprob` is its log-probability, where asked for.
    """

    id: int
    text: str
    source: str | None = None
    logprob: float | None = None
    channel: Channel = "text"

    @property
    def drafted(self) -> bool:
        """Whether a draft was accepted, rather than the token chosen by the target itself."""
        return self.source is not None


class Reply:
    """A text being generated: iterate for its tokens, then read the rest. Iterating happens once, with `for` or, which
    leaves the event loop free, `async for`.

    Leaving the iteration early cancels the reply; what was generated so far stays readable. Replies of one engine take
    turns, from the first token that is asked for to the last. A reply that is being read is waited for. One that nobody
    reads for a second while another waits is cancelled, and at once where the same asyncio task, or the main thread,
    begins another: whoever reads on gets an EdgeMtpError, and `outcome` stays None.
    `prompt` is the ids that it replies to. `tokens` includes the stop token or the tokens of the stop string that
    ended it, `text` does not. `text` is what the model answers and `reasoning` what it thought, the thoughts of a reply
    one after another with an empty line between; the marks of thoughts are in neither, and in `tokens`.
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
        self.text = ""
        self.reasoning = ""

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
            self.text += text
        else:
            self.reasoning += text
        return replace(token, text=token.text + text)

    def wait(self) -> Reply:
        """Generates to the end. Returns itself."""
        for _ in self:
            pass
        return self

    async def wait_async(self) -> Reply:
        """As `wait`, in a thread, so that the event loop goes on. Cancelling the task cancels the reply."""
        await self._stream.drain()
        return self

    def cancel(self) -> None:
        """Ends the reply, from any thread; who reads it comes to the end of what was generated so far."""
        self._stream.cancel()

    @property
    def sensors(self) -> list[Sensors]:
        """The device before, once a second during, and after the reply; empty unless the engine reads sensors."""
        return self._sampler.samples if self._sampler is not None else []

    @cached_property
    def summary(self) -> Summary:
        """Speed and acceptance, once the reply is complete. Raises EdgeMtpError before."""
        if self.outcome is None:
            raise EdgeMtpError("the reply is not complete; iterate it to its end first")
        return summarize(self.steps, self.outcome)

    @cached_property
    def tool_calls(self) -> list[ToolCall]:
        """The calls in the text; what looks like one in a thought is none.

        Raises ToolCallSyntaxError where they are not in Gemma 4's format, and EdgeMtpError while the reply is being
        generated.
        """
        if self.outcome is None and not self._stream.over:
            raise EdgeMtpError("the reply is not complete; iterate it to its end first")
        return parse_calls(self.text, self._tools or None)
