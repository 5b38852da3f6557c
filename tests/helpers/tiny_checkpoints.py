"""Small random Gemma 4 pairs on disk, with every structural feature of E2B, for tests of the exporter."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from edge_mtp.cache import exclusive
from edge_mtp.export.shapes import drafters_allowed, model_class

VOCAB = 512
WINDOW = 24
# Exports of the random pair that have these sizes in common share their pieces, whatever else they are asked for.
CONTEXT = 192  # so long that a window is cut out, at more than one place
PREFILL = 16
CONTROL = {
    46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>",
    51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>", 100: "<|channel>", 101: "<channel|>",
    105: "<|turn>", 106: "<turn|>",
}  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def target_config(**changes: Any) -> dict[str, Any]:
    """Six layers, the last three sharing KV and twice as wide; per-layer embeddings; softcap; tied head."""
    return {
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size": 64,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": WINDOW,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 4096,
    } | changes


def drafter_config(text: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Two query-only layers on the target's KV; `text` changes the decoder, `changes` the rest."""
    decoder = target_config(
        hidden_size=32,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        intermediate_size=48,
        num_hidden_layers=2,
        num_kv_shared_layers=2,
        use_double_wide_mlp=False,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=None,
    )
    return {
        "text_config": decoder | (text or {}),
        "backbone_hidden_size": 64,
        "use_ordered_embeddings": True,
        "num_centroids": 32,
        "centroid_intermediate_top_k": 4,
    } | changes


def write_tokenizer(directory: Path) -> None:
    """A byte-fallback BPE of `VOCAB` tokens with Gemma 4's control tokens at their own ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    names = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", **CONTROL}
    vocab = {name: token for token, name in names.items()}
    pieces = iter([f"<0x{byte:02X}>" for byte in range(256)] + [chr(c) for c in range(33, 127)] + ["▁", "▁a"])
    for token in range(VOCAB):
        if token not in names:
            vocab[next(pieces, f"<unused{token}>")] = token
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names.values()])
    tokenizer.save(str(directory / "tokenizer.json"))


def write_pair(
    directory: Path,
    *,
    target: dict[str, Any] | None = None,
    drafter_text: dict[str, Any] | None = None,
    drafter: dict[str, Any] | None = None,
    unified: bool = False,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write `directory`/target and `directory`/drafter with random weights and return both paths.

    Weights are larger than an untrained model's, so that logits, attention and norms all matter. `target`,
    `drafter_text` and `drafter` change the configurations of the target, the drafter's decoder and the rest;
    `unified` makes them `gemma4_unified`.
    """
    import torch
    from transformers import AutoConfig

    kind = "gemma4_unified" if unified else "gemma4"
    configs = {"target": target_config(**target or {}), "drafter": drafter_config(drafter_text, **drafter or {})}
    if unified:  # no per-layer embeddings in this architecture, nor their fields
        for text in (configs["target"], configs["drafter"]["text_config"]):
            for field in [name for name in text if name.endswith("per_layer_input")]:
                del text[field]
    configs["drafter"]["text_config"]["model_type"] = f"{kind}_text"
    torch.manual_seed(seed)
    with drafters_allowed():
        parsed = {
            "target": AutoConfig.for_model(f"{kind}_text", **configs["target"]),
            "drafter": AutoConfig.for_model(f"{kind}_assistant", **configs["drafter"]),
        }
        models = {name: model_class(config)(config) for name, config in parsed.items()}
    for name, model in models.items():
        with torch.no_grad():
            for key, value in [*model.named_parameters(), *model.named_buffers()]:
                if "norm" in key or key.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
                    value.uniform_(0.5, 1.5)
                elif value.dim() >= 2:
                    value.normal_(0.0, 1.2 * value.shape[-1] ** -0.5)
        if name == "drafter" and model.masked_embedding is not None:
            ordering = torch.randperm(model.vocab_size)
            model.masked_embedding.token_ordering.copy_(ordering)
        folder = directory / name
        model.save_pretrained(folder)
    folder = directory / "target"
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}), encoding="utf-8"
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, 106, 50]}), encoding="utf-8"
    )
    return directory / "target", directory / "drafter"


@cache
def workspace() -> Path:
    """A folder for what is made once a run, for all its workers; it is removed at the end."""
    if shared := os.environ.get("EDGE_MTP_TESTS_WORKSPACE"):  # by conftest.py
        return Path(shared)
    folder = Path(tempfile.mkdtemp(prefix="edge-mtp-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def once_a_run(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of `workspace`, filled by the first worker that asks for it; others wait for that one."""
    folder = workspace() / name
    folder.mkdir(exist_ok=True)
    with exclusive(folder):
        done = folder / "done"
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@cache
def random_pair() -> tuple[Path, Path]:
    """One random pair for all tests of a run."""
    folder = once_a_run("E2B", write_pair)
    return folder / "target", folder / "drafter"


@cache
def random_bundle(recipe: str) -> Path:
    """`random_pair` exported with every signature, once a run."""
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.pipeline import export_bundle
    from edge_mtp.formats.accelerator import ACCELERATORS

    def export(folder: Path) -> None:
        sizes: dict[str, Any] = {"context": CONTEXT, "prefill": (PREFILL,), "widths": VERIFY_WIDTHS}
        export_bundle(*random_pair(), folder / "whole.litertlm", recipe=recipe, accelerators=ACCELERATORS, **sizes)

    return once_a_run(f"E2B-{recipe}", export) / "whole.litertlm"
