"""Chat templates that others wrote, from the package `trl`, which need not be importable."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def folder() -> Path:
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("the package trl is not installed: pip install --no-deps trl==1.16.0")
    return Path(spec.origin).parent / "chat_templates"


def all_published() -> dict[str, str]:
    """Every template of the package by name, of whatever model."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder().glob("*.jinja"))}


def gemma4() -> dict[str, str]:
    """Google's own of Gemma 4, five versions."""
    found = {name: text for name, text in all_published().items() if name.startswith("gemma4")}
    assert len(found) >= 5
    return found
