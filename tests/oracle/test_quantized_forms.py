"""Matrices in the forms that quantizers write, held against compressed-tensors' own compressors and converters."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.entrypoints.convert.converters import AutoAWQConverter
from compressed_tensors.quantization import QuantizationScheme
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.quantization_config import QuantizationMethod

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.encodings import decode
from edge_mtp.export.quantization import form_of
from edge_mtp.export.weights import SafetensorsWeights

MODULE = "model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"
SCRATCH = tempfile.TemporaryDirectory()
COUNT = itertools.count()
Floats = npt.NDArray[np.float32]


def opened(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], quantization: Mapping[str, Any]
) -> SafetensorsWeights:
    """What the exporter reads from a checkpoint of these tensors."""
    folder = Path(SCRATCH.name) / str(next(COUNT))
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    form = form_of({"quantization_config": quantization}, folder / "config.json")
    assert form is not None
    return SafetensorsWeights(folder, [folder / "model.safetensors"], shapes, form)


def held(weights: SafetensorsWeights, name: str = NAME) -> Floats:
    """A matrix as the bundle's kernels see it."""
    return decode(weights.encoded(name), weights.encodings[name], weights.names[name][-1])


def in_module(tensors: Mapping[str, Tensor], module: str = MODULE) -> dict[str, Tensor]:
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}


# -- compressed-tensors -----------------------------------------------------------------------------------------------


def scheme_of(bits: int, group: int | None, strategy: str | None = None) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy or "channel"}
    if group:
        weights |= {"strategy": "group", "group_size": group}
    return {"targets": ["Linear"], "weights": weights}


def compressed_config(form: str, *schemes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    groups = {f"group_{place}": scheme for place, scheme in enumerate(schemes)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": [], **more}


def compressed(
    form: str, scheme: Mapping[str, Any], shape: tuple[int, ...], seed: int, kind: torch.dtype
) -> tuple[dict[str, Tensor], Tensor]:
    """A random matrix by compressed-tensors' own compressor, and what its own decompression makes of it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) / 8
    said = scheme["weights"]
    group = said.get("group_size", shape[-1])
    largest = (
        values.reshape(*shape[:-1], -1, group).abs().amax(-1) if said["strategy"] != "tensor" else values.abs().max()
    )
    scale = (largest / 2 ** (said["num_bits"] - 1)).to(kind).float()
    compressor = BaseCompressor.get_value_from_registry(form)
    parsed = QuantizationScheme(**scheme)
    scale = scale if scale.ndim else scale.reshape(1)
    stored = compressor.compress({"weight": values, "weight_scale": scale}, parsed)
    wanted = compressor.decompress(stored, parsed)["weight"]
    return stored | {"weight_scale": scale.to(kind)}, wanted.float()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_compressed_tensors_packs(data: st.DataObject) -> None:
    """1 to 8 bits, by rows and groups, rows that end within a word: the same numbers, none rounded."""
    bits = data.draw(st.integers(1, 8), "bits")
    group = data.draw(st.sampled_from([None, 32, 64, 96, 128, 256, 512]), "group") if bits <= 4 else None
    rows = data.draw(st.integers(1, 9), "rows")
    width = group * data.draw(st.integers(2, 3), "groups") if group else 4 * data.draw(st.integers(9, 60), "width")
    form = data.draw(st.sampled_from(["pack-quantized", "int-quantized", "naive-quantized"]), "form")
    strategy = None if group else data.draw(st.sampled_from(["channel", "tensor"]), "strategy")
    kind = torch.float16 if group else data.draw(st.sampled_from([torch.float32, torch.bfloat16]), "scales")
    scheme = scheme_of(bits, group, strategy)
    tensors, wanted = compressed(form, scheme, (rows, width), data.draw(st.integers(0, 2**31)), kind)
    weights = opened(in_module(tensors), {NAME: (rows, width)}, compressed_config(form, scheme))
    np.testing.assert_array_equal(held(weights), wanted.numpy())
    np.testing.assert_array_equal(weights.read(NAME), wanted.numpy())
    first = data.draw(st.integers(0, rows), "first")
    np.testing.assert_array_equal(weights.read(NAME, first, rows), wanted.numpy()[first:])
    assert weights.left_out == ()
    if form == "pack-quantized":
        assert not [note for note in weights.notes if "tensors count" in note]


def test_groups_of_any_size_become_blocks() -> None:
    found = {}
    for group in (32, 64, 96, 128, 160, 256, 512, 768):
        scheme = scheme_of(4, group)
        tensors, _ = compressed("pack-quantized", scheme, (4, 2 * group), 1, torch.float16)
        weights = opened(in_module(tensors), {NAME: (4, 2 * group)}, compressed_config("pack-quantized", scheme))
        found[group] = weights.encodings[NAME].block
    assert found == {32: 32, 64: 64, 96: 32, 128: 128, 160: 32, 256: 256, 512: 256, 768: 256}


def test_scales_that_float16_does_not_hold() -> None:
    """XNNPACK refuses a model for a block scale of 0, so the smallest number takes its place."""
    scheme = scheme_of(4, 32)
    tensors, _ = compressed("pack-quantized", scheme, (4, 64), 1, torch.float16)
    tensors["weight_scale"] = torch.full((4, 2), 1e-12)
    tensors["weight_scale"][0, 0] = 0
    weights = opened(in_module(tensors), {NAME: (4, 64)}, compressed_config("pack-quantized", scheme))
    found = weights.encoded(NAME)
    assert found.scales is not None
    assert (found.scales == np.float16(2.0**-24)).all()
    assert not held(weights)[0, :32].any()
    tensors["weight_scale"][0, 0] = 1e6
    beyond = opened(in_module(tensors), {NAME: (4, 64)}, compressed_config("pack-quantized", scheme))
    with pytest.raises(EdgeMtpError, match=r"up_proj.weight has a scale .* more than 65504"):
        beyond.encoded(NAME)


def test_two_bits_in_groups_are_widened_and_told() -> None:
    scheme = scheme_of(2, 64)
    tensors, wanted = compressed("pack-quantized", scheme, (6, 128), 1, torch.float16)
    weights = opened(in_module(tensors), {NAME: (6, 128)}, compressed_config("pack-quantized", scheme))
    assert weights.encodings[NAME].name == "int4b64"
    np.testing.assert_array_equal(held(weights), wanted.numpy())
    assert weights.notes == (
        "2 bits in groups of 64: held as int4b64, which loses nothing: model.layers.*.mlp.up_proj.weight (1 tensor)",
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("zero", [0, 3])
def test_zero_points_count_by_their_values(packed: bool, zero: int) -> None:
    scheme = scheme_of(4, 32)
    tensors, wanted = compressed("pack-quantized", scheme, (10, 64), 1, torch.float16)
    zeros = torch.zeros(10, 2, dtype=torch.int8)
    zeros[9, 1] = zero
    tensors["weight_zero_point"] = pack_to_int32(zeros, 4, packed_dim=0) if packed else zeros
    tensors["weight_g_idx"] = torch.arange(64, dtype=torch.int32) // 32
    config = compressed_config("pack-quantized", scheme)
    if zero:
        with pytest.raises(EdgeMtpError, match=r"up_proj.weight has zero point 3 .*symmetric: true"):
            opened(in_module(tensors), {NAME: (10, 64)}, config)
        return
    weights = opened(in_module(tensors), {NAME: (10, 64)}, config)
    np.testing.assert_array_equal(held(weights), wanted.numpy())
    assert weights.left_out == ()


def test_an_order_of_activations_is_refused() -> None:
    scheme = scheme_of(4, 32)
    tensors, _ = compressed("pack-quantized", scheme, (4, 64), 1, torch.float16)
    tensors["weight_g_idx"] = torch.arange(64, dtype=torch.int32) % 2
    with pytest.raises(EdgeMtpError, match="actorder: static"):
        opened(in_module(tensors), {NAME: (4, 64)}, compressed_config("pack-quantized", scheme))


def test_trained_scales_of_caches_and_activations() -> None:
    whole = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
    scheme = scheme_of(4, 32) | {"input_activations": whole, "output_activations": whole}
    tensors, _ = compressed("pack-quantized", scheme, (4, 64), 1, torch.float16)
    stored = in_module(tensors | {"input_scale": torch.tensor([0.25]), "output_scale": torch.tensor([0.5])})
    attention = "model.language_model.layers.3.self_attn"
    stored |= {f"{attention}.k_scale": torch.tensor([0.125]), f"{attention}.v_scale": torch.tensor([2.0])}
    config = compressed_config("pack-quantized", scheme, kv_cache_scheme=whole)
    weights = opened(stored, {NAME: (4, 64)}, config)
    assert weights.ranges == {MODULE: (0.25, 0.5)}
    assert weights.cache_scales == {"3.k": 0.125, "3.v": 2.0}
    assert weights.left_out == ()
    # Scales of floats and of single heads are none of an int8 cache.
    for change in ({"type": "float"}, {"strategy": "attn_head"}, {"symmetric": False}, {"dynamic": True}):
        other = opened(stored, {NAME: (4, 64)}, config | {"kv_cache_scheme": whole | change})
        assert not other.cache_scales
        assert other.left_out == (
            "model.layers.*.self_attn.k_scale (1 tensor)",
            "model.layers.*.self_attn.v_scale (1 tensor)",
        )


def test_the_tensors_decide_and_contradictions_are_told() -> None:
    scheme = scheme_of(4, 32)
    tensors, _ = compressed("pack-quantized", scheme_of(8, None), (4, 64), 1, torch.float32)
    down, gate = "model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj"
    more, _ = compressed("pack-quantized", scheme, (4, 64), 2, torch.float16)
    stored = in_module(tensors) | in_module(more, down) | {f"{gate}.weight": torch.ones(4, 64)}
    shapes = {NAME: (4, 64), f"{down}.weight": (4, 64), f"{gate}.weight": (4, 64)}
    weights = opened(stored, shapes, compressed_config("pack-quantized", scheme) | {"ignore": ["re:.*down_proj"]})
    assert [weights.encodings[name].name for name in (NAME, f"{down}.weight")] == ["int8", "int4b32"]
    assert weights.notes == (
        "config.json says no quantization of what has 4 bits in groups of 32, and the tensors count:"
        " model.layers.*.mlp.down_proj.weight (1 tensor)",
        "config.json says 4 bits in groups of 32 of what has 8 bits a row, and the tensors count:"
        " model.layers.*.mlp.up_proj.weight (1 tensor)",
        "config.json says 4 bits in groups of 32 of what has no quantization, and the tensors count:"
        " model.layers.*.mlp.gate_proj.weight (1 tensor)",
    )
    # The most specific target counts, and an expression that may take forever is not tried.
    named = scheme_of(8, None) | {"targets": ["re:.*up_proj"]}
    both = compressed_config("pack-quantized", scheme, named)
    assert not [note for note in opened(stored, shapes, both).notes if "up_proj" in note]
    slow = scheme | {"targets": ["re:(.*a)*b"]}
    assert opened(stored, shapes, compressed_config("pack-quantized", slow)).notes == ()


@pytest.mark.parametrize(
    ("form", "tensors", "said"),
    [
        ("float-quantized", {}, "8-bit floats"),
        ("nvfp4-pack-quantized", {}, "4-bit floats"),
        ("mxfp4-pack-quantized", {}, "4-bit floats"),
        ("marlin-24", {}, "2:4 sparsity"),
        ("naive-quantized", {"weight": torch.ones(4, 64, dtype=torch.float8_e4m3fn)}, "stored as F8_E4M3"),
        ("mixed-precision", {"weight_packed": torch.ones(4, 32, dtype=torch.uint8)}, "stored as U8"),
        ("int-quantized", {"weight": torch.arange(256, dtype=torch.int16).to(torch.int8).reshape(4, 64),
                           "weight_scale": torch.ones(4, 2)}, "8 bits in groups of 32"),
        ("pack-quantized", {"weight_packed": torch.ones(4, 33, dtype=torch.int32)}, "33 words"),
        ("pack-quantized", {"weight_packed": torch.ones(4, 8, dtype=torch.int32), "weight_scale": torch.ones(4, 4)},
         "4 bits in groups of 16"),
    ],
)  # fmt: skip
def test_what_compressed_tensors_stores_and_litert_cannot(form: str, tensors: dict[str, Tensor], said: str) -> None:
    stored = in_module({"weight_scale": torch.ones(4, 1)} | tensors)
    with pytest.raises(EdgeMtpError, match="before quantization") as refusal:
        opened(stored, {NAME: (4, 64)}, compressed_config(form))
    assert said in str(refusal.value)


# -- GPTQ and AWQ -----------------------------------------------------------------------------------------------------


def by_columns(bits: int, rows: int, width: int, group: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random integers int8 [n,k] and scales float16 [groups, n]."""
    generator = torch.Generator().manual_seed(seed)
    span = (-(2 ** (bits - 1)), 2 ** (bits - 1))
    integers = torch.randint(*span, (rows, width), generator=generator, dtype=torch.int8)
    return integers, torch.rand(width // group, rows, generator=generator).half() + 2.0**-10


def gptq(integers: Tensor, scales: Tensor, bits: int, less: int = 1) -> dict[str, Tensor]:
    """As GPTQ stores them; compressed-tensors packs along any axis."""
    groups, rows = scales.shape
    zeros = torch.full((groups, rows), -less, dtype=torch.int8)
    width = integers.shape[1]
    return {
        "qweight": pack_to_int32(integers.T.contiguous(), bits, packed_dim=0),
        "qzeros": pack_to_int32(zeros, bits, packed_dim=1),
        "scales": scales,
        "g_idx": torch.arange(width, dtype=torch.int32) // (width // groups),
    }


def weights_of(integers: Tensor, scales: Tensor) -> Floats:
    group = integers.shape[1] // len(scales)
    found: Floats = (integers.float() * scales.T.float().repeat_interleave(group, dim=1)).numpy()
    return found


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_symmetric_gptq_loses_nothing(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([2, 4, 8]), "bits")
    less = data.draw(st.sampled_from([0, 1]), "format")
    rows = 16 * data.draw(st.integers(1, 4), "rows")
    group = data.draw(st.sampled_from([32, 64, 128, 256]), "group")
    width = group * (1 if bits == 8 else data.draw(st.integers(1, 3), "groups"))
    integers, scales = by_columns(bits, rows, width, group, data.draw(st.integers(0, 2**31)))
    tensors = gptq(integers, scales, bits, less)
    config = GPTQ | {"checkpoint_format": "gptq" if less else "gptq_v2"}
    weights = opened(in_module(tensors), {NAME: (rows, width)}, config)
    wanted = weights_of(integers, scales)
    np.testing.assert_array_equal(held(weights), wanted)
    first = data.draw(st.integers(0, rows), "first")
    last = data.draw(st.integers(first, rows), "last")
    np.testing.assert_array_equal(weights.read(NAME, first, last), wanted[first:last])
    assert weights.left_out == ()


def test_zero_points_of_gptq_are_named() -> None:
    integers, scales = by_columns(4, 16, 128, 32, 1)
    tensors = gptq(integers, scales, 4)
    zeros = unpack_from_int32(tensors["qzeros"], 4, torch.Size((4, 16)), packed_dim=1)
    zeros[2, 5] += 1
    tensors["qzeros"] = pack_to_int32(zeros, 4, packed_dim=1)
    with pytest.raises(EdgeMtpError, match=r"up_proj.weight has zero point 9 in group 2 of row 5.*sym=True"):
        opened(in_module(tensors), {NAME: (16, 128)}, GPTQ)
    # The same words mean other zero points in the other format.
    with pytest.raises(EdgeMtpError, match="zero point 7 in group 0 of row 0"):
        opened(in_module(gptq(integers, scales, 4)), {NAME: (16, 128)}, GPTQ | {"checkpoint_format": "gptq_v2"})
    auto_round = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    np.testing.assert_array_equal(
        held(opened(in_module(gptq(integers, scales, 4)), {NAME: (16, 128)}, auto_round)),
        weights_of(integers, scales),
    )


def test_gptq_in_an_order_of_activations_is_refused() -> None:
    integers, scales = by_columns(4, 16, 128, 32, 1)
    tensors = gptq(integers, scales, 4)
    tensors["g_idx"] = tensors["g_idx"].flip(0)
    with pytest.raises(EdgeMtpError, match=r"column 0 in group 3.*desc_act=False"):
        opened(in_module(tensors), {NAME: (16, 128)}, GPTQ)


def test_gptq_in_eight_bits_and_groups_is_refused() -> None:
    integers, scales = by_columns(8, 16, 128, 32, 1)
    with pytest.raises(EdgeMtpError, match=r"8 bits in groups of 32.*before quantization"):
        opened(in_module(gptq(integers, scales, 8)), {NAME: (16, 128)}, GPTQ)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq(integers: Tensor, scales: Tensor, zero: int = 8) -> dict[str, Tensor]:
    def packed(counted: Tensor) -> Tensor:
        eights = counted.reshape(len(counted), -1, 8)[..., AWQ_ORDER].reshape(len(counted), -1)
        return pack_to_int32((eights - 8).to(torch.int8), 4)

    return {
        "qweight": packed(integers.T + 8),
        "qzeros": packed(torch.full(scales.shape, zero)),
        "scales": scales,
    }


@given(st.integers(1, 5), st.sampled_from([32, 64, 128]), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_symmetric_awq_loses_nothing(eights: int, group: int, groups: int, seed: int) -> None:
    """compressed-tensors' converter reads the same integers from AWQ's words."""
    rows, width = 8 * eights, group * groups
    integers, scales = by_columns(4, rows, width, group, seed)
    tensors = in_module(awq(integers, scales))
    theirs = AutoAWQConverter(group_size=group).process(dict(tensors))
    found = unpack_from_int32(theirs[f"{MODULE}.weight_packed"], 4, torch.Size((rows, width)))
    wanted = found.float() * theirs[f"{MODULE}.weight_scale"].float().repeat_interleave(group, dim=1)
    weights = opened(tensors, {NAME: (rows, width)}, {"quant_method": "awq", "bits": 4})
    np.testing.assert_array_equal(held(weights), wanted.numpy())
    np.testing.assert_array_equal(weights.read(NAME, 3, rows - 2), wanted.numpy()[3 : rows - 2])
    assert weights.left_out == ()


def test_zero_points_of_awq_are_named() -> None:
    integers, scales = by_columns(4, 16, 128, 32, 1)
    with pytest.raises(EdgeMtpError, match=r"zero point 7 in group 0 of row 0.*sym=True"):
        opened(in_module(awq(integers, scales, 7)), {NAME: (16, 128)}, {"quant_method": "awq"})


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "awq", "version": "GEMV"},
        {"quant_method": "awq", "format": "llm-awq"},
        {"quant_method": "gptq", "checkpoint_format": "marlin"},
        {"quant_method": "gptq", "format": "gptq_p"},
        {"quant_method": "gptq", "is_marlin_format": True},
        {"quant_method": "auto-round", "packing_format": "auto_round:fp8"},
    ],
)
def test_other_orders_of_weights_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(EdgeMtpError, match=r"edge-mtp does not know.*before quantization"):
        opened({NAME: torch.ones(16, 128)}, {NAME: (16, 128)}, config)


# -- bitsandbytes -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_bitsandbytes_in_eight_bits(rows: int, width: int, seed: int) -> None:
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    largest = values.abs().amax(1)
    integers = torch.round(values * (127 / largest)[:, None]).to(torch.int8)
    tensors = {"weight": integers, "SCB": largest, "weight_format": torch.zeros((), dtype=torch.uint8)}
    weights = opened(in_module(tensors), {NAME: (rows, width)}, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert weights.encodings[NAME].name == "int8"
    np.testing.assert_array_equal(held(weights), (integers.float() * (largest / 127)[:, None]).numpy())
    assert weights.left_out == ()


def test_bitsandbytes_in_four_bits_is_refused() -> None:
    tensors = {"weight": torch.zeros(8, 1, dtype=torch.uint8), "weight.absmax": torch.zeros(1)}
    for config in ({"load_in_4bit": True}, {}):
        with pytest.raises(EdgeMtpError, match="nf4"):
            opened(in_module(tensors), {NAME: (4, 4)}, {"quant_method": "bitsandbytes"} | config)


# -- every other ------------------------------------------------------------------------------------------------------

TAKEN = {"gemma", "compressed-tensors", "gptq", "awq", "auto-round", "bitsandbytes"}


@pytest.mark.parametrize("method", sorted({each.value for each in QuantizationMethod} - TAKEN))
def test_each_method_of_transformers_has_a_reason(method: str) -> None:
    with pytest.raises(EdgeMtpError, match="before quantization") as refusal:
        form_of({"quantization_config": {"quant_method": method}}, Path("config.json"))
    assert "does not know:" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("method", sorted(TAKEN))
def test_a_checkpoint_of_floats_is_what_it_is(method: str) -> None:
    weights = opened({NAME: torch.ones(4, 64)}, {NAME: (4, 64)}, {"quant_method": method})
    assert not weights.encodings
    np.testing.assert_array_equal(weights.read(NAME), np.ones((4, 64), np.float32))
    assert any(json.dumps(method).strip('"') in note for note in weights.notes)


# -- experts ----------------------------------------------------------------------------------------------------------

EXPERTS = "model.layers.0.experts"


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_experts_that_are_modules_become_one_table(data: st.DataObject) -> None:
    """Each expert by compressed-tensors' own compressor; some with fewer bits than others."""
    count, inner, width = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([8, 24])), 64
    group = data.draw(st.sampled_from([None, 32]))
    stored: dict[str, Tensor] = {}
    wanted = []
    for expert in range(count):
        for kind in ("gate_proj", "up_proj"):
            bits = 4 if group else data.draw(st.sampled_from([2, 4, 8]))
            tensors, values = compressed(
                "pack-quantized", scheme_of(bits, group), (inner, width), expert, torch.float16
            )
            stored |= in_module(tensors, f"{EXPERTS}.{expert}.{kind}")
            wanted.append(values)
    name = f"{EXPERTS}.gate_up_proj"
    weights = opened(stored, {name: (count, 2 * inner, width)}, compressed_config("pack-quantized"))
    table = torch.stack(wanted).reshape(count, 2 * inner, width).numpy()
    np.testing.assert_array_equal(weights.read(name), table)
    np.testing.assert_array_equal(held(weights, name).reshape(table.shape), table)
    first = data.draw(st.integers(0, count))
    np.testing.assert_array_equal(weights.read(name, first), table[first:])
    assert weights.left_out == ()


@pytest.mark.parametrize("names", [("weight", "weight_scale"), ("weight_packed", "weight_scale")])
def test_experts_in_one_tensor(names: tuple[str, str]) -> None:
    scheme = scheme_of(8, None)
    form = "pack-quantized" if "packed" in names[0] else "int-quantized"
    tensors, wanted = compressed(form, scheme, (3, 16, 64), 1, torch.bfloat16)
    name = f"{EXPERTS}.down_proj"
    stored = {name if names[0] == "weight" else f"{name}.{names[0]}": tensors[names[0]]}
    stored[f"{name}.{names[1]}"] = tensors["weight_scale"]
    weights = opened(stored, {name: (3, 16, 64)}, compressed_config(form))
    np.testing.assert_array_equal(weights.read(name), wanted.numpy())
    np.testing.assert_array_equal(held(weights, name).reshape(3, 16, 64), wanted.numpy())


def test_experts_that_are_modules_in_floats() -> None:
    parts = {f"{EXPERTS}.{expert}.down_proj.weight": torch.randn(16, 64) for expert in range(3)}
    name = f"{EXPERTS}.down_proj"
    weights = opened(parts, {name: (3, 16, 64)}, compressed_config("pack-quantized"))
    np.testing.assert_array_equal(weights.read(name, 1), torch.stack(list(parts.values()))[1:].numpy())
    tensors, _ = compressed("pack-quantized", scheme_of(8, None), (16, 64), 1, torch.float32)
    mixed = {name: value for name, value in parts.items() if ".1." not in name}
    mixed |= in_module(tensors, f"{EXPERTS}.1.down_proj")
    with pytest.raises(EdgeMtpError, match=r"experts.1.down_proj.weight is quantized and .*experts.0.down_proj"):
        opened(mixed, {name: (3, 16, 64)}, compressed_config("pack-quantized"))


# -- strange tensors --------------------------------------------------------------------------------------------------

STRANGE = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool, torch.float16, torch.float32, torch.int16]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_strange_tensors_are_one_line(data: st.DataObject) -> None:
    integers, scales = by_columns(4, 16, 64, 32, 1)
    packed, _ = compressed("pack-quantized", scheme_of(4, 32), (16, 64), 1, torch.float16)
    packed |= {"weight_zero_point": torch.zeros(16, 2, dtype=torch.int8), "weight_g_idx": torch.arange(64) // 32}
    forms: dict[str, dict[str, Tensor]] = {
        "compressed-tensors": packed,
        "gptq": gptq(integers, scales, 4),
        "awq": awq(integers, scales),
        "gemma": {"weight": torch.zeros(16, 32, dtype=torch.uint8), "weight_scale": torch.ones(16, 1)},
        "bitsandbytes": {"weight": integers.repeat(1, 1), "SCB": torch.ones(16), "weight_format": torch.zeros(())},
    }
    method = data.draw(st.sampled_from(sorted(forms)))
    part = data.draw(st.sampled_from(sorted(forms[method])))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 8, 16, 64]), max_size=3))
    tensors = forms[method] | {part: torch.ones(shape).to(data.draw(st.sampled_from(STRANGE)))}
    said = ""
    try:
        weights = opened(in_module(tensors), {NAME: (16, 64)}, {"quant_method": method})
        assert weights.read(NAME).shape == (16, 64)
        if weights.encodings:
            assert held(weights).shape == (16, 64)
    except EdgeMtpError as refusal:
        said = str(refusal)
    assert len(said.splitlines()) <= 1
