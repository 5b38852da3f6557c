"""The tiny pair's bundle: exported once for each version of its weights and of the exporter, then kept."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from edge_mtp.cache import cache_folder, keep, kept
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.pipeline import Progress, export_bundle
from edge_mtp.export.tiny import CONTEXT
from edge_mtp.file_hash import sha256

TOOLS = tiny_pair()[0].parent / "tools.json"


def cached_bundle(
    recipe: str = "fp32", *, kv: str = "fp32", lean: bool = False, progress: Progress = lambda what, done: None
) -> Path:
    """The tiny pair as a `.litertlm` in the cache folder, exported now if it is not there yet.

    Raises EdgeMtpError as `export_bundle` does.
    """
    target, drafter = tiny_pair()
    variant = f"{recipe}{'-kv8' if kv == 'int8' else ''}{'-lean' if lean else ''}"
    name = f"tiny-{variant}-{_version(target, drafter)}.litertlm"
    path = cache_folder() / name
    seal = path.with_suffix(".sha256")
    if path.is_symlink() or not path.is_file() or kept(seal) != sha256(path).encode("ascii"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        export_bundle(target, drafter, path, recipe=recipe, kv=kv, context=CONTEXT, lean=lean, progress=progress)
        keep(seal, sha256(path).encode("ascii"))
    return path


def _version(*checkpoints: Path) -> str:
    """Changes with the checkpoints and with the exporter's own sources."""
    exporter = Path(__file__).parents[1]
    sources = sorted([*exporter.glob("*.py"), *exporter.glob("*.jinja")])
    digest = hashlib.sha256()
    for path in [*sources, *(file for folder in checkpoints for file in sorted(folder.iterdir()))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
