"""What a user can name as model, drafter and adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_mtp.errors import EdgeMtpError

pytest.importorskip("transformers")

from edge_mtp.export import catalogue, defaults, download, source, tiny
from edge_mtp.export.checkpoint import tiny_pair
from edge_mtp.export.gguf_file import find_gguf

E2B = catalogue.MODELS["E2B"]


class Hub:
    """Stands for downloads: a folder for each repository, and what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, str | None]] = []
        self.put(E2B.target, "config.json", {"model_type": "gemma4", "text_config": E2B.target_config})
        self.put(E2B.drafter, "config.json", E2B.drafter_config)
        self.put("someone/tune", "config.json", E2B.target_config)
        self.put("someone/lora", "adapter_config.json", {"base_model_name_or_path": E2B.target})

    def put(self, repository: str, name: str, content: dict[str, Any]) -> None:
        folder = self.folder(repository)
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))

    def folder(self, repository: str) -> Path:
        return self.root / repository.replace("/", "--") / "snapshots" / ("c" * 40)

    def fetch(self, repository: str, *, file: str | None = None, revision: str | None = None, **_: Any) -> Path:
        self.asked.append((f"{repository}/{file}" if file else repository, revision))
        if not self.folder(repository).is_dir():
            raise EdgeMtpError(f"{repository} is not on the Hub")
        return self.folder(repository)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(download, "fetch", hub.fetch)
    return hub


def test_tiny(hub: Hub) -> None:
    found = source.find("tiny")
    assert (found.target, found.drafter) == tiny_pair()
    assert defaults.context(found.target) == tiny.CONTEXT
    assert hub.asked == []
    with pytest.raises(EdgeMtpError, match="own drafter"):
        source.find("tiny", "somewhere")


@pytest.mark.parametrize("name", ["E2B", "e2b", E2B.target])
def test_stock_models_with_their_drafters(hub: Hub, name: str) -> None:
    found = source.find(name, revision="v1", drafter_revision="v2")
    assert hub.asked == [(E2B.target, "v1"), (E2B.drafter, "v2")]
    assert found.target == hub.folder(E2B.target)
    assert found.drafter == hub.folder(E2B.drafter)
    assert defaults.context(found.target) == E2B.context
    assert found.origins == {"target": f"{E2B.target}@{'c' * 40}", "drafter": f"{E2B.drafter}@{'c' * 40}"}


def test_a_tune_on_the_hub(hub: Hub) -> None:
    found = source.find("someone/tune")
    assert found.name == "tune"
    assert [repository for repository, _ in hub.asked] == ["someone/tune", E2B.drafter]


def test_folders(hub: Hub) -> None:
    target, drafter = tiny_pair()
    found = source.find(str(target), str(drafter))
    assert (found.target, found.drafter) == (target, drafter)
    assert found.origins == {"target": target.name, "drafter": drafter.name}
    assert hub.asked == []
    with pytest.raises(EdgeMtpError, match="--drafter"):
        source.find(str(target))
    with pytest.raises(EdgeMtpError, match="leave the revision out"):
        source.find(str(target), str(drafter), revision="v1")


def test_an_adapter_stands_for_its_base(hub: Hub) -> None:
    found = source.find("someone/lora")
    assert (found.name, found.target, found.adapter) == ("lora", hub.folder(E2B.target), hub.folder("someone/lora"))
    assert found.drafter == hub.folder(E2B.drafter)
    assert found.origins.keys() == {"target", "adapter", "drafter"}
    with pytest.raises(EdgeMtpError, match="adapter itself"):
        source.find("someone/lora", adapter="someone/lora")


def test_an_adapter_beside_its_base(hub: Hub) -> None:
    found = source.find("E2B", adapter=str(hub.folder("someone/lora")))
    assert (found.name, found.adapter) == ("E2B", hub.folder("someone/lora"))


def test_an_adapter_without_base(hub: Hub) -> None:
    hub.put("someone/bare", "adapter_config.json", {})
    with pytest.raises(EdgeMtpError, match="does not name its base"):
        source.find("someone/bare")


@pytest.mark.parametrize("name", ["./absent", "/absent", "E9B", "a/b/c", ""])
def test_no_such_thing(hub: Hub, name: str) -> None:
    with pytest.raises(EdgeMtpError, match="check the name"):
        source.find(name)
    assert hub.asked == []


def test_a_gguf_file(hub: Hub, tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "gemma-4-E2B_q4_0-it.gguf")
    found = source.find(str(path), E2B.drafter)
    assert (found.target, found.name) == (path, "gemma-4-E2B_q4_0-it")
    assert found.origins["target"] == path.name
    with pytest.raises(EdgeMtpError, match="is a file and has no revision 'v1'"):
        source.find(str(path), E2B.drafter, revision="v1")


def test_a_gguf_file_in_a_repository(hub: Hub) -> None:
    hub.put("someone/files", "README.md", {})
    gguf_file(hub.folder("someone/files") / "MTP" / "x.gguf")
    found = source.find("someone/files/MTP/x.gguf", E2B.drafter, revision="v1")
    assert hub.asked[0] == ("someone/files/MTP/x.gguf", "v1")
    assert found.target == hub.folder("someone/files") / "MTP" / "x.gguf"
    assert found.origins["target"] == f"someone/files@{'c' * 40}/MTP/x.gguf"


def test_a_folder_with_one_gguf_file(tmp_path: Path) -> None:
    for name in ("mmproj.gguf", "one.GGUF"):
        gguf_file(tmp_path / name)
    assert find_gguf(tmp_path) == tmp_path / "one.GGUF"
    gguf_file(tmp_path / "two.gguf")
    with pytest.raises(EdgeMtpError, match=r"holds one\.GGUF, two\.gguf: name one of them"):
        find_gguf(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert find_gguf(tmp_path) is None


def gguf_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    return path
