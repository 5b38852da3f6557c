"""Where edge-mtp keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/edge-mtp`, else `~/.cache/edge-mtp`; it may not exist yet. Safe to delete at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-mtp"
