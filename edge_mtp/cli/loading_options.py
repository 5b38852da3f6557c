"""The options of verbs that load a bundle once: what runs its graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edge_mtp.formats.accelerator import ACCELERATOR_CHOICES, CPU

F = TypeVar("F", bound=Callable[..., Any])


def loading_options(option: Callable[..., Callable[[Any], Any]] = click.option) -> Callable[[F], F]:
    """Adds `threads`, `accelerator` and `half_precision`, the arguments of `open_engine`; `option` makes an option."""
    options = [
        option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; default: LiteRT chooses."),
        option("--accelerator", type=click.Choice(ACCELERATOR_CHOICES), default=CPU, show_default=True,
               help="What runs the graphs. auto tries each accelerator and takes the fastest that computes what the CPU"
               " does."),
        option("--half-precision", is_flag=True,
               help="Let the GPU compute in half precision: faster, but the text may differ from the CPU's."),
    ]  # fmt: skip

    def add(function: F) -> F:
        for each in reversed(options):
            function = each(function)
        return function

    return add
