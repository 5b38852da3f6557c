"""The options of an export, and whether a pair allows them."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import recipes
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.defaults import KV_TYPES, VERIFY_WIDTHS


@dataclass(frozen=True)
class Options:
    """The options of an export.

    `context` counts positions of the KV cache, `kv` is its type (fp32 or int8). `prefill` has the rows of each prefill
    signature, `widths` the T of each `edge_verify_T`: none for a lean bundle. `accelerators` are those that get graphs
    of their own: none in a lean bundle. `recipe` says how weights are stored.
    """

    context: int
    prefill: tuple[int, ...]
    widths: tuple[int, ...]
    accelerators: tuple[str, ...]
    kv: str
    recipe: recipes.Recipe

    @property
    def lean(self) -> bool:
        return not self.widths


def check(options: Options, pair: Pair) -> None:
    """Raises EdgeMtpError for options that the target or the exporter does not allow."""
    config = pair.target.config
    least = max(*options.prefill, 2 * max(VERIFY_WIDTHS))
    if options.context < least:
        raise EdgeMtpError(
            f"context {options.context} is too small: the widest prefill and verify need at least {least}"
        )
    if options.context > config.max_position_embeddings:
        raise EdgeMtpError(
            f"context {options.context} is more than the target's {config.max_position_embeddings} positions:"
            " choose a smaller one"
        )
    if options.kv not in KV_TYPES:
        raise EdgeMtpError(f"KV type {options.kv!r} is unknown: choose {' or '.join(KV_TYPES)}")
    if options.widths and not set(options.widths) <= set(VERIFY_WIDTHS):
        raise EdgeMtpError(
            f"verify widths {','.join(map(str, options.widths))} are not all between {VERIFY_WIDTHS[0]} and"
            f" {VERIFY_WIDTHS[-1]}: choose among those"
        )
