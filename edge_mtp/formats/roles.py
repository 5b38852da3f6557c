"""What each stored matrix of a decoder's graph is for, from what it is connected to.

Bundles do not name their weights, so a matrix is known by its neighbours, the nearest operators that mix what they are
given, before it and behind it. Gemma 4's layers are: queries, keys and values into attention, its output back; gate
times up into down; the per-layer gate times a per-layer embedding into the per-layer projection. Everything else adds
to a residual stream, which leads anywhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_mtp.formats.graph import (
    BATCH_MATMUL,
    DYNAMIC_UPDATE_SLICE,
    EMBEDDING_LOOKUP,
    FULLY_CONNECTED,
    GATHER,
    TOPK,
    Constant,
    Graph,
    Operator,
)

Role = Literal[
    "embedder", "per_layer_embedder", "head", "attention", "mlp", "experts", "router", "per_layer", "projection",
    "norms", "rotations", "other",
]  # fmt: skip

# Operators between a matrix and its neighbours; a walk that meets more is in the residual stream.
FARTHEST = 48
_OUTPUT = "self_attn.o_proj.weight"
_IN_LAYERS = ("self_attn.", "mlp.", "router.", "per_layer_input_gate.", "per_layer_projection.")
_CHOSEN_FROM = {"logits", "draft"}  # outputs that a head's result goes into, as it is or chosen from
_CANDIDATES = "edge_mtp.candidates"  # multiplies by rows of a drafter's head (docs/candidates-op.md)
_ATTENTION = ("attention", "bmm", "sdpa")  # in the names of composites that multiply computed tensors


@dataclass(frozen=True)
class Use:
    """A constant as one graph uses it.

    `part` is the weight's name in transformers' state_dict, below its layer's if `layer` is not None; it is empty where
    no such name is known. `read` counts the bytes of a step: all of them, or of a table those of the rows looked up.
    """

    constant: Constant
    role: Role
    layer: int | None
    part: str
    read: int


def uses(graph: Graph) -> list[Use]:
    """The use of each constant with a role, in order of execution; each buffer once.

    Vectors of floats are `norms`. Scalars, shapes and positions are left out.
    """
    return _Walk(graph).uses()


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.operators = graph.operators
        self.maker = {tensor: number for number, op in enumerate(self.operators) for tensor in op.outputs}
        self.readers: dict[int, list[int]] = {}
        for number, op in enumerate(self.operators):
            for tensor in dict.fromkeys(op.inputs):
                self.readers.setdefault(tensor, []).append(number)
        self.matrices = {number: constant for number, op in enumerate(self.operators) if (constant := self._matrix(op))}
        self.drafts = "activations" in graph.inputs.values()
        self.gates: dict[int, int] = {}  # by layer, the buffer of its experts' first matrix

    def uses(self) -> list[Use]:
        found: dict[int, Use] = {}
        layer = -1  # of the attention whose output was projected last
        for number, op in enumerate(self.operators):
            for use in self._of(number, op, layer):
                found.setdefault(use.constant.buffer, use)
                if use.part == _OUTPUT:
                    layer += 1
        return list(found.values())

    def _of(self, number: int, op: Operator, layer: int) -> Iterator[Use]:
        matrix, table = self.matrices.get(number), self._table(op)
        if matrix is not None:
            role, part, ahead = self._role(number, op)
            in_layer = part.startswith(_IN_LAYERS)
            yield Use(matrix, role, layer + ahead if in_layer else None, part, matrix.bytes)
        elif table is not None:
            yield self._lookup(op, table, layer)
        for tensor in op.inputs:
            constant = self.graph.constant(tensor)
            if constant is None or constant in (matrix, table) or not constant.encoding.startswith(("fp", "int")):
                continue
            axes = sum(size > 1 for size in constant.shape)
            if axes and constant.bytes:
                yield Use(constant, "norms" if axes == 1 else "other", None, "", constant.bytes)

    def _lookup(self, op: Operator, table: Constant, layer: int) -> Use:
        ids = op.inputs[0] if op.kind == EMBEDDING_LOOKUP else op.inputs[1]
        read = min(table.bytes, table.bytes // max(1, table.rows) * math.prod(self.graph.shape(ids)))
        if table.encoding.startswith("i32") or len(table.shape) < 2:
            return Use(table, "other", None, "", read)
        chosen = {self.operators[each].kind if isinstance(each, int) else each for each in self._sources(ids)}
        if chosen == {"input_pos"}:
            return Use(table, "rotations", None, "", read)
        if self.drafts:  # rows of the clusters that its centroids chose; else of the token that came before
            return Use(table, "head" if chosen and chosen <= {GATHER, TOPK} else "embedder", None, "", read)
        if TOPK not in chosen:
            return Use(table, "embedder", None, "", read)
        first = self.gates.setdefault(layer, table.buffer) == table.buffer
        return Use(table, "experts", layer, "experts.gate_up_proj" if first else "experts.down_proj", read)

    def _table(self, op: Operator) -> Constant | None:
        """The stored table whose rows an operator looks up."""
        place = {EMBEDDING_LOOKUP: 1, GATHER: 0}.get(op.kind) if isinstance(op.kind, int) else None
        if place is None or len(op.inputs) < 2:
            return None
        return self.graph.constant(op.inputs[place])

    def _matrix(self, op: Operator) -> Constant | None:
        """The stored matrix that an operator multiplies by; fp16 ones stand behind an operator that widens them."""
        if op.kind != FULLY_CONNECTED or len(op.inputs) < 2 or not op.outputs:
            return None
        tensor = op.inputs[1]
        constant = self.graph.constant(tensor)
        if constant is None and tensor in self.maker:
            widened = self.operators[self.maker[tensor]]
            constant = self.graph.constant(widened.inputs[0]) if len(widened.inputs) == 1 else None
        return constant

    def _role(self, number: int, op: Operator) -> tuple[Role, str, int]:
        """The role of a matrix, its name, and 1 where it comes before its layer's attention output, 0 behind it."""
        before, behind = self._sources(op.inputs[0]), self._sinks(op.outputs[0])
        if behind & _CHOSEN_FROM:
            return "head", "", 0
        if behind and all(isinstance(each, str) for each in behind):
            return "projection", "post_projection.weight" if self.drafts else "", 0
        kinds = {self.operators[each].kind for each in behind if isinstance(each, int)}
        if behind and kinds <= {TOPK}:
            if self.drafts:
                return "projection", "masked_embedding.centroids.weight", 0
            return "router", "router.proj.weight", 0
        if before and all(isinstance(each, int) and self._attends(each) for each in before):
            return "attention", _OUTPUT, 1
        if any(isinstance(each, int) and self._attends(each) for each in behind):
            return "attention", self._projection(behind), 1
        if before and all(isinstance(each, str) or self._is_lookup(each) for each in before):
            if self.drafts:
                return "projection", "pre_projection.weight", 0
            return "per_layer", "per_layer_model_projection.weight", 0
        if self._is_mlp(before, number):
            return "mlp", "mlp.down_proj.weight", 0
        if any(isinstance(each, int) and each in self.matrices and self._only_to(each, number) for each in before):
            return "per_layer", "per_layer_projection.weight", 0
        if (product := self._only(behind)) is not None:
            factors = self._sources(self.operators[product].inputs[0])
            if self._is_mlp(factors, product):
                return "mlp", "mlp.gate_proj.weight" if self._bends(number) else "mlp.up_proj.weight", 0
            if self.drafts:  # of a graph with several steps: into the next one's
                return "projection", "post_projection.weight", 0
            return "per_layer", "per_layer_input_gate.weight", 0
        return "other", "", 0

    def _projection(self, behind: set[int | str]) -> str:
        """q, k or v: what goes into a cache is told by the cache's name."""
        for kind in "kv":
            if any(isinstance(each, str) and each.startswith(f"kv_cache_{kind}") for each in behind):
                return f"self_attn.{kind}_proj.weight"
        return "self_attn.q_proj.weight"

    def _attends(self, number: int) -> bool:
        kind = self.operators[number].kind
        if isinstance(kind, str):
            return any(word in kind for word in _ATTENTION)
        return kind in (BATCH_MATMUL, DYNAMIC_UPDATE_SLICE)

    def _is_lookup(self, number: int) -> bool:
        return self.operators[number].kind in (EMBEDDING_LOOKUP, GATHER)

    def _only(self, behind: set[int | str]) -> int | None:
        """The matrix that alone stands behind."""
        (first, *more) = behind or {""}
        return first if not more and isinstance(first, int) and first in self.matrices else None

    def _only_to(self, number: int, other: int) -> bool:
        return self._sinks(self.operators[number].outputs[0]) == {other}

    def _is_mlp(self, factors: set[int | str], product: int) -> bool:
        """Whether two matrices that lead nowhere else are multiplied into `product`'s input."""
        return len(factors) == 2 and all(
            isinstance(each, int) and each in self.matrices and self._only_to(each, product) for each in factors
        )

    def _bends(self, number: int) -> bool:
        """Whether a function of one input comes next: the gate's activation."""
        after = self.readers.get(self.operators[number].outputs[0], [])[:FARTHEST]
        given = [tensor for each in after for tensor in self.operators[each].inputs]
        return len(after) > 1 or len([tensor for tensor in given if self.graph.constant(tensor) is None]) == 1

    def _mixes(self, number: int) -> bool:
        """Whether a walk ends at this operator."""
        kind = self.operators[number].kind
        return kind in (FULLY_CONNECTED, EMBEDDING_LOOKUP, GATHER, TOPK, _CANDIDATES) or self._attends(number)

    def _sources(self, tensor: int) -> set[int | str]:
        """The nearest operators that mix, and named inputs, that a tensor is made of; empty in the residual stream."""
        found: set[int | str] = set()
        seen: set[int] = set()
        queue = deque([tensor])
        while queue:
            at = queue.popleft()
            if at in seen:
                continue
            seen.add(at)
            if len(seen) > FARTHEST:
                return set()
            if at in self.graph.inputs:
                found.add(self.graph.inputs[at])
            elif at in self.maker:
                number = self.maker[at]
                given = self.operators[number].inputs
                if self._mixes(number):
                    found.add(number)
                elif len(given) > FARTHEST:
                    return set()
                else:
                    queue.extend(each for each in given if each >= 0 and self.graph.constant(each) is None)
        return found

    def _sinks(self, tensor: int) -> set[int | str]:
        """The nearest operators that mix, and named outputs, that a tensor goes into; empty in the residual stream.

        A cache counts by its name, too.
        """
        found: set[int | str] = set()
        seen: set[int] = set()
        queue = deque([tensor])
        while queue:
            at = queue.popleft()
            if at in seen:
                continue
            seen.add(at)
            if len(seen) > FARTHEST:
                return set()
            if at in self.graph.outputs:
                found.add(self.graph.outputs[at])
            readers = self.readers.get(at, [])
            if len(readers) > FARTHEST:
                return set()
            for number in readers:
                if self._mixes(number):
                    found.add(number)
                    found.update(self._named(self.operators[number].outputs) if self._attends(number) else ())
                else:
                    queue.extend(self.operators[number].outputs)
        return found

    def _named(self, tensors: Sequence[int]) -> list[str]:
        names: Mapping[int, str] = self.graph.outputs
        return [names[tensor] for tensor in tensors if tensor in names]
