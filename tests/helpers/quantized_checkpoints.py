"""The tiny pair as quantized checkpoints are published: packed integers with scales, or bf16 on a lattice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor

from edge_mtp.export.checkpoint import tiny_pair

BLOCK = 32  # of compressed-tensors' groups and of lattices
CACHE_SCALE = 0.037


def gemma(folder: Path, blocks: int = 1, fewest: int = 2) -> Path:
    """As `quant_method: gemma`: 2, 4 and 8 bits by module, none below `fewest`, scales of caches, a head apart from the
    embedding, no ranges (`calibrated` has them). `blocks` of the per-layer table's rows; transformers 5.24 loads 1."""
    target, _ = tiny_pair()
    tensors: dict[str, Tensor] = {}
    for name, values in load_file(target / "model.safetensors").items():
        module = name.removesuffix(".weight")
        bits = gemma_bits(module)
        if bits is None:
            tensors[name] = values
            continue
        bits, head_bits = max(bits, fewest), max(2, fewest)
        if "embed_tokens" in module:
            per_layer = blocks if module.endswith("per_layer") else 1
            integers, scales = _quantized(values, bits, values.shape[1] // per_layer, half=per_layer > 1)
            tensors[f"{module}.embedding_quantized"] = _packed(integers, bits)
            tensors[f"{module}.embedding_scale"] = scales
            if not module.endswith("per_layer"):  # the head has integers of its own, fewer bits or not
                integers, scales = _quantized(values, head_bits, values.shape[1])
                tensors["lm_head.weight"], tensors["lm_head.weight_scale"] = _packed(integers, head_bits), scales
                tensors |= _ranges("lm_head")
        else:
            integers, scales = _quantized(values, bits, values.shape[1])
            tensors[name], tensors[f"{module}.weight_scale"] = _packed(integers, bits), scales
            tensors |= _ranges(module)
    config = json.loads((target / "config.json").read_text())
    for layer in range(config["num_hidden_layers"] - config["num_kv_shared_layers"]):
        for kind in "kv":
            tensors[f"model.layers.{layer}.self_attn.{kind}_cache_scale"] = torch.tensor(CACHE_SCALE + layer / 1000)
    return _written(
        folder,
        tensors,
        {
            "quant_method": "gemma",
            "num_bits": max(4, fewest),
            "quantize_embeddings": True,
            "module_quant_configs": {
                r"per_layer_(input_gate|projection|model_projection)$": {"num_bits": 8},
                r"layers\.[345]\.mlp\.|lm_head": {"num_bits": max(2, fewest)},
            },
            "modules_to_not_convert": [],
        },
        tie_word_embeddings=False,
    )


def calibrated(folder: Path, source: Path, texts: Iterable[Sequence[int]]) -> Path:
    """The `gemma` checkpoint `source` with static ranges from real activations: for the input and the output of each
    module the largest over `texts` (token ids), over 127."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gemma_quant import QuantizedLinear

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    largest: dict[str, Tensor] = {}

    def watch(name: str, values: Tensor) -> None:
        largest[name] = torch.maximum(values.detach().abs().max(), largest.get(name, torch.tensor(0.0)))

    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            module.register_forward_pre_hook(
                lambda _, given, name=name: watch(f"{name}.input_activation_scale", given[0])
            )
            module.register_forward_hook(
                lambda _, given, made, name=name: watch(f"{name}.output_activation_scale", made)
            )
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([list(text)]))
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    ranges = {name: (value / 127).float() for name, value in largest.items()}
    if unknown := ranges.keys() - tensors.keys():
        raise ValueError(f"{source} has no {min(unknown)}")
    save_file(tensors | ranges, folder / "model.safetensors")
    return folder


def gemma_bits(module: str) -> int | None:
    """Bits of a module's weight in `gemma`; None for norms and the like."""
    if module.endswith(("norm", "layer_scalar")) or "norm" in module.split(".")[-1]:
        return None
    if "per_layer_" in module:
        return None if "norm" in module else 8
    return 2 if ".mlp." in module and int(module.split(".")[2]) >= 3 else 4


def compressed(folder: Path) -> Path:
    """As compressed-tensors' `pack-quantized` in 4 bits, groups of 32, by that package's own packing; per-layer
    projections, whose rows are shorter, as int8 a row."""
    target, _ = tiny_pair()
    tensors: dict[str, Tensor] = {}
    for name, values in load_file(target / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if values.ndim < 2 or "embed_tokens" in name:
            tensors[name] = values
        elif values.shape[1] % BLOCK:
            integers, scales = _quantized(values, 8, values.shape[1])
            tensors[name], tensors[f"{module}.weight_scale"] = integers.to(torch.int8), scales.to(torch.bfloat16)
        else:
            integers, scales = _quantized(values, 4, BLOCK, kind=torch.bfloat16)
            tensors[f"{module}.weight_packed"] = pack_to_int32(integers.to(torch.int8), 4)
            tensors[f"{module}.weight_scale"] = scales.to(torch.bfloat16)
            tensors[f"{module}.weight_shape"] = torch.tensor(values.shape)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": BLOCK}
    return _written(
        folder,
        tensors,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["lm_head"],
        },
    )


def experts(folder: Path, target: Path) -> Path:
    """A mixture of experts as compressed-tensors stores it: each expert's matrices by themselves, and all matrices of
    the decoder 8 bits a row, but gate and up of every other layer 4 bits in groups of 32."""
    tensors: dict[str, Tensor] = {}

    def store(module: str, values: Tensor, *, blocks: bool) -> None:
        bits, block = (4, BLOCK) if blocks else (8, values.shape[1])
        integers, scales = _quantized(values, bits, block, kind=torch.bfloat16)
        tensors[f"{module}.weight_packed"] = pack_to_int32(integers.to(torch.int8), bits)
        tensors[f"{module}.weight_scale"] = scales.to(torch.bfloat16)
        tensors[f"{module}.weight_shape"] = torch.tensor(values.shape)

    for name, values in load_file(target / "model.safetensors").items():
        if ".experts." in name:
            owner, kind = name.rsplit(".", 1)
            kinds = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
            blocks = len(kinds) == 2 and int(name.split("layers.")[1].split(".")[0]) % 2 == 1
            for expert, rows in enumerate(values):
                for each, part in zip(kinds, rows.chunk(len(kinds)), strict=True):
                    store(f"{owner}.{expert}.{each}", part, blocks=blocks)
        elif values.ndim == 2 and name.endswith("_proj.weight"):
            store(name.removesuffix(".weight"), values, blocks=False)
        else:
            tensors[name] = values
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}
    return _written(folder, tensors, config, source=target)


def lattice(folder: Path) -> Path:
    """In bf16, each block of 32 weights of a matrix a step times -8 to 7."""
    target, _ = tiny_pair()
    tensors = {}
    for name, values in load_file(target / "model.safetensors").items():
        if values.ndim == 2 and values.shape[1] % BLOCK == 0 and "embed_tokens" not in name:
            integers, scales = _quantized(values, 4, BLOCK)
            values = (integers.float() * scales.repeat_interleave(BLOCK, dim=1)).to(torch.bfloat16)
        tensors[name] = values
    return _written(folder, tensors, None)


def _quantized(
    values: Tensor, bits: int, block: int, *, half: bool = False, kind: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Integers [n,k] and scales float32 [n, k / block] by min/max, which float16 (`half`) or `kind` holds exactly."""
    rows = values.float().reshape(len(values), -1, block)
    scales = rows.abs().amax(-1).clamp_min(1e-6) / 2 ** (bits - 1) * 1.05
    scales = scales.to(torch.float16 if half else kind or torch.float32).float()
    integers = (rows / scales[..., None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return integers.reshape(values.shape), scales


def _packed(integers: Tensor, bits: int) -> Tensor:
    """The first weight in the lowest bits, counted from the smallest on; 8 bits are signed."""
    if bits == 8:
        return integers.to(torch.int8)
    unsigned = (integers + 2 ** (bits - 1)).to(torch.uint8)
    packed = torch.zeros(len(integers), integers.shape[1] * bits // 8, dtype=torch.uint8)
    for place in range(8 // bits):
        packed |= unsigned[:, place :: 8 // bits] << (bits * place)
    return packed


def _ranges(module: str) -> dict[str, Tensor]:
    return {f"{module}.{side}_activation_scale": torch.tensor(0.0) for side in ("input", "output")}


def _written(
    folder: Path,
    tensors: dict[str, Tensor],
    quantization: dict[str, Any] | None,
    source: Path | None = None,
    **config_: Any,
) -> Path:
    target = source or tiny_pair()[0]
    shutil.copytree(target, folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config |= config_
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {"gemma": gemma, "compressed": compressed, "lattice": lattice}
