"""The Python in README and docs/python.md, run as it stands there."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_templates import gemma4

import edge_mtp
from edge_mtp.engine import Engine
from edge_mtp.formats.tool_calls import parse_calls

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    blocks = PYTHON.findall((ROOT / "docs" / "python.md").read_text("utf-8"))
    (source,) = [block for block in blocks if "def agent(" in block]
    assert len([line for line in source.splitlines() if line.strip()]) <= 40
    names: dict[str, Any] = {}
    exec(source, names)
    return names


def asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    replies: list[Any] = []
    answer = engine.answer
    monkeypatch.setattr(engine, "answer", lambda *given: replies.append(answer(*given)) or replies[-1])
    return replies


@pytest.mark.parametrize("newest", [False, True], ids=["own template", "Google's newest"])
def test_the_agent_calls_and_answers(
    tiny_bundle: Path, program: dict[str, Any], newest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Google's template the tiny pair, which was trained with its own, is told when to call."""
    with edge_mtp.open(tiny_bundle, threads=1) as engine:
        if newest:
            engine.chat_format = replace(engine.chat_format, template=gemma4()["gemma4_v5"])
        replies = asked(engine, monkeypatch)
        talk_reply = edge_mtp.Dialogue.reply

        def told(talk: Any, options: Any = None) -> Any:
            choice = "required" if talk.messages[-1]["role"] == "user" else "none"
            return talk_reply(talk, replace(options, tool_choice=choice, max_tokens=40) if newest else options)

        monkeypatch.setattr(edge_mtp.Dialogue, "reply", told)
        text = program["agent"](engine, "Set the screen brightness to 40 percent")
        assert program["brightness"] == 40
        assert [call.name for call in parse_calls(replies[0].text)] == ["set_brightness"]
        assert text == replies[1].text != ""
        assert parse_calls(text) == []
        # The second prompt holds all that the first turn had, and the runner has it cached.
        first = [*replies[0].prompt, *replies[0].tokens[:-1]]
        assert list(replies[1].prompt[: len(first)]) == first
        assert replies[1].outcome.reused_tokens >= len(first) - 1
        answer = engine.chat_format.tokenizer.decode(replies[1].prompt[len(first) :])
        assert answer == "<|tool_response>response:set_brightness{ok:true}<tool_response|>"
        program["brightness"] = 70


@pytest.mark.parametrize(("page", "shows"), [("README.md", "set_alarm"), ("docs/python.md", '{"celsius": ')])
def test_the_first_program_of_a_page_runs(
    page: str,
    shows: str,
    tiny_int8_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = PYTHON.findall((ROOT / page).read_text("utf-8"))[0]
    for name in ("my.litertlm", "tiny-int8.litertlm"):
        shutil.copy(tiny_int8_bundle, tmp_path / name)
    shutil.copy(Path(edge_mtp.__file__).parent / "tiny" / "tools.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(source, {})
    assert shows in capsys.readouterr().out
