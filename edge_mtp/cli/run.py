"""`edge-mtp run`: a prompt, or without one a chat, on a device, with what MTP did to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.cli.option_groups import GroupedCommand, option_group
from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from threading import Event

    from edge_mtp.cli.several import Result
    from edge_mtp.device.put import Report
    from edge_mtp.dialogue import Dialogue
    from edge_mtp.engine import Engine, Reply, ReplyOptions, Token

_SOURCES = ("drafter", "lookup", "grammar")


def parse_mtp(text: str) -> int | None:
    """`ReplyOptions.draft_length` by the word for it: auto (None), off (0) or K. Raises EdgeMtpError for another."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise EdgeMtpError(f"'{text}' is no way to draft; use auto, off, or K, a number of tokens from 1")


def _mtp(ctx: click.Context, parameter: click.Parameter, value: str) -> int | None:
    try:
        return parse_mtp(value)
    except EdgeMtpError as error:
        raise click.BadParameter(str(error)) from None


def _sources(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in _SOURCES:
            raise click.BadParameter(f"'{name}' is no source; use {', '.join(_SOURCES)}")
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


@click.command(cls=GroupedCommand)
@click.argument("prompt", required=False)
@_model("--bundle", type=_FILE, metavar="FILE", help="The .litertlm file; default: the built-in tiny model.")
@_model(
    "--device", "devices", multiple=True, default=("host",), show_default="host", metavar="NAME",
    help="Where to run: host (this machine), pixel, emulator, SERIAL, HOST:PORT or ssh://user@board. Given several"
    " times, PROMPT runs on all of them at once.",
)  # fmt: skip
@_model("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; default: LiteRT's choice.")
@_talk("--system", metavar="TEXT|@FILE", help="System prompt.")
@_talk("--tools", type=_FILE, metavar="FILE", help="JSON file of tools that the model may call.")
@_talk(
    "--tool-responses", type=_FILE, metavar="FILE",
    help="In a chat: JSON, what the tools answer, {name: response} or a list in order of the calls.",
)  # fmt: skip
@_talk("--load", type=_FILE, metavar="FILE", help="Go on with a conversation that /save wrote.")
@_talk("--keep-prefix", is_flag=True, help="Keep the cache of system prompt and tools on disk, for the next run.")
@_talk("--thinking/--no-thinking", default=None, help="Let the model think first, or not; default: the template's.")
@_talk(
    "--template-var", "template_variables", multiple=True, callback=_variables, metavar="NAME=VALUE",
    help="Give the chat template a variable; VALUE is JSON, or else text. Can be given several times.",
)  # fmt: skip
@_talk(
    "--control-tokens", is_flag=True,
    help="Read control tokens in messages, tools and answers as such; without it they are text.",
)  # fmt: skip
@_draft(
    "--mtp", "draft_length", default="auto", show_default=True, callback=_mtp, metavar="auto|off|K",
    help="A controller picks each step's drafts; plain decoding; or K drafts in every step.",
)  # fmt: skip
@_draft(
    "--draft-sources", callback=_sources, metavar="LIST",
    help="Of drafter,lookup,grammar; default: drafter,grammar, or without a drafter lookup,grammar.",
)  # fmt: skip
@_choice("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, metavar="T", help="0 is greedy.")
@_choice("--top-k", type=click.IntRange(0), default=0, metavar="N", help="Keep the N likeliest tokens; 0 keeps all.")
@_choice(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, metavar="P",
    help="Keep the likeliest tokens that make up this share; 1 keeps all.",
)  # fmt: skip
@_choice(
    "--min-p", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="P",
    help="Keep tokens at least this likely, the likeliest being 1; 0 keeps all.",
)  # fmt: skip
@_choice("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Same seed, same text.")
@_choice(
    "--repetition-penalty", type=click.FloatRange(0, min_open=True), default=1.0, metavar="X",
    help="Divide the logits of tokens of prompt and reply; 1 is none.",
)  # fmt: skip
@_choice("--presence-penalty", type=float, default=0.0, metavar="X", help="Take X from tokens of the reply so far.")
@_choice("--frequency-penalty", type=float, default=0.0, metavar="X", help="The same, for each time they occur.")
@_choice(
    "--logit-bias", multiple=True, callback=_biases, metavar="TOKEN=BIAS",
    help="Add to a token's logit; TOKEN is an id or a token's exact text. Can be given several times.",
)  # fmt: skip
@_choice("--suppress", multiple=True, metavar="TOKEN", help="Never choose it. Can be given several times.")
@_limits("--max-tokens", type=click.IntRange(1), default=256, show_default=True, metavar="N", help="Most of a reply.")
@_limits(
    "--thinking-budget", type=click.IntRange(0), metavar="N", help="Most tokens of thoughts; then they are closed."
)
@_limits(
    "--stop", "stop_texts", multiple=True, metavar="TEXT",
    help="End the answer before it. Can be given several times.",
)  # fmt: skip
@_limits(
    "--tool-choice", metavar="CHOICE",
    help="auto: text or calls; required: calls; none: text; or the name of the tool to call.",
)  # fmt: skip
@_limits(
    "--constrained/--unconstrained", default=None,
    help="Whether calls must fit the tools' schemas; default: where there are tools and the bundle can.",
)  # fmt: skip
@_limits("--parallel-calls/--single-call", default=True, help="Several calls in a reply, or one at most.")
@_limits("--strict-tools", is_flag=True, help="Refuse a tool whose schema cannot be enforced whole.")
@_limits("--response-schema", type=_FILE, metavar="FILE", help="JSON schema that the reply must fit.")
@_limits("--grammar", type=_FILE, metavar="FILE", help="EBNF grammar that the reply must fit.")
@_output("--logprobs", is_flag=True, help="Show the log-probability of every token.")
@_output("--compare", is_flag=True, help="Run with and without MTP, interleaved, and show the speed-up.")
@_output(
    "--rounds", type=click.IntRange(1), default=10, show_default=True, metavar="N", help="Paired runs of --compare."
)
@_output("--json", "as_json", is_flag=True, help="Print one JSON object a reply instead of text.")
def run(
    prompt: str | None,
    bundle: Path | None,
    devices: tuple[str, ...],
    threads: int | None,
    system: str | None,
    tools: Path | None,
    tool_responses: Path | None,
    load: Path | None,
    compare: bool,
    rounds: int,
    as_json: bool,
    **reply: Any,
) -> None:
    """Run PROMPT through a bundle and stream the reply; without PROMPT, chat.

    Ends with a short summary: time to first token, tokens per second, tokens per verify, and how often each draft
    position was accepted. Without --bundle the built-in tiny model is exported once and kept; it comes with a set
    of phone tools, for example: edge-mtp run "Wake me at 6:40".

    A chat reads messages from standard input, a line each, and in between commands: /help names them. After a tool
    call, the next line is what the tool answers (JSON or text, nothing to skip), unless --tool-responses has it.
    Ctrl-C stops a reply, Ctrl-D ends the chat.
    """
    if compare and (prompt is None or reply["draft_length"] == 0):
        other = "--mtp off" if reply["draft_length"] == 0 else "a chat"
        raise click.UsageError(f"--compare and {other} contradict each other; drop one.")
    if prompt is None and len(devices) > 1:
        raise click.UsageError("a chat is with one device; give one --device, or a PROMPT.")
    for name in devices:
        if devices.count(name) > 1:
            raise click.UsageError(f"--device {name} is given twice; drop one.")
    if prompt is not None and tool_responses is not None:
        raise click.UsageError("--tool-responses is for a chat; drop it or PROMPT.")

    from edge_mtp.engine import open_engine
    from edge_mtp.formats.tool_calls import load_tools

    declared = load_tools(tools) if tools is not None else []
    prompted = system[1:] if system is not None and system.startswith("@") else None
    inputs = (tools, prompted, reply["response_schema"], reply["grammar"])
    read = _read_files(system, reply)
    if bundle is None:
        from edge_mtp.cli.progress import export_progress
        from edge_mtp.export.tiny import bundle as tiny

        with export_progress() as progress:
            bundle = tiny.cached_bundle(progress=progress)
        if tools is None and load is None:
            declared = load_tools(tiny.TOOLS)

    from edge_mtp.cli.device_progress import device_progress, notice_for

    def opened(device: str, report: Report) -> Engine:
        notice = notice_for(device)
        return open_engine(bundle, device, threads=threads, sensors=as_json, notice=notice, report=report)

    def begun(engine: Engine) -> tuple[Dialogue, ReplyOptions]:
        if compare and engine.max_draft_length == 0:
            raise EdgeMtpError(
                f"{bundle}: no verify graph (exported with --lean?), so it cannot draft and there is nothing to"
                " compare; export it again, or drop --compare"
            )
        dialogue, options = _dialogue(engine, load, read, declared), _options(engine, reply)
        if not as_json:
            for report in engine.tool_reports(dialogue.tools, options):
                if report.enforced != "whole":
                    click.echo(shown(str(report)), err=True)
        return dialogue, options

    if len(devices) > 1:
        from edge_mtp.cli.several import on_each

        def job(device: str, stop: Event) -> _Answer:
            with opened(device, report_of(device)) as engine:
                dialogue, options = begun(engine)
                dialogue.say(prompt or "")
                return _answer(dialogue, options, rounds if compare else 0, stop)

        def told(result: Result[_Answer]) -> None:
            if result.value is None:
                click.echo(shown(f"{result.device}: {result.error}"), err=True)
            elif not as_json:
                click.echo(shown(f"--- {result.device}"))
                _print(result.value)

        with device_progress(len(devices)) as report_of:
            results = on_each(devices, job, told)
        if as_json:
            answers = [{"device": r.device, "error": r.error, **(r.value.shown if r.value else {})} for r in results]
            click.echo(json.dumps({"devices": answers}))
        if any(result.error is not None for result in results):
            raise SystemExit(1)
        return

    with _sparing_children() if prompt is None else nullcontext(), device_progress(1) as report_of:
        engine = opened(devices[0], report_of(devices[0]))
    with engine:
        dialogue, options = begun(engine)
        if prompt is None:
            from edge_mtp.cli.chat import Chat

            engine.check(options, dialogue.tools)
            Chat(dialogue, options, tool_responses, as_json=as_json, inputs=inputs).run()
        else:
            dialogue.say(prompt)
            answer = _answer(dialogue, options, rounds if compare else 0, stream=not as_json)
            if as_json:
                click.echo(json.dumps(answer.shown))
            else:
                _print(answer)


@contextmanager
def _sparing_children() -> Iterator[None]:
    """Ctrl-C at a terminal reaches every process there; those started in here do not see it, this one does later.

    So the chat can stop a reply with it and keep the runner.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _read_files(system: str | None, reply: dict[str, Any]) -> str | None:
    """Puts the contents of schema and grammar files in their names' places in `reply`; returns the system prompt."""
    from edge_mtp.json_file import read_json, read_text

    if reply["response_schema"] is not None:
        reply["response_schema"] = read_json(reply["response_schema"], "response schema")
    if reply["grammar"] is not None:
        reply["grammar"] = read_text(reply["grammar"], "grammar")
    if system is not None and system.startswith("@"):
        return read_text(system[1:], "system prompt")
    return system


def _options(engine: Engine, given: dict[str, Any]) -> ReplyOptions:
    """The options of a reply from those of the command line."""
    from edge_mtp.device import Sampling
    from edge_mtp.engine import ReplyOptions

    given = dict(given)
    given["logit_bias"] = {engine.token(token): bias for token, bias in given["logit_bias"]}
    given["suppress"] = [engine.token(token) for token in given["suppress"]]
    names = Sampling.__dataclass_fields__.keys()
    sampling = Sampling(**{name: given.pop(name) for name in names & given.keys()})
    return ReplyOptions(sampling=sampling, **given)


def _dialogue(engine: Engine, load: Path | None, system: str | None, tools: list[dict[str, Any]]) -> Dialogue:
    from edge_mtp.dialogue import Dialogue

    dialogue = Dialogue(engine) if load is None else Dialogue.load(engine, load)
    if system is not None:
        if dialogue.messages:
            raise EdgeMtpError("a loaded conversation has its system prompt already; drop --system")
        dialogue.messages.append({"role": "system", "content": system})
    if tools:
        dialogue.tools = list(tools)
    return dialogue


@dataclass(frozen=True)
class _Answer:
    """A reply with what there is to show of it; `streamed` where its text and its calls have been shown."""

    reply: Reply
    tokens: list[Token]
    shown: dict[str, Any]
    streamed: bool


def _answer(
    dialogue: Dialogue, options: ReplyOptions, rounds: int, stop: Event | None = None, *, stream: bool = False
) -> _Answer:
    """One reply, and a comparison over so many rounds. Raises EdgeMtpError when `stop` is set meanwhile."""
    from edge_mtp.cli.transcript import Writer, remember_drafts, result, show_calls

    reply = dialogue.reply(options)
    writer = Writer("colour") if stream else None
    tokens = []
    for token in reply:
        if stop is not None and stop.is_set():
            raise EdgeMtpError("interrupted")
        tokens.append(token)
        if writer is not None:
            writer.write(token)
    if writer is not None:
        writer.finish()
        show_calls(reply)
    told = result(reply)
    remember_drafts(dialogue.engine.bundle, reply)
    told["load_s"] = dialogue.engine.runner.ready.load_us / 1e6
    told["tools"] = [report.to_json() for report in dialogue.engine.tool_reports(dialogue.tools, options)]
    if rounds:
        told["comparison"] = _compare(reply, dialogue, options, rounds, stop)
    return _Answer(reply, tokens, told, stream)


def _print(answer: _Answer) -> None:
    """What of an answer has not been shown yet."""
    from edge_mtp.cli.transcript import Writer, logprob_lines, show_calls, summary_lines

    if not answer.streamed:
        writer = Writer("colour")
        for token in answer.tokens:
            writer.write(token)
        writer.finish()
        show_calls(answer.reply)
    if answer.reply.logprobs:
        click.echo("\n" + "\n".join(logprob_lines(answer.reply)))
    click.echo("\n" + "\n".join(summary_lines(answer.reply.summary)))
    if "comparison" in answer.shown:
        _print_comparison(answer.shown["comparison"])


def _compare(
    reply: Reply, dialogue: Dialogue, options: ReplyOptions, rounds: int, stop: Event | None
) -> dict[str, Any]:
    """Decode speed of both arms over `rounds` interleaved pairs; `reply` was the warm-up of the first."""
    from dataclasses import replace

    from edge_mtp.harness.run.loop import interleave
    from edge_mtp.harness.stats.ratios import paired_ratio

    plain_options = replace(options, draft_length=0)
    texts: set[tuple[int, ...]] = {tuple(reply.tokens), tuple(dialogue.reply(plain_options).wait().tokens)}

    def speed(arm: ReplyOptions) -> float:
        if stop is not None and stop.is_set():
            raise EdgeMtpError("interrupted")
        finished = dialogue.reply(arm).wait()
        texts.add(tuple(finished.tokens))
        per_s = finished.summary.tokens_per_s
        if per_s is None:
            raise EdgeMtpError("the reply is one token long, too short to compare; ask for a longer one")
        return float(per_s)

    arms: list[Callable[[], float]] = [lambda: speed(options), lambda: speed(plain_options)]
    mtp, plain = interleave(arms, rounds)
    return {
        "speed_up": paired_ratio(mtp, plain).to_json(),
        "mtp_tokens_per_s": sorted(mtp)[len(mtp) // 2],
        "plain_tokens_per_s": sorted(plain)[len(plain) // 2],
        "same_text": len(texts) == 1,
    }


def _print_comparison(comparison: dict[str, Any]) -> None:
    ratio = comparison["speed_up"]
    high = "∞" if ratio["high"] is None else f"{ratio['high']:.2f}"
    click.echo(
        f"\nspeed-up {ratio['median']:.2f}x with MTP ({ratio['coverage']:.0%} interval {ratio['low']:.2f} to"
        f" {high}, {ratio['pairs']} pairs): {comparison['mtp_tokens_per_s']:,.0f} against"
        f" {comparison['plain_tokens_per_s']:,.0f} tokens/s"
    )
    click.echo("same text with and without MTP" if comparison["same_text"] else "the texts with and without MTP differ")
