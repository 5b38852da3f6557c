"""Makes a converted model smaller without changing what it computes.

The converter gives every composite its own copy of the decomposition, and names every tensor by its path through the
modules. With a dozen signatures, these take more space than the weights of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Fields in an operator's options that hold the index of a subgraph.
SUBGRAPH_FIELDS = ("decompositionSubgraphIndex", "updateComputationSubgraphIndex")


def compact(model: Any) -> None:
    """Share equal constants and equal decompositions, drop unused parts, and shorten tensor names.

    Signatures come before decompositions: the stock engine's GPU path takes the first subgraph for its own.
    """
    share_buffers(model)
    while _share_decompositions(model):  # merging may make their callers equal
        pass
    _drop_unused_subgraphs(model)
    _drop_unused_buffers(model)
    for place, graph in enumerate(model.subgraphs):
        for number, tensor in enumerate(graph.tensors):
            tensor.name = b"%d/%d" % (place, number)  # the quantizer wants them distinct


def share_buffers(model: Any) -> None:
    """Give equal contents one buffer, and computed tensors buffer 0, which is empty by convention."""
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
    """Merge subgraphs that differ only in names; return whether there were any."""
    entries = {signature.subgraphIndex for signature in model.signatureDefs}
    first: dict[Any, int] = {}
    shared = {
        number: first.setdefault(number if number in entries else content(graph), number)
        for number, graph in enumerate(model.subgraphs)
    }
    kept = sorted(set(shared.values()))
    if len(kept) == len(shared):
        return False
    _keep_subgraphs(model, kept, shared)
    return True


def _drop_unused_subgraphs(model: Any) -> None:
    entries = dict.fromkeys(signature.subgraphIndex for signature in model.signatureDefs)
    used = set(entries)
    found = list(used)
    while found:
        callees = {
            getattr(options, field)
            for options in options_of(model.subgraphs[found.pop()])
            for field in SUBGRAPH_FIELDS
            if hasattr(options, field)
        }
        found += callees - used
        used |= callees
    kept = [*entries, *sorted(used.difference(entries))]
    _keep_subgraphs(model, kept, {number: number for number in used})


def _keep_subgraphs(model: Any, kept: list[int], replaced_by: dict[int, int]) -> None:
    """Drop all subgraphs but `kept`; calls of subgraph n become calls of `replaced_by[n]`."""
    position = {old: new for new, old in enumerate(kept)}
    graphs = [model.subgraphs[old] for old in kept]
    options = {id(found): found for graph in graphs for found in options_of(graph)}  # operators may share options
    for option in options.values():
        for field in SUBGRAPH_FIELDS:
            if hasattr(option, field):
                setattr(option, field, position[replaced_by[getattr(option, field)]])
    for signature in model.signatureDefs:
        signature.subgraphIndex = position[signature.subgraphIndex]
    model.subgraphs = graphs


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


def options_of(graph: Any) -> Iterator[Any]:
    """The options of each operator that has some."""
    for operator in graph.operators:
        for options in (operator.builtinOptions, operator.builtinOptions2):
            if options is not None:
                yield options


def content(value: Any) -> Any:
    """A hashable copy of an object tree without its names."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if isinstance(value, list):
        return tuple(map(content, value))
    if hasattr(value, "__dict__"):
        fields = vars(value)
        return tuple((key, content(fields[key])) for key in sorted(fields) if key != "name")
    return value
