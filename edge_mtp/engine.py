"""The Python interface: a bundle opened on a device, and the replies it streams."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_mtp.chat.bundle_chat import chat_format_of, write_token_bytes
from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.messages import Message
from edge_mtp.chat.thoughts import is_opened, thoughts_in
from edge_mtp.device import Device, Request, Runner, Sampling, Thoughts, find_device
from edge_mtp.device.find import Notice
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.sensors import Sampler
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import CPU, AcceleratorChoice
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.drafting import DraftPolicy, DraftSource
from edge_mtp.formats.grammar import Thinking, ToolReport
from edge_mtp.function_tools import Tool, checked_tools
from edge_mtp.reply import Reply
from edge_mtp.reply_grammar import ReplyGrammars
from edge_mtp.reply_options import ReplyOptions
from edge_mtp.safe_text import utf8
from edge_mtp.turns import Turns

if TYPE_CHECKING:
    from edge_mtp.device.put import TransferProgress

_NO_MARKS = "its vocabulary has no <|channel>, so the model cannot think"


class ContextOverflowError(EdgeMtpError):
    """The prompt alone fills the context."""


class Engine:
    """A bundle on a device. Use `edge_mtp.open`, and as a context manager, so that the runner ends.

    Any thread or task may ask it for replies, which take turns (see `Reply`). To generate several replies at once, open
    several engines.
    """

    def __init__(
        self,
        bundle: Bundle,
        runner: Runner,
        *,
        has_token_bytes: bool = True,
        device: Device | None = None,
        sensors: bool = False,
    ) -> None:
        """`has_token_bytes`: the runner has a token-bytes table, from the bundle or from the host. The engine closes
        `device` with itself; with `sensors` it reads the device's state during replies.
        """
        self.bundle = bundle
        self.runner = runner
        self.has_token_bytes = has_token_bytes
        self.device = device
        self._sensors = sensors
        self.chat_format = chat_format_of(bundle, has_token_bytes)
        self._marks = thoughts_in(self.chat_format.tokenizer)
        self._grammars = ReplyGrammars(bundle.path, has_token_bytes)
        self._turns = Turns(lambda: self.runner.cancel())

    @property
    def context_length(self) -> int:
        """The most tokens that prompt and reply can have together."""
        return self.runner.ready.context_length

    @property
    def max_draft_length(self) -> int:
        """The largest K of the bundle; 0 when it can only decode plainly."""
        return self.runner.ready.max_draft_length

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        options: ReplyOptions | None = None,
        **changes: Any,
    ) -> Reply:
        """The model's turn after `messages` (a string is one user message), with `tools` declared.

        `tools` are declarations in OpenAI's form (`edge_mtp.load_tools` reads a file) or Python functions with type
        hints. `changes` are fields of `ReplyOptions` that differ from `options`: `chat("Hi", max_tokens=9)`. The text
        ends at a stop token or a stop string, after `max_tokens`, or when the context is full.
        `edge_mtp.dialogue.Dialogue` keeps a conversation of several turns.

        Raises EdgeMtpError for a tool that is wrong, and for options that the bundle cannot serve, here or while
        iterating; TypeError for a change that is no field.
        """
        tools = checked_tools(tools)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        options = replace(options or ReplyOptions(), **changes)
        prompt = self.chat_format.encode(messages, tools, control_tokens=options.control_tokens, **options.variables)
        return self.answer(prompt, messages, tools, options)

    def answer(
        self,
        prompt: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        options: ReplyOptions,
    ) -> Reply:
        """As `chat`, for messages with the token ids `prompt`. Raises ContextOverflowError if they fill the context."""
        if len(prompt) >= self.context_length:
            raise ContextOverflowError(
                f"the conversation has {len(prompt)} tokens and the bundle's context holds {self.context_length};"
                " shorten it or export with a larger --context"
            )
        length, policy, sources = self._drafting(options)
        thoughts = self._thoughts_of(options, prompt)
        thinking: Thinking = "open" if thoughts is not None and thoughts.opened else self._thinking(options)
        grammar = self._grammars.grammar(tools, options, thinking)
        self._check_sampling(options.sampling)
        variables = {**options.variables, "control_tokens": options.control_tokens}
        prefix = self.chat_format.prefix_length(prompt, messages, tools, **variables) if options.keep_prefix else 0
        resolved = {
            "stop_texts": [*self.chat_format.stop_texts, *options.stop_texts],
            "draft_length": length,
            "draft_policy": policy,
            "draft_sources": sources,
            "grammar": grammar,
            "keep_prefix": prefix,
        }
        stop = sorted(self.chat_format.stop_token_ids)
        request = Request(prompt, options.max_tokens, stop, thoughts=thoughts, **{**options.shared, **resolved})
        return self.generate(request, tools)

    def check(self, options: ReplyOptions, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Raises the EdgeMtpError of a reply with these options and tools, as far as the host can tell."""
        Detokenizer(self.chat_format.tokenizer, options.stop_texts)
        self._drafting(options)
        self._thoughts_of(options, ())
        self._grammars.grammar(tools, options, self._thinking(options))
        self._check_sampling(options.sampling)

    def generate(self, request: Request, tools: Sequence[Mapping[str, Any]] = ()) -> Reply:
        """The reply to a request of token ids, without a chat format. The declared `tools` help to read its calls."""
        events = self.runner.generate(request)
        assert isinstance(events, Generator)  # so that it can be closed, which cancels
        tokenizer = self.chat_format.tokenizer
        sampler = Sampler(self.device.link, self.runner.pid) if self.device is not None and self._sensors else None
        stop = frozenset(request.stop)
        return Reply(
            request.prompt, events, tokenizer, stop, request.stop_texts, sampler, request.thoughts, tools, self._turns
        )

    def token(self, text: str) -> int:
        """The id that `text` names: a number, a token as the vocabulary spells it, or text that is one token.

        Raises EdgeMtpError for text that names no token of the vocabulary.
        """
        if text.isdecimal():
            return self._in_vocabulary(int(text))
        utf8(text, f"the token {text!r}")
        tokenizer = self.chat_format.tokenizer
        with contextlib.suppress(EdgeMtpError):
            return tokenizer.token_id(text)
        ids = tokenizer.encode(text)
        if len(ids) != 1:
            spelled = " ".join(repr(tokenizer.token_text(i)) for i in ids)
            raise EdgeMtpError(f"{text!r} is {len(ids)} tokens ({spelled}), not one; name each, by text or id")
        return ids[0]

    def _in_vocabulary(self, token: int) -> int:
        size = self.runner.ready.vocabulary
        if not 0 <= token < size:
            raise EdgeMtpError(f"token {token} is outside the vocabulary of {size}; use an id from 0 to {size - 1}")
        return token

    def _check_sampling(self, sampling: Sampling) -> None:
        for name, value in vars(sampling).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise EdgeMtpError(f"{name} is {value}, not a number that can be reckoned with; use a finite one")
        for token in (*sampling.logit_bias, *sampling.suppress):
            self._in_vocabulary(token)
        for token, bias in sampling.logit_bias.items():
            if not math.isfinite(bias):
                raise EdgeMtpError(f"the bias {bias} of token {token} is not finite; to forbid a token, suppress it")

    def _drafting(self, options: ReplyOptions) -> tuple[int, DraftPolicy, Sequence[DraftSource]]:
        """K, policy and sources of a request. Raises EdgeMtpError for drafts that the bundle cannot make."""
        most, length = self.max_draft_length, options.draft_length
        if length is not None and length > most:
            if most == 0:
                raise EdgeMtpError(
                    f"{self.bundle.path}: no verify graph, so it cannot draft; export it"
                    " again, or decode plainly (--mtp off)"
                )
            raise EdgeMtpError(f"draft length {length} is beyond the {most} that this bundle verifies; use 1 to {most}")
        has_drafter = self.runner.ready.has_drafter
        default: tuple[DraftSource, ...] = ("drafter" if has_drafter else "lookup", "grammar")
        sources = default if options.draft_sources is None else options.draft_sources
        if "drafter" in sources and not has_drafter:
            raise EdgeMtpError(f"{self.bundle.path}: no drafter; draft from lookup and grammar, or export one with it")
        if length is None:
            return most, options.draft_policy or "auto", sources
        return length, options.draft_policy or "fixed", sources

    def _thoughts_of(self, options: ReplyOptions, prompt: Sequence[int]) -> Thoughts | None:
        """How thoughts are marked and limited in the reply to `prompt`; None where the vocabulary has no marks."""
        marks, budget = self._marks, options.thinking_budget
        if budget is not None and budget < 0:
            raise EdgeMtpError(f"the thinking budget is {budget}; give 0 tokens or more")
        if marks is None:
            if budget is not None:
                raise EdgeMtpError(f"{self.bundle.path}: {_NO_MARKS}; drop the thinking budget")
            return None
        return replace(marks, opened=is_opened(prompt, marks, self.chat_format.tokenizer), budget=budget)

    def _thinking(self, options: ReplyOptions) -> Thinking:
        """Whether a reply may begin with a thought, by its options."""
        variables = options.variables
        asked = variables.get("enable_thinking")
        if options.thinking and self._marks is None:
            raise EdgeMtpError(f"{self.bundle.path}: {_NO_MARKS}; drop --thinking")
        if options.thinking and not self._template_thinks[0]:
            raise EdgeMtpError(
                f"{self.bundle.path}: the chat template has no thinking to switch on (enable_thinking changes nothing);"
                " drop --thinking, or name its own variable (--template-var)"
            )
        thinks = self._template_thinks[1] if asked is None else bool(asked)
        return "may" if thinks and self._marks is not None else "no"

    @cached_property
    def _template_thinks(self) -> tuple[bool, bool]:
        """Whether `enable_thinking` changes the template's text, and whether it is on by default."""
        turn: list[Message] = [{"role": "user", "content": "Hi"}]
        try:
            default = self.chat_format.render(turn)
            on = self.chat_format.render(turn, enable_thinking=True)
            switches = on != self.chat_format.render(turn, enable_thinking=False)
        except EdgeMtpError:  # the template takes only other conversations
            return True, False
        return switches, switches and default == on

    def tool_reports(
        self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions | None = None
    ) -> tuple[ToolReport, ...]:
        """How far replies with these options hold calls to each tool's schema; empty where nothing holds them."""
        options = options or ReplyOptions()
        if not self._grammars.can_report(tools, options):
            return ()
        return self._grammars.reports(tools, options, self._thinking(options))

    def close(self) -> None:
        """Ends the runner, from any thread. Readers of replies, and those who wait for one, get an EdgeMtpError."""
        self._turns.close()
        try:
            self.runner.close()
        finally:
            if self.device is not None:
                self.device.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    bundle: str | Path,
    device: str = "host",
    *,
    threads: int | None = None,
    accelerator: AcceleratorChoice = CPU,
    half_precision: bool = False,
    sensors: bool = False,
    notice: Notice | None = None,
    report: TransferProgress | None = None,
) -> Engine:
    """Opens a `.litertlm` file on a device: "host" (this machine), "pixel", "emulator", a serial, "host:port" or
    "ssh://user@board". Copies the file to the device if it is not there yet; `report` gets the progress, and `notice`
    what the device waits for. `threads` None leaves the number to LiteRT. `accelerator` runs the graphs; "auto" takes
    the fastest that computes what the CPU does, and tries each one first (`Engine.runner.ready` tells which it took).
    `half_precision`: a GPU computes faster and rounds otherwise. `sensors`: every reply records the device's state.

    Raises EdgeMtpError: the file is no bundle, there is no such device, or the device cannot run the bundle.
    """
    opened = Bundle(bundle)
    target = find_device(device, notice=notice, report=report)
    with contextlib.ExitStack() as undo:
        undo.callback(target.close)
        with tempfile.TemporaryDirectory() as folder:
            table = None if opened.token_bytes is not None else write_token_bytes(opened, Path(folder))
            options = LoadOptions(threads, table, accelerator=accelerator, half_precision=half_precision)
            runner = target.start(Path(bundle), options)
        undo.callback(runner.close)
        has_token_bytes = opened.token_bytes is not None or table is not None
        engine = Engine(opened, runner, has_token_bytes=has_token_bytes, device=target, sensors=sensors)
        undo.pop_all()
        return engine
