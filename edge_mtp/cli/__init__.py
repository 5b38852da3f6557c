"""The command line: a group of verbs, one module each, imported only when called."""

import contextlib
import errno
import importlib
import io
import os
import sys
from typing import Any, NamedTuple

import click

from edge_mtp.errors import EdgeMtpError
from edge_mtp.safe_text import shown


class Verb(NamedTuple):
    """Where a verb's click command lives: `module` holds it under the verb's own name, or `command`."""

    module: str
    help: str
    command: str | None = None


# The one-line help stands here so that `edge-mtp --help` imports no verb.
VERBS = {
    "export": Verb("edge_mtp.cli.export", "Export a checkpoint and its drafter to a .litertlm bundle."),
    "compile": Verb("edge_mtp.cli.compile", "Compile a bundle's graphs for the NPU of a SoC.", "compile_command"),
    "run": Verb("edge_mtp.cli.run", "Run a prompt or a chat on a device."),
    "devices": Verb("edge_mtp.cli.devices", "List the devices within reach, and clean up on one."),
    "doctor": Verb("edge_mtp.cli.doctor", "Check whether a device can run a bundle, and how well."),
    "inspect": Verb("edge_mtp.cli.inspect", "Show what a .litertlm bundle holds and whether its MTP is complete."),
    "check": Verb("edge_mtp.cli.check", "Check that MTP on a device gives the text of plain decoding."),
    "quality": Verb("edge_mtp.cli.quality", "Measure what a bundle has lost to quantization."),
    "bench": Verb("edge_mtp.cli.bench", "Measure how fast each of several arms answers the same prompts."),
    "plan": Verb("edge_mtp.cli.plan", "Measure a device's step costs and compute where MTP pays off."),
    "eval": Verb("edge_mtp.cli.eval", "Measure the tool-call errors of several arms on the same suite.", "evaluate"),
    "report": Verb("edge_mtp.cli.report", "Turn results of bench or eval into an HTML file, CSV and JSON."),
    "compare": Verb("edge_mtp.cli.compare", "Compare one result with another; apply rules for CI."),
    "grammar": Verb("edge_mtp.cli.grammar", "Print the grammar of a JSON schema or of tools, for C and Kotlin."),
    "setup": Verb("edge_mtp.cli.setup", "Fetch LiteRT for phones and boards; store their runners."),
}

# Packages that only `edge-mtp[export]` brings.
EXPORT_EXTRA = {
    "ai_edge_quantizer",
    "litert_lm_builder",
    "litert_torch",
    "safetensors",
    "torch",
    "transformers",
}


class Verbs(click.Group):
    """The group of `VERBS`; the one place where a refusal becomes a line on stderr and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(verb.module), verb.command or cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG):
                raise
            # Of a stream, for what is opened by a name has one. What is left in its buffer would fail at exit again.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"Error: cannot write the output: {error.strerror}; send it elsewhere", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written as an escape
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except EdgeMtpError as error:
            raise click.ClickException(shown(" ".join(str(error).split()))) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXPORT_EXTRA:
                raise
            raise click.ClickException(
                f"{ctx.invoked_subcommand} needs {package}, which is not installed: pip install 'edge-mtp[export]'"
            ) from error
        except KeyboardInterrupt as interrupt:
            click.echo(str(interrupt) or "Interrupted.", err=True)  # a verb may say what becomes of its work
            ctx.exit(130)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-mtp")
def main() -> None:
    """Export Gemma 4 with its Multi-Token Prediction (MTP) drafter, run it on a device, inspect the result.

    A refusal is one line on stderr that names the value and the cure, with exit status 1 (2 for wrong usage,
    130 when interrupted). Standard output carries results only.
    """
