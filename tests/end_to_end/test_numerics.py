"""`edge-mtp check --numerics`: what three arms gave, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_mtp
from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.cli import main
from edge_mtp.device import Ready
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.numerics import NumericsReport, numerics_of
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.run.check import ask_numerics_arms, numerics_arms
from edge_mtp.harness.score.partings import token_kind

FORMAT = ChatFormat.from_directory(Path(edge_mtp.__file__).parent / "tiny" / "target")
STOP = min(FORMAT.stop_token_ids)
HELLO = Item("hello", "chat", "hello", [Turn([{"role": "user", "content": "hello"}])])


READY = Ready(2, 512, 1024, 7, True, 1.0)


@dataclass
class Scripted(Answerer):
    """Answers with given tokens, one reply a prompt; every margin is its token's id."""

    arm: Arm
    replies: list[list[int]]
    drafts: int  # that its drafter gives
    asked: list[tuple[Item, int]] = field(default_factory=list)  # and most tokens

    is_alive = True

    def revive(self) -> None:
        raise AssertionError("it never dies")

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        most = item.max_tokens or max_tokens
        self.asked.append((item, most))
        tokens = self.replies.pop(0)[:most]
        drafts = "d" * self.drafts if self.arm.label == "mtp" else ""
        width = 3 if drafts else 1
        steps = [
            StepFigures("v", len(tokens[start : start + width]), drafts, 0, 0, 0, 0, 0, 0)
            for start in range(0, len(tokens), width)
        ]
        margins = [float(token) for token in tokens]
        yield Answer(self.arm.label, item.id, 0, round, 0.0, "", "stop", tokens=tokens, margins=margins, steps=steps)


def scripted(replies: Sequence[Sequence[Sequence[int]]], k: int, drafts: int | None = None) -> list[Answerer]:
    """The arms; `replies` of each to every prompt. The drafter gives `drafts` instead of `k`."""
    arms = numerics_arms("b.litertlm", k)
    return [Scripted(arm, [list(each) for each in of], drafts or k) for arm, of in zip(arms, replies, strict=True)]


def measure(
    answerers: list[Answerer], items: Sequence[Item], *, draft_length: int, max_tokens: int, ready: Ready = READY
) -> NumericsReport:
    most = {"draft_length": draft_length, "max_tokens": max_tokens}
    return numerics_of(ask_numerics_arms(answerers, FORMAT, ready, items, **most), FORMAT, **most)


def run(
    plain: Sequence[int], blank: Sequence[int], mtp: Sequence[int], *, draft_length: int = 4, max_tokens: int = 64
) -> NumericsReport:
    answerers = scripted([[plain], [blank], [mtp]], draft_length)
    return measure(answerers, [HELLO], draft_length=draft_length, max_tokens=max_tokens)


def test_equal_texts_are_the_same() -> None:
    report = run([5, 6, 7, STOP], [5, 6, 7, STOP], [5, 6, 7, STOP])
    assert report.verdict == "same"
    assert report.explanation.startswith("same: ")
    assert report.divergences == []
    assert (report.tokens, report.median_margin) == (4, median([5, 6, 7, STOP]))
    assert {cause: share.value for cause, share in report.shares.items()} == {"numerics": 0, "accept or rollback": 0}


def test_plain_alone_is_numerics_with_the_margins_of_both() -> None:
    report = run([5, 6, 7, 8], [5, 9, 7], [5, 9, 7])
    (found,) = report.divergences
    assert report.verdict == found.cause == "numerics"
    assert (found.prompt, found.index, found.arms) == (0, 1, ("plain", "blank"))
    assert [choice.id for choice in found.choices] == [6, 9]
    assert [choice.margin for choice in found.choices] == [6.0, 9.0]
    assert "within 9" in report.explanation
    assert report.shares["numerics"].value == 1.0
    assert report.shares["accept or rollback"].value == 0.0


def test_mtp_alone_is_an_accept_or_rollback_error() -> None:
    report = run([5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 8])
    (found,) = report.divergences
    assert report.verdict == found.cause == "accept or rollback"
    assert (found.index, found.arms) == (2, ("blank", "mtp"))


def test_the_graver_cause_is_the_verdict_and_both_are_reported() -> None:
    report = run([5, 6], [5, 7], [5, 8])
    assert [found.cause for found in report.divergences] == ["numerics", "accept or rollback"]
    assert report.verdict == "accept or rollback"


def test_a_text_that_ends_early_has_no_token_there() -> None:
    (found,) = run([5, 6], [5, 6], [5]).divergences
    assert found.index == 1
    assert found.choices[1].id is None
    assert found.choices[0].id == 6


def test_what_lies_behind_the_compared_tokens_is_generated_and_ignored() -> None:
    answerers = scripted([[[5] * 20], [[5] * 8 + [6] * 12], [[5] * 8 + [7] * 12]], 3)
    report = measure(answerers, [HELLO], draft_length=3, max_tokens=8)
    assert report.verdict == "same"
    assert report.tokens == 8
    for answerer in answerers:
        assert isinstance(answerer, Scripted)
        assert [(item.id, len(item.turns), most) for item, most in answerer.asked] == [("hello", 1, 12)]


def test_the_arms_differ_in_their_drafts_alone() -> None:
    plain, blank, mtp = numerics_arms("b.litertlm", 3)
    assert [arm.draft_length for arm in (plain, blank, mtp)] == [0, 3, 3]
    assert (blank.draft_sources, mtp.draft_sources) == ((), ("drafter",))
    assert not any(arm.constrained or arm.temperature for arm in (plain, blank, mtp))
    assert plain.is_sibling(mtp)
    assert blank.is_sibling(mtp)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.tuples(*[st.lists(st.integers(5, 7), min_size=1, max_size=6)] * 3), min_size=1, max_size=5))
def test_every_divergence_is_the_first_of_its_pair(texts: list[tuple[list[int], list[int], list[int]]]) -> None:
    arms = ("plain", "blank", "mtp")
    items = [replace(HELLO, id=f"hello {number}") for number in range(len(texts))]
    answerers = scripted([[text[i] for text in texts] for i in range(3)], 2)
    report = measure(answerers, items, draft_length=2, max_tokens=50)
    expected = []
    for prompt, text in enumerate(texts):
        for one, other in ((0, 1), (1, 2)):
            if text[one] != text[other]:
                padded = [[*text[i], *[-1] * 6] for i in (one, other)]
                index = next(i for i in range(7) if padded[0][i] != padded[1][i])
                expected.append((prompt, index, arms[one], arms[other]))
    assert [(each.prompt, each.index, *each.arms) for each in report.divergences] == expected
    assert (report.verdict == "same") == (not expected)
    assert report.prompts == len(texts)
    assert json.loads(json.dumps(report.to_json()))["verdict"] == report.verdict


@pytest.mark.parametrize(
    ("ready", "drafts", "message"),
    [
        (Ready(2, 512, 1024, 3, True, 1.0), None, "draft length 4 is beyond the 3 .* use 1 to 3"),
        (Ready(2, 512, 1024, 0, True, 1.0), None, "export the bundle with its verify graphs"),
        (Ready(2, 512, 1024, 7, False, 1.0), None, "no drafter"),
        (Ready(2, 12, 1024, 7, True, 1.0), None, "prompt 0 has .* tokens and leaves no room in the context of 12"),
        (Ready(2, 512, 1024, 7, True, 1.0), 3, "drafter gives 3; use --draft-length 3"),
    ],
)
def test_what_cannot_be_checked_is_refused(ready: Ready, drafts: int | None, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message):
        measure(scripted([[[5]]] * 3, 4, drafts), [HELLO], draft_length=4, max_tokens=8, ready=ready)


@pytest.mark.parametrize(
    ("before", "token", "kind"),
    [
        ("", "Hello", "text"),
        ("I set ", "12", "digit"),
        ("", "<|tool_call>", "call syntax"),
        ("<|tool_call>call:set_al", "arm", "call syntax"),
        ("<|tool_call>call:f{hour:", "7", "digit"),
        ("<|tool_call>call:f{x:1", ".", "digit"),
        ("<|tool_call>call:f{x:1", ",", "call syntax"),
        ("<|tool_call>call:f{name:", '<|"|>', "call syntax"),
        ('<|tool_call>call:f{name:<|"|>', "Ann", "string content"),
        ('<|tool_call>call:f{name:<|"|>Room ', "12", "digit"),
        ('<|tool_call>call:f{name:<|"|>Ann<|"|>', "}", "call syntax"),
        ('<|tool_call>call:f{name:<|"|>Ann<|"|>}<tool_call|>', "Done", "text"),
        ("3", ".", "text"),
    ],
)
def test_a_token_has_the_kind_of_its_place(before: str, token: str, kind: str) -> None:
    assert token_kind(before, token) == kind


def test_divergences_tell_text_and_kind() -> None:
    call = FORMAT.tokenizer.encode('<|tool_call>call:f{a:<|"|>')
    (found,) = run([*call, STOP], [*call, call[-1]], [*call, call[-1]]).divergences
    assert found.index == len(call)
    assert [choice.kind for choice in found.choices] == ["stop", "call syntax"]
    assert found.choices[1].text == '<|"|>'


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "strict", "status", "line"),
    [
        (([5], [5], [5]), True, 0, "same: "),
        (([6], [5], [5]), False, 0, "prompt 0, token 0, numerics: plain "),
        (([6], [5], [5]), True, 1, "numerics: 100.0% of prompts (95% interval"),
        (([5], [5], [6]), False, 1, "accept or rollback: blank "),
    ],
)
def test_the_exit_status_is_the_verdict(
    texts: tuple[list[int], list[int], list[int]],
    strict: bool,
    status: int,
    line: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = run(*texts)
    monkeypatch.setattr("edge_mtp.harness.analyse.numerics.numerics_of", lambda *_, **__: report)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hello"}\n')
    command = ["check", "--numerics", str(prompts), "--bundle", str(tiny_bundle), *["--strict"] * strict]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code == status, ran.output
    assert line in ran.stdout
    as_json = CliRunner().invoke(main, [*command, "--json"])
    assert as_json.exit_code == status
    assert json.loads(as_json.stdout) == {
        "bundle": str(tiny_bundle),
        "device": "host",
        "source": "prompts.jsonl",
        **json.loads(json.dumps(report.to_json())),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "say what to check"),
        (["check", "--numerics", "--bundle", "x.litertlm"], "x.litertlm: No such file or directory"),
        (["check", "--numerics", "/nowhere.jsonl"], "cannot read prompts '/nowhere.jsonl'"),
    ],
)
def test_a_command_that_says_too_little_is_refused(arguments: list[str], message: str) -> None:
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code != 0
    assert message in ran.output


def test_the_tiny_model_gives_one_text_in_all_arms(tiny_bundle: Path) -> None:
    ran = CliRunner().invoke(main, ["check", "--numerics", "--device", "host", "--limit", "8", "--json"])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["verdict"] == "same", report["divergences"]
    assert report["prompts"] == 8
    assert report["tokens"] > 50
    assert report["median_margin"] > 0
