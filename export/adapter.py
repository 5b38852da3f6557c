"""Merges a LoRA adapter, as PEFT saves it, into a checkpoint's tensors while they are read."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import recipes
from edge_mtp.export.encodings import Encoded, Encoding, decode, encode, pack
from edge_mtp.export.recipes import Recipe
from edge_mtp.export.shapes import HEAD
from edge_mtp.export.weights import EMBEDDING, Entry, Rows, SafetensorsFile, Weights, groups, text_name
from edge_mtp.json_file import read_checkpoint_json

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
# Initializations that leave the base weights unchanged; the others (PiSSA, OLoRA, LoftQ, ...) change them.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_DIFFUSED = 2.0  # what an error along the directions counts, against one elsewhere; 1 to 4 give the same (docs)
_SAMPLED = 64  # rows of a matrix that tell what rounding does to it
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
        self._lock = threading.Lock()
        self._read_directions: dict[str, Rows] = {}
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
        self.grids = {
            name: base.encodings[name]
            for name, change in self._low_rank.items()
            if name in base.encodings and base.encodings[name].bits < 8 and not change.embedding
        }
        self.ranges, self.cache_scales, self.notes = base.ranges, base.cache_scales, base.notes

    def on_grid(self, name: str, start: int, stop: int) -> Encoded:
        """Rows [start:stop] of one of `grids`, rounded to integers times the checkpoint's own steps (`diffused`).

        A block with a weight far beyond what its step reaches gets a new step.
        """
        grid, base = self.grids[name], self.base.encoded(name, start, stop)
        assert base.scales is not None
        rows, steps = self.read(name, start, stop), base.scales.reshape(stop - start, -1)
        blocks = rows.reshape(*steps.shape, -1)
        beyond = np.maximum(blocks.max(axis=2), -blocks.min(axis=2)) > (grid.largest + 1.5) * steps.astype(np.float32)
        if beyond.any():
            fresh = encode(rows, grid).scales
            assert fresh is not None
            steps = np.where(beyond, fresh.reshape(steps.shape), steps)
        integers = diffused(rows, steps.astype(np.float32), self._directions(name), grid)
        return Encoded(pack(integers.view(np.uint8), grid.bits).reshape(-1), steps.reshape(base.scales.shape))

    def _directions(self, name: str) -> Rows:
        """The inputs that the adapter reads: orthonormal float32 [r,k], [0,k] where it replaced the matrix."""
        change = self._low_rank.get(name)
        if change is None or change.embedding or change.a is None:
            return np.zeros((0, self.names[name][1]), np.float32)
        with self._lock:
            if name not in self._read_directions:
                self._read_directions = {name: np.linalg.svd(change.a.rows(), full_matrices=False)[2]}
            return self._read_directions[name]

    def rounding(self, recipe: Recipe) -> str:
        """A line on what storing the changed matrices by `recipe` does to the change.

        Some neighbouring rows of each matrix are looked at. The sizes are root mean squares over all of them.
        """
        changed = [name for name in (*self._low_rank, *self._whole) if len(self.names[name]) == 2]
        sums = np.zeros(5)
        kinds = set()
        for name in changed:
            shape, section = self.names[name], recipes.section_of(name)
            found = recipe.encoding(section, name, shape)
            kinds.add(found.name)
            start = max(0, (shape[0] - _SAMPLED) // 2)
            stop = min(shape[0], start + _SAMPLED)
            base, merged = self.base.read(name, start, stop), self.read(name, start, stop)
            on_grid = recipe.is_on_grid(section, name)
            stored = self.on_grid(name, start, stop) if on_grid else encode(merged, found)
            change, error = merged - base, decode(stored, found, shape[1]) - merged
            directions = self._directions(name).T
            read = (change, error) if not directions.size else (change @ directions, error @ directions)
            # Large matrices count for more.
            sums += (
                shape[0] / (stop - start) * np.array([np.square(each).sum() for each in (base, change, error, *read)])
            )
        weight, moved, erred, wanted, lost = np.sqrt(sums)
        if not moved:
            return f"adapter: changes no weight of {len(changed)} matrices"
        return (
            f"adapter: changes {len(changed)} matrices by {moved / weight:.2%} of their size; stored as"
            f" {', '.join(sorted(kinds))}, {lost / wanted:.1%} of that is lost on the inputs that it reads, and"
            f" rounding moves the weights by {erred / weight:.2%}"
        )

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


def diffused(rows: Rows, steps: Rows, directions: Rows, encoding: Encoding) -> npt.NDArray[np.int8]:
    """Round `rows`, float32 [n,k], to multiples of `steps` [n, blocks], int8 [n,k], so that their products with
    `directions`, orthonormal [r,k], stay what they are.

    A LoRA's change is smaller than half a step nearly everywhere, so that rounding each weight to the nearest multiple
    undoes it. But it changes only what a matrix makes of r directions of its input, and those few sums can be kept:
    each column is rounded with a share of what the columns before it left out along them (error diffusion, as
    sigma-delta modulation does it in time).
    """
    n, width = rows.shape
    wide = np.repeat(steps, width // steps.shape[1], axis=1)
    weighted = directions * np.float32(math.sqrt(width / max(1, len(directions))))
    lowest, highest = -encoding.largest - 1, encoding.largest
    integers = np.empty((width, n), np.int8)
    left = np.zeros((n, len(directions)), np.float32)
    for column in range(width):
        direction, step, wanted = weighted[:, column], wide[:, column], rows[:, column]
        share = _DIFFUSED / (1 + _DIFFUSED * float(direction @ direction))
        level = np.clip(np.rint((wanted - share * (left @ direction)) / step), lowest, highest)
        integers[column] = level
        left += np.outer(level * step - wanted, direction)
    return np.ascontiguousarray(integers.T)


def _matrix(entry: Entry) -> tuple[int, int]:
    return (entry.shape[0], entry.shape[1]) if len(entry.shape) == 2 else (-1, -1)


def with_adapter(weights: Weights, directory: Path) -> AdaptedWeights:
    """`weights` with the LoRA adapter in `directory` merged into them as they are read."""
    return AdaptedWeights(weights, directory)
