"""The disk and the memory that an export needs, computed before it begins."""

from __future__ import annotations

import re
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import recipes
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.encodings import storage_bytes
from edge_mtp.export.options import Options
from edge_mtp.export.weights import TOKEN_ORDERING
from edge_mtp.quiet import quiet

# Work that does not grow with the weights: libraries, tracing and object trees in memory; on disk graphs and their
# pieces, of which a layer of the tiny pair leaves 150 kB in all signatures together.
WORKING_MEMORY = 3 << 29
WORKING_DISK = 1 << 22
WORKING_DISK_A_LAYER = 1 << 20


def disk_room(pair: Pair, weights: int) -> int:
    """Bytes of disk that an export needs. `weights` counts the bytes of encoded weights; while the bundle is put
    together, each section is on the disk twice.
    """
    configs = (pair.target.config, pair.drafter.config.get_text_config())
    layers: int = sum(config.num_hidden_layers for config in configs)
    return 2 * weights + WORKING_DISK + layers * WORKING_DISK_A_LAYER


def check_memory(pair: Pair, options: Options) -> None:
    """Raises EdgeMtpError where less memory is available than the export needs."""
    with quiet():
        from edge_mtp.export import store

    needed = WORKING_MEMORY + store.memory(
        (shape, options.recipe.encoding(section, name, shape))
        for section, weights in ((recipes.PREFILL_DECODE, pair.target.weights), (recipes.DRAFTER, pair.drafter.weights))
        for name, shape in weights.names.items()
        if name != recipes.PER_LAYER_TABLE  # is in a section of its own
    )
    drafter = pair.drafter.weights.names
    if TOKEN_ORDERING in drafter:  # its head is held whole, in parts and together, to be written in another order
        head = drafter[recipes.TABLE]
        needed += 2 * storage_bytes(head, options.recipe.encoding(recipes.DRAFTER, recipes.TABLE, head))
    available = available_memory()
    if available is not None and available < needed:
        raise EdgeMtpError(
            f"{available >> 20} MiB of memory are available, the export needs {needed >> 20} MiB: close other programs"
        )


def available_memory() -> int | None:
    """Bytes of memory that are free without swapping; None where the system does not say."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None
