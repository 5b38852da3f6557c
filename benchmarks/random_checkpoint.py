"""A pair in one of the forms in which quantized Gemma 4 checkpoints are published: real shapes, random weights.

    python benchmarks/random_checkpoint.py mobile DIRECTORY [--model E2B]
    edge-mtp export --model DIRECTORY/target --drafter DIRECTORY/drafter --verify -o e2b-mobile.litertlm
    python benchmarks/full_size.py --bundle e2b-mobile.litertlm

Sizes, memory and step times do not depend on what the integers are. The form decides what is stored as what:

- `mobile`: `quant_method: gemma`, with the bits that are reported of E2B (https://github.com/mlx-node/mlx-node, issue
  73): 2 in the MLPs of the layers that share KV, the head and the embedding; 8 in per-layer gates and projections; 4
  elsewhere, in the per-layer table in blocks of 256.
- `w4a16`: compressed-tensors, 4 bits in groups of 32; embeddings stay bf16.
- `lattice`: bf16, each block of 32 weights of a matrix a step times -8 to 7; embeddings are plain bf16.

The drafter is a lattice in all of them.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge_mtp.export.checkpoint import Checkpoint, random_pair
from edge_mtp.export.weights import EMBEDDING, HEAD, TOKEN_ORDERING

BLOCK = 32
TABLE_BLOCK = 256
CHUNK = 1 << 24  # numbers at a time
# The standard deviation of integers that are equally likely.
DEVIATION = {bits: math.sqrt((4**bits - 1) / 12) for bits in (2, 4, 8)}
KINDS = {"U8": 1, "I8": 1, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}
GENERATOR = np.random.default_rng(1)
NOISE = GENERATOR.bytes(1 << 26)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its type as in the header, its shape, and its bytes in parts."""

    kind: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[bytes]]

    @property
    def size(self) -> int:
        return KINDS[self.kind] * math.prod(self.shape)


def noise(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Random bytes."""

    def parts() -> Iterator[bytes]:
        left = KINDS[kind] * math.prod(shape)
        while left:
            start = int(GENERATOR.integers(len(NOISE) // 2))
            part = NOISE[start : start + left]
            left -= len(part)
            yield part

    return Tensor(kind, shape, parts)


def scales(kind: str, shape: tuple[int, ...], bits: int, width: int) -> Tensor:
    """Scales that give weights of standard deviation 1 / sqrt(width), or a quarter more or less."""
    values = GENERATOR.uniform(0.75, 1.25, shape) / (DEVIATION[bits] * math.sqrt(width))
    return numbers(kind, values)


def numbers(kind: str, values: npt.ArrayLike) -> Tensor:
    types: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F32": np.float32, "I32": np.int32, "I64": np.int64}
    array = np.asarray(values).astype(types[kind])
    return Tensor(kind, array.shape, lambda: iter([array.tobytes()]))


def plain(checkpoint: Checkpoint, name: str) -> Tensor:
    """A tensor as bf16, a few rows at a time."""
    weights, shape = checkpoint.weights, checkpoint.weights.names[name]

    def parts() -> Iterator[bytes]:
        rows = max(1, CHUNK // math.prod(shape[1:]))
        for start in range(0, shape[0], rows):
            yield weights.read(name, start, min(start + rows, shape[0])).astype(ml_dtypes.bfloat16).tobytes()

    return Tensor("BF16", shape, parts)


def on_lattice(shape: tuple[int, ...]) -> Tensor:
    """Steps times integers, rounded to bf16."""

    def parts() -> Iterator[bytes]:
        rows = max(1, CHUNK // shape[1])
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            levels = GENERATOR.integers(-8, 8, (count, shape[1] // BLOCK, BLOCK), np.int8)
            steps = GENERATOR.uniform(0.75, 1.25, (count, shape[1] // BLOCK, 1)) / (DEVIATION[4] * math.sqrt(shape[1]))
            yield (levels * steps.astype(np.float32)).astype(ml_dtypes.bfloat16).tobytes()

    return Tensor("BF16", shape, parts)


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    text = json.dumps(header).encode()
    with path.open("wb") as file, click.progressbar(length=end, label=str(path)) as bar:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for part in tensor.parts():
                file.write(part)
                bar.update(len(part))


def lattice(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    for name, shape in checkpoint.weights.names.items():
        if name == TOKEN_ORDERING:
            tensors[name] = numbers("I64", checkpoint.weights.read(name))
        elif len(shape) == 2 and "embed_tokens" not in name:
            tensors[name] = on_lattice(shape)
        else:
            tensors[name] = plain(checkpoint, name)
    return tensors, {}


def mobile(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    config = checkpoint.config
    own_kv = config.num_hidden_layers - config.num_kv_shared_layers

    def bits_of(name: str) -> int:
        if "per_layer_" in name:
            return 8
        return 2 if name in (HEAD, EMBEDDING) or (".mlp." in name and int(name.split(".")[2]) >= own_kv) else 4

    def packed(name: str, shape: tuple[int, ...], integers: str, scale: str, block: int = 0) -> None:
        bits = bits_of(name)
        tensors[integers] = noise("I8" if bits == 8 else "U8", (shape[0], shape[1] * bits // 8))
        tensors[scale] = scales("F32", (shape[0], shape[1] // block if block else 1), bits, shape[1])

    names = checkpoint.weights.names
    for name, shape in [*names.items(), (HEAD, names[EMBEDDING])]:
        module = name.removesuffix(".weight")
        if len(shape) != 2:
            tensors[name] = plain(checkpoint, name)
        elif "embed_tokens" in name:
            block = TABLE_BLOCK if "per_layer" in name else 0
            packed(name, shape, f"{module}.embedding_quantized", f"{module}.embedding_scale", block)
        else:
            packed(name, shape, name, f"{module}.weight_scale")
            for side in ("input", "output"):
                tensors[f"{module}.{side}_activation_scale"] = numbers("F32", 0.03)
    for layer in range(own_kv):
        for cache in "kv":
            tensors[f"model.layers.{layer}.self_attn.{cache}_cache_scale"] = numbers("F32", 0.03)
    return tensors, {"tie_word_embeddings": False, "quantization_config": {"quant_method": "gemma", "num_bits": 4}}


def w4a16(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    for name, shape in checkpoint.weights.names.items():
        module = name.removesuffix(".weight")
        if len(shape) == 2 and "embed_tokens" not in name:
            tensors[f"{module}.weight_packed"] = noise("I32", (shape[0], shape[1] // 8))
            tensors[f"{module}.weight_scale"] = scales("BF16", (shape[0], shape[1] // BLOCK), 4, shape[1])
            tensors[f"{module}.weight_shape"] = numbers("I64", shape)
        else:
            tensors[name] = plain(checkpoint, name)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": BLOCK}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    return tensors, {"quantization_config": quantization}


FORMS = {"mobile": mobile, "w4a16": w4a16, "lattice": lattice}


@click.command()
@click.argument("form", type=click.Choice(list(FORMS)))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--model", default="E2B", show_default=True)
def main(form: str, directory: Path, model: str) -> None:
    """Write DIRECTORY/target and DIRECTORY/drafter."""
    pair = random_pair(model, 1, directory)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        from edge_mtp.export.checkpoint import tiny_pair

        if (tiny_pair()[0] / name).is_file():
            shutil.copy(tiny_pair()[0] / name, directory / "target")
    for checkpoint, make in ((pair.target, FORMS[form]), (pair.drafter, lattice)):
        tensors, fields = make(checkpoint)
        config = checkpoint.directory / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | fields, indent=1))
        write(checkpoint.directory / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
