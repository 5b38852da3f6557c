"""A bundle with one section replaced: all else stays, and our own graphs stay as far from their weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from litert_lm_builder import DType, LitertLmFileBuilder, Metadata
from synthetic_bundle import Graph, tflite_model

from edge_mtp.export.rewrite import ALIGNMENT, replace_section
from edge_mtp.export.writer import model_type
from edge_mtp.formats.bundle import Bundle, Section

OWN = {"aux": "cpu", "mtp_aux": "gpu", "artisan_text_decoder": "npu"}
LENDERS = ("embedder", "prefill_decode")
REST = "generic"
ORDERS = [
    ("per_layer_embedder", "artisan_text_decoder", "mtp_aux", "aux", *LENDERS, REST),
    ("per_layer_embedder", "mtp_aux", "artisan_text_decoder", "aux", *LENDERS, REST),
    ("artisan_text_decoder", "embedder", "aux", "prefill_decode"),
    (REST, "aux", "artisan_text_decoder"),
    ("artisan_text_decoder",),
]


def bundle(path: Path, order: tuple[str, ...]) -> Bundle:
    builder = LitertLmFileBuilder()
    builder.add_system_metadata(Metadata("Authors", "somebody", DType.STRING))
    builder.add_system_metadata(Metadata("number", 7, DType.INT32))
    for number, kind in enumerate(order):
        file = path.with_name(f"{number}")
        if kind == REST:
            file.write_bytes(b"anything" * 1000)
            builder.add_generic_binary_data(str(file), [Metadata("edge_mtp", "anything", DType.STRING)])
            continue
        file.write_bytes(tflite_model({"f": Graph({"x": f"f32[1,{number + 1}]"}, {"y": "f32[1]"})}))
        marks = [Metadata("edge_mtp", OWN[kind], DType.STRING)] if kind in OWN else []
        builder.add_tflite_model(str(file), model_type(kind), additional_metadata=marks)
    with path.open("w+b") as output:
        builder.build(output)
    return Bundle(path)


def npu(bundle: Bundle) -> Section:
    return next(s for s in bundle.sections if s.items.get("edge_mtp") == "npu")


@pytest.mark.parametrize("size", [1, ALIGNMENT, 300_000])
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_all_else_stays(order: tuple[str, ...], size: int, tmp_path: Path) -> None:
    before = bundle(tmp_path / "before.litertlm", order)
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path = tmp_path / "after.litertlm"
    replace_section(before, npu(before), memoryview(content), {"edge_mtp_soc": "SM8750"}, path)
    after = Bundle(path)
    assert (after.version, after.system_metadata) == (before.version, before.system_metadata)
    assert bytes(npu(after).data) == content
    assert npu(after).items == npu(before).items | {"edge_mtp_soc": "SM8750"}
    assert len(after.sections) == len(before.sections)
    for old, new in zip(before.sections, after.sections, strict=True):
        assert new.begin % ALIGNMENT == 0
        if old.items.get("edge_mtp") != "npu":
            assert (new.type, new.items, bytes(new.data)) == (old.type, old.items, bytes(old.data))
    ends = sorted((s.begin, s.end) for s in after.sections)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
    assert path.stat().st_size == ends[-1][1]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_graphs_are_as_far_from_their_weights(order: tuple[str, ...], tmp_path: Path) -> None:
    before = bundle(tmp_path / "before.litertlm", order)
    replace_section(before, npu(before), memoryview(bytes(50_000)), {}, tmp_path / "after.litertlm")
    after = Bundle(tmp_path / "after.litertlm")
    for one in before.sections:
        for other in before.sections[one.index + 1 :]:
            if one.items.get("edge_mtp") in ("cpu", "gpu") and other.model_type in LENDERS:
                distance = after.sections[other.index].begin - after.sections[one.index].begin
                assert distance == other.begin - one.begin


def test_items_that_outgrow_the_header_move_the_sections(tmp_path: Path) -> None:
    before = bundle(tmp_path / "before.litertlm", ORDERS[0])
    replace_section(before, npu(before), memoryview(b"x"), {"note": "n" * ALIGNMENT}, tmp_path / "after.litertlm")
    after = Bundle(tmp_path / "after.litertlm")
    assert min(s.begin for s in after.sections) == 2 * ALIGNMENT
    assert npu(after).items["note"] == "n" * ALIGNMENT
    assert bytes(after.sections[0].data) == bytes(before.sections[0].data)
