"""Chooses the chat template that a bundle gives the stock LiteRT-LM engine.

That engine renders with minijinja and passes messages in its own form, so it refuses most checkpoints' templates or
renders them differently. `tried` picks the first candidate that writes every prompt of `edge_mtp.chat.battery` just as
the checkpoint's template does in our runtime. The candidates are the checkpoint's template; the same behind a prelude
that changes the form of the messages; its translation (`edge_mtp.export.minijinja`); and the general one that comes
with the tiny pair. `StockTemplate` renders as the engine does (docs/templates.md).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import minijinja

from edge_mtp.chat.battery import CONVERSATIONS, Conversation
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.minijinja import literal, translate

Kind = Literal["own", "translated", "general", "refused"]

# How the engine replaces Python's methods before minijinja reads a template: LiteRT-LM,
# runtime/components/prompt_template.cc.
_EDITS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\.startswith\((.*?)\)", r" is startingwith \1"),
        (r"\.endswith\((.*?)\)", r" is endingwith \1"),
        (r"\.replace\((.*?),(.*?)\)", r" | replace(\1,\2)"),
        (r"\.split\((.*?)\)\[0\]", r" | split(\1) | first"),
        (r"\.split\((.*?)\)\[-1\]", r" | split(\1) | last"),
        (r"\.split\((.*?)\)", r" | split(\1)"),
        (r"\.join\((.*?)\)", r" | join(\1)"),
        (r"\.lstrip\(\)", " | lstrip"),
        (r"\.lstrip\((.*?)\)", r" | lstrip(\1)"),
        (r"\.rstrip\(\)", " | rstrip"),
        (r"\.rstrip\((.*?)\)", r" | rstrip(\1)"),
        (r"\.strip\(\)", " | trim"),
        (r"\.strip\((.*?)\)", r" | trim(\1)"),
        (r"\.items\(\)", " | items"),
        (r"\{% generation %\}", ""),
        (r"\{% endgeneration %\}", ""),
    ]
]

# The engine replaces the test `none` by its own, which is also true for undefined values.
_NONE_TEST = re.compile(r"\bis(\s+not)?\s+none\b")

_AROUND = Path(__file__).with_name("stock.jinja")
_PLACE = "TEMPLATE"  # the line of that file where a template goes


_KINDS: Mapping[Kind, str] = {
    "own": "the checkpoint's own",
    "translated": "the checkpoint's, translated",
    "general": "a general one, which writes the same",
    "refused": "the checkpoint's own, though it writes something else there",
}


@dataclass(frozen=True)
class StockChoice:
    """The template for the metadata, and its kind.

    `own` is the checkpoint's, perhaps behind a prelude; `translated` is our equivalent translation; `general` is the
    one that comes with the tiny pair. `refused` is the checkpoint's, used because no candidate renders the same
    prompts; `reason` is what the engine does with it.
    """

    template: str
    kind: Kind
    reason: str = ""


class StockTemplate:
    """A template as the stock engine renders it."""

    def __init__(self, source: str) -> None:
        for pattern, replacement in _EDITS:
            source = pattern.sub(replacement, source)
        source = _NONE_TEST.sub(r"is\1 undefined", source)
        self._environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, pycompat=False)
        self._environment.add_filter("tojson", lambda value: json.dumps(value, ensure_ascii=False))
        self._environment.add_filter("lstrip", lambda text, characters=None: text.lstrip(characters))
        self._environment.add_filter("rstrip", lambda text, characters=None: text.rstrip(characters))
        self._environment.add_function("raise_exception", _raise_exception)
        self._environment.add_function("strftime_now", lambda form: time.strftime(form, time.gmtime()))
        self._source = source

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> str:
        """The text of a canonical conversation, without the start token, which the engine adds itself.

        Raises EdgeMtpError when the template refuses the conversation or has an error.
        """
        given = {
            "messages": [stock_message(message) for message in conversation.messages],
            "tools": list(conversation.tools) or None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": "",
            "eos_token": "",
            **conversation.variables,
        }
        # As literals: minijinja would write Python objects in Python's notation.
        values = "".join(f"{{%- set {name} = {literal(value)} -%}}" for name, value in given.items())
        with _one_line():
            text: str = self._environment.render_str(values + self._source, "template")
        return text


def stock_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical message in the form that the stock engine's API takes and passes to templates."""
    if message["role"] == "tool":
        part = {"type": "tool_response", "name": message["name"], "response": message["content"]}
        return {"role": "tool", "content": [part]}
    made = {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name) is not None}
    if isinstance(made.get("content"), str):
        made["content"] = [{"type": "text", "text": made["content"]}]
    if message.get("reasoning"):
        made["channels"] = {"thought": message["reasoning"] + "\n"}
    return made


@dataclass(frozen=True)
class Trial:
    """The result of the battery: the conversations, by name, that the checkpoint's template refuses in our runtime,
    with the reason; and the choice for the stock engine."""

    conversations: int
    refused: dict[str, str]
    stock: StockChoice

    def lines(self) -> Iterator[str]:
        """Lines for people: which template the stock engine gets, and each refusal."""
        yield f"chat template: {self.conversations - len(self.refused)} of {self.conversations} conversations render"
        for name, reason in self.refused.items():
            yield f"chat template refuses '{name}': {reason}"
        yield f"stock engine's chat template: {_KINDS[self.stock.kind]}"
        if self.stock.reason:
            yield f"  {self.stock.reason}"


def tried(chat: ChatFormat, conversations: Sequence[Conversation] = CONVERSATIONS) -> Trial:
    """Tries the template of `chat` on `conversations`, and chooses the stock engine's template.

    Raises EdgeMtpError when the template is not valid jinja, or refuses every conversation.
    """
    prompts: list[tuple[Conversation, str]] = []
    refused: dict[str, str] = {}
    for conversation in conversations:
        for prompt in conversation.prompts():
            try:
                text = chat.render(prompt.messages, prompt.tools, **prompt.variables)
            except EdgeMtpError as error:
                refused.setdefault(conversation.name, str(error))
            else:
                prompts.append((prompt, text.removeprefix(chat.bos_token)))
    if not prompts:
        reason = next(iter(refused.values()))
        raise EdgeMtpError(f"{reason}; every conversation that was tried is refused: give the checkpoint its template")
    failure = ""
    for kind, make in _candidates(chat):
        try:
            template = make()
        except EdgeMtpError as error:  # names the construct that has no translation
            failure = str(error)
            continue
        try:
            trouble = _difference(StockTemplate(template), prompts)
        except EdgeMtpError as error:
            trouble = str(error)
        if not trouble:
            return Trial(len(conversations), refused, StockChoice(template, kind))
        failure = failure or trouble
    return Trial(len(conversations), refused, StockChoice(chat.template, "refused", failure))


def _candidates(chat: ChatFormat) -> Iterator[tuple[Kind, Callable[[], str]]]:
    """The candidate templates, the checkpoint's own first. Each is built only when its turn comes."""
    yield "own", lambda: chat.template
    yield "own", lambda: _adapted(chat.template, chat)
    yield "translated", lambda: _adapted(translate(chat.template), chat)
    target = tiny_pair()[0]
    general = (target / "chat_template.jinja").read_text(encoding="utf-8")
    yield "general", lambda: _adapted(general, replace(chat, template=general))


def _adapted(template: str, chat: ChatFormat) -> str:
    """`template` behind a prelude that converts messages to the form that it takes. Line numbers stay the same."""
    before, after = (_on_one_line(part) for part in _AROUND.read_text(encoding="utf-8").split(f"{_PLACE}\n"))
    form, special = chat.form, {**chat.special_tokens, "documents": None}
    given: dict[str, Any] = {"edge_answers": form.answers, "edge_parts": sorted(form.parts)}
    # The engine knows only the start token, which it puts before the prompt itself.
    given |= {name: text for name, text in special.items() if name != "bos_token" and name in template}
    values = "".join(f"{{%- set {name} = {literal(value)} -%}}" for name, value in given.items())
    return values + before + template + after


def _on_one_line(template: str) -> str:
    without_comments = re.sub(r"\{#-.*?-#\}", "", template, flags=re.DOTALL)
    return "".join(line.strip() for line in without_comments.splitlines())


def _difference(stock: StockTemplate, prompts: Sequence[tuple[Conversation, str]]) -> str:
    """Why the template does not suit the stock engine; empty if it does.

    It must write the prompts. Each prompt must also begin with the text of the conversation without its last messages,
    since the engine passes only the rest to its session.
    """
    for prompt, expected in prompts:
        text = stock.render(prompt)
        if text != expected:
            at = next(i for i, (a, b) in enumerate(zip(text + "\0", expected + "\1", strict=False)) if a != b)
            return (
                f"'{prompt.name}' has {text[at : at + 24]!r} where the checkpoint's own has"
                f" {expected[at : at + 24]!r}, behind {expected[max(0, at - 24) : at]!r}"
            )
        begin = max((i for i, m in enumerate(prompt.messages, 1) if m["role"] == "assistant"), default=0)
        if begin:
            earlier = replace(prompt, messages=prompt.messages[:begin])
            if not text.startswith(stock.render(earlier, add_generation_prompt=False)):
                return f"'{prompt.name}' does not begin with what was written before its last message"
    return ""


def _raise_exception(message: str) -> None:
    raise ValueError(message)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turns a template's error into one line with its location."""
    try:
        yield
    except minijinja.TemplateError as error:
        line = f", line {error.line}" if error.line is not None else ""
        detail = " ".join(str(error.detail or error.kind).split())
        raise EdgeMtpError(f"{detail}{line}") from None
    except (ValueError, TypeError) as error:
        raise EdgeMtpError(" ".join(str(error).split())) from None
