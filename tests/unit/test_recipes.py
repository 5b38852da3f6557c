"""Recipes: every weight of a real model has a role, files say what they mean, and sizes keep their promise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("ml_dtypes")

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import ENCODINGS, encode
from edge_mtp.export.recipes import RECIPES, ROLES, Recipe, load, role
from edge_mtp.export.shapes import tensor_shapes

Shapes = dict[str, tuple[int, ...]]

VOCABULARY = 262144


def layer_types(layers: int, period: int) -> list[str]:
    return ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]


def e2b() -> tuple[Shapes, Shapes]:
    """Shapes by name of Gemma 4 E2B and its drafter."""
    from transformers import Gemma4AssistantConfig, Gemma4TextConfig

    heads = {"head_dim": 256, "global_head_dim": 512, "num_key_value_heads": 1, "vocab_size": VOCABULARY}
    target = Gemma4TextConfig(
        **heads,
        hidden_size=1536,
        intermediate_size=6144,
        use_double_wide_mlp=True,
        num_hidden_layers=35,
        num_kv_shared_layers=20,
        num_attention_heads=8,
        layer_types=layer_types(35, 5),
        hidden_size_per_layer_input=256,
        vocab_size_per_layer_input=VOCABULARY,
    )
    decoder = {
        **heads,
        "hidden_size": 256,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 4,
        "num_attention_heads": 4,
        "layer_types": layer_types(4, 4),
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    }
    drafter = Gemma4AssistantConfig(
        text_config=decoder,
        backbone_hidden_size=1536,
        use_ordered_embeddings=True,
        num_centroids=2048,
        centroid_intermediate_top_k=32,
    )
    return tensor_shapes(target), tensor_shapes(drafter)


@pytest.fixture(scope="module")
def pair() -> tuple[Shapes, Shapes]:
    return e2b()


@pytest.fixture(scope="module")
def experts() -> Shapes:
    """A layer with mixture of experts, whose intermediate size (as in 26B-A4B) no block of 128 divides."""
    from transformers import Gemma4TextConfig

    config = Gemma4TextConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=704,
    )
    return tensor_shapes(config)


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


def test_every_weight_of_a_pair_has_a_role(pair: tuple[Shapes, Shapes], experts: Shapes) -> None:
    target, drafter = pair
    found = {role("prefill_decode", name) for name in [*target, *experts]} | {role("mtp_drafter", n) for n in drafter}
    found |= {role("embedder", "model.embed_tokens.weight")}
    assert found == {*ROLES, None}


def test_only_what_is_small_has_no_role(pair: tuple[Shapes, Shapes], experts: Shapes) -> None:
    for section, shapes in (("prefill_decode", {**pair[0], **experts}), ("mtp_drafter", pair[1])):
        for name, shape in shapes.items():
            assert (role(section, name) is None) == (len(shape) == 1)


@pytest.mark.parametrize(
    ("section", "name", "expected"),
    [
        ("prefill_decode", "model.layers.3.self_attn.o_proj.weight", "attention"),
        ("prefill_decode", "model.layers.3.mlp.down_proj.weight", "mlp"),
        ("prefill_decode", "model.layers.3.per_layer_projection.weight", "per_layer"),
        ("prefill_decode", "model.per_layer_projection_norm.weight", None),
        ("prefill_decode", "model.embed_tokens.weight", "head"),
        ("embedder", "model.embed_tokens.weight", "embedder"),
        ("per_layer_embedder", "model.embed_tokens_per_layer.weight", "per_layer_embedder"),
        ("prefill_decode", "model.layers.0.experts.gate_up_proj", "experts"),
        ("prefill_decode", "model.layers.0.router.per_expert_scale", None),
        ("mtp_drafter", "model.embed_tokens.weight", "drafter_head"),
        ("mtp_drafter", "model.layers.3.mlp.down_proj.weight", "drafter"),
        ("mtp_drafter", "pre_projection.weight", "drafter"),
        ("mtp_drafter", "masked_embedding.centroids.weight", "drafter"),
        ("mtp_drafter", "masked_embedding.token_ordering", None),
    ],
)
def test_roles(section: str, name: str, expected: str | None) -> None:
    assert role(section, name) == expected


def test_a_weight_that_no_recipe_knows_is_refused() -> None:
    with pytest.raises(EdgeMtpError, match=r"lora\.weight"):
        role("prefill_decode", "model.layers.0.lora.weight")
    with pytest.raises(EdgeMtpError, match=r"pre_projection\.weight"):
        role("prefill_decode", "pre_projection.weight")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_predefined_recipes_serve_every_weight(recipe: Recipe, pair: tuple[Shapes, Shapes], experts: Shapes) -> None:
    assert set(recipe.roles) == set(ROLES)
    for section, shapes in (("prefill_decode", {**pair[0], **experts}), ("mtp_drafter", pair[1])):
        for name, shape in shapes.items():
            encoding = recipe.encoding(section, name, shape)
            if len(shape) == 1:
                assert encoding.name == "fp32"
            else:  # encoding a few rows proves that it fits
                encode(np.ones((2, shape[-1]), np.float32), encoding)


def test_sizes_are_those_of_what_is_written(experts: Shapes) -> None:
    """Of an int8 model counted by hand: a byte a weight, 12 a row, and 4 a number that is not encoded."""
    rows = {name: math.prod(shape[:-1]) for name, shape in experts.items()}
    by_hand = {
        name: math.prod(shape) + 12 * rows[name] if len(shape) > 1 else 4 * shape[0] for name, shape in experts.items()
    }
    table = by_hand["model.embed_tokens.weight"]
    drafter = {"pre_projection.weight": (256, 512)}
    sizes = RECIPES["int8"].sizes(experts, drafter)
    small = 256 * 512 + 256 * 12
    assert sizes == {"prefill_decode": sum(by_hand.values()), "embedder": table, "mtp_drafter": small}


def test_mixed_keeps_e2b_within_its_promise(pair: tuple[Shapes, Shapes]) -> None:
    """At most 2.7 GB, of which tokenizer, graphs and our own sections take a few MB."""
    sizes = RECIPES["mixed"].sizes(*pair)
    assert sum(sizes.values()) <= 2.7e9 - 20e6


def test_a_file_builds_on_a_base(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, 'base = "int4"\n[roles]\nhead = "int8"\n[overrides]\n"model.layers.0.*" = "int8"\n'))
    assert recipe.roles["head"] == ENCODINGS["int8"]
    assert recipe.roles["mlp"] == ENCODINGS["int4"]

    def encoding(section: str, layer: int) -> str:
        return recipe.encoding(section, f"model.layers.{layer}.mlp.up_proj.weight", (8, 64)).name

    assert encoding("prefill_decode", 0) == "int8"
    assert encoding("prefill_decode", 10) == "int4"
    assert encoding("mtp_drafter", 0) == "int4", "a drafter's names have `drafter.` before them"


def test_the_last_override_counts_and_norms_stay(tmp_path: Path) -> None:
    text = 'base = "int8"\n[overrides]\n"*" = "int4"\n"*.o_proj.*" = "fp16"\n"drafter.*" = "int8"\n'
    recipe = load(write(tmp_path, text))

    def encoding(section: str, name: str, *shape: int) -> str:
        return recipe.encoding(section, name, shape).name

    assert encoding("prefill_decode", "model.layers.0.mlp.up_proj.weight", 8, 64) == "int4"
    assert encoding("prefill_decode", "model.layers.0.self_attn.o_proj.weight", 8, 64) == "fp16"
    assert encoding("mtp_drafter", "model.layers.0.self_attn.o_proj.weight", 8, 64) == "int8"
    assert encoding("prefill_decode", "model.norm.weight", 64) == "fp32"


def test_all_roles_without_a_base(tmp_path: Path) -> None:
    lines = "".join(f'{each} = "int8"\n' for each in ROLES)
    assert load(write(tmp_path, f"[roles]\n{lines}")).roles == RECIPES["int8"].roles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "int3"', "no base 'int3'.*int4-block"),
        ('base = ["int8"]', "no base"),
        ('base = "int8"\n[roles]\nheads = "int8"', "no role 'heads'.*embedder"),
        ('base = "int8"\n[roles]\nhead = "int8b32"', "head cannot be 'int8b32'.*int4b32"),
        ('base = "int8"\n[roles]\nhead = 8', "head cannot be 8"),
        ('base = "int8"\nroles = "int8"', r"roles is a table, \[roles\]"),
        ('base = "int8"\n[override]\n"a" = "int8"', "no key 'override'.*overrides"),
        ('[roles]\nhead = "int8"', "no encoding for embedder, .*name it or a base"),
        ("base = int8", "is not TOML"),
    ],
)
def test_a_file_that_says_something_unknown_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EdgeMtpError, match=message) as refusal:
        load(write(tmp_path, text))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["int5", "no/such/file.toml", "."])
def test_a_recipe_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(EdgeMtpError, match="recipe"):
        load(name)


@pytest.mark.parametrize("pattern", ["model.layers.99.*", "*_layernorm.weight", "model.layers.0"])
def test_a_pattern_without_a_weight_is_refused(tmp_path: Path, pattern: str, pair: tuple[Shapes, Shapes]) -> None:
    recipe = load(write(tmp_path, f'base = "int8"\n[overrides]\n"{pattern}" = "int4"\n'))
    with pytest.raises(EdgeMtpError, match="no weight matches"):
        recipe.sizes(*pair)


def test_rows_that_an_encoding_cannot_store_are_refused_by_name() -> None:
    with pytest.raises(EdgeMtpError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*mlp.*int4.*49"):
        RECIPES["int4"].encoding("prefill_decode", "model.layers.1.mlp.up_proj.weight", (8, 49))


def test_rows_too_short_for_a_block_are_stored_in_8_bits() -> None:
    found = RECIPES["int4-block"].encoding("prefill_decode", "model.layers.1.mlp.up_proj.weight", (8, 48))
    assert found == ENCODINGS["int8"]


def test_a_block_too_large_for_the_experts_is_halved(experts: Shapes) -> None:
    name = "model.layers.1.experts.down_proj"
    expected: Any = ENCODINGS["int4b64"]
    assert RECIPES["mixed"].encoding("prefill_decode", name, experts[name]) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_what_becomes_int8_for_its_short_rows_is_told(name: str) -> None:
    recipe = RECIPES[name]
    target = {"model.layers.0.mlp.up_proj.weight": (8, 40), "model.layers.1.mlp.up_proj.weight": (8, 40)}
    target |= {"model.layers.0.mlp.down_proj.weight": (40, 64)}
    told = recipe.int8_instead(target, {})
    blocks = bool(recipe.roles["mlp"].block)
    assert told == (("model.layers.*.mlp.up_proj.weight (2 tensors)",) if blocks else ())
    stored = {key: recipe.encoding("prefill_decode", key, shape).name for key, shape in target.items()}
    assert ("int8" in {stored[key] for key in target if "up_proj" in key}) == (blocks or name == "int8")
