"""The options of `edge-mtp run`, and a reply's options from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_mtp.cli.option_groups import option_group
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.defaults import DEFAULT_MAX_TOKENS
from edge_mtp.formats.drafting import DRAFT_SOURCES, parse_draft_length

if TYPE_CHECKING:
    from edge_mtp.engine import Engine
    from edge_mtp.reply_options import ReplyOptions

F = TypeVar("F", bound=Callable[..., Any])


def _mtp(ctx: click.Context, parameter: click.Parameter, value: str) -> int | None:
    try:
        return parse_draft_length(value)
    except EdgeMtpError as error:
        raise click.BadParameter(str(error)) from None


def _sources(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in DRAFT_SOURCES:
            raise click.BadParameter(f"'{name}' is no source; use {', '.join(DRAFT_SOURCES)}")
    return names


def _biases(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, float]]:
    pairs = []
    for value in values:
        token, _, bias = value.rpartition("=")
        try:
            pairs.append((token, float(bias)))
        except ValueError:
            token = ""
        if not token:
            raise click.BadParameter(f"'{value}' is not TOKEN=BIAS, such as 106=-2.5")
    return pairs


def _variables(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"'{value}' is not NAME=VALUE, such as enable_thinking=true")
        if name in variables:
            raise click.BadParameter(f"'{name}' is given twice; drop one")
        try:
            variables[name] = json.loads(text)
        except (ValueError, RecursionError):
            variables[name] = text
    return variables


_model = option_group("Model and device")
_talk = option_group("Conversation")
_draft = option_group("Drafting (never changes the text)")
_choice = option_group("Sampling")
_limits = option_group("Constraints and ends")
_output = option_group("Output")
_FILE = click.Path(path_type=Path)

# An option for a field of `ReplyOptions` or `Sampling` has the field's name.
_OPTIONS: list[Callable[[Any], Any]] = [
    _model("--bundle", type=_FILE, metavar="FILE", help="The .litertlm file; default: the built-in tiny model."),
    _model(
        "--device", "devices", multiple=True, default=("host",), show_default="host", metavar="NAME",
        help="Where to run: host (this machine), pixel, emulator, SERIAL, HOST:PORT or ssh://user@board. If it is"
        " repeated, PROMPT runs on all of them at once.",
    ),
    _model("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; default: LiteRT chooses."),
    _talk("--system", metavar="TEXT|@FILE", help="System prompt."),
    _talk("--tools", type=_FILE, metavar="FILE", help="A JSON file of tools that the model may call."),
    _talk(
        "--tool-responses", type=_FILE, metavar="FILE",
        help="For a chat: JSON with the answers of tools, as {name: response} or as a list in the order of the calls.",
    ),
    _talk("--load", type=_FILE, metavar="FILE", help="Continue a conversation that /save wrote."),
    _talk("--keep-prefix", is_flag=True, help="Save the KV cache of system prompt and tools on disk for the next run."),
    _talk(
        "--thinking/--no-thinking", default=None,
        help="Whether the model thinks first; default: the template decides.",
    ),
    _talk(
        "--template-var", "template_variables", multiple=True, callback=_variables, metavar="NAME=VALUE",
        help="Give the chat template a variable; VALUE is JSON or else text. May be repeated.",
    ),
    _talk(
        "--control-tokens", is_flag=True,
        help="Take control tokens in messages, tools and answers as control tokens; default: as text.",
    ),
    _draft(
        "--mtp", "draft_length", default="auto", show_default=True, callback=_mtp, metavar="auto|off|K",
        help="auto: a controller chooses the drafts of each step; off: no drafts; K: K drafts in every step.",
    ),
    _draft(
        "--draft-sources", callback=_sources, metavar="LIST",
        help="Sources of drafts, of drafter,lookup,grammar; default: drafter,grammar, or lookup,grammar without"
        " a drafter.",
    ),
    _choice(
        "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, metavar="T",
        help="Sampling temperature; 0 is greedy.",
    ),
    _choice(
        "--top-k", type=click.IntRange(0), default=0, metavar="N",
        help="Sample from the N most likely tokens; 0: from all.",
    ),
    _choice(
        "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, metavar="P",
        help="Sample from the most likely tokens whose probabilities sum to P; 1: from all.",
    ),
    _choice(
        "--min-p", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="P",
        help="Sample from tokens with at least P times the highest probability; 0: from all.",
    ),
    _choice(
        "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N",
        help="Random seed. The same seed gives the same text.",
    ),
    _choice(
        "--repetition-penalty", type=click.FloatRange(0, min_open=True), default=1.0, metavar="X",
        help="Penalize tokens that occur in the prompt or the reply by the factor X; 1: no penalty.",
    ),
    _choice(
        "--presence-penalty", type=float, default=0.0, metavar="X",
        help="Subtract X from the logits of tokens that occur in the reply.",
    ),
    _choice(
        "--frequency-penalty", type=float, default=0.0, metavar="X",
        help="Subtract X for each occurrence in the reply.",
    ),
    _choice(
        "--logit-bias", multiple=True, callback=_biases, metavar="TOKEN=BIAS",
        help="Add BIAS to a token's logit. TOKEN is an id or a token's exact text. May be repeated.",
    ),
    _choice("--suppress", multiple=True, metavar="TOKEN", help="Never choose this token. May be repeated."),
    _limits(
        "--max-tokens", type=click.IntRange(1), default=DEFAULT_MAX_TOKENS, show_default=True, metavar="N",
        help="Most tokens in a reply.",
    ),
    _limits(
        "--thinking-budget", type=click.IntRange(0), metavar="N",
        help="Most tokens in a thought; the runner then closes it."
    ),
    _limits(
        "--stop", "stop_texts", multiple=True, metavar="TEXT",
        help="End the answer before TEXT. May be repeated.",
    ),
    _limits(
        "--tool-choice", metavar="CHOICE",
        help="auto: text or calls; required: calls; none: text; or the name of the tool to call.",
    ),
    _limits(
        "--constrained/--unconstrained", default=None,
        help="Whether calls must fit the tools' schemas; default: yes, if there are tools and the bundle supports it.",
    ),
    _limits(
        "--parallel-calls/--single-call", default=True,
        help="Whether a reply may have several calls, or one at most.",
    ),
    _limits("--strict-tools", is_flag=True, help="Refuse a tool if the grammar cannot enforce its whole schema."),
    _limits("--response-schema", type=_FILE, metavar="FILE", help="A JSON schema that the reply must fit."),
    _limits("--grammar", type=_FILE, metavar="FILE", help="An EBNF grammar that the reply must fit."),
    _output("--logprobs", is_flag=True, help="Show the log-probability of every token."),
    _output("--compare", is_flag=True, help="Alternate runs with and without MTP, and show the speed-up."),
    _output(
        "--rounds", type=click.IntRange(1), default=10, show_default=True, metavar="N",
        help="Pairs of runs for --compare."
    ),
    _output("--json", "as_json", is_flag=True, help="Print one JSON object for each reply instead of text."),
]  # fmt: skip


def run_options(function: F) -> F:
    """Gives a command all the options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_files(system: str | None, reply: dict[str, Any]) -> str | None:
    """Replaces the names of schema and grammar file in `reply` by their contents; returns the system prompt."""
    from edge_mtp.json_file import read_json, read_text

    if reply["response_schema"] is not None:
        reply["response_schema"] = read_json(reply["response_schema"], "response schema")
    if reply["grammar"] is not None:
        reply["grammar"] = read_text(reply["grammar"], "grammar")
    if system is not None and system.startswith("@"):
        return read_text(system[1:], "system prompt")
    return system


def reply_options(engine: Engine, given: dict[str, Any]) -> ReplyOptions:
    """A reply's options from those of the command line."""
    from edge_mtp.formats.request import Sampling
    from edge_mtp.reply_options import ReplyOptions

    given = dict(given)
    given["logit_bias"] = {engine.token(token): bias for token, bias in given["logit_bias"]}
    given["suppress"] = [engine.token(token) for token in given["suppress"]]
    names = Sampling.__dataclass_fields__.keys()
    sampling = Sampling(**{name: given.pop(name) for name in names & given.keys()})
    return ReplyOptions(sampling=sampling, **given)
