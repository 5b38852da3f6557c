"""The command group: help, refusals, exit statuses, and what it imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge_mtp.cli import VERBS, Verb, main
from edge_mtp.errors import EdgeMtpError

# `python -c` puts the working directory first on the path, and the repository's edge_mtp lacks export and device.
ELSEWHERE = "/"
MAIN = "import sys; from edge_mtp.cli import main; main()"


def add_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A verb `fail` that raises `error`."""

    @click.command()
    def fail() -> None:
        raise error

    module = types.ModuleType("failing_verb")
    module.fail = fail
    monkeypatch.setitem(sys.modules, "failing_verb", module)
    monkeypatch.setitem(VERBS, "fail", Verb("failing_verb", "Raise."))


def test_help_lists_the_verbs() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, verb in VERBS.items():
        assert f"  {name}" in result.output
        assert verb.help in result.output


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name}: {parameter.name} has no help"


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert re.search(r"version \d+\.\d+\.\d+$", result.output.strip())


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom edge_mtp.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'ai_edge_litert', 'jinja2', 'litert_torch', 'numpy', 'rich', 'tokenizers', 'torch',"
        " 'transformers'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ELSEWHERE)
    assert result.returncode == 0, f"imported: {result.stderr}"


def test_group_help_imports_no_verb() -> None:
    code = (
        "import sys\nfrom edge_mtp.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "sys.exit(any(name.startswith('edge_mtp.cli.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, cwd=ELSEWHERE).returncode == 0


def test_unknown_verb_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["frobnicate"])
    assert result.exit_code == 2
    assert "frobnicate" in result.stderr


def test_refusal_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, EdgeMtpError("width 9 is too wide:\n  use 2 to 8"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: width 9 is too wide: use 2 to 8\n"


def test_missing_extra_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "Error: fail needs torch, which is not installed: pip install 'edge-mtp[export]'\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, ModuleNotFoundError("No module named 'edge_mtp.nowhere'", name="edge_mtp.nowhere"))
    assert isinstance(CliRunner().invoke(main, ["fail"]).exception, ModuleNotFoundError)


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "Interrupted.\n"


def test_closed_pipe_is_quiet(synthetic_bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-c", MAIN, "inspect", str(synthetic_bundle)]
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ELSEWHERE)
    finally:
        os.close(write)
    assert result.returncode == 1
    assert result.stderr == ""


def test_what_an_error_quotes_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, EdgeMtpError("'\x1b]0;x\x07\x9b2J\u202e\udcff' is no name; use another"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.stderr == "Error: '\\x1b]0;x\\x07\\x9b2J\\u202e\\udcff' is no name; use another\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "{bundle}"]])
def test_a_full_disk_behind_standard_output_is_one_line(arguments: list[str], synthetic_bundle: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *(word.format(bundle=synthetic_bundle) for word in arguments)],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ELSEWHERE, timeout=120,
        )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr
