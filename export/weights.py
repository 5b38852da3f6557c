"""A checkpoint's tensors, read a few rows at a time: from safetensors, with a LoRA adapter, or random."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import Encoded, Encoding
from edge_mtp.export.shapes import HEAD, tensor_shapes
from edge_mtp.export.tensor_file import TensorFile

Rows = npt.NDArray[Any]  # float32, or int32 for token_ordering

EMBEDDING = "model.embed_tokens.weight"
TOKEN_ORDERING = "masked_embedding.token_ordering"
# Top-level modules of multimodal checkpoints that text does not need.
MODALITIES = ("vision_tower", "audio_tower", "embed_vision", "embed_audio", "vision_embedder", "multi_modal_projector")

_READABLE = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8}
_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "I8": "<i1", "U8": "<u1"}
_WIDTH = _READABLE | {"I8": 1, "U8": 1}
COMPARED = 1 << 20  # numbers at once, of two tensors that should be equal
_LONGEST_HEADER = 100_000_000  # the format's own limit


class Weights(ABC):
    """Tensors by the names that the transformers model's state_dict gives them; a tied head is not among them.

    Several threads may read at once.

    Attributes:
        names: shape of each tensor.
        left_out: a line for each group of tensors that the checkpoint holds beside those.
        encodings: how the checkpoint stores those of its tensors that are integers with scales already.
        nearly: the encoding of those whose integers and scales an encoding holds but for a few integers, each of which
            takes the next one's place: better than to round anew where that encoding is wanted.
        foreign: the checkpoint's own name for the form of those that it quantized and that no encoding holds.
        ranges: of a module's input and output, the scales of a static 8-bit range that it was trained with (0: none).
        cache_scales: of an int8 KV cache that it was trained with, `N.k` and `N.v` for layer N.
        notes: a line for each thing that a user should know of them.
    """

    names: Mapping[str, tuple[int, ...]]
    left_out: tuple[str, ...] = ()
    encodings: Mapping[str, Encoding] = MappingProxyType({})
    nearly: Mapping[str, Encoding] = MappingProxyType({})
    foreign: Mapping[str, str] = MappingProxyType({})
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})
    cache_scales: Mapping[str, float] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Rows:
        """Rows [start:stop] of the first axis, C-contiguous float32 (`token_ordering`: int32).

        Takes memory for about those rows only, however large the tensor is.

        Raises:
            EdgeMtpError: there is no such tensor, or its file is damaged; the message names both.
            IndexError: the tensor does not have these rows.
        """
        return self._read(name, *self._span(name, start, stop))

    def encoded(self, name: str, start: int = 0, stop: int | None = None) -> Encoded:
        """Rows [start:stop] of one of `encodings` or `nearly`, the integers and scales that the checkpoint has.

        Raises what `read` does, and KeyError for a tensor that is stored in another form.
        """
        if name not in self.encodings and name not in self.nearly:
            raise KeyError(name)
        return self._encoded(name, *self._span(name, start, stop))

    def _span(self, name: str, start: int, stop: int | None) -> tuple[int, int]:
        if name not in self.names:
            raise EdgeMtpError(f"{self} has no tensor {name}: save the whole model")
        rows = self.names[name][0]
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows {start}:{stop} of {name}, which has {rows}")
        return start, stop

    @property
    def parameters(self) -> int:
        """The number of parameters in all tensors."""
        return sum(math.prod(shape) for shape in self.names.values())

    @abstractmethod
    def _read(self, name: str, start: int, stop: int) -> Rows: ...

    def _encoded(self, name: str, start: int, stop: int) -> Encoded:
        raise KeyError(name)


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: its type as in the header, shape, and offset in the file."""

    file: SafetensorsFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def stored(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start:stop] in the type that they are stored in; not for BF16, which numpy lacks."""
        data, shape = self._bytes(start, stop)
        return np.frombuffer(data, _NUMPY[self.dtype]).reshape(shape)

    def _bytes(self, start: int, stop: int | None) -> tuple[memoryview, tuple[int, ...]]:
        if not self.shape:  # a number by itself
            return self.file.bytes_at(self.offset, _WIDTH[self.dtype], self.name), ()
        stop = self.shape[0] if stop is None else stop
        width = _WIDTH[self.dtype] * math.prod(self.shape[1:])
        data = self.file.bytes_at(self.offset + start * width, (stop - start) * width, self.name)
        return data, (stop - start, *self.shape[1:])

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Rows [start:stop] as float32, integers as int32."""
        return self._numbers(*self._bytes(start, stop))

    def columns(self, start: int, stop: int) -> Rows:
        """Columns [start:stop] of a matrix, as `rows` gives them; memory for about those is taken."""
        count, width = self.shape
        size = _WIDTH[self.dtype]
        if (start, stop) == (0, width):
            return self.rows()
        data = b"".join(
            self.file.bytes_at(self.offset + (row * width + start) * size, (stop - start) * size, self.name)
            for row in range(count)
        )
        return self._numbers(data, (count, stop - start))

    def _numbers(self, data: memoryview | bytes, shape: tuple[int, ...]) -> Rows:
        if self.dtype == "BF16":
            halves = np.frombuffer(data, "<u2")
            rows = np.empty(halves.size, np.uint32)
            np.left_shift(halves, 16, out=rows, dtype=np.uint32, casting="unsafe")
            return rows.view(np.float32).reshape(shape)
        kind = np.int32 if self.dtype.startswith("I") else np.float32
        return np.frombuffer(data, _NUMPY[self.dtype]).astype(kind, copy=False).reshape(shape)

    def equals(self, other: Entry) -> bool:
        """Whether both hold the same numbers. Reads all rows, a few at a time, since training may change only some."""
        if self.shape != other.shape or self.dtype not in _READABLE or other.dtype not in _READABLE:
            return False
        if not self.shape:
            return np.array_equal(self.rows(), other.rows())
        few = max(1, COMPARED // max(1, math.prod(self.shape[1:])))
        starts = range(0, self.shape[0], few)
        return all(
            np.array_equal(self.rows(at, stop), other.rows(at, stop))
            for at in starts
            for stop in [min(at + few, self.shape[0])]
        )

    def check_float(self, integers: bool = False) -> None:
        """Refuse quantized formats, and integers (with `integers`: floats)."""
        if self.dtype not in _READABLE or self.dtype.startswith("I") != integers:
            raise EdgeMtpError(
                f"{self.file.path}: {self.name} is stored as {self.dtype}: give the checkpoint before quantization,"
                " in bf16, fp16 or fp32"
            )


class SafetensorsFile(TensorFile):
    """One file. Opening it checks the header."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entries = self._parse()

    def _parse(self) -> dict[str, Entry]:
        """Parse the header: 8 bytes of length, then JSON. The data after it must be complete and without gaps."""
        path = self.path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length) if length < min(size, _LONGEST_HEADER) else b"")
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            entries = {}
            end = 0
            for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
                dtype, shape, (begin, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
                if begin != end or not all(isinstance(n, int) and n >= 0 for n in shape):
                    raise ValueError
                if dtype in _WIDTH and stop - begin != math.prod(shape) * _WIDTH[dtype]:
                    raise ValueError
                entries[name] = Entry(self, name, dtype, shape, 8 + length + begin)
                end = stop
        except FileNotFoundError as error:
            raise EdgeMtpError(f"{path} is missing: copy the checkpoint's weights beside its config.json") from error
        except OSError as error:
            raise EdgeMtpError(f"{path} cannot be read ({error.strerror}): check the file and its disk") from error
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EdgeMtpError(f"{path} is not a safetensors file: copy it again") from error
        expected = 8 + length + end
        if size != expected:
            raise EdgeMtpError(f"{path} has {size} bytes of {expected}: copy it again")
        return entries


class Packed(Protocol):
    """A tensor that a checkpoint stores as integers with scales. Its rows are those of [n,k], all axes but the last
    made one."""

    @property
    def encoding(self) -> Encoding: ...

    @property
    def stored(self) -> str:
        """How many bits the checkpoint has for a weight, and which weights share a scale."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the tensors in the file that it is made of."""

    def encoded(self, start: int, stop: int) -> Encoded: ...

    def rows(self, start: int, stop: int) -> Rows:
        """What the checkpoint's own formula makes of them, float32."""

    def equals(self, other: object) -> bool: ...


# From a tensor's name and shape and all that the files hold, by name: how it is packed; None where it is not.
FindPacked = Callable[[str, tuple[int, ...], Mapping[str, Entry]], Packed | None]


@dataclass(frozen=True)
class Form:
    """How a checkpoint stores what it quantized.

    `ranges` and `caches` match the names of the scales that it was trained with: of the `side` of a `module`, and of
    the `kind` of cache of a `layer`; None where it has none of 8 bits. `notes` says, from what was found and all that
    the files hold, what a user should know.
    """

    find: FindPacked
    ranges: re.Pattern[str] | None = re.compile(r"(?P<module>.*)\.(?P<side>input|output)_activation_scale$")
    caches: re.Pattern[str] | None = re.compile(
        r"model\.layers\.(?P<layer>\d+)\.self_attn\.(?P<kind>[kv])_cache_scale$"
    )
    notes: Callable[[Mapping[str, Packed], Mapping[str, Entry]], tuple[str, ...]] = lambda packed, entries: ()


FLOATS = Form(lambda name, shape, entries: None)
_EXPERTS = re.compile(r"(?P<experts>.*\.experts)\.(?P<kind>gate_up|down)_proj$")


def expert_matrices(name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, int]]]:
    """What the tensor of all experts, [E,n,k], is made of where each expert is a module: names and shapes, in order.

    So quantizers store them: `experts.E.gate_proj.weight`, `up_proj`, `down_proj`. Empty for any other tensor.
    """
    found = _EXPERTS.fullmatch(name)
    if found is None or len(shape) != 3:
        return []
    count, rows, width = shape
    kinds = ("gate_proj", "up_proj") if found["kind"] == "gate_up" else ("down_proj",)
    return [
        (f"{found['experts']}.{expert}.{kind}.weight", (rows // len(kinds), width))
        for expert in range(count)
        for kind in kinds
    ]


class SafetensorsWeights(Weights):
    """The tensors `shapes` from safetensors files, saved under any prefix.

    `form` finds those that are stored as integers with scales; without it all are plain numbers.

    Raises:
        EdgeMtpError: a tensor is missing, has another shape or a type that is not a plain number, or the checkpoint's
            own head differs from the embedding that it should be tied to.
    """

    def __init__(
        self, directory: Path, files: Iterable[Path], shapes: Mapping[str, tuple[int, ...]], form: Form = FLOATS
    ) -> None:
        self.directory = directory
        self.names = dict(shapes)
        entries: dict[str, Entry] = {}
        raw_names: dict[str, str] = {}
        others: list[str] = []
        for path in files:
            for raw, entry in SafetensorsFile(path).entries.items():
                name = text_name(raw)
                if name is None:
                    others.append(raw)
                    continue
                if name in entries and name in self.names:
                    raise EdgeMtpError(
                        f"{path} holds {name}, which {entries[name].file.path.name} holds too: keep one of them"
                    )
                entries[name] = entry
                raw_names[name] = raw
        found = {name: form.find(name, shape, entries) for name, shape in self.names.items()}
        self._packed = {name: packed for name, packed in found.items() if packed is not None}
        self._entries = {name: entries[name] for name in self.names if name in entries and name not in self._packed}
        self._experts = {
            name: parts
            for name in self.names
            if name not in self._entries and name not in self._packed and (parts := self._parts(name, entries))
        }
        self.encodings = {name: packed.encoding for name, packed in self._packed.items()}
        self.ranges, self.cache_scales, told = _trained_scales(entries, form)
        self.notes = form.notes(self._packed, entries)
        tied = HEAD not in self.names
        head = entries.get(HEAD) if tied else None
        table = self.names.get(EMBEDDING)
        packed_head = form.find(HEAD, table, entries) if tied and table is not None else None
        self._check(head if packed_head is None else None, packed_head)
        used = {*self._entries, *told, HEAD, *(part for packed in self._packed.values() for part in packed.parts)}
        used |= {part for name in self._experts for part, _ in expert_matrices(name, self.names[name])}
        used |= set(packed_head.parts) if packed_head is not None else set()
        self.left_out = groups([*others, *(raw for name, raw in raw_names.items() if name not in used)])

    def _parts(self, name: str, entries: Mapping[str, Entry]) -> tuple[Entry, ...]:
        """The experts' own matrices, where the files hold all of them and no tensor of all experts."""
        matrices = expert_matrices(name, self.names[name])
        found = tuple(entries[part] for part, _ in matrices if part in entries)
        if len(found) < len(matrices):
            return ()
        for entry, (part, shape) in zip(found, matrices, strict=True):
            _check_shape(entry, part, shape)
            entry.check_float()
        return found

    def _check(self, head: Entry | None, packed_head: Packed | None) -> None:
        held = {*self._entries, *self._packed, *self._experts}
        missing = [name for name in self.names if name not in held]
        if missing:
            raise EdgeMtpError(
                f"{self.directory} lacks {len(missing)} tensors, first {missing[0]}: save the whole model"
            )
        for name, entry in self._entries.items():
            _check_shape(entry, name, self.names[name])
            entry.check_float(integers=name == TOKEN_ORDERING)
        table, packed_table = self._entries.get(EMBEDDING), self._packed.get(EMBEDDING)
        differs = head is not None and (table is None or not head.equals(table))
        if differs or (packed_head is not None and (packed_table is None or not packed_head.equals(packed_table))):
            raise EdgeMtpError(
                f"{self.directory}: lm_head.weight differs from the embedding, and the exporter stores them once:"
                " train with the head tied"
            )

    def _read(self, name: str, start: int, stop: int) -> Rows:
        shape = self.names[name]
        if name in self._packed:
            inner = math.prod(shape[1:-1])
            return self._packed[name].rows(start * inner, stop * inner).reshape(stop - start, *shape[1:])
        if name in self._experts:
            matrices = len(self._experts[name]) // shape[0]
            parts = self._experts[name][start * matrices : stop * matrices]
            rows = [np.zeros((0, shape[-1]), np.float32), *(part.rows() for part in parts)]
            return np.concatenate(rows).reshape(stop - start, *shape[1:])
        return self._entries[name].rows(start, stop)

    def _encoded(self, name: str, start: int, stop: int) -> Encoded:
        inner = math.prod(self.names[name][1:-1])
        return self._packed[name].encoded(start * inner, stop * inner)

    def __str__(self) -> str:
        return str(self.directory)


def _check_shape(entry: Entry, name: str, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise EdgeMtpError(
            f"{entry.file.path}: {name} is {_by(entry.shape)}, config.json says {_by(shape)}:"
            " use the config.json that was saved with these weights"
        )


def _trained_scales(
    entries: Mapping[str, Entry], form: Form
) -> tuple[dict[str, tuple[float, float]], dict[str, float], set[str]]:
    """`Weights.ranges` and `Weights.cache_scales` of a checkpoint that was trained with them, and their tensors."""
    sides: dict[str, dict[str, float]] = {}
    caches: dict[str, float] = {}
    told = set()
    for name, entry in entries.items():
        ranged = form.ranges.match(name) if form.ranges else None
        cached = form.caches.match(name) if form.caches else None
        if not (ranged or cached):
            continue
        told.add(name)
        values = entry.rows().reshape(-1) if entry.dtype in _READABLE else np.zeros(0, np.float32)
        if len(values) != 1 or not 0 <= values[0] < np.inf:
            raise EdgeMtpError(f"{entry.file.path}: {name} is no positive number: copy the checkpoint again")
        if ranged:
            sides.setdefault(ranged["module"], {})[ranged["side"]] = float(values[0])
        elif cached:
            caches[f"{cached['layer']}.{cached['kind']}"] = float(values[0])
    ranges = {module: (found.get("input", 0.0), found.get("output", 0.0)) for module, found in sides.items()}
    return ranges, caches, told


def text_name(name: str) -> str | None:
    """The name of a tensor of the text decoder or drafter, without the prefixes of multimodal layouts.

    `model.language_model.X`, `language_model.model.X`, `language_model.X` and `model.X` all become `model.X`. None for
    a tensor of another modality.
    """
    rest = re.sub(r"^(?:model\.language_model\.(?:model\.)?|language_model\.(?:model\.)?|model\.)", "", name)
    if rest.split(".")[0] in MODALITIES:
        return None
    if rest.split(".")[0] in ("lm_head", "pre_projection", "post_projection", "masked_embedding"):
        return rest
    return f"model.{rest}"


def groups(names: Iterable[str]) -> tuple[str, ...]:
    """One line per group of tensors: other modalities by module, the text decoder's extra tensors by name with layers
    merged."""
    counts: Counter[str] = Counter()
    for name in names:
        text = text_name(name)
        if text is None:
            counts[next(part for part in name.split(".") if part in MODALITIES)] += 1
        else:
            counts[re.sub(r"\.\d+\.", ".*.", text)] += 1
    return tuple(f"{group} ({count} tensor{'s' * (count > 1)})" for group, count in sorted(counts.items()))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


class RandomWeights(Weights):
    """Random numbers in a model's shapes, for measuring without a checkpoint.

    A row is a window into one fixed block of normal numbers, times a factor within [-1.25, -0.75] or [0.75, 1.25]. Only
    (seed, name, row) determine offset and factor, so rows do not depend on how they are read, and cost little more than
    a copy. Linear rows have standard deviation 1/sqrt(fan in), so a hidden state keeps its size. Norms are near 1;
    those of queries and keys are smaller, since Gemma 4's attention does not scale by 1/sqrt(head size).
    """

    _BLOCK = 1 << 20

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int, per_layer_width: int = 0) -> None:
        self.names = dict(shapes)
        self.seed = seed
        self._per_layer_width = per_layer_width
        widest = max((shape[-1] for shape in shapes.values() if len(shape) > 1), default=1)
        self._block = np.random.default_rng(seed).standard_normal(self._BLOCK + widest, np.float32)
        self._orderings: dict[str, npt.NDArray[np.int32]] = {}

    def _read(self, name: str, start: int, stop: int) -> Rows:
        shape = self.names[name]
        if name == TOKEN_ORDERING:
            if name not in self._orderings:
                generator = np.random.default_rng(self._key(name))
                self._orderings[name] = generator.permutation(shape[0]).astype(np.int32)
            ordering: Rows = self._orderings[name][start:stop].copy()
            return ordering
        if len(shape) == 1:
            return self._vector(name, start, stop)
        inner = math.prod(shape[1:-1])
        bits = _scrambled(np.arange(start * inner, stop * inner, dtype=np.uint64) + np.uint64(self._key(name)))
        windows = np.lib.stride_tricks.sliding_window_view(self._block, shape[-1])
        rows = windows[(bits % np.uint64(self._BLOCK)).astype(np.int64)]
        factor = 0.75 + 0.5 * ((bits >> np.uint64(32)) % np.uint64(1 << 16)).astype(np.float32) / (1 << 16)
        factor[(bits >> np.uint64(63)).astype(bool)] *= -1
        rows *= (factor * self._deviation(name, shape)).astype(np.float32)[:, None]
        shaped: Rows = rows.reshape(stop - start, *shape[1:])
        return shaped

    def _vector(self, name: str, start: int, stop: int) -> Rows:
        if name.endswith("layer_scalar"):
            return np.ones(stop - start, np.float32)
        first = self._key(name) % self._BLOCK
        noise = self._block[(first + np.arange(start, stop)) % self._BLOCK]
        size = self.names[name][0] ** -0.25 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0
        vector: Rows = (size * (1 + 0.1 * np.clip(noise, -4, 4))).astype(np.float32)
        return vector

    def _deviation(self, name: str, shape: tuple[int, ...]) -> float:
        if name.endswith("embed_tokens_per_layer.weight") and self._per_layer_width:
            return 1 / math.sqrt(self._per_layer_width)
        return 1 / math.sqrt(shape[-1])

    def _key(self, name: str) -> int:
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def __str__(self) -> str:
        return f"the random weights of seed {self.seed}"


def _scrambled(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: turns consecutive keys into bits that look independent."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
        return mixed


def random_weights(config: Any, seed: int) -> RandomWeights:
    """Random weights for a Gemma 4 (unified) text or assistant configuration of transformers."""
    return RandomWeights(tensor_shapes(config), seed, getattr(config, "hidden_size_per_layer_input", 0) or 0)
