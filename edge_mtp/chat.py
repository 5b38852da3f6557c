"""Conversations to token ids and back: a bundle's tokenizer and its chat template.

Both come out of a bundle as they were exported (`tokenizer.json`, a jinja template), so any Gemma 4 checkpoint brings
its own.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import tokenizers

from edge_mtp.control_text import ControlTokens, looks_special, new_mark
from edge_mtp.declarations import declarations
from edge_mtp.errors import EdgeMtpError
from edge_mtp.messages import Form, Message, canonical
from edge_mtp.safe_text import utf8
from edge_mtp.template import ChatTemplate
from edge_mtp.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    CHANNEL_CLOSE,
    CHANNEL_OPEN,
    RESPONSE_CLOSE,
    RESPONSE_OPEN,
    ToolCall,
    format_calls,
    format_response,
)

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte of Gemma's byte fallback


class Tokenizer:
    """A `tokenizer.json`: text to ids, ids to text, with control tokens as text on both ways."""

    def __init__(self, source: str | bytes) -> None:
        """`source` is the content of a tokenizer.json. Raises `EdgeMtpError` if it is not one."""
        try:
            self.source = source.decode("utf-8") if isinstance(source, bytes) else source
            self._tokenizer = tokenizers.Tokenizer.from_str(self.source)
        except Exception as error:  # the library raises bare Exception
            raise EdgeMtpError(f"tokenizer.json is not valid ({error}); export the bundle again") from None
        self._bytes: dict[int, bytes] = {}  # of the tokens met so far: whole conversations are spelled every turn

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise EdgeMtpError(f"cannot read tokenizer {str(path)!r}: {error.strerror}") from None

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Control tokens in it become their own ids; nothing is added.

        Raises EdgeMtpError for half a surrogate pair, which is no character.
        """
        return _ids(self._tokenizer, text)

    def spell(self, text: str) -> list[int]:
        """Ids of a text in ordinary tokens alone: what looks like a control token is the characters that it has."""
        return _ids(self._speller, text)

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """The special tokens, and others of their looks: `<unused7>` need not be marked as special."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return ControlTokens(token.content for token in added if token.special or looks_special(token.content))

    @cached_property
    def _speller(self) -> tokenizers.Tokenizer:
        """The tokenizer without eyes for control tokens. Few conversations need it."""
        parsed = json.loads(self.source)
        for token in parsed.get("added_tokens", []):
            token["special"] = token["content"] in self.control_tokens.texts
        speller = tokenizers.Tokenizer.from_str(json.dumps(parsed))
        speller.encode_special_tokens = True
        return speller

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids, control tokens included. Bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_id(self, token: str) -> int:
        """The id of a token by its text. Raises `EdgeMtpError` if the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise EdgeMtpError(f"the tokenizer has no token {token!r}; use the tokenizer of a Gemma 4 checkpoint")
        return int(found)

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of an id. Raises `EdgeMtpError` if the id is outside the vocabulary."""
        found = self._tokenizer.id_to_token(token)
        if found is None:
            raise EdgeMtpError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return str(found)

    def token_bytes(self, token: int) -> bytes:
        """What an id adds to a text: one byte for a byte token, else UTF-8 (a control token's own text included).

        Raises `EdgeMtpError` if the id is outside the vocabulary.
        """
        if (known := self._bytes.get(token)) is not None:
            return known
        byte = _BYTE.fullmatch(self.token_text(token))
        found = bytes([int(byte[1], 16)]) if byte else self.decode([token]).encode()
        self._bytes[token] = found
        return found


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(utf8(text, "the text").decode(), add_special_tokens=False).ids)


class Detokenizer:
    """Ids to text as they come: never half a character, and nothing of the stop string that ends the text.

    The pieces returned by `push` and the last one by `finish`, joined, are the UTF-8 text of the tokens' bytes, up to
    where the first of `stop_texts` begins; bytes that are no UTF-8 become U+FFFD. Stop strings are looked for in the
    bytes as the runner does (device/native/stop_text.h): of several, the one that ends first, then the longest.
    """

    def __init__(self, tokenizer: Tokenizer, stop_texts: Sequence[str] = ()) -> None:
        """Raises `EdgeMtpError` for an empty stop string."""
        if not all(stop_texts):
            raise EdgeMtpError("a stop string is empty; give at least one character")
        self._tokenizer = tokenizer
        self._stops = [utf8(text, f"the stop string {text!r}") for text in stop_texts]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""  # may be the beginning of a stop string
        self.stopped = False  # a stop string is complete: what follows is no part of the text

    @property
    def holds(self) -> bool:
        """Whether bytes are held back that `finish` may still give out."""
        return bool(self._held or self._decoder.getstate()[0])

    def push(self, token: int) -> str:
        """The text that `token` completes: empty while a character's bytes are still missing."""
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
        """What was held back; the detokenizer can then be used for another text."""
        rest = self._decoder.decode(self._held, final=True)
        self._decoder.reset()
        self._held, self.stopped = b"", False
        return rest

    def _may_begin(self, text: bytes) -> bool:
        return any(stop.startswith(text) for stop in self._stops)


@dataclass(frozen=True)
class Written:
    """A reply of the model in a conversation, as the model wrote it.

    `prompt` and `tokens` are ids, without the stop token. `context` is of what the prompt was made; `thoughts` are the
    messages whose thoughts stand in prompt and tokens.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    context: str
    thoughts: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Composed:
    """A prompt's ids, with what `Written` wants to know of it."""

    ids: list[int]
    context: str
    thoughts: frozenset[int]


@dataclass(frozen=True)
class _Place:
    """Where a reply stands in a rendered conversation, and whether the template keeps its thought."""

    begin: int
    end: int
    thought: bool


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation becomes a prompt: tokenizer, chat template, tokens and texts that end a reply.

    `special_tokens` are variables of the template, such as `eos_token`.
    """

    tokenizer: Tokenizer
    template: str
    stop_token_ids: frozenset[int]
    bos_token: str = "<bos>"
    stop_texts: tuple[str, ...] = ()
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_directory(cls, directory: str | Path) -> ChatFormat:
        """The chat format of a checkpoint: tokenizer.json, chat_template.jinja, generation_config.json's eos ids.

        Raises `EdgeMtpError` for a missing or malformed file.
        """
        directory = Path(directory)
        try:
            template = (directory / "chat_template.jinja").read_text(encoding="utf-8-sig")
            config = json.loads((directory / "generation_config.json").read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise EdgeMtpError(f"cannot read {error.filename!r}: {error.strerror}") from None
        except json.JSONDecodeError as error:
            raise EdgeMtpError(f"{directory}/generation_config.json is not JSON: {error.msg}") from None
        stops = config.get("eos_token_id", [])
        stop_ids = frozenset(stops if isinstance(stops, list) else [stops])
        special = special_tokens(directory)
        bos = special.get("bos_token", cls.bos_token)
        return cls(Tokenizer.from_file(directory / "tokenizer.json"), template, stop_ids, bos, special_tokens=special)

    @cached_property
    def form(self) -> Form:
        """The form in which the template takes messages."""
        return Form.of(lambda messages: self._template.render(self._variables(messages, None, True, {})))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text.

        `messages` and `tools` are in OpenAI's form (`edge_mtp.messages`, `edge_mtp.tool_calls.load_tools`). Calls and
        answers stand in Gemma 4's wire format even where the template would write them otherwise. `variables` are the
        template's, such as `enable_thinking`.

        Raises `EdgeMtpError` where the template refuses the conversation or is itself wrong.
        """
        return self._rendered(canonical(messages), tools, add_generation_prompt, False, variables).text

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        control_tokens: bool = False,
        **variables: Any,
    ) -> list[int]:
        """The prompt's token ids; options as for `render`.

        The control tokens in it are the template's. What looks like one in `messages` and `tools` is spelled in
        ordinary tokens, unless `control_tokens`.
        """
        rendered = self._rendered(canonical(messages), tools, add_generation_prompt, control_tokens, variables)
        return self._encoded(rendered, 0, len(rendered.marked))

    def compose(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        written: Mapping[int, Written],
        *,
        control_tokens: bool = False,
        **variables: Any,
    ) -> Composed:
        """The prompt of a conversation in which the model wrote the messages `written`, by their place.

        The template says what stands between those replies, and the ids that the model wrote stand as they are: so the
        runner's cache serves to the end of the last one, whatever the template would make of its white space, of text
        before a call, or of a number. A thought goes where the template drops it, but not before the turn is over:
        a model that thinks, calls and is answered goes on from its thought. Raises as `render`.
        """
        clean = canonical(messages)
        context = self._context(clean, tools, variables, control_tokens)
        turn = max((n for n, message in enumerate(clean) if message["role"] in ("user", "system")), default=-1)
        stand_ins = self._with_stand_ins(clean, written, tools)
        rendered = self._rendered(stand_ins, tools, True, control_tokens, variables)
        places = _places(rendered.marked, stand_ins, written)
        if places is None:  # a template that drops or rearranges messages
            rendered = self._rendered(clean, tools, True, control_tokens, variables)
            places = {}
        thoughts = frozenset(n for n, place in places.items() if place.thought or n > turn)
        ids, included, end = [], frozenset[int](), 0
        rest = sorted(places)
        for n in reversed(rest):
            reply = written[n]
            if reply.thoughts <= thoughts and reply.context == self._context(
                clean[:n], tools, variables, control_tokens
            ):
                ids, included, end = [*reply.prompt, *reply.tokens], reply.thoughts, places[n].end
                rest = [later for later in rest if later > n]
                break
        for n in rest:
            ids += self._encoded(rendered, end, places[n].begin)
            ids += written[n].tokens if n in thoughts else self._without_thoughts(written[n])
            included, end = included | ({n} & thoughts), places[n].end
        ids += self._encoded(rendered, end, len(rendered.marked))
        return Composed(ids, context, included)

    def prefix_length(
        self,
        prompt: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> int:
        """Leading ids of `prompt` that every conversation with the same system message and `tools` begins with.

        `prompt` is the encoded `messages`; `options` are those of `encode`. 0 where there is neither a system message
        nor a tool: a few control tokens are not worth keeping.
        """
        system = [m for m in messages[:1] if m["role"] in ("system", "developer")]
        if not system and not tools:
            return 0
        others = [self.encode([*system, {"role": "user", "content": text}], tools, **options) for text in ("a", "Z")]
        alike = takewhile(lambda ids: len(set(ids)) == 1, zip(prompt, *others, strict=False))
        return sum(1 for _ in alike)

    def thought_spans(self, prompt: Sequence[int], tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where thoughts stand in a reply's tokens, marks included; the prompt may have opened the first."""
        opens, closes = (self._channel_ids[text] for text in (CHANNEL_OPEN, CHANNEL_CLOSE))
        marks = [token for token in prompt if token in (opens, closes)]
        begin = 0 if marks and marks[-1] == opens else None
        for n, token in enumerate(tokens):
            if token == opens and begin is None:
                begin = n
            elif token == closes and begin is not None:
                yield begin, n + 1
                begin = None
        if begin is not None:
            yield begin, len(tokens)

    @cached_property
    def _channel_ids(self) -> dict[str, int]:
        known = self.tokenizer.control_tokens.texts
        return {t: self.tokenizer.token_id(t) if t in known else -1 for t in (CHANNEL_OPEN, CHANNEL_CLOSE)}

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.template)

    def _variables(
        self, messages: Sequence[Message], tools: Any, generation_prompt: bool, variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            **self.special_tokens,
            "bos_token": self.bos_token,
            **variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": generation_prompt,
        }

    @cached_property
    def _declared_with(self) -> dict[str, Any]:
        """How `declarations` works around what the template does wrong, found by a probe.

        Two of Google's leave out properties whose names are keywords, and misplace a comma in a list undescribed.
        """
        names = ("description", "type", "properties", "required", "nullable", "items", "enum")
        properties: dict[str, Any] = {name: {"type": "string", "description": f"probe of {name}"} for name in names}
        properties["list"] = {"type": "array", "items": {"type": "string"}}
        parameters = {"type": "object", "properties": {"p": {"type": "object", "properties": properties}}}
        tool = {"type": "function", "function": {"name": "probe", "description": "", "parameters": parameters}}
        try:
            text = self._template.render(self._variables([{"role": "user", "content": ""}], [tool], True, {}))
        except EdgeMtpError:
            return {}
        told = {name for name in names if f"probe of {name}" in text}
        return {"untold": frozenset(names) - told if told else frozenset(), "described": "list:{," in text}

    def _rendered(
        self,
        clean: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        generation_prompt: bool,
        control_tokens: bool,
        variables: Mapping[str, Any],
    ) -> _Rendered:
        """Canonical messages as marked text (`edge_mtp.control_text`)."""
        tools = declarations(tools, **self._declared_with)
        mark = new_mark(self.template + _json([clean, tools]))
        if not control_tokens:
            marked = self.tokenizer.control_tokens.marked
            clean, tools = marked(clean, mark), marked(tools, mark)

        def rendered(messages: Sequence[Message]) -> str:
            given = self._variables(self.form.dressed(messages), tools or None, generation_prompt, variables)
            return self._template.render(given)

        # Models write first the text and then the calls; most templates have it the other way round.
        text = _in_wire_format(rendered([{**m, "content": ""} if "tool_calls" in m else m for m in clean]), clean)
        return _Rendered(rendered(clean) if text is None else text, mark)

    def _encoded(self, rendered: _Rendered, begin: int, end: int) -> list[int]:
        """Ids of a part of a rendered conversation."""
        text, mark = rendered.marked[begin:end], rendered.mark
        if mark not in text:
            return self.tokenizer.encode(text)
        ids: list[int] = []
        for part, control in self.tokenizer.control_tokens.split(text):
            ids += [self.tokenizer.token_id(part)] if control else self.tokenizer.spell(part.replace(mark, ""))
        return ids

    def _with_stand_ins(
        self, clean: Sequence[Message], written: Mapping[int, Written], tools: Sequence[Mapping[str, Any]]
    ) -> list[Message]:
        """The messages with something that can be found in place of each reply: its calls, or else a number."""
        everything = self.template + _json([clean, tools])
        stand_ins: list[Message] = []
        for n, message in enumerate(clean):
            made = dict(message)
            if n in written:
                made["content"] = "" if "tool_calls" in made else new_mark(everything, 2 * n + 1)
                if "reasoning" in made:
                    made["reasoning"] = new_mark(everything, 2 * n + 2)
            stand_ins.append(made)
        return stand_ins

    def _context(
        self,
        clean: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        control_tokens: bool,
    ) -> str:
        """Tells what a prompt is made of from all else."""
        return _digest([self.identity, clean, tools, variables, control_tokens])

    @cached_property
    def identity(self) -> str:
        """Tells this tokenizer and template from all others."""
        return hashlib.sha256(
            _json([self.tokenizer.source, self.template]).encode("utf-8", "surrogatepass")
        ).hexdigest()

    def _without_thoughts(self, reply: Written) -> list[int]:
        kept: list[int] = []
        end = 0
        for begin, behind in self.thought_spans(reply.prompt, reply.tokens):
            kept += reply.tokens[end:begin]
            end = behind
        return [*kept, *reply.tokens[end:]]


@dataclass(frozen=True)
class _Rendered:
    """A conversation's text with marks in what looks like a control token and is none."""

    marked: str
    mark: str

    @property
    def text(self) -> str:
        return self.marked.replace(self.mark, "")


_BLOCK = re.compile(
    "|".join(
        f"{re.escape(begin)}(?:(?!{re.escape(begin)}|<turn\\|>).)*?{re.escape(end)}"
        for begin, end in ((CALL_OPEN, CALL_CLOSE), (RESPONSE_OPEN, RESPONSE_CLOSE))
    ),
    re.DOTALL,
)


def _in_wire_format(text: str, clean: Sequence[Message]) -> str | None:
    """A rendered conversation with its calls, the text before them and the answers as `tool_calls` spells them.

    Templates spell null as None, or the name of the last call beside every answer. None where the text has not the
    calls and the answers that the conversation has.
    """
    calls: list[str] = []
    answers: list[str] = []
    for message in clean:
        if message["role"] == "tool":
            answers.append(format_response(message["name"], message["content"]))
        before = _plain(message["content"]) if "tool_calls" in message else ""
        for call in message.get("tool_calls", ()):
            calls.append(before + format_calls([ToolCall(**call["function"])], is_read=False))
            before = ""
    found = [each[0].startswith(CALL_OPEN) for each in _BLOCK.finditer(text)]
    if found.count(True) != len(calls) or found.count(False) != len(answers):
        return None
    right = {True: iter(calls), False: iter(answers)}
    text = _BLOCK.sub(lambda each: next(right[each[0].startswith(CALL_OPEN)]), text)
    # One template asks for the rest of a turn without its beginning, and then writes it there again.
    return text.replace(f"{RESPONSE_CLOSE}<|turn>model\n", RESPONSE_CLOSE)


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def _places(text: str, stand_ins: Sequence[Message], written: Mapping[int, Written]) -> dict[int, _Place] | None:
    """Where each reply that the model wrote stands; None if one cannot be found."""
    places: dict[int, _Place] = {}
    end = 0
    for n, message in enumerate(stand_ins):
        if message["role"] != "assistant":
            continue
        before, calls = end, message.get("tool_calls", ())
        if calls:
            begin = end = text.find(CALL_OPEN, before)
            for _ in calls:
                end = text.find(CALL_CLOSE, end) + len(CALL_CLOSE) if end >= 0 else -1
                if end < len(CALL_CLOSE):
                    return None
        elif n in written:
            begin = text.find(message["content"], before)
            end = begin + len(message["content"])
        else:
            continue
        if begin < 0:
            return None
        thought = text.find(message["reasoning"], before, begin) if n in written and "reasoning" in message else -1
        if thought >= 0:
            opened = text.rfind(CHANNEL_OPEN, before, thought)
            begin = opened if opened >= 0 else thought
        if n in written:
            places[n] = _Place(begin, end, thought >= 0)
    return places


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def special_tokens(directory: Path) -> dict[str, str]:
    """The named special tokens of a checkpoint's tokenizer_config.json, as transformers gives them to a template."""
    path = directory / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EdgeMtpError(f"cannot read {str(path)!r}: {error}; save the tokenizer again") from None
    config = config if isinstance(config, dict) else {}
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    for more in ("model_specific_special_tokens", "extra_special_tokens"):
        named |= config[more] if isinstance(config.get(more), dict) else {}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
