"""The JSON codec: what a type takes, and what a refusal says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.formats.codec import DEEPEST, LARGEST, Amount, Count, Integer, Real, WrongError, check_depth, decode


class Pair(NamedTuple):
    kind: Literal["p", "v"]
    amount: Amount


@dataclass(frozen=True)
class Inner:
    real: Real
    whole: Integer | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    pairs: list[Pair] = field(default_factory=list)
    by_number: dict[int, Count] = field(default_factory=dict)
    flag: bool = False
    anything: Any = None


RIGHT: dict[str, Any] = {"name": "x", "inner": {"real": 1}, "pairs": [["p", 2]], "by_number": {"3": 4}, "later": 5}


def test_annotations_are_followed() -> None:
    found = decode(Outer, RIGHT)
    assert found == Outer("x", Inner(1.0), [Pair("p", 2.0)], {3: 4})
    assert isinstance(found.inner.real, float)
    assert isinstance(found.pairs[0], Pair)


@given(
    st.builds(
        Outer,
        name=st.text(),
        inner=st.builds(Inner, real=st.floats(-1e18, 1e18), whole=st.none() | st.integers(-LARGEST, LARGEST)),
        pairs=st.lists(st.builds(Pair, kind=st.sampled_from(["p", "v"]), amount=st.floats(0, 1e15))),
        by_number=st.dictionaries(st.integers(-(2**53), 2**53), st.integers(0, 2**53)),
        flag=st.booleans(),
    )
)
def test_what_json_writes_is_read_back(value: Outer) -> None:
    written = json.dumps({**vars(value), "inner": vars(value.inner), "pairs": [list(pair) for pair in value.pairs]})
    assert decode(Outer, json.loads(written)) == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name: expected str, got int"),
        ({"name": None}, "name: expected str, got null"),
        ({"flag": 1}, "flag: expected bool, got int"),
        ({"inner": {}}, "inner: object missing required field real"),
        ({"inner": []}, "inner: expected object, got array"),
        ({"inner": {"real": True}}, "inner.real: expected float, got bool"),
        ({"inner": {"real": math.nan}}, "inner.real: expected float >= -1e+18"),
        ({"inner": {"real": math.inf}}, "inner.real: expected float <= 1e+18"),
        ({"inner": {"real": 10**400}}, "inner.real: number out of range"),
        ({"inner": {"real": 0, "whole": 1.0}}, "inner.whole: expected int | null, got float"),
        ({"inner": {"real": 0, "whole": LARGEST + 1}}, "inner.whole: expected int <= 1000000000000000000"),
        ({"pairs": [["p", 1], ["p", -0.5]]}, "pairs[1][1]: expected float >= 0.0"),
        ({"pairs": [["p", 1, 1]]}, "pairs[0]: expected array of length 2, got 3"),
        ({"pairs": [["x\n\x1b[2J", 1]]}, r"pairs[0][0]: invalid enum value 'x\n\x1b[2J'"),
        ({"pairs": [["\ud800", 1]]}, "half of a surrogate pair"),
        ({"by_number": {"x": 1}}, "key in by_number: expected int, got str"),
        ({"by_number": {"1": -1}}, "by_number[...]: expected int >= 0"),
    ],
)
def test_a_refusal_names_the_field_in_a_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongError) as caught:
        decode(Outer, RIGHT | change)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(WrongError) as caught:
        decode(Outer, RIGHT | {"pairs": [["x" * 10_000, 1]]})
    assert len(str(caught.value)) < 200


def test_what_is_not_an_object_is_told_without_a_place() -> None:
    with pytest.raises(WrongError, match=r"^expected object, got int$"):
        decode(Outer, 3)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_depth_is_bounded(wrap: Any) -> None:
    value: Any = 1
    for _ in range(DEEPEST - 1):  # what is innermost is a level of its own
        value = wrap(value)
    check_depth(value)
    with pytest.raises(WrongError, match="nested more than 64 levels"):
        check_depth(wrap(value))


def test_what_may_be_anything_is_as_deep_as_it_likes() -> None:
    value: Any = 1
    for _ in range(50_000):
        value = [value]
    assert decode(Outer, RIGHT | {"anything": value}).anything is value
