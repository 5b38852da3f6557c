"""Text to token ids and back: a bundle's tokenizer and its chat template.

Both come out of a bundle as they were exported (`tokenizer.json`, a jinja template), so any Gemma 4 checkpoint brings
its own. The template is untrusted input: it renders in jinja2's sandbox.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import tokenizers

from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import utf8

Message = Mapping[str, Any]
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte of Gemma's byte fallback


class Tokenizer:
    """A `tokenizer.json`: text to ids, ids to text, with control tokens as text on both ways."""

    def __init__(self, source: str | bytes) -> None:
        """`source` is the content of a tokenizer.json. Raises `EdgeMtpError` if it is not one."""
        try:
            text = source.decode("utf-8") if isinstance(source, bytes) else source
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
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
        """Ids of a text. Control tokens in it become their own ids; nothing is added."""
        return list(self._tokenizer.encode(utf8(text, "the text").decode(), add_special_tokens=False).ids)

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
class ChatFormat:
    """How a conversation becomes a prompt: tokenizer, chat template, tokens and texts that end a reply."""

    tokenizer: Tokenizer
    template: str
    stop_token_ids: frozenset[int]
    bos_token: str = "<bos>"
    stop_texts: tuple[str, ...] = ()

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
        return cls(Tokenizer.from_file(directory / "tokenizer.json"), template, stop_ids)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. `tools` are in OpenAI's form (see `tool_calls.load_tools`).

        Raises `EdgeMtpError` where the template refuses the conversation or is itself wrong.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                **variables,
            )
        except jinja2.TemplateError as error:
            raise EdgeMtpError(f"the chat template refuses this conversation: {error}") from None

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **options: Any) -> list[int]:
        """The prompt's token ids; options as for `render`."""
        return self.tokenizer.encode(self.render(messages, tools, **options))

    def encode_after(self, known: Sequence[Sequence[int]], text: str) -> list[int]:
        """Ids of `text` that begin with the longest of `known` (each token ids) whose text `text` begins with.

        A model need not write its text in the ids that the tokenizer would have chosen. So a rendered history only
        gives the ids that the model saw, and its cache holds, if those it wrote are kept and put in again.
        """
        whole = utf8(text, "the conversation")
        for ids in sorted(known, key=len, reverse=True):
            begins = b"".join(map(self.tokenizer.token_bytes, ids))
            if whole.startswith(begins):
                # `begins` can end inside a character (a reply that was cut off); then the rest is no text.
                try:
                    return [*ids, *self.tokenizer.encode(whole[len(begins) :].decode())]
                except UnicodeDecodeError:
                    continue
        return self.tokenizer.encode(text)

    def prefix_length(
        self, prompt: Sequence[int], messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Leading ids of `prompt` that every conversation with the same system message and `tools` begins with.

        `prompt` is the encoded `messages`. 0 where there is neither a system message nor a tool: a few control tokens
        are not worth keeping.
        """
        system = [m for m in messages[:1] if m["role"] in ("system", "developer")]
        if not system and not tools:
            return 0
        others = [self.encode([*system, {"role": "user", "content": text}], tools) for text in ("a", "Z")]
        alike = takewhile(lambda ids: len(set(ids)) == 1, zip(prompt, *others, strict=False))
        return sum(1 for _ in alike)

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            return environment.from_string(self.template)
        except jinja2.TemplateError as error:
            raise EdgeMtpError(f"the chat template is not valid jinja: {error}; export the bundle again") from None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
