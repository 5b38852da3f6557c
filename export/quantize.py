"""Weight quantization of a converted file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_edge_quantizer import quantizer, recipe

from edge_mtp.export.quiet import quiet

# By the name the command line uses: the name of the quantizer's recipe, and the recipe.
RECIPES: dict[str, tuple[str, Callable[[], Any] | None]] = {
    "fp32": ("none", None),
    # Linear layers and embedding tables int8, a scale per output channel or row; activations and KV float32.
    "int8": ("dynamic_wi8_afp32", recipe.dynamic_wi8_afp32),
}


def quantize(source: Path, target: Path, name: str) -> None:
    """Write `source` quantized by the recipe `name` to `target`; for fp32 just move it there."""
    _, make = RECIPES[name]
    if make is None:
        source.replace(target)
        return
    with quiet():
        quantized = quantizer.Quantizer(str(source), make()).quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
        target.write_bytes(quantized.quantized_model)
    source.unlink()
