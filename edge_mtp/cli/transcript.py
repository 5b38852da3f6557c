"""A reply for people: thoughts and text with marked drafts, calls, figures; and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edge_mtp.acceptance import remember, warning
from edge_mtp.safe_text import shown, shown_lines

if TYPE_CHECKING:
    from edge_mtp.formats.bundle import Bundle
    from edge_mtp.reply import Reply, Token
    from edge_mtp.summary import Summary

Marks = Literal["colour", "brackets"]
COLOURS = {"drafter": "green", "lookup": "cyan", "grammar": "magenta"}
BAR = "| "  # before each line of a thought
OPEN, CLOSE = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"


class Writer:
    """Writes tokens to standard output as they come, accepted drafts in their source's colour or in brackets.

    Thoughts have their own lines, dim and behind a bar. Without a terminal there are no colours.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._bracket = False
        self._thinks = False
        self._line_begins = True
        self.begun = False  # whether there is text on standard output

    def write(self, token: Token) -> None:
        if not token.text:
            return
        thinks = token.channel == "reasoning"
        if thinks != self._thinks:
            self._end_line()
            self._thinks = thinks
        mark = ""
        if self._marks == "brackets" and token.drafted != self._bracket:
            mark = OPEN if token.drafted else CLOSE
            self._bracket = token.drafted
        said = mark + shown_lines(token.text)
        text = self._behind_bar(said) if thinks else said
        self._line_begins = text.endswith("\n")
        colour = COLOURS[token.source] if self._marks == "colour" and token.source is not None else None
        if thinks or colour is not None:
            text = click.style(text, fg=colour, dim=thinks or None)
        click.echo(text, nl=False)
        self.begun = True

    def _behind_bar(self, text: str) -> str:
        lines = text.split("\n")
        barred = [BAR + line if n or self._line_begins else line for n, line in enumerate(lines)]
        if barred[-1] == BAR:  # of a line that may not come
            barred[-1] = ""
        return "\n".join(barred)

    def _end_line(self) -> None:
        if self._bracket or not self._line_begins:
            click.echo(CLOSE if self._bracket else "")
        self._bracket, self._line_begins = False, True

    def finish(self) -> None:
        """Ends the reply's last line."""
        click.echo(CLOSE if self._bracket else "")
        self._bracket = False


def call_lines(reply: Reply) -> list[str]:
    """The reply's calls, one a line. Raises ToolCallSyntaxError where they cannot be read."""
    lines = []
    for call in reply.tool_calls:
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in call.arguments.items())
        lines.append(shown(f"call  {call.name}({arguments})"))
    return lines


def show_calls(reply: Reply) -> None:
    """Writes the reply's calls; or to standard error why they cannot be read."""
    from edge_mtp.formats.tool_calls import ToolCallSyntaxError

    try:
        for line in call_lines(reply):
            click.echo(line)
    except ToolCallSyntaxError as error:
        click.echo(shown(f"call  not readable: {error}"), err=True)


def logprob_lines(reply: Reply) -> list[str]:
    """One line a token: its log-probability, and the token as the vocabulary spells it."""
    spelled = map(reply.tokenizer.token_text, reply.tokens)
    return [f"{logprob:9.4f}  {shown(text)}" for logprob, text in zip(reply.logprobs, spelled, strict=True)]


def summary_lines(summary: Summary) -> list[str]:
    """The figures of a reply, one a line."""
    lines = [f"first token {summary.time_to_first_token_s * 1e3:.1f} ms"]
    if summary.tokens_per_s is not None:
        lines.append(f"{summary.tokens_per_s:,.0f} tokens/s")
    if summary.tokens_per_verify is not None:
        lines.append(f"{summary.tokens_per_verify:.2f} tokens per verify")
        lines.append("drafts accepted by position " + " ".join(f"{share:.0%}" for share in summary.acceptance))
        by_source = (f"{name} {d.accepted} of {d.verified}" for name, d in summary.sources.items())
        lines.append("drafts accepted by source: " + ", ".join(by_source))
    if summary.reused_tokens:
        lines.append(f"{summary.reused_tokens} tokens of the prompt were in the cache")
    if summary.restored_tokens:
        lines.append(f"{summary.restored_tokens} tokens of the prompt came from the kept prefix")
    lines.append(f"{summary.prompt_tokens} + {summary.tokens} tokens, ended by {summary.finish}")
    if (said := warning(summary.first_drafts, summary.first_accepted)) is not None:
        lines.append(said)
    return lines


def remember_drafts(bundle: Bundle, reply: Reply) -> None:
    """Keeps the device's count of right drafts for `edge-mtp inspect`."""
    if reply.outcome is not None and reply.outcome.first_drafts:
        remember(Path(bundle.path), reply.outcome.first_drafts, reply.outcome.first_accepted)


def controller_lines(summary: Summary) -> list[str]:
    """The drafts that the controller asked for, and the time of a grammar's masks."""
    planned = ", ".join(f"{k} in {steps} steps" for k, steps in summary.planned.items())
    lines = [f"drafts asked of the drafter: {planned or 'none'}; {summary.explored} steps to learn"]
    if summary.mask_ms:
        lines.append(f"masks {summary.mask_ms:.2f} ms a step")
    return lines


def result(reply: Reply) -> dict[str, Any]:
    """A reply as one JSON object, with its trace; `summary` is null where it was cancelled."""
    from edge_mtp.formats.tool_calls import ToolCallSyntaxError
    from edge_mtp.formats.trace import to_json

    result: dict[str, Any] = {
        "text": reply.text,
        "reasoning": reply.reasoning,
        "tokens": reply.tokens,
        "tool_calls": [],
        "tool_call_error": None,
    }
    try:
        result["tool_calls"] = [call.to_json() for call in reply.tool_calls]
    except ToolCallSyntaxError as error:
        result["tool_call_error"] = str(error)
    if reply.logprobs:
        result["logprobs"] = reply.logprobs
    done = reply.outcome is not None
    result["summary"] = reply.summary.to_json() if done else None
    result["trace"] = [to_json(record) for record in (*reply.steps, *([reply.outcome] if reply.outcome else ()))]
    if reply.sensors:
        result["sensors"] = [to_json(sample) for sample in reply.sensors]
    return result
