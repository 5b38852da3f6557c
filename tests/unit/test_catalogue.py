"""The catalogue: published sizes, and which drafter belongs to a target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import catalogue
from edge_mtp.export.catalogue import MODELS, matching_drafter, model

# Billions of parameters of the text decoder (the model cards', less vision and audio) and millions of the drafter.
PUBLISHED = {"E2B": (4.63, 78), "E4B": (7.46, 78.8), "12B": (11.9, 423), "31B": (30.7, 470), "26B-A4B": (25.2, 420)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the config.json of a full multimodal E4B."""
    write(tmp_path, {"model_type": "gemma4", "text_config": MODELS["E4B"].target_config})
    return tmp_path


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_names() -> None:
    assert set(MODELS) == set(PUBLISHED)
    assert model("e2b").target == "google/gemma-4-E2B-it"
    assert model("26B-A4B").drafter == "google/gemma-4-26B-A4B-it-assistant"
    with pytest.raises(EdgeMtpError, match=r"'E3B'.*E2B, E4B, 12B, 31B, 26B-A4B"):
        model("E3B")


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_those_of_the_published_models(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from edge_mtp.export.checkpoint import random_pair

    pair = random_pair(name, 0, tmp_path)
    target, drafter = PUBLISHED[name]
    assert pair.target.parameters / 1e9 == pytest.approx(target, rel=0.005)
    assert pair.drafter.parameters / 1e6 == pytest.approx(drafter, rel=0.005)
    config = pair.target.config
    # The drafter reads the last layer of each kind that keeps its own KV.
    own = config.num_hidden_layers - config.num_kv_shared_layers
    assert list(pair.kv_layers.values()) == [own - 2, own - 1]


@pytest.mark.parametrize("name", MODELS)
def test_kv_bytes_are_those_of_the_configuration(name: str) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoConfig

    known = MODELS[name]
    config = AutoConfig.for_model(**known.target_config)
    own = config.num_hidden_layers - config.num_kv_shared_layers
    layers = [config.per_layer_config[layer] for layer in range(own)]
    assert known.kv_bytes == sum(2 * 4 * layer.num_key_value_heads * layer.head_dim for layer in layers)


@pytest.mark.parametrize(("name", "mebibytes"), [("E2B", 144), ("E4B", 448), ("12B", 1344), ("31B", 1760)])
def test_kv_cache_at_the_default_context(name: str, mebibytes: int) -> None:
    assert MODELS[name].kv_bytes * MODELS[name].context == mebibytes << 20


@pytest.mark.parametrize("name", MODELS)
def test_drafter_of_the_stock_model(name: str, tmp_path: Path) -> None:
    known = MODELS[name]
    write(tmp_path, {"model_type": "gemma4", "text_config": known.target_config})
    assert matching_drafter(tmp_path) == known.drafter
    assert matching_drafter(tmp_path, known.target) == known.drafter
    write(tmp_path, known.target_config)
    assert matching_drafter(tmp_path, "someone/my-tune") == known.drafter


def test_the_shape_wins_over_a_name(checkpoint: Path) -> None:
    assert matching_drafter(checkpoint, "someone/distilled-from-gemma-4-E2B-it") == MODELS["E4B"].drafter


@pytest.mark.parametrize(
    "front",
    [
        "base_model: google/gemma-4-E4B-it-qat-q4_0-unquantized",
        "license: x\nbase_model:\n- google/gemma-4-E4B-it-qat-q4_0-unquantized\ntags:\n- a/b",
        "base_model:\n  - google/gemma-4-E4B-it-qat-q4_0-unquantized",
    ],
)
def test_quantization_aware_checkpoints_have_their_own(checkpoint: Path, front: str) -> None:
    expected = "google/gemma-4-E4B-it-qat-q4_0-unquantized-assistant"
    assert matching_drafter(checkpoint, "google/gemma-4-E4B-it-qat-q4_0-unquantized") == expected
    assert matching_drafter(checkpoint) == MODELS["E4B"].drafter
    (checkpoint / "README.md").write_text(f"---\n{front}\n---\n# A tune\n", encoding="utf-8")
    assert matching_drafter(checkpoint) == expected


@pytest.mark.parametrize(
    ("name", "base", "quantized"),
    [
        ("google/gemma-4-E4B-it-qat-q4_0-gguf", None, True),
        ("google/gemma-4-E4B-it-qat-q4_0-gguf/gemma-4-E4B_q4_0-it.gguf", None, True),
        ("models/gemma-4-E4B_q4_0-it.gguf", None, True),
        ("models/gemma-4-E4B-it-Q4_0.gguf", None, False),
        ("models/mine.gguf", "https://huggingface.co/google/gemma-4-E4B-it-qat-q4_0-unquantized", True),
        ("models/mine.gguf", "https://huggingface.co/google/gemma-4-E4B-it", False),
    ],
)
def test_drafter_of_a_gguf_file(
    name: str, base: str | None, quantized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File:
        metadata = {"general.base_model.0.repo_url": base} if base else {}

        def __init__(self, path: Path) -> None:
            assert path == tmp_path / "x.gguf"

    monkeypatch.setattr(catalogue, "GgufFile", File)
    monkeypatch.setattr(catalogue, "config_of", lambda file: MODELS["E4B"].target_config)
    (tmp_path / "x.gguf").touch()
    stock = "google/gemma-4-E4B-it"
    expected = f"{stock}-qat-q4_0-unquantized-assistant" if quantized else f"{stock}-assistant"
    assert matching_drafter(tmp_path / "x.gguf", name) == expected


def test_names_of_quantized_forms() -> None:
    found = catalogue.find("26b-a4b-qat-gguf")
    assert found is not None
    assert (found.name, found.target) == ("26B-A4B-QAT-GGUF", "google/gemma-4-26B-A4B-it-qat-q4_0-gguf")
    assert found.drafter == "google/gemma-4-26B-A4B-it-qat-q4_0-unquantized-assistant"


def test_no_drafter_is_known(checkpoint: Path) -> None:
    write(checkpoint, MODELS["E4B"].target_config | {"num_hidden_layers": 41})
    with pytest.raises(EdgeMtpError, match="--drafter"):
        matching_drafter(checkpoint, "google/gemma-4-E4B-it")


def test_needs_no_torch(tmp_path: Path) -> None:
    code = f"import sys, {catalogue.__name__}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    # Elsewhere than in the repository, whose folders would hide the installed package.
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
