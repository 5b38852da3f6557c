"""The C library as an app links it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from native_build import part

from edge_mtp.device import Outcome, Request
from edge_mtp.device.host import litert_library, runner_path
from edge_mtp.engine import open_engine


def test_sessions_of_one_process_do_not_see_each_other(tiny_bundle: Path, tiny_split: list[dict[str, Any]]) -> None:
    """Three sessions in three threads, at K of 0, 3 and 7, say what a runner of their own says."""
    program = part("c_api", f"-DEDGE_MTP_BINARIES={runner_path().parent}")
    with open_engine(tiny_bundle) as engine:
        stop = min(engine.chat_format.stop_token_ids)
        prompts = [engine.chat_format.encode(item["messages"], item["tools"]) for item in tiny_split[:4]]
        expected = []
        for prompt in prompts:
            *steps, outcome = engine.runner.generate(Request(prompt, 40, [stop]))
            assert isinstance(outcome, Outcome)
            expected.append([token for step in steps for token in step.tokens])  # type: ignore[union-attr]
    tokens = [str(token) for prompt in prompts for token in [*prompt, -1]]
    command = [str(program), str(litert_library()), str(tiny_bundle), str(stop), *tokens]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert [[int(token) for token in line.split()] for line in result.stdout.splitlines()] == 3 * expected


def test_the_documented_program_answers(tiny_bundle: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "c.md").read_text("utf-8")
    (program,), (ids,) = (
        re.findall(r"```c\n(.*?)```", page, re.DOTALL),
        re.findall(r"```python\n(.*?)```", page, re.DOTALL),
    )
    (tmp_path / "answer.c").write_text(program, "utf-8")
    (tmp_path / "ids.py").write_text(ids, "utf-8")
    (compiles,) = re.findall(r"^cc .*$", page, re.MULTILINE)
    command = compiles.replace("$BIN", str(runner_path().parent)).replace("-Wall", "-Wall -Wextra -Werror")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=120)

    text = "Wake me at 6:40"
    given = [sys.executable, "ids.py", str(tiny_bundle), text]
    numbers = subprocess.run(
        given, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    answer = [str(tmp_path / "answer"), str(litert_library()), str(tiny_bundle), *numbers]
    result = subprocess.run(answer, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    tokens, told = result.stdout.splitlines()
    with open_engine(tiny_bundle) as engine:
        expected = engine.chat(text, max_tokens=64, draft_length=0).wait().tokens
    assert [int(token) for token in tokens.split()] == expected
    assert re.fullmatch(rf"{len(expected)} tokens in \d+\.\d ms", told)
    absent = subprocess.run([*answer[:2], "/absent", "1", "2", "3"], capture_output=True, text=True, timeout=120)
    assert absent.returncode == 1
    assert "/absent" in absent.stderr
