"""The Python interface: a bundle opened on a device, and the replies it streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_mtp.bundle import Bundle
from edge_mtp.chat import ChatFormat, Detokenizer, Message, Tokenizer
from edge_mtp.device import Outcome, Request, Runner, Sampling, Step, find_device
from edge_mtp.errors import EdgeMtpError
from edge_mtp.summary import Summary, summarize
from edge_mtp.tool_calls import ToolCall, parse_calls

DEFAULT_DRAFT_LENGTH = 4
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True)
class Token:
    """One generated token. `text` may be empty while the bytes of a character are still missing."""

    id: int
    text: str
    drafted: bool  # proposed by the drafter and confirmed, rather than chosen by the target itself


class Reply:
    """A text being generated: iterate for its tokens, then read the rest. Iterating happens once."""

    def __init__(self, events: Iterator[Step | Outcome], tokenizer: Tokenizer, stop: frozenset[int]) -> None:
        self._events = events
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = stop
        self.tokens: list[int] = []
        self.steps: list[Step] = []
        self.outcome: Outcome | None = None
        self.text = ""

    def __iter__(self) -> Iterator[Token]:
        for event in self._events:
            if isinstance(event, Outcome):
                self.outcome = event
                continue
            self.steps.append(event)
            for index, token in enumerate(event.tokens):
                self.tokens.append(token)
                text = "" if token in self._stop else self._detokenizer.push(token)
                self.text += text
                yield Token(token, text, drafted=index < event.accepted)
        if rest := self._detokenizer.finish():
            self.text += rest
            yield Token(self.tokens[-1], rest, drafted=False)

    def wait(self) -> Reply:
        """Generates to the end. Returns itself."""
        for _ in self:
            pass
        return self

    @cached_property
    def summary(self) -> Summary:
        """Speed and acceptance, once the reply is complete. Raises EdgeMtpError before."""
        if self.outcome is None:
            raise EdgeMtpError("the reply is not complete; iterate it to its end first")
        return summarize(self.steps, self.outcome)

    @cached_property
    def tool_calls(self) -> list[ToolCall]:
        """The calls in the text. Raises ToolCallSyntaxError where they are not in Gemma 4's format."""
        return parse_calls(self.text)


class Engine:
    """A bundle on a device. Use `edge_mtp.open`, and as a context manager, so that the runner ends."""

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        if bundle.tokenizer_json is None:
            raise EdgeMtpError(
                f"{bundle.path}: no tokenizer.json inside (found: {bundle.tokenizer_kind}); export the checkpoint"
                " with 'edge-mtp export'"
            )
        self.bundle = bundle
        self.runner = runner
        self.chat_format = _chat_format(bundle, bundle.tokenizer_json)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and reply can have together."""
        return self.runner.ready.context_length

    @property
    def max_draft_length(self) -> int:
        """The largest K of the bundle; 0 when it can only decode plainly."""
        return self.runner.ready.max_draft_length

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = DEFAULT_MAX_TOKENS,
        draft_length: int | None = None,
        couple_drafts: bool = False,
        sampling: Sampling | None = None,
    ) -> Reply:
        """The model's turn after `messages` (a string is one user message), with `tools` declared.

        `tools` are in OpenAI's form (`edge_mtp.tool_calls.load_tools` reads a file). `draft_length` is K, 0 for
        plain decoding; None is 4, or what the bundle has. The text ends at a stop token, after `max_tokens`, or
        when the context is full. Raises EdgeMtpError for what the bundle cannot serve, while iterating.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        prompt = self.chat_format.encode(messages, tools)
        request = Request(
            prompt=prompt,
            max_tokens=max_tokens,
            stop=sorted(self.chat_format.stop_token_ids),
            draft_length=min(DEFAULT_DRAFT_LENGTH, self.max_draft_length) if draft_length is None else draft_length,
            couple_drafts=couple_drafts,
            sampling=sampling or Sampling(),
        )
        return self.generate(request)

    def generate(self, request: Request) -> Reply:
        """The reply to a request of token ids, without any chat format."""
        return Reply(self.runner.generate(request), self.chat_format.tokenizer, frozenset(request.stop))

    def close(self) -> None:
        self.runner.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(bundle: str | Path, device: str = "host", *, threads: int | None = None) -> Engine:
    """Opens a `.litertlm` file on a device ("host": this machine). `threads` None leaves the number to LiteRT.

    Raises EdgeMtpError: no bundle, no such device, or the device cannot run it.
    """
    target = find_device(device)
    opened = Bundle(bundle)
    runner = target.start(Path(bundle), threads=threads)
    try:
        return Engine(opened, runner)
    except BaseException:
        runner.close()
        raise


def _chat_format(bundle: Bundle, tokenizer_json: bytes) -> ChatFormat:
    metadata = bundle.metadata
    tokenizer = Tokenizer(tokenizer_json)
    if metadata.chat_template is None:
        raise EdgeMtpError(f"{bundle.path}: no chat template inside; export the checkpoint with 'edge-mtp export'")
    stop: set[int] = set()
    for token in metadata.stop_tokens:
        ids = tokenizer.encode(token) if isinstance(token, str) else list(token)
        if len(ids) == 1:  # a stop of several tokens is a stop string, which ids alone cannot tell
            stop.add(ids[0])
    start = metadata.start_token
    bos = start if isinstance(start, str) else tokenizer.decode(start or ())
    return ChatFormat(tokenizer, metadata.chat_template, frozenset(stop), bos)
