"""The defaults of an export, for `edge-mtp export` and for `export_bundle` alike.

Imports nothing heavy: the command line reads its options from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_mtp.export.checkpoint import Pair

RECIPE = "int8"
KV = "fp32"
KV_TYPES = ("fp32", "int8")
# Graphs for the GPU take as long to trace again, and no runner of ours uses them yet.
ACCELERATORS = ("cpu",)

VERIFY_WIDTHS = tuple(range(2, 9))  # all that an export can make
# Wider ones cost every runtime that loads the bundle, and gained nothing in what benchmarks/full_size.py measured.
WIDTHS = tuple(range(2, 7))

# A row of a mixture of experts chooses its own experts and needs a graph of its own, so a pass has few rows.
PREFILL, PREFILL_OF_EXPERTS = (128,), (16,)

CONTEXT = 4096  # for a model that the catalogue does not know


def prefill(pair: Pair) -> tuple[int, ...]:
    """Rows of the prefill signatures that suit the target."""
    return PREFILL_OF_EXPERTS if getattr(pair.target.config, "enable_moe_block", False) else PREFILL


def context(target: Path) -> int:
    """Positions in the KV cache that suit the checkpoint in the folder `target`: the catalogue's figure for its base
    model, or `CONTEXT` where the base is unknown."""
    from edge_mtp.export import catalogue, tiny
    from edge_mtp.export.checkpoint import tiny_pair

    if target == tiny_pair()[0]:
        return tiny.CONTEXT
    base = catalogue.base_of(target)
    return base.context if base else CONTEXT
