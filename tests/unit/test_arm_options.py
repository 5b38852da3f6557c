"""The options that say which arms are compared: what they come to, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edge_mtp.cli import arm_options as module
from edge_mtp.cli.arm_options import ArmChoice, arm_options, homely, words
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.ask.arm import Arm


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes of the tiny model that were asked for; none is exported."""
    asked: list[str] = []

    def tiny_bundles(names: Any) -> list[Path]:
        asked.extend(names)
        return [Path(f"/cache/tiny-{name}.litertlm") for name in names]

    monkeypatch.setattr(module, "tiny_bundles", tiny_bundles)
    return asked


def resolve(*arguments: str, default: str = "off,auto") -> tuple[list[Arm], str]:
    found: list[tuple[list[Arm], str]] = []

    @click.command()
    @arm_options(default)
    def verb(**options: Any) -> None:
        choice = ArmChoice.take(options)
        assert options == {}, "the verb would be given an option of the arms"
        found.append(choice.resolve())

    shown = CliRunner().invoke(verb, arguments)
    if isinstance(shown.exception, EdgeMtpError):
        raise shown.exception
    assert shown.exit_code == 0, shown.output
    return found[0]


def test_without_options_the_tiny_model_runs_the_default_arms(recipes: list[str]) -> None:
    arms, baseline = resolve()
    assert [arm.mtp for arm in arms] == ["off", "auto"]
    assert {arm.bundle for arm in arms} == {"/cache/tiny-fp32.litertlm"}
    assert baseline == arms[0].label
    assert recipes == ["fp32"]


def test_every_combination_is_an_arm() -> None:
    arms, _ = resolve("--bundle", "m.litertlm", "--mtp", "off,3", "--temperature", "0,0.5", "--constrained", "on,off")
    assert {(arm.mtp, arm.temperature, arm.constrained) for arm in arms} == {
        (mtp, temperature, constrained) for mtp in ("off", 3) for temperature in (0.0, 0.5) for constrained in (1, 0)
    }
    assert len({arm.label for arm in arms}) == len(arms) == 8


def test_bundles_devices_and_threads_reach_the_arms() -> None:
    options = ["--bundle", "a.litertlm", "--bundle", "b.litertlm", "--device", "pixel", "--threads", "3"]
    arms, _ = resolve(*options, "--mtp", "off")
    assert [(arm.bundle, arm.device, arm.threads) for arm in arms] == [
        ("a.litertlm", "pixel", 3),
        ("b.litertlm", "pixel", 3),
    ]


def test_tiny_bundles_are_called_by_their_recipes(recipes: list[str]) -> None:
    arms, _ = resolve("--recipe", "fp32,int8", "--mtp", "off")
    assert recipes == ["fp32", "int8"]
    assert [(arm.bundle, arm.label) for arm in arms] == [
        ("/cache/tiny-fp32.litertlm", "fp32"),
        ("/cache/tiny-int8.litertlm", "int8"),
    ]


def test_an_arm_stands_alone_or_beside_combinations() -> None:
    arms, _ = resolve("--bundle", "m.litertlm", "--threads", "2", "--arm", "label=one,mtp=5")
    assert [(arm.label, arm.mtp, arm.bundle, arm.threads) for arm in arms] == [("one", 5, "m.litertlm", 2)]
    arms, _ = resolve("--bundle", "m.litertlm", "--mtp", "off,auto", "--arm", "label=one,mtp=5")
    assert [arm.mtp for arm in arms] == ["off", "auto", 5]


def test_arms_with_bundles_of_their_own_export_nothing(recipes: list[str]) -> None:
    arms, _ = resolve("--arm", "bundle=x.litertlm,mtp=off,label=x", "--arm", "bundle=y.litertlm,mtp=off,label=y")
    assert [arm.bundle for arm in arms] == ["x.litertlm", "y.litertlm"]
    assert recipes == []


def test_the_baseline_is_the_first_or_the_one_that_is_named() -> None:
    arms, _ = resolve("--bundle", "m.litertlm", "--mtp", "off,auto")
    assert resolve("--bundle", "m.litertlm", "--mtp", "off,auto", "--baseline", arms[1].label)[1] == arms[1].label
    with pytest.raises(EdgeMtpError, match=rf"no arm is called 'fast'; give --baseline one of '{arms[0].label}', "):
        resolve("--bundle", "m.litertlm", "--mtp", "off,auto", "--baseline", "fast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "m", "--recipe", "int8"], "--recipe is for the built-in tiny model"),
        (["--constrained", "maybe"], "--constrained 'maybe' is none of on, off"),
        (["--calls", "many"], "--calls 'many' is none of parallel, single"),
        (["--thinking", "deeply"], "--thinking 'deeply' is none of auto, on, off"),
        (["--temperature", "warm"], "--temperature 'warm' is not a number"),
        (["--arm", "label=a,mtp=off", "--arm", "label=a,mtp=auto"], "two arms are called 'a'"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as refusal:
        resolve(*arguments)
    assert "\n" not in str(refusal.value)


def test_beside_the_stock_engine_both_are_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    arms, _ = resolve("--bundle", "m.litertlm", "--engine", "ours,litert-lm", "--mtp", "auto")
    assert [(arm.engine, arm.constrained, arm.threads) for arm in arms] == [
        ("ours", False, 4), ("litert-lm", False, 4),
    ]  # fmt: skip
    arms, _ = resolve(
        "--bundle", "m.litertlm", "--engine", "ours,litert-lm", "--mtp", "auto", "--constrained", "on", "--threads", "3"
    )
    assert [(arm.engine, arm.constrained, arm.threads) for arm in arms] == [
        ("ours", True, 3), ("litert-lm", False, 3),
    ]  # fmt: skip
    arms, _ = resolve("--bundle", "m.litertlm")
    assert {(arm.constrained, arm.threads) for arm in arms} == {(True, None)}


def test_a_list_has_no_empty_part() -> None:
    assert words("off, auto") == ["off", "auto"]
    for value in ("off,,auto", "", "off,", " "):
        with pytest.raises(click.BadParameter, match="has an empty part; separate values by single commas"):
            words(value)


def test_a_path_does_not_tell_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert homely(tmp_path / "models" / "m.litertlm") == "~/models/m.litertlm"
    assert homely(Path("/elsewhere/m.litertlm")) == "/elsewhere/m.litertlm"
