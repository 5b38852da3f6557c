"""Quantized checkpoints: what the exporter reads and writes of them, held against the packages that define them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import quantized_checkpoints as made
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edge_mtp.cache import cache_folder, exclusive
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import lattice, recipes
from edge_mtp.export.adapter import AdaptedWeights, diffused
from edge_mtp.export.calibration import cache_scales
from edge_mtp.export.checkpoint import Pair, load_target, open_pair, tiny_pair
from edge_mtp.export.encodings import ENCODINGS, decode, encode
from edge_mtp.export.lattice import LATTICE, on_lattice, with_lattice
from edge_mtp.export.manifest import ranges_of
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.export.tiny import CONTEXT
from edge_mtp.export.verify import verify
from edge_mtp.export.weights import RandomWeights
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.inventory import inventory_of
from edge_mtp.harness.analyse.quality import quality_of
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.run.quality import ask_bundles
from edge_mtp.harness.tell.quality_tables import markdown

Floats = npt.NDArray[np.float32]
WIDTHS = (2, 5)


@pytest.fixture(scope="module", params=list(made.FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    return {name: make(folder / name) for name, make in made.FORMS.items()}


@pytest.fixture(scope="module")
def bundles(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each form's bundle, exported once."""
    folder, done = tmp_path_factory.mktemp("bundles"), dict[str, Path]()

    def bundle(form: str) -> Path:
        if form not in done:
            done[form] = folder / f"{form}.litertlm"
            with exclusive(cache_folder(), lambda: None):
                pair = pair_of(checkpoints[form])
                export_bundle(pair, None, done[form], recipe="int8", context=CONTEXT, widths=WIDTHS)
        return done[form]

    return bundle


def pair_of(target: Path) -> Pair:
    return open_pair(target, tiny_pair()[1])


def bf16(values: Any) -> Floats:
    rounded: Floats = np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def decoded(pair: Pair, name: str) -> Floats:
    """A tensor as the bundle's kernels see it."""
    weights = pair.target.weights
    return decode(weights.encoded(name), weights.encodings[name], weights.names[name][1])


# -- against those who define the forms -------------------------------------------------------------------------------


def test_the_weights_and_logits_are_those_of_transformers(checkpoints: dict[str, Path]) -> None:
    """transformers' own loading of `quant_method: gemma`: 2, 4 and 8 bits, and a head apart from the embedding."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(checkpoints["gemma"], dtype=torch.float32).eval()
    pair = pair_of(checkpoints["gemma"])
    bits = set()
    for name, encoding in pair.target.weights.encodings.items():
        module = theirs.get_submodule(name.removesuffix(".weight"))
        wanted = module.weight if "embed_tokens" in name else module._dequantize_weights()
        np.testing.assert_array_equal(decoded(pair, name), wanted.detach().numpy())
        np.testing.assert_array_equal(pair.target.weights.read(name), wanted.detach().numpy())
        bits.add(encoding.bits)
    assert bits == {2, 4, 8}
    ids = torch.randint(5, 1000, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = theirs(ids).logits, load_target(pair.target)(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_weights_are_those_of_compressed_tensors(checkpoints: dict[str, Path]) -> None:
    """Its own unpacking of words, times its own scales."""
    stored = load_file(checkpoints["compressed"] / "model.safetensors")
    pair = pair_of(checkpoints["compressed"])
    packed = [name for name, encoding in pair.target.weights.encodings.items() if encoding == ENCODINGS["int4b32"]]
    assert len(packed) > 40
    for name in packed:
        module = name.removesuffix(".weight")
        shape = torch.Size(stored[f"{module}.weight_shape"].tolist())
        integers = unpack_from_int32(stored[f"{module}.weight_packed"], 4, shape).float()
        wanted = integers * stored[f"{module}.weight_scale"].float().repeat_interleave(made.BLOCK, dim=1)
        np.testing.assert_array_equal(decoded(pair, name), wanted.numpy())
        np.testing.assert_array_equal(pair.target.weights.read(name), wanted.numpy())


def test_static_ranges_are_those_that_transformers_rounds_to(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Of real activations: what transformers' modules give out then are 255 values or fewer, multiples of the scale."""
    from transformers import AutoModelForCausalLM

    text = torch.randint(5, 1000, (1, 40), generator=torch.Generator().manual_seed(1))
    folder = made.calibrated(tmp_path / "ranges", checkpoints["gemma"], [text[0].tolist()])
    ranges = ranges_of(pair_of(folder))
    modules = {name.removesuffix(".weight") for name in pair_of(folder).target.weights.encodings}
    assert ranges.keys() == {name for name in modules if "embed_tokens" not in name}
    assert ranges_of(pair_of(checkpoints["gemma"])) == {}
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    made_by: dict[str, Any] = {}
    for name in ranges:
        theirs.get_submodule(name).register_forward_hook(
            lambda _, given, out, name=name: made_by.__setitem__(name, out)
        )
    with torch.no_grad():
        theirs(text)
    for name, (into, out) in ranges.items():
        assert into > 0
        steps = made_by[name].numpy() / out
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert np.abs(steps).max() < 128.5


def test_a_per_layer_table_has_scales_of_blocks(tmp_path: Path) -> None:
    pair = pair_of(made.gemma(tmp_path / "blocks", blocks=3))
    name = "model.embed_tokens_per_layer.weight"
    assert pair.target.weights.encodings[name] == LATTICE
    stored = load_file(tmp_path / "blocks" / "model.safetensors")
    scales = stored["model.embed_tokens_per_layer.embedding_scale"].numpy()
    nibbles = stored["model.embed_tokens_per_layer.embedding_quantized"].numpy()
    integers = np.stack([nibbles & 15, nibbles >> 4], -1).reshape(len(nibbles), -1).astype(np.float32) - 8
    np.testing.assert_array_equal(decoded(pair, name), integers * np.repeat(scales, 32, axis=1))


# -- lattices ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float16", "bfloat16"]), st.floats(-6, -1))
@settings(max_examples=200)
def test_a_lattice_is_found_again(seed: int, kind: str, size: float) -> None:
    generator = np.random.default_rng(seed)
    # float16 has fewer bits below 2^-14, and LiteRT's scales of blocks have that type.
    steps = np.maximum(np.exp(generator.normal(size, 1, (8, 3, 1))), 2.0**-13).astype(np.float32)
    steps = steps.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind).astype(np.float32)
    integers = np.clip(np.rint(generator.normal(0, 2.7, (8, 3, 32))), -8, 7).astype(np.float32)
    rows = bf16(steps * integers).reshape(8, 96)
    found = on_lattice(rows)
    assert found.fits.all()
    given_back = np.repeat(found.steps.astype(np.float32), 32, axis=1) * found.integers
    exact = np.repeat(found.exact, 32, axis=1)
    np.testing.assert_array_equal(bf16(given_back)[exact], rows[exact])
    if kind != "float32":
        assert found.exact.all()
    # Elsewhere float16 holds no step that fits: each weight is the checkpoint's or bf16's next number.
    np.testing.assert_allclose(given_back, rows, rtol=2.0**-7)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_other_weights_are_on_no_lattice(seed: int) -> None:
    rows = bf16(np.random.default_rng(seed).normal(0, 0.02, (4, 256)))
    assert not on_lattice(rows).fits.any()


def test_a_checkpoint_that_is_on_none_stays_as_it_is() -> None:
    weights = RandomWeights({"model.layers.0.mlp.up_proj.weight": (64, 96), "model.norm.weight": (96,)}, 1)
    assert with_lattice(weights) is weights


def test_zeros_and_signs_alone_are_no_lattice() -> None:
    class Signs(RandomWeights):
        def _read(self, name: str, start: int, stop: int) -> Any:
            return np.sign(super()._read(name, start, stop)).astype(np.float32)

    weights = Signs({"model.layers.0.mlp.up_proj.weight": (64, 96)}, 1)
    assert with_lattice(weights) is weights


def test_a_row_off_the_lattice_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints["lattice"], tmp_path / "off")
    tensors = load_file(tmp_path / "off" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    rows = len(tensors[name])
    looked_at = set(np.linspace(0, rows - 1, lattice._SAMPLED).astype(int).tolist())
    row = next(row for row in range(rows) if row not in looked_at)
    tensors[name][row, 7] += 0.01
    save_file(tensors, tmp_path / "off" / "model.safetensors")
    weights = pair_of(tmp_path / "off").target.weights
    with pytest.raises(EdgeMtpError, match=rf"up_proj.weight .*not in row {row}:.*overrides"):
        weights.encoded(name)


# -- an adapter on a quantized checkpoint -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The lattice with a random LoRA on it, which moves the weights by some percent."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(5)
    pair = pair_of(checkpoints["lattice"])
    modules = ["q_proj", "down_proj", "per_layer_projection"]
    tuned = peft.get_peft_model(load_target(pair.target), peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules))
    with torch.no_grad():
        for name, values in tuned.named_parameters():
            if "lora_B" in name:
                values.normal_(0, 0.02)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return open_pair(checkpoints["lattice"], tiny_pair()[1], adapter=folder)


def test_an_adapter_survives_on_the_checkpoints_steps(adapted: Pair) -> None:
    """Rounding to the nearest multiple undoes most of it; rounding along its directions keeps it there."""
    weights = adapted.target.weights
    assert isinstance(weights, AdaptedWeights)
    assert {name.split(".")[-2] for name in weights.grids} == {"q_proj", "down_proj"}
    for name, grid in weights.grids.items():
        width = weights.names[name][1]
        base, merged = weights.base.read(name), weights.read(name)
        start = weights.names[name][0] // 2
        found = decode(weights.on_grid(name, 0, len(merged)), grid, width)
        np.testing.assert_array_equal(decode(weights.on_grid(name, start, len(merged)), grid, width), found[start:])
        part = weights._low_rank[name].a
        assert part is not None
        directions = np.linalg.qr(part.rows().T)[0]
        steps = np.repeat(weights.base.encoded(name).scales, 32, axis=1).astype(np.float32)
        nearest = np.clip(np.rint(merged / steps), -8, 7) * steps
        change = np.linalg.norm((merged - base) @ directions)
        assert np.linalg.norm((nearest - merged) @ directions) > 0.6 * change
        assert np.linalg.norm((found - merged) @ directions) < 0.2 * change
        # Elsewhere it costs less than rounding with new steps does.
        assert np.linalg.norm(found - merged) < np.linalg.norm(decode(encode(merged, grid), grid, width) - merged)


def test_blocks_that_a_step_does_not_reach_get_another() -> None:
    rows = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    grid = LATTICE
    steps = np.array([[0.14, 1e-6]], np.float32)
    found = diffused(rows, steps, np.zeros((0, 64), np.float32), grid)
    assert found[0, 32:].tolist() == [7] * 32
    np.testing.assert_allclose(found[0, :32] * 0.14, rows[0, :32], atol=0.0701)


@pytest.mark.parametrize(
    ("recipe", "kind", "others"), [("int8", "int8", "int8"), ("int4-block", "int4b32", "int4b32, int8")]
)
def test_the_recipe_chooses_between_size_and_loss(recipe: str, kind: str, others: str, adapted: Pair) -> None:
    weights = adapted.target.weights
    assert isinstance(weights, AdaptedWeights)
    chosen = recipes.load(recipe).keeping(weights.encodings, {}, weights.grids)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert chosen.encoding(recipes.PREFILL_DECODE, name, weights.names[name]).name == kind
    assert chosen.is_on_grid(recipes.PREFILL_DECODE, name) == (recipe == "int4-block")
    said = weights.rounding(chosen)
    lost = float(said.split(f"stored as {others}, ")[1].split("%")[0])
    assert 0 < lost < 20
    assert said.startswith("adapter: changes 18 matrices by ")


# -- whole exports ----------------------------------------------------------------------------------------------------


def test_a_bundle_holds_the_checkpoints_integers(
    form: str, checkpoints: dict[str, Path], bundles: Callable[[str], Path]
) -> None:
    pair = pair_of(checkpoints[form])
    found = verify(Bundle(bundles(form)), pair)
    assert found.missing == ()
    assert {*found.exact, *found.lattice} == set(pair.target.weights.encodings)
    assert bool(found.lattice) == (form == "lattice")
    assert all(share > 0.97 for share in found.lattice.values())


def test_verify_names_a_tensor_that_changed(
    checkpoints: dict[str, Path], bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    pair = pair_of(checkpoints["compressed"])
    name = "model.layers.2.mlp.up_proj.weight"
    content = bytearray(bundles("compressed").read_bytes())
    at = bytes(content).index(pair.target.weights.encoded(name).data.tobytes())
    content[at] ^= 1
    (tmp_path / "changed.litertlm").write_bytes(content)
    assert verify(Bundle(tmp_path / "changed.litertlm"), pair).missing == (name,)


def test_experts_keep_their_integers(tmp_path: Path) -> None:
    target, drafter = families.pair("26B-A4B")
    pair = open_pair(made.experts(tmp_path / "experts", target), drafter)
    names = {name: encoding.name for name, encoding in pair.target.weights.encodings.items() if "experts" in name}
    assert names["model.layers.0.experts.gate_up_proj"] == names["model.layers.1.experts.down_proj"] == "int8"
    assert names["model.layers.1.experts.gate_up_proj"] == "int4b32"
    path = tmp_path / "experts.litertlm"
    with exclusive(cache_folder(), lambda: None):
        export_bundle(pair, None, path, recipe="int8", context=families.CONTEXT, prefill=(16,), widths=WIDTHS)
    found = verify(Bundle(path), pair)
    assert found.missing == ()
    assert set(found.exact) == set(pair.target.weights.encodings)
    assert set(names) <= set(found.exact)


def test_drafts_change_no_text(form: str, bundles: Callable[[str], Path]) -> None:
    with open_engine(bundles(form), threads=1) as engine:
        texts = [
            engine.chat("Wake me at 6:40", max_tokens=60, draft_length=length).wait().tokens for length in (0, 1, 4)
        ]
    assert texts[0] == texts[1] == texts[2]


def test_the_manifest_says_what_was_kept(form: str, bundles: Callable[[str], Path]) -> None:
    recipe = (Bundle(bundles(form)).manifest or {})["recipe"]
    assert set(recipe["kept"]) <= {"int2", "int4", "int8", "int4b32"}
    assert any("self_attn.q_proj.weight" in group for groups in recipe["kept"].values() for group in groups)


def test_a_recipe_of_floats_widens_them(checkpoints: dict[str, Path]) -> None:
    pair = pair_of(checkpoints["gemma"])
    kept = recipes.load("fp32").keeping(pair.target.weights.encodings, {})
    assert kept.encoding(recipes.PREFILL_DECODE, "model.layers.0.mlp.up_proj.weight", (192, 128)).name == "fp32"


def test_caches_have_the_scales_that_the_checkpoint_was_trained_with(checkpoints: dict[str, Path]) -> None:
    scales = cache_scales(pair_of(checkpoints["gemma"]).target)
    assert scales["0.k"] == pytest.approx(made.CACHE_SCALE)
    assert scales["3.v"] == pytest.approx(made.CACHE_SCALE + 0.003)
    assert cache_scales(pair_of(checkpoints["lattice"]).target)["0.k"] != pytest.approx(made.CACHE_SCALE)


def test_inspect_tells_the_checkpoints_bits_from_the_recipes(
    form: str, checkpoints: dict[str, Path], bundles: Callable[[str], Path]
) -> None:
    """Each weight's encoding is the one that the checkpoint has, and so many are kept of each role."""
    weights = pair_of(checkpoints[form]).target.weights
    wanted = Counter(
        (name.split(".")[-3 if ".layers." in name else -2], encoding.name)
        for name, encoding in weights.encodings.items()
    )
    roles = {"attention": "self_attn", "mlp": "mlp", "embedder": "embed_tokens", "head": "lm_head"}
    roles["per_layer_embedder"] = "embed_tokens_per_layer"
    found = [each for each in inventory_of(Bundle(bundles(form))).holdings if not each.is_drafters]
    kept = [each for each in found if each.origin == "checkpoint"]
    told = Counter({(roles[each.role], each.encoding): 0 for each in kept if each.role in roles})
    for each in kept:
        if each.role in roles:
            told[roles[each.role], each.encoding] += each.count
    assert told == Counter({key: count for key, count in wanted.items() if key[0] in roles.values()})
    recipes = {each.role for each in found if each.origin == "recipe int8"}
    assert {each.origin for each in found} <= {"checkpoint", "recipe int8", "-"}
    assert ("embedder" in recipes) == (form != "gemma")
    if form == "gemma":
        mlps = {(each.encoding, each.layers) for each in found if each.role == "mlp"}
        assert mlps == {("int4", (0, 1, 2)), ("int2", (3, 4, 5))}


def test_quality_holds_another_checkpoint_of_the_family_against_the_first(
    bundles: Callable[[str], Path], tiny_int8_bundle: Path
) -> None:
    items = read_items(TINY / "splits" / "iid.jsonl", 3)
    paths = {"int8": tiny_int8_bundle, "qat": bundles("lattice")}
    report = quality_of(ask_bundles(paths, items, max_tokens=40, threads=1), items, source="iid", max_tokens=40)
    first, qat = report.measurements
    assert (first.relation, qat.relation) == ("same pair", "another checkpoint")
    assert qat.divergence is not None
    assert qat.divergence.kl.value > 0
    assert [a.draft_length for a in qat.acceptance] == [4]
    assert qat.read < first.read
    assert "qat: another checkpoint, so KL and losses hold what its training changed" in report.caption
    table = markdown(report)
    assert "| qat | another checkpoint | " in table


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "hqq", "bits": 4}, "zero points"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "no multiples of a scale"),
        ({"quant_method": "\x1b[2J"}, "does not know"),
        ("gemma", "does not know"),
        ([1], "does not know"),
    ],
)
def test_what_cannot_be_held_is_refused_with_the_reason(quantization: Any, said: str, tmp_path: Path) -> None:
    target, _ = tiny_pair()
    shutil.copytree(target, tmp_path / "other")
    config = json.loads((target / "config.json").read_text()) | {"quantization_config": quantization}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EdgeMtpError) as refusal:
        pair_of(tmp_path / "other")
    assert said in str(refusal.value)
    assert "before quantization" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("weight_scale", lambda scale: -scale, "negative"),
        ("weight_scale", lambda scale: scale * float("nan"), "no number"),
        ("weight_scale", lambda scale: scale[:-1].clone(), "copy it again"),
        ("weight_scale", lambda scale: scale[:, :1].repeat(1, 5), "5 scales for rows of"),
        ("weight_packed", lambda packed: packed[:, :-1].clone(), "which is not 1 to 8 bits"),
        ("weight_packed", lambda packed: packed[:-1].clone(), "config.json says"),
        ("weight_zero_point", lambda _: torch.ones(1), "zero point 1"),
        ("weight_g_idx", lambda _: torch.zeros(1), "order of activations"),
    ],
)
def test_damaged_and_unknown_tensors_are_named(
    name: str, change: Callable[[Any], Any], said: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoints["compressed"], folder)
    tensors = load_file(folder / "model.safetensors")
    whole = f"model.layers.0.mlp.up_proj.{name}"
    tensors[whole] = change(tensors.get(whole))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(EdgeMtpError, match="up_proj") as refusal:
        pair_of(folder).target.weights.encoded("model.layers.0.mlp.up_proj.weight")
    assert said in str(refusal.value)
