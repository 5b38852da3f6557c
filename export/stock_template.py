"""What chat template a bundle gives the stock LiteRT-LM engine.

That engine renders with minijinja and gives a template its messages in a form of its own, so that most checkpoints'
templates are refused there or write something else. `choose` takes the first of these that writes every prompt of
`edge_mtp.battery` as the checkpoint's own does in our runtime: the checkpoint's own; its own behind a prelude that
changes the form of the messages; its translation (`edge_mtp.export.minijinja`); the general one that comes with the
tiny pair. `StockTemplate` renders as the engine does (docs/templates.md).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import minijinja

from edge_mtp.battery import CONVERSATIONS, Conversation
from edge_mtp.chat import ChatFormat
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.minijinja import translate

Kind = Literal["own", "translated", "general", "refused"]

# LiteRT-LM, runtime/components/prompt_template.cc: what becomes of Python's methods before minijinja reads a template.
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

# The engine's own test `none`, which it says is true of what is undefined.
_NONE_TEST = re.compile(r"\bis(\s+not)?\s+none\b")

# The stock engine's messages, in minijinja, as a template of transformers' knows them: content of one text is that text,
# a thought is `reasoning`, and the model is the assistant. The engine subtracts the text of a conversation from that of
# the next turn's, so what a later turn leaves out (thoughts of a turn that is over) must not stand in the earlier text.
_HEAD = """
{%- set edge = namespace(messages=[], open=none, answers=[], content=none, over=false) -%}
{%- for message in messages -%}
{%- set edge.over = message['role'] in ['assistant', 'model'] and not message['tool_calls'] -%}
{%- endfor -%}
{%- for message in messages -%}
"""
_TAIL = """
{%- set edge.content = message['content'] -%}
{%- if edge.content is sequence and edge.content is not string and edge.content | length == 1 -%}
{%- if edge.content[0]['type'] == 'text' -%}{%- set edge.content = edge.content[0]['text'] -%}{%- endif -%}
{%- endif -%}
{%- set edge.open = dict(message, content=edge.content) -%}
{%- if message['role'] == 'model' -%}{%- set edge.open = dict(edge.open, role='assistant') -%}{%- endif -%}
{%- if message['channels'] and message['channels']['thought'] and not edge.over -%}
{%- set edge.open = dict(edge.open, reasoning=(message['channels']['thought'] | trim)) -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
"""
_CLOSE = """
{%- if edge.open and edge.answers -%}{%- set edge.open = dict(edge.open, tool_responses=edge.answers) -%}{%- endif -%}
{%- if edge.open -%}{%- set edge.messages = edge.messages + [edge.open] -%}{%- endif -%}
"""
_ANSWERS = """
{%- if message['role'] == 'tool' and message['content'] is sequence and message['content'] is not string -%}
{%- for part in message['content'] -%}
"""
_OWN_MESSAGES = {
    # Answers inside the message of the calls, as Google's templates have them.
    "responses": _HEAD
    + _ANSWERS
    + "{%- set edge.answers = edge.answers + [{'name': part['name'], 'response': part['response']}] -%}{%- endfor -%}"
    + "{%- else -%}"
    + _CLOSE
    + "{%- set edge.answers = [] -%}"
    + _TAIL
    + _CLOSE,
    # A message for each answer, which is its content.
    "named": _HEAD
    + _CLOSE
    + "{%- set edge.open = none -%}"
    + _ANSWERS
    + "{%- set edge.messages = edge.messages"
    + " + [{'role': 'tool', 'name': part['name'], 'content': part['response']}] -%}{%- endfor -%}"
    + "{%- else -%}"
    + _TAIL
    + _CLOSE,
    # Answers as the engine gives them.
    "parts": _HEAD
    + _CLOSE
    + "{%- set edge.open = none -%}"
    + "{%- if message['role'] == 'tool' -%}{%- set edge.messages = edge.messages + [message] -%}"
    + "{%- else -%}"
    + _TAIL
    + _CLOSE,
}
# A turn that waits for answers, as far as every later text has it too.
_UNFINISHED = (
    "{%- set edge_text_so_far -%}",
    "{%- endset -%}"
    "{%- set edge_last = messages | last -%}"
    "{%- if edge_last and edge_last['tool_calls'] and not edge_last['tool_responses'] and not add_generation_prompt -%}"
    "{{- ((edge_text_so_far | split('<tool_call|>') | list)[:-1] | join('<tool_call|>')) ~ '<tool_call|>' -}}"
    "{%- else -%}{{- edge_text_so_far -}}{%- endif -%}",
)


@dataclass(frozen=True)
class StockChoice:
    """The template for the metadata, and what it is.

    `own` is the checkpoint's, perhaps behind a prelude; `translated` is written by us and says the same; `general` is
    the one that comes with the tiny pair. `refused` is the checkpoint's for want of one that says the same: `reason`
    is what the engine does with it.
    """

    template: str
    kind: Kind
    reason: str = ""


class StockTemplate:
    """A template as the stock engine renders it."""

    def __init__(self, source: str) -> None:
        """Raises EdgeMtpError for one that minijinja does not read."""
        for pattern, replacement in _EDITS:
            source = pattern.sub(replacement, source)
        source = _NONE_TEST.sub(r"is\1 undefined", source)
        self._environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, pycompat=False)
        self._environment.add_filter("tojson", lambda value: json.dumps(value, ensure_ascii=False))
        self._environment.add_filter("lstrip", lambda text, characters=None: text.lstrip(characters))
        self._environment.add_filter("rstrip", lambda text, characters=None: text.rstrip(characters))
        self._environment.add_function("raise_exception", _raise_exception)
        self._environment.add_function("strftime_now", lambda form: time.strftime(form, time.gmtime()))
        with _one_line():
            self._environment.add_template("template", source)

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> str:
        """The text of a canonical conversation without its start token, which the engine puts there itself.

        Raises EdgeMtpError where the template refuses it or is wrong.
        """
        with _one_line():
            return self._environment.render_template(
                "template",
                messages=[stock_message(message) for message in conversation.messages],
                tools=list(conversation.tools),
                add_generation_prompt=add_generation_prompt,
                bos_token="",
                **conversation.variables,
            )


def stock_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical message in the form that the stock engine's interfaces take and its templates get."""
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
    """What the battery gave: the names of the conversations that the checkpoint's template refuses in our runtime, with
    the reason, and the choice for the stock engine."""

    conversations: int
    refused: dict[str, str]
    stock: StockChoice


def choose(chat: ChatFormat, conversations: Sequence[Conversation] = CONVERSATIONS) -> Trial:
    """Tries the template of `chat` on `conversations` and chooses the stock engine's.

    Raises EdgeMtpError where the template is no jinja, or refuses every conversation.
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
    for kind, make in _candidates(chat.template):
        try:
            template = make()
            trouble = _difference(StockTemplate(template), prompts)
        except EdgeMtpError as error:
            trouble = str(error)
        if not trouble:
            return Trial(len(conversations), refused, StockChoice(template, kind))
        failure = failure or trouble
    return Trial(len(conversations), refused, StockChoice(chat.template, "refused", failure))


def _candidates(template: str) -> Iterator[tuple[Kind, Callable[[], str]]]:
    """The templates that are tried, the checkpoint's own first. Each is made when it is its turn."""
    general = (tiny_pair()[0] / "chat_template.jinja").read_text(encoding="utf-8")
    yield "own", lambda: template
    for prelude in _OWN_MESSAGES.values():
        yield "own", lambda prelude=prelude: _behind(prelude, template)  # type: ignore[misc]
    for prelude in _OWN_MESSAGES.values():
        yield "translated", lambda prelude=prelude: _behind(prelude, translate(template))  # type: ignore[misc]
    for prelude in _OWN_MESSAGES.values():
        before, after = _UNFINISHED
        yield "translated", lambda prelude=prelude: _behind(prelude, before + translate(template) + after)  # type: ignore[misc]
    yield "general", lambda: general


def _behind(prelude: str, template: str) -> str:
    """`template`, whose lines keep their numbers, on the messages that `prelude` makes."""
    return "".join(prelude.splitlines()) + "{%- set messages = edge.messages -%}" + template


def _difference(stock: StockTemplate, prompts: Sequence[tuple[Conversation, str]]) -> str:
    """Why the template is not what the stock engine needs; empty if it is.

    It must write the prompts, and each must begin with the text of the conversation before the last messages, since
    the engine gives its session what is behind that.
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
    """A template's error as one line, with its place."""
    try:
        yield
    except minijinja.TemplateError as error:
        line = f", line {error.line}" if error.line is not None else ""
        detail = " ".join(str(error.detail or error.kind).split())
        raise EdgeMtpError(f"{detail}{line}") from None
    except (ValueError, TypeError) as error:
        raise EdgeMtpError(" ".join(str(error).split())) from None
