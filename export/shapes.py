"""Names and shapes of a Gemma 4 decoder's tensors, from its configuration alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# By model_type, the module below transformers.models and the class whose state_dict a configuration describes.
_MODELS = {
    "gemma4_text": ("gemma4.modeling_gemma4", "Gemma4ForCausalLM"),
    "gemma4_unified_text": ("gemma4_unified.modeling_gemma4_unified", "Gemma4UnifiedForCausalLM"),
    "gemma4_assistant": ("gemma4_assistant.modeling_gemma4_assistant", "Gemma4AssistantForCausalLM"),
    "gemma4_unified_assistant": (
        "gemma4_unified_assistant.modeling_gemma4_unified_assistant",
        "Gemma4UnifiedAssistantForCausalLM",
    ),
}
HEAD = "lm_head.weight"  # where it is not tied to the embedding


@contextmanager
def drafters_allowed() -> Iterator[None]:
    """Let transformers build a decoder whose layers all read another model's KV.

    transformers 5.23 looks for the layer whose KV the shared layers reuse, and refuses a decoder that has none, such as
    every Gemma 4 drafter.
    """
    import transformers

    classes: tuple[Any, ...] = (transformers.Gemma4TextConfig, transformers.Gemma4UnifiedTextConfig)
    originals = [each.kv_sharing_modes for each in classes]

    def patched(original: Any) -> property:
        def kv_sharing_modes(config: Any) -> list[str | None]:
            if config.num_kv_shared_layers == config.num_hidden_layers:
                return ["reuse"] * config.num_hidden_layers
            modes: list[str | None] = original.__get__(config)
            return modes

        return property(kv_sharing_modes)

    for each, original in zip(classes, originals, strict=True):
        each.kv_sharing_modes = patched(original)
    try:
        yield
    finally:
        for each, original in zip(classes, originals, strict=True):
            each.kv_sharing_modes = original


def model_class(config: Any) -> Any:
    """The transformers class of a decoder's configuration: a Gemma 4 (unified) text or assistant config."""
    module, name = _MODELS[config.model_type]
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def tensor_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shape by name of the model's state_dict, without a tied head; no memory is taken for the tensors."""
    import torch

    with drafters_allowed(), torch.device("meta"):
        state = model_class(config)(config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    return shapes
