"""The weights of a bundle as `edge-mtp inspect` shows them: a line for each role, encoding and origin, and sums."""

from __future__ import annotations

from collections.abc import Iterator

from edge_mtp.formats.inventory import Holding, Inventory
from edge_mtp.harness.stats.figures import ranges, size
from edge_mtp.harness.tell.text_tables import aligned

_ROLES = {
    "embedder": "token embedding",
    "per_layer_embedder": "per-layer embedding",
    "head": "head",
    "attention": "attention",
    "mlp": "MLP",
    "experts": "experts",
    "router": "router",
    "per_layer": "per-layer gate, projection",
    "projection": "projections",
    "norms": "norms, vectors",
    "rotations": "rotations",
    "other": "other",
}


def inventory_lines(inventory: Inventory) -> Iterator[str]:
    """Nothing for a bundle without weights."""
    if not inventory.holdings:
        return
    order = list(_ROLES)
    rows = [["role", "encoding", "count", "bytes", "from", "section"]]
    for each in sorted(inventory.holdings, key=lambda h: (h.is_drafters, h.section, order.index(h.role), h.layers)):
        rows.append([role_name(each), each.encoding, str(each.count), size(each.bytes), each.origin, each.section])
    if (caches := inventory.caches) is not None:
        rows.append(["KV cache", caches.encoding, str(caches.count), size(caches.bytes), "in memory", ""])
    yield "weights:"
    yield from ("  " + line for line in aligned(rows))
    rest = size(inventory.file - inventory.weights)
    yield f"  file {size(inventory.file)}: weights {size(inventory.weights)}, graphs, tokenizer and the rest {rest}"
    drafts = f", a draft step {size(inventory.draft_read)}" if inventory.draft_read else ""
    yield f"  read: a decode step {size(inventory.decode_read)}{drafts}"
    yield f"  mapped, and read by rows: {size(inventory.mapped)}"


def role_name(holding: Holding) -> str:
    layers = f", layers {ranges(holding.layers)}" if holding.layers else ""
    return ("drafter: " if holding.is_drafters else "") + _ROLES[holding.role] + layers
