"""The shape of a Gemma 4 decoder, layer by layer, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_mtp.errors import EdgeMtpError

FULL, SLIDING = "full_attention", "sliding_attention"
# Kinds of rotary embedding whose frequencies depend only on the configuration.
ROTARY = ("default", "proportional", "linear", "yarn", "llama3")


@dataclass(frozen=True)
class Layer:
    """One decoder layer; equal layers have the same graph.

    `own_kv` is whether it has its own keys and values or reads an earlier layer's; `k_is_v` is whether its values are
    the keys before norm and rotation.
    """

    attention: str
    heads: int
    kv_heads: int
    head_dim: int
    own_kv: bool
    k_is_v: bool
    intermediate: int


@dataclass(frozen=True)
class Experts:
    """Sizes of a mixture-of-experts block: `chosen` of `count` experts see each token."""

    count: int
    chosen: int
    intermediate: int


@dataclass(frozen=True)
class Decoder:
    """A decoder's layers and the parameters that they share.

    `per_layer` is the width of the per-layer embeddings, 0 without; `frequencies` the inverse frequencies of the rotary
    embedding by attention type, [head_dim / 2] each; `scaling` what its cosines and sines are multiplied by.
    """

    layers: tuple[Layer, ...]
    hidden: int
    vocabulary: int
    per_layer_vocabulary: int
    per_layer: int
    window: int
    softcap: float | None
    epsilon: float
    experts: Experts | None
    frequencies: dict[str, Any]
    scaling: dict[str, float]

    @property
    def attentions(self) -> tuple[str, ...]:
        """The types of attention, each once, in order of appearance."""
        return tuple(dict.fromkeys(layer.attention for layer in self.layers))

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """The layers that have their own keys and values."""
        return tuple(index for index, layer in enumerate(self.layers) if layer.own_kv)

    def kv_bytes(self, kv: str) -> int:
        """Bytes of the KV caches per position; `kv` is their type, `fp32` or `int8`."""
        numbers = sum(2 * self.layers[index].kv_heads * self.layers[index].head_dim for index in self.kv_layers)
        return numbers * (1 if kv == "int8" else 4)

    def kv_source(self, attention: str) -> int:
        """The layer whose KV the sharing layers of a type read: the last of that type with its own KV."""
        return max(index for index in self.kv_layers if self.layers[index].attention == attention)

    def group(self, attention: str) -> int:
        """Query heads per KV head."""
        layer = next(layer for layer in self.layers if layer.attention == attention)
        return layer.heads // layer.kv_heads

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """From a transformers text configuration of Gemma 4.

        Raises:
            EdgeMtpError: no Gemma 4 has its kind of rotary embedding.
        """
        for attention, rope in config.rope_parameters.items():
            if rope["rope_type"] not in ROTARY:
                raise EdgeMtpError(
                    f"the checkpoint's config has rope_type={rope['rope_type']!r} in {attention}, which no Gemma 4 has:"
                    " export another one"
                )
        rotary = _rotary(config)
        own = config.num_hidden_layers - config.num_kv_shared_layers
        layers = tuple(_layer(config, index, index < own) for index in range(config.num_hidden_layers))
        attentions = sorted({layer.attention for layer in layers})  # in a fixed order, which cache keys depend on
        return cls(
            layers=layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            per_layer_vocabulary=getattr(config, "vocab_size_per_layer_input", 0) or 0,
            per_layer=getattr(config, "hidden_size_per_layer_input", 0) or 0,
            window=config.sliding_window,
            softcap=config.final_logit_softcapping,
            epsilon=config.rms_norm_eps,
            experts=_experts(config),
            frequencies={kind: getattr(rotary, f"{kind}_inv_freq") for kind in attentions},
            scaling={kind: getattr(rotary, f"{kind}_attention_scaling") for kind in attentions},
        )


def _rotary(config: Any) -> Any:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRotaryEmbedding

    return Gemma4TextRotaryEmbedding(config)


def _layer(config: Any, index: int, own_kv: bool) -> Layer:
    overrides = config.per_layer_config[index]
    attention = config.layer_types[index]
    wide = config.use_double_wide_mlp and not own_kv
    return Layer(
        attention=attention,
        heads=config.num_attention_heads,
        kv_heads=overrides.num_key_value_heads,
        head_dim=overrides.head_dim,
        own_kv=own_kv,
        k_is_v=own_kv and config.attention_k_eq_v and attention == FULL,
        intermediate=config.intermediate_size * (2 if wide else 1),
    )


def _experts(config: Any) -> Experts | None:
    if not getattr(config, "enable_moe_block", False):
        return None
    return Experts(config.num_experts, config.top_k_experts, config.moe_intermediate_size)
