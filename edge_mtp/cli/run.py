"""`edge-mtp run`: a prompt, or without one a chat, on a device, with the figures of MTP."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.cli.option_groups import GroupedCommand
from edge_mtp.cli.run_options import read_files, reply_options, run_options
from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from threading import Event

    from edge_mtp.cli.several import Result
    from edge_mtp.device.put import TransferProgress
    from edge_mtp.dialogue import Dialogue
    from edge_mtp.engine import Engine
    from edge_mtp.formats.accelerator import AcceleratorChoice
    from edge_mtp.reply import Reply, Token
    from edge_mtp.reply_options import ReplyOptions


@click.command(cls=GroupedCommand)
@click.argument("prompt", required=False)
@run_options
def run(
    prompt: str | None,
    bundle: Path | None,
    devices: tuple[str, ...],
    threads: int | None,
    accelerator: AcceleratorChoice,
    half_precision: bool,
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

    A short summary follows: time to first token, tokens per second, tokens per verify, and the acceptance at each
    draft position. Without --bundle, the command exports the built-in tiny model once and keeps it. It has a set
    of phone tools, for example: edge-mtp run "Wake me at 6:40".

    A chat reads messages from standard input, one on each line, and commands, which /help lists. After a tool call, the
    next line is the tool's answer (JSON or text; do not leave it out), unless --tool-responses has it. Ctrl-C stops a
    reply, Ctrl-D ends the chat.
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
    read = read_files(system, reply)
    if bundle is None:
        from edge_mtp.cli.progress import export_progress
        from edge_mtp.export.defaults import VERIFY_WIDTHS
        from edge_mtp.export.tiny import bundle as tiny

        with export_progress() as progress:
            bundle = tiny.cached_bundle("fp32", widths=VERIFY_WIDTHS, progress=progress)
        if tools is None and load is None:
            declared = load_tools(tiny.TOOLS)

    from edge_mtp.cli.device_progress import device_progress, notice_for

    def opened(device: str, report: TransferProgress) -> Engine:
        notice = notice_for(device)
        engine = open_engine(
            bundle,
            device,
            threads=threads,
            accelerator=accelerator,
            half_precision=half_precision,
            sensors=as_json,
            notice=notice,
            report=report,
        )
        ready = engine.runner.ready
        if ready.accelerator_reason:
            click.echo(shown(f"{device}: runs on the {ready.accelerator}, as {ready.accelerator_reason}"), err=True)
        return engine

    def begun(engine: Engine) -> tuple[Dialogue, ReplyOptions]:
        if compare and engine.max_draft_length == 0:
            raise EdgeMtpError(
                f"{bundle}: no verify graph, so it cannot draft and there is nothing to"
                " compare; export it again, or drop --compare"
            )
        dialogue, options = _dialogue(engine, load, read, declared), reply_options(engine, reply)
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
    """Hides Ctrl-C from processes that are started inside, which a terminal would interrupt too.

    So the chat can stop a reply with it and keep the runner. This process gets a Ctrl-C afterwards.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


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
    """A reply with its JSON form; `streamed`: its text and its calls have been written already."""

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
    """Writes the parts of an answer that have not been written yet."""
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
    known = f"{ratio['coverage']:.0%} interval {ratio['low']:.2f} to {ratio['high'] or 0:.2f}, {ratio['pairs']} pairs"
    if ratio["high"] is None:
        known = f"{ratio['pairs']} pairs are too few for an interval"
    click.echo(
        f"\nspeed-up {ratio['median']:.2f}x with MTP ({known}): {comparison['mtp_tokens_per_s']:,.0f} against"
        f" {comparison['plain_tokens_per_s']:,.0f} tokens/s"
    )
    click.echo("same text with and without MTP" if comparison["same_text"] else "the texts with and without MTP differ")
