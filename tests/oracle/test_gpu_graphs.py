"""The graphs for the GPU on a GPU in software: it runs all of each, and computes what the CPU does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import families
import pytest
import tiny_checkpoints

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).parents[1] / "helpers"
FP32, FP16 = "2", "1"  # LiteRT's numbers for the precision in which a GPU computes


def run(
    bundle: Path, driver: Path, signatures: list[str], precision: str = FP32, scale: float = 1.0
) -> dict[str, dict[str, Any]]:
    """What `gpu_graphs` tells of each signature, by name."""
    command = [
        sys.executable,
        str(HELPERS / "gpu_graphs.py"),
        str(bundle),
        str(driver),
        ",".join(signatures),
        precision,
        str(scale),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if "cannot open shared object file" in done.stderr:
        pytest.skip("no Vulkan loader: install libvulkan1")
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["name"] for each in told] == signatures, done.stderr[-2000:]
    return {each["name"]: each for each in told}


def check(told: dict[str, dict[str, Any]], tolerance: float) -> None:
    """Every output of every signature, within `tolerance` of the largest value."""
    for name, each in told.items():
        assert each["full"], f"the CPU runs a part of {name}"
        for port, (difference, largest) in each["outputs"].items():
            assert difference <= tolerance * largest, f"{name} {port}: {difference:.2e} of {largest:.2f}"


def test_float32_is_that_of_the_cpu(vulkan: Path) -> None:
    names = ["gpu_prefill_16", "gpu_decode", "gpu_verify_2", "gpu_verify_8", "gpu_draft_1", "gpu_draft_7"]
    told = run(tiny_checkpoints.random_bundle("fp32"), vulkan, names)
    check(told, 1e-4)
    verified = told["gpu_verify_8"]["outputs"]
    assert {"logits", "activations", "tokens", "next_hidden"} < verified.keys()
    assert verified["n_accepted"] == [0, 6]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_half_precision_is_near_it(scale: float, vulkan: Path) -> None:
    """Norms must not overflow where hidden states are large, nor rotations lose the position."""
    names = ["gpu_prefill_16", "gpu_decode", "gpu_verify_4"]
    told = run(tiny_checkpoints.random_bundle("fp32"), vulkan, names, FP16, scale)
    for each in told.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port not in ("n_accepted", "tokens")}
    check(told, 2e-2)


@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family not in ("E2B", families.EXPERTS)])
def test_every_family_is_that_of_the_cpu(family: str, vulkan: Path) -> None:
    check(run(families.bundle(family), vulkan, ["gpu_decode", "gpu_verify_5", "gpu_draft_4"]), 1e-4)


def test_int8_weights_run_whole(vulkan: Path) -> None:
    """The CPU rounds what it multiplies them with, and the GPU does not."""
    names = ["gpu_prefill_16", "gpu_verify_4", "gpu_draft_3"]
    told = run(tiny_checkpoints.random_bundle("int8"), vulkan, names)
    for each in told.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port.startswith(("kv_", "logits"))}
    check(told, 1e-1)
