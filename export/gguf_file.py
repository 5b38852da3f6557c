"""A GGUF file: its metadata, and where its tensors lie (llama.cpp, ggml/docs/gguf.md, versions 2 and 3).

The header is read here, within limits, since it may come from anyone. What the blocks of a quantized tensor mean, the
package `gguf` knows.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.tensor_file import TensorFile

Metadata = dict[str, Any]
Rows = npt.NDArray[Any]  # float32, or int32

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# A vocabulary of 262,144 tokens with its merges takes about 20 MB, and no Gemma 4 has 10,000 tensors.
_LONGEST_HEADER, _LONGEST_STRING = 1 << 27, 1 << 24
_MOST_KEYS, _MOST_TENSORS, _MOST_ELEMENTS = 1 << 12, 1 << 16, 1 << 22
_MOST_DIMENSIONS = 4
_ALIGNMENT = 32  # where the metadata say nothing else

# By the numbers that the format gives its types.
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_FLAG, _STRING, _ARRAY = 7, 8, 9
_FLOAT32 = 6

_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_INTEGERS = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
Q4_0 = "Q4_0"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a GGUF file: the name of its type in ggml, its shape (rows first), and its offset in the file.

    `row_bytes`: what a row takes, that is, all elements of the last axis.
    """

    file: GgufFile
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    row_bytes: int

    @property
    def size(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes

    @property
    def is_float(self) -> bool:
        return self.kind in _FLOATS or self.kind == "BF16"

    @property
    def is_quantized(self) -> bool:
        return not self.is_float and self.kind not in _INTEGERS

    def stored(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """uint8 [rows, row_bytes]: rows [start:stop] of the matrix that all axes but the last make."""
        data = self.file.bytes_at(self.offset + start * self.row_bytes, (stop - start) * self.row_bytes, self.name)
        return np.frombuffer(data, np.uint8).reshape(stop - start, self.row_bytes)

    def rows(self, start: int, stop: int) -> Rows:
        """float32 [rows, k], integers as int32; rows as in `stored`, in ggml's own values."""
        data = self.stored(start, stop)
        rows: Rows
        if self.kind in _FLOATS:
            rows = data.view(_FLOATS[self.kind]).astype(np.float32, copy=False)
        elif self.kind in _INTEGERS:
            rows = data.view(_INTEGERS[self.kind]).astype(np.int32, copy=False)
        elif self.kind == "BF16":
            rows = (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        elif start == stop:  # which the package cannot shape
            rows = np.empty((0, self.shape[-1]), np.float32)
        else:
            gguf = _package(self.file.path)
            with np.errstate(all="ignore"):  # who uses the values tells of a scale that is no number
                rows = gguf.dequantize(data, gguf.GGMLQuantizationType[self.kind]).astype(np.float32, copy=False)
        return rows


class GgufFile(TensorFile):
    """One file. Opening it checks the header, and that all tensors lie within the file.

    Attributes:
        metadata: numbers, flags and strings by key; arrays of numbers are numpy's, arrays of strings lists. Numbers
            of 32 bits are the shortest decimals that mean them: 1e-06.
        tensors: by name.

    Raises:
        EdgeMtpError: it is no GGUF file, truncated, one part of several, or beyond what any model has; or the package
            `gguf` is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        gguf = _package(path)
        kinds = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                header = _Header(file, size)
                self.metadata, listed = header.parse(kinds)
                begin = header.data_at(self.metadata.get("general.alignment", _ALIGNMENT))
        except OSError as error:
            raise EdgeMtpError(f"{path} cannot be read ({error.strerror}): check the file and its disk") from error
        except _DamagedError as error:
            raise EdgeMtpError(f"{path} is not a GGUF file that can be read ({error}): copy it again") from error
        if self.metadata.get("split.count", 0) > 1:
            raise EdgeMtpError(f"{path} is one part of several: join them with `llama-gguf-split --merge`")
        self.tensors = {
            name: GgufTensor(self, name, kind, shape, begin + at, row) for name, kind, shape, row, at in listed
        }
        end = max((tensor.offset + tensor.size for tensor in self.tensors.values()), default=0)
        if size < end:
            raise EdgeMtpError(f"{path} has {size} bytes of {end}: copy it again")

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))


class _DamagedError(ValueError):
    """What is wrong with a header."""


class _Header:
    """Reads a header from its beginning; it takes no more bytes than the file or any model has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._limit = min(size, _LONGEST_HEADER)
        self._at = 0

    def parse(self, kinds: dict[int, tuple[str, int, int]]) -> tuple[Metadata, list[Any]]:
        """The metadata, and of each tensor name, type, shape, bytes of a row, and offset behind the header."""
        if self._take(4) != MAGIC:
            raise _DamagedError("it does not begin as one")
        version = self._number("<u4")
        if version not in _VERSIONS:
            raise _DamagedError(f"its version is {version}, known are 2 and 3")
        tensors, keys = self._count(_MOST_TENSORS, "tensors"), self._count(_MOST_KEYS, "keys")
        metadata: Metadata = {}
        for _ in range(keys):
            key = self._text()
            if key in metadata:
                raise _DamagedError(f"it has {key} twice")
            metadata[key] = self._value(self._number("<u4"))
        listed = [self._tensor(kinds) for _ in range(tensors)]
        if len({name for name, *_ in listed}) != len(listed):
            raise _DamagedError("it has two tensors of one name")
        return metadata, listed

    def data_at(self, alignment: Any) -> int:
        """Where the tensors begin, behind the header."""
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _DamagedError(f"its alignment is {alignment}, which is no power of two")
        return -(-self._at // alignment) * alignment

    def _tensor(self, kinds: dict[int, tuple[str, int, int]]) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self._text()
        count = self._number("<u4")
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise _DamagedError(f"{name} has {count} dimensions")
        shape = tuple(reversed([int(self._number("<u8")) for _ in range(count)]))  # the format begins with the last
        number, offset = self._number("<u4"), self._number("<u8")
        if number not in kinds:
            raise _DamagedError(f"{name} has type {number}, which the package gguf does not know")
        kind, block, size = kinds[number]
        if not all(shape) or max(shape) > 1 << 40 or shape[-1] % block:
            raise _DamagedError(f"{name} is {'x'.join(map(str, shape))} in {kind}")
        return name, kind, shape, shape[-1] // block * size, offset

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _FLAG:
            return bool(self._number("<u1"))
        if kind == _ARRAY:
            return self._array()
        if kind in _NUMBERS:
            value = self._number(_NUMBERS[kind])
            return float(str(np.float32(value))) if kind == _FLOAT32 else value
        raise _DamagedError(f"a value has type {kind}")

    def _array(self) -> Any:
        kind, count = self._number("<u4"), self._count(_MOST_ELEMENTS, "elements in an array")
        if kind == _STRING:
            return [self._text() for _ in range(count)]
        if kind == _FLAG:
            return np.frombuffer(self._take(count), np.uint8).astype(bool)
        if kind in _NUMBERS:
            each = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self._take(count * each.itemsize), each)
        raise _DamagedError(f"an array holds type {kind}")

    def _count(self, most: int, what: str) -> int:
        count = int(self._number("<u8"))
        if count > most:
            raise _DamagedError(f"it has {count} {what}, more than {most}")
        return count

    def _text(self) -> str:
        length = int.from_bytes(self._take(8), "little")
        if length > _LONGEST_STRING:
            raise _DamagedError(f"a text has {length} bytes, more than {_LONGEST_STRING}")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise _DamagedError("a text is not UTF-8") from error

    def _number(self, kind: str) -> Any:
        code = {"u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q"}
        return struct.unpack("<" + (code | {"f4": "f", "f8": "d"})[kind[1:]], self._take(int(kind[2:])))[0]

    def _take(self, count: int) -> bytes:
        self._at += count
        if self._at > self._limit:
            raise _DamagedError("its header does not end")
        data = self._file.read(count)
        if len(data) != count:
            raise _DamagedError("its header does not end")
        return data


def can_dequantize(kind: str, path: Path) -> bool:
    """Whether the package can tell the values of a quantized type of the file at `path`."""
    gguf = _package(path)
    known = gguf.GGMLQuantizationType[kind]
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8), known)
    except NotImplementedError:
        return False
    return True


def find_gguf(place: Path) -> Path | None:
    """The GGUF file that a path names: itself, or the only one of a folder without safetensors; None for a checkpoint.

    A projector of images or sound (`mmproj` in its name) does not count.

    Raises:
        EdgeMtpError: the folder holds several.
    """
    if place.is_file():
        return place
    if not place.is_dir() or any(place.glob("*.safetensors")) or any(place.glob("*.safetensors.index.json")):
        return None
    found = model_files(path.name for path in place.iterdir())
    if len(found) > 1:
        raise EdgeMtpError(f"{place} holds {listing(found)}: name one of them")
    return place / found[0] if found else None


def model_files(names: Any) -> list[str]:
    """Those of `names` that are GGUF files of a language model."""
    return sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())


def listing(names: list[str]) -> str:
    """Names for an error; of many, the first ten."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _package(path: Path) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise EdgeMtpError(
            f"{path} needs the package gguf ({error}): install it with `pip install 'edge-mtp[export]'`"
        ) from error
    return gguf
