"""The graphs for an NPU through LiteRT's way to one, on OpenVINO's device for the CPU.

It runs all of each, and computes what LiteRT's CPU does. `test_parity` compares them with transformers.
"""

from __future__ import annotations

import families
import openvino_libraries
import pytest
import tiny_checkpoints
from accelerated_graphs import check, told

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        openvino_libraries.folder() is None, reason="no openvino: pip install --no-deps openvino==2026.3.1"
    ),
]


def test_float32_is_that_of_the_cpu() -> None:
    names = ["npu_prefill_16", "npu_decode", "npu_verify_2", "npu_verify_8", "npu_draft_1", "npu_draft_7"]
    found = told(tiny_checkpoints.random_bundle("fp32"), "npu", names)
    check(found, 1e-4)
    verified = found["npu_verify_8"]["outputs"]
    assert {"logits", "activations", "tokens", "next_hidden", "kv_new_k_0", "kv_new_v_0"} < verified.keys()
    assert verified["n_accepted"] == [0, 6]


@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family not in ("E2B", families.EXPERTS)])
def test_every_family_is_that_of_the_cpu(family: str) -> None:
    names = ["npu_prefill_16", "npu_decode", "npu_verify_5", "npu_draft_4"]
    check(told(families.bundle(family), "npu", names), 1e-4)


@pytest.mark.parametrize(("recipe", "tolerance"), [("int8", 1e-1), ("int4", 2e-1)])
def test_integer_weights_run_whole(recipe: str, tolerance: float) -> None:
    """The CPU rounds what it multiplies them with, and OpenVINO does not."""
    names = ["npu_prefill_16", "npu_verify_4", "npu_draft_3"]
    found = told(tiny_checkpoints.random_bundle(recipe), "npu", names)
    for each in found.values():
        each["outputs"] = {port: of for port, of in each["outputs"].items() if port.startswith(("kv_", "logits"))}
    check(found, tolerance)
