"""A checkpoint pair: a Gemma 4 target, the drafter trained for it, and what goes with them, checked."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError

TARGET_TYPES = ("gemma4_text", "gemma4")
DRAFTER_TYPE = "gemma4_assistant"


@dataclass(frozen=True)
class Checkpoint:
    """A directory as `save_pretrained` leaves it: config.json and safetensors.

    `config` is the transformers configuration of the decoder (for a drafter the whole Gemma4AssistantConfig),
    `weights` the safetensors files in order of name, `parameters` how many numbers they hold.
    """

    directory: Path
    config: Any
    weights: tuple[Path, ...]
    parameters: int

    def hashes(self) -> dict[str, str]:
        """SHA-256 of config.json and of each safetensors file, by file name."""
        return {path.name: _sha256(path) for path in (self.directory / "config.json", *self.weights)}


@dataclass(frozen=True)
class Pair:
    """A target and its drafter that fit each other, with the target's tokenizer and chat format.

    `kv_layers` maps each layer type that the drafter attends with to the target's layer whose KV it reads: the
    last one of that type that keeps its own.
    """

    target: Checkpoint
    drafter: Checkpoint
    kv_layers: dict[str, int]
    tokenizer: Path
    chat_template: str
    generation: dict[str, Any]


def tiny_pair() -> tuple[Path, Path]:
    """The directories of the trained tiny pair that the package carries."""
    root = Path(str(importlib.resources.files("edge_mtp") / "tiny"))
    return root / "target", root / "drafter"


def open_pair(target: Path, drafter: Path) -> Pair:
    """Read both configurations, check weights for completeness and the two for fitting each other.

    Raises:
        EdgeMtpError: a file is missing or damaged, the architecture is not supported, or the drafter was made
            for another target.
    """
    target_json = _read_config(target, "target", TARGET_TYPES)
    drafter_json = _read_config(drafter, "drafter", (DRAFTER_TYPE,))
    with drafters_allowed():
        pair = (_checkpoint(target, target_json), _checkpoint(drafter, drafter_json))
    _check_architecture(*pair)
    kv_layers = _check_fit(*pair)

    tokenizer = target / "tokenizer.json"
    if not tokenizer.is_file():
        raise EdgeMtpError(f"{tokenizer} is missing: save the target's fast tokenizer beside its weights")
    generation_file = target / "generation_config.json"
    return Pair(
        target=pair[0],
        drafter=pair[1],
        kv_layers=kv_layers,
        tokenizer=tokenizer,
        chat_template=_chat_template(target),
        generation=_read_json(generation_file) if generation_file.is_file() else {},
    )


@contextmanager
def drafters_allowed() -> Iterator[None]:
    """Let transformers build a decoder whose layers all read foreign KV.

    transformers 5.23 looks for the layer that stores what shared layers reuse, and refuses a decoder that has
    none; every Gemma 4 drafter is such a decoder.
    """
    import transformers

    config_class: Any = transformers.Gemma4TextConfig
    original = config_class.kv_sharing_modes

    def kv_sharing_modes(config: Any) -> list[str | None]:
        if config.num_kv_shared_layers == config.num_hidden_layers:
            return ["reuse"] * config.num_hidden_layers
        modes: list[str | None] = original.__get__(config)
        return modes

    config_class.kv_sharing_modes = property(kv_sharing_modes)
    try:
        yield
    finally:
        config_class.kv_sharing_modes = original


def load_target(checkpoint: Checkpoint) -> Any:
    """The target as a float32 Gemma4ForCausalLM in eval mode; other modalities' weights are left out."""
    from transformers import Gemma4ForCausalLM

    return _load(Gemma4ForCausalLM, checkpoint, {r"^model\.language_model\.": "model."})


def load_drafter(checkpoint: Checkpoint) -> Any:
    """The drafter as a float32 Gemma4AssistantForCausalLM in eval mode."""
    from transformers import Gemma4AssistantForCausalLM

    with drafters_allowed():
        return _load(Gemma4AssistantForCausalLM, checkpoint, {})


def _load(model_class: Any, checkpoint: Checkpoint, renamed: dict[str, str]) -> Any:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, report = model_class.from_pretrained(
        checkpoint.directory,
        config=checkpoint.config,
        dtype=torch.float32,
        key_mapping=renamed or None,
        attn_implementation="eager",
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise EdgeMtpError(
            f"{checkpoint.directory} lacks {len(missing)} tensors, first {missing[0]}: save the whole model"
        )
    return model.eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeMtpError(f"{path} cannot be read ({error.strerror}): give a checkpoint directory") from error
    except ValueError as error:
        raise EdgeMtpError(f"{path} is not JSON ({error}): copy the checkpoint again") from error
    if not isinstance(value, dict):
        raise EdgeMtpError(f"{path} holds {type(value).__name__}, not an object: copy the checkpoint again")
    return value


def _read_config(directory: Path, role: str, accepted: tuple[str, ...]) -> dict[str, Any]:
    if not directory.is_dir():
        raise EdgeMtpError(f"{role} {directory} is not a directory: give a checkpoint directory")
    config = _read_json(directory / "config.json")
    model_type = config.get("model_type")
    if model_type not in accepted:
        raise EdgeMtpError(
            f"{role} {directory} has model_type {model_type!r}: supported is {' or '.join(map(repr, accepted))}"
        )
    return config


def _checkpoint(directory: Path, config: dict[str, Any]) -> Checkpoint:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        parsed = AutoConfig.for_model(config["model_type"], **fields)
    except Exception as error:  # transformers raises whatever its validators raise
        reason = " ".join(str(error).split())
        raise EdgeMtpError(f"{directory / 'config.json'} is not valid ({reason}): fix that field") from error
    text_only = parsed if config["model_type"] == DRAFTER_TYPE else parsed.get_text_config()
    files = _weight_files(directory)
    return Checkpoint(directory, text_only, files, sum(map(_parameters, files)))


def _weight_files(directory: Path) -> tuple[Path, ...]:
    index = directory / "model.safetensors.index.json"
    weight_map = _read_json(index).get("weight_map", {}) if index.is_file() else {"": "model.safetensors"}
    return tuple(directory / name for name in sorted(set(weight_map.values())))


def _parameters(path: Path) -> int:
    """Count the numbers in a safetensors file: 8 bytes of header length, JSON, data; all of it must be there."""
    if not path.is_file():
        raise EdgeMtpError(f"{path} is missing: copy the checkpoint's weights beside its config.json")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            (header_size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_size) if header_size < size else b"")
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            data = max(entry["data_offsets"][1] for entry in tensors)
            parameters: int = sum(math.prod(entry["shape"]) for entry in tensors)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise EdgeMtpError(f"{path} is not a safetensors file: copy it again") from error
    expected = 8 + header_size + data
    if size != expected:
        raise EdgeMtpError(f"{path} has {size} bytes of {expected}: copy it again")
    return parameters


def _check_architecture(target: Checkpoint, drafter: Checkpoint) -> None:
    config, draft = target.config, drafter.config
    unsupported = {
        "enable_moe_block": config.enable_moe_block,
        "untied embeddings": not config.tie_word_embeddings or not draft.tie_word_embeddings,
        "use_bidirectional_attention='all'": config.use_bidirectional_attention == "all",
    }
    for feature, present in unsupported.items():
        if present:
            raise EdgeMtpError(
                f"{target.directory} uses {feature}, which the exporter does not support: export a dense Gemma 4"
            )
    if draft.use_ordered_embeddings and draft.get_text_config().vocab_size % draft.num_centroids:
        raise EdgeMtpError(
            f"{drafter.directory} has {draft.num_centroids} centroids, which do not divide"
            f" {draft.get_text_config().vocab_size} tokens: fix num_centroids"
        )


def _check_fit(target: Checkpoint, drafter: Checkpoint) -> dict[str, int]:
    """Compare what the two share; return the target's KV layer for each of the drafter's layer types."""
    config, decoder = target.config, drafter.config.get_text_config()

    def expect(what: str, wanted: Any, found: Any) -> None:
        if wanted != found:
            raise EdgeMtpError(
                f"mismatched pair: the target's {what} is {wanted}, the drafter expects {found}:"
                " use the drafter that was trained for this target"
            )

    expect("hidden size", config.hidden_size, drafter.config.backbone_hidden_size)
    expect("vocabulary size", config.vocab_size, decoder.vocab_size)
    own_kv = config.num_hidden_layers - config.num_kv_shared_layers
    kv_layers = {}
    for layer, kind in enumerate(decoder.layer_types):
        sources = [i for i in range(own_kv) if config.layer_types[i] == kind]
        if not sources:
            expect("layer types", sorted(set(config.layer_types[:own_kv])), sorted(set(decoder.layer_types)))
        source, reader = config.per_layer_config[sources[-1]], decoder.per_layer_config[layer]
        expect(f"{kind} head size", source.head_dim, reader.head_dim)
        expect(f"{kind} KV heads", source.num_key_value_heads, reader.num_key_value_heads)
        kv_layers[kind] = sources[-1]
    return dict(sorted(kv_layers.items(), key=lambda item: item[1]))


def tokenizer_ids(tokenizer: Path) -> dict[str, int]:
    """The id of each added token of a tokenizer.json, by its text."""
    added = _read_json(tokenizer).get("added_tokens", [])
    return {entry["content"]: entry["id"] for entry in added}


def _chat_template(directory: Path) -> str:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    template = _read_json(settings).get("chat_template") if settings.is_file() else None
    if not isinstance(template, str):
        raise EdgeMtpError(f"{path} is missing: save the target's chat template beside its tokenizer")
    return template


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
