"""Streamed weights: the bytes, scales and results of ai-edge-quantizer, from any chunks, however often cut short."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

import tiny_checkpoints
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from schema_pieces import Pieces

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import compact, encodings, flatbuffer, layer_cache, models, placeholders, recipes, store
from edge_mtp.export.assemble import Assembly
from edge_mtp.export.chat import Chat, llm_metadata
from edge_mtp.export.checkpoint import Pair, open_pair
from edge_mtp.export.encodings import ENCODINGS, Encoding, encode
from edge_mtp.export.options import Options
from edge_mtp.export.store import ALIGNMENT, SECTION_ALIGNMENT, Lent, Store
from edge_mtp.export.weights import TOKEN_ORDERING
from edge_mtp.export.writer import write_bundle
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.token_bytes import token_table
from edge_mtp.quiet import quiet

BUILTIN, KINDS = schema.BuiltinOperator, schema.TensorType

# ---- what the quantizer writes ----------------------------------------------------------------------------


class Written(NamedTuple):
    """Sections of a pair, written to `folder`."""

    pair: Pair
    options: Options
    folder: Path

    def assembly(self, section: str) -> Assembly:
        graphs = models.graphs_of(self.pair, self.options)
        made = graphs.sections()[section]
        pieces = layer_cache.converted(made.traced(), lambda: None)
        assembly = made.assemble(pieces.model())
        compact.compact(assembly.model)
        return assembly

    def streamed(self, section: str, recipe: str) -> Path:
        path = self.folder / f"{section}-{recipe}.tflite"
        written = Store(self.assembly(section), path)
        models.bind(self.pair, replace(self.options, recipe=recipes.RECIPES[recipe]), section, written)
        written.write(lambda count: None)
        return path

    def plain(self, section: str) -> Path:
        """With every weight in the flatbuffer, float32."""
        path = self.folder / f"{section}-plain.tflite"
        written = Store(self.assembly(section), path)
        for qualified, shape in written.weights.items():
            owner, name = qualified.split("/", 1)
            checkpoint = self.pair.drafter if owner == "drafter" else self.pair.target
            values = checkpoint.weights.read(name)
            if owner == "drafter" and name == recipes.TABLE:
                values = values[checkpoint.weights.read(TOKEN_ORDERING)]
            written.constant(qualified, values.reshape(shape))
        written.write(lambda count: None)
        return path


SECTIONS = ("embedder", "per_layer_embedder", "prefill_decode", "mtp_drafter")
# The recipes that give all weights one encoding.
UNIFORM = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "int4", "int4-block": "int4b32"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("store")
    # Blocks of 32 must fit.
    sizes = {"hidden_size_per_layer_input": 32}
    pair = open_pair(*tiny_checkpoints.write_pair(folder, target=sizes, drafter_text={"intermediate_size": 64}))
    options = Options(64, (4,), (), (), "fp32", recipes.RECIPES["fp32"])
    return Written(pair, options, folder)


def by_quantizer(path: Path, encoding: Encoding) -> bytes:
    """What ai-edge-quantizer makes of a float32 model."""
    if encoding.bits == 32:
        return path.read_bytes()
    recipe = recipe_manager.RecipeManager()
    for name in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.EMBEDDING_LOOKUP):
        if encoding.is_half:
            weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
            config = qtyping.OpQuantizationConfig(
                weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
            )
            recipe.add_quantization_config(".*", name, config, AlgorithmName.FLOAT_CASTING)
        else:
            granularity = f"BLOCKWISE_{encoding.block}" if encoding.block else "CHANNELWISE"
            recipe.add_dynamic_config(
                regex=".*",
                operation_name=name,
                num_bits=encoding.bits,
                granularity=qtyping.QuantGranularity[granularity],
            )
    with quiet():
        result = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    return bytes(result.quantized_model)


def weights_of(model: Any) -> dict[str, list[Any]]:
    """By signature, for each FULLY_CONNECTED and EMBEDDING_LOOKUP in order, its kind and its weight with its scales."""
    found = {}
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        sources = {int(output): operator for operator in graph.operators for output in operator.outputs}
        each = found[signature.signatureKey.decode()] = []
        for operator in graph.operators:
            kind = model.operatorCodes[operator.opcodeIndex].builtinCode
            if kind not in (BUILTIN.FULLY_CONNECTED, BUILTIN.EMBEDDING_LOOKUP):
                continue
            number = int(operator.inputs[1])
            source = sources.get(number)
            if source is not None and model.operatorCodes[source.opcodeIndex].builtinCode == BUILTIN.DEQUANTIZE:
                number = int(source.inputs[0])
            if (
                model.buffers[graph.tensors[number].buffer].data is not None
            ):  # the drafter multiplies with looked-up rows
                each.append((kind, *described(model, graph, number)))
    return found


def described(model: Any, graph: Any, number: int) -> tuple[Any, ...]:
    tensor = graph.tensors[number]
    base = (tensor.type, tensor.shape.tolist(), bytes(model.buffers[tensor.buffer].data))
    quantization = tensor.quantization
    if quantization is None:
        return base
    if quantization.details is not None:
        details = quantization.details
        return (*base, details.blockSize, *described(model, graph, details.scales))
    if quantization.scale is None or not len(quantization.scale):
        return base
    axis = quantization.quantizedDimension
    return (*base, axis, quantization.scale.tolist(), np.asarray(quantization.zeroPoint).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("recipe", UNIFORM)
def test_it_is_what_the_quantizer_writes(written: Written, recipe: str, section: str) -> None:
    path = written.streamed(section, recipe)
    ours, theirs = path.read_bytes(), by_quantizer(written.plain(section), ENCODINGS[UNIFORM[recipe]])
    models = flatbuffer.parse(ours), flatbuffer.parse(theirs)
    assert weights_of(models[0]) == weights_of(models[1])
    assert all(weights_of(models[0]).values())
    runners = [Interpreter(model_content=each, num_threads=1) for each in (ours, theirs)]
    random = np.random.default_rng(5)
    for name in models[0].signatureDefs:
        key = name.signatureKey.decode()
        ours_, theirs_ = (runner.get_signature_runner(key) for runner in runners)
        for _ in range(3):
            inputs = {
                port: sample(random, port, tuple(detail["shape"]), detail["dtype"])
                for port, detail in ours_.get_input_details().items()
            }
            found, expected = ours_(**inputs), theirs_(**inputs)
            assert found.keys() == expected.keys()
            for port, value in found.items():
                np.testing.assert_array_equal(value, expected[port], err_msg=f"{key} {port}")


def sample(random: np.random.Generator, port: str, shape: tuple[int, ...], dtype: Any) -> Any:
    if port == "input_pos":
        return np.arange(shape[0], dtype=np.int32) + 7
    if port == "mask":
        return np.zeros(shape, dtype)
    if np.issubdtype(dtype, np.integer):
        return random.integers(0, 100, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


# ---- the streaming ----------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Matrices with their encodings, and how they are streamed."""

    matrices: list[tuple[Any, Encoding]]
    chunk: int
    workers: int


@st.composite
def plans(draw: Callable[..., Any]) -> Plan:
    matrices = []
    for seed in range(draw(st.integers(1, 4))):
        encoding = draw(st.sampled_from(list(ENCODINGS.values())))
        multiple = encoding.block or max(1, 8 // encoding.bits)
        shape = draw(st.integers(1, 40)), multiple * draw(st.integers(1, 512 // multiple))
        weights = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        matrices.append((weights, encoding))
    return Plan(matrices, draw(st.integers(1, 4000)), draw(st.integers(1, 4)))


class Target:
    """A model with a FULLY_CONNECTED for each matrix, twice in graphs of their own.

    The matrices have the names `first`.w and so on. It borrows those that are `lent`.
    """

    def __init__(self, plan: Plan, path: Path, first: int = 0, lent: Mapping[str, Lent] | None = None) -> None:
        self.plan, self.path = plan, path
        self.reads: list[str] = []
        pieces = Pieces()
        numbers = range(first, first + len(plan.matrices))
        for number, (weights, _) in zip(numbers, plan.matrices, strict=True):
            rows, width = weights.shape
            tensors = pieces.piece(
                f"p{number}", x=((1, width), KINDS.FLOAT32), weights_w=((rows, width), KINDS.FLOAT32)
            )
            pieces.outputs(y=pieces.operator(placeholders.LINEAR, [tensors["x"], tensors["weights_w"]], (1, rows)))
        assembly = Assembly(pieces.model)
        for name in ("one", "two"):
            graph = assembly.graph(name)
            graph.finish({f"y{n}": graph.place(f"p{n}", {"x": f"x{n}"}, f"{n}.")["y"] for n in numbers})
        compact.compact(assembly.model)
        self.store = Store(assembly, path)
        for number, (weights, encoding) in zip(numbers, plan.matrices, strict=True):
            name = f"{number}.w"
            if lent is None:
                self.store.matrix(name, weights.shape, encoding, self.reader(name, weights))
            else:
                self.store.borrow(name, weights.shape, lent[name])

    def reader(self, name: str, weights: Any) -> Callable[[int, int], Any]:
        def read(start: int, stop: int) -> Any:
            self.reads.append(name)
            return weights[start:stop]

        return read

    def write(self, report: Callable[[int], None] = lambda count: None) -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "CHUNK", self.plan.chunk)
            patch.setattr(store, "WORKERS", self.plan.workers)
            self.store.write(report)
        return self.path.read_bytes()

    @property
    def half(self) -> tuple[Path, Path]:
        return self.path.with_suffix(".weights"), self.path.with_suffix(".scales")


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(plans())
def test_a_file_holds_what_was_streamed(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Target(plan, Path(folder) / "x.tflite")
        counts: list[int] = []
        data = target.write(counts.append)
        assert sum(counts) == sum(weights.size for weights, _ in plan.matrices)
        assert {path.name for path in Path(folder).iterdir()} == {"x.tflite", "x.inventory"}
    offsets = schema.ModelT.InitFromPackedBuf(data, 0).buffers
    assert all(buffer.offset % ALIGNMENT == 0 for buffer in offsets)
    model = flatbuffer.parse(data)
    check_weights(model, plan.matrices)


def check_weights(model: Any, matrices: list[tuple[Any, Encoding]]) -> None:
    """Both graphs have these matrices."""
    graphs = weights_of(model)
    assert graphs["one"] == graphs["two"]
    assert len(graphs["one"]) == len(matrices)
    for found, (weights, encoding) in zip(graphs["one"], matrices, strict=True):
        encoded = encode(weights, encoding)
        kind, tensor_type, shape, stored, *scales = found
        assert kind == BUILTIN.FULLY_CONNECTED
        assert tensor_type == encodings.tensor_type(encoding)
        assert shape == list(weights.shape)
        assert stored == encoded.data.tobytes()
        if encoding.block:
            assert scales[0] == encoding.block
            assert encoded.scales is not None
            assert scales[3] == encoded.scales.tobytes()
        elif encoding.is_integer:
            assert encoded.scales is not None
            assert scales == [0, encoded.scales.tolist(), [0] * len(weights)]
        else:
            assert scales == []


@relaxed
@given(st.lists(plans(), min_size=1, max_size=3))
def test_a_file_uses_what_the_files_behind_it_hold(lenders: list[Plan]) -> None:
    matrices = [matrix for plan in lenders for matrix in plan.matrices]
    with tempfile.TemporaryDirectory() as folder:
        paths, first = [], 0
        for plan in lenders:
            paths.append(Path(folder) / f"{first}.tflite")
            Target(plan, paths[-1], first).write()
            first += len(plan.matrices)
        together = Plan(matrices, 1, 1)
        data = Target(together, Path(folder) / "all.tflite", lent=store.lent(paths)).write()
        assert len(data) % SECTION_ALIGNMENT == 0
        for path in paths:
            data += path.read_bytes()
            data += bytes(-len(data) % SECTION_ALIGNMENT)
    check_weights(flatbuffer.parse(data), matrices)


@relaxed
@given(plans(), st.data())
def test_it_goes_on_from_any_byte(plan: Plan, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = Target(plan, folder / "whole.tflite").write()
        cut = Target(plan, folder / "x.tflite")
        left = data.draw(st.integers(0, 30), label="reports before the interrupt")

        def report(count: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        try:
            cut.write(report)
        except KeyboardInterrupt:
            for path in cut.half:
                size = path.stat().st_size
                kept = data.draw(st.integers(0, size) | st.just(size), label=path.name)
                with path.open("r+b") as file:
                    file.truncate(kept)
        again = Target(plan, folder / "x.tflite")
        assert again.write() == whole


@relaxed
@given(plans(), st.data())
def test_what_is_done_is_not_read_again(plan: Plan, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, len(plan.matrices) - 1), label="matrices done")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.tflite"
        total = 0

        def report(count: int) -> None:
            nonlocal total
            total += count
            if total > sum(weights.size for weights, _ in plan.matrices[:done]):
                raise KeyboardInterrupt

        first, second = Target(plan, path), Target(plan, path)
        with pytest.raises(KeyboardInterrupt):
            first.write(report)
        second.write()
        names = [f"{number}.w" for number in range(len(plan.matrices))]
        assert set(second.reads) == set(names[done:])


def test_another_layout_starts_afresh(tmp_path: Path) -> None:
    """Even where the number of bytes is the same."""
    weights = [np.random.default_rng(seed).standard_normal((8, 64)).astype(np.float32) for seed in (0, 1)]
    path = tmp_path / "x.tflite"

    def plan(first: str) -> Plan:
        return Plan([(weights[0], ENCODINGS[first]), (weights[1], ENCODINGS["fp32"])], 64, 1)

    target = Target(plan("int4b32"), path)

    def interrupt(count: int) -> None:
        if "1.w" in target.reads:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.write(interrupt)
    assert Target(plan("int4b64"), path).write() == Target(plan("int4b64"), tmp_path / "whole.tflite").write()


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    weights = np.ones((8, 64), np.float32)
    weights[5, 3] = np.nan
    with pytest.raises(EdgeMtpError, match=r"0\.w: a weight of size nan cannot be encoded"):
        Target(Plan([(weights, ENCODINGS["int8"])], 64, 2), tmp_path / "x.tflite").write()


# ---- beyond 2 GiB -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_than_two_gib(tmp_path: Path) -> None:
    """A section of 2.1 GiB of zeros, which take no space in a sparse file, and behind them a matrix that is not zero.

    That the zeros are done is what an interrupted run would have left on the disk.
    """
    rows, width = 4300, 1 << 17
    behind = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    path = tmp_path / "x.tflite"

    def target() -> Store:
        pieces = Pieces()
        tensors = pieces.piece("table", ids=((1,), KINDS.INT32), weights_w=((rows, width), KINDS.FLOAT32))
        pieces.outputs(y=pieces.operator(placeholders.LOOKUP, [tensors["ids"], tensors["weights_w"]], (1, width)))
        tensors = pieces.piece("linear", x=((1, 64), KINDS.FLOAT32), weights_w=((24, 64), KINDS.FLOAT32))
        pieces.outputs(y=pieces.operator(placeholders.LINEAR, [tensors["x"], tensors["weights_w"]], (1, 24)))
        assembly = Assembly(pieces.model)
        graph = assembly.graph("main")
        row = graph.place("table", {"ids": "ids"}, "0.")["y"]
        graph.finish({"row": row, "y": graph.place("linear", {"x": "x"}, "1.")["y"]})
        compact.compact(assembly.model)
        made = Store(assembly, path)
        made.matrix("0.w", (rows, width), ENCODINGS["fp32"], unread)
        made.matrix("1.w", (24, 64), ENCODINGS["fp32"], lambda start, stop: behind[start:stop])
        return made

    def unread(start: int, stop: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target().write(lambda count: None)
    weights, scales = path.with_suffix(".weights"), path.with_suffix(".scales")
    with weights.open("r+b") as file:
        file.truncate((1 << 20) + rows * width * 4)  # more than there is; what is beyond goes
    with scales.open("ab") as file:
        file.write(b"\1")
    target().write(lambda count: None)
    assert path.stat().st_size > 2**31
    assert path.stat().st_blocks * 512 < 10 << 20

    x = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    bundle = tmp_path / "x.litertlm"
    try:
        tokenizer = tiny_checkpoints.random_pair()[0] / "tokenizer.json"
        write_bundle(
            bundle,
            metadata=llm_metadata(Chat(2, None, [1], False, False), "", 64),
            tokenizer=tokenizer,
            models={"prefill_decode": path},
            manifest={"edge_mtp": 1},
            token_table=token_table(tokenizer, tiny_checkpoints.VOCAB),
            chat_template=None,
            scratch=tmp_path,
        )
        section = Bundle(bundle).section("TFLiteModel", "prefill_decode")
        assert section is not None
        assert section.size == path.stat().st_size
        model = schema.ModelT.InitFromPackedBuf(section.data, 0)
        (last,) = [buffer for buffer in model.buffers if buffer.size == behind.nbytes]
        assert last.offset > 2**31
        assert (
            bytes(section.data[last.offset : last.offset + last.size])
            == encode(behind, ENCODINGS["fp32"]).data.tobytes()
        )
        assert Bundle(bundle).models["prefill_decode"].signatures.keys() == {"main"}
        del section, model
    finally:
        bundle.unlink(missing_ok=True)
    try:
        found = Interpreter(model_path=str(path), num_threads=1).get_signature_runner("main")(
            ids=np.array([rows - 1], np.int32), x=x
        )
    finally:
        path.unlink()
    assert not found["row"].any()
    np.testing.assert_allclose(found["y"], x @ behind.T, rtol=1e-4, atol=1e-4)
