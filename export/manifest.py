"""The manifest of a bundle: how it was made and how it wants to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_mtp.export.chat import Chat
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.identity import versions
from edge_mtp.export.options import Options
from edge_mtp.formats.manifest import EDGE_KEY, MANIFEST_VERSION, Manifest

if TYPE_CHECKING:
    from edge_mtp.export.stock_template import Trial

# From 2 on, our own signatures are in a section of their own; from 3 on, those for each accelerator; from 4 on, those
# for the CPU take no mask.
SIGNATURES_VERSION = 4
# The stock engine that is known to pass the drafter P - 1 and to run these bundles.
MINIMUM_ENGINE = "litert-lm 0.18.1"


def manifest_of(pair: Pair, options: Options, chat: Chat, source: dict[str, Any], templates: Trial) -> Manifest:
    """The manifest of the bundle that an export makes. `source`: the checkpoints' hashes and origins."""
    from edge_mtp.export import layers, ops

    config = pair.target.config
    packages = versions()
    manifest: Manifest = {
        EDGE_KEY: MANIFEST_VERSION,
        "versions": {
            "edge-mtp": packages.pop("edge-mtp"),
            "ops": dict.fromkeys(ops.OPS, ops.VERSION),
            "signatures": SIGNATURES_VERSION,
            "converters": packages,
        },
        "minimum_engine": MINIMUM_ENGINE,
        "source": source,
        "recipe": {
            "name": options.recipe.name,
            "roles": {role: encoding.name for role, encoding in options.recipe.roles.items()},
            "overrides": {pattern: encoding.name for pattern, encoding in options.recipe.overrides},
            "kv": options.kv,
            "int8_instead": list(options.recipe.int8_instead(pair.target.weights.names, pair.drafter.weights.names)),
        },
        "context": options.context,
        "prefill_lengths": list(options.prefill),
        "verify_widths": list(options.widths),
        "draft_lengths": [width - 1 for width in options.widths],
        "lean": options.lean,
        "accelerators": list(options.accelerators),
        "drafter_kv": [f"kv_cache_{kind}_{layer}" for layer in pair.kv_layers.values() for kind in "kv"],
        # The drafter's graphs take input_pos = P - 1 and add this: transformers' position of a draft is P.
        "drafter_position_offset": layers.DRAFTER_POSITION_OFFSET,
        "chat": {
            "format": "gemma4",
            "start_token": chat.start_token,
            "pad_token": chat.pad_token,
            "stop_tokens": chat.stop_tokens,
            "thinking": chat.thinking,
            "tools": chat.tools,
        },
        # The checkpoint's own template has a section where the metadata has another (`export.stock_template`).
        "stock_template": {"kind": templates.stock.kind, "reason": templates.stock.reason},
        # Nothing else in the bundle names the chat template's variables.
        "special_tokens": pair.special_tokens,
        "model": {
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "kv_layers": config.num_hidden_layers - config.num_kv_shared_layers,
            "per_layer_width": getattr(config, "hidden_size_per_layer_input", 0) or 0,
            "vocab_size": config.vocab_size,
            "sliding_window": config.sliding_window,
        },
    }
    # Of a quantized checkpoint.
    if kept := options.recipe.kept_groups():
        manifest["recipe"]["kept"] = kept
    if ranges := ranges_of(pair):
        manifest["activation_ranges"] = ranges
    return manifest


def ranges_of(pair: Pair) -> dict[str, list[float]]:
    """The static ranges that the checkpoints were trained with, a drafter's modules with `drafter.` before them."""
    owned = ("", pair.target.weights), ("drafter.", pair.drafter.weights)
    found = {owner + module: of for owner, weights in owned for module, of in weights.ranges.items()}
    return {module: list(of) for module, of in found.items() if any(of)}
