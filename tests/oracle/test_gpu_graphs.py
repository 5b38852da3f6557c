"""The graphs for the GPU on a GPU in software: it runs all of each, and computes what the CPU does."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import tiny_checkpoints
from accelerated_graphs import FP16, check, told

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

pytestmark = pytest.mark.slow


def test_float32_is_that_of_the_cpu(vulkan: Path) -> None:
    names = ["gpu_prefill_16", "gpu_decode", "gpu_verify_2", "gpu_verify_8", "gpu_draft_1", "gpu_draft_7"]
    found = told(tiny_checkpoints.random_bundle("fp32"), "gpu", names, driver=vulkan)
    check(found, 1e-4)
    verified = found["gpu_verify_8"]["outputs"]
    assert {"logits", "activations", "tokens", "next_hidden"} < verified.keys()
    assert verified["n_accepted"] == [0, 6]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_half_precision_is_near_it(scale: float, vulkan: Path) -> None:
    """Norms must not overflow where hidden states are large, nor rotations lose the position."""
    names, options = ["gpu_prefill_16", "gpu_decode", "gpu_verify_4"], ["--precision", FP16, "--scale", str(scale)]
    found = told(tiny_checkpoints.random_bundle("fp32"), "gpu", names, *options, driver=vulkan)
    for each in found.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port not in ("n_accepted", "tokens")}
    check(found, 2e-2)


@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family not in ("E2B", families.EXPERTS)])
def test_every_family_is_that_of_the_cpu(family: str, vulkan: Path) -> None:
    names = ["gpu_decode", "gpu_verify_5", "gpu_draft_4"]
    check(told(families.bundle(family), "gpu", names, driver=vulkan), 1e-4)


def test_int8_weights_run_whole(vulkan: Path) -> None:
    """The CPU rounds what it multiplies them with, and the GPU does not."""
    names = ["gpu_prefill_16", "gpu_verify_4", "gpu_draft_3"]
    found = told(tiny_checkpoints.random_bundle("int8"), "gpu", names, driver=vulkan)
    for each in found.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port.startswith(("kv_", "logits"))}
    check(found, 1e-1)


def test_caches_on_the_gpu_are_used_in_turn(vulkan: Path) -> None:
    """LiteRT 2.3 writes garbage into a cache that it reads in the same run, and reports success.

    Once it does not any more, the second half fails: then `Call::reserve` need not double the caches.
    """
    bundle, names = tiny_checkpoints.random_bundle("fp32"), ["gpu_decode", "gpu_verify_4"]
    check(told(bundle, "gpu", names, "--caches", "two", driver=vulkan), 1e-4)
    for name, each in told(bundle, "gpu", names, "--caches", "one", driver=vulkan).items():
        apart = [difference / largest for difference, largest in each["outputs"].values() if largest > 0]
        assert max(apart) > 0.1, f"{name} is right in place: mended upstream"
