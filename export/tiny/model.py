"""The configurations of the tiny pair; builds, saves and loads a pair with transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GenerationConfig,
)

from edge_mtp.export.shapes import drafters_allowed
from edge_mtp.export.tiny.tokenizer import CONTROL_TOKENS, VOCAB_SIZE

STOP_TOKEN_IDS = [CONTROL_TOKENS["<turn|>"], CONTROL_TOKENS["<|tool_response>"]]
MAX_CONTEXT = 4096
DRAFT_LENGTH = 3

_ATTENTION: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 64,
    "max_position_embeddings": MAX_CONTEXT,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": 1_000_000.0,
            "partial_rotary_factor": 0.25,
        },
    },
}


def target_config() -> Gemma4TextConfig:
    """Every structural feature of Gemma 4 E2B at small size: 1.2 M parameters, 4 KV layers under 6 layers."""
    return Gemma4TextConfig(
        vocab_size=VOCAB_SIZE,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size=128,
        hidden_size_per_layer_input=16,
        intermediate_size=192,
        use_double_wide_mlp=True,
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        bos_token_id=CONTROL_TOKENS["<bos>"],
        eos_token_id=STOP_TOKEN_IDS,
        pad_token_id=CONTROL_TOKENS["<pad>"],
        **_ATTENTION,
    )


def drafter_config() -> Gemma4AssistantConfig:
    """Two layers of queries over the target's KV, and a head over 16 of 64 clusters of 16 tokens."""
    text = Gemma4TextConfig(
        vocab_size=VOCAB_SIZE,
        vocab_size_per_layer_input=0,
        hidden_size=64,
        hidden_size_per_layer_input=0,
        intermediate_size=128,
        num_hidden_layers=2,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
        bos_token_id=CONTROL_TOKENS["<bos>"],
        eos_token_id=STOP_TOKEN_IDS,
        pad_token_id=CONTROL_TOKENS["<pad>"],
        **_ATTENTION,
    )
    return Gemma4AssistantConfig(
        text_config=text,
        backbone_hidden_size=target_config().hidden_size,
        use_ordered_embeddings=True,
        num_centroids=64,
        centroid_intermediate_top_k=16,
        tie_word_embeddings=True,
    )


def new_pair(seed: int) -> tuple[Gemma4ForCausalLM, Gemma4AssistantForCausalLM]:
    """A pair with fresh weights.

    Gemma 4 does not scale attention scores by 1/sqrt(d): the norms of queries and keys do, so they start at that scale.
    """
    torch.manual_seed(seed)
    target = Gemma4ForCausalLM(target_config())
    with drafters_allowed():
        drafter = Gemma4AssistantForCausalLM(drafter_config())
    with torch.no_grad():
        for model in (target, drafter):
            for name, parameter in model.named_parameters():
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    parameter.fill_(1.5 * parameter.numel() ** -0.25)
                elif parameter.ndim == 2 and "embed" not in name:
                    torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
                elif name.endswith("embed_tokens.weight"):
                    torch.nn.init.normal_(parameter, std=0.05)
        centroid_head(drafter).token_ordering.copy_(torch.arange(VOCAB_SIZE))
    return target, drafter


def centroid_head(drafter: Gemma4AssistantForCausalLM) -> Any:
    """The drafter's clusters: `centroids` (linear, h to 64) and `token_ordering` i64 [V]."""
    assert drafter.masked_embedding is not None
    return drafter.masked_embedding


def load_pair(
    directory: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[Gemma4ForCausalLM, Gemma4AssistantForCausalLM]:
    """The pair saved under `directory/target` and `directory/drafter`, in eval mode."""
    directory = Path(directory)
    with drafters_allowed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Gemma4ForCausalLM.from_pretrained(directory / "target", dtype=dtype)
        drafter = Gemma4AssistantForCausalLM.from_pretrained(directory / "drafter", dtype=dtype)
    return target.train(False), drafter.train(False)


def save_pair(directory: str | Path, target: Gemma4ForCausalLM, drafter: Gemma4AssistantForCausalLM) -> None:
    """Save weights (bfloat16), configs and generation configs under `directory/target` and `directory/drafter`."""
    directory = Path(directory)
    generation: dict[str, Any] = {
        "bos_token_id": CONTROL_TOKENS["<bos>"],
        "eos_token_id": STOP_TOKEN_IDS,
        "pad_token_id": CONTROL_TOKENS["<pad>"],
    }
    models: dict[str, Any] = {"target": target, "drafter": drafter}
    for name, model in models.items():
        with drafters_allowed():
            rounded = type(model)(model.config)
        rounded.load_state_dict(model.state_dict())
        config: Any = GenerationConfig(**generation)
        if name == "drafter":
            config.num_assistant_tokens = DRAFT_LENGTH
            config.num_assistant_tokens_schedule = "constant"
        rounded.generation_config = config
        rounded.to(torch.bfloat16).save_pretrained(directory / name)
