"""`edge-mtp compare`: planted changes are found and named, equal results are not; what is wrong is said in a line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_results import BUNDLES, synthetic_results

from edge_mtp.cli import main
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.analyse import analysis, calls, latency, pairwise, partings, speed_up
from edge_mtp.harness.analyse.analysis import Analysis, analyse
from edge_mtp.harness.analyse.analysis_file import read_summary
from edge_mtp.harness.analyse.compare import Versus
from edge_mtp.harness.analyse.judging import judge
from edge_mtp.harness.analyse.matching import Pair
from edge_mtp.harness.analyse.metrics import METRICS
from edge_mtp.harness.analyse.notes import notes as notes_of
from edge_mtp.harness.analyse.rules import Verdict, parse_rule
from edge_mtp.harness.analyse.side import Side
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.arm import Arm, cross
from edge_mtp.harness.record.results import Pause, Results, ResultsWriter, Run, Sample
from edge_mtp.harness.score import drafter_fit, score
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate

DOCS = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8")
FP32 = next(iter(BUNDLES))
ARMS = tuple(cross([{"bundle": FP32}], {"mtp": ("off", "auto")}))
OFF, AUTO = (arm.label for arm in ARMS)
assert (OFF, AUTO) == ("mtp off", "mtp auto")

Changed = Callable[[Answer], Answer]


def made(kind: Any = "bench", items: int = 42, **how: Any) -> Results:
    return synthetic_results(0, kind=kind, arms=ARMS, items=items, crashes=0, **how)


def changed(results: Results, change: Changed, arms: Sequence[str] = (OFF, AUTO)) -> Results:
    return replace(results, answers=[change(each) if each.arm in arms else each for each in results.answers])


def slowed(answer: Answer, factor: float) -> Answer:
    """All times multiplied."""
    steps = [step._replace(total_us=step.total_us * factor) for step in answer.steps]
    call_us = None if answer.call_us is None else answer.call_us * factor
    return replace(
        answer,
        first_token_us=answer.first_token_us * factor,
        prefill_us=answer.prefill_us * factor,
        total_us=answer.total_us * factor,
        call_us=call_us,
        steps=steps,
    )


def noisy(results: Results, factor: float = 1.0, arms: Sequence[str] = (OFF, AUTO), seed: int = 5) -> Results:
    """The same run on another day: each answer's speed varies by 2 %, and those of `arms` take `factor` as long."""
    generator = np.random.default_rng(seed)
    noise = iter(generator.lognormal(0.0, 0.02, len(results.answers)).tolist())
    again = changed(results, lambda answer: slowed(answer, next(noise)))
    return changed(again, lambda answer: slowed(answer, factor), arms)


def flipped(answer: Answer, every: int) -> Answer:
    """The last digit of an argument changed in the calls of one item of `every`."""
    if int(answer.item.rpartition("-")[2]) % every != 1:
        return answer
    return replace(answer, text=re.sub(r"\d(?=})", lambda digit: str((int(digit[0]) + 1) % 10), answer.text))


def written(path: Path, results: Results) -> str:
    with ResultsWriter.create(path, results.run, results.items) as writer:
        for record in (*results.answers, *results.samples, *results.pauses):
            writer.write(record)
    return str(path)


def summarised(path: Path, results: Results) -> str:
    path.write_text(json.dumps(analyse(results).to_json(), indent=1), "utf-8")
    return str(path)


def compare(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def failing(*rules: str) -> list[str]:
    return [part for rule in rules for part in ("--fail-if", rule)]


def told(a: Results | Analysis, b: Results | Analysis, rule: str, arms: Sequence[str] = ()) -> dict[str, Verdict]:
    """The verdict on each arm."""
    judged = judge(Versus(Side("a", a), Side("b", b), arms), parse_rule(rule))
    return {each.arm: each.verdict for each in judged.judgements}


TRIGGERED, NOT, UNTOLD = Verdict.TRIGGERED, Verdict.NOT_TRIGGERED, Verdict.CANNOT_TELL


@pytest.fixture(scope="module")
def bench() -> Results:
    return made()


@pytest.fixture(scope="module")
def suite() -> Results:
    return made("eval", items=200)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, bench: Results) -> tuple[str, str]:
    """A base, and a result in which the arm that drafts is 3 % slower."""
    folder = tmp_path_factory.mktemp("files")
    return written(folder / "a.jsonl", bench), written(folder / "b.jsonl", noisy(bench, 1.03, [AUTO]))


# -- exit statuses --------------------------------------------------------------------------------------------------


def test_no_rule_holds(files: tuple[str, str]) -> None:
    result = compare(*files, *failing("speedup < 1.0"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS: 0 of 1 rule triggered\n")
    assert compare(*files).exit_code == 0


def test_a_rule_holds(files: tuple[str, str]) -> None:
    result = compare(*files, *failing("speedup < 1.0", "speed < 0.99"))
    assert result.exit_code == 3, result.output
    assert "  triggered: speed < 0.99" in result.stdout
    assert result.stdout.startswith("FAIL: 1 of 2 rules triggered\n")


def test_a_rule_that_cannot_be_told(files: tuple[str, str]) -> None:
    rule = failing("same_text < 100%")
    assert compare(*files, *rule).exit_code == 0
    assert compare(*files, *rule, "--strict").exit_code == 4
    assert compare(*files, *rule, *failing("speed < 0.99"), "--strict").exit_code == 3
    assert compare(*files, *failing("same_text.value < 100%"), "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (failing("sped < 1"), "character 1"),
        (failing("speed < +1%"), "drop the sign"),
        (["--json", "--markdown"], "contradict"),
        (["another.jsonl"], "3 files"),
    ],
)
def test_wrong_usage(files: tuple[str, str], arguments: list[str], words: str) -> None:
    result = compare(*files, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (failing("decode@mtp 3 < 1"), "no arm 'mtp 3'; its arms are 'mtp off', 'mtp auto'"),
        (failing("decode#poem < 1"), "no items of kind 'poem'; its kinds are 'chat'"),
        (failing("toolcall.error > +1pp"), "not measured"),
        (failing("energy > 1mJ"), "not measured"),
        (failing("speedup@mtp off < 1"), "needs an arm that drafts and its plain sibling"),
        (failing("memory.rss.high > 1GB"), "no interval"),
        (failing("acceptance[1]@mtp off < 0.5"), "of arm 'mtp off' was not measured"),
        (["--arm", "mtp 3=mtp auto"], "is not A_LABEL=B_LABEL"),
        (["--arm", "mtp off=mtp auto", "--arm", "mtp auto=mtp auto"], "twice"),
        (["--arm", "mtp off=mtp auto", *failing("decode@mtp off < -1%")], "no arm of A is matched"),
    ],
)
def test_what_is_not_there(files: tuple[str, str], arguments: list[str], words: str) -> None:
    result = compare(*files, *arguments)
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


# -- files that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "\n", "nonsense", "[]", "{}", "{", '{"event": "answer"}\n', '"run"', "\xff\xfe"]
)
def test_what_is_no_result(tmp_path: Path, files: tuple[str, str], content: str) -> None:
    path = tmp_path / "no result.json"
    path.write_text(content, "latin-1")
    for order in ((str(path), files[1]), (files[0], str(path)), (str(path),)):
        result = compare(*order)
        assert result.exit_code == 1, result.output
        assert "no result.json" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path, files: tuple[str, str]) -> None:
    result = compare(files[0], str(tmp_path / "none.jsonl"))
    assert result.exit_code == 1
    assert "none.jsonl" in result.stderr


def test_another_schema(tmp_path: Path, bench: Results) -> None:
    lines = written(tmp_path / "a.jsonl", bench), summarised(tmp_path / "a.json", bench)
    for path in map(Path, lines):
        path.write_text(re.sub(r'"schema": ?1', '"schema":2', path.read_text("utf-8"), count=1), "utf-8")
        result = compare(str(path))
        assert result.exit_code == 1
        assert "schema" in result.stderr


def test_truncated_files(tmp_path: Path, bench: Results) -> None:
    whole = Path(written(tmp_path / "a.jsonl", bench)).read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole[: len(whole) * 2 // 3])  # within an answer, which is then none
    assert compare(str(cut)).exit_code == 0
    result = compare(str(tmp_path / "a.jsonl"), str(cut))
    assert result.exit_code == 0
    summary = Path(summarised(tmp_path / "a.json", bench))
    summary.write_bytes(summary.read_bytes()[:-100])
    result = compare(str(summary))
    assert result.exit_code == 1
    assert "is not JSON" in result.stderr


def test_a_summary_is_read_as_it_was_written(tmp_path: Path, bench: Results, suite: Results) -> None:
    for name, results in (("bench.json", bench), ("eval.json", suite)):
        assert read_summary(summarised(tmp_path / name, results)) == analyse(results)


def test_an_interval_without_an_end_is_json_all_the_same(tmp_path: Path) -> None:
    analysed = analyse(made("bench", items=2))
    assert any(math.isinf(each.ratio.high) for each in analysed.speed_ups)
    text = json.dumps(analysed.to_json(), allow_nan=False)
    (tmp_path / "few.json").write_text(text)
    assert read_summary(tmp_path / "few.json") == analysed


@pytest.fixture(scope="module")
def summary_text() -> str:
    return json.dumps(analyse(made("eval", items=12)).to_json())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_summary_is_refused_in_a_line(tmp_path: Path, summary_text: str, data: st.DataObject) -> None:
    value = json.loads(summary_text)
    at: Any = value
    path = []
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append(key)
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    if data.draw(st.booleans()):
        del at[path[-1]]
    else:
        at[path[-1]] = data.draw(st.sampled_from([None, "x", -1, 0.5, True, [], {}, [1], {"a": 1}]))
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(value), "utf-8")
    try:
        read_summary(file)
    except EdgeMtpError as error:
        line = str(error)
    else:
        return  # what was damaged may be anything, such as a setting
    assert "damaged.json" in line
    assert "\n" not in line


# -- planted changes ------------------------------------------------------------------------------------------------


def test_an_arm_3_percent_slower_is_found(bench: Results) -> None:
    slower = noisy(bench, 1.03, [AUTO])
    assert told(bench, slower, "speed < 0.99") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "decode < -1%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "first_token > +1%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "call > +1%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "speed.total < 0.99") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "token.p95 > +1%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "prefill < -1%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, slower, "speedup < -1%") == {AUTO: TRIGGERED}
    assert told(bench, slower, "speed < 0.95") == {OFF: NOT, AUTO: NOT}
    assert told(slower, bench, "speed < 1.0") == {OFF: UNTOLD, AUTO: NOT}


def test_a_drift_of_the_machine_is_in_speed_and_not_in_the_speed_up(bench: Results) -> None:
    drifted = noisy(bench, 1.2)
    assert told(bench, drifted, "speed < 0.9") == {OFF: TRIGGERED, AUTO: TRIGGERED}
    assert told(bench, drifted, "speedup < -2%") == {AUTO: NOT}
    versus = Versus(Side("a", bench), Side("b", drifted))
    assert any("not interleaved" in note for note in notes_of(versus))


def test_a_corrupted_drafter_is_slower_and_says_the_same(bench: Results) -> None:
    corrupted = made(acceptance={AUTO: 0.02})
    assert told(bench, corrupted, "speedup < -10%") == {AUTO: TRIGGERED}
    assert told(bench, corrupted, "acceptance[1] < -50pp") == {AUTO: TRIGGERED}
    assert told(bench, corrupted, "acceptance[1] < 0.1") == {AUTO: TRIGGERED}
    assert told(bench, corrupted, "tokens_per_verify < -10%") == {AUTO: TRIGGERED}
    assert told(bench, corrupted, "same_text.value < 100%") == {AUTO: NOT}
    assert told(bench, corrupted, "changed_text.value > 0%") == {OFF: NOT, AUTO: NOT}


def test_flipped_digits_are_found_and_named(suite: Results) -> None:
    wrong = changed(suite, lambda answer: flipped(answer, 6), [AUTO])
    assert told(suite, wrong, "toolcall.error > +1pp") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(suite, wrong, "toolcall.exact < -1pp") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(suite, wrong, "toolcall.error.digit_corruption > +1pp") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(suite, wrong, "toolcall.error.wrong_quote > +1pp")[OFF] == NOT
    assert told(suite, wrong, "changed_text > 0%") == {OFF: UNTOLD, AUTO: TRIGGERED}
    assert told(suite, wrong, "same_text < 100%") == {AUTO: TRIGGERED}
    assert told(suite, wrong, "same_text < -1pp") == {AUTO: TRIGGERED}
    versus = Versus(Side("a", suite), Side("b", wrong))
    said = versus.comparison(Pair(AUTO, AUTO))
    assert said is not None
    assert said.verdict == "worse"
    # The same of one run: MTP against plain decoding.
    assert told_alone(wrong, "toolcall.error > +1pp") == {AUTO: TRIGGERED}
    assert told_alone(suite, "toolcall.error > +1pp") == {AUTO: NOT}


def told_alone(results: Results | Analysis, rule: str, arms: Sequence[str] = ()) -> dict[str, Verdict]:
    side = Side("run", results)
    return {each.arm: each.verdict for each in judge(Versus(side, side, arms), parse_rule(rule)).judgements}


def test_crashes_are_found(suite: Results) -> None:
    def crash(answer: Answer) -> Answer:
        if int(answer.item[-1]) % 3:
            return answer
        return replace(answer, text="", finish="crash", error="signal 11", tokens=[], steps=[], call_us=None)

    crashed = changed(suite, crash, [AUTO])
    assert told(suite, crashed, "failed > +5pp") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(suite, crashed, "failed > 5%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(suite, crashed, "toolcall.error.crash > +5pp") == {OFF: NOT, AUTO: TRIGGERED}


def test_more_memory_is_found(bench: Results) -> None:
    larger = changed(bench, lambda answer: replace(answer, rss_bytes=2 * (answer.rss_bytes or 0)), [AUTO])
    assert told(bench, larger, "memory.rss > +99%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, larger, "memory.rss > +250MB") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, larger, "memory.anonymous > +1%") == {OFF: NOT, AUTO: NOT}


def test_answers_of_one_item_fail_together(bench: Results) -> None:
    """An item that crashes in each round is one of the items that there are, not one of as many as there are rounds."""
    doomed = next(iter(bench.items))
    answers = [
        replace(each, finish="crash", error="gone") if (each.arm, each.item) == (AUTO, doomed) else each
        for each in bench.answers
    ]
    side = Side("a", replace(bench, answers=answers))
    (judged,) = judge(Versus(side, side), parse_rule(f"failed@{AUTO} > 0%")).judgements
    assert isinstance(judged.figure, Estimate)
    items = len({each.item for each in bench.of(AUTO)})
    of_items = statistics.share([1] + [0] * (items - 1), [1] * items)
    assert judged.figure.high - judged.figure.low > 0.8 * (of_items.high - of_items.low)


@pytest.mark.parametrize("rule", ["speedup < 1", "speed < 1", "slower > 50%", "decode < 1", "first_token > +1%"])
def test_an_eval_has_no_speed(bench: Results, suite: Results, rule: str) -> None:
    """It is left out of tables, and a rule on it is refused in a line; what does not depend on speed is judged."""
    for a, b in ((suite, suite), (bench, suite)):
        versus = Versus(Side("a", a), Side("b", b))
        with pytest.raises(EdgeMtpError, match="eval does not measure speed; give results of edge-mtp bench"):
            judge(versus, parse_rule(rule))
        shown = {row.metric for pair in versus.pairs for row in versus.rows(pair)}
        assert shown
        assert not [name for name in shown if METRICS[name.removesuffix("[1]")].is_speed]
        assert [note for note in notes_of(versus) if "edge-mtp bench" in note]
        assert not [note for note in notes_of(versus) if "interleaved" in note]
    assert told(suite, suite, "failed > 99%") == told(suite, suite, "toolcall.error > +50pp") == {OFF: NOT, AUTO: NOT}


def test_what_an_eval_is_held_against_it_may_be_slow(bench: Results, suite: Results) -> None:
    """A rule on B's own speed needs no speed of A."""
    assert told(suite, bench, "decode < 0.01") == {OFF: NOT, AUTO: NOT}


@pytest.fixture(scope="module")
def equal() -> Versus:
    results = made("eval")
    results = replace(results, run=replace(results.run, kind="bench"))  # with calls and speed both
    return Versus(Side("a", results), Side("b", replace(results)))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_nothing_changes_between_equal_results(equal: Versus, name: str) -> None:
    metric = METRICS[name]
    if name == "energy" or "first_answer" in name:
        return  # no battery and no thoughts here; what is not measured is an error, tested above
    text = f"{name}[1]" if metric.has_position else name
    if metric.is_change:
        middle = "1" if metric.quantity.name == "factor" else "0"
        rules = [f"{text} < {middle}", f"{text} > {middle}"]
    else:
        unit = next(iter(metric.quantity.units))
        rules = [f"{text} < -0{unit}", f"{text} > +0{unit}", f"{text}.value < -0{unit}", f"{text}.value > +0{unit}"]
        if judge(equal, parse_rule(f"{text}.value > 0{unit}")).verdict == TRIGGERED:  # relative to something
            rules += [f"{text} < -0%", f"{text} > +0%"]
    for rule in rules:
        assert judge(equal, parse_rule(rule)).verdict != TRIGGERED, rule


def test_a_rule_that_a_single_arm_breaks_holds(bench: Results) -> None:
    side, slower = Side("a", bench), Side("b", noisy(bench, 1.03, [AUTO]))
    versus = Versus(side, slower)
    assert judge(versus, parse_rule("speed < 0.99")).verdict == TRIGGERED
    assert judge(versus, parse_rule("speed@mtp off < 0.99")).verdict == NOT
    assert judge(versus, parse_rule("speed > 1.0")).verdict == UNTOLD


# -- what is held against what --------------------------------------------------------------------------------------


def test_items_that_are_not_shared(bench: Results) -> None:
    """B lacks the last 12 items, and one of its items has another text: there and in the notes alone they count."""
    names = list(bench.items)
    kept = {name: item for name, item in bench.items.items() if name in names[:30]}
    kept[names[0]] = replace(kept[names[0]], max_tokens=7)
    other = replace(bench, items=kept, answers=[answer for answer in bench.answers if answer.item in kept])
    # Items that are not shared are ten times slower, which no figure of a change may tell.
    other = changed(other, lambda answer: slowed(answer, 10.0) if answer.item == names[0] else answer)
    versus = Versus(Side("a", bench), Side("b", other))
    notes = [note for note in notes_of(versus) if "items are shared" in note]
    assert notes == [
        "29 items are shared, of 42 in A and 30 in B; changes are of those alone. 1 more have the same name but "
        "other content."
    ]
    for rule in ("speed < 1.0", "decode < -0%", "first_token.p95 > +0%", "speedup < -0%"):
        assert TRIGGERED not in told(bench, other, rule).values()
    assert told(bench, other, "first_token.p99 > 1s") == {OFF: UNTOLD, AUTO: UNTOLD}  # B's own figure is of all of B


def test_results_without_a_common_item_are_compared_unpaired_if_asked(tmp_path: Path, bench: Results) -> None:
    renamed = Results(
        bench.run,
        {f"new-{name}": replace(item, id=f"new-{name}") for name, item in bench.items.items()},
        [replace(answer, item=f"new-{answer.item}") for answer in noisy(bench, 1.5, [AUTO]).answers],
    )
    versus = Versus(Side("a", bench), Side("b", renamed))
    assert not versus.is_paired
    assert any("nothing can be paired" in note for note in notes_of(versus))
    assert told(bench, renamed, "decode < -10%") == {OFF: NOT, AUTO: TRIGGERED}
    assert told(bench, renamed, "speed < 0.9") == {OFF: NOT, AUTO: TRIGGERED}
    with pytest.raises(EdgeMtpError, match="not measured in both"):
        told(bench, renamed, "changed_text > 0%")
    paths = written(tmp_path / "a.jsonl", bench), written(tmp_path / "b.jsonl", renamed)
    refused = compare(*paths, *failing("decode < -10%"))
    assert refused.exit_code == 1
    assert "share no items" in refused.stderr
    assert compare(*paths, *failing("decode < -10%"), "--unpaired").exit_code == 3


def test_a_run_that_was_cut_is_said_to_be(tmp_path: Path, bench: Results) -> None:
    cut = replace(bench, answers=bench.answers[:-3])
    paths = written(tmp_path / "a.jsonl", bench), written(tmp_path / "b.jsonl", cut)
    asked = len({(answer.arm, answer.item, answer.round) for answer in bench.answers})
    assert f"b.jsonl': Not complete: {asked - 3:,} of {asked:,} questions were answered." in compare(*paths).stdout
    notes = json.loads(compare(*paths, "--json").stdout)["notes"]
    assert [note for note in notes if "Not complete" in note and "b.jsonl" in note]
    assert not [note for note in notes if "a.jsonl" in note]


def test_summaries_find_what_is_large(bench: Results, suite: Results) -> None:
    a, b = analyse(bench), analyse(noisy(bench, 1.5, [AUTO]))
    for base, new in ((a, b), (bench, b), (a, noisy(bench, 1.5, [AUTO]))):
        assert told(base, new, "decode < -10%") == {OFF: NOT, AUTO: TRIGGERED}
        assert told(base, new, "speed < 0.9") == {OFF: NOT, AUTO: TRIGGERED}
        assert told(base, new, "speedup < -10%") == {AUTO: TRIGGERED}
        assert told(base, new, "first_token.p95 > +10%") == {OFF: NOT, AUTO: TRIGGERED}
        assert not Versus(Side("a", base), Side("b", new)).is_paired
    wrong = analyse(changed(suite, lambda answer: flipped(answer, 2), [AUTO]))
    assert told(analyse(suite), wrong, "toolcall.error > +1pp") == {OFF: UNTOLD, AUTO: TRIGGERED}
    assert told_alone(wrong, "toolcall.error > +1pp") == {AUTO: TRIGGERED}
    assert told_alone(analyse(suite), "same_text.value < 100%") == {AUTO: NOT}


def test_a_summary_alone_says_what_its_results_do(suite: Results) -> None:
    """The comparisons of one run are in its summary: the same figures, item by item or not."""
    results, summary = Side("run", suite), Side("run", analyse(suite))
    whole, short = Versus(results, results), Versus(summary, summary)
    assert whole.pairs == short.pairs == [Pair(OFF, AUTO)]
    for name, position, is_relative in (
        ("decode", None, True),
        ("call", None, True),
        ("toolcall.error", None, False),
        ("memory.rss", None, True),
        ("acceptance", 1, False),
    ):
        metric = METRICS[name]
        figures = [each.change(metric, whole.pairs[0], None, position, is_relative) for each in (whole, short)]
        assert figures[0] == figures[1]


def test_kinds_are_items_of_that_kind_alone(bench: Results, suite: Results) -> None:
    """Results are cut down to the kind, a summary is read where it tells of one: both say the same."""
    for results in (bench, suite):
        sides = Side("results", results), Side("summary", analyse(results))
        versus = [Versus(side, side) for side in sides]
        for kind in sides[0].kinds:
            for name in ("decode", "speedup", "toolcall.error", "tokens_per_verify", "failed"):
                figures = [
                    each.own(side, METRICS[name], AUTO, kind, None) for each, side in zip(versus, sides, strict=True)
                ]
                assert (figures[0] is None) == (figures[1] is None)
                if isinstance(figures[0], Estimate) and isinstance(figures[1], Estimate):
                    assert dataclasses.astuple(figures[0]) == pytest.approx(dataclasses.astuple(figures[1]))
        assert sides[0].kinds == sides[1].kinds


def test_plain_against_drafting_results(bench: Results) -> None:
    """Files of one arm each: without a plain sibling in B, A's arm stands in for it."""
    plain, drafting = (
        replace(bench, run=replace(bench.run, arms=[arm], baseline=arm.label), answers=bench.of(arm.label))
        for arm in ARMS
    )
    assert told(plain, drafting, "speedup < 1.0") == {AUTO: NOT}
    assert told(drafting, plain, "speedup < 1.0") == {OFF: TRIGGERED}
    assert told(plain, drafting, "same_text.value < 100%") == {AUTO: NOT}
    assert told(analyse(plain), analyse(drafting), "speedup < 1.0") == {AUTO: NOT}
    assert told(plain, drafting, "speedup < 1.0") == told(plain, drafting, "speed < 1.0")
    # Between the same arms within one run the ratio is the same.
    one = Versus(Side("a", plain), Side("b", drafting)).between(METRICS["speedup"], Pair(OFF, AUTO), None)
    side = Side("run", bench)
    assert one == Versus(side, side).own(side, METRICS["speedup"], AUTO, None, None)
    with pytest.raises(EdgeMtpError, match="drop the sign"):
        told(plain, drafting, "speedup < -1%")


def test_arms_by_name(bench: Results) -> None:
    assert told(bench, bench, "speed < 1.0", [f"{OFF}={AUTO}"]) == {AUTO: NOT}
    assert told(bench, bench, "speed < 1.0", [f"{AUTO}={OFF}"]) == {OFF: TRIGGERED}
    assert told_alone(bench, "decode > +1%", [f"{OFF}={AUTO}"]) == {AUTO: TRIGGERED}
    assert told_alone(bench, "decode < -1%", [f"{AUTO}={OFF}"]) == {OFF: TRIGGERED}


def test_labels_with_equal_signs(bench: Results) -> None:
    labels = {OFF: "mtp=off", AUTO: "mtp=auto"}
    arms = [replace(arm, label=labels[arm.label]) for arm in bench.run.arms]
    named = Results(
        replace(bench.run, arms=arms, baseline="mtp=off"),
        bench.items,
        [replace(answer, arm=labels[answer.arm]) for answer in bench.answers],
    )
    assert told(named, named, "speed < 1.0", ["mtp=off=mtp=auto"]) == {"mtp=auto": NOT}
    assert told(named, named, "speed@mtp=auto < 1.0") == {"mtp=auto": NOT}


def test_no_arm_in_common(bench: Results) -> None:
    arms = [replace(arm, label=f"new {arm.label}") for arm in bench.run.arms]
    renamed = replace(
        bench,
        run=replace(bench.run, arms=arms, baseline=arms[0].label),
        answers=[replace(answer, arm=f"new {answer.arm}") for answer in bench.answers],
    )
    with pytest.raises(EdgeMtpError, match="match them with --arm"):
        Versus(Side("a", bench), Side("b", renamed))
    versus = Versus(Side("a", bench), Side("b", renamed), [f"{AUTO}=new {AUTO}"])
    assert versus.pairs == [Pair(AUTO, f"new {AUTO}")]
    assert [note for note in notes_of(versus) if note.startswith("Only in")] == [
        f"Only in A: '{OFF}'.",
        f"Only in B: 'new {OFF}'.",
    ]


def test_runs_that_differ_are_said_to(bench: Results) -> None:
    run = bench.run
    fingerprint = {name: {**told, "battery_percent": 3} for name, told in run.devices.items()}
    same = replace(bench, run=replace(run, devices=fingerprint, started="2026-01-01T00:00:00+00:00"))
    assert len(notes_of(Versus(Side("a", bench), Side("b", same)))) == 1
    other = replace(
        bench,
        run=replace(
            run,
            settings={**run.settings, "max_tokens": 7},
            versions={**run.versions, "edge-mtp": "9"},
            devices={name: {**told, "model": "another"} for name, told in run.devices.items()},
            simulated=0.5,
        ),
    )
    notes = "\n".join(notes_of(Versus(Side("a", bench), Side("b", other))))
    assert "differ in max_tokens: 256 in A, 7 in B" in notes
    assert "differ in version of edge-mtp: 0.1.0 in A, 9 in B" in notes
    assert "differ in simulated acceptance: None in A, 0.5 in B" in notes
    assert "differ in what host is" in notes


# -- what is printed ------------------------------------------------------------------------------------------------


def test_json(files: tuple[str, str], bench: Results) -> None:
    rules = failing("speed < 0.99", "same_text < 100%", "decode < 1")
    result = compare(*files, *rules, "--json")
    value = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value["exit_status"] == result.exit_code == 3
    assert [each["verdict"] for each in value["rules"]] == ["triggered", "cannot tell", "not triggered"]
    speed = {each["arm"]: each for each in value["rules"][0]["arms"]}
    assert speed[AUTO]["verdict"] == "triggered"
    assert speed[AUTO]["figure"]["value"] == pytest.approx(1 / 1.03, rel=0.01)
    assert speed[AUTO]["figure"]["low"] < speed[AUTO]["figure"]["value"] < speed[AUTO]["figure"]["high"] < 0.99
    assert value["paired"]
    assert [(pair["a"], pair["b"]) for pair in value["pairs"]] == [(OFF, OFF), (AUTO, AUTO)]
    rows = {row["metric"]: row for row in value["pairs"][1]["metrics"]}
    own = next(each for each in analyse(bench).latencies if (each.arm, each.kind) == (AUTO, None))
    assert own.decode_tokens_per_s is not None
    assert rows["decode"]["a"]["value"] == own.decode_tokens_per_s.value
    assert rows["decode"]["better"] is False
    assert rows["memory.rss"]["change"] == {"value": 0.0, "low": None, "high": None}
    for name in keys(value):
        assert f"`{name}`" in DOCS, f"{name} is not in docs/results.md"


def keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return {name for each in value for name in keys(each)}
    return set(value) | {name for each in value.values() for name in keys(each)} if isinstance(value, dict) else set()


def test_tool_calls_in_json(tmp_path: Path, suite: Results) -> None:
    wrong = changed(suite, lambda answer: flipped(answer, 6), [AUTO])
    paths = written(tmp_path / "a.jsonl", suite), written(tmp_path / "b.jsonl", wrong)
    value = json.loads(compare(*paths, "--json").stdout)
    calls = value["pairs"][1]["toolcalls"]
    assert calls["lost"] > 0 == calls["gained"]
    assert calls["verdict"] == "worse"
    assert calls["explanation"] in compare(*paths).stdout
    for name in keys(calls):
        assert f"`{name}`" in DOCS


def test_markdown_tables_are_whole(tmp_path: Path, bench: Results) -> None:
    """Whatever labels hold."""
    labels = {OFF: "a|b", AUTO: "<b>*x*`"}
    named = Results(
        replace(
            bench.run, arms=[replace(arm, label=labels[arm.label]) for arm in bench.run.arms], baseline=labels[OFF]
        ),
        bench.items,
        [replace(answer, arm=labels[answer.arm]) for answer in bench.answers],
    )
    path = written(tmp_path / "run.jsonl", named)
    result = compare(path, "--markdown", *failing('decode@"<b>*x*`" > +10%', "speedup < 1.0"))
    assert result.exit_code == 3
    tables = re.findall(r"(?:^\|.*\n)+", result.stdout, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert set("".join(rows[1])) <= {"-", " "}
    assert "<b>" not in result.stdout
    assert "**triggered**" in tables[0]
    assert result.stdout.index("**FAIL: 1 of 2 rules triggered") < result.stdout.index("| metric")


def test_text_shows_every_rule_with_its_figure(files: tuple[str, str]) -> None:
    lines = compare(*files, *failing("speed@mtp auto < 0.99", "memory.rss > +5%")).stdout.splitlines()
    at = lines.index("  triggered: speed@mtp auto < 0.99")
    assert re.fullmatch(r"    mtp auto: 0\.9\d\dx \(0\.9\d\dx to 0\.9\d\dx\), triggered", lines[at + 1])
    at = lines.index("  not triggered: memory.rss > +5%")
    assert lines[at + 1 : at + 3] == [f"    {arm}: +0.0%, not triggered" for arm in (OFF, AUTO)]
    assert not any("-0.0" in line or "nan" in line for line in lines)


SUMMARY = json.dumps(analyse(made(items=4)).to_json())
JUNK: list[Any] = [None, True, -1, 10**30, 1e300, math.nan, math.inf, "x", "\ud800\x1b[2J", [], [[1, 2]], {}, {"a": 1}]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_summary_is_read_or_refused_in_a_line(data: st.DataObject) -> None:
    whole = json.loads(SUMMARY)
    holder = whole
    for _ in range(data.draw(st.integers(0, 5))):
        inner = [
            each for each in (holder.values() if isinstance(holder, dict) else holder) if isinstance(each, dict | list)
        ]
        if not (inner := [each for each in inner if each]):
            break
        holder = data.draw(st.sampled_from(inner))
    key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key] = data.draw(st.sampled_from(JUNK))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.json"
        path.write_text(json.dumps(whole))
        result = CliRunner().invoke(main, ["compare", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stderr.count("\n")) in ((0, 0), (1, 1))
    assert "\x1b" not in result.stdout


# -- the document ---------------------------------------------------------------------------------------------------


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##)", DOCS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/results.md has no section {name}"
    return found[1]


DOCUMENTED = [
    *(Run, Arm, Answer, Sample, Sensors, Pause, StepFigures, Analysis, Estimate),
    *(latency.Latency, latency.Distribution, latency.DraftPosition, drafter_fit.FirstDrafts),
    *(speed_up.SpeedUp, speed_up.ItemSpeed),
    *(calls.ArmCalls, calls.Errors, pairwise.Comparison, partings.Parting, score.Score, score.Finding),
]


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: Any) -> None:
    text = section(kind.__name__)
    named = kind._fields if hasattr(kind, "_fields") else [field.name for field in dataclasses.fields(kind)]
    told = re.findall(r"`(\w+)`", text)
    assert [name for name in named if name not in told] == []


def test_every_dataclass_that_is_written_is_documented() -> None:
    """What an analysis is made of, found by its types."""
    names = {kind.__name__ for kind in DOCUMENTED}
    for module in (latency, speed_up, pairwise, analysis, drafter_fit):
        public = [kind for name, kind in vars(module).items() if not name.startswith("_") and isinstance(kind, type)]
        of_module = {kind.__name__ for kind in public if kind.__module__ == module.__name__}
        assert {name for name in of_module if dataclasses.is_dataclass(getattr(module, name))} <= names


def test_steps_are_documented_in_their_order() -> None:
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in section("StepFigures").splitlines() if "`" in line]
    assert [name for row in rows for name in row] == list(StepFigures._fields)


def test_every_metric_and_label_is_documented() -> None:
    text = section("Metrics")
    for name in METRICS:
        if name.startswith("toolcall.error."):
            name = name.rpartition(".")[2]
        elif name.endswith((".p50", ".p95", ".p99")):
            name = name[-4:]
        assert f"`{name}`" in text or f"`{name}[N]`" in text, name


def test_rules_of_the_document_can_be_read() -> None:
    rules = re.findall(r"^\| `([^`]*[<>] [^`]*)` \|", section("Rules"), re.MULTILINE)
    rules += re.findall(r"--fail-if '([^']+)'", DOCS)
    assert len(rules) >= 12
    for rule in rules:
        assert str(parse_rule(rule))


def test_exit_statuses_are_documented() -> None:
    table = re.search(r"\| exit status \|.*?\n\n", DOCS, re.DOTALL)
    assert table
    assert re.findall(r"^\| (\d) \|", table[0], re.MULTILINE) == ["0", "1", "2", "3", "4"]


def test_columns_of_the_table_are_documented() -> None:
    write = pytest.importorskip("edge_mtp.harness.tell.report.write")
    text = DOCS.partition("## The table")[2].partition("\n## ")[0]
    assert [name for name in write.COLUMNS if f"`{name}`" not in text] == []


def test_figures_are_finite_in_json(tmp_path: Path) -> None:
    """Few items have intervals without end."""
    path = written(tmp_path / "few.jsonl", made(items=4))
    result = compare(path, "--json", *failing("speedup < 1.0"))
    value = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    figure = value["rules"][0]["arms"][0]["figure"]
    assert figure["high"] is None
    assert math.isfinite(figure["value"])
    assert value["rules"][0]["verdict"] == "cannot tell"
