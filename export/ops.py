"""The ops that select tokens, as graph pieces, and what they share with the third, `attention`; docs/verify-op.md is
the contract of these two.

Each is a STABLEHLO_COMPOSITE. A runtime that has the kernel claims the composite; any other runs its decomposition,
which uses only builtin operators that LiteRT's GPU delegate supports. The decomposition is greedy, and defined for
logits without NaN.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

VERIFY = "edge_mtp.verify"
DRAFT = "edge_mtp.draft"
ATTENTION = "edge_mtp.attention"
CANDIDATES = "edge_mtp.candidates"
EXPERTS = "edge_mtp.experts"
PRODUCT = "edge_mtp.product"
OPS = (VERIFY, DRAFT, ATTENTION, CANDIDATES, EXPERTS, PRODUCT)
VERSION = 1

CONTROL_LENGTH = 8
SCALARS_LENGTH = 4
UNSERVED = -3


def mask_words(vocab: int) -> int:
    """The number of int32 words in one row of a token mask; bit v % 32 of word v // 32 allows token v."""
    return (vocab + 31) // 32


def verify(
    logits: torch.Tensor,
    draft: torch.Tensor,
    control: torch.Tensor,
    scalars: torch.Tensor,
    token_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Selects a token per row and counts the leading rows whose token equals the draft.

    Args:
        logits: float32 [1, T, V], T >= 2.
        draft: int32 [1, T - 1], -1 where there is no draft.
        control: int32 [1, 8], see docs/verify-op.md.
        scalars: float32 [1, 4].
        token_mask: int32 [1, T, ceil(V / 32)].

    Returns:
        n_accepted int32 [1] and tokens int32 [1, T]: the accepted ones, the next one, then -1. The
        decomposition is greedy and returns n_accepted = -3 when control[0] asks for sampling or a mask.

    Raises:
        ValueError: the op does not accept a shape or type.
    """
    _, rows, vocab = logits.shape
    if rows < 2:
        raise ValueError(f"{VERIFY}: {rows} row of logits, but without a draft there is nothing to verify")
    _expect(VERIFY, "logits", logits, torch.float32, (1, rows, vocab))
    _expect(VERIFY, "draft", draft, torch.int32, (1, rows - 1))
    _expect(VERIFY, "token_mask", token_mask, torch.int32, (1, rows, mask_words(vocab)))
    _expect_parameters(VERIFY, control, scalars)
    op = composite(VERIFY)
    logits, draft, control, scalars, token_mask = op.mark_inputs(logits, draft, control, scalars, token_mask)
    n_accepted, tokens = op.mark_outputs(*_greedy_verify(logits, draft, control, scalars, token_mask))
    return n_accepted, tokens


def draft(
    logits: torch.Tensor,
    ids: torch.Tensor,
    control: torch.Tensor,
    scalars: torch.Tensor,
    offset: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Selects one draft token among candidates.

    Args:
        logits: float32 [1, N].
        ids: int32 [1, N], the candidates' token ids, distinct, in any order.
        control: int32 [1, 8], see docs/verify-op.md; the mask flag is ignored.
        scalars: float32 [1, 4].
        offset: int32 [1], the draft step, from 0; must be computed, not a constant.

    Returns:
        token int32 [1] and confidence float32 [1], its probability. The decomposition is always greedy: a draft
        changes how fast the text comes, never the text.

    Raises:
        ValueError: the op does not accept a shape or type.
    """
    _, count = logits.shape
    _expect(DRAFT, "logits", logits, torch.float32, (1, count))
    _expect(DRAFT, "ids", ids, torch.int32, (1, count))
    _expect(DRAFT, "offset", offset, torch.int32, (1,))
    _expect_parameters(DRAFT, control, scalars)
    # LiteRT gives a kernel only memory aligned to 64 bytes, and constants in a flatbuffer are aligned to 16. Adding the
    # reserved entry, 0, turns a constant into a computed tensor.
    ids = ids + control[:, -1:]
    op = composite(DRAFT)
    logits, ids, control, scalars, offset = op.mark_inputs(logits, ids, control, scalars, offset)
    token, confidence = op.mark_outputs(*_greedy_draft(logits, ids, control, scalars, offset))
    return token, confidence


def add_custom_codes(model: Any) -> None:
    """Prepares a model, an object tree, for runtimes that claim the composites; the last change to its operators.

    Inserts a CUSTOM operator code for each of our ops that the model uses at the front of its table of operator codes.
    No operator refers to them, so a stock runtime never resolves them; a runtime with the kernels points the
    composites' opcode_index to them. At the front, so that no composite has index 0, which a flatbuffer omits.
    """
    from ai_edge_litert import schema_py_generated as schema

    codes = model.operatorCodes
    custom = schema.BuiltinOperator.CUSTOM
    operators = {id(op): op for graph in model.subgraphs for op in graph.operators or []}  # graphs may share operators
    used = {_composite_name(schema, codes, op) for op in operators.values()}
    present = {code.customCode.decode() for code in codes if code.builtinCode == custom}
    missing = [name for name in OPS if name in used and name not in present]
    for op in operators.values():
        op.opcodeIndex += len(missing)
    for name in reversed(missing):
        code: Any = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = custom
        code.customCode = name.encode()
        codes.insert(0, code)


def inline_composites(model: Any) -> None:
    """Replaces our composites by their decompositions in the graphs of the signatures.

    LiteRT's GPU delegate leaves composites to the CPU, so a model compiled only for the GPU would be refused. After
    this, no runtime can claim the ops. The decompositions' subgraphs stay, unused.
    """
    from ai_edge_litert import schema_py_generated as schema

    for signature in model.signatureDefs:
        graph, inlined = model.subgraphs[signature.subgraphIndex], []
        for op in graph.operators or []:
            if _composite_name(schema, model.operatorCodes, op) in OPS:
                body = model.subgraphs[op.builtinOptions2.decompositionSubgraphIndex]
                inlined += _instantiate(body, op, graph.tensors)
            else:
                inlined.append(op)
        graph.operators = inlined


def _instantiate(body: Any, call: Any, tensors: list[Any]) -> list[Any]:
    """Copies a subgraph's operators between the operands and results of `call`; adds its other tensors to `tensors`."""
    place = {-1: -1}
    place.update(zip(body.inputs, call.inputs, strict=True))
    place.update(zip(body.outputs, call.outputs, strict=True))
    for index, tensor in enumerate(body.tensors):
        if index not in place:
            place[index] = len(tensors)
            tensors.append(copy.copy(tensor))
    operators = []
    for op in body.operators:
        op = copy.copy(op)
        op.inputs, op.outputs = (np.array([place[i] for i in ports], np.int32) for ports in (op.inputs, op.outputs))
        operators.append(op)
    return operators


def _composite_name(schema: Any, codes: list[Any], op: Any) -> str | None:
    if codes[op.opcodeIndex].builtinCode != schema.BuiltinOperator.STABLEHLO_COMPOSITE:
        return None
    return str(op.builtinOptions2.name.decode())


def composite(name: str) -> Any:
    """A builder of one of our ops, whose operands and results it marks."""
    from litert_torch.backend.composite import StableHLOCompositeBuilder

    return StableHLOCompositeBuilder(name, attr={"version": VERSION})


def _expect_parameters(op: str, control: torch.Tensor, scalars: torch.Tensor) -> None:
    _expect(op, "control", control, torch.int32, (1, CONTROL_LENGTH))
    _expect(op, "scalars", scalars, torch.float32, (1, SCALARS_LENGTH))


def _expect(op: str, name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"{op}: {name} must be {dtype} {list(shape)}, not {tensor.dtype} {list(tensor.shape)}")


# The GPU delegate supports no int cumsum, gather by index, one-hot or clamp. So equality is computed in float, as a
# difference cut at 1. Ids, however, are compared and picked as integers: half precision cannot represent them.


def _is_not_zero(integers: torch.Tensor) -> torch.Tensor:
    """1.0 where an integer is not 0, else 0.0."""
    return torch.minimum(torch.abs(integers.float()), torch.ones_like(integers, dtype=torch.float32))


def _keep(condition: torch.Tensor, operand: torch.Tensor) -> torch.Tensor:
    """The condition (0.0 or 1.0), unchanged, but made to depend on the operand.

    The converter drops operands that the decomposition does not read, and the kernel needs them.
    """
    return torch.minimum(condition + condition * _is_not_zero(operand), torch.ones_like(condition))


def _greedy_verify(
    logits: torch.Tensor,
    draft: torch.Tensor,
    control: torch.Tensor,
    scalars: torch.Tensor,
    token_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.argmax(logits, dim=-1).to(torch.int32)
    mismatches = torch.cumsum(_is_not_zero(tokens[:, :-1] - draft), dim=1)
    accepted = torch.relu(1.0 - mismatches)
    unserved = _keep(_keep(_is_not_zero(control[:, :1]), scalars[:, -1:]), token_mask[:, 0, :1])
    served = 1.0 - unserved
    n_accepted = accepted.sum(dim=1, keepdim=True) * served + UNSERVED * unserved
    reached = (torch.cat([torch.ones(1, 1), accepted], dim=1) * served).to(torch.int32)
    return n_accepted.to(torch.int32).reshape(1), tokens * reached + (reached - 1)


def _greedy_draft(
    logits: torch.Tensor,
    ids: torch.Tensor,
    control: torch.Tensor,
    scalars: torch.Tensor,
    offset: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    best = torch.argmax(logits, dim=-1, keepdim=True).to(torch.int32)
    places = torch.arange(logits.shape[1], dtype=torch.int32)[None]
    chosen = (1.0 - _is_not_zero(places - best)).to(torch.int32)
    token = (ids * chosen).sum(dim=1, dtype=torch.int32)
    confidence = torch.softmax(logits, dim=-1).amax(dim=1)
    failed = _keep(_keep(_is_not_zero(control[0, -1:]), scalars[0, -1:]), offset)  # a reserved entry is not 0
    served = (1.0 - failed).to(torch.int32)
    return token * served + (served - 1), confidence * (1.0 - failed)
