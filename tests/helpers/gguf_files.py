"""GGUF files of Gemma 4 checkpoints, written by the package `gguf` in the form of llama.cpp's converter."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from transformers import AutoConfig

from edge_mtp.export.checkpoint import DRAFTER_TYPES, tiny_pair
from edge_mtp.export.shapes import drafters_allowed

Floats = npt.NDArray[np.float32]
BLOCK = 32
_SIDES = (("|", ""), ("", "|"))
# The types that the package can write.
WRITTEN = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)
# transformers' names and llama.cpp's; `experts` and `router` take no `.weight` here.
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    "model.norm": "output_norm",
    "lm_head": "output",
    "pre_projection": "nextn.pre_projection",
    "post_projection": "nextn.post_projection",
    "masked_embedding.centroids": "masked_embd_centroids",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
    "router.proj": "ffn_gate_inp",
    "experts.gate_up_proj": "ffn_gate_up_exps",
    "experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "layer_scalar": "layer_output_scale",
}
_WHOLE = {"router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale"}


def write(
    folder: Path,
    path: Path,
    kind: Kind = Kind.BF16,
    *,
    change: Callable[[str, Floats], Floats | None] = lambda name, values: values,
    keys: dict[str, Any] | None = None,
    tokenizer: Path | None = None,
    fused: bool = False,
) -> Path:
    """The checkpoint in `folder` as a GGUF file with matrices of `kind`, where their rows have whole blocks.

    `change` gives a tensor other values, by llama.cpp's name; None leaves it out. `keys` change the metadata; None
    leaves a key out. `tokenizer`: the folder that the vocabulary comes from. `fused`: queries, keys and values are one
    matrix.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    is_drafter = config["model_type"] in DRAFTER_TYPES
    architecture = "gemma4-assistant" if is_drafter else "gemma4"
    writer = gguf.GGUFWriter(path, architecture)
    known = _keys(config, architecture) | (vocabulary(tokenizer) if tokenizer else {}) | (keys or {})
    for key, value in known.items():
        _add(writer, key, value)
    tensors = dict(_tensors(folder, config))
    for name in [name for name in tensors if fused and name.endswith("attn_v.weight")]:
        layer = name.removesuffix("attn_v.weight")
        parts = [tensors.pop(f"{layer}attn_{part}.weight") for part in "qkv"]
        tensors[f"{layer}attn_qkv.weight"] = np.concatenate(parts)
    for name, values in tensors.items():
        changed = change(name, values)
        if changed is not None:
            add(writer, name, changed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, name: str, values: Any, kind: Kind) -> None:
    """Vectors and norms stay F32, as in the converter."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if values.ndim < 2 or "norm" in name or not name.endswith(".weight"):
        kind = Kind.F32
    elif values.shape[-1] % block:
        kind = Kind.F16
    if values.dtype.kind == "i":
        writer.add_tensor(name, values.astype(np.int32))
    else:
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values, np.float32), kind), raw_dtype=kind)


@cache
def tiny(kind: Kind, folder: Path) -> Path:
    """The tiny target, with its tokenizer."""
    target, _ = tiny_pair()
    return write(target, folder / f"tiny-{kind.name}.gguf", kind, tokenizer=target)


def on_lattice(name: str, values: Floats) -> Floats:
    """A matrix whose blocks are steps times -8 to 7, with a -8 in each: Q4_0 holds it exactly, with positive steps."""
    if values.ndim < 2 or values.shape[-1] % BLOCK or "norm" in name or "embd" in name:
        return values
    blocks = values.reshape(-1, BLOCK)
    steps = (np.abs(blocks).max(axis=1, keepdims=True) / 8).astype(np.float16).astype(np.float32)
    levels = np.clip(np.rint(blocks / np.where(steps, steps, 1)), -8, 7)
    levels[np.arange(len(levels)), np.abs(levels).argmax(axis=1)] = -8
    snapped: Floats = (steps * levels).reshape(values.shape).astype(np.float32)
    return snapped


def vocabulary(folder: Path) -> dict[str, Any]:
    """The keys that the converter makes of tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    parsed = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings_file, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = json.loads(settings_file.read_text("utf-8")) if settings_file.is_file() else {}
    ids = dict(parsed["model"]["vocab"]) | {entry["content"]: entry["id"] for entry in parsed["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    named = {name: settings.get(f"{name}_token", f"<{name}>") for name in ("bos", "eos", "unk", "pad")}
    shown = {f"<{left}{name}{right}>" for name in ("channel", "tool_call", "tool_response") for left, right in _SIDES}
    shown.add('<|"|>')
    types = [4 if t in shown else 3 if t in named.values() else 6 if _is_byte(t) else 1 for t in tokens]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in parsed["model"]["merges"]]
    words = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-1000.0] * len(tokens),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{words[name]}_token_id": ids[text] for name, text in named.items() if text in ids},
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": True,
    } | ({"tokenizer.chat_template": template.read_text("utf-8")} if template.is_file() else {})


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _keys(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    kind = config["model_type"]
    with drafters_allowed():
        parsed = AutoConfig.for_model(kind, **{key: value for key, value in config.items() if key != "model_type"})
    text = parsed.get_text_config()
    layers = [text.per_layer_config[layer] for layer in range(text.num_hidden_layers)]
    full = next(of for of, each in zip(layers, text.layer_types, strict=True) if each == "full_attention")
    sliding = next(of for of, each in zip(layers, text.layer_types, strict=True) if each == "sliding_attention")
    own = text.num_hidden_layers - text.num_kv_shared_layers
    width = text.intermediate_size
    doubles = getattr(text, "use_double_wide_mlp", False)
    widths = [width * (2 if layer >= own else 1) for layer in range(text.num_hidden_layers)] if doubles else width
    heads = [of.num_key_value_heads for of in layers]
    rope = text.rope_parameters
    keys = {
        "block_count": text.num_hidden_layers,
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": widths,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": heads if len(set(heads)) > 1 else heads[0],
        "rope.freq_base": float(rope["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": float(rope["sliding_attention"]["rope_theta"]),
        "attention.layer_norm_rms_epsilon": text.rms_norm_eps,
        "attention.key_length": full.head_dim,
        "attention.value_length": full.head_dim,
        "final_logit_softcapping": text.final_logit_softcapping,
        "attention.sliding_window": text.sliding_window,
        "attention.shared_kv_layers": text.num_kv_shared_layers,
        "embedding_length_per_layer_input": getattr(text, "hidden_size_per_layer_input", 0) or 0,
        "attention.sliding_window_pattern": [each == "sliding_attention" for each in text.layer_types],
        "attention.key_length_swa": sliding.head_dim,
        "attention.value_length_swa": sliding.head_dim,
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": sliding.head_dim,
    }
    if getattr(text, "enable_moe_block", False):
        keys |= {
            "expert_count": text.num_experts,
            "expert_used_count": text.top_k_experts,
            "expert_feed_forward_length": text.moe_intermediate_size,
        }
    if architecture == "gemma4-assistant":
        keys |= {"embedding_length_out": parsed.backbone_hidden_size, "nextn_predict_layers": text.num_hidden_layers}
    return {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}


def _tensors(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    from safetensors.torch import load_file

    text = config.get("text_config", config)
    full = text.get("global_head_dim") or next(iter((text.get("per_layer_config") or {"": {"head_dim": 512}}).values()))
    size = full if isinstance(full, int) else full["head_dim"]
    turned = int(size * 0.25 / 2)
    tensors: dict[str, Any] = {
        "rope_freqs.weight": np.array([1.0] * turned + [1e30] * (size // 2 - turned), np.float32)
    }
    for name, values in load_file(folder / "model.safetensors").items():
        numbers = values.numpy() if values.dtype.is_floating_point is False else values.float().numpy()
        tensors[gguf_name(name)] = numbers
    return tensors


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    if name == "masked_embedding.token_ordering":
        return "masked_embd_ordering"
    base = name.removesuffix(".weight")
    if not base.startswith("model.layers."):
        return f"{_NAMES[base]}.weight"
    layer, rest = base.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_WHOLE.get(rest) or _IN_LAYER[rest] + '.weight'}"


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
