"""`edge-mtp inspect`: the readable form and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_bundle import Parts

from edge_mtp.cli import main
from edge_mtp.harness.stats.figures import ranges


def inspect(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_readable_form(synthetic_bundle: Path) -> None:
    text = inspect(synthetic_bundle)
    assert text.isascii()
    assert max(map(len, text.splitlines()[1:])) <= 120
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "4 TFLiteModel prefill_decode 81920 29.8 kB" in lines
    assert "prefill_decode: 19 signatures, 14 ops in 19 subgraphs" in lines
    assert "prefill_n, n = 16,32" in lines
    assert "edge_verify_n, n = 2..8 [edge_mtp.verify]" in lines
    assert "edge_draft_n, n = 1..7 [edge_mtp.draft]" in lines
    assert "draft i32[1,n-1]" in text
    assert "kv_cache_k_0..2 f32[1,1,64,4]" in text
    assert "tokenizer: HF, 40 tokens" in lines
    assert 'stop_tokens: ["<turn|>", [1, 300]]' in lines
    assert lines[-3:] == [
        "MTP: present, complete, draft length 3",
        "edge signatures: complete, verify widths 2..8",
        "accelerators: cpu",
    ]


def test_reasons_stand_under_what_is_missing(tmp_path: Path) -> None:
    lean = Parts(manifest=None, drafter=None)
    lean.prefill_decode = {n: g for n, g in lean.prefill_decode.items() if not n.startswith("edge_")}
    text = inspect(lean.write(tmp_path / "lean.litertlm"))
    assert text.endswith(
        "MTP: absent\n  no mtp_drafter section\n"
        "edge signatures: absent\n  no manifest section\n  no `edge_decode` signature\n"
        "  no `edge_verify_T` signature\naccelerators: none has signatures of its own\n"
    )


def test_json_is_complete(synthetic_bundle: Path) -> None:
    found = json.loads(inspect("--json", synthetic_bundle))
    assert found["size"] == synthetic_bundle.stat().st_size
    assert len(found["sections"]) == 8
    assert found["sections"][6]["items"] == {"edge_mtp": "manifest"}
    signatures = found["models"]["prefill_decode"]["signatures"]
    assert len(signatures) == 19
    assert signatures["edge_verify_3"]["inputs"]["draft"] == {"shape": [1, 2], "dtype": "i32"}
    assert signatures["edge_verify_3"]["custom_ops"] == ["edge_mtp.verify"]
    assert found["tokenizer"] == {"kind": "HF", "vocab_size": 40}
    assert found["metadata"]["chat_template"] == "{{ messages }}"
    assert found["mtp"]["complete"] is True
    assert found["mtp"]["edge_complete"] is True
    assert found["mtp"]["draft_length"] == 3
    assert found["manifest"]["edge_mtp"] == 1
    assert found["token_bytes"] == 40


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_refusal_prints_nothing_on_stdout(tmp_path: Path, flag: list[str]) -> None:
    path = tmp_path / "no.litertlm"
    path.write_bytes(b"nothing of that kind")
    result = CliRunner().invoke(main, ["inspect", str(path), *flag])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {path}: not a .litertlm bundle")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([4], "4"), ([0, 1, 2, 3, 5], "0..3,5"), ([8, 2, 7], "2,7..8"), ([128, 1024], "128,1024")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_exported_bundle(tiny_bundle: Path, tiny_int8_bundle: Path) -> None:
    for path in (tiny_bundle, tiny_int8_bundle):
        text = inspect(path)
        assert "MTP: present, complete, draft length 3" in text
        assert "edge signatures: complete, verify widths 2..8" in text
    assert tiny_int8_bundle.stat().st_size < tiny_bundle.stat().st_size


def test_both_chat_templates_are_told(tmp_path: Path) -> None:
    manifest = json.dumps({"edge_mtp": 1, "stock_template": {"kind": "translated", "reason": ""}}).encode()
    bundle = Parts(manifest=manifest, chat_template="stock's", own_template="own one").write(tmp_path / "both.litertlm")
    text = inspect(bundle)
    assert "chat template: the checkpoint's own, 7 characters\n" in text
    assert "  the stock engine has the metadata's (translated)\n" in text
    found = json.loads(inspect("--json", bundle))
    assert (found["chat_template"], found["metadata"]["chat_template"]) == ("own one", "stock's")
    alone = inspect(Parts(chat_template="one").write(tmp_path / "one.litertlm"))
    assert "the stock engine has" not in alone
