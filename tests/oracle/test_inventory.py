"""What `inspect` says of a bundle's weights, against the checkpoint's bytes and the recipe's own sizes."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from click.testing import CliRunner
from official_bundle import Variant, write

from edge_mtp.cli import main
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import recipes
from edge_mtp.export.checkpoint import Pair, open_pair, tiny_pair
from edge_mtp.export.encodings import encode
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.graph import Constant, Graph, graphs_of
from edge_mtp.formats.inventory import Inventory, _Origins, inventory_of
from edge_mtp.formats.roles import uses


@pytest.fixture(scope="module")
def pair() -> Pair:
    return open_pair(*tiny_pair())


def contents(bundle: Bundle, section: str) -> tuple[Any, Any]:
    """A section as flatbuffers' own generated reader has it, and its bytes."""
    found = bundle.section("TFLiteModel", section)
    assert found is not None
    data = np.frombuffer(bundle.content(found), np.uint8)
    return schema.ModelT.InitFromPackedBuf(data, 0), data


def names(graph: Graph) -> dict[str, Constant]:
    """Matrices by the names that transformers' state_dict gives them, but for embeddings and heads."""
    found = {}
    for use in uses(graph):
        if use.part:
            inner = use.part.startswith(("pre_", "post_", "masked_"))
            layer = "" if use.layer is None else f"layers.{use.layer}."
            found[use.part if inner else f"model.{layer}{use.part}"] = use.constant
    return found


@pytest.mark.parametrize(
    ("section", "signature", "owner"),
    [
        ("prefill_decode", "decode", "target"),
        ("aux", "edge_verify_5", "target"),
        ("aux", "edge_draft_3", "drafter"),
        ("mtp_drafter", "mtp_drafter", "drafter"),
    ],
)
def test_a_name_found_by_neighbours_is_the_checkpoints(
    section: str, signature: str, owner: str, tiny_int8_bundle: Path, pair: Pair
) -> None:
    """Every matrix of the checkpoint, and behind each name the checkpoint's own bytes."""
    bundle = Bundle(tiny_int8_bundle)
    model, data = contents(bundle, section)
    weights = getattr(pair, owner).weights
    found = bundle.section("TFLiteModel", section)
    assert found is not None
    named = names(graphs_of(bundle.content(found))[0][signature])
    matrices = {name for name, shape in weights.names.items() if len(shape) == 2 and "embed_tokens" not in name}
    assert named.keys() == matrices - {"masked_embedding.token_ordering"}
    for name, constant in named.items():
        buffer = model.buffers[constant.buffer]
        stored = data[buffer.offset : buffer.offset + buffer.size] if buffer.offset else np.asarray(buffer.data)
        role = recipes.DRAFTER if owner == "drafter" else recipes.PREFILL_DECODE
        wanted = encode(weights.read(name), recipes.load("int8").encoding(role, name, weights.names[name]))
        np.testing.assert_array_equal(stored, wanted.data)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_matrix_of_every_family_is_named(family: str) -> None:
    bundle, pair = Bundle(families.bundle(family)), open_pair(*families.pair(family))
    graphs: dict[str, Graph] = {}
    for name in ("prefill_decode", "aux"):
        section = bundle.section("TFLiteModel", name)
        assert section is not None
        graphs |= graphs_of(bundle.content(section))[0]
    # Other exporters' graphs do not give out activations: the last layer then leads to the head alone.
    graphs["decode"].outputs = {at: name for at, name in graphs["decode"].outputs.items() if name != "activations"}
    for signature, weights in (("decode", pair.target.weights), ("edge_draft_1", pair.drafter.weights)):
        matrices = {name: shape for name, shape in weights.names.items() if len(shape) > 1 and "embed_tok" not in name}
        found = {name: constant.shape for name, constant in names(graphs[signature]).items()}
        # A graph of one draft ends before the projection that a second one would need; experts are stacked.
        for name in ("masked_embedding.token_ordering", *["post_projection.weight"] * (signature != "decode")):
            matrices.pop(name, None)
        assert found == {name: (math.prod(shape[:-1]), shape[-1]) for name, shape in matrices.items()}


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_bytes_are_those_that_the_recipe_expects(
    recipe: str, tiny_bundle: Path, tiny_int8_bundle: Path, pair: Pair
) -> None:
    found = inventory_of(Bundle(tiny_bundle if recipe == "fp32" else tiny_int8_bundle))
    names = pair.target.weights.names, pair.drafter.weights.names
    sizes: Counter[str] = Counter()
    for each in found.holdings:
        if each.role not in ("norms", "rotations", "other"):
            sizes[each.section] += each.bytes
    for section, wanted in recipes.load(recipe).sizes(*names).items():
        assert wanted * 0.9 < sizes[section] <= wanted  # without norms, and the order of the centroids
    assert sum(sizes.values()) < found.weights < found.file
    assert {each.origin for each in found.holdings} == {f"recipe {recipe}", "-"}


def test_a_step_reads_what_its_operators_multiply_by(tiny_int8_bundle: Path, pair: Pair) -> None:
    found = inventory_of(Bundle(tiny_int8_bundle))
    shapes = pair.target.weights.names
    read = sum(math.prod(shape) for name, shape in shapes.items() if "per_layer.weight" not in name)
    assert read < found.decode_read < 1.15 * read  # scales and norms beside one byte a weight
    # The drafter's head is read by the clusters that its centroids choose.
    assert 0.5 * pair.drafter.parameters < found.draft_read < pair.drafter.parameters
    assert found.mapped > math.prod(shapes["model.embed_tokens_per_layer.weight"])


def test_a_bundle_without_our_parts_has_the_same_matrices(tiny_bundle: Path, tmp_path: Path) -> None:
    """Written by another's writer, without a manifest: all but the origins is known."""
    theirs, ours = (
        inventory_of(Bundle(write(Variant("fp32"), tmp_path / "o.litertlm"))),
        inventory_of(Bundle(tiny_bundle)),
    )
    assert {each.origin for each in theirs.holdings} == {"unknown", "-"}

    def matrices(inventory: Inventory) -> set[tuple[Any, ...]]:
        return {
            (each.section, each.role, each.encoding, each.layers, each.count, each.bytes)
            for each in inventory.holdings
            if each.role not in ("norms", "rotations", "other")
            and not (each.is_drafters and each.section == "prefill_decode")
        }

    assert matrices(theirs) == matrices(ours)
    assert (theirs.decode_read, theirs.draft_read) == (ours.decode_read, ours.draft_read)


def test_the_readable_form_is_narrow_and_the_json_has_all(tiny_int8_bundle: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(tiny_int8_bundle)])
    assert result.exit_code == 0, result.output
    lines = result.stdout[result.stdout.index("weights:") :].split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 100
    told = [" ".join(line.split()) for line in lines]
    assert "MLP, layers 0..5 int8 18 636 kB recipe int8 prefill_decode" in told
    assert any(line.startswith("drafter: attention int8 4 ") for line in told)
    assert any(line.startswith("KV cache fp32 8 ") for line in told)
    found = json.loads(CliRunner().invoke(main, ["inspect", "--json", str(tiny_int8_bundle)]).stdout)["weights"]
    assert {each["role"] for each in found["holdings"]} >= {"embedder", "per_layer_embedder", "head", "mlp"}
    assert found["caches"] == {"encoding": "fp32", "count": 8, "bytes": 786432}


def counts(bundle: Bundle) -> dict[tuple[str, tuple[int, ...], str], int]:
    """The target's matrices by role, layers and origin."""
    found = inventory_of(bundle).holdings
    return {(each.role, each.layers, each.origin): each.count for each in found if not each.is_drafters}


def test_overrides_and_short_rows_are_told(tiny_int8_bundle: Path) -> None:
    """Names in a manifest decide: the last pattern that matches, then what was kept, then the recipe's role."""
    bundle = Bundle(tiny_int8_bundle)
    manifest = json.loads(json.dumps(bundle.manifest))
    manifest["recipe"] |= {
        "name": "mine.toml",
        "roles": manifest["recipe"]["roles"] | {"attention": "int4b32", "mlp": "int4b32", "head": "fp32"},
        "overrides": {"*.mlp.*": "int4", "model.layers.3.mlp.*": "int8"},
        "int8_instead": ["model.layers.*.self_attn.q_proj.weight (6 tensors)"],
        "kept": {"int8": ["model.layers.*.self_attn.o_proj.weight (6 tensors)"], "int4": ["lm_head.weight (1 tensor)"]},
    }
    bundle.__dict__["manifest"] = manifest
    told = counts(bundle)
    assert told[("mlp", (3,), "override model.layers.3.mlp.*")] == 3
    assert told[("mlp", (0, 1, 2, 4, 5), "unknown")] == 15  # the bundle has not what the manifest says
    assert told[("attention", (), "checkpoint")] == 6
    assert told[("attention", (), "recipe mine.toml")] == 6
    assert told[("attention", (), "unknown")] == 8
    assert told[("head", (), "unknown")] == 1
    manifest["recipe"]["kept"] = {"int8": ["model.layers.*.self_attn.o_proj.weight (2 tensors)"]}
    told = counts(bundle)
    assert told[("attention", (), "checkpoint, 2 of them")] == 6


@pytest.mark.parametrize(
    "manifest", [None, [], {"recipe": 5}, {"recipe": {"name": 1, "roles": [], "kept": [3], "int8_instead": {"a": 1}}}]
)
def test_a_manifest_of_any_shape_is_read(manifest: Any) -> None:
    assert _Origins(manifest).recipe is None


def test_a_damaged_graph_is_refused_in_one_line(tiny_int8_bundle: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    data = np.frombuffer(tiny_int8_bundle.read_bytes(), np.uint8)
    section = Bundle(tiny_int8_bundle).section("TFLiteModel", "prefill_decode")
    assert section is not None
    refusals = []
    for _ in range(30):
        damaged = data.copy()
        at = generator.integers(section.begin, section.begin + 600_000, 40)
        damaged[at] = generator.integers(0, 256, 40)
        (tmp_path / "damaged.litertlm").write_bytes(damaged.tobytes())
        try:
            inventory_of(Bundle(tmp_path / "damaged.litertlm"))
        except EdgeMtpError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)
