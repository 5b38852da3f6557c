"""The identity of an export: a text that changes with everything that decides the bytes of the bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path

from edge_mtp.export import download
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.options import Options

HEADER_BYTES = 1 << 25  # of a file of tensors: enough for its header


def identity(pair: Pair, options: Options) -> str:
    """The identity of the export of a pair with these options.

    Small files count by their content and not by their place: a random pair is in another folder each time.
    """
    code = hashlib.sha256()
    for source in sorted([*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.jinja")]):
        code.update(source.read_bytes())
    return json.dumps(
        {
            "options": asdict(options),
            "files": [_stamp(path) for path in (pair.tokenizer, *pair.target.files, *pair.drafter.files)],
            "seeds": [pair.target.seed, pair.drafter.seed],
            "chat": [pair.chat_template, pair.generation, pair.special_tokens],
            "exporter": [versions(), code.hexdigest()],
        }
    )


def _stamp(path: Path) -> list[str | int]:
    commit = download.commit(path.parent)
    if commit is not None:
        return [path.parents[2].name, commit, path.name]
    if path.suffix != ".json":
        # Too large to be read for this. A file that replaces another of the same size and time has another time of
        # change, which no program can set back (POSIX, st_ctim); the header says what lies where.
        status = path.stat()
        with path.open("rb") as file:
            header = hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()
        return [str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, header]
    return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]


def versions() -> dict[str, str]:
    """The versions of the packages that write a bundle."""
    return {
        name: importlib.metadata.version(name) for name in ("edge-mtp", "litert-torch", "litert-converter", "torch")
    }
