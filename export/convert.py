"""Converts torch modules to TFLite, each by itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from litert_torch import progress
from litert_torch._config import config as litert_torch_config
from litert_torch._convert.interface import Converter
from torch import nn

from edge_mtp.export.shared_lowering import shared_lowering
from edge_mtp.quiet import quiet

# litert-torch's names for the two long stages.
STAGES = ("Torch Export: ", "Lower to MLIR: ")


class Signature(NamedTuple):
    """A graph to convert: `inputs` are samples whose names, shapes and types become the signature's."""

    name: str
    module: nn.Module
    inputs: dict[str, Any]


@contextmanager
def conversion(report: Callable[[], None]) -> Iterator[Callable[[Signature], bytes]]:
    """Gives the function that converts a signature to a TFLite file; `report` is called twice for each, halfway and
    near the end."""

    def convert(signature: Signature) -> bytes:
        converter = Converter()
        converter.add_signature(signature.name, signature.module.eval(), sample_kwargs=signature.inputs)
        content: bytes = converter.convert(strict_export=False).model_content()
        return content

    with _reported(report), quiet(), _without_collector(), shared_lowering():
        yield convert


@contextmanager
def _reported(report: Callable[[], None]) -> Iterator[None]:
    """Report litert-torch's progress instead of letting it print."""

    @contextmanager
    def task(name: str) -> Iterator[None]:
        yield
        if name.startswith(STAGES):
            report()

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
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
