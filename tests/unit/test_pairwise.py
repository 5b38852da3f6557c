"""Arms in pairs, on runs whose truth is known: planted defects are found, equal arms are not told apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables, multitest
from synthetic_results import ARMS, STOP, TOOLS, synthetic_results, token_ids

from edge_mtp.formats.tool_calls import QUOTE, ToolCall, format_calls, parse_calls
from edge_mtp.harness.analyse.calls import arm_calls, score_all
from edge_mtp.harness.analyse.pairwise import Comparison, comparisons, pairs_of
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.record.results import Results, Run
from edge_mtp.harness.score.gold import Gold
from edge_mtp.harness.stats import statistics

MARGIN = 4.0  # of a token that is sure
OFF, BLANK, FIXED = (Arm(str(mtp), "fp32", mtp, constrained=False) for mtp in ("off", "blank", 4))
AUTO = Arm("auto", "fp32", "auto", constrained=False)
INT4 = Arm("int4", "int4", "off", constrained=False)


def run_of(arms: Sequence[Arm], baseline: str | None = None) -> Run:
    first = arms[0].label if baseline is None else baseline
    return Run("eval", "edge-mtp eval", "now", {}, list(arms), first, {}, {}, "synthetic", {})


def level(number: int) -> int:
    return 10 + number * 37 % 90


def right(number: int) -> str:
    """Every other item asks for a number, the others for a text."""
    if number % 2:
        return format_calls([ToolCall("set_volume", {"level": level(number)})])
    return format_calls([ToolCall("navigate", {"place": f"Lake {chr(65 + number % 26)}{chr(97 + number % 7)}rest"})])


def made(
    says: Mapping[Arm, Callable[[int], str]],
    items: int = 400,
    *,
    cluster: int = 4,
    margin: Callable[[int], float] = lambda number: MARGIN,
) -> Results:
    """A run in which each arm says of each item's number what is given; so many items are of one template. `margin` is
    that of all tokens of an item."""
    results = Results(run_of(list(says)), {})
    for number in range(items):
        turn = Turn([{"role": "user", "content": f"Item {number}"}], Gold.of(parse_calls(right(number))))
        item = Item(f"i{number}", "volume" if number % 2 else "place", f"t{number // cluster}", [turn], TOOLS)
        results.items[item.id] = item
        for arm, reply in says.items():
            results.answers.append(answer(arm, item.id, reply(number), margin=margin(number)))
    return results


def answer(arm: Arm, item: str, text: str, turn: int = 0, margin: float = MARGIN, **changes: Any) -> Answer:
    tokens = [*token_ids(text), STOP]
    base = Answer(arm.label, item, turn, 0, 0.0, text, "stop", tokens=tokens, margins=[margin] * len(tokens))
    return replace(base, **changes)


def compared(results: Results) -> dict[tuple[str, str], Comparison]:
    return {(each.arm, each.base): each for each in comparisons(results, score_all(results))}


def flipped(text: str) -> str:
    """With another last digit; a text without digits loses a letter."""
    if re.search(r"\d", text):
        return re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 3) % 10), text)
    return text.replace("rest", "ret")


def one_in(share: int, wrong: Callable[[str], str], of: int = 0) -> Callable[[int], str]:
    """Right but for one item in `share`."""
    return lambda number: wrong(right(number)) if number % share == of else right(number)


# -- planted defects ------------------------------------------------------------------------------------------------


def test_a_quantization_that_flips_digits_is_found_worse() -> None:
    """In 5 % of the items, all of them such as ask for a number."""
    results = made({OFF: right, INT4: one_in(20, flipped, of=1)})
    found = compared(results)["int4", "off"]
    assert (found.verdict, found.lost, found.gained, found.items) == ("worse", 20, 0, 400)
    assert found.difference.value == pytest.approx(-0.05)
    assert found.difference.high < 0
    assert found.cause is None  # of two bundles nothing else is to be expected
    assert (found.non_inferior, found.needed) == (False, None)
    assert "digit_corruption" in found.explanation
    assert "380 of 400 items (95.0%) instead of 400 of 400 items (100%): 20 lost" in found.explanation
    for parting in found.partings:
        assert (parting.primary, parting.token_class) == (("digit_corruption", None), "digit")
        assert parting.texts[0] == flipped(parting.texts[1])
        assert all(re.fullmatch(r"\d", chosen) for chosen in parting.chosen)
    calls = {each.arm: each for each in arm_calls(results, score_all(results))}["int4"]
    assert [(each.label, each.primary) for each in calls.errors] == [("digit_corruption", 20)]
    assert {kind: counts[:2] for kind, counts in calls.kinds.items()} == {"place": (200, 200), "volume": (180, 200)}


def dropped(text: str) -> str:
    """Without one of its tokens, as after a rollback that took one too many."""
    return text.replace("rest", "", 1) if "rest" in text else re.sub(r"\d", "", text, count=1)


def test_a_token_dropped_at_a_rollback_is_no_rounding() -> None:
    found = compared(made({OFF: right, BLANK: right, FIXED: one_in(25, dropped)}))
    assert (found["4", "off"].verdict, found["4", "off"].cause) == ("worse", "accept or rollback")
    assert len(found["4", "off"].partings) == 16
    assert "accept or rollback" in found["4", "off"].explanation
    assert (found["blank", "off"].verdict, found["blank", "off"].cause) == ("same", None)


def test_a_defect_beside_rounding_is_found() -> None:
    """Blank and real drafts part from plain decoding alike in most items, and in one they do not."""
    rounded = one_in(25, flipped)
    found = compared(made({OFF: right, BLANK: rounded, FIXED: lambda n: dropped(right(n)) if n == 50 else rounded(n)}))
    assert (found["blank", "off"].cause, found["4", "off"].cause) == ("numerics", "accept or rollback")
    assert "With blank drafts 1 of 16 say otherwise" in found["4", "off"].explanation


def test_what_blank_drafts_do_too_is_numerics() -> None:
    found = compared(made({OFF: right, BLANK: one_in(25, flipped), FIXED: one_in(25, flipped)}))
    assert found["4", "off"].cause == found["blank", "off"].cause == "numerics"
    assert "numerics" in found["4", "off"].explanation


@pytest.mark.parametrize(
    ("changes", "margin", "cause", "said"),
    [
        ({}, 0.01, "numerics", "two logits lie within 0.01 (usually 4)"),
        ({}, 2.0, "accept or rollback", "one logit leads by up to 2 (usually 4)"),
        ({"constrained": True}, 2.0, None, "mtp=4 tells"),  # a grammar may choose what is far from the largest
        ({"temperature": 0.8}, 0.01, None, "mtp=4 tells"),
    ],
)
def test_at_other_draft_lengths_margins_tell(
    changes: dict[str, Any], margin: float, cause: str | None, said: str
) -> None:
    off, blank, auto = (replace(arm, **changes) for arm in (OFF, BLANK, AUTO))
    says = {off: right, blank: right, auto: one_in(25, flipped)}
    found = compared(made(says, margin=lambda number: MARGIN if number % 25 else margin))["auto", "off"]
    assert found.cause == cause
    assert said in found.explanation


@pytest.mark.parametrize(("margin", "said"), [(0.01, "rounding breaks such ties"), (3.9, "more than rounding moves")])
def test_without_blank_drafts_margins_suggest(margin: float, said: str) -> None:
    results = made({OFF: right, FIXED: one_in(25, flipped)}, margin=lambda number: MARGIN if number % 25 else margin)
    found = compared(results)["4", "off"]
    assert found.cause is None
    assert said in found.explanation
    assert "An arm with mtp=blank tells" in found.explanation
    results.answers = [replace(each, margins=[]) for each in results.answers]
    unknown = compared(results)["4", "off"]
    assert unknown.cause is None
    assert unknown.explanation.endswith(
        "digit 8. An arm with mtp=blank tells rounding from drafts that were wrongly kept."
    )


# -- verdicts -------------------------------------------------------------------------------------------------------


def test_equal_arms_are_the_same() -> None:
    for items in (1, 400):
        found = compared(made({OFF: right, AUTO: right}, items))["auto", "off"]
        assert (found.verdict, found.partings, found.cause, found.needed) == ("same", [], None, None)
        assert (found.lost, found.gained, found.p_value, found.difference.value) == (0, 0, 1, 0)
        assert found.explanation == f"All {items} items are answered word for word alike."


def test_arms_that_lose_as_little_as_they_gain_are_the_same() -> None:
    """On many items: on few of them that is not enough data."""
    says = {OFF: one_in(160, flipped, of=5), INT4: one_in(160, flipped, of=86)}
    many = compared(made(says, 3200))["int4", "off"]
    assert (many.verdict, many.lost, many.gained, many.non_inferior) == ("same", 20, 20, True)
    assert "less than 1 point is lost" in many.explanation
    few = compared(made(says, 320))["int4", "off"]
    assert (few.verdict, few.lost, few.gained, few.non_inferior) == ("not enough data", 2, 2, False)
    assert few.needed is not None
    assert 800 < few.needed < 1600  # non-inferiority: 7.85 * (4.5 / 321) / 0.01^2
    assert "not enough data" in few.explanation
    assert f"about {-(-few.needed // 10 ** (len(str(few.needed)) - 2)) * 10 ** (len(str(few.needed)) - 2):,} items" in (
        few.explanation
    )


def test_a_better_arm_is_said_to_be() -> None:
    found = compared(made({OFF: one_in(20, flipped), INT4: right}))["int4", "off"]
    assert (found.verdict, found.lost, found.gained) == ("better", 0, 20)
    assert "Of the 20 gained items" in found.explanation


@pytest.mark.parametrize(("items", "wrong", "least", "most"), [(10, 1, 30, 300), (10, 3, 11, 60), (60, 2, 200, 1500)])
def test_few_items_say_how_many_it_takes(items: int, wrong: int, least: int, most: int) -> None:
    found = compared(made({OFF: right, INT4: lambda n: flipped(right(n)) if n < wrong else right(n)}, items, cluster=1))
    each = found["int4", "off"]
    assert each.verdict == "not enough data"
    assert each.needed is not None
    assert max(items, least) < each.needed < most


@pytest.mark.parametrize(("wrong", "cluster"), [(2, 1), (3, 1), (1, 1), (2, 4)])
def test_with_the_items_that_it_says_it_would_be_settled(wrong: int, cluster: int) -> None:
    """Were the rest like what was seen."""
    items = 40

    def says(number: int) -> str:
        return flipped(right(number)) if number % items < wrong else right(number)

    seen = compared(made({OFF: right, INT4: says}, items, cluster=cluster))["int4", "off"]
    assert seen.verdict == "not enough data"
    assert seen.needed is not None
    more = compared(made({OFF: right, INT4: says}, 2 * seen.needed // items * items, cluster=cluster))["int4", "off"]
    assert more.verdict in ("worse", "same")


def test_items_of_one_template_weigh_as_little_as_they_tell() -> None:
    """Twelve lost items: all over the templates, or all those of two of them."""

    def says(number: int) -> str:
        return flipped(right(number)) if number < 12 else right(number)

    spread = compared(made({OFF: right, INT4: says}, 300, cluster=1))["int4", "off"]
    gathered = compared(made({OFF: right, INT4: says}, 300, cluster=6))["int4", "off"]
    assert (spread.verdict, gathered.verdict) == ("worse", "not enough data")
    assert spread.p_value == pytest.approx(2**-11)
    assert gathered.p_value == pytest.approx(0.5)
    assert gathered.difference.high > 0 > spread.difference.high


def test_p_values_are_adjusted_over_the_run() -> None:
    """Over its comparisons in which an item differs, which are those that could find something."""
    arms = [Arm(f"one in {share}", f"int4-{share}", "off") for share in (20, 30, 45, 60)]
    says = {arm: one_in(share, flipped, of=7) for arm, share in zip(arms, (20, 30, 45, 60), strict=True)}
    results = made({OFF: right, AUTO: right, **says}, 400)
    found = [each for each in comparisons(results, score_all(results)) if each.arm != "auto"]
    expected = multitest.multipletests([each.p_value for each in found], method="holm")[1]
    assert [each.p_adjusted for each in found] == pytest.approx(expected.tolist())
    assert [each.verdict for each in found] == ["worse", "worse", "worse", "worse"]
    assert "Holm's over 4 comparisons" in found[0].explanation
    # Where there are more of them, what was worse alone need not be.
    many = [Arm(f"like {number}", f"like-{number}", "off") for number in range(8)]
    results = made({OFF: right, **dict.fromkeys(many, one_in(60, flipped, of=7))}, 400)
    assert {each.verdict for each in comparisons(results, score_all(results))} == {"not enough data"}


def test_an_arm_that_repeats_its_sibling_is_counted_and_not_compared_again() -> None:
    """Else each way to draft the same words would make it harder for all comparisons to find something."""
    worse, auto = one_in(20, flipped, of=7), replace(INT4, label="int4 auto", mtp="auto")
    results = made({OFF: right, AUTO: right, INT4: worse, auto: worse})
    scores = score_all(results)
    assert {each.arm: each.echoes for each in arm_calls(results, scores)} == {
        "off": None, "auto": "off", "int4": None, "int4 auto": "int4",
    }  # fmt: skip
    found = compared(results)
    assert set(found) == {("auto", "off"), ("int4", "off"), ("int4 auto", "int4")}
    assert found["int4", "off"].p_adjusted == found["int4", "off"].p_value
    # One other word, and it is an arm of its own.
    results = made({OFF: right, AUTO: right, INT4: worse, auto: one_in(20, flipped, of=8)})
    assert ("int4 auto", "off") in compared(results)
    assert not any(each.echoes for each in arm_calls(results, score_all(results)) if each.arm == "int4 auto")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_counts_are_those_of_the_items(answers: list[tuple[bool, bool]]) -> None:
    """And the other way round everything is mirrored."""

    def says(side: int) -> Callable[[int], str]:
        return lambda number: right(number) if answers[number][side] else flipped(right(number))

    one, other = (compared(made(dict([*each]), len(answers), cluster=1)) for each in (
        ((OFF, says(0)), (INT4, says(1))), ((INT4, says(1)), (OFF, says(0))),
    ))  # fmt: skip
    found, mirrored = one["int4", "off"], other["off", "int4"]
    table = Counter(answers)
    assert (found.lost, found.gained) == (table[True, False], table[False, True])
    expected = contingency_tables.mcnemar([[0, found.lost], [found.gained, 0]], exact=True).pvalue
    assert found.p_value == pytest.approx(expected if found.lost + found.gained else 1)
    assert (mirrored.lost, mirrored.gained, mirrored.p_value) == (found.gained, found.lost, found.p_value)
    assert mirrored.difference.low == pytest.approx(-found.difference.high)
    assert {"better": "worse", "worse": "better"}.get(mirrored.verdict, found.verdict) == found.verdict


# -- who is held against whom ---------------------------------------------------------------------------------------


def test_arms_that_draft_meet_their_plain_sibling_and_all_meet_the_baseline() -> None:
    plain4, auto4 = INT4, replace(INT4, label="int4 auto", mtp="auto")
    pairs = [(arm.label, base.label) for arm, base in pairs_of(run_of([OFF, AUTO, FIXED, plain4, auto4]))]
    assert pairs == [("auto", "off"), ("4", "off"), ("int4 auto", "int4"), ("int4", "off"), ("int4 auto", "off")]


def test_no_two_arms_meet_twice() -> None:
    """Whoever is the baseline; it is held against its plain sibling as others are."""
    pairs = [(arm.label, base.label) for arm, base in pairs_of(run_of([OFF, AUTO, FIXED], baseline="auto"))]
    assert pairs == [("auto", "off"), ("4", "off"), ("4", "auto")]
    assert pairs_of(run_of([AUTO])) == []


def test_only_items_that_both_answered_are_compared() -> None:
    results = made({OFF: right, INT4: right}, 10)
    results.answers = [each for each in results.answers if each.arm == "off" or each.item in ("i1", "i2", "i3")]
    assert compared(results)["int4", "off"].items == 3
    results.answers = [each for each in results.answers if each.arm == "off"]
    assert compared(results) == {}
    assert [each.arm for each in arm_calls(results, score_all(results))] == ["off"]


# -- scores ---------------------------------------------------------------------------------------------------------


def conversation() -> Results:
    """An item of three turns, the second of them without gold, answered by nobody."""
    volume, route = (
        Gold.of([ToolCall(*call)]) for call in (("set_volume", {"level": 20}), ("navigate", {"place": "Fea"}))
    )
    turns = [
        Turn([{"role": "user", "content": text}], gold) for text, gold in (("a", volume), ("b", None), ("c", route))
    ]
    items = {"x": Item("x", "multi_turn", "t", turns, TOOLS), "y": Item("y", "chat", "u", turns[1:2])}
    return Results(run_of([OFF]), items)


VOLUME = format_calls([ToolCall("set_volume", {"level": 20})])
ROUTE = format_calls([ToolCall("navigate", {"place": "Fea"})])


@pytest.mark.parametrize(
    ("texts", "primary"),
    [
        ([VOLUME, "Done.", ROUTE], None),
        ([VOLUME, "Done.", "Where to?"], "no_call"),
        (["Sorry.", "Done.", ROUTE], "no_call"),
        ([flipped(VOLUME)], "digit_corruption"),  # the others were not asked any more
        ([VOLUME, "Done."], ...),  # nor was the last one here, so far
        ([], ...),
    ],
)
def test_the_first_wrong_turn_decides(texts: list[str], primary: Any) -> None:
    results = conversation()
    results.answers = [answer(OFF, "x", text, turn) for turn, text in enumerate(texts)]
    results.answers.append(answer(OFF, "y", "Hello"))
    scores = score_all(results)["off"]
    assert list(scores) == ([] if primary is ... else ["x"])
    if primary is not ...:
        assert scores["x"].primary == primary


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([VOLUME, "Done.", ROUTE], []),
        ([VOLUME, "Done.", "Where to?"], [("no_call", "Where to?"), ("later_turn", "turn 3 of 3")]),
        (["Sorry."], [("no_call", "Sorry.")]),
        ([VOLUME, "Done.", None], [("crash", "it is gone"), ("later_turn", "turn 3 of 3")]),
        ([VOLUME, None], [("crash", "it is gone"), ("later_turn", "turn 2 of 3")]),
        ([None], [("crash", "it is gone")]),
    ],
)
def test_what_goes_wrong_in_a_later_turn_says_so(texts: list[str | None], expected: list[tuple[str, str]]) -> None:
    results = conversation()
    results.answers = [
        answer(OFF, "x", "", turn, finish="crash", error="it is gone") if text is None else answer(OFF, "x", text, turn)
        for turn, text in enumerate(texts)
    ]
    scores = score_all(results)
    assert [(found.label, found.text) for found in scores["off"]["x"].findings] == expected
    (calls,) = arm_calls(results, scores)
    assert [(each.label, each.all, each.primary) for each in calls.errors] == [
        (label, 1, int(place == 0)) for place, (label, _) in enumerate(expected)
    ]


@pytest.mark.parametrize(("finish", "label"), [("crash", "crash"), ("timeout", "timeout"), ("refused", "refused")])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_what_failed_is_wrong(finish: Any, label: str, turn: int) -> None:
    """In a turn without gold too."""
    results = conversation()
    results.answers = [answer(OFF, "x", text, number) for number, text in enumerate([VOLUME, "Done.", ROUTE])][:turn]
    results.answers.append(answer(OFF, "x", "", turn, finish=finish, error="it is gone"))
    if (turn, finish) == (0, "refused"):  # it refused all that it was asked: nothing can be said of it
        assert (results.refused, score_all(results)["off"]) == ({"off": "it is gone"}, {})
        return
    assert score_all(results)["off"]["x"].primary == label
    assert arm_calls(results, score_all(results))[0].right == 0


def test_round_0_counts_and_of_an_item_that_was_asked_again_the_last() -> None:
    results = conversation()
    again = [answer(OFF, "x", text, turn) for turn, text in enumerate([VOLUME, "Done.", ROUTE])]
    crash = answer(OFF, "x", "", 0, finish="crash", error="it is gone")
    results.answers = [*again[:2], crash, *again, replace(crash, round=1)]
    assert score_all(results)["off"]["x"].is_right
    results.answers = [*again, crash]
    assert not score_all(results)["off"]["x"].is_right


def test_counts_of_an_arm_are_those_of_its_scores() -> None:
    results = synthetic_results(3, kind="eval", items=200, crashes=3)
    scores = score_all(results)
    found = arm_calls(results, scores)
    assert [each.arm for each in found] == [arm.label for arm in ARMS]
    assert sum(error.primary for each in found for error in each.errors if error.label == "crash") == 3
    for each in found:
        of = scores[each.arm]
        assert (each.items, each.right) == (200, sum(score.is_right for score in of.values()))
        assert each.right + sum(error.primary for error in each.errors) == 200
        assert all(error.primary <= error.all for error in each.errors)
        assert sum(counts[0] for counts in each.kinds.values()) == each.right <= each.lenient
        assert set(each.kinds) == {"single", "parallel", "no_call", "multi_turn"}
        for count, share in ((each.right, each.exact), (each.lenient, each.lenient_share)):
            assert share.value == pytest.approx(count / 200)
            assert share.low < share.value < share.high
            # Clusters make it wider than of as many independent items, and no cluster is worth less than an item.
            assert share.high - share.low > 0.8 * (
                statistics.wilson(count, 200).high - statistics.wilson(count, 200).low
            )


# -- where replies part ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "base", "index", "kind", "chosen"),
    [
        ("<|tool_call>call:v{n:12}<tool_call|>", "<|tool_call>call:v{n:13}<tool_call|>", 8, "digit", ("2", "3")),
        ("<|tool_call>call:v{n:1}<tool_call|>", "<|tool_call>call:v{n:13}<tool_call|>", 8, "digit", ("}", "3")),
        ("<|tool_call>call:w{n:1}<tool_call|>", "<|tool_call>call:v{n:1}<tool_call|>", 3, "call syntax", ("w", "v")),
        (
            f"<|tool_call>call:v{{s:{QUOTE}Fea{QUOTE}}}<tool_call|>",
            f"<|tool_call>call:v{{s:{QUOTE}Feo{QUOTE}}}<tool_call|>",
            8,
            "string content",
            ("a", "o"),
        ),
        # Two marks begin alike: they are told apart as wholes.
        (f"{QUOTE}x", "<|tool_call>call", 0, "call syntax", (QUOTE, "<|tool_call>")),
        ("Volume set.", "<|tool_call>call:v{}<tool_call|>", 0, "call syntax", ("Volume", "<|tool_call>")),
        ("Volume set.", "Volume put.", 1, "text", ("set", "put")),
        ("Done. Really", "Done.", 2, "stop", (" Really", "")),
        ("Done.", "Done. Really", 2, "text", ("", " Really")),
    ],
)
def test_replies_part_at_a_token_of_a_class(
    arm: str, base: str, index: int, kind: str, chosen: tuple[str, str]
) -> None:
    results = made({OFF: lambda n: base, INT4: lambda n: arm}, 1)
    results.answers = [replace(each, margins=[2.0 if each.arm == "int4" else 1.0] * 99) for each in results.answers]
    (parting,) = compared(results)["int4", "off"].partings
    assert (parting.item, parting.turn, parting.index, parting.unit) == ("i0", 0, index, "token")
    assert (parting.token_class, parting.texts, parting.margins) == (kind, (arm, base), (2.0, 1.0))
    assert parting.chosen == chosen or parting.chosen == tuple(f" {each}" for each in chosen)
    # Of an engine that does not tell its tokens the texts are known.
    results.answers = [replace(each, tokens=[], margins=[]) for each in results.answers]
    (told,) = compared(results)["int4", "off"].partings
    assert (told.unit, told.margins) == ("character", (None, None))
    assert arm[: told.index] == base[: told.index]
    assert arm[told.index : told.index + 1] != base[told.index : told.index + 1]
    assert (told.token_class, told.chosen) == (parting.token_class, parting.chosen)


@pytest.mark.parametrize(("change", "kind"), [((-1, 50), "stop"), ((2, 7), None)])
def test_the_same_text_in_other_tokens_is_the_same_answer(change: tuple[int, int], kind: str | None) -> None:
    results = made({OFF: right, INT4: right}, 20)
    tokens = list(results.answers[1].tokens)
    tokens[change[0]] = change[1]
    results.answers[1] = replace(results.answers[1], tokens=tokens)
    found = compared(results)["int4", "off"]
    assert (found.verdict, [each.token_class for each in found.partings]) == ("same", [kind])
    assert f"first at: {kind or 'other tokens for the same text'} 1." in found.explanation


def test_replies_part_in_the_first_turn_that_differs_and_failures_are_no_parting() -> None:
    results = conversation()
    results.run.arms.append(INT4)
    ours = [answer(OFF, "x", text, turn) for turn, text in enumerate([VOLUME, "Done.", ROUTE])]
    theirs = [answer(INT4, "x", text, turn) for turn, text in enumerate([VOLUME, "Yes.", ROUTE])]
    results.answers = [*ours, *theirs]
    (parting,) = compared(results)["int4", "off"].partings
    assert (parting.turn, parting.index) == (1, 0)
    results.answers[-2] = replace(theirs[1], text="", tokens=[], finish="crash", error="it is gone")
    found = compared(results)["int4", "off"]
    assert (found.partings, found.lost, found.verdict) == ([], 1, "not enough data")


def test_arms_of_one_bundle_say_the_same_and_another_bundle_says_what_differs() -> None:
    results = synthetic_results(1, kind="eval", items=200, crashes=0)
    found = compared(results)
    said = {arm.label: {(a.item, a.turn): a.text for a in results.of(arm.label)} for arm in ARMS}
    for (arm, base), each in found.items():
        differing = {item for (item, turn), text in said[arm].items() if said[base].get((item, turn), text) != text}
        assert {parting.item for parting in each.partings} == differing
        assert (each.verdict == "same") == (not differing)
    bundles = {arm.label: arm.bundle for arm in ARMS}
    assert {each.verdict for key, each in found.items() if bundles[key[0]] != bundles[key[1]]} == {"worse"}


def test_intervals_of_comparisons_are_those_of_statistics() -> None:
    results = synthetic_results(5, kind="eval", items=160, crashes=0)
    scores = score_all(results)
    for each in comparisons(results, scores):
        clusters: dict[str, Any] = {}
        for name, item in results.items.items():
            ours, theirs = scores[each.arm][name].is_right, scores[each.base][name].is_right
            counts = clusters.setdefault(item.cluster, np.zeros(3, int))
            counts += (theirs and not ours, ours and not theirs, 1)
        columns = np.array(list(clusters.values())).T
        assert each.difference == statistics.paired_difference(*columns)
        assert each.p_value == statistics.clustered_mcnemar(*columns[:2])
        assert (each.lost, each.gained, each.items) == tuple(columns.sum(1))
