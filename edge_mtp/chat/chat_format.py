"""Conversations to token ids and back: a bundle's tokenizer and its chat template.

A bundle has both as the export found them in the checkpoint (`tokenizer.json`, a jinja template).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from edge_mtp.chat.control_text import new_mark
from edge_mtp.chat.declarations import declarations
from edge_mtp.chat.form import Form
from edge_mtp.chat.messages import SYSTEM_ROLES, Message, canonical
from edge_mtp.chat.rendered import Rendered, in_wire_format
from edge_mtp.chat.template import ChatTemplate
from edge_mtp.chat.tokenizer import Tokenizer, special_tokens
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import (
    CHANNEL_CLOSE,
    CHANNEL_OPEN,
)


@dataclass(frozen=True)
class Written:
    """A reply in a conversation, as the model wrote it.

    `prompt` and `tokens` are ids, without the stop token. `context` identifies the conversation, tools and options
    behind the prompt; `thoughts` are the places of the messages whose thoughts stand in prompt and tokens.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    context: str
    thoughts: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Composed:
    """A prompt's ids, with its `context` and `thoughts` as `Written` has them."""

    ids: list[int]
    context: str
    thoughts: frozenset[int]


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

        `messages` and `tools` are in OpenAI's form (`edge_mtp.chat.messages`,
        `edge_mtp.formats.tool_calls.load_tools`). Calls and answers are in Gemma 4's wire format, even if the
        template writes them otherwise. `variables` are the template's, such as `enable_thinking`.

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

        The control tokens in it are the template's. Text of `messages` and `tools` that looks like a control token is
        spelled in ordinary tokens, unless `control_tokens`.
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

        The template writes the text between those replies; the replies themselves are the ids that the model wrote.
        So the runner's cache serves to the end of the last reply, even if the template would change its white space,
        the text before a call, or a number. A thought is left out if the template drops it and its turn is over:
        within a turn a model that thought, called a tool and got the answer goes on from its thought. Raises as
        `render`.
        """
        clean = canonical(messages)
        context = self._context(clean, tools, variables, control_tokens)
        turn = max((n for n, message in enumerate(clean) if message["role"] in ("user", "system")), default=-1)
        stand_ins = self._with_stand_ins(clean, written, tools)
        rendered = self._rendered(stand_ins, tools, True, control_tokens, variables)
        places = rendered.places(stand_ins, written.keys())
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
        """The number of leading ids of `prompt` that all conversations with this system message and `tools` share.

        `prompt` is the encoded `messages`; `options` are those of `encode`. 0 without a system message and tools: a few
        control tokens are not worth keeping.
        """
        system = [m for m in messages[:1] if m["role"] in SYSTEM_ROLES]
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
        """The arguments of `declarations` that work around the template's faults, which a probe finds.

        Two of Google's templates leave out properties whose names are keywords, and misplace a comma in a list without
        a description.
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
    ) -> Rendered:
        """Canonical messages as marked text (`edge_mtp.chat.control_text`)."""
        tools = declarations(tools, **self._declared_with)
        mark = new_mark(self.template + _json([clean, tools]))
        if not control_tokens:
            marked = self.tokenizer.control_tokens.marked
            clean, tools = marked(clean, mark), marked(tools, mark)

        def rendered(messages: Sequence[Message]) -> str:
            given = self._variables(self.form.dressed(messages), tools or None, generation_prompt, variables)
            return self._template.render(given)

        # Models write the text before the calls; most templates write it after them.
        text = in_wire_format(rendered([{**m, "content": ""} if "tool_calls" in m else m for m in clean]), clean)
        return Rendered(rendered(clean) if text is None else text, mark)

    def _encoded(self, rendered: Rendered, begin: int, end: int) -> list[int]:
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
        """The messages with a text in place of each reply that can be found again: its calls, or else a number."""
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
        """A digest of all that a prompt is made from."""
        return _digest([self.identity, clean, tools, variables, control_tokens])

    @cached_property
    def identity(self) -> str:
        """A digest of tokenizer and template."""
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


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
