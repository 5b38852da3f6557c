"""The exported graphs against transformers' eager computation on random weights, float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
from tiny_checkpoints import VOCAB, WINDOW

from edge_mtp.bundle import Bundle

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from edge_mtp.export.checkpoint import load_drafter, load_target, open_pair  # noqa: E402

pytestmark = pytest.mark.slow

CONTEXT = 160
PREFILL = 16
LENGTH = 70  # tokens of the test sequence: several sliding windows
HIDDEN = -1e4
TOLERANCE = 1e-4  # of the largest magnitude in the reference


class Graphs:
    """The TFLite sections of a bundle, their KV cache, and the calls a runtime makes of them."""

    def __init__(self, path: Path) -> None:
        bundle = Bundle(path)
        self.models = {
            section.model_type: Interpreter(model_content=bytes(section.data), num_threads=1)
            for section in bundle.sections
            if section.type == "TFLiteModel"
        }
        assert bundle.manifest is not None
        self.manifest = bundle.manifest
        decode = self.models["prefill_decode"].get_signature_runner("decode")
        self.cache = {
            name: np.zeros(detail["shape"], np.float32)
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
        count = len(tokens)
        mask = np.full((1, 1, count, CONTEXT), HIDDEN, np.float32)
        for row in range(count):
            mask[0, 0, row, : position + row + 1] = 0
        out = self.call(
            "prefill_decode",
            signature,
            embeddings=self.embed("embedder", tokens),
            per_layer_embeddings=self.embed("per_layer_embedder", tokens),
            input_pos=np.arange(position, position + count, dtype=np.int32),
            mask=mask,
            **self.cache,
            **extra,
        )
        for name in self.cache:
            self.cache[name] = out.pop(name)
        return out

    def verify(self, tokens: Any, position: int, flags: int = 0) -> dict[str, np.ndarray]:
        width = len(tokens)
        control, mask = no_request(), np.full((1, width, (VOCAB + 31) // 32), -1, np.int32)
        control[0, 0], control[0, 4] = flags, position + 1
        return self.rows(
            f"edge_verify_{width}",
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

    def draft(self, length: int, token: int, hidden: np.ndarray, position: int) -> dict[str, np.ndarray]:
        return self.call(
            "prefill_decode",
            f"edge_draft_{length}",
            token=np.array([token], np.int32),
            activations=hidden,
            control=no_request(),
            scalars=np.zeros((1, 4), np.float32),
            **self.drafter_inputs(position),
        )


def no_request() -> np.ndarray:
    return np.zeros((1, 8), np.int32)


@dataclass
class Reference:
    """transformers' eager results for one sequence of `LENGTH` tokens.

    `logits` [LENGTH,V] and `hidden` [LENGTH,H] by position; `cache` the KV pairs of each layer type by position.
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
        target, drafter = load_target(pair.target), load_drafter(pair.drafter)
        tokens = torch.randint(VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            out = target(tokens, output_hidden_states=True, return_shared_kv_states=True, use_cache=False)
        return cls(
            target,
            drafter,
            tokens[0].tolist(),
            out.logits[0].numpy(),
            out.hidden_states[-1][0].numpy(),
            dict(out.shared_kv_states),
        )

    def drafter_step(self, token: int, hidden: Any, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits [V] and next hidden [1,1,H] of one drafter step, as transformers' candidate generator calls it."""
        embedding = self.target.get_input_embeddings()(torch.tensor([[token]]))
        with torch.no_grad():
            out = self.drafter(
                inputs_embeds=torch.cat([embedding, torch.as_tensor(hidden)], dim=-1),
                position_ids=torch.tensor([[position]]),
                attention_mask=torch.ones(1, position, dtype=torch.long),
                shared_kv_states={
                    kind: (k[:, :, :position], v[:, :, :position]) for kind, (k, v) in self.cache.items()
                },
            )
        return out.logits[0, 0].numpy(), out.last_hidden_state.numpy()

    def draft(self, length: int, position: int) -> list[int]:
        token, hidden, tokens = self.tokens[position], self.hidden[None, None, position - 1], []
        for _ in range(length):
            logits, hidden = self.drafter_step(token, hidden, position)
            token = int(logits.argmax())
            tokens.append(token)
        return tokens


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(*tiny_checkpoints.random_pair())


@pytest.fixture
def graphs() -> Graphs:
    return Graphs(tiny_checkpoints.random_bundle("fp32"))


@pytest.fixture(scope="module")
def filled() -> Graphs:
    """The whole sequence in the cache."""
    graphs = Graphs(tiny_checkpoints.random_bundle("fp32"))
    fill(graphs, Reference.of(*tiny_checkpoints.random_pair()).tokens)
    return graphs


def fill(graphs: Graphs, tokens: list[int]) -> None:
    for start in range(0, len(tokens), PREFILL):
        chunk = tokens[start : start + PREFILL]
        graphs.rows(f"prefill_{PREFILL}", chunk + [0] * (PREFILL - len(chunk)), start)


def assert_close(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape
    error, scale = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    assert error <= TOLERANCE * scale, f"{what}: {error:.2e} at scale {scale:.2f}"


def test_the_sequence_passes_the_sliding_window() -> None:
    assert LENGTH > 2 * WINDOW + 8


@pytest.mark.parametrize("decode", ["decode", "edge_decode"])
def test_prefill_then_decode_equals_transformers(graphs: Graphs, reference: Reference, decode: str) -> None:
    prompt = 2 * PREFILL
    fill(graphs, reference.tokens[:prompt])
    for position in range(prompt, LENGTH):
        out = graphs.rows(decode, [reference.tokens[position]], position)
        assert_close(out["logits"][0, 0], reference.logits[position], f"logits at {position}")
        assert_close(out["activations"][0, 0], reference.hidden[position], f"activations at {position}")


@pytest.mark.parametrize("width", range(2, 9))
def test_verify_of_every_width_equals_transformers(graphs: Graphs, reference: Reference, width: int) -> None:
    fill(graphs, reference.tokens[:PREFILL])
    for position in range(PREFILL, LENGTH - width, width):
        tokens = reference.tokens[position : position + width]
        out = graphs.verify(tokens, position)
        rows = slice(position, position + width)
        assert_close(out["logits"][0], reference.logits[rows], f"logits from {position}")
        assert_close(out["activations"][0], reference.hidden[rows], f"activations from {position}")
        assert out["n_accepted"].tolist() == [0]
        assert out["tokens"][0].tolist() == [int(reference.logits[position].argmax())] + [-1] * (width - 1)


def test_stock_verify_equals_transformers(graphs: Graphs, reference: Reference) -> None:
    fill(graphs, reference.tokens[: 3 * PREFILL])
    position = 3 * PREFILL
    out = graphs.rows("verify", reference.tokens[position : position + 4], position)
    assert_close(out["logits"][0], reference.logits[position : position + 4], "logits")
    assert_close(out["activations"][0], reference.hidden[position : position + 4], "activations")


@pytest.mark.parametrize("accepted", [0, 1, 3])
def test_verify_accepts_what_the_target_would_say(graphs: Graphs, reference: Reference, accepted: int) -> None:
    position, width = 3 * PREFILL, 5
    fill(graphs, reference.tokens[:position])
    tokens = [reference.tokens[position]]
    probe = Graphs(tiny_checkpoints.random_bundle("fp32"))
    probe.cache = dict(graphs.cache)
    for step in range(width):
        logits = probe.rows("decode", tokens[-1:], position + step)["logits"]
        tokens.append(int(logits.argmax()))
    drafted = tokens[:width]
    if accepted + 1 < width:
        drafted[accepted + 1] = (tokens[accepted + 1] + 1) % VOCAB
    out = graphs.verify(drafted, position)
    assert out["n_accepted"].tolist() == [accepted]
    assert out["tokens"][0].tolist() == tokens[1 : accepted + 2] + [-1] * (width - accepted - 1)


def test_verify_refuses_what_only_the_kernel_serves(graphs: Graphs, reference: Reference) -> None:
    fill(graphs, reference.tokens[:PREFILL])
    assert graphs.verify(reference.tokens[PREFILL : PREFILL + 3], PREFILL, flags=1)["n_accepted"] == [-3]


@pytest.mark.parametrize("position", [5, WINDOW, WINDOW + 1, WINDOW + 2, LENGTH - 1])
def test_drafter_step_equals_transformers(filled: Graphs, reference: Reference, position: int) -> None:
    token, hidden = reference.tokens[position], reference.hidden[None, None, position - 1]
    for step in range(3):
        out = filled.drafter_step(token, hidden, position)
        logits, following = reference.drafter_step(token, hidden, position)
        candidates = logits > logits.min()
        ours = out["logits"][0, 0] > HIDDEN
        # transformers gives all other tokens one value below every candidate's.
        assert np.array_equal(ours, candidates), f"centroids at step {step}"
        assert_close(out["logits"][0, 0][ours], logits[candidates], f"logits at step {step}")
        assert_close(out["projected_activations"], following, f"hidden state at step {step}")
        token, hidden = int(logits.argmax()), following


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("position", [5, WINDOW + 1, LENGTH - 1])
def test_folded_drafter_equals_single_steps(filled: Graphs, reference: Reference, length: int, position: int) -> None:
    token, hidden = reference.tokens[position], reference.hidden[None, None, position - 1]
    out = filled.draft(length, token, hidden, position)
    assert out["draft"].shape == out["confidence"].shape == (1, length)
    assert out["draft"][0].tolist() == reference.draft(length, position)
    for step in range(length):
        single = filled.drafter_step(token, hidden, position)
        logits = single["logits"][0, 0]
        token, hidden = int(logits.argmax()), single["projected_activations"]
        assert out["draft"][0, step] == token
        candidates = np.exp(logits[logits > HIDDEN] - logits.max())
        assert out["confidence"][0, step] == pytest.approx(1 / candidates.sum(), rel=1e-4)


def test_folded_drafter_without_centroids(tmp_path: Path) -> None:
    """Dense logits, as in the larger models' drafters; KV at random, for only the drafter is converted."""
    from edge_mtp.export import graphs as modules
    from edge_mtp.export.convert import Signature, convert

    pair = open_pair(*tiny_checkpoints.write_pair(tmp_path, drafter={"use_ordered_embeddings": False}, seed=3))
    target, drafter = load_target(pair.target), load_drafter(pair.drafter)
    with modules.patched():
        converted = modules.prepare(load_drafter(pair.drafter))
        step = modules.Drafter(converted, pair.target.config, pair.kv_layers, CONTEXT)
        folded = modules.FoldedDrafter(step, target.lm_head.weight, 3)
        convert([Signature("folded", folded, folded.sample())], tmp_path / "folded.tflite", lambda stage: None)

    random, position = np.random.default_rng(4), WINDOW + 20
    inputs: dict[str, Any] = {
        name: random.standard_normal(value.shape).astype(np.float32)
        for name, value in folded.sample().items()
        if name == "activations" or name.startswith("kv_cache_")
    }
    mask = np.full((1, 1, 1, CONTEXT), HIDDEN, np.float32)
    mask[..., :position] = 0
    out = Interpreter(str(tmp_path / "folded.tflite")).get_signature_runner("folded")(
        token=np.array([7], np.int32),
        input_pos=np.array([position - 1], np.int32),
        mask=mask,
        control=no_request(),
        scalars=np.zeros((1, 4), np.float32),
        **inputs,
    )
    cache = {
        kind: (
            torch.from_numpy(inputs[f"kv_cache_k_{layer}"]),
            torch.from_numpy(inputs[f"kv_cache_v_{layer}"]).transpose(2, 3),
        )
        for kind, layer in pair.kv_layers.items()
    }
    reference = Reference(target, drafter, [], np.empty(0), np.empty(0), cache)
    token, hidden = 7, inputs["activations"]
    for j in range(3):
        logits, hidden = reference.drafter_step(token, hidden, position)
        token = int(logits.argmax())
        assert out["draft"][0, j] == token
        assert out["confidence"][0, j] == pytest.approx(1 / np.exp(logits - logits.max()).sum(), rel=1e-3)


def test_int8_is_near_transformers(reference: Reference) -> None:
    graphs, position = Graphs(tiny_checkpoints.random_bundle("int8")), 3 * PREFILL
    fill(graphs, reference.tokens[:position])
    logits = graphs.verify(reference.tokens[position : position + 8], position)["logits"][0]
    for row in range(8):
        assert np.corrcoef(logits[row], reference.logits[position + row])[0, 1] > 0.98


def test_int8_verify_agrees_with_int8_decode(reference: Reference) -> None:
    tokens = reference.tokens
    one, many = (Graphs(tiny_checkpoints.random_bundle("int8")) for _ in range(2))
    fill(one, tokens[:PREFILL])
    fill(many, tokens[:PREFILL])
    for position in range(PREFILL, LENGTH - 5, 5):
        rows = many.verify(tokens[position : position + 5], position)["logits"][0]
        for row in range(5):
            single = one.rows("decode", tokens[position + row : position + row + 1], position + row)
            assert rows[row].argmax() == single["logits"][0, 0].argmax()
