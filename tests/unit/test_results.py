"""Results files: written, cut, gone on with, read back."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_results import ARMS, synthetic_results

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import analyse
from edge_mtp.harness.analyse.compare import Versus
from edge_mtp.harness.analyse.side import Side
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.record.results import Results, ResultsWriter, read_results
from edge_mtp.harness.tell.comparison import text_lines
from edge_mtp.harness.tell.summary_table import summary

RESULTS = synthetic_results(3)


def write(path: Path, results: Results) -> None:
    with ResultsWriter.create(path, results.run, results.items) as writer:
        for record in [*results.answers, *results.samples, *results.pauses]:
            writer.write(record)


def flat(results: Results) -> dict[str, Any]:
    """All of it; whether a sequence is a list or a tuple says nothing."""
    return {**vars(results), "items": [item.to_json() for item in results.items.values()]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", RESULTS)
    assert flat(read_results(tmp_path / "r.jsonl")) == flat(RESULTS)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_reads_as_what_was_whole_and_is_gone_on_with(tmp_path: Path, share: float) -> None:
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    write(path, RESULTS)
    whole = path.read_bytes()
    head = len(b"\n".join(whole.split(b"\n")[: 1 + len(RESULTS.items)])) + 1  # all items come before the first answer
    cut = head + int(share * (len(whole) - head))
    path.write_bytes(whole[:cut])
    read = read_results(path)
    records = len([line for line in whole[:cut].split(b"\n")[:-1] if b'"event":"answer"' in line[:30]])
    assert read.answers == RESULTS.answers[:records]
    with ResultsWriter.resume(path) as writer:
        writer.write(RESULTS.answers[-1])
    assert RESULTS.answers[-1] in read_results(path).answers


def test_of_an_item_asked_again_the_later_answer_counts(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, RESULTS)
    again = RESULTS.answers[0]
    with ResultsWriter.resume(path) as writer:
        writer.write(type(again)(**{**vars(again), "text": "another"}))
    read = read_results(path).answers
    assert len(read) == len(RESULTS.answers)
    assert read[0].text == "another"


@given(text=st.text())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_model_says_is_read_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    said = replace(RESULTS.answers[0], text=f"\u2028\x85\x0c{text}")
    with ResultsWriter.create(path, RESULTS.run, RESULTS.items) as writer:
        writer.write(said)
    assert read_results(path).answers == [said]


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("mine")
    with pytest.raises(EdgeMtpError, match=r"exist already; add --resume"):
        write(tmp_path / "r.jsonl", RESULTS)
    assert (tmp_path / "r.jsonl").read_text() == "mine"


def test_an_error_before_the_first_answer_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(EdgeMtpError), ResultsWriter.create(path, RESULTS.run, RESULTS.items):
        raise EdgeMtpError("no device")
    assert not path.exists()

    def breaks() -> None:
        with ResultsWriter.create(path, RESULTS.run, RESULTS.items) as writer:
            writer.write(RESULTS.answers[0])
            raise EdgeMtpError("the link broke")

    with pytest.raises(EdgeMtpError):
        breaks()
    assert read_results(path).answers == RESULTS.answers[:1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hold no run"),
        ("{}\n", "line 1: it is no record"),
        ("[1]\n", "line 1: it is no record"),
        ("not json\n", "line 1: not JSON"),
        ('{"event":"run","schema":99}\n', "another schema than 1"),
        ('{"event":"run","schema":true}\n', "another schema than 1"),
        ('{"event":"answer"}\n', "line 1: the first record is no run, but 'answer'"),
    ],
)
def test_what_is_no_results_file_is_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(EdgeMtpError, match=message) as caught:
        read_results(path)
    assert len(str(caught.value).splitlines()) == 1


SMALL = synthetic_results(5, arms=ARMS[:2], items=2, rounds=1, crashes=0)
JUNK: list[Any] = [
    None, True, -1, 10**9, 10**30, 1e300, -0.5, math.nan, math.inf, "", "x", "\ud800", "\x1b[2J\u202e", [], [[1, 2]],
    {}, {"a": {"b": [None]}}, [1] * 9,
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of a small file."""
    path = tmp_path_factory.mktemp("small") / "r.jsonl"
    write(path, SMALL)
    return path.read_text().split("\n")[:-1]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_a_line(tmp_path: Path, small: list[str], data: st.DataObject) -> None:
    """And what is read can be analysed, told and compared: nothing in it breaks that, or steers a terminal."""
    lines = list(small)
    number = data.draw(st.one_of(st.just(0), st.integers(0, len(lines) - 1)))
    how = data.draw(
        st.sampled_from(["field", "field", "deep field", "drop", "double", "swap", "cut", "append", "nest"])
    )
    if how in ("field", "deep field"):
        value = json.loads(lines[number])
        holder = value
        if how == "deep field":
            inner = [each for each in nested(value) if each]
            holder = data.draw(st.sampled_from(inner)) if inner else value
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key] = data.draw(st.sampled_from(JUNK))
        lines[number] = json.dumps(value)
    elif how == "drop":
        del lines[number]
    elif how == "double":
        lines.insert(number, lines[number])
    elif how == "swap":
        other = data.draw(st.integers(0, len(lines) - 1))
        lines[number], lines[other] = lines[other], lines[number]
    elif how == "cut":
        lines[number] = lines[number][: data.draw(st.integers(0, len(lines[number])))]
    elif how == "append":
        lines += lines
    else:
        depth = data.draw(st.sampled_from([50, 500, 100_000]))
        lines[number] = lines[number][:-1] + ',"settings":' + '{"a":' * depth + "1" + "}" * depth + "}"
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    read, refusal = None, ""
    try:
        read = read_results(path)
    except EdgeMtpError as error:
        refusal = str(error)
    if read is None:
        assert str(path) in refusal
        assert len(refusal.splitlines()) == 1
        assert refusal.isprintable()
        return
    analysis = analyse(read)
    json.dumps(analysis.to_json(), allow_nan=False)
    console = Console(file=io.StringIO(), width=80)
    for part in summary(analysis):
        console.print(part)
    versus = Versus(Side("a", read), Side("b", SMALL), [f"{read.run.arms[0].label}={SMALL.run.arms[0].label}"])
    shown_lines = text_lines(versus, [], 0)
    assert shown_lines
    assert all(character.isprintable() or character == "\n" for character in console.file.getvalue())


def nested(value: Any) -> Iterator[Any]:
    """All lists and objects inside a value."""
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield each
            yield from nested(each)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines + lines, "line {n}: a second run begins here; give each run a file of its own"),
        (lambda lines: [lines[0], *lines[1:2], *lines[1:]], "line 3: item 'bench-0000' is there twice"),
        (lambda lines: [lines[0], lines[-1]], "line 2: item '.*' is none of those above"),
    ],
)
def test_what_was_put_together_wrongly_is_named_with_its_line(
    tmp_path: Path, change: Any, message: str, small: list[str]
) -> None:
    answers = [line for line in small if line.startswith('{"event":"run"') or '"event":"item"' in line[:16]]
    lines = [*answers, *(line for line in small if line.startswith('{"event":"answer"'))]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(EdgeMtpError, match=message.format(n=len(lines) + 1)):
        read_results(path)


STEP = ["v", 2, "dg", 1, 2, 1.0, 0, 8.0, 9.0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("turn", True, "turn: expected int"),
        ("turn", 1.0, "turn: expected int"),
        ("round", -1, "round: expected int >= 0"),
        ("count", 2**53 + 1, "count: expected int <= 9007199254740992"),
        ("at_s", math.nan, "at_s: expected float >= 0.0"),
        ("call_us", 2e15, "call_us: expected float"),
        ("call_us", "1", "call_us: expected float"),
        ("text", None, "text: expected str"),
        ("in_thought", 1, "in_thought: expected bool"),
        ("finish", "ended", "finish: invalid enum value 'ended'"),
        ("tokens", [1, 2**31], r"tokens\[1\]: expected int"),
        ("margins", [1.0, math.nan], "margins: NaN"),
        ("steps", [STEP, STEP[:-1]], r"steps\[1\]: expected array of length 9, got 8"),
        ("steps", [[*STEP, 1]], "got 10"),
        ("steps", [["x", *STEP[1:]]], r"steps\[0\]\[0\]: invalid enum value 'x'"),
        ("steps", [[*STEP[:2], "dx", *STEP[3:]]], r"steps\[0\]\[2\]: expected str matching"),
        ("steps", [[*STEP[:2], "d\n", *STEP[3:]]], r"steps\[0\]\[2\]: expected str matching"),
        ("steps", [[*STEP[:2], "d" * 1025, *STEP[3:]]], r"steps\[0\]\[2\]: expected str of length <= 1024"),
        ("steps", [[*STEP[:3], 3, *STEP[4:]]], "steps: a step accepted more drafts than it verified"),
        ("steps", [[*STEP[:4], 1025, *STEP[5:]]], r"steps\[0\]\[4\]: expected int <= 1024"),
        ("steps", [[*STEP[:-1], math.inf]], r"steps\[0\]\[8\]: expected float"),
    ],
)
def test_a_wrong_field_of_an_answer_is_named_with_its_line(
    tmp_path: Path, small: list[str], name: str, value: Any, message: str
) -> None:
    number = next(i for i, line in enumerate(small) if line.startswith('{"event":"answer"'))
    path = tmp_path / "r.jsonl"

    def written(change: dict[str, Any]) -> Path:
        lines = [*small[:number], json.dumps({**json.loads(small[number]), **change})]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    assert len(read_results(written({"steps": [STEP], "tokens": [2**31 - 1], "margins": [math.inf]})).answers) == 1
    with pytest.raises(EdgeMtpError, match=f"line {number + 1}: {message}" if ":" in message else message) as caught:
        read_results(written({name: value}))
    assert str(caught.value).isprintable()


def test_half_a_surrogate_pair_of_an_item_is_written_and_read(tmp_path: Path) -> None:
    item = Item("x", "chat", "x", (Turn(({"role": "user", "content": "a\ud800b"},)),))
    path = tmp_path / "r.jsonl"
    ResultsWriter.create(path, SMALL.run, {"x": item}).close()
    assert read_results(path).items["x"].to_json() == item.to_json()


def test_events_and_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, RESULTS)
    lines = path.read_text().splitlines()
    answer = next(i for i, line in enumerate(lines) if '"event":"answer"' in line)
    lines[answer] = json.dumps({**json.loads(lines[answer]), "new": 1})
    path.write_text("\n".join([*lines, '{"event":"later"}']) + "\n")
    assert flat(read_results(path)) == flat(RESULTS)
