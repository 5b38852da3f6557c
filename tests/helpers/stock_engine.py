"""The stock LiteRT-LM engine as an oracle: what it writes, and how often its drafts were right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_mtp.harness.ask.litert_lm_process import StockEngine


@dataclass(frozen=True)
class Replies:
    """`success_rate` is the share of drafts that were accepted; None if there were none."""

    texts: list[str]
    success_rate: float | None


def replies(bundle: Path, prompts: Sequence[str], max_tokens: int, *, drafting: bool) -> Replies:
    """Its greedy text after each of `prompts`, given as they are but for the start token, which it puts itself.

    With `drafting` it may write up to G tokens more than `max_tokens`. Raises EdgeMtpError if it refuses the bundle.
    """
    with StockEngine(bundle, mtp="on" if drafting else "off", threads=1) as engine:
        texts = [engine.reply(prompt.removeprefix("<bos>"), max_tokens).text for prompt in prompts]
        return Replies(texts, engine.close())


@dataclass(frozen=True)
class Turn:
    """Messages in the engine's own form, of which the last is the new one; `template` None is the bundle's."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]
    template: str | None = None


_PROGRAM = """
import json, sys
import litert_lm

class Declared(litert_lm.Tool):
    def __init__(self, description):
        self.description = description

    def get_tool_description(self):
        return self.description

    def execute(self, arguments):
        return {"ok": True}

litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
backend = litert_lm.Backend.CPU(thread_count=1)
engine = litert_lm.Engine(sys.argv[1], backend=backend, cache_dir=":nocache")
for turn in json.load(sys.stdin):
    *before, last = turn["messages"]
    tools = [Declared(tool) for tool in turn["tools"]]
    with engine.create_conversation(
        messages=before, tools=tools, chat_template=turn["template"], extra_context=turn["variables"]
    ) as conversation:
        prompt = conversation.render_message_to_string(last)
        said = []
        if sys.argv[2] == "answer":
            for message in (last, {"role": "user", "content": "And then?"}):
                said.append(conversation.send_message(message, max_output_tokens=24))
        print(json.dumps([prompt, said]), flush=True)
"""


def prompts(bundle: Path, turns: Sequence[Turn], *, answer: bool = False) -> list[str]:
    """What its `Conversation` gives the model at each of `turns`, in a process of its own; empty where it refuses.

    With `answer` it also replies, and to a second question, for which it needs the text of all that was before.
    """
    given = json.dumps([asdict(turn) for turn in turns])
    command = [sys.executable, "-c", _PROGRAM, str(bundle), "answer" if answer else ""]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line)[0] for line in done.stdout.splitlines()]
    assert len(found) == len(turns), done.stderr[-2000:]
    return found
