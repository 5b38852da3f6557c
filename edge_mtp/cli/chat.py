"""The chat of `edge-mtp run`: lines in, replies out, at a terminal or in a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge_mtp.cli.lines import InterruptedTwice, Lines
from edge_mtp.cli.tool_responses import Responses
from edge_mtp.cli.transcript import (
    CLOSE,
    COLOURS,
    OPEN,
    Marks,
    Writer,
    controller_lines,
    logprob_lines,
    remember_drafts,
    result,
    show_calls,
    summary_lines,
)
from edge_mtp.device import Outcome, Step
from edge_mtp.dialogue import Dialogue
from edge_mtp.engine import ContextOverflowError
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.drafting import parse_draft_length
from edge_mtp.formats.tool_calls import ToolCall, ToolCallSyntaxError
from edge_mtp.output_file import refuse_inputs
from edge_mtp.reply import Reply
from edge_mtp.reply_options import ReplyOptions
from edge_mtp.safe_text import shown
from edge_mtp.summary import summarize_all

MOST_ROUNDS = 8  # of tool calls after one message, when a file answers them

_LEGEND = ", ".join(f"{source} {colour}" for source, colour in COLOURS.items())
HELP = {
    "/help": "this list",
    "/stats": "speed, acceptance, reuse and the controller's choices: of the last reply, and of all",
    "/mtp auto|off|K": "how the next replies are drafted",
    "/thinking on|off|auto": "whether the next replies may think first; auto: as the template has it",
    "/marks on|off": f"accepted drafts between {OPEN} and {CLOSE}, or only in colour at a terminal: {_LEGEND}",
    "/save FILE": "write the conversation, for --load",
    "/reset": "start over, with the same system prompt and tools",
    "/quit": "end the chat",
}


class Chat:
    """A dialogue with the person or program that writes to standard input.

    After a failed turn the chat writes the error and goes on; in a pipe it then ends with exit status 1. With `as_json`
    standard output has one JSON object a reply, and everything else goes to standard error.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        options: ReplyOptions,
        responses: Path | None = None,
        *,
        as_json: bool = False,
        inputs: Sequence[Path | str | None] = (),
    ) -> None:
        """`inputs`: files that `/save` must not overwrite, beside the bundle and the responses."""
        names = [tool["function"]["name"] for tool in dialogue.tools]
        self._dialogue = dialogue
        self._options = options
        self._responses = Responses(responses, names) if responses is not None else None
        self._json = as_json
        self._inputs = (*inputs, responses, dialogue.engine.bundle.path)
        self._lines = Lines(decorated=not as_json)
        self._marks: Marks = "colour"
        self._traces: list[tuple[list[Step], Outcome]] = []
        self._failed = False
        self._over = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/stats": self._stats,
            "/mtp": self._mtp,
            "/thinking": self._think,
            "/marks": self._mark,
            "/save": self._save,
            "/reset": self._reset,
            "/quit": self._quit,
        }

    def run(self) -> None:
        """Chats until the input ends. Raises EdgeMtpError if the runner is gone, or SystemExit(1) as said above."""
        if self._lines.terminal:
            _note("/help for commands, Ctrl-C stops a reply, Ctrl-D ends")
        while not self._over and (line := self._lines.read("> ")) is not None:
            try:
                with self._told():
                    if line.startswith("/"):
                        self._command(line)
                    elif line.strip():
                        self._turn(line)
            except KeyboardInterrupt as interrupt:  # between the line and the reply
                if not self._lines.terminal or isinstance(interrupt, InterruptedTwice):
                    raise
                self._dialogue.withdraw()
                _note("stopped")
        if self._failed and not self._lines.terminal:
            raise SystemExit(1)

    # -- turns ----------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        """A message and its reply; after calls also the tools' responses and the reply to them."""
        dialogue = self._dialogue
        dialogue.say(text)
        rounds = 0
        while self._reply():
            rounds += 1
            if self._responses is not None and rounds == MOST_ROUNDS:
                raise EdgeMtpError(f"{MOST_ROUNDS} rounds of tool calls after one message; not answered any more")

    def _reply(self) -> bool:
        """One reply of the model. True if tools answered its calls, so that the model has to go on."""
        dialogue = self._dialogue
        try:
            reply = dialogue.reply(self._options)
            self._stream(reply)
        except BaseException:
            dialogue.withdraw()
            raise
        dialogue.add(reply)
        if reply.outcome is None:
            return False
        self._traces.append((reply.steps, reply.outcome))
        remember_drafts(self._dialogue.engine.bundle, reply)
        if reply.outcome.finish == "context":
            _note("the context is full; /reset starts over")
        elif reply.outcome.finish == "length":
            _note(f"cut off after {reply.outcome.tokens} tokens; --max-tokens allows more")
        try:
            return self._answer(reply.tool_calls)
        except ToolCallSyntaxError:
            return False

    def _stream(self, reply: Reply) -> None:
        writer = Writer(self._marks)
        try:
            with self._lines.interruptible() as interrupted, closing(iter(reply)) as tokens:
                for token in tokens:
                    if not self._json:
                        writer.write(token)
                    if interrupted():
                        break
        except BaseException:
            if writer.begun:
                writer.finish()
            raise
        if self._json:
            click.echo(json.dumps(result(reply)))
            return
        writer.finish()
        if reply.outcome is None:
            _note("stopped")
        show_calls(reply)
        if self._options.logprobs:
            click.echo("\n".join(logprob_lines(reply)))

    def _answer(self, calls: list[ToolCall]) -> bool:
        """Adds the tools' responses to the dialogue. True if there was one."""
        answered = False
        for call in calls:
            if self._responses is not None:
                found, response = self._responses.take(call.name)
                if found and not self._json:
                    click.echo(shown(f"response of {call.name}: {json.dumps(response)}"))
            else:
                before = len(self._dialogue.messages)
                found, response = self._typed(call.name)
                if len(self._dialogue.messages) < before:  # a command has reset the conversation
                    return False
            if found:
                self._dialogue.respond(call.name, response)
                answered = True
        return answered

    def _typed(self, tool: str) -> tuple[bool, Any]:
        """A tool's response from standard input: whether there is one, and the response."""
        while not self._over and (line := self._lines.read(shown(f"response of {tool}> "))) is not None:
            if line.startswith("/"):
                with self._told():
                    self._command(line)
                continue
            try:
                return bool(line.strip()), json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                return True, line
        return False, None

    # -- commands -------------------------------------------------------------------------------------------------

    def _command(self, line: str) -> None:
        name, _, argument = line.strip().partition(" ")
        if name not in self._commands:
            raise EdgeMtpError(f"{name} is no command; use {', '.join(self._commands)} (or a space before the slash)")
        self._commands[name](argument.strip())

    def _help(self, argument: str) -> None:
        width = max(map(len, HELP)) + 2
        self._say("\n".join(f"{command:<{width}}{meaning}" for command, meaning in HELP.items()))

    def _stats(self, argument: str) -> None:
        if not self._traces:
            raise EdgeMtpError("/stats has nothing to tell before the first reply; write a message")
        for title, traces in (("last reply", self._traces[-1:]), (f"all {len(self._traces)} replies", self._traces)):
            summary = summarize_all(traces)
            self._say("\n  ".join([title, *summary_lines(summary), *controller_lines(summary)]))

    def _mtp(self, argument: str) -> None:
        options = replace(self._options, draft_length=parse_draft_length(argument), draft_policy=None)
        self._dialogue.engine.check(options, self._dialogue.tools)
        self._options = options

    def _think(self, argument: str) -> None:
        words = {"on": True, "off": False, "auto": None}
        if argument not in words:
            raise EdgeMtpError(f"/thinking '{argument}' is none of on, off and auto; use /thinking on")
        options = replace(self._options, thinking=words[argument])
        self._dialogue.engine.check(options, self._dialogue.tools)
        self._options = options

    def _mark(self, argument: str) -> None:
        if argument not in ("on", "off"):
            raise EdgeMtpError(f"/marks '{argument}' is neither on nor off; use /marks on")
        self._marks = "brackets" if argument == "on" else "colour"

    def _save(self, argument: str) -> None:
        if not argument:
            raise EdgeMtpError("/save needs a file to write; use /save FILE")
        refuse_inputs([Path(argument)], self._inputs)
        self._dialogue.save(argument)
        _note(f"saved {len(self._dialogue.messages)} messages in {argument}")

    def _reset(self, argument: str) -> None:
        self._dialogue.reset()

    def _quit(self, argument: str) -> None:
        self._over = True

    # -- telling --------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        click.echo(text, err=self._json)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Writes an error in one line and goes on, unless the runner is gone."""
        try:
            yield
        except EdgeMtpError as error:
            if self._dialogue.engine.runner.has_ended:
                raise
            cure = "; /reset starts over" if isinstance(error, ContextOverflowError) else ""
            click.echo(shown(f"Error: {' '.join(str(error).split())}{cure}"), err=True)
            self._failed = True


def _note(text: str) -> None:
    """Writes a note to standard error."""
    click.echo(text, err=True)
