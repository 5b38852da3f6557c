"""The native runtime: embedding tables against LiteRT, and on the tiny pair the decode loop, in which MTP never changes
the text, limits are exact, and errors harm nothing."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from native_build import part
from numpy.typing import NDArray

from edge_mtp.device import HostDevice, Outcome, Request, Runner, Sampling, Step
from edge_mtp.device.host import KEPT, litert_library, prune, runner_path
from edge_mtp.device.process import LocalProcess
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import encodings
from edge_mtp.export.encodings import ENCODINGS, Encoding
from edge_mtp.formats.bundle import Bundle

DRAFT_LENGTHS = range(1, 8)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with open_engine(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(engine: Engine, tiny_split: list[dict[str, object]]) -> list[list[int]]:
    """Token ids of 24 conversations, spread over the kinds of the split."""
    chosen = random.Random(5).sample(tiny_split, 24)
    return [engine.chat_format.encode(item["messages"], item["tools"]) for item in chosen]  # type: ignore[arg-type]


def generate(runner: Runner, request: Request) -> tuple[list[int], list[Step], Outcome]:
    *steps, outcome = runner.generate(request)
    assert isinstance(outcome, Outcome)
    assert all(isinstance(step, Step) for step in steps)
    return [token for step in steps for token in step.tokens], steps, outcome  # type: ignore[union-attr, return-value]


def test_greedy_text_is_the_same_at_every_draft_length(engine: Engine, prompts: list[list[int]]) -> None:
    for prompt in prompts:
        plain, _, _ = generate(engine.runner, Request(prompt, 64))
        for k in DRAFT_LENGTHS:
            drafted, steps, _ = generate(engine.runner, Request(prompt, 64, draft_length=k))
            assert drafted == plain, (k, prompt)
            assert max(len(step.draft) for step in steps) == k


def test_drafts_are_accepted(engine: Engine, prompts: list[list[int]]) -> None:
    """A drafter that is wired wrongly still gives the right text, only slowly: this is the test that notices."""
    stops = sorted(engine.chat_format.stop_token_ids)
    accepted = verifies = 0
    for prompt in prompts:
        _, steps, _ = generate(engine.runner, Request(prompt, 64, stop=stops, draft_length=3))
        accepted += sum(step.accepted for step in steps)
        verifies += sum(step.kind == "verify" for step in steps)
    assert 1 + accepted / verifies >= 2.0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
def test_sampled_text_depends_on_the_seed_and_not_on_the_drafts(
    engine: Engine, prompts: list[list[int]], temperature: float
) -> None:
    texts = set()
    for seed, prompt in enumerate(prompts[:8]):
        sampling = Sampling(temperature=temperature, top_k=40, top_p=0.95, seed=seed + (7 << 40))
        plain, _, _ = generate(engine.runner, Request(prompt, 48, sampling=sampling))
        for k in (1, 3, 7):
            for coupled in (False, True):
                request = Request(prompt, 48, draft_length=k, couple_drafts=coupled, sampling=sampling)
                assert generate(engine.runner, request)[0] == plain, (k, seed, coupled)
        texts |= {
            tuple(generate(engine.runner, Request(prompt, 48, sampling=replace(sampling, seed=s)))[0]) for s in range(4)
        }
    if temperature >= 1:
        assert len(texts) > 8  # other seeds, other texts


def test_the_number_of_tokens_is_exact_at_every_draft_length(engine: Engine, prompts: list[list[int]]) -> None:
    whole, _, _ = generate(engine.runner, Request(prompts[0], 40))
    for k in (0, *DRAFT_LENGTHS):
        for limit in (1, 2, 3, 5, 8, 9, 17):
            tokens, _, outcome = generate(engine.runner, Request(prompts[0], limit, draft_length=k))
            assert tokens == whole[:limit]
            assert outcome.finish == "length"
            assert outcome.tokens == limit


def test_a_stop_token_inside_a_step_ends_the_text_there(engine: Engine, prompts: list[list[int]]) -> None:
    for prompt in prompts[:6]:
        whole, _, _ = generate(engine.runner, Request(prompt, 40))
        for stop in set(whole[3:]):
            end = whole.index(stop) + 1
            for k in (0, 3, 7):
                tokens, _, outcome = generate(engine.runner, Request(prompt, 40, stop=[stop], draft_length=k))
                assert tokens == whole[:end]
                assert outcome.finish == "stop"


def test_the_context_is_used_to_its_last_entry_and_no_further(engine: Engine, prompts: list[list[int]]) -> None:
    """Near the end of the cache a wide write would shift back over valid entries; the text must not notice."""
    context = engine.context_length
    filler = [token for prompt in prompts for token in prompt]
    for length in (context - 1, context - 2, context - 5, context - 9, context - 130):
        prompt = filler[:length]
        plain, _, outcome = generate(engine.runner, Request(prompt, 500))
        assert outcome.finish == "context"
        assert len(plain) == context - length + 1
        for k in (1, 3, 7):
            drafted, _, outcome = generate(engine.runner, Request(prompt, 500, draft_length=k))
            assert drafted == plain, (length, k)
            assert outcome.finish == "context"


def test_prefill_in_chunks_equals_prefill_in_one_go(engine: Engine, prompts: list[list[int]]) -> None:
    """A prompt cut anywhere goes on as the longer one does: chunk borders and padding leave no mark."""
    prompt = prompts[1]
    whole, _, _ = generate(engine.runner, Request(prompt, 30))
    for cut in (1, 2, 7, 15, 29):
        longer = prompt + whole[:cut]
        rest, _, _ = generate(engine.runner, Request(longer, 30 - cut, draft_length=3))
        assert rest == whole[cut:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [10**6]}, "outside the vocabulary"),
        ({"prompt": [5] * 5000}, "context holds"),
        ({"draft_length": 9}, "draft length 9 is not in this bundle"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"draft_policy": "brave"}, "'draft_policy' is 'brave'; it must be fixed or auto"),
        ({"draft_sources": ("tea leaves",)}, "'tea leaves' is no draft source"),
        ({"stop_texts": ("",)}, "empty"),
        ({"grammar": 'root ::= "a"'}, "needs a stop token"),
        ({"keep_prefix": -1}, "keep_prefix"),
        ({"draft_tape": [5, 1024]}, "token 1024 is outside the vocabulary"),
        ({"draft_tape": [-1]}, "'draft_tape' must be a list of token ids"),
        ({"draft_tape": [5], "draft_sources": ("lookup", "grammar")}, "no drafter drafts here; add the draft source"),
        ({"fresh": 1}, "'fresh' must be true or false"),
        ({"sampling": Sampling(repetition_penalty=0.0)}, "repetition_penalty"),
        ({"sampling": Sampling(logit_bias={10**6: 1.0})}, "1000000"),
        ({"sampling": Sampling(suppress=[1024])}, "1024"),
        ({"sampling": Sampling(suppress=range(1024))}, "no token is allowed"),
        ({"sampling": Sampling(temperature=0.5, top_p=0.0)}, "out of range"),
        ({"sampling": Sampling(temperature=0.5, min_p=1.0)}, "out of range"),
        ({"sampling": Sampling(temperature=0.5, seed=-1)}, "seed"),
    ],
)
def test_a_refused_request_names_the_value_and_harms_nothing(
    engine: Engine, prompts: list[list[int]], change: dict[str, object], message: str
) -> None:
    request = Request(prompts[0], 8, draft_length=3)
    before, _, _ = generate(engine.runner, request)
    with pytest.raises(EdgeMtpError, match=message):
        generate(engine.runner, replace(request, **change))  # type: ignore[arg-type]
    assert generate(engine.runner, request)[0] == before


def test_a_cancelled_request_leaves_the_session_usable(engine: Engine, prompts: list[list[int]]) -> None:
    request = Request(prompts[2], 60, draft_length=3)
    before, _, _ = generate(engine.runner, request)
    for leave_after in (1, 2, 5):
        for index, _ in enumerate(engine.runner.generate(replace(request, max_tokens=600))):
            if index == leave_after:
                break
        assert generate(engine.runner, request)[0] == before


def test_the_trace_adds_up(engine: Engine, prompts: list[list[int]]) -> None:
    for k in (0, 3):
        tokens, steps, outcome = generate(engine.runner, Request(prompts[3], 50, draft_length=k))
        assert outcome.tokens == len(tokens)
        assert outcome.prompt_tokens == len(prompts[3])
        position = len(prompts[3])
        for index, step in enumerate(steps):
            assert step.step == index
            assert step.position == position
            position += len(step.tokens)
            assert step.tokens[: step.accepted] == step.draft[: len(step.tokens)][: step.accepted]
            assert len(step.confidence) == len(step.draft)
            assert all(0 <= c <= 1 for c in step.confidence)
            parts = step.draft_us + step.embed_us + step.verify_us + step.select_us
            assert 0 < parts <= step.total_us + 5 * 0.05 + 1e-6  # five times, each rounded to a tenth of a microsecond
        assert outcome.total_us >= (outcome.prefill_us + sum(s.total_us for s in steps)) * 0.999


def test_int8_text_is_the_same_at_every_draft_length(tiny_int8_bundle: Path, prompts: list[list[int]]) -> None:
    with HostDevice().start(tiny_int8_bundle) as runner:
        for prompt in prompts:
            plain, _, _ = generate(runner, Request(prompt, 64))
            for k in (1, 3, 7):
                assert generate(runner, Request(prompt, 64, draft_length=k))[0] == plain


@pytest.mark.slow
def test_int8_caches_give_the_same_text_at_every_draft_length(prompts: list[list[int]], engine: Engine) -> None:
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    stops = sorted(engine.chat_format.stop_token_ids)
    accepted = verifies = 0
    with HostDevice().start(cached_bundle("int8", kv="int8", widths=VERIFY_WIDTHS)) as runner:
        for prompt in prompts[:12]:
            plain, _, _ = generate(runner, Request(prompt, 64, stops))
            for k in (1, 3, 7):
                drafted, steps, _ = generate(runner, Request(prompt, 64, stops, k))
                assert drafted == plain
                accepted += sum(step.accepted for step in steps) * (k == 3)
                verifies += sum(step.kind == "verify" for step in steps) * (k == 3)
    assert 1 + accepted / verifies >= 1.8


def test_packed_weights_are_kept_whole(
    tiny_bundle: Path, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = []
    for _ in range(2):
        with HostDevice().start(tiny_bundle) as runner:
            texts.append(generate(runner, Request(prompts[0], 20, draft_length=3))[0])
        kept = list((tmp_path / "edge-mtp" / "weights").iterdir())
        assert kept
        assert all(path.suffix in KEPT for path in kept), kept
        assert any(path.suffix == ".xnnpack" for path in kept), kept
    assert texts[0] == texts[1]


def test_packed_weights_are_bounded_and_half_files_cleared(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "middle", "oldest"]):
        file = tmp_path / f"{name}.xnnpack"
        file.write_bytes(bytes(100))
        os.utime(file, (10**9 - age, 10**9 - age))
    half, dead = tmp_path / f"x.xnnpack.{os.getpid()}", tmp_path / "x.xnnpack.999999999"
    half.touch()
    dead.touch()
    prune(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["newest.xnnpack", "middle.xnnpack", half.name])
    prune(tmp_path / "absent", 250)


@pytest.mark.parametrize("trouble", ["a file where the folder should be", "no room", "a cut file"])
def test_a_cache_folder_that_cannot_be_used_breaks_nothing(
    trouble: str, tiny_bundle: Path, prompts: list[list[int]], engine: Engine, tmp_path: Path
) -> None:
    request = Request(prompts[0], 20, draft_length=3)
    cache = tmp_path / "weights"
    command = [str(runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library())]
    command += ["--cache-dir", str(cache)]
    if trouble == "a file where the folder should be":
        cache.touch()
    else:
        cache.mkdir()
    if trouble == "no room":
        mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
        small = ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", mount, str(cache)]
        if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
            pytest.skip("may not mount a small file system")
        command = [*small, *command]
    if trouble == "a cut file":
        Runner(LocalProcess(command)).close()
        for file in cache.iterdir():
            os.truncate(file, file.stat().st_size // 2)
    for _ in range(2):
        with Runner(LocalProcess(command)) as runner:
            assert generate(runner, request)[0] == generate(engine.runner, request)[0]
    if cache.is_dir():
        assert all(path.suffix in KEPT for path in cache.iterdir())


def test_packed_weights_exist_once_also_without_a_cache_folder(
    tiny_bundle: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    """Without any cache LiteRT packs them anew for each of some twenty signatures."""
    private = {}
    for cache in ([], ["--cache-dir", str(tmp_path)]):
        command = [str(runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library()), *cache]
        with Runner(LocalProcess(command)) as runner:
            generate(runner, Request(prompts[0], 20, draft_length=3))
            status = Path(f"/proc/{runner.pid}/status").read_text("ascii")
        private[len(cache)] = int(status.split("RssAnon:")[1].split()[0])
    assert private[0] < 1.5 * private[2]


def test_a_damaged_drafter_names_the_cure_and_plain_decoding_goes_on(
    tiny_bundle: Path, prompts: list[list[int]], engine: Engine, tmp_path: Path
) -> None:
    whole = tiny_bundle.read_bytes()
    bundle = Bundle(tiny_bundle)
    (section,) = (section for section in bundle.sections if section.model_type == "aux")
    model = schema.Model.GetRootAs(section.data, 0)
    orders = {
        tensor.Buffer()
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength()))
        if graph.Name().startswith(b"edge_draft")
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength()))
        if tensor.Type() == schema.TensorType.INT32 and np.prod(tensor.ShapeAsNumpy()) == bundle.vocab_size
    }
    (order,) = (model.Buffers(i).DataAsNumpy() for i in orders if i)  # of the centroids' tokens
    damaged = tmp_path / "damaged.litertlm"
    damaged.write_bytes(whole.replace(order.tobytes(), np.full(order.size // 4, 1 << 30, np.int32).tobytes()))
    with HostDevice().start(damaged) as runner:
        for _ in range(2):
            with pytest.raises(EdgeMtpError, match=r"edge_draft_4.*copy or export it again, or use draft length 0"):
                generate(runner, Request(prompts[0], 8, draft_length=4))
            plain = Request(prompts[0], 8)
            assert generate(runner, plain)[0] == generate(engine.runner, plain)[0]


def test_the_runner_answers_every_line(tiny_bundle: Path) -> None:
    """Malformed lines get an error record each; requests waiting at the end of input are still served."""
    bad = [
        "{",
        "[]",
        '{"op":"dance"}',
        '{"op":"generate","request":"x","prompt":[1],"max_tokens":1,"colour":1}',
        '{"op":"generate","prompt":"hi","max_tokens":1}',
        '{"op":"generate","prompt":[1],"max_tokens":1.5}',
    ]
    good = [f'{{"op":"generate","request":"g{i}","prompt":[2,105],"max_tokens":3}}' for i in range(3)]
    command = [str(runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library())]
    lines = "\n".join([*bad, *good]) + "\n"
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=True)
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert records[0]["event"] == "ready"
    assert [r["event"] for r in records].count("error") == len(bad)
    assert [r["request"] for r in records if r["event"] == "done"] == ["g0", "g1", "g2"]


def test_the_sanitizers_find_nothing(
    tiny_bundle: Path, prompts: list[list[int]], engine: Engine, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Whole requests through the runner built with the address and undefined-behaviour sanitizers."""
    sanitized = pytestconfig.getoption("--sanitized-runner")
    if sanitized is None:
        pytest.skip("no --sanitized-runner given; .ci/run builds one")
    command = [str(sanitized), "--bundle", str(tiny_bundle), "--litert", str(litert_library())]
    process = LocalProcess([*command, "--cache-dir", str(tmp_path)])
    with Runner(process) as runner:
        for k, temperature in [(0, 0.0), (3, 0.0), (7, 0.8)]:
            sampling = Sampling(temperature=temperature, top_k=20, top_p=0.9, seed=4)
            request = Request(prompts[4], 30, draft_length=k, sampling=sampling)
            assert generate(runner, request)[0] == generate(engine.runner, request)[0]
        stops = sorted(engine.chat_format.stop_token_ids)
        for prompt in prompts[:2]:
            request = Request(
                prompt, 30, stops, 7, "auto", ("drafter", "lookup", "grammar"), stop_texts=["zz"], logprobs=True,
                grammar='root ::= "<|tool_call>call:" [a-z_]{1,20} "{}<tool_call|>"', keep_prefix=20,
                sampling=Sampling(repetition_penalty=1.2, suppress=[9], logit_bias={11: 1.0}),
            )  # fmt: skip
            assert generate(runner, request)[0] == generate(engine.runner, request)[0]
        for tape in ([], [7], [7] * 50):
            request = Request(prompts[0], 30, draft_length=7, draft_policy="auto", fresh=True, draft_tape=tape)
            assert generate(runner, request)[0] == generate(engine.runner, request)[0]
        with pytest.raises(EdgeMtpError, match="prompt is empty"):
            generate(runner, Request([], 4))
    assert process.wait(10) == 0  # a finding ends the process with another


# --- embedding tables ------------------------------------------------------------------------------------------------

ROWS, WIDTH = 37, 512


def embedder(encoding: Encoding, *, factor: float | None, seed: int) -> bytes:
    """An embedder's graph as the exporter writes it: one token to one row of a random table, times `factor`."""
    random = np.random.default_rng(seed)
    weights = (random.standard_normal((ROWS, WIDTH)) * 10.0 ** random.uniform(-3, 2, (ROWS, 1))).astype(np.float32)
    weights[5] = 0
    weights[6, : WIDTH // 2] *= np.float32(1e-6)  # block scales that are subnormal halves
    encoded = encodings.encode(weights, encoding)
    kinds, builtin = schema.TensorType, schema.BuiltinOperator
    model = schema.ModelT(version=3, description="embedder", operatorCodes=[], buffers=[schema.BufferT()])
    graph = schema.SubGraphT(tensors=[], operators=[], inputs=[0])
    model.subgraphs = [graph]

    def constant(data: NDArray[Any]) -> int:
        model.buffers.append(schema.BufferT(np.ascontiguousarray(data).reshape(-1).view(np.uint8)))
        return len(model.buffers) - 1

    def tensor(shape: tuple[int, ...], kind: int, buffer: int = 0, quantization: Any = None) -> int:
        graph.tensors.append(
            schema.TensorT(np.array(shape, np.int32), kind, buffer, f"t{len(graph.tensors)}", quantization)
        )
        return len(graph.tensors) - 1

    def operator(code: int, inputs: list[int], shape: tuple[int, ...], kind: int, options: str) -> int:
        model.operatorCodes.append(schema.OperatorCodeT(min(code, 127), None, 1, code))
        output = tensor(shape, kind)
        graph.operators.append(
            schema.OperatorT(
                len(model.operatorCodes) - 1,
                inputs,
                [output],
                getattr(schema.BuiltinOptions, options, 0),
                getattr(schema, f"{options}T")() if options else None,
            )
        )
        return output

    token = tensor((1, 1), kinds.INT32)
    flat = tensor((1,), kinds.INT32, constant(np.array([1], np.int32)))
    current = operator(builtin.RESHAPE, [token, flat], (1,), kinds.INT32, "ReshapeOptions")
    scales = None
    if encoding.block:
        graph.tensors.append(encodings.scales_tensor(encoding, b"w", weights.shape, constant(encoded.scales)))
        scales = len(graph.tensors) - 1
    quantization = encodings.quantization(encoding, encoded.scales, scales)
    table = tensor(weights.shape, encodings.tensor_type(encoding), constant(encoded.data), quantization)
    looked_up = kinds.FLOAT16 if encoding.is_half else kinds.FLOAT32
    current = operator(builtin.EMBEDDING_LOOKUP, [current, table], (1, WIDTH), looked_up, "")
    if encoding.is_half:
        current = operator(builtin.DEQUANTIZE, [current], (1, WIDTH), kinds.FLOAT32, "DequantizeOptions")
    if factor is not None:
        scalar = tensor((), kinds.FLOAT32, constant(np.array([factor], np.float32)))
        current = operator(builtin.MUL, [current, scalar], (1, WIDTH), kinds.FLOAT32, "MulOptions")
    shape = tensor((3,), kinds.INT32, constant(np.array([1, 1, WIDTH], np.int32)))
    graph.outputs = [operator(builtin.RESHAPE, [current, shape], (1, 1, WIDTH), kinds.FLOAT32, "ReshapeOptions")]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def embedding_rows() -> Path:
    """The reader of embedding tables alone, built with sanitizers."""
    return part("embedding_rows")


@pytest.mark.parametrize("factor", [None, 39.191835, 16.0])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=str)
def test_rows_of_a_table_are_what_the_graph_answers_bit_for_bit(
    encoding: Encoding, factor: float | None, embedding_rows: Path, tmp_path: Path
) -> None:
    model = embedder(encoding, factor=factor, seed=3)
    file = tmp_path / "embedder.tflite"
    file.write_bytes(model)
    tokens = [0, ROWS - 1, 5, 6, *np.random.default_rng(4).integers(0, ROWS, 12).tolist()]
    ran = subprocess.run(
        [embedding_rows, file, "400", *map(str, tokens)], capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    read = np.frombuffer(ran.stdout, np.uint32).reshape(len(tokens), WIDTH)
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for token, row in zip(tokens, read, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array([[token]], np.int32))
        interpreter.invoke()
        answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_array_equal(answer.reshape(-1).view(np.uint32), row)
    assert len(np.unique(read[1])) > 2


def test_a_token_beyond_the_table_is_refused(embedding_rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "embedder.tflite"
    file.write_bytes(embedder(ENCODINGS["int8"], factor=None, seed=1))
    for token in (ROWS, -1):
        ran = subprocess.run([embedding_rows, file, "0", str(token)], capture_output=True, timeout=60, check=False)
        assert f"token {token} is outside the embedding table of {ROWS} rows".encode() in ran.stderr
