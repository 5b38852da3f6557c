"""The tiny pair that comes with edge-mtp: its files, its prompts, and which bundles are of it."""

from __future__ import annotations

from pathlib import Path

import edge_mtp
from edge_mtp.file_hash import sha256
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.family import source_of

TINY = Path(edge_mtp.__file__).parent / "tiny"


def is_tiny(bundle: Bundle) -> bool:
    """Whether the bundle was exported from the tiny pair."""
    source, name = source_of(bundle), "model.safetensors"
    return source is not None and all(source[role].get(name) == sha256(TINY / role / name) for role in source)
