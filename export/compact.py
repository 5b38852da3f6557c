"""Make a converted model smaller without changing what it computes.

The converter gives every composite its own copy of the decomposition and every tensor its path through the
modules as a name; with a dozen signatures these outweigh the weights of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Fields of operators' options that hold the index of a subgraph.
SUBGRAPH_FIELDS = ("decompositionSubgraphIndex", "updateComputationSubgraphIndex")


def compact(model: Any) -> None:
    """Share equal constants and equal decompositions, drop what nothing refers to, and shorten tensor names."""
    _share_buffers(model)
    while _share_decompositions(model):  # what called equal decompositions may be equal now
        pass
    _drop_unused_buffers(model)
    for graph in model.subgraphs:
        # The quantizer tells tensors apart by name.
        for number, tensor in enumerate(graph.tensors):
            tensor.name = b"%s/%d" % (graph.name, number)


def _share_buffers(model: Any) -> None:
    """One buffer for each content; buffer 0, by convention empty, for all that is computed."""
    first: dict[bytes, int] = {}
    shared = {}
    for number, buffer in enumerate(model.buffers):
        content = b"" if buffer.data is None else bytes(buffer.data)
        shared[number] = first.setdefault(content, number) if content else number
    for graph in model.subgraphs:
        for tensor in [*graph.inputs, *(t for operator in graph.operators for t in operator.outputs)]:
            shared[graph.tensors[tensor].buffer] = 0
    _renumber_buffers(model, lambda number: shared[number])


def _share_decompositions(model: Any) -> bool:
    """Merge subgraphs that differ only in names; say whether there were any."""
    entries = {signature.subgraphIndex for signature in model.signatureDefs}
    first: dict[Any, int] = {}
    shared = {}
    for number, graph in enumerate(model.subgraphs):
        key = number if number in entries else _content(graph)
        shared[number] = first.setdefault(key, number)
    kept = sorted(set(shared.values()))
    position = {old: new for new, old in enumerate(kept)}
    for options in _options(model):
        for field in SUBGRAPH_FIELDS:
            if hasattr(options, field):
                setattr(options, field, position[shared[getattr(options, field)]])
    for signature in model.signatureDefs:
        signature.subgraphIndex = position[signature.subgraphIndex]
    merged = len(kept) < len(model.subgraphs)
    model.subgraphs = [model.subgraphs[old] for old in kept]
    return merged


def _drop_unused_buffers(model: Any) -> None:
    used = {0}
    used.update(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
    used.update(entry.buffer for entry in model.metadata or [])
    position = {old: new for new, old in enumerate(sorted(used))}
    _renumber_buffers(model, lambda number: position[number])
    model.buffers = [model.buffers[old] for old in sorted(used)]


def _renumber_buffers(model: Any, renumber: Callable[[int], int]) -> None:
    tensors = {id(tensor): tensor for graph in model.subgraphs for tensor in graph.tensors}
    for holder in [*tensors.values(), *(model.metadata or [])]:
        holder.buffer = renumber(holder.buffer)


def _options(model: Any) -> Iterator[Any]:
    """The options of every operator, each object once."""
    seen = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            for options in (operator.builtinOptions, operator.builtinOptions2):
                if options is not None and id(options) not in seen:
                    seen.add(id(options))
                    yield options


def _content(value: Any) -> Any:
    """A hashable copy of an object tree without its names."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if isinstance(value, list):
        return tuple(map(_content, value))
    if hasattr(value, "__dict__"):
        fields = vars(value)
        return tuple((key, _content(fields[key])) for key in sorted(fields) if key != "name")
    return value
