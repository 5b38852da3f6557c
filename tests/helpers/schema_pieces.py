"""Converted models straight from the schema, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

FLOAT32 = schema.TensorType.FLOAT32


class Pieces:
    """A converted model straight from the schema; `piece` begins a signature whose operators the next calls add."""

    def __init__(self) -> None:
        self.model: Any = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.model.subgraphs, self.model.signatureDefs = [], [], []

    def piece(self, name: str, **inputs: tuple[tuple[int, ...], int]) -> dict[str, int]:
        self.graph: Any = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        signature: Any = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name.encode(), len(self.model.subgraphs)
        tensors = {port: self.tensor(*kind) for port, kind in inputs.items()}
        signature.inputs = [self.port(port, tensor) for port, tensor in tensors.items()]
        signature.outputs = []
        self.graph.inputs = np.array(list(tensors.values()), np.int32)
        self.model.subgraphs.append(self.graph)
        self.model.signatureDefs.append(signature)
        return tensors

    def tensor(self, shape: tuple[int, ...], kind: int = FLOAT32, values: Any = None) -> int:
        tensor: Any = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = np.array(shape, np.int32), kind, b"t%d" % len(self.graph.tensors)
        tensor.hasRank, tensor.buffer = True, len(self.model.buffers)
        buffer = schema.BufferT()
        buffer.data = None if values is None else np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: int | str, inputs: list[int], shape: tuple[int, ...], kind: int = FLOAT32, text: str = ""
    ) -> int:
        operator: Any = schema.OperatorT()
        operator.opcodeIndex = self.code(code)
        output = self.tensor(shape, kind)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if isinstance(code, str):
            operator.customOptions = np.frombuffer(text.encode(), np.uint8)
        self.graph.operators.append(operator)
        return output

    def outputs(self, **outputs: int) -> None:
        self.model.signatureDefs[-1].outputs = [self.port(name, tensor) for name, tensor in outputs.items()]
        self.graph.outputs = np.array(list(outputs.values()), np.int32)

    def code(self, code: int | str) -> int:
        for index, known in enumerate(self.model.operatorCodes):
            if code in (known.builtinCode, (known.customCode or b"").decode()):
                return index
        added: Any = schema.OperatorCodeT()
        added.builtinCode = schema.BuiltinOperator.CUSTOM if isinstance(code, str) else code
        added.deprecatedBuiltinCode, added.version = min(added.builtinCode, 127), 1
        if isinstance(code, str):
            added.customCode = code.encode()
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    @staticmethod
    def port(name: str, tensor: int) -> Any:
        entry: Any = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), tensor
        return entry
