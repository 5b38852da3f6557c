"""Read the encodings inside a bundle. FlatBuffers and protobuf are read in place, with every offset checked.

A bundle may be damaged, and its sections may be gigabytes. The generated readers of these formats trust their input;
these read only the requested bytes, and raise `MalformedError` for a bad offset.
Formats: https://flatbuffers.dev/internals/ and https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload


class MalformedError(ValueError):
    """The bytes violate their format. The caller catches this and names the file."""


def json_value(data: bytes) -> Any:
    """The value that `data` has as JSON. Raises MalformedError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from error


# How often a reader may come by the same byte: writers share equal strings and vtables, and a table is asked twice.
SHARED = 8
TABLE_BYTES = 16  # least size of a table and its offset in a vector


class Budget:
    """The number of bytes of a buffer that may still be read.

    Tables and vectors may overlap, so a small file can describe an endless structure, such as a list whose n entries
    are all the same list.
    """

    __slots__ = ("_left", "_size")

    def __init__(self, size: int) -> None:
        self._size, self._left = size, SHARED * size

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise MalformedError(f"{self._size} bytes list more than they can hold")


class Table:
    """One FlatBuffers table in `buffer`. A slot is a field's index in the schema, from 0.

    All tables reached from one root share a `budget`, which bounds the work by the size of the buffer.
    """

    __slots__ = ("_budget", "_buffer", "_position", "_slots")

    def __init__(self, buffer: memoryview, position: int, budget: Budget) -> None:
        self._buffer = buffer
        self._position = position
        self._budget = budget
        vtable = position - self._read("i", position)
        size = self._read("H", vtable)
        if size < 4 or size % 2:
            raise MalformedError(f"vtable of {size} bytes at {vtable}")
        budget.spend(TABLE_BYTES + size)
        self._slots: tuple[int, ...] = struct.unpack_from(f"<{size // 2 - 2}H", self._span(vtable + 4, size - 4))

    @classmethod
    def root(cls, buffer: memoryview) -> Table:
        """The root table of a FlatBuffer."""
        if len(buffer) < 8:
            raise MalformedError(f"{len(buffer)} bytes hold no table")
        return cls(buffer, struct.unpack_from("<I", buffer)[0], Budget(len(buffer)))

    def scalar(self, slot: int, code: str, default: Any = 0) -> Any:
        """The number in `slot`, as the `struct` format character `code`."""
        at = self._at(slot)
        return self._read(code, at) if at else default

    def string(self, slot: int) -> str:
        at = self._at(slot)
        if not at:
            return ""
        start = at + self._read("I", at)
        size = self._read("I", start)
        self._budget.spend(size)
        try:
            return bytes(self._span(start + 4, size)).decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"string at {start} is not UTF-8") from error

    def scalars(self, slot: int, code: str) -> tuple[Any, ...]:
        """The vector of numbers in `slot`."""
        start, count = self._vector(slot, struct.calcsize(code))
        self._budget.spend(count * struct.calcsize(code))
        return struct.unpack_from(f"<{count}{code}", self._buffer, start) if count else ()

    def length(self, slot: int, item_size: int) -> int:
        """The number of items of so many bytes each in the vector in `slot`; they are not read."""
        return self._vector(slot, item_size)[1]

    def table(self, slot: int) -> Table | None:
        at = self._at(slot)
        return Table(self._buffer, at + self._read("I", at), self._budget) if at else None

    def tables(self, slot: int) -> Tables:
        """The vector of tables in `slot`; each table is read on demand."""
        return Tables(self._buffer, *self._vector(slot, 4), self._budget)

    def _at(self, slot: int) -> int:
        """The position of the field's value; 0 if absent."""
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return self._position + offset if offset else 0

    def _vector(self, slot: int, item_size: int) -> tuple[int, int]:
        at = self._at(slot)
        if not at:
            return 0, 0
        start = at + self._read("I", at)
        count = self._read("I", start)
        self._span(start + 4, count * item_size)
        return start + 4, count

    def _read(self, code: str, at: int) -> Any:
        return struct.unpack_from("<" + code, self._span(at, struct.calcsize(code)))[0]

    def _span(self, at: int, size: int) -> memoryview:
        if at < 0 or at + size > len(self._buffer):
            raise MalformedError(f"bytes {at}..{at + size} lie outside of {len(self._buffer)}")
        return self._buffer[at : at + size]


class Tables(Sequence[Table]):
    """A FlatBuffers vector of tables."""

    def __init__(self, buffer: memoryview, start: int, count: int, budget: Budget) -> None:
        self._buffer, self._start, self._count, self._budget = buffer, start, count, budget

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Table: ...
    @overload
    def __getitem__(self, index: slice) -> list[Table]: ...
    def __getitem__(self, index: int | slice) -> Table | list[Table]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        at = self._start + 4 * index
        return Table(self._buffer, at + struct.unpack_from("<I", self._buffer, at)[0], self._budget)


def protobuf_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in file order: an int for a varint, else the field's bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                number, at = _varint(data, at)
                yield key >> 3, number
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire_type:
                raise MalformedError(f"protobuf wire type {wire_type} at byte {at}")
        if at + size > len(data):
            raise MalformedError(f"protobuf field {key >> 3} ends at byte {at + size} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def varints(data: bytes) -> Iterator[int]:
    """The numbers of a packed repeated field."""
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield number


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedError(f"protobuf varint does not end at byte {at}")
