"""The container: the same sections give the same bytes, with any builder."""

from __future__ import annotations

import re
from pathlib import Path

import litert_lm_builder
import pytest
from synthetic_bundle import Graph, target, tflite_model

from edge_mtp.export.chat import Chat, llm_metadata
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.writer import model_type, write_bundle
from edge_mtp.formats.bundle import Bundle


def written(folder: Path, template: str = "{{ messages }}", own: str | None = None) -> Path:
    folder.mkdir()
    models = {
        "prefill_decode": {"decode": target(1)},
        "embedder": {"embed": Graph({"t": "i32[1,1]"}, {"e": "f32[1,1,8]"})},
    }
    files = {}
    for name, graphs in models.items():
        files[name] = folder / f"{name}.tflite"
        files[name].write_bytes(tflite_model(graphs))
    bundle = folder / "bundle"
    sections = write_bundle(
        bundle,
        metadata=llm_metadata(Chat(2, 0, [106], thinking=True, tools=True), template, 64),
        tokenizer=tiny_pair()[0] / "tokenizer.json",
        models=files,
        manifest={"edge_mtp": 1},
        token_table=b"EMTB",
        chat_template=own,
        scratch=folder,
    )
    assert ("chat_template" in sections) == (own is not None)
    return bundle


def test_the_same_sections_give_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = (written(tmp_path / n, t) for n, t in [("1", "a"), ("2", "a"), ("3", "b")])
    assert first.read_bytes() == again.read_bytes()
    told = [Bundle(path).system_metadata for path in (first, other)]
    assert told[0]["uuid"] != told[1]["uuid"]
    assert all(re.fullmatch(r"[0-9a-f-]{36}", str(each["uuid"])) for each in told)
    assert {str(each["creation_timestamp"])[:19] for each in told} == {"1970-01-01T00:00:00"}


def test_our_runtime_takes_the_checkpoints_own_template(tmp_path: Path) -> None:
    both = Bundle(written(tmp_path / "both", "the stock engine's", "é, the checkpoint's"))
    assert (both.metadata.chat_template, both.chat_template) == ("the stock engine's", "é, the checkpoint's")
    assert Bundle(written(tmp_path / "one", "the only one")).chat_template == "the only one"


def test_a_builder_without_the_enumeration_gets_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(litert_lm_builder, "TfLiteModelType", raising=False)
    assert model_type("mtp_drafter") == "mtp_drafter"
