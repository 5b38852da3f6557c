"""Each family's exported graphs against transformers' eager computation on random weights, float32 unless named."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tiny_checkpoints
from families import CONTEXT, FAMILIES, PREFILL
from tiny_checkpoints import VOCAB, WINDOW

import edge_mtp
from edge_mtp.device import Request
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import GRAPHS_SECTIONS, PREFIXES, Bundle

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from edge_mtp.export import flatbuffer  # noqa: E402
from edge_mtp.export.attention import MANY_ROWS, WINDOW_STEP, window_length  # noqa: E402
from edge_mtp.export.calibration import cache_scales  # noqa: E402
from edge_mtp.export.checkpoint import load_drafter, load_target, open_pair  # noqa: E402
from edge_mtp.export.decoder import Decoder  # noqa: E402
from edge_mtp.export.layers import SPLIT, WHOLE, Begin  # noqa: E402
from edge_mtp.export.pipeline import export_bundle  # noqa: E402

pytestmark = pytest.mark.slow

LENGTH = 120  # tokens of the test sequence: several sliding windows, of which the last are cut out elsewhere
HIDDEN = -1e4
OWN = tuple(PREFIXES.values())  # how the names of our own signatures begin
TOLERANCE = 1e-4  # of the largest magnitude in the reference


class Graphs:
    """The TFLite sections of a bundle, their KV cache, and the calls a runtime makes of them."""

    def __init__(self, path: Path) -> None:
        bundle = Bundle(path)
        self.models = {
            section.model_type: Interpreter(model_content=bytes(bundle.content(section)), num_threads=1)
            for section in bundle.sections
            if section.type == "TFLiteModel"
        }
        assert bundle.manifest is not None
        self.manifest = bundle.manifest
        decode = self.models["prefill_decode"].get_signature_runner("decode")
        self.cache = {
            name: np.zeros(detail["shape"], detail["dtype"])
            for name, detail in decode.get_input_details().items()
            if name.startswith("kv_cache_")
        }

    def call(self, model: str, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        return dict(self.models[model].get_signature_runner(signature)(**inputs))

    def embed(self, model: str, tokens: Any) -> np.ndarray:
        rows = [self.call(model, model, token_ids=np.array([[token]], np.int32))["embeddings"] for token in tokens]
        return np.concatenate(rows, axis=1)

    def rows(self, signature: str, tokens: Any, position: int, **extra: Any) -> dict[str, np.ndarray]:
        """Put `tokens` at `position` and later into the cache and return the other outputs."""
        count, section, split = len(tokens), section_of(signature), signature.startswith(PREFIXES["npu"])
        mask = np.full((1, 1, count, CONTEXT), HIDDEN, np.float32)
        for row in range(count):
            mask[0, 0, row, : position if split else position + row + 1] = 0
        if "per_layer_embedder" in self.models:
            extra["per_layer_embeddings"] = self.embed("per_layer_embedder", tokens)
        # A prefill of graphs for an NPU takes no cache that none of its rows reads; graphs for the CPU take no mask.
        taken = self.models[section].get_signature_runner(signature).get_input_details()
        out = self.call(
            section,
            signature,
            embeddings=self.embed("embedder", tokens),
            input_pos=np.arange(position, position + count, dtype=np.int32),
            **{name: given for name, given in {"mask": mask, **self.cache}.items() if name in taken},
            **extra,
        )
        for name in self.cache:
            if split:
                rows, axis = out.pop(name.replace("cache", "new")), 2 if "_k_" in name else 3
                whole = [self.cache[name].take(range(position), axis), rows]
                rest = self.cache[name].take(range(position + count, CONTEXT), axis)
                self.cache[name] = np.concatenate([*whole, rest], axis)
            else:
                self.cache[name] = out.pop(name)
        return out

    def verify(self, tokens: Any, position: int, flags: int = 0, own: str = "edge_") -> dict[str, np.ndarray]:
        width = len(tokens)
        control, mask = no_request(), np.full((1, width, (VOCAB + 31) // 32), -1, np.int32)
        control[0, 0], control[0, 4] = flags, position + 1
        return self.rows(
            f"{own}verify_{width}",
            tokens,
            position,
            draft=np.array([tokens[1:]], np.int32),
            control=control,
            scalars=np.zeros((1, 4), np.float32),
            token_mask=mask,
        )

    def drafter_inputs(self, position: int) -> dict[str, Any]:
        mask = np.full((1, 1, 1, CONTEXT), HIDDEN, np.float32)
        mask[..., :position] = 0
        cache = {name: self.cache[name] for name in self.manifest["drafter_kv"]}
        return {"input_pos": np.array([position - 1], np.int32), "mask": mask, **cache}

    def drafter_step(self, token: int, hidden: np.ndarray, position: int) -> dict[str, np.ndarray]:
        activations = np.concatenate([self.embed("embedder", [token]), hidden], axis=2)
        return self.call("mtp_drafter", "mtp_drafter", activations=activations, **self.drafter_inputs(position))

    def draft(
        self, length: int, token: int, hidden: np.ndarray, position: int, own: str = "edge_"
    ) -> dict[str, np.ndarray]:
        inputs = self.drafter_inputs(position)
        if own == PREFIXES["cpu"]:
            del inputs["mask"]
        return self.call(
            section_of(own),
            f"{own}draft_{length}",
            token=np.array([token], np.int32),
            activations=hidden,
            control=no_request(),
            scalars=np.zeros((1, 4), np.float32),
            **inputs,
        )


def section_of(signature: str) -> str:
    """The section that has a signature, by the beginning of its name."""
    own = (GRAPHS_SECTIONS[name] for name, prefix in PREFIXES.items() if signature.startswith(prefix))
    return next(own, "prefill_decode")


def no_request() -> np.ndarray:
    return np.zeros((1, 8), np.int32)


@dataclass
class Reference:
    """transformers' eager results in float64 for one sequence, of `LENGTH` tokens unless `on` gave another.

    `logits` [T,V] and `hidden` [T,H] by position; `cache` the KV pairs of each layer type by position.
    """

    target: Any
    drafter: Any
    tokens: list[int]
    logits: np.ndarray
    hidden: np.ndarray
    cache: dict[str, Any]

    @classmethod
    def of(cls, target_directory: Path, drafter_directory: Path) -> Reference:
        pair = open_pair(target_directory, drafter_directory)
        # In float32 transformers itself is off by as much as 8e-5 of the largest logit.
        target, drafter = load_target(pair.target).double(), load_drafter(pair.drafter).double()
        if getattr(pair.target.config, "enable_moe_block", False):
            target.set_experts_implementation("eager")  # the other way takes no float64
        # transformers 5.23 hands a drafter the KV of such layers only if the target's own layers share KV, too.
        for layer in pair.kv_layers.values():
            target.model.layers[layer].self_attn.store_full_length_kv = True
        empty = cls(target, drafter, [], np.empty(0), np.empty(0), {})
        return empty.on(torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist())

    def on(self, tokens: list[int]) -> Reference:
        """The same models' results for another sequence."""
        with torch.no_grad():
            out = self.target(
                torch.tensor([tokens]), output_hidden_states=True, return_shared_kv_states=True, use_cache=False
            )
        logits, hidden = out.logits[0].float().numpy(), out.hidden_states[-1][0].float().numpy()
        return Reference(self.target, self.drafter, tokens, logits, hidden, dict(out.shared_kv_states))

    def drafter_step(self, token: int, hidden: Any, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits [V] and next hidden [1,1,H] of one drafter step, as transformers' candidate generator calls it."""
        embedding = self.target.get_input_embeddings()(torch.tensor([[token]]))
        with torch.no_grad():
            out = self.drafter(
                inputs_embeds=torch.cat([embedding, torch.as_tensor(hidden).double()], dim=-1),
                position_ids=torch.tensor([[position]]),
                attention_mask=torch.ones(1, position, dtype=torch.long),
                shared_kv_states={
                    kind: (k[:, :, :position], v[:, :, :position]) for kind, (k, v) in self.cache.items()
                },
            )
        return out.logits[0, 0].float().numpy(), out.last_hidden_state.float().numpy()

    def draft(self, length: int, position: int) -> list[int]:
        token, hidden, tokens = self.tokens[position], self.hidden[None, None, position - 1], []
        for _ in range(length):
            logits, hidden = self.drafter_step(token, hidden, position)
            token = int(logits.argmax())
            tokens.append(token)
        return tokens


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(family: str) -> Reference:
    return Reference.of(*families.pair(family))


@pytest.fixture
def own(request: pytest.FixtureRequest, family: str) -> str:
    """How the names of the signatures begin."""
    if request.param in ("gpu_", "npu_") and family == families.EXPERTS:
        pytest.skip("a mixture of experts has no graphs for GPU and NPU")
    return str(request.param)


@pytest.fixture
def graphs(family: str) -> Graphs:
    return Graphs(families.bundle(family))


@pytest.fixture(scope="module")
def filled(family: str, reference: Reference) -> Graphs:
    """The whole sequence in the cache."""
    graphs = Graphs(families.bundle(family))
    fill(graphs, reference.tokens)
    return graphs


def fill(graphs: Graphs, tokens: list[int], own: str = "") -> None:
    for start in range(0, len(tokens), PREFILL):
        chunk = tokens[start : start + PREFILL]
        graphs.rows(f"{own}prefill_{PREFILL}", chunk + [0] * (PREFILL - len(chunk)), start)


def assert_close(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape
    error, scale = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    assert error <= TOLERANCE * scale, f"{what}: {error:.2e} at scale {scale:.2f}"


def test_the_sequence_passes_the_sliding_window() -> None:
    assert LENGTH > 2 * WINDOW + 8
    assert LENGTH > WINDOW + WINDOW_STEP + 8
    assert window_length(WINDOW - 1, MANY_ROWS, CONTEXT) < CONTEXT


@pytest.mark.parametrize("own", ["", *OWN], indirect=True)
def test_prefill_then_decode_equals_transformers(graphs: Graphs, reference: Reference, own: str) -> None:
    prompt, decode = 2 * PREFILL, f"{own}decode"
    fill(graphs, reference.tokens[:prompt], own)
    for position in range(prompt, LENGTH):
        out = graphs.rows(decode, [reference.tokens[position]], position)
        assert_close(out["logits"][0, 0], reference.logits[position], f"logits at {position}")
        assert_close(out["activations"][0, 0], reference.hidden[position], f"activations at {position}")


def test_rows_are_rounded_alike(family: str, reference: Reference) -> None:
    """Else drafts could change a text, where two logits or a random number lie close."""
    check_rows_are_rounded_alike(families.bundle(family), reference.tokens)


@pytest.mark.parametrize("own", OWN, indirect=True)
def test_verify_of_every_width_equals_transformers(graphs: Graphs, reference: Reference, own: str) -> None:
    fill(graphs, reference.tokens[:PREFILL], own)
    for width in graphs.manifest["verify_widths"]:
        for position in range(PREFILL, LENGTH - width, width):
            tokens = reference.tokens[position : position + width]
            out = graphs.verify(tokens, position, own=own)
            rows = slice(position, position + width)
            assert_close(out["logits"][0], reference.logits[rows], f"logits of {width} from {position}")
            assert_close(out["activations"][0], reference.hidden[rows], f"activations of {width} from {position}")
            assert out["n_accepted"].tolist() == [0]
            assert out["tokens"][0].tolist() == [int(reference.logits[position].argmax())] + [-1] * (width - 1)
            if "next_hidden" in out:
                assert_close(out["next_hidden"][0, 0], reference.hidden[position], f"next hidden state of {width}")


@pytest.mark.parametrize("accelerator", ["gpu", "npu"])
def test_only_the_cpu_has_graphs_for_experts(accelerator: str, tmp_path: Path) -> None:
    pair, output = families.pair(families.EXPERTS), tmp_path / "refused.litertlm"
    with pytest.raises(EdgeMtpError, match=f"the {accelerator.upper()} cannot run a mixture of experts: take .* cpu"):
        export_bundle(*pair, output, accelerators=("cpu", accelerator))
    assert not output.exists()


@pytest.mark.parametrize("position", [0, 3, WINDOW, LENGTH])
def test_split_masks_show_the_keys_that_whole_ones_do(position: int) -> None:
    """In graphs for an NPU, also where rows of a call fall out of one another's windows."""
    rows, decoder = WINDOW + 9, Decoder.of(open_pair(*families.pair("E2B")).target.config)
    at = position + torch.arange(rows, dtype=torch.int32)
    cached = torch.where(torch.arange(CONTEXT) < position, 0.0, HIDDEN).expand(1, 1, rows, CONTEXT)
    causal = torch.where(torch.arange(CONTEXT).view(1, -1) <= at.view(-1, 1), 0.0, HIDDEN).view(1, 1, rows, CONTEXT)
    extra = {
        "embeddings": torch.zeros(1, rows, decoder.hidden),
        "per_layer_embeddings": torch.zeros(1, rows, len(decoder.layers), decoder.per_layer),
    }
    split, whole = Begin(decoder, rows, CONTEXT, SPLIT), Begin(decoder, rows, CONTEXT, WHOLE)
    weights = whole.sample()["weights"]
    ours = split(input_pos=at, mask=cached, weights=weights, **extra)
    theirs = whole(input_pos=at, mask=causal, weights=weights, **extra)
    for attention in decoder.attentions:
        seen, wanted = (masks[f"mask_{attention}"][0, 0] == 0 for masks in (ours, theirs))
        assert torch.equal(seen[:, :position], wanted[:, :position]), attention
        assert not seen[:, position:CONTEXT].any(), attention
        assert torch.equal(seen[:, CONTEXT:], wanted[:, position : position + rows]), attention


def test_stock_verify_equals_transformers(graphs: Graphs, reference: Reference) -> None:
    fill(graphs, reference.tokens[: 3 * PREFILL])
    position = 3 * PREFILL
    out = graphs.rows("verify", reference.tokens[position : position + 4], position)
    assert_close(out["logits"][0], reference.logits[position : position + 4], "logits")
    assert_close(out["activations"][0], reference.hidden[position : position + 4], "activations")


@pytest.mark.parametrize("own", OWN, indirect=True)
@pytest.mark.parametrize("accepted", [0, 1, 3])
def test_verify_accepts_what_the_target_would_say(
    family: str, graphs: Graphs, reference: Reference, accepted: int, own: str
) -> None:
    position, width = 3 * PREFILL, 5
    fill(graphs, reference.tokens[:position])
    tokens = [reference.tokens[position]]
    probe = Graphs(families.bundle(family))
    probe.cache = dict(graphs.cache)
    for step in range(width):
        logits = probe.rows("decode", tokens[-1:], position + step)["logits"]
        tokens.append(int(logits.argmax()))
    drafted = tokens[:width]
    if accepted + 1 < width:
        drafted[accepted + 1] = (tokens[accepted + 1] + 1) % VOCAB
    out = graphs.verify(drafted, position, own=own)
    assert out["n_accepted"].tolist() == [accepted]
    assert out["tokens"][0].tolist() == tokens[1 : accepted + 2] + [-1] * (width - accepted - 1)
    if "next_hidden" in out:
        np.testing.assert_array_equal(out["next_hidden"][0, 0], out["activations"][0, accepted])


@pytest.mark.parametrize("own", OWN, indirect=True)
def test_verify_refuses_what_only_the_kernel_serves(graphs: Graphs, reference: Reference, own: str) -> None:
    fill(graphs, reference.tokens[:PREFILL])
    out = graphs.verify(reference.tokens[PREFILL : PREFILL + 2], PREFILL, flags=1, own=own)
    assert out["n_accepted"] == [-3]
    assert not out.get("next_hidden", np.zeros(1)).any()


def check_drafter_step(filled: Graphs, reference: Reference, position: int) -> None:
    token, hidden = reference.tokens[position], reference.hidden[None, None, position - 1]
    for step in range(3):
        out = filled.drafter_step(token, hidden, position)
        logits, following = reference.drafter_step(token, hidden, position)
        # transformers gives all tokens that are no candidates one value below every candidate's.
        ordered = reference.drafter.config.use_ordered_embeddings
        candidates = logits > logits.min() if ordered else np.ones(VOCAB, bool)
        ours = out["logits"][0, 0] > HIDDEN
        assert np.array_equal(ours, candidates), f"centroids at step {step}"
        assert_close(out["logits"][0, 0][ours], logits[candidates], f"logits at step {step}")
        assert_close(out["projected_activations"], following, f"hidden state at step {step}")
        token, hidden = int(logits.argmax()), following


@pytest.mark.parametrize("position", [5, WINDOW, WINDOW + 1, WINDOW + 2, LENGTH - 1])
def test_drafter_step_equals_transformers(filled: Graphs, reference: Reference, position: int) -> None:
    check_drafter_step(filled, reference, position)


@pytest.mark.parametrize("own", OWN, indirect=True)
@pytest.mark.parametrize("position", [5, WINDOW + 1, LENGTH - 1])
def test_folded_drafter_equals_single_steps(filled: Graphs, reference: Reference, position: int, own: str) -> None:
    for length in filled.manifest["draft_lengths"]:
        token, hidden = reference.tokens[position], reference.hidden[None, None, position - 1]
        out = filled.draft(length, token, hidden, position, own)
        assert out["draft"].shape == out["confidence"].shape == (1, length)
        assert out["draft"][0].tolist() == reference.draft(length, position)
        for step in range(length):
            single = filled.drafter_step(token, hidden, position)
            logits = single["logits"][0, 0]
            token, hidden = int(logits.argmax()), single["projected_activations"]
            assert out["draft"][0, step] == token
            candidates = np.exp(logits[logits > HIDDEN] - logits.max())
            assert out["confidence"][0, step] == pytest.approx(1 / candidates.sum(), rel=1e-4)


def test_scaled_rotation_uncapped_logits_and_two_full_drafter_layers() -> None:
    reference = Reference.of(*families.pair("unusual"))
    assert reference.target.config.final_logit_softcapping is None
    assert reference.target.model.rotary_emb.full_attention_attention_scaling > 1
    graphs = Graphs(families.bundle("unusual", lean=True))
    fill(graphs, reference.tokens)
    for position in (5, LENGTH - 1):
        check_drafter_step(graphs, reference, position)
    out = graphs.rows("decode", reference.tokens[-1:], LENGTH - 1)
    assert_close(out["logits"][0, 0], reference.logits[-1], "logits")


def test_rotation_that_depends_on_the_length_of_the_text_is_refused() -> None:
    config = copy.deepcopy(open_pair(*families.pair("E2B")).target.config)
    config.rope_parameters["full_attention"] = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    with pytest.raises(EdgeMtpError, match="rope_type='dynamic' in full_attention"):
        Decoder.of(config)


class TestText:
    """Greedy texts of the runner, with and without drafts, against `generate` with and without an assistant."""

    DRAFTS = max(families.WIDTHS) - 1
    TOKENS = 40
    PROMPTS = torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(2)).tolist()

    def test_is_that_of_transformers(self, family: str, reference: Reference) -> None:
        settings = reference.drafter.generation_config
        settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = self.DRAFTS, "constant"
        settings.assistant_confidence_threshold = 0.0
        with edge_mtp.open(families.bundle(family), threads=1) as engine:
            for prompt in self.PROMPTS:
                plain = engine.generate(Request(prompt, self.TOKENS)).wait().tokens
                assert plain == self.generated(reference, prompt)
                assert plain == self.generated(reference, prompt, assistant_model=reference.drafter)
                for length in (1, self.DRAFTS):
                    reply = engine.generate(Request(prompt, self.TOKENS, draft_length=length)).wait()
                    assert reply.tokens == plain

    def test_every_draft_is_that_of_transformers(self, family: str, reference: Reference) -> None:
        """On the text so far: in its own rounds transformers also attends to the KV of a draft just rejected."""
        with edge_mtp.open(families.bundle(family), threads=1) as engine:
            for prompt in self.PROMPTS:
                reply = engine.generate(Request(prompt, self.TOKENS, draft_length=self.DRAFTS)).wait()
                said = reference.on([*prompt, *reply.tokens])
                rounds = [step for step in reply.steps if step.kind == "verify"]
                assert len(rounds) > self.TOKENS // (self.DRAFTS + 1)
                for step in rounds:
                    assert step.draft == said.draft(len(step.draft), step.position - 1), step.position

    def generated(self, reference: Reference, prompt: list[int], **options: Any) -> list[int]:
        reference.target.generation_config.eos_token_id = None
        with torch.no_grad():
            out = reference.target.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=self.TOKENS, **options
            )
        return list(out[0, len(prompt) :].tolist())


class TestInt8Weights:
    def test_logits_are_near_transformers(self) -> None:
        reference = Reference.of(*families.pair("E2B"))
        graphs, position = Graphs(tiny_checkpoints.random_bundle("int8")), 3 * PREFILL
        fill(graphs, reference.tokens[:position])
        logits = graphs.verify(reference.tokens[position : position + 8], position)["logits"][0]
        assert_correlated(logits, reference.logits[position : position + 8])

    def test_rows_are_rounded_alike(self) -> None:
        tokens = Reference.of(*families.pair("E2B")).tokens
        check_rows_are_rounded_alike(tiny_checkpoints.random_bundle("int8"), tokens)


@pytest.fixture(scope="module")
def int8_cache() -> Path:
    return families.bundle("E2B", kv="int8")


@pytest.fixture(scope="module")
def scales() -> dict[str, float]:
    return cache_scales(open_pair(*families.pair("E2B")).target)


class TestInt8Cache:
    """Keys and values in int8, weights in float32."""

    def test_logits_and_drafts_are_near_transformers(self, int8_cache: Path) -> None:
        reference, graphs, position = Reference.of(*families.pair("E2B")), Graphs(int8_cache), 3 * PREFILL
        fill(graphs, reference.tokens[:position])
        logits = graphs.verify(reference.tokens[position : position + 5], position)["logits"][0]
        assert_correlated(logits, reference.logits[position : position + 5])
        token, hidden = reference.tokens[position], reference.hidden[None, None, position - 1]
        theirs = reference.drafter_step(token, hidden, position)[1]
        ours = graphs.drafter_step(token, hidden, position)["projected_activations"]
        assert_correlated(ours[0], theirs[0])

    def test_rows_are_rounded_alike(self, int8_cache: Path) -> None:
        check_rows_are_rounded_alike(int8_cache, Reference.of(*families.pair("E2B")).tokens)

    def test_cache_is_the_nearest_whole_number_of_scales(self, int8_cache: Path, scales: dict[str, float]) -> None:
        """In the first layer, whose keys and values do not depend on what was read from the cache."""
        ours, exact = Graphs(int8_cache), Graphs(families.bundle("E2B"))
        tokens = torch.randint(VOCAB, (PREFILL,), generator=torch.Generator().manual_seed(3)).tolist()
        for graphs in (ours, exact):
            fill(graphs, tokens)
        for kind in "kv":
            name, scale = f"kv_cache_{kind}_0", scales[f"0.{kind}"]
            assert ours.cache[name].dtype == np.int8
            stored, wanted = ours.cache[name].astype(np.float32) * scale, exact.cache[name]
            assert abs(wanted).max() < 127 * scale
            assert abs(stored - wanted).max() <= scale * 0.5001
            assert len(np.unique(ours.cache[name])) > 20

    def test_target_and_drafter_read_a_cache_with_the_same_scale(
        self, int8_cache: Path, scales: dict[str, float]
    ) -> None:
        ports = 0
        for model in tflite_models(int8_cache):
            for signature in model.signatureDefs:
                graph = model.subgraphs[signature.subgraphIndex]
                for port in (*signature.inputs, *signature.outputs):
                    name = port.name.decode()
                    if not name.startswith("kv_cache_"):
                        continue
                    kind, layer = name.removeprefix("kv_cache_").split("_")
                    for tensor in int8_connected(model, graph, port.tensorIndex):
                        assert tensor.type == schema.TensorType.INT8
                        assert tensor.quantization.scale.tolist() == [np.float32(scales[f"{layer}.{kind}"])]
                        assert tensor.quantization.zeroPoint.tolist() == [0]
                    ports += 1
        assert ports > 50

    def test_runner_gives_the_same_text_with_and_without_drafts(self, int8_cache: Path) -> None:
        with edge_mtp.open(int8_cache, threads=1) as engine:
            for prompt in TestText.PROMPTS:
                plain = engine.generate(Request(prompt, 60)).wait().tokens
                assert engine.generate(Request(prompt, 60, draft_length=4)).wait().tokens == plain
                assert engine.generate(Request(prompt, 60, draft_length=1)).wait().tokens == plain


class TestExperts:
    """The kernel of experts in every kind of encoding, as the runner calls it."""

    @pytest.fixture(scope="class", params=["fp32", "fp16", "int8", "int4", "int4-block"])
    def recipe(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_runner_gives_the_same_text_with_and_without_drafts(self, recipe: str) -> None:
        with edge_mtp.open(families.bundle(families.EXPERTS, recipe), threads=2) as engine:
            for prompt in TestText.PROMPTS:
                plain = engine.generate(Request(prompt, 60)).wait().tokens
                assert engine.generate(Request(prompt, 60, draft_length=4)).wait().tokens == plain
                assert engine.generate(Request(prompt, 60, draft_length=1)).wait().tokens == plain

    def test_a_runtime_without_the_kernel_says_the_same(self, recipe: str) -> None:
        """But where two tokens are nearly as likely: it does not round what it multiplies with integers."""
        bundle, prompt = families.bundle(families.EXPERTS, recipe), TestText.PROMPTS[0]
        graphs = Graphs(bundle)
        with edge_mtp.open(bundle, threads=1) as engine:
            text = [*prompt, *engine.generate(Request(prompt, 40)).wait().tokens]
        said = [
            int(graphs.rows("edge_decode", [token], position)["logits"][0, 0].argmax())
            for position, token in enumerate(text[:-1])
        ]
        same = np.equal(said[len(prompt) - 1 :], text[len(prompt) :])
        assert same.mean() >= (1 if recipe.startswith("fp") else 0.9), same


def check_rows_are_rounded_alike(bundle: Path, tokens: list[int]) -> None:
    """Bit by bit: a row's logits, keys and values are the same in a graph of one row and in those of several.

    These are the decompositions; tests/oracle/test_attention.py has the same of the kernel.
    """
    one, many, own = Graphs(bundle), Graphs(bundle), PREFIXES["cpu"]
    alone = [one.rows(f"{own}decode", [token], position)["logits"][0, 0] for position, token in enumerate(tokens)]
    fill(many, tokens[:PREFILL], own)
    position, widths = PREFILL, itertools.cycle(many.manifest["verify_widths"])
    while (width := next(widths)) <= len(tokens) - position:
        together = many.verify(tokens[position : position + width], position)["logits"][0]
        for row in range(width):
            np.testing.assert_array_equal(together[row], alone[position + row], f"row {row} of {width} at {position}")
        position += width
    assert position > WINDOW + WINDOW_STEP
    for name, cache in many.cache.items():
        rows = [np.take(each, range(position), 2 if "_k_" in name else 3) for each in (cache, one.cache[name])]
        np.testing.assert_array_equal(*rows, name)


def assert_correlated(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    for row, expected in zip(ours, theirs, strict=True):
        assert np.corrcoef(row, expected)[0, 1] > 0.98


def tflite_models(path: Path) -> Iterator[Any]:
    bundle = Bundle(path)
    for section in bundle.sections:
        if section.type == "TFLiteModel":
            yield flatbuffer.parse(bytes(bundle.content(section)))


def int8_connected(model: Any, graph: Any, tensor: int) -> list[Any]:
    """The tensors that hold the same int8 numbers as `tensor`: moved about by operators, neither made nor read."""
    attention = schema.BuiltinOperator.STABLEHLO_COMPOSITE
    movers = [o for o in graph.operators if model.operatorCodes[o.opcodeIndex].builtinCode != attention]
    found, size = {tensor}, 0
    while len(found) > size:
        size = len(found)
        for operator in movers:
            tensors = [int(t) for t in (*operator.inputs, *operator.outputs) if t >= 0]
            int8 = [t for t in tensors if graph.tensors[t].type == schema.TensorType.INT8]
            if found.intersection(int8):
                found.update(int8)
    return [graph.tensors[index] for index in found]
