"""Does once what torch and litert-torch do anew for every signature that they convert: a third of a conversion's time.

Both find out again and again what cannot change meanwhile. What they make of it stays the same, byte by byte.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch._export.utils
from litert_torch.backend.jax_bridge import _wrap as bridge


@contextmanager
def shared_lowering() -> Iterator[None]:
    """While this lasts, no operator may be registered with torch."""
    with ExitStack() as stack:
        # Asks torch's dispatcher for all operators of a kind, for each namespace and each pass over a graph. A release
        # of torch may name it otherwise, and then takes its time.
        if hasattr(torch._export.utils, "_materialize_cpp_cia_ops"):
            _replace(stack, torch._export.utils, "_materialize_cpp_cia_ops", functools.cache)
        _replace(stack, bridge, "_lower_to_ir_text", _lowered_once)
        _replace(stack, bridge, "_stablehlo_to_vhlo", functools.cache)
        yield


def _replace(stack: ExitStack, module: Any, name: str, changed: Callable[[Any], Any]) -> None:
    stack.enter_context(patch.object(module, name, changed(getattr(module, name))))


def _lowered_once(lower: Any) -> Any:
    """litert-torch lowers an operator through JAX once for each signature that has it with the same shapes. This keeps
    the text for all signatures, by litert-torch's own key."""
    texts: dict[Any, str] = {}

    def lowered(function: Any, args: Any, kwargs: Any, ir_input_names: Any = None) -> tuple[Callable[[], str], Any]:
        make, inputs = lower(function, args, kwargs, ir_input_names)
        key = bridge.get_cache_fingerprint((function, args, kwargs, ir_input_names))

        def text() -> str:
            if key is None:
                return str(make())
            if key not in texts:
                texts[key] = make()
            return texts[key]

        return text, inputs

    return lowered
