"""The Gemma 4 models with an MTP drafter: where they are published, their shapes, and which drafter fits a target.

Shapes are those of the published config.json files. Sources: for the targets the model cards, transformers'
configuration classes and MaxText's `configs/models/gemma4-*.yml`; for the 12B and all drafters the config.json of each
repository as quoted in public ports. Nothing is inferred: a test checks that the shapes give the published numbers of
parameters. The shapes serve `--random-weights` and the choice of a drafter; the export of a checkpoint reads the
checkpoint's config.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.gguf_config import config_of
from edge_mtp.export.gguf_file import GgufFile, find_gguf
from edge_mtp.json_file import read_checkpoint_json

_VOCABULARY = 262_144
_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
# The fields of a text configuration that identify a model.
_SHAPE = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True)
class Model:
    """A target and its drafter on the Hub.

    `context` is the default number of KV positions; a linear float32 cache takes `kv_bytes` for each. The configs are
    contents of text-only config.json files for transformers.
    """

    name: str
    target: str
    drafter: str
    context: int
    target_config: dict[str, Any]
    drafter_config: dict[str, Any]

    @property
    def kv_bytes(self) -> int:
        """Bytes of float32 KV cache per position, over all layers that have their own KV."""
        text = self.target_config
        numbers = 0
        for kind in text["layer_types"][: text["num_hidden_layers"] - text["num_kv_shared_layers"]]:
            full = kind == "full_attention"
            heads = text["num_global_key_value_heads"] if full else None
            size = text["global_head_dim"] if full else text["head_dim"]
            numbers += 2 * (heads or text["num_key_value_heads"]) * size
        return 4 * numbers


def _common(
    layers: list[str], window: int, positions: int, heads: int, kv_heads: int, global_kv: int | None
) -> dict[str, Any]:
    return {
        "vocab_size": _VOCABULARY,
        "num_hidden_layers": len(layers),
        "layer_types": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": global_kv,
        # In models with a separate number of KV heads for full attention, those layers use their keys as values.
        "attention_k_eq_v": global_kv is not None,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": window,
        "max_position_embeddings": positions,
        "rope_parameters": _ROPE,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def _dense(layers: int, full_every: int) -> list[str]:
    """Layer types: every `full_every`-th layer is full, the others sliding."""
    return ["sliding_attention" if (layer + 1) % full_every else "full_attention" for layer in range(layers)]


def _target(
    kind: str, layers: list[str], window: int, heads: tuple[int, int, int | None], **sizes: Any
) -> dict[str, Any]:
    small = window == 512
    return (
        {"model_type": kind}
        | _common(layers, window, 131_072 if small else 262_144, *heads)
        | {"num_kv_shared_layers": 0, "final_logit_softcapping": 30.0}
        # The unified architecture has no field for per-layer embeddings; other models without them set it to 0.
        | (
            {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": _VOCABULARY}
            if "unified" not in kind
            else {}
        )
        | sizes
    )


def _drafter(target: dict[str, Any], heads: int, hidden: int, intermediate: int) -> dict[str, Any]:
    """Four layers that attend to the target's KV, so the KV heads and the window are the target's."""
    kind = target["model_type"]
    small = hidden == 256
    text = _common(
        _dense(4, 4),
        target["sliding_window"],
        target["max_position_embeddings"],
        heads,
        target["num_key_value_heads"],
        target["num_global_key_value_heads"],
    )
    return {
        "model_type": kind.replace("_text", "_assistant"),
        "backbone_hidden_size": target["hidden_size"],
        "use_ordered_embeddings": small,
        "num_centroids": 2048,
        "centroid_intermediate_top_k": 32,
        "tie_word_embeddings": True,
        "text_config": {"model_type": kind}
        | text
        | {"hidden_size": hidden, "intermediate_size": intermediate, "num_kv_shared_layers": 4}
        | ({"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0} if "unified" not in kind else {}),
    }


def _model(name: str, context: int, target: dict[str, Any], drafter: dict[str, Any]) -> Model:
    return Model(name, f"google/gemma-4-{name}-it", f"google/gemma-4-{name}-it-assistant", context, target, drafter)


_E2B = _target(
    "gemma4_text", _dense(35, 5), 512, (8, 1, None), hidden_size=1536, intermediate_size=6144, use_double_wide_mlp=True,
    num_kv_shared_layers=20, hidden_size_per_layer_input=256,
)  # fmt: skip
_E4B = _target(
    "gemma4_text", _dense(42, 6), 512, (8, 2, None), hidden_size=2560, intermediate_size=10240,
    num_kv_shared_layers=18, hidden_size_per_layer_input=256,
)  # fmt: skip
_12B = _target(
    "gemma4_unified_text", _dense(48, 6), 1024, (16, 8, 1), hidden_size=3840, intermediate_size=15360,
)  # fmt: skip
_31B = _target("gemma4_text", _dense(60, 6), 1024, (32, 16, 4), hidden_size=5376, intermediate_size=21504)
_26B = _target(
    "gemma4_text", _dense(30, 6), 1024, (16, 8, 2), hidden_size=2816, intermediate_size=2112,
    enable_moe_block=True, num_experts=128, top_k_experts=8, moe_intermediate_size=704,
)  # fmt: skip

# Default contexts, chosen for a phone that also holds the weights. KV bytes per position, and in all: E2B 36 KiB,
# 144 MiB; E4B 112 KiB, 448 MiB; 12B 672 KiB, 1.3 GiB; 26B-A4B 440 KiB, 880 MiB; 31B 1760 KiB, 1.7 GiB.
MODELS = {
    model.name: model
    for model in (
        _model("E2B", 4096, _E2B, _drafter(_E2B, 4, 256, 2048)),
        _model("E4B", 4096, _E4B, _drafter(_E4B, 4, 256, 2048)),
        _model("12B", 2048, _12B, _drafter(_12B, 16, 1024, 8192)),
        _model("31B", 1024, _31B, _drafter(_31B, 32, 1024, 8192)),
        _model("26B-A4B", 2048, _26B, _drafter(_26B, 16, 1024, 8192)),
    )
}
_BASE_KEY = r"general\.base_model\.\d+\.repo_url"
_NAMED = re.compile(r"gemma-4-(e2b|e4b|12b|31b|26b-a4b)(?![0-9a-z])", re.IGNORECASE)
# Google's quantization-aware checkpoints, by what stands behind the model's name; the phone's own is there for some.
_QAT = "-qat-q4_0-unquantized"
QUANTIZED = {
    "QAT": _QAT,
    "W4A16": "-qat-w4a16-ct",
    "mobile": "-qat-mobile-transformers",
    "mobile-ct": "-qat-mobile-ct",
    "QAT-GGUF": "-qat-q4_0-gguf",
}
_ON_PHONES = ("E2B", "E4B")
# What the GGUF files among them are called.
_QAT_FILE = re.compile(r"gemma-4-[^/]*(_q4_0-it|-it-qat-q4_0)\.gguf$", re.IGNORECASE)


def find(name: str) -> Model | None:
    """The model of that name, in any case: `E2B`, or with the name of a quantized form, `E2B-QAT`."""
    for model in MODELS.values():
        if model.name.lower() == name.lower():
            return model
        for known, suffix in QUANTIZED.items():
            published = not known.startswith("mobile") or model.name in _ON_PHONES
            if published and name.lower() == f"{model.name}-{known}".lower():
                drafter = f"{model.target}{_QAT}-assistant"  # one for all forms
                return replace(model, name=f"{model.name}-{known}", target=f"{model.target}{suffix}", drafter=drafter)
    return None


def model(name: str) -> Model:
    """The model of that name, in the form before quantization; EdgeMtpError if there is none."""
    found = find(name)
    if found is None or found.name not in MODELS:
        raise EdgeMtpError(f"{name!r} is no model that edge-mtp knows: choose one of {', '.join(MODELS)}")
    return found


def base_of(target: Path, name: str = "") -> Model | None:
    """The model that the checkpoint `target`, a folder or GGUF file, was made from; None if it cannot be determined.

    Looks, in this order, at the `name` that the user asked for, at the base models named in README and metadata, and
    at the shape of the text decoder. A name counts only if the shape agrees.
    """
    file = find_gguf(target)
    config = config_of(GgufFile(file)) if file else read_checkpoint_json(target / "config.json")
    text = config.get("text_config") or config
    shape = {key: text.get(key) for key in _SHAPE}
    alike = [m for m in MODELS.values() if shape == {key: m.target_config[key] for key in _SHAPE}]
    for hint in (name, *_base_models(target), str(config.get("_name_or_path", ""))):
        named = _NAMED.search(hint)
        found = find(named[1]) if named else None
        if found in alike:
            return found
    return alike[0] if len(alike) == 1 else None


def matching_drafter(target: Path, name: str = "") -> str:
    """The drafter's repository for the checkpoint `target`, a folder or GGUF file, which was asked for as `name`.

    Google's quantization-aware checkpoints have their own drafters.

    Raises:
        EdgeMtpError: the target's model cannot be determined.
    """
    found = base_of(target, name)
    if found is None:
        raise EdgeMtpError(
            f"no drafter is known for {name or target}, which is none of {', '.join(MODELS)}: give it with --drafter"
        )
    published = (name, *_base_models(target))
    forms = {(found.target + suffix).lower() for suffix in QUANTIZED.values()}
    if any("/".join(hint.lower().split("/")[:2]) in forms or _QAT_FILE.search(hint) for hint in published):
        return f"{found.target}{_QAT}-assistant"
    return found.drafter


def _base_models(target: Path) -> list[str]:
    """`base_model` in the front matter of README.md: a name or a list of names. A GGUF file's metadata have its own."""
    file = find_gguf(target)
    if file is not None:
        told = GgufFile(file).metadata
        listed_there = [str(value) for key, value in told.items() if re.fullmatch(_BASE_KEY, key)]
        if listed_there:
            return ["/".join(value.rstrip("/").split("/")[-2:]) for value in listed_there]
    try:
        readme = ((file.parent if file else target) / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    front = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    listed = re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", front[1], re.MULTILINE) if front else None
    return re.findall(r"[\w.-]+/[\w.-]+", listed[1]) if listed else []
