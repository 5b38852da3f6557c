"""The ops in a graph: what the converter emits, the decomposition against the reference, the claim, the GPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy_select as reference
import pytest
import torch
from litert_ctypes import CPU, GPU, Array, Graph, LiteRtError
from native_select import core
from vulkan import load

from edge_mtp.export import flatbuffer, ops

ROWS, VOCAB, HIDDEN, STEPS, CANDIDATES = 4, 100, 16, 3, 40
FULL_VOCAB = 262144
VERIFY_SIGNATURE, DRAFT_SIGNATURE = 0, 1


class Verifier(torch.nn.Module):
    """A head and the verify op behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(
        self,
        state: torch.Tensor,
        draft: torch.Tensor,
        control: torch.Tensor,
        scalars: torch.Tensor,
        token_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        logits = self.head(state)
        n_accepted, tokens = ops.verify(logits, draft, control, scalars, token_mask)
        return {"n_accepted": n_accepted, "tokens": tokens, "logits": logits}


class Drafter(torch.nn.Module):
    """Steps that feed the drafted token back, with constants for candidates, as a folded drafter has."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(HIDDEN, CANDIDATES, bias=False)
        self.embedding = torch.nn.Embedding(VOCAB, HIDDEN)
        ids = torch.randperm(VOCAB, dtype=torch.int32)[None, :CANDIDATES]
        self.register_buffer("ids", ids)

    def forward(self, state: torch.Tensor, control: torch.Tensor, scalars: torch.Tensor) -> dict[str, torch.Tensor]:
        drafts, confidences, rows = [], [], []
        for step in range(STEPS):
            logits = self.head(state)
            offset = control[0, -1:] + step  # the reserved entry is 0
            token, confidence = ops.draft(logits, self.ids, control, scalars, offset)
            state = state + self.embedding(token)
            drafts.append(token)
            confidences.append(confidence)
            rows.append(logits)
        return {
            "draft": torch.stack(drafts, 1),
            "confidence": torch.stack(confidences, 1),
            "logits": torch.cat(rows, 0),
        }


def parameters() -> dict[str, torch.Tensor]:
    return {
        "control": torch.zeros(1, ops.CONTROL_LENGTH, dtype=torch.int32),
        "scalars": torch.zeros(1, ops.SCALARS_LENGTH),
    }


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    torch.manual_seed(1)
    return Drafter().eval()


@pytest.fixture(scope="module")
def model(drafter: Drafter, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A .tflite with both ops, each behind a matrix product, in two signatures."""
    import litert_torch

    torch.manual_seed(0)
    verify_inputs = {
        "state": torch.randn(1, ROWS, HIDDEN),
        "draft": torch.zeros(1, ROWS - 1, dtype=torch.int32),
        **parameters(),
        "token_mask": torch.zeros(1, ROWS, ops.mask_words(VOCAB), dtype=torch.int32),
    }
    converter = litert_torch.signature("edge_verify_4", Verifier().eval(), sample_kwargs=verify_inputs)
    converter.signature("edge_draft_3", drafter, sample_kwargs={"state": torch.randn(1, HIDDEN), **parameters()})
    path = tmp_path_factory.mktemp("ops") / "ops.tflite"
    converter.convert().export(str(path))
    return path.read_bytes()


def parse(model: bytes) -> tuple[Any, Any]:
    from ai_edge_litert import schema_py_generated as schema

    return schema, schema.ModelT.InitFromPackedBuf(model, 0)


def changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    tree = flatbuffer.parse(model)
    change(tree)
    return flatbuffer.serialize(tree)


def composites(model: bytes) -> list[list[Any]]:
    """The composites of each signature's subgraph."""
    schema, root = parse(model)
    code = schema.BuiltinOperator.STABLEHLO_COMPOSITE
    graphs = [root.subgraphs[d.subgraphIndex] for d in root.signatureDefs]
    return [[op for op in g.operators if root.operatorCodes[op.opcodeIndex].builtinCode == code] for g in graphs]


def greedy_inputs(rng: np.random.Generator) -> dict[str, Array]:
    return {
        "state": rng.standard_normal((1, ROWS, HIDDEN)).astype(np.float32),
        "draft": np.full((1, ROWS - 1), -1, np.int32),
        "control": np.array([[0, 5, *rng.integers(-(2**31), 2**31, 3), 0, 0, 0]], np.int32),
        "scalars": np.array([[*rng.standard_normal(3), 0]], np.float32),
        "token_mask": rng.integers(-(2**31), 2**31, (1, ROWS, ops.mask_words(VOCAB))).astype(np.int32),
    }


def check_greedy(graph: Graph, cases: int) -> None:
    """Both signatures against the reference, given the logits they computed."""
    rng = np.random.default_rng(4)
    for case in range(cases):
        inputs = greedy_inputs(rng)
        control, scalars = inputs["control"][0], inputs["scalars"][0]
        tokens = graph.run(VERIFY_SIGNATURE, inputs)["logits"][0].argmax(-1)
        inputs["draft"][0] = np.where(rng.random(ROWS - 1) < 0.7, tokens[:-1], rng.integers(-1, VOCAB, ROWS - 1))
        found = graph.run(VERIFY_SIGNATURE, inputs)
        expected = reference.verify(found["logits"][0], inputs["draft"][0], control, scalars, None)
        assert (int(found["n_accepted"][0]), found["tokens"][0].tolist()) == (expected.n_accepted, expected.tokens)
        inputs["control"][0, 0] = 1 + case % 3
        found = graph.run(VERIFY_SIGNATURE, inputs)
        assert (int(found["n_accepted"][0]), found["tokens"][0].tolist()) == (ops.UNSERVED, [-1] * ROWS)


def check_draft(graph: Graph, drafter: Drafter, flags: int, cases: int) -> None:
    rng = np.random.default_rng(5)
    assert isinstance(drafter.ids, torch.Tensor)
    ids = drafter.ids[0].numpy()
    for _ in range(cases):
        control = np.array([[flags, 20, *rng.integers(-(2**31), 2**31, 2), 7, 0, 0, 0]], np.int32)
        scalars = np.array([[1.2, 0.9, 0, 0]], np.float32)
        state = rng.standard_normal((1, HIDDEN)).astype(np.float32)
        found = graph.run(DRAFT_SIGNATURE, {"state": state, "control": control, "scalars": scalars})
        for step in range(STEPS):
            expected = reference.draft(found["logits"][step], ids, control[0], scalars[0], step)
            assert int(found["draft"][0, step]) == expected.token
            assert float(found["confidence"][0, step]) == pytest.approx(expected.probability, rel=1e-5)


# ---- what the converter emits -----------------------------------------------------------------------------


def test_each_call_is_one_composite_with_every_operand(model: bytes) -> None:
    _, root = parse(model)
    (verify,), drafts = composites(model)
    graphs = [root.subgraphs[d.subgraphIndex] for d in root.signatureDefs]

    def shapes(graph: Any, tensors: Any) -> list[list[int]]:
        return [[int(d) for d in graph.tensors[t].shape] for t in tensors]

    assert verify.builtinOptions2.name == ops.VERIFY.encode()
    words = ops.mask_words(VOCAB)
    assert shapes(graphs[0], verify.inputs) == [
        [1, ROWS, VOCAB],
        [1, ROWS - 1],
        [1, ops.CONTROL_LENGTH],
        [1, ops.SCALARS_LENGTH],
        [1, ROWS, words],
    ]
    assert shapes(graphs[0], verify.outputs) == [[1], [1, ROWS]]
    assert len(drafts) == STEPS
    for draft in drafts:
        assert draft.builtinOptions2.name == ops.DRAFT.encode()
        assert shapes(graphs[1], draft.inputs) == [[1, CANDIDATES]] * 2 + [[1, 8], [1, 4], [1]]
        assert shapes(graphs[1], draft.outputs) == [[1], [1]]


def test_no_operand_is_a_constant(model: bytes) -> None:
    """LiteRT refuses a kernel's operand that is not aligned to 64 bytes, which a constant need not be."""
    _, root = parse(model)
    for definition, calls in zip(root.signatureDefs, composites(model), strict=True):
        graph = root.subgraphs[definition.subgraphIndex]
        for call in calls:
            for tensor in call.inputs:
                data = root.buffers[graph.tensors[tensor].buffer].data
                assert data is None or len(data) == 0


def test_the_composites_carry_the_version(model: bytes) -> None:
    from flatbuffers import flexbuffers

    for calls in composites(model):
        for call in calls:
            attributes = flexbuffers.GetRoot(bytes(call.builtinOptions2.compositeAttributes)).AsMap
            assert attributes["version"].AsInt == ops.VERSION


@pytest.mark.parametrize(
    ("operand", "value"),
    [
        ("logits", torch.zeros(1, 1, VOCAB)),
        ("draft", torch.zeros(1, ROWS, dtype=torch.int32)),
        ("draft", torch.zeros(1, ROWS - 1, dtype=torch.int64)),
        ("control", torch.zeros(1, 7, dtype=torch.int32)),
        ("scalars", torch.zeros(1, 4, dtype=torch.float64)),
        ("token_mask", torch.zeros(1, ROWS, 3, dtype=torch.int32)),
    ],
)
def test_operands_of_another_shape_or_type_are_refused(operand: str, value: torch.Tensor) -> None:
    operands = {
        "logits": torch.zeros(1, ROWS, VOCAB),
        "draft": torch.zeros(1, ROWS - 1, dtype=torch.int32),
        **parameters(),
        "token_mask": torch.zeros(1, ROWS, 4, dtype=torch.int32),
        operand: value,
    }
    with pytest.raises(ValueError, match=ops.VERIFY):
        ops.verify(**operands)


# ---- the decomposition ------------------------------------------------------------------------------------


def test_the_decomposition_equals_the_reference(model: bytes, drafter: Drafter) -> None:
    graph = Graph(model)
    check_greedy(graph, cases=400)
    check_draft(graph, drafter, flags=0, cases=200)


@pytest.mark.parametrize("rows", range(2, 10))
@pytest.mark.parametrize("vocab", [1, 2, 33, 700])
def test_the_function_equals_reference_and_core(rows: int, vocab: int) -> None:
    """In PyTorch, where ties, infinities and every width are cheap to reach."""
    rng = np.random.default_rng(rows * 1000 + vocab)
    for _ in range(25):
        logits = np.round(rng.standard_normal((rows, vocab)) * 2).astype(np.float32)
        logits[rng.random(logits.shape) < 0.1] = rng.choice([np.inf, -1e30])
        control, scalars = np.zeros(8, np.int32), np.zeros(4, np.float32)
        draft = np.where(rng.random(rows - 1) < 0.8, logits.argmax(-1)[:-1], -1).astype(np.int32)
        mask = torch.zeros(1, rows, ops.mask_words(vocab), dtype=torch.int32)
        operands = [torch.from_numpy(x)[None] for x in (logits, draft, control, scalars)]
        n_accepted, tokens = ops.verify(*operands, mask)
        expected = reference.verify(logits, draft, control, scalars, None)
        assert (int(n_accepted), tokens[0].tolist()) == (expected.n_accepted, expected.tokens)
        assert core().verify(logits, draft, control, scalars, None) == (expected.n_accepted, expected.tokens)


def test_a_draft_with_a_reserved_entry_fails_in_every_implementation() -> None:
    logits, ids = np.ones((1, 5), np.float32), np.arange(5, dtype=np.int32)[None]
    control, scalars = np.zeros((1, 8), np.int32), np.zeros((1, 4), np.float32)
    control[0, 7] = 1
    operands = [torch.from_numpy(x) for x in (logits, ids, control, scalars)]
    token, confidence = ops.draft(*operands, torch.zeros(1, dtype=torch.int32))
    assert (int(token), float(confidence)) == (-1, 0)
    assert core().draft(logits[0], ids[0], control[0], scalars[0], 0) == (-1, 0)


# ---- the claim --------------------------------------------------------------------------------------------


def claim(model: bytes) -> bytes:
    """Points every composite at the custom code of its name, as the native runtime does at load: bytes in place."""
    from ai_edge_litert import schema_py_generated as schema

    patched = bytearray(model)
    root = schema.Model.GetRootAs(patched, 0)
    codes = [root.OperatorCodes(i) for i in range(root.OperatorCodesLength())]
    custom = {c.CustomCode(): i for i, c in enumerate(codes) if c.BuiltinCode() == schema.BuiltinOperator.CUSTOM}
    for g in range(root.SubgraphsLength()):
        graph = root.Subgraphs(g)
        for o in range(graph.OperatorsLength()):
            op = graph.Operators(o)
            if codes[op.OpcodeIndex()].BuiltinCode() == schema.BuiltinOperator.STABLEHLO_COMPOSITE:
                options = schema.StableHLOCompositeOptions()
                table = op.BuiltinOptions2()
                options.Init(table.Bytes, table.Pos)
                field = op._tab.Offset(4)  # opcode_index
                assert field, "an opcode_index of 0 has no bytes to rewrite"
                at = op._tab.Pos + field
                patched[at : at + 4] = custom[options.Name()].to_bytes(4, "little")
    return bytes(patched)


def run_verify(inputs: list[Array], outputs: list[Array]) -> None:
    logits, draft, control, scalars, mask = inputs
    outputs[0][0], outputs[1][0] = core().verify(logits[0], draft[0], control[0], scalars[0], mask[0])


def run_draft(inputs: list[Array], outputs: list[Array]) -> None:
    logits, ids, control, scalars, offset = inputs
    outputs[0][0], outputs[1][0] = core().draft(logits[0], ids[0], control[0], scalars[0], int(offset[0]))


KERNELS = {
    ops.VERIFY: (run_verify, lambda shapes: [(1,), (1, shapes[0][1])]),
    ops.DRAFT: (run_draft, lambda shapes: [(1,), (1,)]),
}


def test_stock_runtimes_tolerate_the_codes(model: bytes) -> None:
    """Both stock APIs run the prepared model, and to the same results."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.interpreter import Interpreter

    prepared = changed(model, ops.add_custom_codes)
    inputs = greedy_inputs(np.random.default_rng(0))
    answers = []
    for content in (model, prepared):
        answer = Interpreter(model_content=content, num_threads=1).get_signature_runner("edge_verify_4")(**inputs)
        answers.append({name: value.tolist() for name, value in answer.items()})
    assert answers[0] == answers[1]
    compiled = CompiledModel.from_buffer(prepared)
    names = compiled.get_signature_by_index(VERIFY_SIGNATURE)
    sources = compiled.create_input_buffers(VERIFY_SIGNATURE)
    results = compiled.create_output_buffers(VERIFY_SIGNATURE)
    for name, buffer in zip(names["inputs"], sources, strict=True):
        buffer.write(inputs[name])
    compiled.run_by_index(VERIFY_SIGNATURE, sources, results)
    tokens = results[names["outputs"].index("tokens")].read(ROWS, np.int32)
    assert [tokens.tolist()] == answers[0]["tokens"]


def test_the_codes_are_added_once_and_only_where_used(model: bytes) -> None:
    prepared = changed(model, ops.add_custom_codes)
    _, root = parse(prepared)
    assert [code.customCode for code in root.operatorCodes[:3]] == [ops.VERIFY.encode(), ops.DRAFT.encode(), None]
    assert changed(prepared, ops.add_custom_codes) == changed(prepared, lambda tree: None)
    inlined = changed(model, ops.inline_composites)
    assert changed(inlined, ops.add_custom_codes) == changed(inlined, lambda tree: None)


def test_a_kernel_claims_the_composites(model: bytes, drafter: Drafter) -> None:
    """Sampled and masked, which no decomposition serves, with XNNPACK running the rest of the graph."""
    graph = Graph(claim(changed(model, ops.add_custom_codes)), kernels=KERNELS)
    rng = np.random.default_rng(6)
    for case in range(100):
        inputs = greedy_inputs(rng)
        inputs["control"][0, 0] = case % 4
        inputs["scalars"][0] = 1.0, 0.9, 0.01, 0
        for _ in range(ROWS):
            found = graph.run(VERIFY_SIGNATURE, inputs)
            operands = (inputs[name][0] for name in ("draft", "control", "scalars", "token_mask"))
            expected = reference.verify(found["logits"][0], *operands)
            answer = int(found["n_accepted"][0]), found["tokens"][0].tolist()
            assert answer == (expected.n_accepted, expected.tokens)
            inputs["draft"][0] = found["tokens"][0, :-1]
        assert answer[0] == ROWS - 1  # each round accepted what the one before selected
    check_draft(graph, drafter, flags=1, cases=100)


def test_weights_behind_the_flatbuffer_are_taken_in(model: bytes) -> None:
    """Large models keep their weights past the flatbuffer, at absolute offsets, which changes would move."""
    _, root = parse(model)
    outside = max(root.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    weights = outside.data.tobytes()
    outside.data, outside.offset, outside.size = None, 1 << 20, len(weights)
    head = flatbuffer.serialize(root)
    large = head + bytes((1 << 20) - len(head)) + weights
    expected = Graph(model).run(VERIFY_SIGNATURE, greedy_inputs(np.random.default_rng(1)))
    for change in (ops.add_custom_codes, ops.inline_composites):
        found = Graph(changed(large, change)).run(VERIFY_SIGNATURE, greedy_inputs(np.random.default_rng(1)))
        assert found["logits"].tolist() == expected["logits"].tolist()


# ---- without composites, and on a GPU ---------------------------------------------------------------------


def test_inlined_composites_compute_the_same(model: bytes, drafter: Drafter) -> None:
    inlined = changed(model, ops.inline_composites)
    assert composites(inlined) == [[], []]
    assert changed(inlined, ops.inline_composites) == changed(inlined, lambda tree: None)
    graph = Graph(inlined)
    check_greedy(graph, cases=100)
    check_draft(graph, drafter, flags=0, cases=50)


@pytest.fixture(scope="session")
def loaded_vulkan(vulkan: Path) -> None:
    try:
        load(vulkan)
    except OSError as error:
        pytest.skip(f"no Vulkan loader: {error}; install libvulkan1")


@pytest.mark.usefixtures("loaded_vulkan")
def test_the_gpu_runs_the_inlined_ops_whole(model: bytes, drafter: Drafter) -> None:
    graph = Graph(changed(model, ops.inline_composites), GPU)
    assert graph.is_fully_accelerated()
    check_greedy(graph, cases=50)
    check_draft(graph, drafter, flags=0, cases=25)


@pytest.mark.usefixtures("loaded_vulkan")
def test_the_gpu_leaves_a_composite_to_the_cpu(model: bytes) -> None:
    """Why inline_composites exists: with the CPU at hand the results are right, without it there are none."""
    check_greedy(Graph(model, GPU | CPU), cases=10)
    with pytest.raises(LiteRtError, match="CreateCompiledModel: status 504"):
        Graph(model, GPU)


class BareVerifier(torch.nn.Module):
    """The verify op alone, on logits that a test chooses."""

    def forward(self, **operands: torch.Tensor) -> dict[str, torch.Tensor]:
        n_accepted, tokens = ops.verify(**operands)
        return {"n_accepted": n_accepted, "tokens": tokens}


@pytest.fixture(scope="module")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import litert_torch

    inputs = {
        "logits": torch.zeros(1, 5, FULL_VOCAB),
        "draft": torch.zeros(1, 4, dtype=torch.int32),
        **parameters(),
        "token_mask": torch.zeros(1, 5, ops.mask_words(FULL_VOCAB), dtype=torch.int32),
    }
    path = tmp_path_factory.mktemp("bare") / "verify.tflite"
    litert_torch.signature("edge_verify_5", BareVerifier().eval(), sample_kwargs=inputs).convert().export(str(path))
    return changed(path.read_bytes(), ops.inline_composites)


@pytest.mark.parametrize("accelerator", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_full_vocabulary(bare_model: bytes, accelerator: int, request: pytest.FixtureRequest) -> None:
    """With ties on the CPU, which takes the first; a GPU's parallel ARG_MAX takes any of the largest."""
    if accelerator == GPU:
        request.getfixturevalue("loaded_vulkan")
    graph = Graph(bare_model, accelerator)
    rng = np.random.default_rng(9)
    for case in range(12):
        logits = rng.standard_normal((1, 5, FULL_VOCAB)).astype(np.float32) * (1 + case % 3)
        if accelerator == CPU:
            logits = np.round(logits)
        inputs = {
            "logits": logits,
            "draft": np.where(rng.random((1, 4)) < 0.7, logits.argmax(-1)[:, :-1], -1).astype(np.int32),
            "control": np.zeros((1, 8), np.int32),
            "scalars": np.zeros((1, 4), np.float32),
            "token_mask": np.zeros((1, 5, ops.mask_words(FULL_VOCAB)), np.int32),
        }
        found = graph.run(0, inputs)
        expected = reference.verify(logits[0], inputs["draft"][0], inputs["control"][0], inputs["scalars"][0], None)
        assert (int(found["n_accepted"][0]), found["tokens"][0].tolist()) == (expected.n_accepted, expected.tokens)


# ---- the contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [ops.verify, ops.draft])
def test_the_operands_stand_in_the_documents_order(op: Any) -> None:
    document = (Path(__file__).parents[2] / "docs" / "verify-op.md").read_text()
    assert f"version {ops.VERSION}\n" in document
    section = document.split(f"\n`edge_mtp.{op.__name__}`, ")[1].split("Results:")[0]
    documented = re.findall(r"^\| \d \| (\w+) \|", section, re.MULTILINE)
    assert documented == list(inspect.signature(op).parameters)
