"""The runner's client against processes that misbehave in every way a real one could."""

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from edge_mtp.device import Request, Runner, Step, find_device
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.process import LocalProcess
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Failure, Outcome, Ready, Sensors, parse_record, to_json

READY = {
    "event": "ready", "protocol": 2, "context_length": 64, "vocabulary": 8, "max_draft_length": 7,
    "has_drafter": True, "load_us": 1.0, "accelerator": "gpu", "accelerator_reason": "the gpu is right",
}  # fmt: skip
STEP = {
    "event": "step", "request": "r1", "step": 0, "kind": "plain", "position": 1, "tokens": [3], "draft": [],
    "confidence": [], "source": "", "accepted": 0, "planned": 0, "explore": False, "draft_us": 0.0,
    "mask_us": 0.0, "embed_us": 0.0, "verify_us": 1.0, "select_us": 1.0, "total_us": 2.0, "expected_per_ms": 0.0,
    "plain_per_ms": 0.0, "waits": 2, "bytes_to_accelerator": 80, "bytes_from_accelerator": 44, "logprobs": [],
    "margins": [],
}  # fmt: skip
DONE = {
    "event": "done", "request": "r1", "finish": "length", "prompt_tokens": 1, "reused_tokens": 0, "restored_tokens": 0,
    "tokens": 1, "first_drafts": 0, "first_accepted": 0, "prefill_us": 0.0, "total_us": 2.0,
}  # fmt: skip
REQUEST = Request(prompt=[1], max_tokens=1)


def fake(script: str) -> LocalProcess:
    """A process that runs `script` with say(record) at hand."""
    prelude = "import json, sys, time\ndef say(r): print(json.dumps(r), flush=True)\n"
    names = f"READY, STEP, DONE = {READY!r}, {STEP!r}, {DONE!r}\n"
    return LocalProcess([sys.executable, "-c", prelude + names + textwrap.dedent(script)])


def test_a_request_yields_its_steps_and_its_outcome() -> None:
    with Runner(fake("say(READY); sys.stdin.readline(); say(STEP); say(DONE); sys.stdin.read()")) as runner:
        step, outcome = runner.generate(REQUEST)
    assert isinstance(step, Step)
    assert step.tokens == [3]
    assert isinstance(outcome, Outcome)
    assert outcome.finish == "length"


def test_a_request_after_close_is_told(tmp_path: Path) -> None:
    runner = Runner(fake("say(READY); sys.stdin.read()"))
    runner.close()
    runner.close()
    for _ in range(2):
        with pytest.raises(EdgeMtpError, match="the engine is closed; open the bundle again"):
            list(runner.generate(REQUEST))


@pytest.mark.parametrize("threads", [0, 257, 100_000, 4294967297, 10**30])
def test_threads_that_no_device_has(threads: int, synthetic_bundle: Path) -> None:
    with pytest.raises(EdgeMtpError, match=rf"'{threads}' threads cannot be; use 1 to 256"):
        find_device("host").start(synthetic_bundle, LoadOptions(threads=threads))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("print('Killed: out of memory', file=sys.stderr); sys.exit(137)", "out of memory"),
        ("print('not json', flush=True); time.sleep(1)", "unreadable record"),
        ("say({'event': 'ready'}); time.sleep(1)", "unreadable record"),
        ("say(dict(READY, protocol=9)); time.sleep(1)", "another protocol"),
        ("say({'event': 'error', 'request': None, 'message': 'no such bundle'})", "no such bundle"),
        ("time.sleep(30)", "said nothing"),
    ],
)
def test_a_runner_that_cannot_start_is_one_line(script: str, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as caught:
        Runner(fake(script), silence_s=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("say(STEP); sys.exit(9)", "exit code 9"),
        ("say({'event': 'error', 'request': 'r1', 'message': 'the prompt is empty'})", "the prompt is empty"),
        ("say(dict(STEP, request='r7')); time.sleep(1)", "out of turn"),
        ("time.sleep(30)", "said nothing"),
    ],
)
def test_a_request_that_fails_is_one_line(script: str, message: str) -> None:
    process = fake("say(READY); sys.stdin.readline(); " + script)
    with Runner(process, silence_s=3) as runner, pytest.raises(EdgeMtpError, match=message) as caught:
        list(runner.generate(REQUEST))
    assert "\n" not in str(caught.value)


def test_leaving_early_cancels_and_the_runner_stays_usable() -> None:
    script = """
    say(READY)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "cancel":
            say(dict(DONE, request=name, finish="cancelled"))
        else:
            name = request["request"]
            say(dict(STEP, request=name)); say(dict(STEP, request=name))
    """
    with Runner(fake(script)) as runner:
        left = []
        for _ in range(3):
            for step in runner.generate(REQUEST):
                left.append(step)
                break
    assert [step.request for step in left if isinstance(step, Step)] == ["r1", "r2", "r3"]


def test_leaving_after_the_outcome_waits_for_nothing(tmp_path: Path) -> None:
    """A request that has ended is not cancelled, and this runner would answer to nothing more."""
    told = tmp_path / "told"
    script = f"""
    say(READY); sys.stdin.readline(); say(STEP); say(DONE)
    open({str(told)!r}, "w").write(sys.stdin.read())
    """
    with Runner(fake(script), silence_s=3) as runner:
        for record in runner.generate(REQUEST):
            if isinstance(record, Outcome):
                break
    assert isinstance(record, Outcome)
    assert told.read_text().splitlines() == ['{"op": "cancel"}']  # by close


def test_an_unstartable_command_names_itself(tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match="cannot start"):
        LocalProcess([str(tmp_path / "missing")])


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(EdgeMtpError, match="unknown device 'toaster'"):
        find_device("toaster")


def test_records_round_trip_and_tolerate_new_fields() -> None:
    for record in (READY, STEP, DONE):
        assert to_json(parse_record({**record, "added_later": 1})) == record


def test_the_native_runner_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    junk = tmp_path / "junk.litertlm"
    for content, message in [
        (b"", "empty"),
        (b"PK\x03\x04" * 100, "LITERTLM"),
        (b"LITERTLM" + b"\xff" * 99, "version"),
    ]:
        junk.write_bytes(content)
        with pytest.raises(EdgeMtpError, match=message):
            find_device("host").start(junk)
    with pytest.raises(EdgeMtpError, match="No such file"):
        find_device("host").start(tmp_path / "absent.litertlm")


def test_the_native_runner_explains_wrong_usage() -> None:
    from edge_mtp.device.host import runner_path

    wrong = subprocess.run([runner_path(), "--bundel", "x"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage:")
    assert subprocess.run([runner_path(), "--help"], capture_output=True, timeout=60).returncode == 0


# docs/trace.md is the contract.
TRACE = (Path(__file__).parents[2] / "docs" / "trace.md").read_text("utf-8")


def described(text: str) -> set[str]:
    """The fields that a part of the document describes: the first column of its table, or what its paragraph names."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return set(re.findall(r"`(\w+)`", "\n".join(rows) if rows else text))


def part_of(record: str) -> str:
    """From the record's name in bold to the next one, or to the next heading."""
    [part] = re.findall(rf"^\*\*`{record}`\*\*(.*?)(?=^\*\*`|^#|\Z)", TRACE, re.MULTILINE | re.DOTALL)
    return str(part)


@pytest.mark.parametrize(
    ("record", "kind"),
    [("ready", Ready), ("step", Step), ("done", Outcome), ("error", Failure), ("sensors", Sensors)],
)
def test_the_trace_schema_in_docs_describes_every_field_at_its_record(record: str, kind: type) -> None:
    carried = {field.name for field in fields(kind)}
    part = part_of(record)
    assert carried <= described(part)
    if "|" in part:  # a table, which has nothing else
        assert described(part) == carried


def test_the_trace_schema_in_docs_describes_every_field_of_a_request() -> None:
    _, requests = TRACE.split("\n## Requests\n")
    table = described(requests.partition("\n## ")[0])
    assert set(REQUEST.to_json("r1")) <= table
    assert json.loads(json.dumps(REQUEST.to_json("r1")))["prompt"] == [1]


def test_a_field_that_another_record_has_is_not_described() -> None:
    """`verify_us` is a step's and `context_length` is of `ready`: naming them elsewhere does not count."""
    assert "verify_us" not in described(part_of("done")) | described(part_of("ready"))
    assert "context_length" not in described(part_of("step"))
    assert "position" not in described(part_of("done"))
