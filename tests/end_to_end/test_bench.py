"""`edge-mtp bench`: its order is fair, its file can be gone on with, and what it simulates is what it says."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import ARMS, synthetic_results

from edge_mtp.cli import main
from edge_mtp.cli.measuring import tell
from edge_mtp.cli.progress import count_progress
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.analysis import analyse
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.record.results import Results, ResultsWriter, Run, read_results
from edge_mtp.harness.run.bench import MOST_DEATHS, WARM_UP_TOKENS, Schedule, bench, shape
from edge_mtp.harness.run.progress import RunProgress
from edge_mtp.harness.run.sensor_log import Clock

Asked = tuple[str, str, int]  # arm, item, round


class FakeClock(Clock):
    """Time passes only in answers and naps."""

    def __init__(self, at_s: float = 0.0) -> None:
        self.at_s = at_s

    def now(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class Fake(Answerer):
    """Dies of the questions in `deadly`; `stillborn` from then on it cannot be started again."""

    def __init__(
        self, label: str, clock: FakeClock, deadly: frozenset[Asked] = frozenset(), *, stillborn: bool = False
    ) -> None:
        self.arm = Arm(label, "b.litertlm")
        self.log: list[tuple[str, int, int]] = []  # item, round, most tokens
        self.revivals = 0
        self._clock = clock
        self._deadly = deadly
        self._stillborn = stillborn
        self._alive = True

    @property
    def is_alive(self) -> bool:
        return self._alive

    def revive(self) -> None:
        if self._stillborn:
            raise EdgeMtpError("it does not start; mend it")
        self.revivals += 1
        self._alive = True

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        assert self._alive, "a dead answerer was asked"
        most = item.max_tokens or max_tokens
        self.log.append((item.id, round, most))
        for turn in range(len(item.turns)):
            at_s = self._clock.now()
            self._clock.sleep(0.25)
            dies = (self.arm.label, item.id, round) in self._deadly and turn == len(item.turns) - 1
            self._alive = not dies
            finish, error = ("crash", "it ended") if dies else ("stop", None)
            yield Answer(self.arm.label, item.id, turn, round, at_s, "", finish, count=1, total_us=1.0, error=error)  # type: ignore[arg-type]


def items_of(turns: Sequence[int], kind: str = "chat") -> list[Item]:
    return [
        Item(f"i{n}", kind, f"i{n}", tuple(Turn(({"role": "user", "content": "Hi"},)) for _ in range(count)))
        for n, count in enumerate(turns)
    ]


def run_of(arms: Sequence[Arm]) -> Run:
    return Run("bench", "edge-mtp bench", "", {}, list(arms), arms[0].label, {}, {}, "made", {})


class Bench:
    """A results file, and runs that write to it."""

    def __init__(self, folder: Path, labels: Sequence[str], items: Sequence[Item], deadly: frozenset[Asked]) -> None:
        self.path = folder / "results.jsonl"
        self.items = items
        self.clock = FakeClock()
        self.answerers = [Fake(label, self.clock, deadly) for label in labels]

    def run(self, schedule: Schedule, **options: Any) -> Results:
        answered: list[Answer] = []
        if self.path.exists():
            answered = read_results(self.path).answers
            writer = ResultsWriter.resume(self.path)
        else:
            run = run_of([answerer.arm for answerer in self.answerers])
            writer = ResultsWriter.create(self.path, run, {item.id: item for item in self.items})
        with writer:
            bench(self.answerers, self.items, writer, schedule, clock=self.clock, answered=answered, **options)
        return read_results(self.path)


def asked(answers: Sequence[Answer]) -> list[Asked]:
    """The questions in the order in which they were asked."""
    return list(dict.fromkeys((answer.arm, answer.item, answer.round) for answer in answers))


LABELS = st.integers(1, 4).map(lambda count: [f"arm {n}" for n in range(count)])
TURNS = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@given(LABELS, TURNS, st.integers(1, 4))
def test_every_arm_answers_every_prompt_equally_often_in_a_fair_order(
    labels: list[str], turns: list[int], rounds: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = Bench(Path(folder), labels, items_of(turns), frozenset()).run(Schedule(rounds, 64))
    order = asked(found.answers)
    assert Counter(order) == Counter(
        {(label, item.id, round): 1 for label in labels for item in items_of(turns) for round in range(rounds)}
    )
    assert len(found.answers) == len(labels) * sum(turns) * rounds
    # All arms answer one prompt before any answers the next one.
    groups = [list(group) for _, group in itertools.groupby(order, lambda question: question[1:])]
    assert {len(group) for group in groups} == {len(labels)}
    by_prompt: dict[str, list[list[str]]] = {}
    for group in groups:
        by_prompt.setdefault(group[0][1], []).append([arm for arm, _, _ in group])
    for orders in by_prompt.values():
        for one, other in itertools.pairwise(orders):
            assert one == other[::-1]
    # ABBA also from prompt to prompt of a round: in one round, too, a drift falls on all arms alike.
    for one, other in itertools.pairwise(groups[: len(turns)]):
        assert [arm for arm, _, _ in one] == [arm for arm, _, _ in other][::-1]


@given(LABELS, TURNS, st.integers(1, 3), st.data())
def test_a_run_that_was_cut_goes_on_to_the_same_records(
    labels: list[str], turns: list[int], rounds: int, data: st.DataObject
) -> None:
    questions = [(label, f"i{n}", round) for label in labels for n in range(len(turns)) for round in range(rounds)]
    deadly = frozenset(data.draw(st.lists(st.sampled_from(questions), max_size=MOST_DEATHS - 1)))
    schedule = Schedule(rounds, 64, warm_up=0)
    with tempfile.TemporaryDirectory() as folder:
        uncut = Bench(Path(folder), labels, items_of(turns), deadly)
        whole = uncut.run(schedule)
        content = uncut.path.read_bytes()
        header = sum(len(line) for line in content.splitlines(keepends=True)[: 1 + len(turns)])
        uncut.path.write_bytes(content[: data.draw(st.integers(header, len(content)))])
        again = Bench(Path(folder), labels, items_of(turns), deadly)
        resumed = again.run(schedule)

    def records(results: Results) -> Counter[tuple[Any, ...]]:
        return Counter((a.arm, a.item, a.turn, a.round, a.finish) for a in results.answers)

    assert records(resumed) == records(whole)
    assert all(len(answerer.log) <= len(turns) * rounds for answerer in again.answerers)


def test_a_run_that_is_complete_asks_nothing(tmp_path: Path) -> None:
    Bench(tmp_path, ["a", "b"], items_of([1, 2]), frozenset()).run(Schedule(2, 64))
    again = Bench(tmp_path, ["a", "b"], items_of([1, 2]), frozenset())
    again.run(Schedule(2, 64))
    assert [answerer.log for answerer in again.answerers] == [[], []]


@given(LABELS, TURNS, st.data())
def test_a_crash_is_an_answer_and_the_run_goes_on(labels: list[str], turns: list[int], data: st.DataObject) -> None:
    questions = [(label, f"i{n}", round) for label in labels for n in range(len(turns)) for round in range(2)]
    deadly = frozenset(data.draw(st.lists(st.sampled_from(questions), max_size=MOST_DEATHS - 1)))
    with tempfile.TemporaryDirectory() as folder:
        run = Bench(Path(folder), labels, items_of(turns), deadly)
        found = run.run(Schedule(2, 64, warm_up=0))
    assert sorted(asked(found.answers)) == sorted(questions)
    assert {(a.arm, a.item, a.round) for a in found.answers if a.finish == "crash"} == deadly
    for answerer in run.answerers:
        mine = sum(question[0] == answerer.arm.label for question in deadly)
        assert mine - 1 <= answerer.revivals <= mine  # after the last question nobody needs it


def test_an_arm_that_dies_again_and_again_is_given_up_alone(tmp_path: Path) -> None:
    items = items_of([1] * 10)
    deadly = frozenset(("bad", item.id, round) for item in items for round in range(2))
    run = Bench(tmp_path, ["good", "bad"], items, deadly)
    told: list[str] = []

    class Told(RunProgress):
        def note(self, line: str) -> None:
            told.append(line)

    found = run.run(Schedule(2, 64, warm_up=0), progress=Told())
    assert len(found.of("good")) == 20
    assert [answer.finish for answer in found.of("bad")] == ["crash"] * MOST_DEATHS
    assert any("not asked any more" in line for line in told)


@pytest.mark.parametrize("warm_up", [0, 1])
def test_a_run_whose_arms_all_die_ends(tmp_path: Path, warm_up: int) -> None:
    items = items_of([1] * 10)
    run = Bench(tmp_path, ["bad"], items, frozenset(("bad", item.id, 0) for item in items))
    with pytest.raises(EdgeMtpError, match="every arm ended 3 times in a row"):
        run.run(Schedule(2, 64, warm_up=warm_up))


def test_an_engine_that_cannot_be_started_again_is_bounded(tmp_path: Path) -> None:
    run = Bench(tmp_path, ["good"], items_of([1] * 8), frozenset())
    run.answerers.append(Fake("bad", run.clock, frozenset({("bad", "i0", 0)}), stillborn=True))
    found = run.run(Schedule(1, 64, warm_up=0))
    assert len(found.of("good")) == 8
    assert [answer.error for answer in found.of("bad")] == ["it ended"]  # the others were never asked


def test_warm_up_is_a_short_answer_to_each_shape_that_nobody_counts(tmp_path: Path) -> None:
    items = [*items_of([1, 1]), *(Item(f"t{n}", "tool_call", "t", items_of([1])[0].turns) for n in range(2))]
    assert len({shape(item) for item in items}) == 2
    run = Bench(tmp_path, ["a", "b"], items, frozenset())
    found = run.run(Schedule(1, 100, warm_up=3))
    for answerer in run.answerers:
        assert Counter(answerer.log[:6]) == {("i0", 0, WARM_UP_TOKENS): 3, ("t0", 0, WARM_UP_TOKENS): 3}
        assert [most for _, _, most in answerer.log[6:]] == [100] * 4
    assert len(found.answers) == 8


def test_a_prompt_has_the_shape_of_others_with_its_kind_tools_and_length() -> None:
    def made(kind: str = "chat", text: str = "x" * 40, tools: Sequence[dict[str, Any]] = ()) -> tuple[Any, ...]:
        return shape(Item("i", kind, "i", (Turn(({"role": "user", "content": text},)),), tools))

    assert made() == made(text="y" * 50)
    assert len({made(), made("code"), made(text="x" * 400), made(tools=[{"name": "t"}])}) == 4


@given(LABELS, TURNS, st.floats(0.1, 20), st.floats(0, 20))
def test_a_sustained_run_lasts_its_time_and_asks_all_arms_equally(
    labels: list[str], turns: list[int], seconds: float, before: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Bench(Path(folder), labels, items_of(turns), frozenset())
        run.clock.at_s = before
        found = run.run(Schedule(1, 64, warm_up=0, cool_down_s=9, sustained_s=seconds))
    assert not found.pauses
    assert len({len(found.of(label)) for label in labels}) == 1
    ends = run.clock.at_s
    assert ends >= seconds
    assert ends == before or ends < seconds + 0.25 * max(turns) * len(labels)  # what was begun is finished


def test_cool_down_lies_before_every_answer_and_is_told(tmp_path: Path) -> None:
    found = Bench(tmp_path, ["a", "b"], items_of([1, 1]), frozenset()).run(Schedule(1, 64, cool_down_s=5))
    assert [(pause.device, pause.seconds, pause.reason) for pause in found.pauses] == [("host", 5, "cool-down")] * 4
    starts = [answer.at_s for answer in found.answers]
    assert all(pause.at_s + 5 <= start for pause, start in zip(found.pauses, starts, strict=True))


def test_what_prepares_a_question_comes_before_it(tmp_path: Path) -> None:
    run = Bench(tmp_path, ["a", "b"], items_of([1, 2]), frozenset())
    prepared: list[Asked] = []

    def prepare(answerer: Answerer, item: Item, round: int) -> None:
        prepared.append((answerer.arm.label, item.id, round))
        assert item.max_tokens is None  # the whole prompt, in warm-up too

    found = run.run(Schedule(2, 64), prepare=prepare)
    assert prepared[-8:] == asked(found.answers)


# From here on with the tiny model.


def command(*words: str | Path) -> Any:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, tiny_split: list[dict[str, Any]]) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "six.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in tiny_split[:6]))
    return path


def test_arms_of_both_engines_side_by_side(tmp_path: Path, prompts: Path, tiny_bundle: Path) -> None:
    output = tmp_path / "results.jsonl"
    options = ["--workload", prompts, "--bundle", tiny_bundle, "--mtp", "off,auto,3", "--engine", "ours,litert-lm"]
    result = command(*options, "--threads", 1, "--rounds", 2, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    found = read_results(output)
    assert len(found.run.arms) == 5
    assert {(arm.engine, arm.mtp) for arm in found.run.arms} == {
        ("ours", "off"), ("ours", "auto"), ("ours", 3), ("litert-lm", "off"), ("litert-lm", "auto")
    }  # fmt: skip
    assert Counter(answer.arm for answer in found.answers) == {arm.label: 12 for arm in found.run.arms}
    texts: dict[str, set[str]] = {}
    for answer in found.answers:
        assert answer.is_complete
        assert 0 < answer.prefill_us <= answer.first_token_us <= answer.total_us
        assert answer.count == sum(step.tokens for step in answer.steps)
        texts.setdefault(answer.item, set()).add(answer.text)
    assert [len(told) for told in texts.values()] == [1] * 6  # drafts never change the text
    assert found.samples
    shown = json.loads(result.stdout)
    assert shown["results"] == str(output)
    assert {latency["arm"] for latency in shown["latencies"]} == {arm.label for arm in found.run.arms}
    assert command(*options, "--threads", 1, "--rounds", 2, "-o", output).exit_code == 1  # it is there already


def test_simulated_acceptance_is_what_was_asked_for_and_said_to_be(
    tmp_path: Path, tiny_bundle: Path, tiny_split: list[dict[str, Any]]
) -> None:
    """Of K drafts, each right with probability A, A + ... + A^K are accepted on average."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(item) + "\n" for item in tiny_split[:40]))
    output = tmp_path / "results.jsonl"
    result = command(
        "--workload", prompts, "--bundle", tiny_bundle, "--mtp", "off,3", "--constrained", "off",
        "--simulate-acceptance", 0.7, "--rounds", 2, "--warm-up", 0, "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "SIMULATED" in result.stdout
    found = read_results(output)
    assert found.run.simulated == 0.7
    by_text = {answer.item: answer.text for answer in found.of("mtp off")}
    assert all(answer.text == by_text[answer.item] for answer in found.of("mtp 3"))
    # The last step of a reply has no more than what was left of it to accept.
    steps = [step for answer in found.of("mtp 3") for step in answer.steps[:-1] if step.kind == "v"]
    assert len(steps) > 200
    mean = sum(step.accepted for step in steps) / len(steps)
    assert mean == pytest.approx(0.7 + 0.7**2 + 0.7**3, abs=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--simulate-acceptance", "0.5", "--engine", "ours,litert-lm"], "the drafts of litert-lm cannot be chosen"),
        (["--simulate-acceptance", "0.5", "--mtp", "off"], "no arm drafts"),
        (["--engine", "litert-lm", "--mtp", "auto", "--temperature", "1"], "ignores the temperature"),
        (["--mtp", "off,99"], "arm 'mtp 99': draft length 99 is beyond the"),
        (["--mtp", "off", "--draft-sources", "lookup"], "no arm drafts, so none drafts from lookup drafts"),
        (["--draft-sources", "oracle"], "'oracle' are no sources of drafts"),
        (["--engine", "litert-lm", "--calls", "single"], "litert-lm cannot be held to single calls"),
        (["--calls", "single", "--constrained", "off"], "single calls hold by the tools' grammar"),
        (["--thinking", "maybe"], "--thinking 'maybe' is none of auto, on, off"),
        (["--workload", "juggling"], "workload 'juggling' is unknown"),
        (["--baseline", "nobody"], "no arm is called 'nobody'"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_leaves_no_file(
    tmp_path: Path, tiny_bundle: Path, options: list[str], message: str
) -> None:
    result = command("--bundle", tiny_bundle, "--limit", 1, "-o", tmp_path / "results.jsonl", *options)
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_in_which_an_arm_refused_everything_has_failed(tmp_path: Path) -> None:
    """It says why, says nothing else of the arm, and does not end with status 0; nor does a rule pass it by."""
    made = synthetic_results(2, kind="eval", arms=ARMS[:2], items=8, crashes=0)
    arm = made.run.arms[1].label
    reason = "draft length 99 is beyond the 7\x1b[2J"
    answers = [
        replace(each, finish="refused", error=reason, text="") if each.arm == arm else each for each in made.answers
    ]
    path = tmp_path / "r.jsonl"
    with ResultsWriter.create(path, made.run, made.items) as writer:
        for answer in answers:
            writer.write(answer)
    told = CliRunner().invoke(click.command()(lambda: tell(path, as_json=False)))
    assert isinstance(told.exception, EdgeMtpError)
    assert "refused everything: draft length 99" in str(told.exception)
    assert f"{arm} refused everything that it was asked" in " ".join(told.stdout.split())
    assert "\x1b" not in told.stdout
    analysis = analyse(read_results(path))
    assert arm not in {each.arm for each in analysis.calls} | {each.arm for each in analysis.comparisons}
    result = CliRunner().invoke(main, ["compare", str(path), "--fail-if", "toolcall.error > 50%"])
    assert (result.exit_code, "refused everything" in result.stderr) == (1, True), result.stderr


def test_progress_ends_at_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with count_progress("questions") as tell_of:
        for done in range(61):
            tell_of(done, 60)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"questions: {done} of 60" for done in range(0, 61, 6)]


@given(LABELS, TURNS)
def test_progress_of_a_run_ends_at_all_of_it(labels: list[str], turns: list[int]) -> None:
    told: list[tuple[float, float]] = []

    class Told(RunProgress):
        def step(self, done: float, total: float, what: str) -> None:
            told.append((done, total))

    with tempfile.TemporaryDirectory() as folder:
        Bench(Path(folder), labels, items_of(turns), frozenset()).run(Schedule(1, 64, warm_up=0), progress=Told())
    assert [done for done, total in told if done >= total] == [1]
    assert told[-1] == (1, 1)


@pytest.mark.parametrize("option", [["--rounds", "2"], ["--cool-down", "1"], ["--thermal", "off"]])
def test_a_sustained_run_has_neither_rounds_nor_pauses(option: list[str]) -> None:
    result = command("--sustained", 1, *option)
    assert result.exit_code == 2
    assert f"so {option[0]} contradicts it" in result.stderr


@pytest.mark.parametrize("value", ["hot", "=40", "skin=", "0", "-3", "nan", "500"])
def test_a_temperature_that_is_none_is_refused(value: str) -> None:
    result = command("--max-temperature", value)
    assert (result.exit_code, "is not [SENSOR=]CELSIUS" in result.stderr) == (2, True)


@pytest.mark.parametrize("verb", [["bench", "--workload"], ["eval", "--suite"]])
def test_an_item_that_is_there_twice_is_refused(verb: list[str], tmp_path: Path, tiny_bundle: Path) -> None:
    """By its id, under which its answers are told apart; before anything is written."""
    name, option = verb
    words = [option, "tiny", option, "tiny", "--limit", 1, "--bundle", tiny_bundle, "-o", tmp_path / "r.jsonl"]
    result = CliRunner().invoke(main, [name, *map(str, words)])
    assert (result.exit_code, "is there twice" in result.stderr) == (1, True), result.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_run_is_not_gone_on_with(tmp_path: Path, prompts: Path, tiny_bundle: Path) -> None:
    output = tmp_path / "results.jsonl"
    base = ["--workload", prompts, "--bundle", tiny_bundle, "--rounds", 1, "--limit", 2, "-o", output]
    assert command(*base).exit_code == 0
    before = output.read_bytes()
    for changed, message in (
        (["--max-tokens", 9], "max_tokens was 256 and is 9"),
        (["--mtp", "off,2"], "the arms were mtp off, mtp auto and are mtp off, mtp 2"),
        (["--mtp", "off,auto", "--warm-up", 2], "warm_up was 1 and is 2"),
    ):
        result = command(*base, *changed, "--resume")
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    lines = prompts.read_text().splitlines(keepends=True)
    prompts.write_text("".join([lines[1], lines[0], *lines[2:]]).replace("to Fea?", "to Foa?"))
    try:
        result = command(*base, "--resume")
    finally:
        prompts.write_text("".join(lines))
    assert (result.exit_code, "are of other prompts" in result.stderr) == (1, True), result.stderr
    assert output.read_bytes() == before
    assert command(*base, "--resume").exit_code == 0
    assert len(read_results(output).answers) == 4


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_ctrl_c_leaves_a_file_that_can_be_gone_on_with(tmp_path: Path, prompts: Path, tiny_bundle: Path) -> None:
    """At a terminal it reaches the runners too: what they then do not answer is no crash of theirs."""
    output = tmp_path / "results.jsonl"
    words = ["--workload", prompts, "--bundle", tiny_bundle, "--rounds", 100_000, "-o", output]
    started = subprocess.Popen(
        [sys.executable, "-c", "from edge_mtp.cli import main; main()", "bench", *map(str, words)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        patience = time.monotonic() + 60
        while not (output.exists() and output.stat().st_size > 40_000):
            assert started.poll() is None, started.stderr
            assert time.monotonic() < patience
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate(timeout=60)
    assert (started.returncode, out) == (130, "")
    assert f"go on with --resume -o {output}" in err
    answers = read_results(output).answers
    assert answers
    assert all(answer.is_complete for answer in answers)
