"""The published models at reduced size: for each family a random pair with all of its own features, and its bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tiny_checkpoints

SLIDING, FULL = "sliding_attention", "full_attention"

CONTEXT, PREFILL = tiny_checkpoints.CONTEXT, tiny_checkpoints.PREFILL
WIDTHS = (2, 5)
EXPERTS = "26B-A4B"


@dataclass(frozen=True)
class Family:
    """What a family's configurations say otherwise than `tiny_checkpoints`, which are E2B's."""

    unified: bool = False
    target: dict[str, Any] = field(default_factory=dict)
    drafter_text: dict[str, Any] = field(default_factory=dict)
    drafter: dict[str, Any] = field(default_factory=dict)


def _large(heads: int, kv_heads: int, global_kv_heads: int, **own: Any) -> dict[str, dict[str, Any]]:
    """No per-layer embeddings, no shared KV, heads of their own and k = v in the full layers; a dense drafter."""
    attention = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": global_kv_heads,
        "attention_k_eq_v": True,
        "use_double_wide_mlp": False,
    }
    shape = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
    return {
        "target": attention | shape | own,
        "drafter_text": attention | _layers(SLIDING, SLIDING, FULL),
        "drafter": {"use_ordered_embeddings": False},
    }


def _layers(*kinds: str) -> dict[str, Any]:
    """Layers of a drafter."""
    return {"layer_types": list(kinds), "num_hidden_layers": len(kinds), "num_kv_shared_layers": len(kinds)}


def _yarn(theta: float) -> dict[str, Any]:
    return {"rope_type": "yarn", "rope_theta": theta, "factor": 4.0, "original_max_position_embeddings": 64}


_SCALED_ROPE = {"rope_parameters": {SLIDING: _yarn(1e4), FULL: _yarn(1e6)}}

FAMILIES = {
    "E2B": Family(),
    "E4B": Family(
        target={"num_key_value_heads": 2, "use_double_wide_mlp": False},
        drafter_text={"num_key_value_heads": 2} | _layers(SLIDING, SLIDING, SLIDING, FULL),
    ),
    "12B": Family(unified=True, **_large(4, 2, 1)),
    "31B": Family(**_large(8, 4, 2)),
    "26B-A4B": Family(
        **_large(4, 4, 2, enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=24)
    ),
}
# Beside the published models: rotation that is scaled, logits that are not capped, two full layers in the drafter.
UNUSUAL = Family(
    target=_SCALED_ROPE | {"final_logit_softcapping": None, "hidden_size_per_layer_input": 0},
    drafter_text=_SCALED_ROPE | _layers(SLIDING, FULL, FULL),
    drafter={"use_ordered_embeddings": False},
)


@cache
def pair(name: str) -> tuple[Path, Path]:
    """The directories of a family's target and drafter."""
    if name == "E2B":
        return tiny_checkpoints.random_pair()
    family = FAMILIES.get(name, UNUSUAL)

    def write(folder: Path) -> None:
        tiny_checkpoints.write_pair(
            folder,
            target=family.target,
            drafter_text=family.drafter_text,
            drafter=family.drafter,
            unified=family.unified,
        )

    folder = tiny_checkpoints.once_a_run(name, write)
    return folder / "target", folder / "drafter"


@cache
def bundle(name: str, recipe: str = "fp32", kv: str = "fp32", lean: bool = False) -> Path:
    """A family's pair exported with few widths, once a run."""
    from edge_mtp.export.pipeline import export_bundle
    from edge_mtp.formats.accelerator import ACCELERATORS

    if (name, kv) == ("E2B", "fp32"):
        return tiny_checkpoints.random_bundle(recipe)  # has every width, and other tests want it too

    def export(folder: Path) -> None:
        sizes: dict[str, Any] = {"context": CONTEXT, "prefill": (PREFILL,), "widths": WIDTHS}
        served = ("cpu",) if kv == "int8" or name == EXPERTS else ACCELERATORS  # as GPU and NPU allow it
        export_bundle(
            *pair(name), folder / "few.litertlm", recipe=recipe, kv=kv, lean=lean, accelerators=served, **sizes
        )

    return tiny_checkpoints.once_a_run(f"{name}-{recipe}-{kv}", export) / "few.litertlm"
