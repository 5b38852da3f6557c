"""`edge-mtp grammar`: what it prints is the grammar that Python sends, in UTF-8 wherever it goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edge_mtp
from edge_mtp.cli import main
from edge_mtp.formats.grammar import response_grammar, tool_grammar
from edge_mtp.formats.tool_calls import load_tools

TOOLS = Path(edge_mtp.__file__).parent / "tiny" / "tools.json"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "é": {"enum": ["é1", "日本", "<b>"]}}}
HALF = [{"name": "f", "parameters": {"type": "object", "properties": {"\x1b[2J": {"pattern": "(a)\\1"}}}}]


def grammar(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["grammar", *map(str, arguments)])


def written(folder: Path, value: Any) -> Path:
    path = folder / "value.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("thinking", ["no", "may", "open"])
def test_a_schema(tmp_path: Path, thinking: Any) -> None:
    printed = grammar("--response-schema", written(tmp_path, SCHEMA), "--thinking", thinking)
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert printed.stdout_bytes.decode() == response_grammar(SCHEMA, thinking=thinking)


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ((), {}),
        (("--tool-choice", "required", "--single-call"), {"choice": "required", "parallel": False}),
        (("--tool-choice", "set_alarm", "--strict-tools"), {"choice": "set_alarm", "strict": True}),
        (("--thinking", "may"), {"thinking": "may"}),
    ],
)
def test_tools(options: tuple[str, ...], meaning: Mapping[str, Any]) -> None:
    printed = grammar("--tools", TOOLS, *options)
    assert printed.exit_code == 0, printed.output
    assert printed.stdout_bytes.decode() == tool_grammar(load_tools(TOOLS), **meaning).text


def test_a_tool_that_is_not_held_whole_is_named(tmp_path: Path) -> None:
    tools = written(tmp_path, HALF)
    printed = grammar("--tools", tools)
    assert printed.exit_code == 0
    assert printed.stdout_bytes.decode() == tool_grammar(HALF).text
    assert "tool 'f'" in printed.stderr
    assert "pattern" in printed.stderr
    assert "\x1b" not in printed.output
    refused = grammar("--tools", tools, "--strict-tools")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "tool 'f'" in refused.stderr


def test_it_is_utf_8_in_every_locale(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from edge_mtp.cli import main; main()", "grammar"]
    command += ["--response-schema", str(written(tmp_path, SCHEMA))]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    printed = subprocess.run(command, cwd="/", env=environment, capture_output=True, timeout=120, check=True)
    assert printed.stdout.decode() == response_grammar(SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        ((), 2, "give --response-schema FILE or --tools FILE"),
        (("--response-schema", "a.json", "--tools", "b.json"), 2, "contradict each other"),
        (("--response-schema", "a.json", "--single-call"), 2, "need --tools FILE"),
        (("--response-schema", "a.json"), 1, "cannot read response schema 'a.json'"),
        (("--tools", "b.json"), 1, "cannot read tools file 'b.json'"),
        (("--tools", str(TOOLS), "--tool-choice", "fly"), 1, "tool choice 'fly' is no declared tool"),
    ],
)
def test_a_refusal_is_one_line(
    arguments: tuple[str, ...], status: int, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = grammar(*arguments)
    assert (refused.exit_code, refused.stdout) == (status, "")
    assert named in refused.stderr.splitlines()[-1]
