"""Arms: read, combined, named, and refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.arm import Arm, baseline_of, cross, distinct, parse_arm, parse_mtp

LENGTHS = st.one_of(st.sampled_from(["off", "auto", "blank"]), st.integers(1, 31))
ARMS = st.builds(
    Arm,
    label=st.text(st.characters(categories=["L", "N"]), min_size=1),
    bundle=st.sampled_from(["a.litertlm", "b/c.litertlm"]),
    mtp=LENGTHS,
    device=st.sampled_from(["host", "pixel", "ssh://me@board"]),
    temperature=st.floats(0, 3),
    constrained=st.booleans(),
    threads=st.one_of(st.none(), st.integers(1, 8)),
)


@given(arm=ARMS)
def test_an_arm_is_read_as_it_was_written(arm: Arm) -> None:
    assert Arm.from_json(json.loads(json.dumps(arm.to_json()))) == arm
    switch = "on" if arm.constrained else "off"
    text = (
        f"label={arm.label},bundle={arm.bundle},mtp={arm.mtp},device={arm.device},temperature={arm.temperature!r},"
        f"constrained={switch}" + (f",threads={arm.threads}" if arm.threads else "")
    )
    assert parse_arm(text, {}) == arm


@given(
    mtps=st.lists(LENGTHS, min_size=1, max_size=4, unique=True),
    temperatures=st.lists(st.sampled_from([0.0, 0.7, 1.0]), min_size=1, max_size=3, unique=True),
    bundles=st.lists(st.sampled_from(["a.litertlm", "x/a.litertlm", "b.litertlm"]), min_size=1, unique=True),
    bound=st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
)
def test_all_combinations_have_labels_of_their_own(
    mtps: list[str | int], temperatures: list[float], bundles: list[str], bound: list[bool]
) -> None:
    axes = {"constrained": bound, "temperature": temperatures, "mtp": mtps}
    arms = distinct(cross([{"bundle": bundle} for bundle in bundles], axes))
    assert len(arms) == len(mtps) * len(temperatures) * len(bundles) * len(bound)
    assert {(a.bundle, a.mtp, a.temperature, a.constrained) for a in arms} == {
        (b, m, t, c) for b in bundles for m in mtps for t in temperatures for c in bound
    }
    for arm in arms:
        base = baseline_of(arm, arms)
        if arm.mtp == "off" or "off" not in mtps:
            assert base is None
        else:
            assert base is not None
            assert base.mtp == "off"
            assert (base.bundle, base.temperature, base.constrained) == (arm.bundle, arm.temperature, arm.constrained)


def test_a_label_says_what_differs_and_nothing_else() -> None:
    one = {"bundle": "tiny.litertlm", "threads": 1}
    assert [arm.label for arm in cross([one], {"mtp": ["auto"], "temperature": [0.0]})] == ["mtp auto"]
    assert [arm.label for arm in cross([one], {"mtp": ["off", 3], "temperature": [0.0]})] == ["mtp off", "mtp 3"]
    both = [one, {**one, "bundle": "tiny-int8.litertlm"}]
    assert [arm.label for arm in cross(both, {"mtp": ["auto"]}, {"tiny.litertlm": "fp32"})] == ["fp32", "tiny-int8"]


def test_what_an_engine_cannot_do_otherwise_is_no_part_of_its_label() -> None:
    arms = cross([{"bundle": "a"}], {"constrained": [True], "engine": ["ours", "litert-lm"], "mtp": ["off", 3]})
    assert [arm.label for arm in arms] == ["ours, mtp off", "ours, mtp 3", "litert-lm, mtp off", "litert-lm, mtp auto"]


def test_the_stock_engine_has_one_way_to_draft_and_constrains_nothing() -> None:
    axes = {"engine": ["ours", "litert-lm"], "constrained": [True, False], "mtp": ["off", 3, "auto"]}
    arms = distinct(cross([{"bundle": "a.litertlm"}], axes))
    stock = [arm for arm in arms if arm.engine == "litert-lm"]
    assert [(arm.mtp, arm.constrained) for arm in stock] == [("off", False), ("auto", False)]
    assert len(arms) == 6 + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mtp=auto", "names no bundle; add bundle=FILE"),
        ("bundle=a,mtp=0", "'0' is no way to draft; use off, auto, blank or a number"),
        ("bundle=a,mtp=-1", "'-1' is no way to draft"),
        ("bundle=a,speed=9", "'speed=9' is not KEY=VALUE with one of label, bundle, mtp"),
        ("bundle=a,", "'' is not KEY=VALUE"),
        ("bundle=a,temperature=warm", "temperature 'warm' is not a number"),
        ("bundle=a,temperature=-1", "temperature -1.0 is not 0 or more"),
        ("bundle=a,temperature=nan", "temperature nan is not 0 or more"),
        ("bundle=a,constrained=maybe", "constrained is 'maybe'; use on or off"),
        ("bundle=a,engine=vllm", "engine 'vllm' is unknown; use ours or litert-lm"),
        ("bundle=a,accelerator=tpu", "accelerator 'tpu' is unknown; use cpu or gpu"),
        ("bundle=a,accelerator=gpu", "has no accelerator gpu; use cpu, or engine=litert-lm"),
        ("bundle=a,engine=litert-lm,device=pixel", "litert-lm runs on host only, not on pixel"),
    ],
)
def test_what_is_no_arm_is_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as caught:
        parse_arm(text, {})
    assert len(str(caught.value).splitlines()) == 1


@given(text=st.text())
def test_any_text_is_an_arm_or_refused(text: str) -> None:
    with contextlib.suppress(EdgeMtpError):
        assert parse_arm(text, {"bundle": "a"}).label
    with contextlib.suppress(EdgeMtpError):
        assert str(parse_mtp(text)) == text.lstrip("0")


def test_two_arms_of_one_label_are_refused() -> None:
    with pytest.raises(EdgeMtpError, match="two arms are called 'x'; give one of them label=NAME"):
        distinct([Arm("x", "a"), Arm("x", "b")])
