"""Builds whole graphs from converted pieces, as flatbuffers' object tree.

A piece's signature is a subgraph whose weights are inputs. `Graph.place` copies its operators between given tensors
and turns its weight inputs into constants. `Assembly.model` is the finished tree, in which every use of a weight is a
builtin operator or an operand of one of our ops, and every constant appears once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_mtp.export import placeholders
from edge_mtp.export.compact import content, share_buffers

WEIGHTS = "weights_"  # the converter's prefix for the name of an input that is a weight
ABSENT = -1  # marks an optional input that an operator does not have

BUILTIN = {
    placeholders.LINEAR: schema.BuiltinOperator.FULLY_CONNECTED,
    placeholders.LOOKUP: schema.BuiltinOperator.EMBEDDING_LOOKUP,
    placeholders.GATHER: schema.BuiltinOperator.GATHER,
    placeholders.QUANTIZE: schema.BuiltinOperator.QUANTIZE,
    placeholders.DEQUANTIZE: schema.BuiltinOperator.DEQUANTIZE,
    placeholders.SCALED: schema.BuiltinOperator.MUL,
}
OPTIONS = {
    placeholders.LINEAR: (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT),
    placeholders.GATHER: (schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT),
    placeholders.SCALED: (schema.BuiltinOptions.MulOptions, schema.MulOptionsT),
}


class Assembly:
    """A TFLite model that is built graph by graph from the signatures of `pieces`, a converted model.

    `weights` has the (empty) buffer of each weight, `scales` the tensors that use each named quantization, and
    `factors` the (empty) buffer of each scale that is a factor. `operands` has the tensors through which our ops and
    their decompositions are given a weight, with its name: no builtin operator reads these.
    """

    def __init__(self, pieces: Any) -> None:
        share_buffers(pieces)  # so that equal constants have the same buffer
        self._pieces = pieces
        self._signatures = {s.signatureKey.decode(): s for s in pieces.signatureDefs}
        self.weights: dict[str, Any] = {}
        self._places: dict[int, int] = {}
        self.scales: dict[str, list[Any]] = {}
        self.factors: dict[str, Any] = {}
        self.operands: list[tuple[Any, str]] = []
        self._decompositions: dict[Any, int] = {}
        self.model = copy.copy(pieces)
        self.model.signatureDefs, self.model.metadata = [], []
        # The pieces' own subgraphs come first: composites refer to decompositions among them by index.
        self.model.subgraphs, self.model.buffers = list(pieces.subgraphs), list(pieces.buffers)
        self.model.operatorCodes = list(pieces.operatorCodes)

    def graph(self, name: str) -> Graph:
        return Graph(self, name)

    def piece(self, name: str) -> tuple[Any, Any]:
        """A piece's signature and its subgraph."""
        signature = self._signatures[name]
        return signature, self._pieces.subgraphs[signature.subgraphIndex]

    def buffer(self, weight: str) -> int:
        """The index of a weight's buffer, which all graphs share."""
        return self._shared(self.weights, weight)

    def factor(self, scale: str) -> int:
        """The index of the buffer of a scale that is a factor, which all graphs share."""
        return self._shared(self.factors, scale)

    def _shared(self, held: dict[str, Any], name: str) -> int:
        if name not in held:
            held[name] = schema.BufferT()
            self._places[id(held[name])] = len(self.model.buffers)
            self.model.buffers.append(held[name])
        return self._places[id(held[name])]

    def decomposition(self, body: int, weights: Mapping[int, str]) -> int:
        """The index of a copy of subgraph `body` for a call whose operands, by number, are these weights.

        The copy reads them through tensors of its own on the same buffers, and leaves the operands unread: only so do
        builtin operators see constants there.
        """
        key = (body, *sorted(weights.items()))
        if key not in self._decompositions:
            graph = copy.copy(self.model.subgraphs[body])
            graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
            own = {}
            for number, name in weights.items():
                operand = int(graph.inputs[number])
                self.operands.append((graph.tensors[operand], name))
                own[operand] = len(graph.tensors)
                graph.tensors.append(copy.copy(graph.tensors[operand]))
                graph.tensors[-1].buffer = self.buffer(name)
            graph.operators = [copy.copy(operator) for operator in graph.operators]
            for operator in graph.operators:
                # LiteRT puts a decomposition in the place of its call, and cannot do that with an absent bias.
                given = [own.get(tensor, tensor) for tensor in operator.inputs.tolist() if tensor != ABSENT]
                operator.inputs = np.array(given, np.int32)
                self.build_in(operator)
            self._decompositions[key] = len(self.model.subgraphs)
            self.model.subgraphs.append(graph)
        return self._decompositions[key]

    def build_in(self, operator: Any) -> str:
        """Make a placeholder the builtin operator that it stands for; return which placeholder it was, or ""."""
        custom = (self.model.operatorCodes[operator.opcodeIndex].customCode or b"").decode()
        if custom not in BUILTIN:
            return ""
        operator.opcodeIndex = self.code(BUILTIN[custom])
        operator.customOptions = None
        if custom in OPTIONS:
            operator.builtinOptionsType, options = OPTIONS[custom]
            operator.builtinOptions = options()
        if custom == placeholders.LINEAR:
            operator.builtinOptions.keepNumDims = True
        return custom

    def code(self, builtin: int) -> int:
        """The index of a builtin operator's code, which is added if it is missing."""
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


class Graph:
    """One signature under construction. Tensors are given by index."""

    def __init__(self, assembly: Assembly, name: str) -> None:
        self.name = name
        self._assembly = assembly
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._inputs: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self._operands: dict[str, int] = {}
        self._scales: dict[int, str] = {}
        self._factors: dict[str, int] = {}
        self._constants: dict[Any, int] = {}
        self._computed: dict[Any, Any] = {}

    def place(
        self,
        piece: str,
        inputs: Mapping[str, int | str],
        weights: Mapping[str, str] | str = "",
        scales: Mapping[str, str] | str = "",
    ) -> dict[str, int]:
        """Copy a piece in and return the tensors of its outputs, by name.

        Args:
            inputs: by input of the piece, a tensor or the name of one of the graph's own inputs.
            weights: by weight of the piece, its name in the model; or one prefix for all of them.
            scales: the same for the names of quantizations.
        """
        assembly = self._assembly
        signature, body = assembly.piece(piece)
        place: dict[int, int] = {ABSENT: ABSENT}
        for entry in signature.inputs:
            name, tensor = entry.name.decode(), body.tensors[entry.tensorIndex]
            if name.startswith(WEIGHTS):
                place[entry.tensorIndex] = self._weight(_renamed(name.removeprefix(WEIGHTS), weights), tensor)
            else:
                given = inputs[name]
                place[entry.tensorIndex] = self._input(given, tensor) if isinstance(given, str) else given
        for index, tensor in enumerate(body.tensors):
            if index not in place:
                place[index] = self._constant(tensor) if self._is_constant(tensor) else self._add(tensor)
        for operator in body.operators:
            self._repeat(self._copy(operator, place, scales), operator, place)
        return {entry.name.decode(): place[entry.tensorIndex] for entry in signature.outputs}

    def apart(self, tensor: int) -> int:
        """The values of a computed tensor in one that no operator reads, made by an operator of its own.

        LiteRT's GPU accelerator merges a product with a constant into the matrix product that reads it, and then leaves
        the output unwritten.
        """
        (producer,) = (each for each in self._operators if tensor in each.outputs)
        again, output = copy.copy(producer), self._add(self._tensors[tensor])
        again.outputs = np.array([output if each == tensor else each for each in producer.outputs], np.int32)
        self._operators.append(again)
        return output

    def finish(self, outputs: Mapping[str, int]) -> None:
        """Add the graph to the model, without the operators that no output depends on."""
        self._spread_scales()
        needed, operators = set(outputs.values()), []
        for operator in reversed(self._operators):  # operators are in order of execution
            if needed.intersection(operator.outputs.tolist()):
                operators.append(operator)
                needed.update(operator.inputs.tolist(), operator.outputs.tolist())
        needed.discard(ABSENT)
        position = {old: new for new, old in enumerate(sorted(needed))} | {ABSENT: ABSENT}

        def renumbered(tensors: Any) -> Any:
            return np.array([position[tensor] for tensor in tensors], np.int32)

        graph, signature = schema.SubGraphT(), schema.SignatureDefT()
        graph.name = signature.signatureKey = self.name.encode()
        graph.tensors = [self._tensors[tensor] for tensor in sorted(needed)]
        graph.operators = operators[::-1]
        for operator in operators:
            operator.inputs = renumbered(operator.inputs.tolist())
            operator.outputs = renumbered(operator.outputs.tolist())
        signature.subgraphIndex = len(self._assembly.model.subgraphs)
        ports = {name: tensor for name, tensor in self._inputs.items() if tensor in needed}
        graph.inputs, graph.outputs = renumbered(ports.values()), renumbered(outputs.values())
        signature.inputs = [_port(name, position[tensor]) for name, tensor in ports.items()]
        signature.outputs = [_port(name, position[tensor]) for name, tensor in outputs.items()]
        self._assembly.model.subgraphs.append(graph)
        self._assembly.model.signatureDefs.append(signature)

    def _spread_scales(self) -> None:
        """Give the result of an operator that only moves int8 values the scale of its input."""
        spread = self._scales
        while spread:
            found: dict[int, str] = {}
            for operator in self._operators:
                tensors = [int(t) for t in (*operator.inputs, *operator.outputs) if t != ABSENT]
                int8 = [t for t in tensors if self._tensors[t].type == schema.TensorType.INT8]
                names = {spread[t] for t in int8 if t in spread}
                found |= {t: name for name in names for t in int8 if t not in self._scales}
            self._scales |= found
            spread = found
        for tensor, name in self._scales.items():
            self._assembly.scales.setdefault(name, []).append(self._tensors[tensor])

    def _add(self, tensor: Any) -> int:
        self._tensors.append(copy.copy(tensor))
        return len(self._tensors) - 1

    def _is_constant(self, tensor: Any) -> bool:
        return self._assembly.model.buffers[tensor.buffer].data is not None

    def _constant(self, tensor: Any) -> int:
        key = (tensor.buffer, tensor.type, tuple(tensor.shape))
        if key not in self._constants:
            self._constants[key] = self._add(tensor)
        return self._constants[key]

    def _repeat(self, copied: Any, original: Any, place: dict[int, int]) -> None:
        """Append an operator, unless an earlier one computes the same, as at the start of similar layers."""
        key = (
            copied.opcodeIndex,
            copied.inputs.tobytes(),
            content(copied.builtinOptions),
            content(copied.builtinOptions2),
        )
        named = original.customOptions is not None and len(original.customOptions)  # a scale, which is not in the key
        if key in self._computed and not named:
            for output, known in zip(original.outputs.tolist(), self._computed[key].outputs.tolist(), strict=True):
                place[output] = known
            return
        self._computed[key] = copied
        self._operators.append(copied)

    def _input(self, name: str, like: Any) -> int:
        if name not in self._inputs:
            self._inputs[name] = self._add(like)
        return self._inputs[name]

    def _weight(self, name: str, like: Any) -> int:
        if name not in self._weights:
            self._weights[name] = self._add(like)
            self._tensors[-1].buffer = self._assembly.buffer(name)
        return self._weights[name]

    def _factor(self, scale: str) -> int:
        if scale not in self._factors:
            tensor = schema.TensorT()
            tensor.shape, tensor.hasRank, tensor.type = np.ones(1, np.int32), True, schema.TensorType.FLOAT32
            tensor.buffer = self._assembly.factor(scale)
            self._factors[scale] = self._add(tensor)
        return self._factors[scale]

    def _operand(self, name: str, like: Any) -> int:
        """The tensor through which our ops are given a weight. It has another one than builtin operators: a kernel
        reads no scales from its tensor."""
        if name not in self._operands:
            self._operands[name] = self._add(like)
            self._tensors[-1].buffer = self._assembly.buffer(name)
            self._assembly.operands.append((self._tensors[-1], name))
        return self._operands[name]

    def _copy(self, operator: Any, place: dict[int, int], scales: Mapping[str, str] | str) -> Any:
        moved = copy.copy(operator)
        moved.inputs = np.array([place[tensor] for tensor in operator.inputs.tolist()], np.int32)
        moved.outputs = np.array([place[tensor] for tensor in operator.outputs.tolist()], np.int32)
        placeholder = self._assembly.build_in(moved)
        if placeholder == placeholders.LINEAR:
            moved.inputs = np.append(moved.inputs, np.int32(ABSENT))  # no bias
        elif placeholder == placeholders.SCALED:
            x, cache = moved.inputs.tolist()
            self._scales[cache] = _renamed(bytes(operator.customOptions).decode(), scales)
            moved.inputs = np.array([x, self._factor(self._scales[cache])], np.int32)
        elif placeholder in (placeholders.QUANTIZE, placeholders.DEQUANTIZE):
            name = _renamed(bytes(operator.customOptions).decode(), scales)
            port = moved.outputs if placeholder == placeholders.QUANTIZE else moved.inputs
            self._scales[int(port[0])] = name
        elif not placeholder:
            self._give_weights(moved)
        return moved

    def _give_weights(self, call: Any) -> None:
        """Give one of our ops, and its decomposition, the weights among its operands."""
        names = {tensor: name for name, tensor in self._weights.items()}
        weights = {number: names[tensor] for number, tensor in enumerate(call.inputs.tolist()) if tensor in names}
        options = call.builtinOptions2
        if not weights or not hasattr(options, "decompositionSubgraphIndex"):
            return
        for number, name in weights.items():
            call.inputs[number] = self._operand(name, self._tensors[call.inputs[number]])
        call.builtinOptions2 = copy.copy(options)
        call.builtinOptions2.decompositionSubgraphIndex = self._assembly.decomposition(
            options.decompositionSubgraphIndex, weights
        )


def _renamed(name: str, names: Mapping[str, str] | str) -> str:
    return names + name if isinstance(names, str) else names[name]


def _port(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry
