"""A runner that answers from a script, so that what a person sees can be tested to the letter.

    python fake_runner.py SCRIPT.json

The script is a list of replies, one a request: {"tokens": [...], "finish": "stop"}, with optional "accepted" (tokens
drafted and accepted in every step of K + 1; 0 is plain), "source" (their letter), "pause_s" between steps, "error" or
"die". Requests are appended, one JSON line each, to SCRIPT.json.log. Like the real one it reuses what it has computed.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

CONTEXT, VOCABULARY = 1000, 768


def main() -> None:
    script = Path(sys.argv[1])
    replies = json.loads(script.read_text("utf-8"))
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    cancelled = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "cancel":
                cancelled.set()
            else:
                requests.put(request)
        requests.put(None)

    threading.Thread(target=read, daemon=True).start()
    say(
        event="ready", protocol=2, context_length=CONTEXT, vocabulary=VOCABULARY, max_draft_length=7,
        has_drafter=True, load_us=1000.0,
    )  # fmt: skip
    cached: list[int] = []
    while (request := requests.get()) is not None:
        with Path(f"{script}.log").open("a", encoding="utf-8") as log:
            log.write(json.dumps(request) + "\n")
        cancelled.clear()
        reply = replies.pop(0)
        if "error" in reply:
            say(event="error", request=request["request"], message=reply["error"])
            continue
        if "die" in reply:
            print(reply["die"], file=sys.stderr)
            sys.exit(9)
        cached = answer(request, reply, cached, cancelled)


def answer(request: dict[str, Any], reply: dict[str, Any], cached: list[int], cancelled: threading.Event) -> list[int]:
    """Says one reply; the ids that are cached after it."""
    name, prompt = request["request"], request["prompt"]
    reused = 0
    while reused < min(len(cached), len(prompt) - 1) and cached[reused] == prompt[reused]:
        reused += 1
    tokens = reply["tokens"][: request["max_tokens"]]
    finish = "length" if len(tokens) < len(reply["tokens"]) else reply.get("finish", "stop")
    accepted = min(reply.get("accepted", 0), request["draft_length"])
    given = 0
    step = 0
    while given < len(tokens):
        if cancelled.is_set():
            finish = "cancelled"
            break
        drafts = 0 if step == 0 else accepted
        out = tokens[given : given + drafts + 1]
        say(
            event="step", request=name, step=step, kind="verify" if drafts else "plain",
            position=len(prompt) + given, tokens=out, draft=out[:drafts], confidence=[0.5] * len(out[:drafts]),
            source=reply.get("source", "d") * len(out[:drafts]), accepted=len(out[:drafts]), planned=drafts,
            explore=step == 1, draft_us=10.0, mask_us=2.0, embed_us=1.0, verify_us=100.0, select_us=0.0,
            total_us=120.0, logprobs=[-0.25] * len(out) if request["logprobs"] else [],
        )  # fmt: skip
        given += len(out)
        step += 1
        time.sleep(reply.get("pause_s", 0))
    say(
        event="done", request=name, finish=finish, prompt_tokens=len(prompt), reused_tokens=reused,
        restored_tokens=0, tokens=given, prefill_us=50.0, total_us=500.0,
    )  # fmt: skip
    return [*prompt, *tokens[:given]]


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
