"""Tensors by rows: safetensors in every layout, LoRA merged, random numbers; against torch, PEFT's formula, numpy."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_mtp.errors import EdgeMtpError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from edge_mtp.export import weights  # noqa: E402
from edge_mtp.export.adapter import with_adapter  # noqa: E402
from edge_mtp.export.checkpoint import open_pair, random_pair  # noqa: E402
from edge_mtp.export.shapes import drafters_allowed, model_class, tensor_shapes  # noqa: E402
from edge_mtp.export.weights import RandomWeights, SafetensorsWeights, Weights, random_weights, text_name  # noqa: E402

Tensors = dict[str, Any]
Q_PROJ = "model.layers.1.self_attn.q_proj"
UNIFIED = {
    "model_type": "gemma4_unified_text",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "head_dim": 8,
    "global_head_dim": 16,
}
EXPERTS = UNIFIED | {
    "model_type": "gemma4_text",
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 12,
}


@pytest.fixture(scope="module")
def pair() -> Any:
    return open_pair(*tiny_checkpoints.random_pair())


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """The target's tensors as safetensors itself reads them."""
    return load_file(tiny_checkpoints.random_pair()[0] / "model.safetensors")


def opened(folder: Path, tensors: Tensors, shapes: dict[str, tuple[int, ...]], **files: Tensors) -> SafetensorsWeights:
    """Weights of files that hold `tensors`, or `files` by name."""
    folder.mkdir(exist_ok=True)
    files = files or {"model": tensors}
    for name, held in files.items():
        save_file(held, folder / f"{name}.safetensors")
    return SafetensorsWeights(folder, [folder / f"{name}.safetensors" for name in files], shapes)


def assert_equal(weights: Weights, expected: Tensors) -> None:
    for name in weights.names:
        found, wanted = weights.read(name), expected[name]
        assert found.dtype == (np.float32 if wanted.is_floating_point() else np.int32)
        assert found.flags.c_contiguous
        assert np.array_equal(found, wanted.float().numpy() if wanted.is_floating_point() else wanted.numpy()), name


def test_names_are_those_of_the_state_dict(pair: Any) -> None:
    with drafters_allowed():
        for checkpoint in (pair.target, pair.drafter):
            state = model_class(checkpoint.config)(checkpoint.config).state_dict()
            expected = {name: tuple(value.shape) for name, value in state.items() if name != "lm_head.weight"}
            assert checkpoint.weights.names == expected


def test_every_tensor_is_what_safetensors_reads(pair: Any, tensors: Tensors) -> None:
    assert_equal(pair.target.weights, tensors)
    assert_equal(pair.drafter.weights, load_file(tiny_checkpoints.random_pair()[1] / "model.safetensors"))
    assert pair.target.weights.left_out == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_types(tmp_path: Path, dtype: str) -> None:
    values = torch.randn(7, 5, dtype=torch.float64)
    extremes = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 2.0**-130])
    values = torch.cat([values, extremes[None].double()]).to(getattr(torch, dtype))
    weights = opened(tmp_path, {"model.x.weight": values}, {"model.x.weight": (8, 5)})
    assert_equal(weights, {"model.x.weight": values})
    assert np.array_equal(np.signbit(weights.read("model.x.weight")), torch.signbit(values).numpy())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows(pair: Any, tensors: Tensors, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(pair.target.weights.names)))
    rows = tensors[name].shape[0]
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.one_of(st.none(), st.integers(start, rows)))
    assert np.array_equal(pair.target.weights.read(name, start, stop), tensors[name][start:stop].numpy())


def test_rows_outside(pair: Any) -> None:
    with pytest.raises(IndexError, match="513"):
        pair.target.weights.read("model.embed_tokens.weight", 0, 513)


def test_memory_is_that_of_the_rows(tmp_path: Path) -> None:
    shape = (40_000, 256)
    weights = opened(tmp_path, {"model.x.weight": torch.zeros(shape, dtype=torch.bfloat16)}, {"model.x.weight": shape})
    tracemalloc.start()
    for start in range(0, 40_000, 500):
        weights.read("model.x.weight", start, start + 500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * (500 * 256 * 4)
    assert peak < 40_000 * 256 * 2 / 10


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "model.", "language_model.", ""])
def test_layouts(pair: Any, tensors: Tensors, tmp_path: Path, prefix: str) -> None:
    renamed = {prefix + name.removeprefix("model."): value for name, value in tensors.items()}
    if prefix.startswith("model.l"):
        renamed |= {
            "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight": torch.zeros(2, 2),
            "model.vision_tower.encoder.layers.1.self_attn.q_proj.linear.weight": torch.zeros(2, 2),
            "model.embed_vision.embedding_projection.weight": torch.zeros(2, 2),
            "model.audio_tower.layers.0.norm.weight": torch.zeros(2),
        }
    weights = opened(tmp_path, renamed, pair.target.weights.names)
    assert_equal(weights, tensors)
    assert weights.left_out == (
        ("audio_tower (1 tensor)", "embed_vision (1 tensor)", "vision_tower (2 tensors)")
        if prefix.startswith("model.l")
        else ()
    )


def test_what_shared_layers_do_not_use_is_left_out(pair: Any, tensors: Tensors, tmp_path: Path) -> None:
    surplus = {f"model.layers.{layer}.self_attn.k_proj.weight": torch.zeros(2, 2) for layer in (3, 4, 5)}
    weights = opened(tmp_path, tensors | surplus, pair.target.weights.names)
    assert weights.left_out == ("model.layers.*.self_attn.k_proj.weight (3 tensors)",)


@pytest.mark.parametrize("config", [UNIFIED, EXPERTS], ids=["unified", "experts"])
def test_other_architectures(tmp_path: Path, config: dict[str, Any]) -> None:
    from transformers import AutoConfig

    parsed = AutoConfig.for_model(**config)
    state = model_class(parsed)(parsed).state_dict()
    del state["lm_head.weight"]
    saved = {name.replace("model.", "model.language_model.", 1): value for name, value in state.items()}
    weights = opened(tmp_path, saved, tensor_shapes(parsed))
    assert_equal(weights, state)
    assert ("model.layers.0.experts.gate_up_proj" in weights.names) == ("num_experts" in config)
    assert "model.layers.1.self_attn.v_proj.weight" not in weights.names


def test_shards(pair: Any, tensors: Tensors, tmp_path: Path) -> None:
    names = sorted(tensors)
    shards = {f"shard{i}": {name: tensors[name] for name in names[i::3]} for i in range(3)}
    assert_equal(opened(tmp_path, {}, pair.target.weights.names, **shards), tensors)
    first = names[0]
    shards["shard1"][first] = tensors[first]
    with pytest.raises(EdgeMtpError, match=rf"shard1.*{first}.*shard0"):
        opened(tmp_path, {}, pair.target.weights.names, **shards)


class TestRefusals:
    def refused(self, folder: Path, tensors: Tensors, names: Any) -> str:
        with pytest.raises(EdgeMtpError) as raised:
            opened(folder, tensors, names)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def test_missing(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        held = {name: value for name, value in tensors.items() if name != "model.norm.weight"}
        assert "lacks 1 tensors, first model.norm.weight" in self.refused(tmp_path, held, pair.target.weights.names)

    def test_another_shape(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        held = tensors | {"model.norm.weight": torch.zeros(65)}
        message = self.refused(tmp_path, held, pair.target.weights.names)
        assert "model.norm.weight is 65, config.json says 64" in message

    def test_quantized(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        name = f"{Q_PROJ}.weight"
        held = tensors | {name: tensors[name].to(torch.float8_e4m3fn)}
        assert "stored as F8_E4M3" in self.refused(tmp_path, held, pair.target.weights.names)
        assert "stored as I32" in self.refused(
            tmp_path, tensors | {name: tensors[name].int()}, pair.target.weights.names
        )

    def test_untied_head(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        table = tensors["model.embed_tokens.weight"]
        assert_equal(opened(tmp_path, tensors | {"lm_head.weight": table.clone()}, pair.target.weights.names), tensors)
        message = self.refused(tmp_path, tensors | {"lm_head.weight": table + 0.01}, pair.target.weights.names)
        assert "lm_head.weight differs" in message

    @pytest.mark.parametrize("row", [257, 300, 301, 510])
    def test_a_head_that_differs_in_one_row(self, pair: Any, tensors: Tensors, tmp_path: Path, row: int) -> None:
        head = tensors["model.embed_tokens.weight"].clone()
        head[row, -1] += 0.01
        message = self.refused(tmp_path, tensors | {"lm_head.weight": head}, pair.target.weights.names)
        assert "lm_head.weight differs" in message

    def test_a_head_is_compared_to_its_end_in_pieces(
        self, pair: Any, tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "COMPARED", 64 * 7)  # does not divide the rows
        head = tensors["model.embed_tokens.weight"].clone()
        opened(tmp_path, tensors | {"lm_head.weight": head}, pair.target.weights.names)
        head[-1, 0] += 0.01
        assert "differs" in self.refused(tmp_path, tensors | {"lm_head.weight": head}, pair.target.weights.names)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-1],
            lambda data: data + b"x",
            lambda data: data[:4],
            lambda data: b"\xff" * 8 + data[8:],
            lambda data: data[:8] + b"[" + data[9:],
            lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
            lambda data: data.replace(b'"shape":[64]', b'"shape":[63]', 1),
        ],
    )
    def test_damaged(self, pair: Any, tensors: Tensors, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        opened(tmp_path, tensors, pair.target.weights.names)
        path = tmp_path / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        assert path.read_bytes() != whole
        with pytest.raises(EdgeMtpError, match=r"model\.safetensors.*copy it again"):
            SafetensorsWeights(tmp_path, [path], pair.target.weights.names)

    def test_a_file_that_shrinks_afterwards(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        weights = opened(tmp_path, tensors, pair.target.weights.names)
        path = tmp_path / "model.safetensors"
        with path.open("r+b") as file:
            file.truncate(10_000)
        last = max(weights.names, key=lambda name: weights._entries[name].offset)
        with pytest.raises(EdgeMtpError) as raised:
            weights.read(last)
        assert str(path) in str(raised.value)
        assert last in str(raised.value)

    def test_no_such_tensor(self, pair: Any) -> None:
        with pytest.raises(EdgeMtpError, match=r"has no tensor model\.layers\.9"):
            pair.target.weights.read("model.layers.9.mlp.up_proj.weight")


def test_text_name() -> None:
    assert text_name("model.language_model.layers.3.layer_scalar") == "model.layers.3.layer_scalar"
    assert text_name("language_model.lm_head.weight") == "lm_head.weight"
    assert text_name("pre_projection.weight") == "pre_projection.weight"
    assert text_name("model.vision_tower.encoder.layers.0.mlp.up_proj.weight") is None


class Lora:
    """A PEFT folder to spoil: rank-3 LoRA on two layers."""

    def __init__(self, folder: Path, tensors: Tensors) -> None:
        self.folder = folder
        folder.mkdir()
        self.config: dict[str, Any] = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none"}
        self.tensors: Tensors = {}
        for name in (Q_PROJ, "model.layers.4.mlp.down_proj"):
            outer, inner = tensors[f"{name}.weight"].shape
            self.tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(3, inner)
            self.tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outer, 3)

    def half(self, name: str, part: str) -> Any:
        return self.tensors[f"base_model.model.{name}.lora_{part}.weight"]

    def open(self, base: Weights) -> Weights:
        (self.folder / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, self.folder / "adapter_model.safetensors")
        return with_adapter(base, self.folder)


@pytest.fixture
def lora(tmp_path: Path, tensors: Tensors) -> Lora:
    torch.manual_seed(0)
    return Lora(tmp_path / "adapter", tensors)


class TestAdapter:
    @pytest.mark.parametrize(
        ("change", "scale"),
        [
            ({}, 2.0),
            ({"use_rslora": True}, 6 / 3**0.5),
            ({"lora_alpha": 3, "alpha_pattern": {"q_proj": 12}}, 4.0),
            ({"r": 8, "rank_pattern": {r"layers\.1\..*q_proj": 3, "down_proj": 3}}, 2.0),
            ({"r": 8, "rank_pattern": {"q_proj": 3, "down_proj": 3}, "use_rslora": True}, 6 / 3**0.5),
        ],
    )
    def test_merge(self, pair: Any, tensors: Tensors, lora: Lora, change: dict[str, Any], scale: float) -> None:
        lora.config |= change
        weights = lora.open(pair.target.weights)
        name = f"{Q_PROJ}.weight"
        merged = tensors[name] + scale * lora.half(Q_PROJ, "B") @ lora.half(Q_PROJ, "A")
        np.testing.assert_allclose(weights.read(name), merged, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights.read(name, 5, 17), merged[5:17], rtol=1e-5, atol=1e-5)
        assert weights.names == pair.target.weights.names
        untouched = "model.layers.0.self_attn.q_proj.weight"
        assert np.array_equal(weights.read(untouched), tensors[untouched].numpy())

    def test_as_peft_merges(self, pair: Any, tensors: Tensors, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        from transformers import Gemma4ForCausalLM

        base = Gemma4ForCausalLM.from_pretrained(tiny_checkpoints.random_pair()[0], dtype=torch.float32)
        config = peft.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "down_proj", "embed_tokens_per_layer"],
            rank_pattern={r"layers\.1\.mlp\.down_proj": 2},
            alpha_pattern={"q_proj": 5},
            modules_to_save=["per_layer_model_projection"],
        )
        tuned = peft.get_peft_model(base, config)
        with torch.no_grad():
            for name, value in tuned.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    value.normal_()
        tuned.save_pretrained(tmp_path)
        weights = with_adapter(pair.target.weights, tmp_path)
        merged = tuned.merge_and_unload().state_dict()
        assert not np.allclose(weights.read(f"{Q_PROJ}.weight"), tensors[f"{Q_PROJ}.weight"])
        for name in weights.names:
            np.testing.assert_allclose(weights.read(name), merged[name], rtol=1e-4, atol=1e-4, err_msg=name)
            rows = weights.names[name][0]
            part = weights.read(name, rows // 3, rows // 2)
            np.testing.assert_allclose(part, merged[name][rows // 3 : rows // 2], rtol=1e-4, atol=1e-4)

    def test_of_the_multimodal_model(self, pair: Any, tensors: Tensors, lora: Lora) -> None:
        lora.tensors = {
            name.replace("model.model.", "model.model.language_model."): value for name, value in lora.tensors.items()
        }
        vision = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.linear"
        lora.tensors |= {f"{vision}.lora_A.weight": torch.zeros(3, 2), f"{vision}.lora_B.weight": torch.zeros(2, 3)}
        weights = lora.open(pair.target.weights)
        assert weights.left_out == ("adapter: vision_tower (2 tensors)",)
        assert not np.array_equal(weights.read(f"{Q_PROJ}.weight"), tensors[f"{Q_PROJ}.weight"])

    def test_on_what_a_shared_layer_does_not_use(self, pair: Any, lora: Lora) -> None:
        unused = "base_model.model.model.layers.5.self_attn.k_proj"
        lora.tensors |= {f"{unused}.lora_A.weight": torch.zeros(3, 64), f"{unused}.lora_B.weight": torch.zeros(16, 3)}
        assert len(lora.open(pair.target.weights).left_out) == 2

    def test_whole_modules(self, pair: Any, lora: Lora) -> None:
        norm, table = torch.randn(64), torch.randn(512, 64)
        lora.tensors |= {
            "base_model.model.model.norm.weight": norm,
            "base_model.model.model.embed_tokens.modules_to_save.weight": table,
            "base_model.model.lm_head.modules_to_save.default.weight": table.clone(),
        }
        weights = lora.open(pair.target.weights)
        assert np.array_equal(weights.read("model.norm.weight"), norm.numpy())
        assert np.array_equal(weights.read("model.embed_tokens.weight", 3, 9), table[3:9].numpy())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"use_dora": True}, "use_dora"),
            ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
            ({"bias": "all"}, "trains biases"),
            ({"lora_bias": True}, "lora_bias"),
            ({"peft_type": "IA3"}, "'IA3'"),
            ({"init_lora_weights": "pissa"}, "'pissa'"),
            ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
            ({"r": 0}, "r=0"),
        ],
    )
    def test_another_kind(self, pair: Any, lora: Lora, change: dict[str, Any], message: str) -> None:
        lora.config |= change
        with pytest.raises(EdgeMtpError, match=message) as raised:
            lora.open(pair.target.weights)
        assert str(lora.folder) in str(raised.value)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ({"model.layers.9.mlp.up_proj.lora_A.weight": (3, 64)}, "layers.9.mlp.up_proj, which the target does not"),
            ({"model.layers.0.mlp.up_proj.lora_A.weight": (3, 64)}, "only one half"),
            (
                {
                    "model.layers.0.mlp.up_proj.lora_A.weight": (3, 65),
                    "model.layers.0.mlp.up_proj.lora_B.weight": (96, 3),
                },
                "96x65 for model.layers.0.mlp.up_proj.weight, which is 96x64",
            ),
            ({f"{Q_PROJ}.lora_magnitude_vector": (64,)}, "lora_magnitude_vector"),
            ({f"{Q_PROJ}.lora_B.bias": (64,)}, "lora_B.bias"),
            ({"model.embed_tokens.lora_embedding_A": (3, 512)}, "embedding and the head share"),
            ({"model.embed_tokens.weight": (512, 64)}, "not lm_head"),
            ({"lm_head.weight": (512, 64)}, "not the embedding"),
            ({"model.embed_tokens.weight": (520, 64), "lm_head.weight": (520, 64)}, "512x64 by 520x64"),
        ],
    )
    def test_what_does_not_fit(self, pair: Any, lora: Lora, extra: dict[str, tuple[int, ...]], message: str) -> None:
        lora.tensors |= {f"base_model.model.{name}": torch.randn(shape) for name, shape in extra.items()}
        with pytest.raises(EdgeMtpError) as raised:
            lora.open(pair.target.weights)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_embedding_and_head_apart(self, pair: Any, lora: Lora) -> None:
        for name in ("model.embed_tokens", "lm_head"):
            lora.tensors[f"base_model.model.{name}.weight"] = torch.randn(512, 64)
        with pytest.raises(EdgeMtpError, match="different weights"):
            lora.open(pair.target.weights)

    def test_no_folder(self, pair: Any, tmp_path: Path) -> None:
        with pytest.raises(EdgeMtpError, match="absent is not a directory"):
            with_adapter(pair.target.weights, tmp_path / "absent")


class TestRandom:
    @settings(max_examples=40, deadline=None)
    @given(
        shape=st.one_of(
            st.tuples(st.integers(1, 50)),
            st.tuples(st.integers(1, 50), st.integers(1, 40)),
            st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9)),
        ),
        seed=st.integers(0, 5),
        data=st.data(),
    )
    def test_rows_do_not_depend_on_how_they_are_read(
        self, shape: tuple[int, ...], seed: int, data: st.DataObject
    ) -> None:
        weights = RandomWeights({"model.x.weight": shape}, seed)
        whole = weights.read("model.x.weight")
        assert whole.shape == shape
        start = data.draw(st.integers(0, shape[0]))
        stop = data.draw(st.integers(start, shape[0]))
        again = RandomWeights({"model.x.weight": shape}, seed).read("model.x.weight", start, stop)
        assert np.array_equal(again, whole[start:stop])

    def test_names_and_seeds_differ(self) -> None:
        shapes = {"model.a.weight": (64, 64), "model.b.weight": (64, 64)}
        weights, other = RandomWeights(shapes, 0), RandomWeights(shapes, 1)
        a, b = weights.read("model.a.weight"), weights.read("model.b.weight")
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
        assert abs(np.corrcoef(a.ravel(), other.read("model.a.weight").ravel())[0, 1]) < 0.1

    def test_no_two_rows_are_equal(self) -> None:
        """Equal embedding rows would be tied logits."""
        rows = RandomWeights({"model.embed_tokens.weight": (262_144, 4)}, 0).read("model.embed_tokens.weight")
        assert len(np.unique(rows, axis=0)) > 0.9999 * len(rows)

    def test_scale(self) -> None:
        rows = RandomWeights({"model.x.weight": (500, 1000)}, 0).read("model.x.weight")
        assert rows.std() == pytest.approx(1000**-0.5, rel=0.05)
        assert abs(rows.mean()) < 1e-3

    @pytest.mark.parametrize("config", [UNIFIED, EXPERTS], ids=["unified", "experts"])
    def test_a_model_computes_with_them(self, config: dict[str, Any]) -> None:
        from transformers import AutoConfig

        parsed = AutoConfig.for_model(**config)
        weights = random_weights(parsed, 3)
        model = model_class(parsed)(parsed).eval()
        model.load_state_dict({name: torch.from_numpy(weights.read(name)) for name in weights.names}, strict=False)
        with torch.no_grad():
            logits = model(torch.arange(64)[None]).logits
        assert logits.isfinite().all()
        assert 0.2 < logits.std() < 5

    def test_the_drafters_clusters_hold_each_token_once(self, pair: Any) -> None:
        weights = random_weights(pair.drafter.config, 0)
        ordering = weights.read("masked_embedding.token_ordering")
        assert ordering.dtype == np.int32
        assert sorted(ordering) == list(range(512))
        assert np.array_equal(weights.read("masked_embedding.token_ordering", 7, 99), ordering[7:99])

    def test_the_largest_model_takes_no_memory(self, tmp_path: Path) -> None:
        pair = random_pair("31B", 0, tmp_path)
        assert pair.target.parameters > 30e9
        rows = pair.target.weights.read("model.layers.59.mlp.down_proj.weight", 5375)
        assert rows.shape == (1, 21504)
        assert np.isfinite(rows).all()
