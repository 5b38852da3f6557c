"""What an ELF file needs to be loaded: read from its headers by pyelftools, nothing is executed.

64-bit little-endian files only: all that LiteRT runs on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}

HEXAGON = 164  # EM_QDSP6, e_machine of what runs on Qualcomm's DSPs; 32 bits

_EXECUTE = 1  # PF_X, of a segment's flags
_TEXTREL = 4  # DF_TEXTREL, of DT_FLAGS
_SECTION_HEADER, _PROGRAM_HEADER = 64, 56  # bytes


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


def read_machine(path: Path) -> int:
    """e_machine of any ELF file, little-endian; -1 for another file. Raises EdgeMtpError when it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise EdgeMtpError(f"cannot read '{path}': {error.strerror}; check the path") from error
    is_elf = len(head) == 20 and head[:4] == b"\x7fELF" and head[5] == 1
    return int.from_bytes(head[18:20], "little") if is_elf else -1


def read_elf(path: Path) -> Elf:
    """Raises EdgeMtpError if the file cannot be read, is no 64-bit little-endian ELF file, or is cut short."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgeMtpError(f"cannot read '{path}': {error.strerror}; check the path") from error
    if data[:6] != b"\x7fELF\x02\x01":
        raise EdgeMtpError(f"'{path}' is no 64-bit ELF file; name a program or library built for the device")
    from elftools.elf.elffile import ELFFile

    try:
        return _read(ELFFile(io.BytesIO(data)))
    except Exception as error:  # pyelftools trusts what it reads, and a damaged file raises anything
        raise EdgeMtpError(f"'{path}' is damaged or cut short; build or fetch it again") from error


def _read(elf: ELFFile) -> Elf:
    """Raises any exception for a damaged file. The file's size bounds the work."""
    # Other sizes and counts would let pyelftools read one place of the file again and again.
    if (elf["e_shentsize"], elf["e_phentsize"]) != (_SECTION_HEADER, _PROGRAM_HEADER) or not elf["e_shnum"]:
        raise ValueError("headers of another size, or no sections")
    segments = list(elf.iter_segments())
    loads = [segment["p_align"] for segment in segments if segment["p_type"] == "PT_LOAD"]
    stacks = [segment["p_flags"] for segment in segments if segment["p_type"] == "PT_GNU_STACK"]
    tags = [tag for segment in elf.iter_segments("PT_DYNAMIC") for tag in cast(Any, segment).iter_tags()]
    if not loads or len(tags) < 2:  # DT_NULL ends them
        raise ValueError("nothing to load, or linked statically")
    table = _section(elf, "SHT_DYNSYM")
    if table is None:
        raise ValueError("no section of dynamic symbols")
    symbols = list(table.iter_symbols())
    _check_tables(elf, table, tags)
    _check_names(table.stringtable.data(), symbols, tags)
    versions = _versions(elf)
    undefined: list[Undefined] = []
    exported: set[str] = set()
    for index, symbol in enumerate(symbols):
        if not symbol.name:
            continue
        if symbol["st_shndx"] != "SHN_UNDEF":
            exported.add(symbol.name)
        elif symbol["st_info"]["bind"] != "STB_WEAK":
            undefined.append(Undefined(symbol.name, *versions.get(index, (None, None))))
    return Elf(
        machine=_machine(elf["e_machine"]),
        is_program=any(segment["p_type"] == "PT_INTERP" for segment in segments),
        position_independent=elf["e_type"] == "ET_DYN",
        alignment=min(loads),
        needed=tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        undefined=tuple(undefined),
        exported=frozenset(exported),
        text_relocations=any(
            tag.entry.d_tag == "DT_TEXTREL" or (tag.entry.d_tag == "DT_FLAGS" and tag.entry.d_val & _TEXTREL)
            for tag in tags
        ),
        executable_stack=not stacks or bool(stacks[0] & _EXECUTE),
    )


def _check_tables(elf: ELFFile, symbols: Any, tags: list[Any]) -> None:
    """Raises ValueError where the loader, which goes by addresses, finds other tables than the sections name."""
    addresses = {tag.entry.d_tag: tag.entry.d_val for tag in tags}
    tables = {
        "DT_SYMTAB": symbols,
        "DT_STRTAB": symbols.stringtable,
        "DT_VERSYM": _section(elf, "SHT_GNU_versym"),
        "DT_VERNEED": _section(elf, "SHT_GNU_verneed"),
    }
    for tag, section in tables.items():
        offsets = list(elf.address_offsets(addresses[tag])) if tag in addresses else []
        if section["sh_offset"] not in offsets if section is not None else tag in addresses:
            raise ValueError(f"{tag} and the section are not of one place")


def _check_names(text: bytes, symbols: list[Any], tags: list[Any]) -> None:
    """Raises ValueError where a name lies outside of `text`, the table of names: pyelftools reads it as no name."""
    used = [tag.entry.d_val for tag in tags if tag.entry.d_tag == "DT_NEEDED"]
    used += [symbol["st_name"] for symbol in symbols]
    if not text.endswith(b"\0") or max(used) >= len(text):
        raise ValueError("a name has no end")


def _machine(name: str | int) -> str:
    if name in MACHINES:
        return MACHINES[str(name)]
    from elftools.elf.enums import ENUM_E_MACHINE

    return f"ELF machine {ENUM_E_MACHINE[name] if isinstance(name, str) else name}"


def _section(elf: ELFFile, kind: str) -> Any:
    """The first section of a type; None without one."""
    return next(elf.iter_sections(kind), None)


def _versions(elf: ELFFile) -> dict[int, tuple[str, str]]:
    """Version and library of each dynamic symbol, by its index, where the linker recorded them."""
    table, needed = _section(elf, "SHT_GNU_versym"), _section(elf, "SHT_GNU_verneed")
    if table is None or needed is None:
        return {}
    names = dict(_needed_versions(needed))
    numbers = memoryview(table.data()).cast("H")
    return {index: names[number & 0x7FFF] for index, number in enumerate(numbers) if number & 0x7FFF in names}


def _needed_versions(section: Any) -> Iterator[tuple[int, tuple[str, str]]]:
    """Number of a version in the symbols' table, its name and library."""
    for file, versions in section.iter_versions():
        for version in versions:
            yield version["vna_other"], (version.name, file.name)
            if not version["vna_next"]:
                break
        if not file["vn_next"]:  # else a wrong count would read the last one again and again
            return
