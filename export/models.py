"""The models of a bundle: traced, assembled, and filled with weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edge_mtp.export import recipes
from edge_mtp.export.adapter import AdaptedWeights
from edge_mtp.export.checkpoint import Pair
from edge_mtp.export.options import Options
from edge_mtp.export.ordered_rows import OrderedRows
from edge_mtp.export.unfinished import Parts
from edge_mtp.export.weights import TOKEN_ORDERING, Weights
from edge_mtp.export.work import Work
from edge_mtp.formats.accelerator import CPU
from edge_mtp.formats.bundle import GRAPHS_SECTIONS
from edge_mtp.quiet import quiet

if TYPE_CHECKING:
    from edge_mtp.export.layer_cache import Pieces
    from edge_mtp.export.signatures import Graphs, Section
    from edge_mtp.export.store import Lent, Store

OWN = tuple(GRAPHS_SECTIONS.values())  # our own graphs, which use the weights of the lenders
LENDERS = (recipes.EMBEDDER, recipes.PREFILL_DECODE, recipes.DRAFTER)
# The order in the bundle: whose weights are used follow those that use them.
ORDER = (recipes.PER_LAYER_EMBEDDER, *reversed(OWN), *LENDERS)

# Tracing one piece takes as long as encoding so many weights (on the machine where this was measured).
WEIGHTS_PER_PIECE = 60_000_000


def write_models(pair: Pair, options: Options, parts: Parts, work: Work) -> dict[str, Path]:
    """Trace, assemble and fill every model of the bundle; return their TFLite files by section name, in its order."""
    work.begin("trace", "load the converter")
    with quiet():
        from edge_mtp.export import layer_cache

        graphs = graphs_of(pair, options)
    sections = graphs.sections()
    traced = {section.pieces: section.traced() for section in sections.values()}
    pieces: dict[str, Pieces] = {}
    for name, section in sections.items():
        costs = len(traced[section.pieces]) if name not in OWN else 0  # traced before
        work.plan[name] = WEIGHTS_PER_PIECE * costs + _parameters(pair, name)
    for name, section in sections.items():
        work.section(name)
        if _file(parts, name).is_file():
            continue
        if section.pieces not in pieces:
            work.begin("trace", f"trace {section.pieces}")
            pieces[section.pieces] = layer_cache.converted(
                traced[section.pieces], lambda: work.add(WEIGHTS_PER_PIECE / 2)
            )
        _write_model(pair, options, name, section, pieces[section.pieces], parts, work)
    return {name: _file(parts, name) for name in ORDER if name in sections}


def _lent(parts: Parts, name: str) -> dict[str, Lent]:
    """What a section of our own graphs can use, counted from its end: the weights of those that follow it."""
    from edge_mtp.export import store

    followers = [_file(parts, each) for each in ORDER[ORDER.index(name) + 1 :]]
    return store.lent([path for path in followers if path.is_file()])


def _file(parts: Parts, section: str) -> Path:
    return parts.folder / f"{section}.tflite"


def _write_model(
    pair: Pair, options: Options, name: str, section: Section, pieces: Pieces, parts: Parts, work: Work
) -> None:
    from edge_mtp.export import compact, ops, product, store

    work.begin("assemble", f"assemble {name}")
    assembly = section.assemble(pieces.model())
    lent = _lent(parts, name) if name in OWN else {}
    if name == GRAPHS_SECTIONS[CPU]:
        product.claim(
            assembly, {weight: each.encoding for weight, each in lent.items()}, ("edge_verify_", "edge_decode")
        )
    compact.compact(assembly.model)
    ops.add_custom_codes(assembly.model)
    target = store.Store(assembly, _file(parts, name))
    bind(pair, options, name, target, lent)
    work.begin("weights", f"weights of {name}")
    target.write(work.add)


def bind(
    pair: Pair, options: Options, section: str, store: Store, lent: Mapping[str, Lent] = MappingProxyType({})
) -> None:
    """Tell the store what each weight is and where it comes from: from the checkpoint, or from what is `lent`."""
    from edge_mtp.export.calibration import cache_scales
    from edge_mtp.export.signatures import DRAFTER

    for qualified, shape in store.weights.items():
        owner, name = qualified.split("/", 1)
        weights = (pair.drafter if owner + "/" == DRAFTER else pair.target).weights
        if len(shape) != 2 or name.endswith("token_ordering"):
            store.constant(qualified, weights.read(name).reshape(shape))
            continue
        if qualified in lent:
            store.borrow(qualified, (shape[0], shape[1]), lent[qualified])
            continue
        role = recipes.DRAFTER if owner + "/" == DRAFTER else section
        encoding = options.recipe.encoding(role, name, shape)
        if options.recipe.keeps(role, name) or weights.nearly.get(name) == encoding:
            read = _packed_reader(weights, name, shape)
        elif isinstance(weights, AdaptedWeights) and options.recipe.is_on_grid(role, name):
            read = partial(weights.on_grid, name)
        else:
            read = _reader(weights, name, shape)
        if role == recipes.DRAFTER and name == recipes.TABLE and TOKEN_ORDERING in weights.names:
            order = weights.read(TOKEN_ORDERING).reshape(-1)
            read = OrderedRows(read, shape[1], encoding, order)
        store.matrix(qualified, (shape[0], shape[1]), encoding, read)
    if options.kv == "int8":
        store.cache_scales(cache_scales(pair.target))


def _reader(weights: Weights, name: str, shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    """A function that reads rows [start:stop] of a weight as a matrix of this shape; experts' matrices are stacked."""
    per_entry = shape[0] // weights.names[name][0]

    def read(start: int, stop: int) -> Any:
        first, last = start // per_entry, -(-stop // per_entry)
        rows = weights.read(name, first, last).reshape(-1, shape[1])
        return rows[start - first * per_entry : stop - first * per_entry]

    return read


def _packed_reader(weights: Weights, name: str, shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    """As `_reader`, of the integers that the checkpoint has."""
    per_entry = shape[0] // weights.names[name][0]

    def read(start: int, stop: int) -> Any:
        first, last = start // per_entry, -(-stop // per_entry)
        begin = first * per_entry
        return weights.encoded(name, first, last).cut((last - first) * per_entry, start - begin, stop - begin)

    return read


def graphs_of(pair: Pair, options: Options) -> Graphs:
    """The graphs of a bundle; imports torch."""
    from edge_mtp.export.decoder import Decoder
    from edge_mtp.export.shapes import drafters_allowed
    from edge_mtp.export.signatures import Graphs

    assistant = pair.drafter.config
    with drafters_allowed():
        drafter = Decoder.of(assistant.get_text_config())
    return Graphs(
        target=Decoder.of(pair.target.config),
        drafter=drafter,
        tied=pair.target.config.tie_word_embeddings,
        context=options.context,
        prefill=options.prefill,
        widths=options.widths,
        accelerators=options.accelerators,
        int8_kv=options.kv == "int8",
        centroids=assistant.num_centroids if assistant.use_ordered_embeddings else 0,
        nearest=assistant.centroid_intermediate_top_k,
    )


def _parameters(pair: Pair, section: str) -> int:
    """The number of weights in a section."""
    target = pair.target.weights.names
    tables = {recipes.EMBEDDER: recipes.TABLE, recipes.PER_LAYER_EMBEDDER: recipes.PER_LAYER_TABLE}
    if section in OWN:
        return 0
    if section in tables:
        return math.prod(target[tables[section]])
    if section == recipes.DRAFTER:
        return pair.drafter.parameters
    return sum(math.prod(shape) for name, shape in target.items() if name != recipes.PER_LAYER_TABLE)
