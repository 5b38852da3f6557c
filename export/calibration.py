"""Computes the scales of an int8 KV cache from the checkpoint alone.

Keys and values are normalised before they enter the cache, so their range is known without running the model: a value
has mean square 1 over its head, a key the same times the weight of `k_norm`, and rotation keeps the size of each pair.
So none is larger than the square root of the head's size. A scale covers that or `SPREAD` standard deviations,
whichever is less, and larger numbers are clipped. Target and drafter read the same caches and get the same scales.
"""

from __future__ import annotations

import numpy as np

from edge_mtp.export.checkpoint import Checkpoint
from edge_mtp.export.decoder import Decoder

LARGEST = 127
SPREAD = 8.0


def cache_scales(target: Checkpoint) -> dict[str, float]:
    """The scale of each cache, `N.k` and `N.v` for layer N: the checkpoint's own, where it was trained with them."""
    scales, decoder = {}, Decoder.of(target.config)
    trained = target.weights.cache_scales
    wanted = [f"{layer}.{kind}" for layer in decoder.kv_layers for kind in "kv"]
    if all(trained.get(name, 0.0) > 0.0 for name in wanted):
        return {name: trained[name] for name in wanted}
    for layer in decoder.kv_layers:
        largest = min(SPREAD, decoder.layers[layer].head_dim ** 0.5)
        weight = target.weights.read(f"model.layers.{layer}.self_attn.k_norm.weight")
        scales[f"{layer}.k"] = largest * float(np.abs(weight).max()) / LARGEST
        scales[f"{layer}.v"] = largest / LARGEST
    return scales
