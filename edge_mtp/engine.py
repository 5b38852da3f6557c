"""The Python interface: a bundle opened on a device, and the replies it streams."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.chat.messages import Message
from edge_mtp.chat.thoughts import Channel, Channels, is_opened, thoughts_in
from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.device import Device, Outcome, Request, Runner, Sampling, Sensors, Step, Thoughts, find_device
from edge_mtp.device.find import Notice
from edge_mtp.device.sensors import Sampler
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.grammar import Thinking, ToolGrammar, ToolReport, response_grammar, tool_grammar, with_thought
from edge_mtp.formats.request import DraftPolicy, DraftSource
from edge_mtp.formats.tool_calls import ToolCall, parse_calls
from edge_mtp.safe_text import utf8
from edge_mtp.summary import SOURCES, Summary, summarize
from edge_mtp.turns import Stream, Turns

if TYPE_CHECKING:
    from edge_mtp.device.put import Report

DEFAULT_DRAFT_LENGTH = 4  # where a fixed K is wanted, such as for measurements
DEFAULT_MAX_TOKENS = 256
_NO_MARKS = "its vocabulary has no <|channel>, so the model cannot think"
_NO_BYTES = "no token bytes inside, and its tokenizer gives none"
# What a template is given by the conversation and the bundle, and by nobody else.
_TEMPLATE_OWN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token")


class ContextOverflowError(EdgeMtpError):
    """The prompt alone fills the context."""


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


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is generated; the defaults are what is best where nothing is known.

    `max_tokens` is exact. `stop_texts` end the reply and are not part of its text; in thoughts they are not looked for.

    `thinking` gives the template `enable_thinking`; None leaves it at the template's default. `thinking_budget` is the
    most tokens that the reply's thoughts have together, 0 for none: then the thought is closed, and no further one
    opened. `template_variables` are given to the template too. `control_tokens` makes control tokens of what looks like
    one in messages, tools and answers; otherwise that is text, and a tool's answer cannot end the turn.

    Drafting never changes the text. `draft_length` None leaves it to the controller, which chooses every step's K, 0
    included (docs/controller.md); a number is K in every step, 0 for plain decoding. `draft_policy` overrides that:
    "auto" with a number is a controller that drafts no more. `draft_sources` None is the drafter and the grammar,
    or, without a drafter, look-up and the grammar. `couple_drafts`: see `Request`.

    One of these constrains the reply: `response_schema`, a JSON schema; `grammar`, EBNF (docs/grammar.md); or the
    tools. `tool_choice` is "auto" (text or calls; None is the same), "required" (calls), "none" (text) or a tool's
    name (calls of that one). `constrained` holds calls to the tools' schemas. None does so where tools are declared,
    nothing else constrains the reply and the bytes of the tokens are known: a call that cannot be run helps
    nobody, text is left as it is, and what the grammar forces are drafts for free. False leaves calls to the model.
    Without `parallel_calls` a reply has at most one call. `strict_tools` refuses a tool whose schema the grammar cannot
    enforce whole. Where the reply may think, a thought may come before what the constraint holds.

    `logprobs` gives every token its log-probability. `keep_prefix` keeps the cache of system message and tools on the
    device's disk, for the next time that the same ones are used. `fresh` and `draft_tape` are for measurements: see
    `Request`.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    stop_texts: Sequence[str] = ()
    draft_length: int | None = None
    draft_policy: DraftPolicy | None = None
    draft_sources: Sequence[DraftSource] | None = None
    couple_drafts: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    response_schema: Mapping[str, Any] | bool | None = None
    grammar: str | None = None
    tool_choice: str | None = None
    constrained: bool | None = None
    parallel_calls: bool = True
    strict_tools: bool = False
    thinking: bool | None = None
    thinking_budget: int | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    control_tokens: bool = False
    logprobs: bool = False
    keep_prefix: bool = False
    fresh: bool = False
    draft_tape: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("stop_texts", "draft_sources"):  # a string is a sequence too, of its letters
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    @property
    def variables(self) -> dict[str, Any]:
        """What `ChatFormat.render` is given beside the conversation. Raises EdgeMtpError for a name that is taken."""
        variables = dict(self.template_variables)
        for name in variables:
            if name in _TEMPLATE_OWN:
                raise EdgeMtpError(f"template variable '{name}' is given by the conversation or the bundle; drop it")
        if self.thinking is not None:
            if variables.get("enable_thinking", self.thinking) is not self.thinking:
                raise EdgeMtpError(
                    f"template variable 'enable_thinking' is {variables['enable_thinking']!r} and thinking is"
                    f" {self.thinking}; drop one of them"
                )
            variables["enable_thinking"] = self.thinking
        return variables


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
                    source = SOURCES.get(event.source[index]) if index < event.accepted else None
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


class Engine:
    """A bundle on a device. Use `edge_mtp.open`, and as a context manager, so that the runner ends.

    Any thread or task may ask it for replies; they take turns (see `Reply`). To answer several at once, open several.
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
        """`has_token_bytes`: the runner has the table of them, from the bundle or from the host. `device` is closed
        with the engine; `sensors`: read it while it replies.
        """
        self.bundle = bundle
        self.runner = runner
        self.has_token_bytes = has_token_bytes
        self.device = device
        self._sensors = sensors
        self.chat_format = chat_format_of(bundle, has_token_bytes)
        self._marks = thoughts_in(self.chat_format.tokenizer)
        self._last_grammar: tuple[str, ToolGrammar] | None = None
        self._turns = Turns(lambda: self.runner.cancel())

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
        options: ReplyOptions | None = None,
        **changes: Any,
    ) -> Reply:
        """The model's turn after `messages` (a string is one user message), with `tools` declared.

        `tools` are in OpenAI's form (`edge_mtp.formats.tool_calls.load_tools` reads a file). `changes` are fields of
        `ReplyOptions` that differ from `options`: `chat("Hi", max_tokens=9)`. The text ends at a stop token or text,
        after `max_tokens`, or when the context is full. Raises EdgeMtpError for what the bundle cannot serve, here or
        while iterating, and TypeError for a change that is no field. Of a conversation that goes on,
        `edge_mtp.dialogue.Dialogue` takes care.
        """
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
        """As `chat`, of messages that are token ids already. Raises ContextOverflowError if they fill the context."""
        if len(prompt) >= self.context_length:
            raise ContextOverflowError(
                f"the conversation has {len(prompt)} tokens and the bundle's context holds {self.context_length};"
                " shorten it or export with a larger --context"
            )
        length, policy, sources = self._drafting(options)
        thoughts = self._thoughts_of(options, prompt)
        thinking: Thinking = "open" if thoughts is not None and thoughts.opened else self._thinking(options)
        grammar = self._constraint(tools, options, thinking)
        self._check_sampling(options.sampling)
        variables = {**options.variables, "control_tokens": options.control_tokens}
        request = Request(
            prompt=prompt,
            max_tokens=options.max_tokens,
            stop=sorted(self.chat_format.stop_token_ids),
            stop_texts=[*self.chat_format.stop_texts, *options.stop_texts],
            draft_length=length,
            draft_policy=policy,
            draft_sources=sources,
            couple_drafts=options.couple_drafts,
            sampling=options.sampling,
            grammar=grammar,
            thoughts=thoughts,
            logprobs=options.logprobs,
            keep_prefix=(
                self.chat_format.prefix_length(prompt, messages, tools, **variables) if options.keep_prefix else 0
            ),
            fresh=options.fresh,
            draft_tape=options.draft_tape,
        )
        return self.generate(request, tools)

    def check(self, options: ReplyOptions, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Raises the EdgeMtpError that a reply with these options and tools would, as far as the host can tell."""
        Detokenizer(self.chat_format.tokenizer, options.stop_texts)
        self._drafting(options)
        self._thoughts_of(options, ())
        self._constraint(tools, options, self._thinking(options))
        self._check_sampling(options.sampling)

    def generate(self, request: Request, tools: Sequence[Mapping[str, Any]] = ()) -> Reply:
        """The reply to a request of token ids, without any chat format; its calls are read as those of `tools`."""
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

        Raises EdgeMtpError if it is none in the vocabulary.
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
        """K, policy and sources of a request."""
        most, length = self.max_draft_length, options.draft_length
        if length is not None and length > most:
            if most == 0:
                raise EdgeMtpError(
                    f"{self.bundle.path}: no verify graph (exported with --lean?), so it cannot draft; export it"
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
        """Whether a reply may begin with a thought, as far as the options tell."""
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
        """Whether `enable_thinking` changes what the template writes, and whether it is on where nobody sets it."""
        turn: list[Message] = [{"role": "user", "content": "Hi"}]
        try:
            default = self.chat_format.render(turn)
            on = self.chat_format.render(turn, enable_thinking=True)
            switches = on != self.chat_format.render(turn, enable_thinking=False)
        except EdgeMtpError:  # it takes other conversations only
            return True, False
        return switches, switches and default == on

    def _constraint(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions, thinking: Thinking) -> str | None:
        """The grammar of a reply, if it has one."""
        choice, schema, grammar = options.tool_choice, options.response_schema, options.grammar
        if choice is not None and not tools:
            raise EdgeMtpError(f"tool choice '{choice}' needs tools; declare some (--tools FILE)")
        if options.constrained and not tools:
            raise EdgeMtpError("constrained tool calls need tools; declare some (--tools FILE)")
        if options.constrained is False and choice not in (None, "auto"):
            raise EdgeMtpError(f"tool choice '{choice}' holds by constraining calls; drop it, or --unconstrained")
        if grammar is not None and not grammar.strip():
            raise EdgeMtpError("the grammar is empty; give it a rule `root`")
        if options.strict_tools or not options.parallel_calls:
            option = "--strict-tools" if options.strict_tools else "--single-call"
            if options.constrained is False:
                raise EdgeMtpError(f"{option} holds by constraining calls; drop it, or --unconstrained")
            if tools and grammar is not None:
                raise EdgeMtpError(f"{option} holds by a grammar of the tools, and another is given; drop one of them")
            if tools and not self.has_token_bytes:
                raise EdgeMtpError(f"{self.bundle.path}: {_NO_BYTES}, so {option} cannot hold; export it again")
        by_tools = choice is not None if options.constrained is None else options.constrained
        kinds = {"a response schema": schema is not None, "a grammar": grammar is not None, "tool calls": by_tools}
        asked = [kind for kind, wanted in kinds.items() if wanted]
        if len(asked) > 1:
            raise EdgeMtpError(f"{asked[0]} and {asked[1]} cannot both constrain a reply; ask for one of them")
        if asked and not self.has_token_bytes:
            raise EdgeMtpError(
                f"{self.bundle.path}: {_NO_BYTES}, so {asked[0]} cannot constrain a reply; export it again"
            )
        if options.stop_texts and not self.has_token_bytes:
            raise EdgeMtpError(f"{self.bundle.path}: {_NO_BYTES}, so no stop string can be found; export it again")
        if by_tools:
            return self._tool_grammar(tools, options, thinking).text
        if options.constrained is None and not asked and self.has_token_bytes and tools:
            try:
                return self._tool_grammar(tools, options, thinking).text
            except EdgeMtpError as error:
                raise EdgeMtpError(f"{error}; or leave calls to the model (--unconstrained)") from None
        if schema is not None:
            return response_grammar(schema, thinking=thinking)
        return None if grammar is None else with_thought(grammar, thinking)

    def _tool_grammar(
        self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions, thinking: Thinking
    ) -> ToolGrammar:
        """The last one is kept: a conversation asks for the same at every turn."""
        choice = options.tool_choice or "auto"
        asked = json.dumps([list(tools), choice, options.parallel_calls, thinking, options.strict_tools])
        last = self._last_grammar  # read once: other threads ask too
        if last is None or last[0] != asked:
            made = tool_grammar(
                tools, choice=choice, parallel=options.parallel_calls, thinking=thinking, strict=options.strict_tools
            )
            self._last_grammar = last = asked, made
        return last[1]

    def tool_reports(
        self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions | None = None
    ) -> tuple[ToolReport, ...]:
        """How far replies with these options hold calls to each tool's schema; empty where they do not at all."""
        options = options or ReplyOptions()
        constrained = options.response_schema is None and options.grammar is None and options.constrained is not False
        if not tools or not constrained or not self.has_token_bytes or options.tool_choice == "none":
            return ()
        return self._tool_grammar(tools, options, self._thinking(options)).reports

    def close(self) -> None:
        """Ends the runner, from any thread; whoever reads a reply or waits for one gets an EdgeMtpError."""
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
    sensors: bool = False,
    notice: Notice | None = None,
    report: Report | None = None,
) -> Engine:
    """Opens a `.litertlm` file on a device: "host" (this machine), "pixel", "emulator", a serial, "host:port" or
    "ssh://user@board". It is put there if it is not there yet; `report` is told how far that is, and `notice` what the
    device waits for. `threads` None leaves the number to LiteRT. `sensors`: every reply reads the device's.

    Raises EdgeMtpError: no bundle, no such device, or the device cannot run it.
    """
    opened = Bundle(bundle)
    target = find_device(device, notice=notice, report=report)
    with contextlib.ExitStack() as undo:
        undo.callback(target.close)
        with tempfile.TemporaryDirectory() as folder:
            table = None if opened.token_bytes is not None else _write_token_bytes(opened, Path(folder))
            runner = target.start(Path(bundle), threads=threads, token_bytes=table)
        undo.callback(runner.close)
        has_token_bytes = opened.token_bytes is not None or table is not None
        engine = Engine(opened, runner, has_token_bytes=has_token_bytes, device=target, sensors=sensors)
        undo.pop_all()
        return engine


def _write_token_bytes(bundle: Bundle, folder: Path) -> Path | None:
    """The table of a bundle that came without, as a file in `folder`; None where its tokenizer gives none."""
    model = bundle.models.get("prefill_decode")
    decode = model.signatures.get("decode") if model is not None else None
    if bundle.tokenizer_json is None or decode is None or "logits" not in decode.outputs:
        return None  # what else is wrong with it, the runner says
    from edge_mtp.formats.token_bytes import token_table

    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(bundle.tokenizer_json)
    table = folder / "token_bytes"
    try:
        table.write_bytes(token_table(tokenizer, decode.outputs["logits"].shape[-1]))
    except EdgeMtpError:
        return None
    return table


def chat_format_of(bundle: Bundle, has_token_bytes: bool = True) -> ChatFormat:
    """The bundle's own; without the bytes of tokens no text ends a reply, only tokens do.

    Raises EdgeMtpError for a bundle without a tokenizer.json or a chat template.
    """
    if bundle.tokenizer_json is None:
        raise EdgeMtpError(
            f"{bundle.path}: no tokenizer.json inside (found: {bundle.tokenizer_kind}); export the checkpoint"
            " with 'edge-mtp export'"
        )
    metadata = bundle.metadata
    tokenizer = Tokenizer(bundle.tokenizer_json)
    if bundle.chat_template is None:
        raise EdgeMtpError(f"{bundle.path}: no chat template inside; export the checkpoint with 'edge-mtp export'")
    start = metadata.start_token
    for token in (*metadata.stop_tokens, start or ()):
        if not isinstance(token, str) and any(each >= tokenizer.vocab_size for each in token):
            raise EdgeMtpError(
                f"{bundle.path}: its metadata name token {max(token)}, its tokenizer {tokenizer.vocab_size} tokens;"
                " export the bundle again"
            )
    stop: set[int] = set()
    stop_texts = []
    for token in metadata.stop_tokens:
        ids = tokenizer.encode(token) if isinstance(token, str) else list(token)
        if len(ids) == 1:
            stop.add(ids[0])
        elif ids and has_token_bytes:  # without them a runner finds no text
            stop_texts.append(token if isinstance(token, str) else tokenizer.decode(ids))
    bos = start if isinstance(start, str) else tokenizer.decode(start or ())
    return ChatFormat(
        tokenizer, bundle.chat_template, frozenset(stop), bos, tuple(stop_texts), _special_tokens(bundle, tokenizer)
    )


def _special_tokens(bundle: Bundle, tokenizer: Tokenizer) -> dict[str, str]:
    """The template's variables for them: what the export wrote down, or what Gemma's tokenizer calls by such names."""
    usual = {f"{name}_token": f"<{name}>" for name in ("eos", "pad", "unk")}
    found = {name: text for name, text in usual.items() if text in tokenizer.control_tokens.texts}
    told = (bundle.manifest or {}).get("special_tokens")
    told = told if isinstance(told, dict) else {}
    return found | {name: text for name, text in told.items() if isinstance(text, str)}
