"""Bundles: what the reader finds, what it refuses, and that damage never gives anything but a refusal."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_bundle import (
    CONTEXT,
    VOCAB,
    Graph,
    Parts,
    cpu_graphs,
    drafter,
    gpu_graphs,
    npu_graphs,
    stock_graphs,
    target,
    token_bytes,
)

from edge_mtp.cli.inspect import as_dict, report
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.tflite import Tensor
from edge_mtp.formats.token_bytes import TokenBytes
from edge_mtp.formats.wire import MalformedError


def test_sections_follow_one_another_in_blocks(synthetic_bundle: Path) -> None:
    bundle = Bundle(synthetic_bundle)
    assert bundle.version[0] == 1
    assert bundle.size == synthetic_bundle.stat().st_size
    assert [section.type for section in bundle.sections] == [
        "LlmMetadata",
        "HF_Tokenizer",
        *["TFLiteModel"] * 4,
        *["GenericBinaryData"] * 2,
    ]
    for section, following in zip(bundle.sections, bundle.sections[1:], strict=False):
        assert section.begin % (16 << 10) == 0
        assert section.end <= following.begin
    assert bundle.sections[-1].end == bundle.size


def test_header_values_keep_their_types(synthetic_bundle: Path) -> None:
    metadata = Bundle(synthetic_bundle).system_metadata
    assert metadata["Authors"] == "the tests"
    assert metadata["build"] == -7


def test_signatures_have_shapes_and_types(synthetic_bundle: Path) -> None:
    signatures = Bundle(synthetic_bundle).models["prefill_decode"].signatures
    verify = signatures["edge_verify_5"]
    assert verify.inputs["embeddings"] == Tensor((1, 5, 8), "f32")
    assert verify.inputs["draft"] == Tensor((1, 4), "i32")
    assert str(verify.outputs["logits"]) == f"f32[1,5,{VOCAB}]"
    assert verify.custom_ops == ("edge_mtp.verify",)
    assert signatures["verify"].custom_ops == ()


def test_metadata(synthetic_bundle: Path) -> None:
    metadata = Bundle(synthetic_bundle).metadata
    assert metadata.model_type == "gemma4"
    assert metadata.max_num_tokens == CONTEXT
    assert metadata.start_token == (2,)
    assert metadata.stop_tokens == ("<turn|>", (1, 300))
    assert metadata.chat_template == "{{ messages }}"
    assert metadata.tool_marks == {"code_fence_start": "<|tool_call>", "open_quote": '<|"|>'}
    assert metadata.supports_function_calling is True
    assert metadata.supports_thinking is not True


def test_tokenizer_and_manifest(synthetic_bundle: Path) -> None:
    bundle = Bundle(synthetic_bundle)
    assert bundle.tokenizer_kind == "HF"
    assert bundle.vocab_size == VOCAB
    assert bundle.tokenizer_json is not None
    assert json.loads(bundle.tokenizer_json)["model"]["vocab"]["!"] == 0
    assert bundle.manifest == {"edge_mtp": 1, "context_length": CONTEXT}


def test_bundle_of_others_has_no_manifest(tmp_path: Path) -> None:
    parts = Parts(manifest=None)
    bundle = Bundle(parts.write(tmp_path / "official.litertlm"))
    assert bundle.manifest is None
    assert bundle.mtp.complete
    assert bundle.mtp.edge_missing == ("no manifest section",)


def test_newer_manifest_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(Parts(manifest=b'{"edge_mtp": 2}').write(tmp_path / "new.litertlm"))
    with pytest.raises(EdgeMtpError, match="manifest version 2 is not 1; update edge-mtp"):
        _ = bundle.manifest


@pytest.mark.parametrize("manifest", [b"{", b"[1]", b'{"edge_mtp": "1"}', b"\xff\xfe", b"[" * 100_000])
def test_manifest_that_is_none_is_refused(tmp_path: Path, manifest: bytes) -> None:
    bundle = Bundle(Parts(manifest=manifest).write(tmp_path / "bad.litertlm"))
    with pytest.raises(EdgeMtpError, match="damaged"):
        _ = bundle.manifest


def test_token_bytes(synthetic_bundle: Path) -> None:
    table = Bundle(synthetic_bundle).token_bytes
    assert table is not None
    assert len(table) == VOCAB
    assert table[0] == b"!"
    assert table[VOCAB - 1] == b"<turn|>"
    assert [token for token in range(VOCAB) if table.is_special(token)] == [VOCAB - 1]
    with pytest.raises(IndexError):
        table[VOCAB]
    with pytest.raises(IndexError):
        table[-1]


@given(st.lists(st.binary(max_size=5)), st.sets(st.integers(0, 30)))
def test_token_bytes_hold_any_bytes(texts: list[bytes], special: set[int]) -> None:
    table = TokenBytes(memoryview(token_bytes(texts, special)))
    assert [table[token] for token in range(len(table))] == texts
    assert {token for token in range(len(table)) if table.is_special(token)} == special & set(range(len(texts)))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:11],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"EMTX" + data[4:],
        lambda data: data[:4] + struct.pack("<I", 2) + data[8:],
        lambda data: data[:8] + struct.pack("<I", 1 << 31) + data[12:],
        lambda data: data[:12] + struct.pack("<II", 3, 1) + data[20:],
    ],
    ids=["short", "truncated", "longer", "magic", "version", "count", "falling offsets"],
)
def test_token_bytes_refuse_another_layout(change: Any) -> None:
    with pytest.raises(MalformedError):
        TokenBytes(memoryview(change(token_bytes([b"ab", b"c", b"d"], set()))))


def test_complete_mtp(synthetic_bundle: Path) -> None:
    mtp = Bundle(synthetic_bundle).mtp
    assert mtp.present
    assert mtp.missing == ()
    assert mtp.edge_complete
    assert mtp.draft_length == 3
    assert mtp.edge_widths == (2, 3, 4, 5, 6, 7, 8)


def _without(*names: str) -> Parts:
    parts = Parts()
    parts.prefill_decode = {name: g for name, g in parts.prefill_decode.items() if name not in names}
    return parts


def _drafter(**inputs: str) -> Parts:
    graph = drafter()
    return Parts(drafter=Graph(graph.inputs | inputs, graph.outputs))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (Parts(drafter=None), "no mtp_drafter section"),
        (Parts(embedder=None), "no embedder section"),
        (_without("verify"), "prefill_decode has no `verify` signature"),
        (
            Parts(prefill_decode={"decode": target(1), "verify": target(4, logits=False)}),
            "`verify` has no `activations` output",
        ),
        (
            _drafter(kv_cache_k_1="i8[1,1,64,4]"),
            "mtp_drafter reads kv_cache_k_1 as i8[1,1,64,4], the target has f32[1,1,64,4]",
        ),
        (
            _drafter(kv_cache_v_7="f32[1,1,4,64]"),
            "mtp_drafter reads kv_cache_v_7 as f32[1,1,4,64], the target has nothing of that name",
        ),
        (
            _drafter(activations="f32[1,1,8]"),
            "mtp_drafter takes activations f32[1,1,8], not twice the width of the target's f32[1,4,8]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_incomplete_mtp_says_why(tmp_path: Path, parts: Parts, reason: str) -> None:
    mtp = Bundle(parts.write(tmp_path / "incomplete.litertlm")).mtp
    assert reason in mtp.missing
    assert not mtp.complete
    assert not mtp.edge_complete
    assert mtp.present == (parts.drafter is not None)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (_without("edge_decode"), "no `edge_decode` signature"),
        (_without("edge_draft_3"), "no `edge_draft_3` signature beside `edge_verify_4`"),
        (
            _without(*(f"edge_verify_{t}" for t in range(2, 9))),
            "no `edge_verify_T` signature",
        ),
        (
            Parts(prefill_decode=Parts().prefill_decode | {"edge_verify_2": target(2)}),
            "`edge_verify_2` does not hold the edge_mtp.verify op",
        ),
        (Parts(token_bytes=b""), "no token_bytes section"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_incomplete_edge_signatures_say_why(tmp_path: Path, parts: Parts, reason: str) -> None:
    mtp = Bundle(parts.write(tmp_path / "incomplete.litertlm")).mtp
    assert mtp.complete
    assert mtp.edge_missing == (reason,)


def _split(**changes: Any) -> Parts:
    """Ours in sections of their own."""
    ours = {"aux": cpu_graphs(), "mtp_aux": gpu_graphs(), "text_encoder": npu_graphs()}
    return Parts(**{"prefill_decode": stock_graphs(), **ours, **changes})


def _together(**changes: Any) -> Parts:
    """Ours in one section for all accelerators, as in older bundles."""
    whole = cpu_graphs() | gpu_graphs() | npu_graphs()
    ours = {"aux": whole, "mtp_aux": None, "text_encoder": None, "marks": {"aux": "graphs"}}
    return _split(**{**ours, **changes})


@pytest.mark.parametrize("parts", [_split(), _together()], ids=["split", "together"])
def test_our_own_signatures_are_found_in_their_sections(tmp_path: Path, parts: Parts) -> None:
    bundle = Bundle(parts.write(tmp_path / "ours.litertlm"))
    assert bundle.mtp.edge_complete
    assert bundle.mtp.edge_widths == (4,)
    assert bundle.accelerators == ("cpu", "gpu", "npu")
    last = bundle.section("TFLiteModel", "mtp_drafter")
    assert last is not None
    for accelerator, types in (
        ("cpu", ("aux",)),
        ("gpu", ("mtp_aux", "aux")),
        ("npu", ("text_encoder", "aux")),
    ):
        ours = bundle.own_graphs(accelerator)
        assert ours is not None
        assert ours.model_type == next(each for each in types if bundle.section("TFLiteModel", each))
        assert bytes(bundle.content(ours)) == Path(bundle.path).read_bytes()[ours.begin : last.end]
    assert bundle.content(last) == last.data


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ({}, ("cpu", "gpu", "npu")),
        ({"mtp_aux": None}, ("cpu", "npu")),
        ({"mtp_aux": {n: g for n, g in gpu_graphs().items() if n != "gpu_draft_3"}}, ("cpu", "npu")),
        ({"mtp_aux": {n: g for n, g in gpu_graphs().items() if n != "gpu_prefill_16"}}, ("cpu", "npu")),
        ({"aux": {n: g for n, g in cpu_graphs().items() if n != "edge_decode"}}, ("gpu", "npu")),
        ({"text_encoder": {n: g for n, g in npu_graphs().items() if n != "npu_decode"}}, ("cpu", "gpu")),
        ({"drafter": None}, ()),
        ({"marks": {}}, ()),
        ({"marks": {"aux": "cpu"}}, ("cpu",)),
    ],
    ids=lambda value: "" if isinstance(value, dict) else "-".join(value) or "none",
)
def test_an_accelerator_is_served_by_what_is_whole(
    tmp_path: Path, changes: dict[str, Any], served: tuple[str, ...]
) -> None:
    assert Bundle(_split(**changes).write(tmp_path / "split.litertlm")).accelerators == served


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"nowhere\.litertlm: No such file"):
        Bundle(tmp_path / "nowhere.litertlm")
    with pytest.raises(EdgeMtpError, match="directory"):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"LITER", "not a .litertlm bundle"),
        (lambda data: b"TFL3" + data, "not a .litertlm bundle"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:100], "truncated: its header ends at byte"),
        (lambda data: data[:-1], "truncated: section 7"),
        (lambda data: data[:8] + struct.pack("<I", 2) + data[12:], "is not 1.x; update edge-mtp"),
        (lambda data: data[:24] + struct.pack("<Q", 8) + data[32:], "damaged"),
        (lambda data: data[:32] + b"\xff" * 4 + data[36:], "the header is damaged"),
    ],
)
def test_refusals_name_the_file_and_the_cure(tmp_path: Path, synthetic_bundle: Path, change: Any, message: str) -> None:
    path = tmp_path / "broken.litertlm"
    path.write_bytes(change(synthetic_bundle.read_bytes()))
    with pytest.raises(EdgeMtpError) as refusal:
        Bundle(path)
    text = str(refusal.value)
    assert message in text
    assert text.startswith(str(path))
    assert "\n" not in text
    assert any(cure in text for cure in ("export it again", "export the bundle again", "check the path"))


def refusal_of(path: Path) -> str | None:
    """Asks for everything there is: the refusal, which is the one allowed exception, or None where all can be read."""
    try:
        bundle = Bundle(path)
        json.dumps(as_dict(bundle))
        "\n".join(report(bundle)).encode()
    except EdgeMtpError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "damaged.litertlm"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(synthetic_bundle: Path, damaged: Path, data: st.DataObject) -> None:
    content = bytearray(synthetic_bundle.read_bytes())
    spots = [at for at, byte in enumerate(content) if byte]  # most of the file is padding
    flips = st.tuples(st.sampled_from(spots), st.integers(-4, 4), st.integers(0, 255))
    for spot, shift, byte in data.draw(st.lists(flips, min_size=1, max_size=4)):
        content[min(max(spot + shift, 0), len(content) - 1)] = byte
    damaged.write_bytes(content)
    refusal = refusal_of(damaged)
    assert refusal is None or (refusal.startswith(str(damaged)) and "\n" not in refusal)


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0, 1))
def test_truncation_is_always_refused(synthetic_bundle: Path, damaged: Path, share: float) -> None:
    content = synthetic_bundle.read_bytes()
    damaged.write_bytes(content[: int(share * (len(content) - 1))])
    with pytest.raises(EdgeMtpError):
        Bundle(damaged)


def test_garbage_is_refused(damaged: Path) -> None:
    noise = random.Random(1)
    for _ in range(100):
        body = noise.randbytes(noise.randrange(4000))
        header = b"LITERTLM" + struct.pack("<IIIIQ", 1, 7, 0, 0, min(32 + len(body), noise.randrange(32, 4032)))
        damaged.write_bytes(header + body)
        refusal = refusal_of(damaged)
        assert refusal is not None
        assert refusal.startswith(str(damaged))
        assert "\n" not in refusal


def test_sections_beyond_4_gib(tmp_path: Path, synthetic_bundle: Path) -> None:
    last = Bundle(synthetic_bundle).sections[-1]
    content = synthetic_bundle.read_bytes()
    far = 5 << 30
    for place, moved in [(last.begin, far), (last.end, far + last.size)]:
        assert content.count(struct.pack("<Q", place)) == 1
        content = content.replace(struct.pack("<Q", place), struct.pack("<Q", moved))
    path = tmp_path / "far.litertlm"
    with path.open("wb") as file:  # a hole, not 5 GiB on disk
        file.write(content[: last.begin])
        file.seek(far)
        file.write(content[last.begin : last.end])
    bundle = Bundle(path)
    assert bundle.mtp.edge_complete
    assert bundle.token_bytes is not None
    assert bundle.token_bytes[VOCAB - 1] == b"<turn|>"


def test_exported_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    assert bundle.mtp.missing == ()
    assert bundle.mtp.edge_missing == ()
    assert bundle.mtp.edge_widths == (2, 3, 4, 5, 6, 7, 8)
    assert bundle.metadata.model_type == "gemma4"
    assert bundle.metadata.chat_template
    assert bundle.manifest is not None
    assert bundle.token_bytes is not None
    assert bundle.vocab_size is not None
    logits = bundle.models["prefill_decode"].signatures["decode"].outputs["logits"]
    assert len(bundle.token_bytes) == logits.shape[-1] >= bundle.vocab_size
