"""Results files: written, cut, gone on with, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_results import synthetic_results

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.results import Results, ResultsWriter, read_results

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


def test_events_and_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, RESULTS)
    lines = path.read_text().splitlines()
    answer = next(i for i, line in enumerate(lines) if '"event":"answer"' in line)
    lines[answer] = json.dumps({**json.loads(lines[answer]), "new": 1})
    path.write_text("\n".join([*lines, '{"event":"later"}']) + "\n")
    assert flat(read_results(path)) == flat(RESULTS)
