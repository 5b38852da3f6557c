"""The Python interface: a bundle opened on a device, and the replies it streams."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_mtp.bundle import Bundle
from edge_mtp.chat import ChatFormat, Detokenizer, Message, Tokenizer
from edge_mtp.device import Device, Outcome, Request, Runner, Sampling, Sensors, Step, find_device
from edge_mtp.device.find import Notice
from edge_mtp.device.request import DraftPolicy, DraftSource
from edge_mtp.device.sensors import Sampler
from edge_mtp.errors import EdgeMtpError
from edge_mtp.grammar import response_schema, tool_grammar
from edge_mtp.safe_text import utf8
from edge_mtp.summary import SOURCES, Summary, summarize
from edge_mtp.tool_calls import ToolCall, parse_calls

if TYPE_CHECKING:
    from edge_mtp.device.put import Report

DEFAULT_DRAFT_LENGTH = 4  # where a fixed K is wanted, such as for measurements
DEFAULT_MAX_TOKENS = 256
_NO_BYTES = "no token bytes inside, and its tokenizer gives none"


class ContextOverflowError(EdgeMtpError):
    """The prompt alone fills the context."""


@dataclass(frozen=True)
class Token:
    """One generated token.

    `text` is what the token adds to the reply; empty while the bytes of a character are still missing, or while the
    text may become a stop string. `source` proposed it as a draft that the target confirmed; None: the target chose it
    by itself. `logprob` is its log-probability, where asked for.
    """

    id: int
    text: str
    source: str | None = None
    logprob: float | None = None

    @property
    def drafted(self) -> bool:
        """Whether a draft was accepted, rather than the token chosen by the target itself."""
        return self.source is not None


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is generated; the defaults are what is best where nothing is known.

    `max_tokens` is exact. `stop_texts` end the reply and are not part of its text.

    Drafting never changes the text. `draft_length` None leaves it to the controller, which chooses every step's K, 0
    included (docs/controller.md); a number is K in every step, 0 for plain decoding. `draft_policy` overrides that:
    "auto" with a number is a controller that drafts no more. `draft_sources` None is the drafter and the grammar,
    or, without a drafter, look-up and the grammar. `couple_drafts`: see `Request`.

    One of these constrains the reply: `response_schema`, a JSON schema; `grammar`, EBNF (docs/grammar.md); or the
    tools. `tool_choice` is "auto" (text or calls; None is the same), "required" (calls), "none" (text) or a tool's
    name (calls of that one). `constrained` holds calls to the tools' schemas. None does so where tools are declared,
    nothing else constrains the reply and the bytes of the tokens are known: a call that cannot be run helps
    nobody, text is left as it is, and what the grammar forces are drafts for free. False leaves calls to the model.

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
    logprobs: bool = False
    keep_prefix: bool = False
    fresh: bool = False
    draft_tape: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("stop_texts", "draft_sources"):  # a string is a sequence too, of its letters
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))


class Reply:
    """A text being generated: iterate for its tokens, then read the rest. Iterating happens once.

    Leaving the iteration early cancels the reply; what was generated so far stays readable.
    `prompt` is the ids that it replies to. `tokens` includes the stop token or the tokens of the stop string that
    ended it, `text` does not.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        events: Generator[Step | Outcome, None, None],
        tokenizer: Tokenizer,
        stop: frozenset[int],
        stop_texts: Sequence[str] = (),
        sampler: Sampler | None = None,
    ) -> None:
        self.prompt = prompt
        self.tokenizer = tokenizer
        self._events = events
        self._detokenizer = Detokenizer(tokenizer, stop_texts)
        self._stop = stop
        self._sampler = sampler
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.steps: list[Step] = []
        self.outcome: Outcome | None = None
        self.text = ""

    def __iter__(self) -> Generator[Token, None, None]:
        last: Token | None = None  # waits for what its text may become
        with self._sampler or contextlib.nullcontext(), contextlib.closing(self._events):
            for event in self._events:
                if isinstance(event, Outcome):
                    self.outcome = event
                    continue
                self.steps.append(event)
                for index, token in enumerate(event.tokens):
                    self.tokens.append(token)
                    self.logprobs += event.logprobs[index : index + 1]
                    text = "" if token in self._stop else self._detokenizer.push(token)
                    self.text += text
                    if last is not None:
                        yield last
                    source = SOURCES.get(event.source[index]) if index < event.accepted else None
                    last = Token(token, text, source, event.logprobs[index] if event.logprobs else None)
                    if not self._detokenizer.holds:
                        yield last
                        last = None
        if last is not None:
            rest = self._detokenizer.finish()
            self.text += rest
            yield replace(last, text=last.text + rest)

    def wait(self) -> Reply:
        """Generates to the end. Returns itself."""
        for _ in self:
            pass
        return self

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
        """The calls in the text. Raises ToolCallSyntaxError where they are not in Gemma 4's format."""
        return parse_calls(self.text)


class Engine:
    """A bundle on a device. Use `edge_mtp.open`, and as a context manager, so that the runner ends."""

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

        `tools` are in OpenAI's form (`edge_mtp.tool_calls.load_tools` reads a file). `changes` are fields of
        `ReplyOptions` that differ from `options`: `chat("Hi", max_tokens=9)`. The text ends at a stop token or text,
        after `max_tokens`, or when the context is full. Raises EdgeMtpError for what the bundle cannot serve, here or
        while iterating, and TypeError for a change that is no field. Of a conversation that goes on,
        `edge_mtp.dialogue.Dialogue` takes care.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        options = replace(options or ReplyOptions(), **changes)
        return self.answer(self.chat_format.encode(messages, tools), messages, tools, options)

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
        grammar, schema = self._constraint(tools, options)
        self._check_sampling(options.sampling)
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
            json_schema=schema,
            logprobs=options.logprobs,
            keep_prefix=self.chat_format.prefix_length(prompt, messages, tools) if options.keep_prefix else 0,
            fresh=options.fresh,
            draft_tape=options.draft_tape,
        )
        return self.generate(request)

    def check(self, options: ReplyOptions, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Raises the EdgeMtpError that a reply with these options and tools would, as far as the host can tell."""
        Detokenizer(self.chat_format.tokenizer, options.stop_texts)
        self._drafting(options)
        self._constraint(tools, options)
        self._check_sampling(options.sampling)

    def generate(self, request: Request) -> Reply:
        """The reply to a request of token ids, without any chat format."""
        events = self.runner.generate(request)
        assert isinstance(events, Generator)  # so that it can be closed, which cancels
        tokenizer = self.chat_format.tokenizer
        sampler = Sampler(self.device.link, self.runner.pid) if self.device is not None and self._sensors else None
        return Reply(request.prompt, events, tokenizer, frozenset(request.stop), request.stop_texts, sampler)

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

    def _constraint(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions) -> tuple[str | None, str | None]:
        """Grammar and JSON schema of a request: one of them, or neither."""
        choice, schema, grammar = options.tool_choice, options.response_schema, options.grammar
        if choice is not None and not tools:
            raise EdgeMtpError(f"tool choice '{choice}' needs tools; declare some (--tools FILE)")
        if options.constrained and not tools:
            raise EdgeMtpError("constrained tool calls need tools; declare some (--tools FILE)")
        if options.constrained is False and choice not in (None, "auto"):
            raise EdgeMtpError(f"tool choice '{choice}' holds by constraining calls; drop it, or --unconstrained")
        if grammar is not None and not grammar.strip():
            raise EdgeMtpError("the grammar is empty; give it a rule `root`")
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
            return tool_grammar(tools, choice=choice or "auto"), None
        if options.constrained is None and not asked and self.has_token_bytes and tools:
            try:
                return tool_grammar(tools), None
            except EdgeMtpError as error:
                raise EdgeMtpError(f"{error}; or leave calls to the model (--unconstrained)") from None
        return grammar, None if schema is None else response_schema(json.dumps(schema))

    def close(self) -> None:
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
    from edge_mtp.export.token_bytes import token_table

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
    if metadata.chat_template is None:
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
    return ChatFormat(tokenizer, metadata.chat_template, frozenset(stop), bos, tuple(stop_texts))
