"""Converts torch modules to one TFLite file with a signature for each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from litert_torch import progress
from litert_torch._config import config as litert_torch_config
from litert_torch._convert.interface import Converter
from torch import nn

from edge_mtp.quiet import quiet

Report = Callable[[str], None]

# litert-torch's names for the two long stages. All signatures pass the first stage before any enters the second.
STAGES = ("Torch Export: ", "Lower to MLIR: ")


class Signature(NamedTuple):
    """A graph to convert: `inputs` are samples whose names, shapes and types become the signature's."""

    name: str
    module: nn.Module
    inputs: dict[str, Any]


def convert(signatures: Sequence[Signature], path: Path, report: Report) -> None:
    """Write `signatures` to `path`; call `report` with the name of each twice, halfway and near the end."""
    converter = Converter()
    for signature in signatures:
        converter.add_signature(signature.name, signature.module.eval(), sample_kwargs=signature.inputs)
    with _reported(report), quiet(), _without_collector():
        converter.convert(strict_export=False).export(str(path))


@contextmanager
def _reported(report: Report) -> Iterator[None]:
    """Report litert-torch's progress instead of letting it print."""

    @contextmanager
    def task(name: str) -> Iterator[None]:
        yield
        for stage in STAGES:
            if name.startswith(stage):
                report(name.removeprefix(stage))

    shown, litert_torch_config.show_progress = litert_torch_config.show_progress, False
    try:
        with patch.object(progress, "task", task):
            yield
    finally:
        litert_torch_config.show_progress = shown


@contextmanager
def _without_collector() -> Iterator[None]:
    """Disable garbage collection: tracing makes millions of long-lived objects, and scanning them costs a quarter of
    the time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
