"""Torch modules to one TFLite file with a signature each."""

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

# What litert-torch calls the two long stages that each signature goes through, the first for all before the second.
STAGES = ("Torch Export: ", "Lower to MLIR: ")


class Signature(NamedTuple):
    """A graph to convert: `inputs` are samples whose names, shapes and types become the signature's."""

    name: str
    module: nn.Module
    inputs: dict[str, Any]


def convert(signatures: Sequence[Signature], path: Path, report: Report) -> None:
    """Write `signatures` to `path`; `report` gets the name of each twice: in the middle and near the end."""
    converter = Converter()
    for signature in signatures:
        converter.add_signature(signature.name, signature.module.eval(), sample_kwargs=signature.inputs)
    with _reported(report), quiet(), _without_collector():
        converter.convert(strict_export=False).export(str(path))


@contextmanager
def _reported(report: Report) -> Iterator[None]:
    """Pass litert-torch's progress on in place of its own printing."""

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
    """Tracing makes millions of long-lived objects; collecting among them costs a quarter of the time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
