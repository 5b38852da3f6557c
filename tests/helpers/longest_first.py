"""The order in which workers get the test files: the longest first, so that all workers end together."""

from __future__ import annotations

import pytest

# Those that take more than half a minute of a core.
LONGEST = (
    "test_parity",
    "test_vocabulary_export",
    "test_documented_commands",
    "test_remote_harness",
    "test_builds",
    "test_parts",
    "test_export",
    "test_runtime",
    "test_quantized_checkpoints",
    "test_remote",
    "test_stock_signatures",
    "test_tiny_pair",
    "test_npu_graphs",
    "test_bfcl",
    "test_attention",
    "test_gguf",
    "test_store",
    "test_report",
    "test_compare",
    "test_compile",
    "test_controller",
    "test_oracles",
    "test_planted_defects",
    "test_ratios",
)


def sort(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first; within a file, and among the others, the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
