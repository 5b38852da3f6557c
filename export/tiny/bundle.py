"""The tiny pair's bundle, exported once for each version of its weights and of the exporter, then cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edge_mtp.cache import cache_folder, clear_entry, exclusive, keep, kept
from edge_mtp.export import defaults
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.file_hash import sha256
from edge_mtp.progress import Progress

TOOLS = tiny_pair()[0].parent / "tools.json"


def cached_bundle(
    recipe: str = defaults.RECIPE,
    *,
    kv: str = defaults.KV,
    lean: bool = False,
    widths: Sequence[int] = defaults.WIDTHS,
    progress: Progress = lambda what, done: None,
) -> Path:
    """The tiny pair as a `.litertlm` in the cache folder; exports it if it is missing.

    The options are those of `export_bundle`. Where another process exports the bundle just now, this waits for it.
    Raises EdgeMtpError as `export_bundle` does.
    """
    target, drafter = tiny_pair()
    graphs = "-lean" if lean else "" if tuple(widths) == defaults.WIDTHS else f"-w{'.'.join(map(str, widths))}"
    variant = f"{recipe}{'-kv8' if kv == 'int8' else ''}{graphs}"
    name = f"tiny-{variant}-{_version(target, drafter)}.litertlm"
    path = cache_folder() / name
    if not _is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent, lambda: progress("wait for another export", 0.0)):
            if not _is_whole(path):  # another process may have made it meanwhile
                clear_entry(path)
                export_bundle(target, drafter, path, recipe=recipe, kv=kv, lean=lean, widths=widths, progress=progress)
                keep(_seal(path), sha256(path).encode("ascii"))
    return path


def _seal(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and kept(_seal(path)) == sha256(path).encode("ascii")


def _version(*checkpoints: Path) -> str:
    """A text that changes with the checkpoints and with the exporter's own sources."""
    exporter = Path(__file__).parents[1]
    sources = sorted([*exporter.glob("*.py"), *exporter.glob("*.jinja")])
    digest = hashlib.sha256()
    for path in [*sources, *(file for folder in checkpoints for file in sorted(folder.iterdir()))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
