"""Writes a bundle again with other contents of one section; all other sections stay byte for byte as they are."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers

from edge_mtp.formats.bundle import GRAPHS, GRAPHS_SECTIONS, HEADER_BEGIN, Bundle, Section
from edge_mtp.formats.manifest import EDGE_KEY

ALIGNMENT = 1 << 14  # of the sections in a bundle
# What marks our own graphs. Their buffers point into sections that follow them, by the distance in the file.
OWN_GRAPHS = (GRAPHS, *GRAPHS_SECTIONS)
CHUNK = 1 << 24  # bytes


def replace_section(
    bundle: Bundle, replaced: Section, content: memoryview, items: Mapping[str, str], path: Path
) -> None:
    """Write the bundle to `path`, with `content` for the section `replaced`, one of our own graphs, and `items` added
    to what the header says of it. `content` must be self-contained: nothing may point from it into other sections.

    The new section comes before all of our own graphs, and these and all that follows them move by one distance. Where
    `replaced` was between them, a hole stays.
    """
    begin = min(s.begin for s in bundle.sections if s is replaced or s.items.get(EDGE_KEY) in OWN_GRAPHS)
    before = [s for s in bundle.sections if s.begin < begin]
    after = [s for s in bundle.sections if s.begin >= begin and s is not replaced]
    header = _header(bundle)
    entries = header.sectionMetadata.objects
    entries[replaced.index].items = [*(entries[replaced.index].items or []), *map(_item, items, items.values())]
    # The header is packed twice: other offsets take the same space.
    first = _aligned(HEADER_BEGIN + len(_packed(header)))
    shift = first - min(s.begin for s in bundle.sections)
    places = {s.index: s.begin + shift for s in before}
    places[replaced.index] = _aligned(max((s.end + shift for s in before), default=first))
    if after:
        shift = _aligned(places[replaced.index] + len(content)) - min(s.begin for s in after)
        places |= {s.index: s.begin + shift for s in after}
    contents = {s.index: content if s is replaced else s.data for s in bundle.sections}
    for index, place in places.items():
        entries[index].beginOffset, entries[index].endOffset = place, place + len(contents[index])
    packed = _packed(header)
    with path.open("wb") as file:
        with open(bundle.path, "rb") as source:
            file.write(source.read(HEADER_BEGIN - 8))
        file.write(struct.pack("<Q", HEADER_BEGIN + len(packed)))
        file.write(packed)
        for index, place in sorted(places.items(), key=lambda each: each[1]):
            file.seek(place)
            _write(file, contents[index])
        file.flush()
        os.fsync(file.fileno())  # it is whole under its final name even if the power fails


def _header(bundle: Bundle) -> Any:
    """The object tree of a bundle's header."""
    from litert_lm_builder import litertlm_header_schema_py_generated as schema

    if not hasattr(schema, "VDataCreator"):  # 0.18 and 0.19 define it in another spelling than they call it
        schema.VDataCreator = schema.VdataCreator
    with open(bundle.path, "rb") as file:
        end: int = struct.unpack("<Q", file.read(HEADER_BEGIN)[-8:])[0]
        return schema.LiteRTLMMetaDataT.InitFromPackedBuf(file.read(end - HEADER_BEGIN))


def _item(key: str, text: str) -> Any:
    from litert_lm_builder import litertlm_header_schema_py_generated as schema

    return schema.KeyValuePairT(key=key, valueType=schema.VData.StringValue, value=schema.StringValueT(value=text))


def _packed(header: Any) -> bytes:
    builder = flatbuffers.Builder(ALIGNMENT)
    builder.Finish(header.Pack(builder))
    return bytes(builder.Output())


def _write(file: BinaryIO, content: memoryview) -> None:
    for start in range(0, len(content), CHUNK):
        file.write(content[start : start + CHUNK])


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
