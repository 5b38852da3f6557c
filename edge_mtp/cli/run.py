"""`edge-mtp run`: one prompt on a device, streamed, with what MTP did to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.compare import Ratio
    from edge_mtp.engine import Engine, Reply
    from edge_mtp.summary import Summary


@click.command()
@click.argument("prompt")
@click.option("--bundle", type=click.Path(path_type=Path), help="The .litertlm file; default: the built-in tiny model.")
@click.option("--device", default="host", show_default=True, help="Where to run: host is this machine.")
@click.option("--tools", type=click.Path(path_type=Path), help="JSON file of tools that the model may call.")
@click.option("--no-mtp", is_flag=True, help="Decode plainly, without the drafter.")
@click.option("--draft-length", type=click.IntRange(1), metavar="K", help="Tokens to draft a step; default 4.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Most tokens of output.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Keep the K likeliest tokens; 0 keeps all.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Keep this share; 1 keeps all.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same text, any K.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: LiteRT's choice.")
@click.option("--compare", is_flag=True, help="Run with and without MTP, interleaved, and show the speed-up.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Paired runs of --compare.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def run(
    prompt: str,
    bundle: Path | None,
    device: str,
    tools: Path | None,
    no_mtp: bool,
    draft_length: int | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    threads: int | None,
    compare: bool,
    rounds: int,
    as_json: bool,
) -> None:
    """Run PROMPT through a bundle and stream the reply.

    Ends with a short summary: time to first token, tokens per second, tokens per verify, and how often each draft
    position was accepted. Without --bundle the built-in tiny model is exported once and kept; it comes with a set
    of phone tools, for example: edge-mtp run "Wake me at 6:40".
    """
    if no_mtp and (compare or draft_length is not None):
        other = "--compare" if compare else "--draft-length"
        raise click.UsageError(f"--no-mtp and {other} contradict each other; drop one.")

    from edge_mtp.device import Sampling
    from edge_mtp.engine import open_engine
    from edge_mtp.tool_calls import load_tools

    declared = load_tools(tools) if tools is not None else []
    if bundle is None:
        from edge_mtp.cli.progress import export_progress
        from edge_mtp.export.tiny import bundle as tiny

        with export_progress() as progress:
            bundle = tiny.cached_bundle(progress=progress)
        declared = declared or load_tools(tiny.TOOLS)

    with open_engine(bundle, device, threads=threads) as engine:
        if no_mtp:
            draft_length = 0
        elif engine.max_draft_length == 0 and (compare or draft_length is not None):
            raise EdgeMtpError(
                f"{bundle}: no edge_draft and edge_verify signatures (exported with --lean?), so it cannot draft;"
                " export it again, or use --no-mtp"
            )

        def reply_with(length: int | None) -> Reply:
            return engine.chat(
                prompt,
                tools=declared,
                max_tokens=max_tokens,
                draft_length=length,
                sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
            )

        reply = reply_with(draft_length)
        if as_json:
            reply.wait()
        else:
            _stream(reply)
        result = _result(engine, reply)
        if compare:
            comparison = _compare(reply, lambda: reply_with(draft_length), lambda: reply_with(0), rounds)
            result["comparison"] = comparison
        if as_json:
            click.echo(json.dumps(result))
            return
        _print_summary(reply.summary)
        if compare:
            _print_comparison(comparison)


def _stream(reply: Reply) -> None:
    for token in reply:
        click.echo(token.text, nl=False)
    click.echo()
    from edge_mtp.tool_calls import ToolCallSyntaxError

    try:
        for call in reply.tool_calls:
            arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in call.arguments.items())
            click.echo(f"call  {call.name}({arguments})")
    except ToolCallSyntaxError as error:
        click.echo(f"call  not readable: {error}", err=True)


def _result(engine: Engine, reply: Reply) -> dict[str, Any]:
    from edge_mtp.device.trace import to_json
    from edge_mtp.tool_calls import ToolCallSyntaxError

    result: dict[str, Any] = {"text": reply.text, "tokens": reply.tokens, "tool_calls": [], "tool_call_error": None}
    try:
        result["tool_calls"] = [call.to_json() for call in reply.tool_calls]
    except ToolCallSyntaxError as error:
        result["tool_call_error"] = str(error)
    result["summary"] = reply.summary.to_json()
    result["load_s"] = engine.runner.ready.load_us / 1e6
    assert reply.outcome is not None
    result["trace"] = [*map(to_json, reply.steps), to_json(reply.outcome)]
    return result


def _compare(reply: Reply, with_mtp: Any, without_mtp: Any, rounds: int) -> dict[str, Any]:
    """Decode speed of both arms over `rounds` interleaved pairs; `reply` was the warm-up of the first."""
    from edge_mtp.compare import interleave, paired_ratio

    texts: set[tuple[int, ...]] = {tuple(reply.tokens), tuple(without_mtp().wait().tokens)}

    def speed(arm: Any) -> float:
        finished = arm().wait()
        texts.add(tuple(finished.tokens))
        per_s = finished.summary.tokens_per_s
        if per_s is None:
            raise EdgeMtpError("the reply is one token long, too short to compare; ask for a longer one")
        return float(per_s)

    mtp, plain = interleave([lambda: speed(with_mtp), lambda: speed(without_mtp)], rounds)
    ratio: Ratio = paired_ratio(mtp, plain)
    return {
        "speed_up": ratio.to_json(),
        "mtp_tokens_per_s": sorted(mtp)[len(mtp) // 2],
        "plain_tokens_per_s": sorted(plain)[len(plain) // 2],
        "same_text": len(texts) == 1,
    }


def _print_summary(summary: Summary) -> None:
    parts = [f"first token {summary.time_to_first_token_s * 1e3:.1f} ms"]
    if summary.tokens_per_s is not None:
        parts.append(f"{summary.tokens_per_s:,.0f} tokens/s")
    if summary.tokens_per_verify is not None:
        parts.append(f"{summary.tokens_per_verify:.2f} tokens per verify")
        shares = " ".join(f"{share:.0%}" for share in summary.acceptance)
        parts.append(f"drafts accepted by position {shares}")
    parts.append(f"{summary.prompt_tokens} + {summary.tokens} tokens, ended by {summary.finish}")
    click.echo("\n" + "\n".join(parts))


def _print_comparison(comparison: dict[str, Any]) -> None:
    ratio = comparison["speed_up"]
    click.echo(
        f"\nspeed-up {ratio['median']:.2f}x with MTP ({ratio['coverage']:.0%} interval {ratio['low']:.2f} to"
        f" {ratio['high']:.2f}, {ratio['pairs']} pairs): {comparison['mtp_tokens_per_s']:,.0f} against"
        f" {comparison['plain_tokens_per_s']:,.0f} tokens/s"
    )
    click.echo("same text with and without MTP" if comparison["same_text"] else "the texts with and without MTP differ")
