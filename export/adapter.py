"""Merges a LoRA adapter, as PEFT saves it, into a checkpoint's tensors while they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import Encoded
from edge_mtp.export.shapes import HEAD
from edge_mtp.export.weights import EMBEDDING, Entry, Rows, SafetensorsFile, Weights, groups, text_name
from edge_mtp.json_file import read_checkpoint_json

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
# Initializations that leave the base weights unchanged; the others (PiSSA, OLoRA, LoftQ, ...) change them.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_embedding_[AB]|lora_[AB])(?:\.default)?(?:\.weight)?")


@dataclass
class _LowRank:
    """W + scale * B @ A for W [out,in], A [r,in], B [out,r]. For an embedding [V,H] with A [r,V], B [H,r], adds the
    transpose of B @ A."""

    scale: float
    embedding: bool
    a: Entry | None = None
    b: Entry | None = None


class AdaptedWeights(Weights):
    """The tensors of `base` with the adapter in `directory` merged, a few rows at a time, in float32.

    Unlike PEFT's own merge, this does not round to the base's type.

    Raises:
        EdgeMtpError: the adapter is not plain LoRA, does not fit the target's modules, or changes the embedding
            without the head that shares its weights.
    """

    def __init__(self, base: Weights, directory: Path) -> None:
        self.base = base
        self.directory = directory
        self.names = base.names
        self.files = (directory / CONFIG, directory / TENSORS)
        if not directory.is_dir():
            raise EdgeMtpError(f"adapter {directory} is not a directory: give the folder that PEFT saved")
        self._config = read_checkpoint_json(directory / CONFIG)
        self._check_kind()
        self._low_rank: dict[str, _LowRank] = {}
        self._whole: dict[str, Entry] = {}
        others = []
        head: Entry | None = None
        for raw, entry in SafetensorsFile(directory / TENSORS).entries.items():
            key = raw.removeprefix("base_model.model.")
            name = self._sort(key, entry)
            if name is None:
                others.append(key)
            elif name == HEAD:
                head = entry
        self._check_fit()
        self._check_tie(head)
        self.left_out = (*base.left_out, *(f"adapter: {group}" for group in groups(others)))
        changed = {*self._whole, *self._low_rank}
        self.encodings = {name: encoding for name, encoding in base.encodings.items() if name not in changed}
        self.nearly = {name: encoding for name, encoding in base.nearly.items() if name not in changed}
        self.foreign = {name: form for name, form in base.foreign.items() if name not in changed}
        self.ranges, self.cache_scales = base.ranges, base.cache_scales

    def _read(self, name: str, start: int, stop: int) -> Rows:
        if name in self._whole:
            return self._whole[name].rows(start, stop)
        rows = self.base.read(name, start, stop)
        change = self._low_rank.get(name)
        if change is not None:
            assert change.a is not None
            assert change.b is not None
            if change.embedding:
                a = np.ascontiguousarray(change.a.rows()[:, start:stop].T)
                rows = rows + np.float32(change.scale) * (a @ change.b.rows().T)
            else:
                rows = rows + np.float32(change.scale) * (change.b.rows(start, stop) @ change.a.rows())
        return rows

    def _encoded(self, name: str, start: int, stop: int) -> Encoded:
        return self.base.encoded(name, start, stop)

    def _refuse(self, what: str, cure: str = "merge the adapter into its model first") -> EdgeMtpError:
        return EdgeMtpError(f"adapter {self.directory} {what}: {cure}")

    def _check_kind(self) -> None:
        config = self._config
        kind = config.get("peft_type")
        if kind != "LORA":
            raise self._refuse(f"is of type {kind!r}, not LORA")
        for feature in (
            "use_dora",
            "alora_invocation_tokens",
            "lora_bias",
            "fan_in_fan_out",
            "target_parameters",
            "layer_replication",
        ):
            if config.get(feature):
                raise self._refuse(f"uses {feature}={config[feature]!r}, which the exporter cannot merge")
        if config.get("bias", "none") != "none":
            raise self._refuse(f"trains biases (bias={config['bias']!r}), which Gemma 4 has none of")
        start = config.get("init_lora_weights", True)
        if start not in _PLAIN_STARTS:
            raise self._refuse(f"has init_lora_weights={start!r}, which changes the base weights too")

    def _sort(self, key: str, entry: Entry) -> str | None:
        """Record one tensor of the adapter; return the target's tensor that it changes, None if it is left out."""
        part = _PART.fullmatch(key)
        if part is None and "lora_" in key:
            raise self._refuse(f"holds {key}, which is no plain LoRA tensor")
        if part is None:
            plain = re.sub(r"\.modules_to_save(\.default)?\.", ".", key)
            name = self._target(plain)
            if name not in (None, HEAD):
                assert name is not None
                self._whole[name] = entry
            return name
        module = part["module"]
        name = self._target(f"{module}.weight")
        if name is None:
            return None
        embedding = "embedding" in part["part"]
        if name in (HEAD, EMBEDDING) and HEAD not in self.names:
            raise self._refuse(f"adapts {module}, whose weights the embedding and the head share")
        change = self._low_rank.setdefault(name, _LowRank(self._scale(module), embedding))
        setattr(change, part["part"][-1].lower(), entry)
        return name

    def _target(self, name: str) -> str | None:
        text = text_name(name)
        if text is None or text in self.names or text == HEAD:
            return text
        unused = re.fullmatch(r"(.*\.self_attn\.)(?:[kv]_proj|[kv]_norm)\.weight", text)
        if unused and f"{unused[1]}q_proj.weight" in self.names:
            return None  # a layer that reads another layer's KV, or uses its keys as values
        raise self._refuse(
            f"changes {name.removesuffix('.weight')}, which the target does not have",
            "use the model that the adapter was trained on",
        )

    def _pattern(self, patterns: str, module: str, default: Any) -> Any:
        for pattern, value in (self._config.get(patterns) or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                return value
        return self._config.get(default)

    def _scale(self, module: str) -> float:
        rank, alpha = self._pattern("rank_pattern", module, "r"), self._pattern("alpha_pattern", module, "lora_alpha")
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
            raise self._refuse(f"has r={rank!r} and lora_alpha={alpha!r} for {module}", "copy its config again")
        return float(alpha / rank**0.5 if self._config.get("use_rslora") else alpha / rank)

    def _check_fit(self) -> None:
        for name, change in self._low_rank.items():
            shape = self.names[name]
            if change.a is None or change.b is None:
                raise self._refuse(f"has only one half of the LoRA of {name}", "copy it again")
            (rank, inner), (outer, rank_b) = _matrix(change.a), _matrix(change.b)
            found = (inner, outer) if change.embedding else (outer, inner)
            if rank != rank_b or found != shape:
                raise self._refuse(
                    f"has a LoRA of {found[0]}x{found[1]} for {name}, which is {'x'.join(map(str, shape))}",
                    "use the model that the adapter was trained on",
                )
        for name, entry in self._whole.items():
            if entry.shape != self.names[name]:
                raise self._refuse(
                    f"replaces {name} of {'x'.join(map(str, self.names[name]))} by {'x'.join(map(str, entry.shape))}",
                    "use the model that the adapter was trained on, without added tokens",
                )
        for entry in (*self._whole.values(), *(e for c in self._low_rank.values() for e in (c.a, c.b) if e)):
            entry.check_float()

    def _check_tie(self, head: Entry | None) -> None:
        """The bundle stores embedding and head once, so both must have changed together."""
        table = self._whole.get(EMBEDDING)
        tied = self._config.get("ensure_weight_tying")
        if (table is None and head is None) or HEAD in self.names:
            return
        if table is None:
            raise self._refuse("replaces lm_head but not the embedding that shares its weights")
        if head is None and not tied:
            raise self._refuse("replaces the embedding but not lm_head, which shares its weights")
        if head is not None and not head.equals(table):
            raise self._refuse("replaces the embedding and lm_head by different weights, and a bundle stores them once")

    def __str__(self) -> str:
        return f"{self.base} with adapter {self.directory}"


def _matrix(entry: Entry) -> tuple[int, int]:
    return (entry.shape[0], entry.shape[1]) if len(entry.shape) == 2 else (-1, -1)


def with_adapter(weights: Weights, directory: Path) -> AdaptedWeights:
    """`weights` with the LoRA adapter in `directory` merged into them as they are read."""
    return AdaptedWeights(weights, directory)
