"""GGUF files: weights, configurations and tokenizers held against the package `gguf`, transformers and the published
tokenizer."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import gemma_vocabulary
import gguf
import gguf_files
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edge_mtp.cache import cache_folder, exclusive
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.checkpoint import Checkpoint, Pair, load_drafter, load_target, open_pair, tiny_pair
from edge_mtp.export.encodings import ENCODINGS, decode
from edge_mtp.export.gguf_config import config_of
from edge_mtp.export.gguf_file import GgufFile
from edge_mtp.export.gguf_tokenizer import unpack_template, unpack_tokenizer
from edge_mtp.export.gguf_weights import GgufWeights
from edge_mtp.export.models import _packed_reader
from edge_mtp.export.pipeline import Summary, export_bundle
from edge_mtp.export.verify import verify
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.manifest import EDGE_KEY

TARGET, DRAFTER = tiny_pair()
MATRIX = "blk.0.ffn_up.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """The tiny target in bf16, as it was trained."""
    return gguf_files.tiny(Kind.BF16, folder)


def pair_of(target: Path, drafter: Path = DRAFTER) -> Pair:
    return open_pair(target, drafter, tokenizer=TARGET)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", gguf_files.WRITTEN)
def test_weights_are_those_of_the_package(kind: Kind, folder: Path) -> None:
    path = gguf_files.tiny(kind, folder)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    weights = pair_of(path).target.weights
    for name, shape in weights.names.items():
        tensor = theirs[gguf_files.gguf_name(name)]
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        np.testing.assert_array_equal(weights.read(name), wanted)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_rows_of_any_type_the_package_knows(data: st.DataObject) -> None:
    kinds = [kind for kind in Kind if kind.name[:2] in ("Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "IQ") and _known(kind)]
    kind = data.draw(st.sampled_from(kinds))
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    content = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 256, (rows, blocks * size), np.uint8)
    path = families.tiny_checkpoints.workspace() / f"{kind.name}.gguf"
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_tensor("x", content, raw_dtype=kind)
    _finish(writer)
    tensor = GgufFile(path).tensors["x"]
    assert tensor.shape == (rows, blocks * block)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    with np.errstate(all="ignore"):
        wanted = gguf.dequantize(content, kind)[start:stop]
    np.testing.assert_array_equal(tensor.rows(start, stop), wanted)


def _known(kind: Kind) -> bool:
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def test_fused_queries_keys_and_values_come_apart(folder: Path) -> None:
    fused = gguf_files.write(TARGET, folder / "fused.gguf", fused=True)
    weights, wanted = pair_of(fused).target.weights, pair_of(TARGET).target.weights
    for name in wanted.names:
        np.testing.assert_array_equal(weights.read(name), wanted.read(name))


def test_blocks_with_positive_steps_are_taken_as_they_are(folder: Path) -> None:
    path = gguf_files.write(TARGET, folder / "lattice.gguf", Kind.Q4_0, change=gguf_files.on_lattice)
    weights = pair_of(path).target.weights
    assert len(weights.encodings) == 45
    assert set(weights.encodings.values()) == {ENCODINGS["int4b32"]}
    assert {"model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"} == set(weights.foreign)
    for name, shape in weights.names.items():
        if name in weights.encodings:
            given_back = decode(weights.encoded(name), ENCODINGS["int4b32"], shape[1])
            np.testing.assert_array_equal(given_back, weights.read(name))


def test_of_other_blocks_only_the_level_eight_moves(folder: Path) -> None:
    weights = pair_of(gguf_files.tiny(Kind.Q4_0, folder)).target.weights
    assert weights.encodings == {}
    assert set(weights.nearly) == set(weights.foreign)
    for name, encoding in weights.nearly.items():
        width = weights.names[name][1]
        encoded, wanted = weights.encoded(name), weights.read(name)
        assert encoded.scales is not None
        steps = np.repeat(encoded.scales.astype(np.float32), 32, axis=1)
        found = decode(encoded, encoding, width)
        moved = found != wanted
        np.testing.assert_array_equal(wanted[moved], 8 * steps[moved])
        np.testing.assert_array_equal(found[moved], 7 * steps[moved])
        assert 0 < moved.mean() < 0.04


def test_a_step_of_zero_means_zeros(folder: Path) -> None:
    def zeroed(name: str, values: Any) -> Any:
        return values * 0 if name == MATRIX else values

    weights = pair_of(gguf_files.write(TARGET, folder / "zeros.gguf", Kind.Q4_0, change=zeroed)).target.weights
    name = "model.layers.0.mlp.up_proj.weight"
    encoded = weights.encoded(name)
    assert encoded.scales is not None
    assert (encoded.scales > 0).all()
    assert not decode(encoded, weights.encodings[name], weights.names[name][1]).any()


def test_experts_are_read_by_rows(tmp_path: Path) -> None:
    """A bundle's matrix has the rows of all experts, and a checkpoint's first axis is the experts."""
    target, drafter = families.pair("26B-A4B")
    path = gguf_files.write(target, tmp_path / "experts.gguf", Kind.Q4_0, change=gguf_files.on_lattice)
    weights = open_pair(path, drafter, tokenizer=target).target.weights
    name = "model.layers.0.experts.gate_up_proj"
    experts, rows, width = weights.names[name]
    assert weights.encodings[name] == ENCODINGS["int4b32"]
    wanted = weights.read(name).reshape(experts * rows, width)
    read = _packed_reader(weights, name, wanted.shape)
    for start, stop in ((0, 1), (rows - 1, rows + 2), (5, experts * rows)):
        np.testing.assert_array_equal(decode(read(start, stop), ENCODINGS["int4b32"], width), wanted[start:stop])


# -- configurations ---------------------------------------------------------------------------------------------------

# What no key of the metadata says, or says otherwise to the same effect.
UNSAID = {
    "architectures", "dtype", "model_type", "eos_token_id", "use_bidirectional_attention", "vocab_size_per_layer_input",
}  # fmt: skip
UNSAID_OF_DRAFTERS = UNSAID | {"centroid_intermediate_top_k", "num_centroids", "attention_k_eq_v", "text_config"}


@pytest.mark.parametrize("name", ["tiny", *families.FAMILIES])
def test_configurations_weights_and_logits_of_a_family(name: str, tmp_path: Path) -> None:
    """Both models of a pair from GGUF files and from safetensors: each field, each weight, each logit."""
    originals = (TARGET, DRAFTER) if name == "tiny" else families.pair(name)
    files = [
        gguf_files.write(each, tmp_path / f"{each.name}.gguf", Kind.F32, tokenizer=originals[0]) for each in originals
    ]
    found = open_pair(files[0], files[1], tokenizer=originals[0])
    wanted = open_pair(*originals)
    configs = [
        (found.target.config, wanted.target.config, UNSAID, 40),
        (found.drafter.config, wanted.drafter.config, UNSAID_OF_DRAFTERS, 13),
        (found.drafter.config.text_config, wanted.drafter.config.text_config, UNSAID_OF_DRAFTERS, 35),
    ]
    for ours, theirs, unsaid, least in configs:
        one, other = ours.to_dict(), theirs.to_dict()
        fields = (one.keys() & other.keys()) - unsaid  # a unified model lacks a few
        assert len(fields) >= least - 6 * (name == "12B")
        assert {field: one[field] for field in fields} == {field: other[field] for field in fields}
    for mine, original in ((found.target, wanted.target), (found.drafter, wanted.drafter)):
        assert mine.weights.names == original.weights.names
        for tensor in original.weights.names:
            np.testing.assert_array_equal(mine.weights.read(tensor), original.weights.read(tensor))
    assert found.kv_layers == wanted.kv_layers
    ids = torch.randint(5, 500, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = [load_target(each.target)(ids).logits for each in (found, wanted)]
    torch.testing.assert_close(*logits, atol=0, rtol=0)
    assert load_drafter(found.drafter) is not None


def test_logits_are_those_of_transformers(folder: Path) -> None:
    """transformers' own loading of the original, and for Q4_0 of the values that the package tells."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    ids = torch.randint(5, 1000, (2, 60), generator=torch.Generator().manual_seed(2))
    for kind in (Kind.BF16, Kind.Q4_0):
        path = gguf_files.tiny(kind, folder)
        if kind is Kind.Q4_0:
            told = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
            state = theirs.state_dict()
            for name in load_file(TARGET / "model.safetensors"):
                tensor = told[gguf_files.gguf_name(name)]
                values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(state[name].shape)
                state[name].copy_(torch.tensor(values))
        with torch.no_grad():
            wanted, found = theirs(ids).logits, load_target(pair_of(path).target)(ids).logits
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_drafter_without_centroids_is_dense(folder: Path) -> None:
    """So are those that llama.cpp's converter writes."""

    def dense(name: str, values: Any) -> Any:
        return None if name.startswith("masked") else values

    pair = pair_of(TARGET, gguf_files.write(DRAFTER, folder / "dense.gguf", change=dense))
    assert pair.drafter.config.use_ordered_embeddings is False
    assert load_drafter(pair.drafter).masked_embedding is None


# -- tokenizers -------------------------------------------------------------------------------------------------------

PIECES = [
    "\n", "\n\n", "\t", " ", "  ", "a", "if", "<h1>", "</table>", "<unused7>", "▁", "▁▁", "1", "é", "中文", "😊",
    "<", ">", "[multimodal]", "|", '"', "\r", "\x00", "Hello", "world", "don't", "<0x0A>", "<|turn>", "<turn|>",
    '<|"|>', "ﷺ", "print(x)", "{'k': [1, 2]}", "Ünïcödé", "\u200d", "🏳️‍🌈", "ครับ",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Gemma's published tokenizer, and what a GGUF file of it gives."""
    source = gemma_vocabulary.tokenizer_json()
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "gemma4")
    for key, value in gguf_files.vocabulary(source.parent).items():
        gguf_files._add(writer, key, value)
    _finish(writer)
    (folder / "rebuilt").mkdir()
    unpack_tokenizer(GgufFile(path), folder / "rebuilt")
    return Tokenizer.from_file(str(source)), Tokenizer.from_file(str(folder / "rebuilt" / "tokenizer.json"))


@given(st.lists(st.tuples(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), st.integers(1, 40)), max_size=12))
@settings(max_examples=1000, deadline=None)
def test_ids_are_those_of_the_published_tokenizer(
    tokenizers: tuple[Tokenizer, Tokenizer], parts: list[tuple[str, int]]
) -> None:
    text = "".join(piece * (count if count > 35 else 1) for piece, count in parts)
    wanted, found = (each.encode(text, add_special_tokens=False).ids for each in tokenizers)
    assert found == wanted
    assert tokenizers[0].decode(wanted, skip_special_tokens=False) == tokenizers[1].decode(
        found, skip_special_tokens=False
    )


def test_names_and_template_come_along(folder: Path, plain: Path) -> None:
    (folder / "names").mkdir()
    unpack_template(GgufFile(plain), folder / "names")
    assert (folder / "names" / "chat_template.jinja").read_text("utf-8") == pair_of(TARGET).chat_template
    with pytest.raises(EdgeMtpError, match="has no ▁, so it is not Gemma's: give --tokenizer"):
        open_pair(plain, DRAFTER)


def test_another_tokenizer_is_refused(plain: Path, tmp_path: Path) -> None:
    changed = (TARGET / "tokenizer.json").read_text("utf-8").replace('"alarm"', '"alarms"')
    (tmp_path / "tokenizer.json").write_text(changed, encoding="utf-8")
    with pytest.raises(EdgeMtpError, match="use the model's own tokenizer"):
        open_pair(plain, DRAFTER, tokenizer=tmp_path)


# -- whole exports ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(folder: Path) -> Callable[[str, Path, str], Summary]:
    def bundle(name: str, target: Path, recipe: str) -> Summary:
        path = folder / f"{name}.litertlm"
        with exclusive(cache_folder(), lambda: None):
            return export_bundle(pair_of(target), None, path, recipe=recipe, context=256, widths=(2, 5))

    return bundle


def test_the_graphs_are_those_of_the_original(exported: Callable[[str, Path, str], Summary], plain: Path) -> None:
    """Every section but the manifest, which names the files, is the same to the byte; so every text is the same."""
    ours, theirs = (
        [bytes(section.data) for section in Bundle(exported(name, target, "int8").path).sections]
        for name, target in (("plain", plain), ("original", TARGET))
    )
    assert len(ours) == len(theirs)
    differing = [one for one, other in zip(ours, theirs, strict=True) if one != other]
    assert len(differing) == 1
    assert EDGE_KEY.encode() in differing[0]


@pytest.mark.parametrize(("name", "recipe"), [("lattice", "int8"), ("nearly", "int4-block")])
def test_a_bundle_holds_the_files_integers(
    name: str, recipe: str, exported: Callable[[str, Path, str], Summary], folder: Path
) -> None:
    if name == "lattice":
        path = gguf_files.write(TARGET, folder / "kept.gguf", Kind.Q4_0, change=gguf_files.on_lattice, tokenizer=TARGET)
    else:
        path = gguf_files.tiny(Kind.Q4_0, folder)
    summary, pair = exported(name, path, recipe), pair_of(path)
    found = verify(Bundle(summary.path), pair)
    if name == "lattice":
        assert (summary.kept, summary.nearly, summary.anew) == ({"int4b32": 45}, {}, {"Q4_0": 2})
    else:
        assert (summary.kept, summary.nearly, summary.anew) == ({}, {"int4b32": 47}, {})
    assert found.missing == ()
    assert set(found.exact) == set(pair.target.weights.encodings)
    assert bool(found.exact) == (name == "lattice")
    assert all(share > 0.96 for share in found.nearly.values())
    if name == "nearly":
        assert set(found.nearly) == set(pair.target.weights.nearly)
        with open_engine(summary.path, threads=1) as engine:
            texts = [engine.chat("Wake me at 6:40", max_tokens=40, draft_length=k).wait().tokens for k in (0, 4)]
        assert texts[0] == texts[1]


# -- files of strangers -----------------------------------------------------------------------------------------------


def opened(path: Path) -> Checkpoint:
    return pair_of(path).target


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_truncated_or_damaged_file_is_one_line(seed: int) -> None:
    folder = families.tiny_checkpoints.workspace()
    content = bytearray(gguf_files.tiny(Kind.Q4_0, folder).read_bytes())
    generator = np.random.default_rng(seed)
    header = 30_000
    if seed % 2:
        content = content[: int(generator.integers(0, header if seed % 4 == 1 else len(content)))]
    else:
        for place in generator.integers(0, header, generator.integers(1, 4)):
            content[int(place)] = int(generator.integers(0, 256))
    path = folder / "damaged.gguf"
    path.write_bytes(content)
    said = refusal(path)
    if seed % 2:
        assert said is not None
    if said is not None:
        assert str(path) in said
        assert "\n" not in said


def refusal(path: Path) -> str | None:
    """What is said of a file; None where it is read."""
    try:
        config_of(GgufFile(path))
    except EdgeMtpError as error:
        return str(error)
    return None


def header(tensors: int = 0, keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header does not end"),
        (b"PK\x03\x04" + b"\0" * 99, "does not begin as one"),
        (header(version=1), "version is 1"),
        (header(version=1 << 24), "version is 16777216"),
        (header(tensors=1 << 60), "1152921504606846976 tensors, more than"),
        (header(keys=1 << 60), "1152921504606846976 keys, more than"),
        (header(keys=1, rest=struct.pack("<Q", 1 << 62)), "a text has"),
        (header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 0, 1 << 62)), "elements in an array"),
        (header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 8, 1 << 21)), "header does not end"),
        (header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 9, 1)), "an array holds type 9"),
        (header(keys=1, rest=text("a") + struct.pack("<I", 77)), "a value has type 77"),
        (header(keys=2, rest=2 * (text("a") + struct.pack("<IB", 0, 1))), "a twice"),
        (header(keys=1, rest=struct.pack("<Q", 1) + b"\xff"), "not UTF-8"),
        (header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 3)), "no power of two"),
        (header(keys=1, rest=text("split.count") + struct.pack("<II", 4, 2)), "one part of several"),
        (header(tensors=1, rest=text("x") + struct.pack("<IQIQ", 1, 32, 999, 0)), "type 999"),
        (header(tensors=1, rest=text("x") + struct.pack("<IQIQ", 1, 33, 2, 0)), "x is 33 in Q4_0"),
        (header(tensors=1, rest=text("x") + struct.pack("<IQIQ", 1, 32, 0, 1 << 60)), "bytes of"),
        (header(tensors=1, rest=text("x") + struct.pack("<IQQIQ", 2, 1 << 39, 1 << 39, 0, 0)), "bytes of"),
        (header(tensors=1, rest=text("x") + struct.pack("<I", 1 << 31)), "dimensions"),
        (header(tensors=2, rest=2 * (text("x") + struct.pack("<IQIQ", 1, 1, 0, 0))), "two tensors of one name"),
    ],
)
def test_a_hostile_header_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(EdgeMtpError) as refusal:
        GgufFile(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.architecture": None}, "is a 'None'"),
        ({"general.architecture": "llama"}, "is a 'llama': give the GGUF file of a Gemma 4"),
        ({"gemma4.block_count": None}, "has no gemma4.block_count"),
        ({"gemma4.block_count": 1 << 30}, "expected is 1073741824 flags"),
        ({"gemma4.block_count": "six"}, "expected is a whole number"),
        ({"gemma4.feed_forward_length": [1, 2, 3, 4, 5, 6]}, "which no Gemma 4 has"),
        ({"gemma4.feed_forward_length": [192]}, "a whole number, or 6 of them"),
        ({"gemma4.attention.value_length": 32}, "expected is 64"),
        ({"gemma4.rope.scaling.type": "yarn"}, "expected is none"),
        ({"gemma4.rope.freq_base": float("nan")}, "expected is a number"),
        ({"gemma4.embedding_length": 1 << 30}, "more than 134217728"),
        ({"gemma4.embedding_length_per_layer_input": 32}, "its metadata say"),
        ({"gemma4.attention.key_length": 48}, "value_length"),
        ({"tokenizer.ggml.eos_token_id": 1 << 30}, "which is no token"),
    ],
)
def test_odd_metadata_are_one_line(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    architecture = keys.pop("general.architecture", "gemma4")
    path = gguf_files.write(TARGET, tmp_path / "odd.gguf", keys=keys, tokenizer=TARGET)
    content = path.read_bytes()
    if architecture != "gemma4":
        other = text("general.architecture") + struct.pack("<I", 8) + text(architecture or "")
        if architecture is None:
            other = text("general.architecturf") + struct.pack("<I", 8) + text("gemma4")
        whole = text("general.architecture") + struct.pack("<I", 8) + text("gemma4")
        moved = content.replace(whole, other, 1)
        path.write_bytes(moved + b"\0" * 64)
    with pytest.raises(EdgeMtpError) as refusal:
        opened(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (MATRIX, lambda values: None, f"lacks 1 tensors, first {MATRIX}"),
        (MATRIX, lambda values: values[:-1], f"{MATRIX} is 191x128, its metadata say 192x128"),
        ("token_embd.weight", lambda values: None, "has no tensor token_embd.weight"),
        ("rope_freqs.weight", lambda values: None, "has no tensor rope_freqs.weight"),
        ("rope_freqs.weight", lambda values: values * 2, "which no Gemma 4 has"),
        ("rope_freqs.weight", lambda values: values[:-1], "expected are 32 numbers"),
        (MATRIX, lambda values: values.astype(np.int32), "is in I32"),
    ],
)
def test_odd_tensors_are_named(name: str, change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    path = gguf_files.write(
        TARGET, tmp_path / "odd.gguf", change=lambda each, values: change(values) if each == name else values
    )
    with pytest.raises(EdgeMtpError) as refusal:
        opened(path)
    assert said in str(refusal.value)


def test_steps_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    path = gguf_files.write(TARGET, tmp_path / "nan.gguf", Kind.Q4_0)
    tensor = next(each for each in gguf.GGUFReader(path).tensors if each.name == MATRIX)
    with path.open("r+b") as file:
        file.seek(int(tensor.data_offset))
        file.write(np.float16("nan").tobytes())
    with pytest.raises(EdgeMtpError, match=r"blk\.0\.ffn_up\.weight has a step that is no number"):
        opened(path)


def test_what_the_package_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError

    path = gguf_files.tiny(Kind.Q5_1, folder)
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "dequantize", refuse)
        with pytest.raises(EdgeMtpError, match="tensors in Q5_1, which the package gguf cannot read"):
            opened(path)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "gguf", None)
        with pytest.raises(EdgeMtpError, match=r"needs the package gguf .*pip install"):
            GgufFile(path)


def test_the_wrong_one_of_a_pair(plain: Path, folder: Path) -> None:
    drafter = gguf_files.write(DRAFTER, folder / "drafter.gguf")
    with pytest.raises(EdgeMtpError, match=r"target .* has model_type 'gemma4_assistant'"):
        pair_of(drafter)
    with pytest.raises(EdgeMtpError, match=r"drafter .* has model_type 'gemma4_text'"):
        pair_of(TARGET, plain)


def test_an_ordering_of_fractions_is_no_ordering(folder: Path) -> None:
    def half(name: str, values: Any) -> Any:
        return values + 0.5 if name == "masked_embd_ordering" else values

    weights = pair_of(TARGET, gguf_files.write(DRAFTER, folder / "half.gguf", change=half)).drafter.weights
    with pytest.raises(EdgeMtpError, match="numbers that are no tokens"):
        weights.read("masked_embedding.token_ordering")
    assert isinstance(weights, GgufWeights)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
