"""A cache of converted pieces. They hold no weights, so every export of the same shapes can reuse them.

A fine-tune, another recipe or another adapter has the same graphs, and tracing them takes most of an export's time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mtp.cache import cache_folder, keep, kept
from edge_mtp.export import flatbuffer

if TYPE_CHECKING:
    from edge_mtp.export.convert import Signature
    from edge_mtp.export.decoder import Decoder
    from edge_mtp.export.signatures import Graphs

KEPT = 64  # a few hundred KB each
# The graphs depend on these modules and packages.
SOURCES = ("convert", "decoder", "ops", "layers", "placeholders", "signatures", "window")
CONVERTERS = ("litert-torch", "litert-converter", "torch", "transformers")


def converted(
    name: str, graphs: Graphs, traced: Sequence[Signature], scratch: Path, report: Callable[[str], None]
) -> bytes:
    """A TFLite file of the pieces called `name`, from the cache or newly converted (`report`: see `convert`)."""
    path = cache_folder() / "graphs" / f"{name}-{_key(graphs)}.pieces"
    found = _kept(path, len(traced))
    if found is not None:
        for signature in traced:
            report(signature.name)
            report(signature.name)
        return found
    from edge_mtp.export.convert import convert

    fresh = scratch / path.name
    convert(traced, fresh, report)
    pieces = fresh.read_bytes()
    keep(path, pieces)
    fresh.unlink()
    with suppress(OSError):
        _forget(path.parent)
    return pieces


def _kept(path: Path, signatures: int) -> bytes | None:
    """The file at `path`; None if it is missing or incomplete."""
    content = kept(path)
    if content is None:
        return None
    with suppress(OSError):
        path.touch()
    return content if len(flatbuffer.parse(content).signatureDefs) == signatures else None


def _key(graphs: Graphs) -> str:
    """A key that changes with the shapes, the sources of the modules that build the pieces, and the converter."""

    def shape(decoder: Decoder) -> list[tuple[str, str]]:
        fields = vars(decoder) | {"frequencies": {k: v.tolist() for k, v in sorted(decoder.frequencies.items())}}
        return sorted((name, repr(value)) for name, value in fields.items())

    others = {name: value for name, value in vars(graphs).items() if name not in ("target", "drafter")}
    digest = hashlib.sha256(repr([shape(graphs.target), shape(graphs.drafter), sorted(others.items())]).encode())
    for module in SOURCES:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    for name in CONVERTERS:
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()[:20]


def _forget(folder: Path) -> None:
    """Drop the least recently used entries beyond `KEPT`."""
    for path in sorted(folder.glob("*.pieces"), key=lambda path: path.lstat().st_mtime)[:-KEPT]:
        path.unlink(missing_ok=True)
