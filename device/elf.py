"""What an ELF file needs to be loaded: read from its headers, nothing is executed.

Field names and numbers are those of the System V ABI (gabi, chapters 4 and 5) and of the GNU symbol versioning
extension (LSB 3.1, "Symbol Versioning"). 64-bit little-endian files only: all that LiteRT runs on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_mtp.errors import EdgeMtpError

MACHINES = {62: "x86_64", 183: "aarch64"}

_POSITION_INDEPENDENT = 3  # ET_DYN
_LOAD, _DYNAMIC, _INTERPRETER, _STACK = 1, 2, 3, 0x6474E551
_NEEDED, _STRTAB, _SYMTAB, _TEXTREL, _FLAGS = 1, 5, 6, 22, 30
_VERSYM, _VERNEED, _VERNEEDNUM = 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF
_DYNSYM = 11
_DF_TEXTREL = 4
_WEAK = 2
_EXECUTE = 1


@dataclass(frozen=True)
class Undefined:
    """A symbol to be found elsewhere: `version` of `library` where the linker recorded them."""

    name: str
    version: str | None
    library: str | None


@dataclass(frozen=True)
class Elf:
    """A program or shared library. `alignment` is the least of its segments, in bytes: what pages may measure."""

    machine: str  # x86_64, aarch64, or "ELF machine N"
    is_program: bool  # has an interpreter, so that it can be started
    position_independent: bool
    alignment: int
    needed: tuple[str, ...]
    undefined: tuple[Undefined, ...]  # without weak ones, which need not be found
    exported: frozenset[str]
    text_relocations: bool
    executable_stack: bool


def read_elf(path: Path) -> Elf:
    """Raises EdgeMtpError if the file cannot be read, is no 64-bit little-endian ELF file, or is cut short."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgeMtpError(f"cannot read '{path}': {error.strerror}; check the path") from error
    if data[:6] != b"\x7fELF\x02\x01":
        raise EdgeMtpError(f"'{path}' is no 64-bit ELF file; name a program or library built for the device")
    try:
        return _Reader(data).elf()
    except (struct.error, ValueError, OverflowError) as error:
        raise EdgeMtpError(f"'{path}' is damaged or cut short; build or fetch it again") from error


class _Reader:
    """Offsets in the file and addresses in memory of one ELF file. Damage shows as an error that `read_elf` catches."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._type, self._machine, programs = (*struct.unpack_from("<HH", data, 16), self._u64(32))
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", data, programs + index * size) for index in range(count)]
        self._headers: list[tuple[int, int, int, int, int, int]] = [
            (kind, flags, offset, address, length, align)
            for kind, flags, offset, address, _, length, _, align in headers
        ]

    def elf(self) -> Elf:
        kinds = {kind for kind, *_ in self._headers}
        loads = [align for kind, *_, align in self._headers if kind == _LOAD]
        stacks = [flags for kind, flags, *_ in self._headers if kind == _STACK]
        tags = list(self._dynamic())
        if not loads or not tags:
            raise ValueError("nothing to load, or linked statically")
        self._tags = dict(tags)
        symbols = list(self._symbols())
        return Elf(
            machine=MACHINES.get(self._machine, f"ELF machine {self._machine}"),
            is_program=_INTERPRETER in kinds,
            position_independent=self._type == _POSITION_INDEPENDENT,
            alignment=min(loads),
            needed=tuple(self._name(value) for tag, value in tags if tag == _NEEDED),
            undefined=tuple(
                Undefined(name, *version) for name, weak, defined, version in symbols if not defined and not weak
            ),
            exported=frozenset(name for name, _, defined, _ in symbols if defined),
            text_relocations=_TEXTREL in self._tags or bool(self._tags.get(_FLAGS, 0) & _DF_TEXTREL),
            executable_stack=not stacks or bool(stacks[0] & _EXECUTE),
        )

    def _u16(self, offset: int) -> int:
        return int(struct.unpack_from("<H", self._data, offset)[0])

    def _u64(self, offset: int) -> int:
        return int(struct.unpack_from("<Q", self._data, offset)[0])

    def _offset(self, address: int) -> int:
        """Where in the file the byte of an address lies."""
        for kind, _, offset, start, length, _ in self._headers:
            if kind == _LOAD and start <= address < start + length:
                return offset + address - start
        raise ValueError(f"address {address:#x} lies outside of the file")

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        for kind, _, offset, _, length, _ in self._headers:
            if kind == _DYNAMIC:
                for position in range(offset, offset + length, 16):
                    tag, value = struct.unpack_from("<QQ", self._data, position)
                    if tag == 0:
                        return
                    yield tag, value

    def _required(self, tag: int) -> int:
        if tag not in self._tags:
            raise ValueError(f"no dynamic tag {tag:#x}")
        return self._tags[tag]

    def _name(self, index: int) -> str:
        start = self._offset(self._required(_STRTAB)) + index
        end = self._data.index(b"\0", start)
        return self._data[start:end].decode(errors="replace")

    def _symbols(self) -> Iterator[tuple[str, bool, bool, tuple[str | None, str | None]]]:
        """Name, whether weak, whether defined here, and version with its library, of all but the null symbol."""
        count = self._symbol_count()
        table = self._offset(self._required(_SYMTAB))
        versions = dict(self._versions())
        versym = self._offset(self._tags[_VERSYM]) if _VERSYM in self._tags else None
        for index in range(1, count):
            name, info, _, section = struct.unpack_from("<IBBH", self._data, table + 24 * index)
            number = self._u16(versym + 2 * index) & 0x7FFF if versym is not None else 0
            if text := self._name(name):
                yield text, info >> 4 == _WEAK, section != 0, versions.get(number, (None, None))

    def _symbol_count(self) -> int:
        # From the section's header: hash tables reach exported symbols only, and GNU's linker leaves an empty one void.
        sections = self._u64(40)
        size, count = struct.unpack_from("<HH", self._data, 58)
        for index in range(count):
            kind, _, _, _, length = struct.unpack_from("<IQQQQ", self._data, sections + index * size + 4)
            if kind == _DYNSYM:
                return int(length) // 24
        raise ValueError("no section of dynamic symbols")

    def _versions(self) -> Iterator[tuple[int, tuple[str, str]]]:
        """Number of a version in the symbols' table, its name and library."""
        if _VERNEED not in self._tags:
            return
        entry = self._offset(self._tags[_VERNEED])
        for _ in range(self._tags.get(_VERNEEDNUM, 0)):
            _, count, file, first, following = struct.unpack_from("<HHIII", self._data, entry)
            library, version = self._name(file), entry + first
            for _ in range(count):
                _, _, number, name, further = struct.unpack_from("<IHHII", self._data, version)
                yield number, (self._name(name), library)
                if not further:
                    break
                version += further
            if not following:
                return
            entry += following
