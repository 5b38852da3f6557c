"""Which accelerators get graphs of their own in a bundle, and what they cannot run.

docs/accelerators.md has what was seen with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import recipes
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.recipes import Recipe
from edge_mtp.formats.accelerator import ACCELERATORS, CPU, GPU

# Encodings of weights that GPU and NPU take. LiteRT 2.3 on a GPU refuses fp16, and blocks end the process there.
# OpenVINO's plug-in for NPUs refuses blocks. It takes fp16, but one list serves both.
ENCODINGS = ("fp32", "int8", "int4")


def chosen(wanted: Sequence[str], pair: Pair, recipe: Recipe, kv: str) -> tuple[str, ...]:
    """The accelerators to make graphs for: those that are wanted, and always the CPU.

    Raises:
        EdgeMtpError: one that is wanted is unknown, or cannot run the model or what the recipe stores.
    """
    for name in wanted:
        if name not in ACCELERATORS:
            raise EdgeMtpError(f"no accelerator {name!r}: take one of {', '.join(ACCELERATORS)}")
    others = tuple(name for name in ACCELERATORS if name in wanted and name != CPU)
    if others and getattr(pair.target.config, "enable_moe_block", False):
        raise EdgeMtpError(f"the {others[0].upper()} cannot run a mixture of experts: take --accelerators cpu")
    for name in others:
        reason = refusal(name, pair.target.weights.names, pair.drafter.weights.names, recipe, kv)
        if reason:
            raise EdgeMtpError(f"{reason}, or --accelerators cpu")
    return CPU, *others


def refusal(
    accelerator: str,
    target: Mapping[str, Sequence[int]],
    drafter: Mapping[str, Sequence[int]],
    recipe: Recipe,
    kv: str,
) -> str:
    """Why an accelerator, GPU or NPU, cannot run a pair of these shapes in this recipe, with the cure; "" if it can."""
    shown = accelerator.upper()
    if kv != "fp32" and accelerator == GPU:
        return f"the GPU rounds a KV cache in {kv} otherwise than the CPU: take --kv fp32"
    if kv != "fp32":
        return f"the {shown} has no graphs for a KV cache in {kv}: take --kv fp32"
    for section, weights in ((recipes.PREFILL_DECODE, target), (recipes.DRAFTER, drafter)):
        for name, shape in weights.items():
            if name == recipes.PER_LAYER_TABLE:
                continue
            encoding = recipe.encoding(section, name, shape)
            if encoding.name not in ENCODINGS:
                stored = "in blocks" if encoding.block else f"in {encoding}"
                return f"the {shown} cannot run recipe {recipe.name}, which stores {name} {stored}: take int8 or int4"
    return ""
