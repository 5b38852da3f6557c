"""Arms: read, combined, named, and refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.codec import decode
from edge_mtp.harness.ask.arm import Arm, baseline_of, cross, distinct, held_against, parse_arm, parse_mtp

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
    thinking=st.sampled_from([None, True, False]),
)
SOURCES = st.lists(st.sampled_from(["drafter", "lookup", "grammar"]), min_size=1, unique=True).map(tuple)


@given(arm=ARMS, sources=st.one_of(st.none(), SOURCES), is_parallel=st.booleans())
def test_an_arm_is_read_as_it_was_written(arm: Arm, sources: tuple[Any, ...] | None, is_parallel: bool) -> None:
    if arm.mtp not in ("off", "blank"):
        arm = replace(arm, draft_sources=sources)
    arm = replace(arm, parallel_calls=is_parallel or not arm.constrained)
    assert decode(Arm, json.loads(json.dumps(arm.to_json()))) == arm
    switch = "on" if arm.constrained else "off"
    thinking = {None: "auto", True: "on", False: "off"}[arm.thinking]
    text = (
        f"label={arm.label},bundle={arm.bundle},mtp={arm.mtp},device={arm.device},temperature={arm.temperature!r},"
        f"constrained={switch},thinking={thinking},"
        f"calls={'parallel' if arm.parallel_calls else 'single'}"
        + (f",threads={arm.threads}" if arm.threads else "")
        + (f",draft_sources={'+'.join(arm.draft_sources)}" if arm.draft_sources else "")
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


def test_the_stock_engine_is_asked_what_ours_is_or_its_label_says_so() -> None:
    arms = cross([{"bundle": "a"}], {"constrained": [True], "engine": ["ours", "litert-lm"], "mtp": ["off", 3]})
    assert [arm.label for arm in arms] == [
        "constrained, ours, mtp off", "constrained, ours, mtp 3",
        "free, litert-lm, mtp off", "free, litert-lm, mtp auto",
    ]  # fmt: skip
    axes = {"constrained": [False], "thinking": [True], "engine": ["ours", "litert-lm"], "mtp": ["auto"]}
    arms = cross([{"bundle": "a"}], axes)
    assert [(arm.label, arm.thinking) for arm in arms] == [("ours", True), ("litert-lm", True)]
    axes = {
        "constrained": [True], "parallel_calls": [False], "engine": ["ours", "litert-lm"],
        "draft_sources": [("lookup",)], "mtp": ["auto"],
    }  # fmt: skip
    arms = cross([{"bundle": "a"}], axes)
    assert [arm.label for arm in arms] == [
        "constrained, single calls, ours, lookup drafts", "free, parallel calls, litert-lm, drafter drafts",
    ]  # fmt: skip


def test_sources_of_drafts_are_of_arms_that_draft_and_never_change_the_text() -> None:
    sources: list[tuple[str, ...]] = [("drafter", "grammar"), ("lookup",)]
    axes = {"thinking": [None, True], "draft_sources": sources, "mtp": ["off", "blank", "auto"]}
    arms = cross([{"bundle": "a"}], axes)
    assert [arm.label for arm in arms[:4]] == [
        "thinking by default, mtp off", "thinking by default, mtp blank",
        "thinking by default, drafter+grammar drafts, mtp auto", "thinking by default, lookup drafts, mtp auto",
    ]  # fmt: skip
    assert len(arms) == 8
    plain, blank, *drafting = arms[:4]
    for arm in (blank, *drafting):
        assert baseline_of(arm, arms) == plain
        assert arm.is_sibling(drafting[0])
        assert not arm.is_sibling(arms[4])  # which thinks
    assert not replace(plain, parallel_calls=False).is_sibling(plain)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"draft_sources": [("lookup",)], "mtp": ["off"]}, "no arm drafts, so none drafts from lookup drafts"),
        ({"engine": ["litert-lm"], "mtp": ["off", 3]}, "no arm can have mtp 3: litert-lm drafts at a"),
        ({"engine": ["ours"], "mtp": ["off", "adaptive"]}, "no arm can have mtp adaptive: it is litert-lm's; use auto"),
        (
            {"engine": ["litert-lm"], "parallel_calls": [False], "mtp": ["off"]},
            "no arm can have single calls: litert-lm cannot be held to single calls; add --engine ours",
        ),
        (
            {"engine": ["litert-lm"], "draft_sources": [("grammar",)], "mtp": ["auto"]},
            "no arm can have grammar drafts: litert-lm drafts from the drafter alone",
        ),
        ({"constrained": [False], "parallel_calls": [False], "mtp": ["off"]}, "single calls hold by the tools'"),
    ],
)
def test_what_no_arm_can_have_is_refused(axes: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as caught:
        cross([{"bundle": "a.litertlm"}], axes)
    assert len(str(caught.value).splitlines()) == 1


def test_what_adapts_is_auto_here_and_adaptive_there() -> None:
    axes = {"engine": ["ours", "litert-lm"], "mtp": ["auto", "adaptive"]}
    arms = cross([{"bundle": "a", "constrained": False}], axes)
    assert [(arm.engine, arm.mtp) for arm in arms] == [
        ("ours", "auto"), ("litert-lm", "auto"), ("litert-lm", "adaptive"),
    ]  # fmt: skip
    assert arms[2].draft_length is None


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
        ("bundle=a,mtp=0", "'0' is no way to draft; use off, auto, adaptive, blank or a number"),
        ("bundle=a,mtp=-1", "'-1' is no way to draft"),
        ("bundle=a,speed=9", "'speed=9' is not KEY=VALUE with one of label, bundle, mtp"),
        ("bundle=a,", "'' is not KEY=VALUE"),
        ("bundle=a,temperature=warm", "temperature 'warm' is not a number"),
        ("bundle=a,temperature=-1", "temperature -1.0 is not 0 or more"),
        ("bundle=a,temperature=nan", "temperature nan is not 0 or more"),
        ("bundle=a,constrained=maybe", "constrained is 'maybe'; use on or off"),
        ("bundle=a,engine=vllm", "engine 'vllm' is unknown; use ours or litert-lm"),
        ("bundle=a,accelerator=tpu", "accelerator 'tpu' is unknown; use one of cpu, gpu, npu, auto"),
        ("bundle=a,engine=litert-lm,mtp=off,accelerator=npu", "litert-lm runs on cpu or gpu; use one of them"),
        ("bundle=a,engine=litert-lm,mtp=off,accelerator=gpu,half_precision=on", "litert-lm chooses its own precision"),
        ("bundle=a,half_precision=on", "half precision is for a GPU; use accelerator=gpu or auto"),
        ("bundle=a,engine=litert-lm,device=pixel", "litert-lm runs on host only, not on pixel"),
        ("bundle=a,engine=litert-lm,mtp=3", "litert-lm drafts at a length of its own; use mtp=auto, mtp=adaptive"),
        ("bundle=a,mtp=adaptive", "mtp adaptive is litert-lm's; use auto, or engine=litert-lm"),
        ("bundle=a,engine=litert-lm,constrained=on", "litert-lm constrains nothing; use constrained=off"),
        ("bundle=a,engine=litert-lm,calls=single", "litert-lm cannot be held to single calls; use calls=parallel"),
        ("bundle=a,engine=litert-lm,draft_sources=lookup", "litert-lm drafts from the drafter alone"),
        ("bundle=a,mtp=off,draft_sources=lookup", "mtp off drafts from no source; drop draft_sources"),
        ("bundle=a,draft_sources=lookup+oracle", "'lookup.oracle' are no sources of drafts; use some of"),
        ("bundle=a,draft_sources=lookup+lookup", "each once, joined by"),
        ("bundle=a,thinking=maybe", "thinking is 'maybe'; use auto or on or off"),
        ("bundle=a,calls=two", "calls is 'two'; use parallel or single"),
        ("bundle=a,constrained=off,calls=single", "single calls hold by the tools' grammar; use constrained=on"),
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


def test_engines_are_compared_on_one_task() -> None:
    free = Arm("free", "m", constrained=False)
    held, stock = replace(free, label="held", constrained=True), replace(free, label="stock", engine="litert-lm")
    slow = replace(free, label="slow", threads=1)
    arms = [held, free, stock, slow]
    assert [held_against(arm, held, arms) for arm in arms] == [None, held, free, held]
    assert held_against(stock, held, [held, stock, slow]) is None
    assert held_against(stock, free, arms) == free
    assert held_against(replace(stock, threads=1), free, arms) is None
    assert held_against(free, stock, arms) == stock
    assert held_against(held, stock, arms) is None
