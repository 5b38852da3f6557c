"""`edge-mtp grammar`: the grammar of a JSON schema or of tools, for those who call the runtime themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from edge_mtp.formats.grammar import Thinking

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--response-schema", type=_FILE, metavar="FILE", help="A JSON schema that the reply must fit.")
@click.option("--tools", type=_FILE, metavar="FILE", help="A JSON file of tools that the reply may call.")
@click.option(
    "--tool-choice", metavar="CHOICE",
    help="auto, the default: text or calls; required: calls; none: text; or the name of the tool to call.",
)  # fmt: skip
@click.option("--single-call", is_flag=True, help="Allow at most one call in a reply.")
@click.option("--strict-tools", is_flag=True, help="Refuse a tool if the grammar cannot enforce its whole schema.")
@click.option(
    "--thinking", type=click.Choice(["no", "may", "open"]), default="no", show_default=True,
    help="Whether a thought comes first: no; it may; or the prompt has opened it.",
)  # fmt: skip
def grammar(
    response_schema: Path | None,
    tools: Path | None,
    tool_choice: str | None,
    single_call: bool,
    strict_tools: bool,
    thinking: Thinking,
) -> None:
    """Print the grammar of replies that fit a JSON schema, or that call tools.

    The grammar is EBNF in UTF-8, for the field `grammar` of a request over the C interface (edge_mtp.h) or the runner's
    protocol; `edge-mtp run` needs no such file. If the grammar cannot enforce the whole schema of a tool, the command
    names the tool on standard error.
    """
    if response_schema is not None and tools is not None:
        raise click.UsageError("--response-schema and --tools contradict each other; drop one.")
    if tools is None and (tool_choice is not None or single_call or strict_tools):
        raise click.UsageError("--tool-choice, --single-call and --strict-tools need --tools FILE.")

    from edge_mtp.formats.grammar import response_grammar, tool_grammar
    from edge_mtp.formats.tool_calls import load_tools
    from edge_mtp.json_file import read_json

    if response_schema is not None:
        text = response_grammar(read_json(response_schema, "response schema"), thinking=thinking)
    elif tools is not None:
        choice, parallel = tool_choice or "auto", not single_call
        made = tool_grammar(load_tools(tools), choice=choice, parallel=parallel, thinking=thinking, strict=strict_tools)
        for report in made.reports:
            if report.enforced != "whole":
                click.echo(shown(str(report)), err=True)
        text = made.text
    else:
        raise click.UsageError("a grammar is of a schema or of tools; give --response-schema FILE or --tools FILE.")
    # In bytes: where a terminal's encoding lacks a character, an escape would stand that means another in a grammar.
    click.echo(text.encode(), nl=False)
