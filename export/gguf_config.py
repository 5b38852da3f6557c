"""The configuration of a Gemma 4 or its drafter, from a GGUF file's metadata: what config.json says elsewhere.

The keys are those that llama.cpp's converter writes (conversion/gemma.py) and its loaders read (src/models/gemma4.cpp,
gemma4-assistant.cpp). What they leave out is the same in every Gemma 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.gguf_file import GgufFile, GgufTensor

Config = dict[str, Any]

TARGET, DRAFTER = "gemma4", "gemma4-assistant"
CENTROIDS, ORDERING = "masked_embd_centroids.weight", "masked_embd_ordering"
# Of the drafters with centroids that are published; no key has it.
_NEAREST = 32

_SLIDING, _FULL = "sliding_attention", "full_attention"
_UNROTATED = 1e29  # a divisor of a frequency so large that nothing turns


def config_of(file: GgufFile) -> Config:
    """The contents of config.json for transformers.

    Raises:
        EdgeMtpError: the file is another model's, a key is missing or odd, or the model is none that transformers'
            Gemma 4 can be.
    """
    if file.architecture == TARGET:
        return _decoder(file)
    if file.architecture != DRAFTER:
        raise EdgeMtpError(
            f"{file.path} is a {file.architecture!r}: give the GGUF file of a Gemma 4 ({TARGET!r}) or of its drafter"
            f" ({DRAFTER!r})"
        )
    text = _decoder(file)
    ordered = CENTROIDS in file.tensors and ORDERING in file.tensors
    centroids = file.tensors[CENTROIDS].shape[0] if ordered else 0
    return {
        "model_type": "gemma4_assistant",
        "text_config": text,
        "backbone_hidden_size": _Keys(file).whole("embedding_length_out"),
        "use_ordered_embeddings": ordered,
        "tie_word_embeddings": True,
    } | ({"num_centroids": centroids, "centroid_intermediate_top_k": min(_NEAREST, centroids)} if ordered else {})


def _decoder(file: GgufFile) -> Config:
    keys = _Keys(file)
    layers = keys.whole("block_count")
    sliding = keys.flags("attention.sliding_window_pattern", layers)
    kinds = [_SLIDING if each else _FULL for each in sliding]
    shared = keys.whole("attention.shared_kv_layers", 0)
    heads = keys.by_layer("attention.head_count_kv", layers)
    full_size = keys.whole("attention.key_length")
    most_heads = _only(file, "head_count_kv", heads, kinds, _SLIDING, heads[0])
    full_heads = _only(file, "head_count_kv", heads, kinds, _FULL, most_heads)
    of_full = {"head_dim": full_size} | ({"num_key_value_heads": full_heads} if full_heads != most_heads else {})
    is_target = file.architecture == TARGET
    narrow, doubles = _widths(file, keys.by_layer("feed_forward_length", layers), layers - shared)
    per_layer = keys.whole("embedding_length_per_layer_input", 0)
    experts = keys.whole("expert_count", 0)
    keys.same("attention.value_length", full_size)
    size = keys.whole("attention.key_length_swa")
    keys.same("attention.value_length_swa", size)
    keys.same("rope.dimension_count", full_size)
    keys.same("rope.dimension_count_swa", size)
    keys.same("rope.scaling.type", "none")
    vocabulary = _tensor(file, "token_embd.weight").shape[0]
    config: Config = {
        "model_type": "gemma4_text",
        "vocab_size": vocabulary,
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": narrow,
        "use_double_wide_mlp": doubles,
        "num_hidden_layers": layers,
        "num_kv_shared_layers": shared,
        "layer_types": kinds,
        "num_attention_heads": _uniform(file, "head_count", keys.by_layer("attention.head_count", layers)),
        "num_key_value_heads": most_heads,
        "head_dim": size,
        "per_layer_config": {str(layer): of_full for layer, kind in enumerate(kinds) if kind == _FULL},
        "attention_k_eq_v": is_target and _keys_are_values(file, kinds[: layers - shared]),
        "sliding_window": keys.whole("attention.sliding_window"),
        "max_position_embeddings": keys.whole("context_length"),
        "rope_parameters": {
            _SLIDING: {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa", 10_000.0)},
            _FULL: {
                "rope_type": "proportional",
                "partial_rotary_factor": _rotated(file, full_size) if _FULL in kinds else 0.25,
                "rope_theta": keys.number("rope.freq_base"),
            },
        },
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 0.0) or None,
        "hidden_size_per_layer_input": per_layer,
        "vocab_size_per_layer_input": _tensor(file, "per_layer_token_embd.weight").shape[0] if per_layer else 0,
        "tie_word_embeddings": not (is_target and "output.weight" in file.tensors),
        "enable_moe_block": experts > 0,
    }
    if experts:
        config |= {
            "num_experts": experts,
            "top_k_experts": keys.whole("expert_used_count"),
            "moe_intermediate_size": _uniform(
                file, "expert_feed_forward_length", keys.by_layer("expert_feed_forward_length", layers)
            ),
        }
    return config | _tokens(file, vocabulary)


def _tokens(file: GgufFile, vocabulary: int) -> Config:
    """The ids that begin, pad and end a text."""

    def token(name: str) -> int | None:
        found = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if found is not None and (type(found) is not int or not 0 <= found < vocabulary):
            raise EdgeMtpError(f"{file.path} has {name}_token_id {found!r}, which is no token: convert it again")
        return found

    ends = sorted({end for name in ("eos", "eot") if (end := token(name)) is not None})
    return {"bos_token_id": token("bos"), "pad_token_id": token("padding"), "eos_token_id": ends or None}


def _keys_are_values(file: GgufFile, kinds: list[str]) -> bool:
    """Whether full layers that compute keys of their own have no matrix for values."""
    full = [layer for layer, kind in enumerate(kinds) if kind == _FULL]
    return bool(full) and not any(
        f"blk.{layer}.{name}.weight" in file.tensors for layer in full for name in ("attn_v", "attn_qkv")
    )


def _widths(file: GgufFile, widths: list[int], own: int) -> tuple[int, bool]:
    """The MLPs' width, and whether the layers behind the first `own` ones have twice that."""
    first = widths[0]
    doubles = own < len(widths) and own > 0 and widths[-1] == 2 * first
    if widths != [first * (2 if doubles and layer >= own else 1) for layer in range(len(widths))]:
        raise _odd(file, "feed_forward_length", widths)
    return first, doubles


def _rotated(file: GgufFile, size: int) -> float:
    """The share of a full layer's head that position turns: the converter writes what divides each frequency."""
    tensor = _tensor(file, "rope_freqs.weight")
    if tensor.shape != (size // 2,) or tensor.kind != "F32":
        raise EdgeMtpError(
            f"{file.path}: rope_freqs.weight is {'x'.join(map(str, tensor.shape))} in {tensor.kind}, expected are"
            f" {size // 2} numbers in F32: convert it again"
        )
    factors = tensor.rows(0, 1)[0]
    turned = int((factors == 1).sum())
    if not ((factors[:turned] == 1).all() and (factors[turned:] > _UNROTATED).all()):
        raise _odd(file, "rope_freqs.weight", factors.tolist())
    return 2 * turned / size


def _tensor(file: GgufFile, name: str) -> GgufTensor:
    if name not in file.tensors:
        raise EdgeMtpError(f"{file.path} has no tensor {name}: convert the whole model")
    return file.tensors[name]


def _only(file: GgufFile, name: str, values: list[int], kinds: list[str], kind: str, default: int) -> int:
    """The value that all layers of a kind have; `default` where there are none."""
    found = sorted({value for value, each in zip(values, kinds, strict=True) if each == kind})
    if len(found) > 1:
        raise _odd(file, name, values)
    return found[0] if found else default


def _uniform(file: GgufFile, name: str, values: list[int]) -> int:
    if len(set(values)) > 1:
        raise _odd(file, name, values)
    return values[0]


def _odd(file: GgufFile, name: str, values: list[Any]) -> EdgeMtpError:
    shown = ", ".join(map(str, values[:6])) + ", ..." * (len(values) > 6)
    return EdgeMtpError(f"{file.path}: {name} is {shown}, which no Gemma 4 has: export a stock Gemma 4")


class _Keys:
    """Typed values of the architecture's own keys."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if type(value) is not int or value < 0:
            raise self._wrong(key, value, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if type(value) not in (int, float) or not np.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def flags(self, key: str, count: int) -> list[bool]:
        value = self._get(key)
        if not isinstance(value, np.ndarray) or value.dtype != np.bool_ or value.shape != (count,) or not count:
            raise self._wrong(key, value, f"{count} flags, one for each layer")
        return [bool(each) for each in value]

    def by_layer(self, key: str, count: int) -> list[int]:
        """A number for each layer: an array, or one for all."""
        value = self._get(key)
        if type(value) is int and value > 0:
            return [value] * count
        good = isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.shape == (count,)
        if not good or not (value > 0).all():
            raise self._wrong(key, value, f"a whole number, or {count} of them")
        return [int(each) for each in value]

    def same(self, key: str, wanted: Any) -> None:
        """Refuse a key that says something else than Gemma 4 has."""
        value = self._get(key, wanted)
        if isinstance(value, np.ndarray | list) or value != wanted:
            raise self._wrong(key, value, f"{wanted}, as in every Gemma 4")

    def _get(self, key: str, default: Any = None) -> Any:
        value = self._file.metadata.get(f"{self._file.architecture}.{key}", default)
        if value is None:
            raise EdgeMtpError(
                f"{self._file.path} has no {self._file.architecture}.{key}: convert it again with a newer llama.cpp"
            )
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> EdgeMtpError:
        shown = f"an array of {len(value)}" if isinstance(value, np.ndarray | list) else repr(value)[:80]
        return EdgeMtpError(
            f"{self._file.path}: {self._file.architecture}.{key} is {shown}, expected is {wanted}: convert it again"
        )
