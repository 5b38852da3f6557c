"""Rules: what is read is what was written, what is wrong is said in a line, and what an interval lets one say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.metrics import METRICS
from edge_mtp.harness.analyse.rules import BOUNDS, OPERATORS, Rule, RuleError, Verdict, parse_rule
from edge_mtp.harness.stats.statistics import Estimate

LABELS = st.text(min_size=1).filter(str.strip)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule that has a meaning."""
    metric = METRICS[draw(st.sampled_from(sorted(METRICS)))]
    is_change = not metric.is_change and draw(st.booleans())
    units = set(metric.quantity.units) | ({"%"} if is_change else set())
    if is_change and metric.quantity.name == "share":
        units.add("pp")
    unit = draw(st.sampled_from(sorted(units)))
    is_share = metric.quantity.name == "share"
    most = {"%": 1e6, "pp": 100.0}.get(unit, 1.0 if is_share else 1e300)
    value = draw(st.floats(0.0, most)) * (draw(st.sampled_from((1.0, -1.0))) if is_change else 1.0)
    return Rule(
        metric=metric.name,
        operator=draw(st.sampled_from(OPERATORS)),
        value=value,
        unit=unit,
        is_change=is_change,
        position=draw(st.integers(1, 99)) if metric.has_position else None,
        bound=draw(st.sampled_from((None, *BOUNDS))),
        arm=draw(st.none() | LABELS),
        kind=draw(st.none() | LABELS),
    )


def answer(text: str) -> str:
    """The rule that a text is, written again; or why it is none."""
    try:
        rule = parse_rule(text)
    except RuleError as error:
        return str(error)
    assert parse_rule(str(rule)) == rule
    return str(rule)


@given(rules())
def test_what_is_written_is_read(rule: Rule) -> None:
    again = parse_rule(str(rule))
    assert again == rule
    assert math.copysign(1, again.value) == math.copysign(1, rule.value)
    # Spaces between the parts say nothing.
    assert parse_rule(f"  {rule}\t") == rule


@given(st.text())
def test_garbage_is_refused_in_a_line(text: str) -> None:
    assert len(answer(text).splitlines()) == 1


@given(rules(), st.data())
def test_a_damaged_rule_is_read_or_refused(rule: Rule, data: st.DataObject) -> None:
    text = str(rule)
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.text(alphabet='<>=+-.@#"[]%px 0159e\\', max_size=3))
    assert len(answer(text[:at] + put + text[at + cut :]).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("speedup < 1.0", Rule("speedup", "<", 1.0)),
        ("toolcall.error > +1pp", Rule("toolcall.error", ">", 1.0, "pp", True)),
        ("first_token.p95 > +10%", Rule("first_token.p95", ">", 10.0, "%", True)),
        ("speedup.low < 1.0", Rule("speedup", "<", 1.0, bound="low")),
        ("speedup.first_token.high<1x", Rule("speedup.first_token", "<", 1.0, "x", bound="high")),
        ("acceptance[1] < 0.8", Rule("acceptance", "<", 0.8, position=1)),
        ("acceptance[ 2 ].value < 80%", Rule("acceptance", "<", 80.0, "%", position=2, bound="value")),
        ("memory.rss > +5%", Rule("memory.rss", ">", 5.0, "%", True)),
        ("memory.rss >= 1.5 GB", Rule("memory.rss", ">=", 1.5, "GB")),
        ("same_text < 100%", Rule("same_text", "<", 100.0, "%")),
        (
            "decode@int8, mtp auto#long prompt < -3%",
            Rule("decode", "<", -3.0, "%", True, arm="int8, mtp auto", kind="long prompt"),
        ),
        ("decode @ \"a<b\" # x <= -0tok/s", Rule("decode", "<=", -0.0, "tok/s", True, None, None, "a<b", "x")),
        ("decode@bundle=m.litertlm,mtp=4 > 3e1", Rule("decode", ">", 30.0, arm="bundle=m.litertlm,mtp=4")),
        (
            "toolcall.error.digit_corruption.high > 2 %",
            Rule("toolcall.error.digit_corruption", ">", 2.0, "%", bound="high"),
        ),
    ],
)  # fmt: skip
def test_examples(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("first_token > 2s", 2000.0),
        ("first_token > 250us", 0.25),
        ("memory.rss > 3MB", 3e6),
        ("memory.rss > +3MB", 3e6),
        ("memory.rss > +3%", 0.03),
        ("same_text < 98%", 0.98),
        ("same_text < -2pp", -0.02),
        ("same_text < -2%", -0.02),
        ("energy > 2J", 2000.0),
        ("tokens_per_verify < 1.5", 1.5),
    ],
)
def test_thresholds_are_in_base_units(text: str, threshold: float) -> None:
    assert parse_rule(text).threshold == pytest.approx(threshold, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "its end", "no metric"),
        ("sped < 1", "character 1,", "speed"),
        ("speedup.lwo < 1", "character 1,", "'speedup.lwo' is no metric"),
        ("speedup", "its end", "comparison"),
        ("speedup == 1", "character 9,", "comparison"),
        ("speedup = 1", "character 9,", "comparison"),
        ("speedup < ", "its end", "number"),
        ("speedup < -", "its end", "number"),
        ("speedup < nan", "character 11,", "number"),
        ("speedup < 1e999", "character 11,", "too large"),
        ("speedup < 5%", "character 12,", "per cent of A"),
        ("speedup < 5 ms", "character 13,", "'ms' is no unit of speedup"),
        ("speedup < 1 and more", "character 13,", "no unit"),
        ("speed < +1%", "character 9,", "drop the sign"),
        ("acceptance < 0.5", "character 11,", "acceptance[1]"),
        ("acceptance[0] < 0.5", "character 11,", "count from 1"),
        ("acceptance[1].p95 < 0.5", "character 14,", "no bound"),
        ("decode[1] < 5", "character 7,", "no positions"),
        ("decode@ < 5", "character 7,", "ARM"),
        ("decode#  < 5", "character 7,", "KIND"),
        ('decode@"\\x" < 5', "character 8,", "no string"),
        ("memory.rss > 500", "its end", "needs a unit"),
        ("same_text < 98", "character 13,", "98%"),
        ("toolcall.error > 1pp", "character 18,", "+1pp"),
        ("toolcall.error > +200pp", "character 18,", "share"),
        ("decode > +5pp", "character 12,", "'pp' is no unit"),
    ],
)
def test_refusals_name_the_place(text: str, place: str, words: str) -> None:
    with pytest.raises(RuleError) as refused:
        parse_rule(text)
    message = str(refused.value)
    assert place in message
    assert words in message


def test_a_metric_that_is_none_is_answered_with_the_list() -> None:
    with pytest.raises(RuleError) as refused:
        parse_rule("nonsense < 1")
    for name in METRICS:
        of_list = (
            name.rpartition(".")[0] if name.startswith("toolcall.error.") or name.endswith(("50", "95", "99")) else name
        )
        assert of_list in str(refused.value)


FIGURES = st.floats(-1e6, 1e6)


@given(FIGURES, FIGURES, FIGURES, st.sampled_from(OPERATORS), st.floats(0, 1e6))
def test_verdicts_of_an_interval(a: float, b: float, c: float, operator: str, value: float) -> None:
    """The oracle: all points of the interval satisfy the condition, or none, or some."""
    low, middle, high = sorted((a, b, c))
    rule = parse_rule(f"tokens_per_verify {operator} {value!r}")
    compare = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}[operator]
    points = {compare(x, value) for x in (low, middle, high)}
    if any(x != value and math.isclose(x, value, rel_tol=1e-9, abs_tol=1e-9) for x in (low, middle, high)):
        return  # equal, for a rule
    expected = (
        Verdict.CANNOT_TELL if len(points) == 2 else Verdict.TRIGGERED if points == {True} else Verdict.NOT_TRIGGERED
    )
    assert rule.judge(Estimate(middle, low, high)) == expected
    for bound, figure in (("value", middle), ("low", low), ("high", high)):
        pointed = parse_rule(f"tokens_per_verify.{bound} {operator} {value!r}")
        assert (pointed.judge(Estimate(middle, low, high)) == Verdict.TRIGGERED) == compare(figure, value)
    assert (rule.judge(middle) == Verdict.TRIGGERED) == compare(middle, value)


def test_sums_of_floats_do_not_fail_a_build() -> None:
    assert 0.99 - 0.98 > 0.01
    assert parse_rule("toolcall.error > +1pp").judge(0.99 - 0.98) == Verdict.NOT_TRIGGERED
    assert parse_rule("toolcall.error >= +1pp").judge(0.58 - 0.57) == Verdict.TRIGGERED


def test_the_end_of_no_interval() -> None:
    rule = parse_rule("memory.rss.high > 1GB")
    with pytest.raises(EdgeMtpError, match=r"no interval here; drop \.high"):
        rule.judge(2e9)
    assert parse_rule("memory.rss.value > 1GB").judge(2e9) == Verdict.TRIGGERED


@pytest.mark.parametrize("text", ["decode < 5", "decode > 5", "decode <= -5%", "decode >= +5%"])
def test_no_number_is_no_verdict(text: str) -> None:
    assert parse_rule(text).judge(math.nan) == Verdict.CANNOT_TELL
    assert parse_rule(text).judge(Estimate(math.nan, math.nan, math.nan)) == Verdict.CANNOT_TELL
