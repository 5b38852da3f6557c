"""The C library as an app links it."""

import subprocess
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
