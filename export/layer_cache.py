"""A cache of converted pieces. They hold no weights, so every export that needs a piece can reuse it.

Tracing takes most of an export's time. A fine-tune, another recipe or another adapter has the same pieces, other verify
widths or prefill lengths have most of them, and an export that was interrupted finds those that it had converted.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edge_mtp.cache import cache_folder, keep, kept
from edge_mtp.export import flatbuffer
from edge_mtp.export.join import join

if TYPE_CHECKING:
    from edge_mtp.export.convert import Signature

KEPT = 4096  # some ten KB each; a bundle has about sixty
# A converted piece depends on these modules and packages.
SOURCES = (
    "attention",
    "candidates",
    "convert",
    "decoder",
    "ops",
    "layers",
    "placeholders",
    "shapes",
    "shared_lowering",
    "window",
)
CONVERTERS = ("litert-torch", "litert-converter", "torch", "transformers")
# While it is converted and kept, each has this name: signatures of several names can be the same piece.
NAME = "piece"


@dataclass(frozen=True)
class Pieces:
    """A TFLite file of each piece, by the name of its signature."""

    files: dict[str, bytes]

    def model(self) -> Any:
        """A new object tree of a model with all of them. Each section that uses the pieces changes its own."""
        models = []
        for name, content in self.files.items():
            models.append(flatbuffer.parse(content))
            models[-1].signatureDefs[0].signatureKey = name.encode()
        return join(models)


def converted(traced: Sequence[Signature], report: Callable[[], None]) -> Pieces:
    """The signatures `traced`, each from the cache or newly converted.

    `report` is called twice for each signature.
    """
    files, folder, convert = {}, cache_folder() / "pieces", None
    with ExitStack() as stack:
        for signature in traced:
            path = folder / f"{_key(signature)}.tflite"
            content = kept(path)
            if content is not None:
                _used(path)
                report()
                report()
            else:
                if convert is None:
                    from edge_mtp.export.convert import conversion

                    convert = stack.enter_context(conversion(report))
                content = convert(signature._replace(name=NAME))
                keep(path, content)
            files[signature.name] = content
    if convert is not None:
        _forget(folder)
    return Pieces(files)


def _key(signature: Signature) -> str:
    return hashlib.sha256(described(signature).encode()).hexdigest()[:32]


def described(signature: Signature) -> str:
    """A text that changes with what the piece is, with its shapes, and with what traces and converts it."""
    modules = {name: _described(module) for name, module in signature.module.named_modules()}
    return repr((modules, _form(signature.inputs), _makers()))


def _described(module: torch.nn.Module) -> Any:
    """What one module holds itself: its own attributes, and the tables that are constants of its graph."""
    own = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training"  # torch's own
    }
    tables = {name: _digest(table) for name, table in module.named_buffers(recurse=False)}
    tables |= {name: _digest(table) for name, table in module.named_parameters(recurse=False)}
    return type(module).__name__, _plain(own), tables


def _digest(table: torch.Tensor) -> tuple[str, tuple[int, ...], str]:
    content = table.detach().contiguous().numpy().tobytes()
    return str(table.dtype), tuple(table.shape), hashlib.sha256(content).hexdigest()


def _plain(value: Any) -> Any:
    """A value with a `repr` that tells all of it, the same in every process."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _form(sample: Any) -> Any:
    """Types and shapes of a sample, whose numbers are of no account."""
    if isinstance(sample, dict):
        return {name: _form(each) for name, each in sample.items()}
    return str(sample.dtype), tuple(sample.shape)


@cache
def _makers() -> str:
    """A text that changes with the sources of the pieces and with the converter."""
    digest = hashlib.sha256()
    for module in SOURCES:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    for name in CONVERTERS:
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()


def _used(path: Path) -> None:
    with suppress(OSError):
        path.touch()


def _forget(folder: Path) -> None:
    """Drop the least recently used entries beyond `KEPT`."""
    with suppress(OSError):
        for path in sorted(folder.glob("*.tflite"), key=lambda path: path.lstat().st_mtime)[:-KEPT]:
            path.unlink(missing_ok=True)
