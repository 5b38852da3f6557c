"""The commands of README and docs: found in their pages, read as a shell would, and held against what the tool knows.

A fenced block marked `sh` holds commands; an unmarked block right after it is what the last of them prints.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import click

from edge_mtp.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What this machine or a test lacks. Such a command is read, not executed.
NOT_EXECUTED = {
    r"python3 -m venv|\. \.venv|pip install": "the tests run in an environment that is installed already",
    r"\.ci/run$": "runs all tests, this one too",
    r"edge-mtp export .*--model (E2B|E4B|12B|\./)": "takes a download, a checkpoint, or gigabytes",
    r"edge-mtp setup": "takes a download",
    r"edge-mtp compile .*--soc ": "takes the SDK of a vendor, or OpenVINO",
    r"edge-mtp devices clean": "removes files of the device",
    r"edge-mtp .*(--suite bfcl|adaptive)": "takes a package that the tests do without",
    r"cmake ": "takes a cross compiler",
    r"BIN=|LITERT=|cc |\./answer": "test_c_api.py runs them",
    r"python benchmarks/(adapters|experts|recipes|push|json_schemas)\.py": "takes minutes, gigabytes or a device",
}


class Block(NamedTuple):
    """Commands of a page, one after the other, and what the last of them prints (None: the page does not say)."""

    page: Path
    line: int
    commands: list[str]
    output: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are marked `sh`."""
    text = page.read_text("utf-8")
    found = []
    for block in re.finditer(r"^```sh\n(.*?)^```\n(?:\n?```\n(.*?)^```\n)?", text, re.MULTILINE | re.DOTALL):
        lines = block[1].replace("\\\n", " ").splitlines()
        commands = [part for line in lines for part in line.split(" && ") if part.strip() and part[0] != "#"]
        found.append(Block(page, text.count("\n", 0, block.start()) + 2, commands, block[2]))
    return found


def not_executed(command: str) -> str | None:
    """Why a test does not execute `command`; None: it does."""
    return next((reason for pattern, reason in NOT_EXECUTED.items() if re.match(pattern, command)), None)


def calls(command: str) -> list[list[str]]:
    """The words of each `edge-mtp` that a shell would start for `command`."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    inside = False
    for word in lexer:
        if word == "edge-mtp":
            found.append([])
            inside = True
        elif set(word) <= set("|&;<>()"):
            inside = False
        elif inside:
            found[-1].append(word)
    return found


def verb(words: list[str]) -> tuple[click.Command, list[str]]:
    """The verb that `words` begin with, and the words after it. Raises AssertionError if there is none."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, f"edge-mtp knows no {words[0]}"
        command, words = inner, words[1:]
    return command, words


def read(words: list[str]) -> None:
    """Reads the words of an `edge-mtp` as it would, but for values. Raises click.UsageError for unknown options."""
    command, rest = verb(words)
    context = click.Context(command, info_name=command.name)
    given, spare, _ = command.make_parser(context).parse_args(args=list(rest))
    assert given or not rest
    assert not spare, f"{command.name} takes no {spare}"
    required = [each.name for each in command.params if each.required and not given.get(each.name or "")]
    assert not required, f"{command.name} needs {required}"


def options() -> set[str]:
    """Every option of every verb."""
    found = {"--version", "--help"}
    groups: list[click.Command] = [main]
    for group in groups:
        found.update(name for each in group.params for name in (*each.opts, *each.secondary_opts))
        if isinstance(group, click.Group):
            context = click.Context(group)
            groups += filter(None, (group.get_command(context, name) for name in group.list_commands(context)))
    return found


def differences(documented: str, printed: str) -> list[str]:
    """Lines of `documented` that `printed` lacks in substance, in order: words count, figures may be others.

    A line of `...` stands for any lines. A line with quotation marks must be there as it stands.
    """
    lines = [substance(line) for line in printed.splitlines()]
    at, missing = 0, []
    for line in documented.splitlines():
        wanted = substance(line)
        if wanted in ("", "..."):
            continue
        if wanted in lines[at:]:
            at = lines.index(wanted, at) + 1
        else:
            missing.append(line)
    return missing


def substance(line: str) -> str:
    """A line without figures, the columns' widths, and the list behind `...by source:`."""
    line = line.strip()
    if '"' in line or line == "...":
        return line
    if line.startswith("host "):  # a machine is itself
        return "host"
    line = re.sub(r"(accepted by \w+)\b.*", r"\1", line)
    return " ".join(re.findall(r"[^\W\d][\w./-]*", line))
