"""Downloads from the Hub: what is fetched, continued, pinned and refused, against a stand-in on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub

pytest.importorskip("huggingface_hub")

REPO = "someone/gemma-4-tiny-it"
OLD, NEW = "a" * 40, "b" * 40
TINY = Path(__file__).parents[2] / "edge_mtp" / "tiny" / "target"
# Without a clean process the library would keep the endpoint and the cache that it read when first imported.
FETCH = """
import json, sys
from edge_mtp.errors import EdgeMtpError
from edge_mtp.export.download import commit, fetch
told = []
try:
    path = fetch(**json.loads(sys.argv[1]), progress=lambda stage, fraction: told.append([stage, fraction]))
    print(json.dumps({"path": str(path), "commit": commit(path), "told": told}))
except EdgeMtpError as error:
    print(json.dumps({"error": str(error)}))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two commits of the tiny target; the new one has another chat template and what is not wanted."""
    root = tmp_path_factory.mktemp("hub")
    for name in (OLD, NEW):
        shutil.copytree(TINY, root / name)
    (root / NEW / "chat_template.jinja").write_text("new", encoding="utf-8")
    (root / NEW / "pytorch_model.bin").write_bytes(b"unwanted")
    (root / NEW / "onnx").mkdir()
    (root / NEW / "onnx" / "model.safetensors").write_bytes(b"unwanted")
    return {OLD: root / OLD, NEW: root / NEW}


@pytest.fixture
def hub(commits: dict[str, Path]) -> Iterator[Hub]:
    with Hub({REPO: commits}) as hub:
        yield hub


def fetch(hub: Hub, home: Path, **arguments: Any) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps({"repo_id": REPO} | arguments)],
        env=environment,
        cwd=tempfile.gettempdir(),  # in the repository, its folders would hide the installed package
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    if "error" in answer:
        assert "\n" not in answer["error"]
    return answer


def test_what_the_exporter_reads_and_no_more(hub: Hub, commits: dict[str, Path], tmp_path: Path) -> None:
    answer = fetch(hub, tmp_path)
    folder = Path(answer["path"])
    assert answer["commit"] == NEW
    assert {path.name for path in folder.iterdir()} == {path.name for path in TINY.iterdir()}
    for path in folder.iterdir():
        assert path.read_bytes() == (commits[NEW] / path.name).read_bytes()


def test_progress_counts_bytes(hub: Hub, tmp_path: Path) -> None:
    told = fetch(hub, tmp_path)["told"]
    fractions = [fraction for _, fraction in told]
    assert {stage for stage, _ in told} == {f"download {REPO}"}
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-2:] == [1.0, 1.0]
    assert any(0 < fraction < 1 for fraction in fractions)


def test_nothing_is_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    first = fetch(hub, tmp_path)
    hub.requests.clear()
    again = fetch(hub, tmp_path)
    assert again["path"] == first["path"]
    assert [request for request in hub.requests if "/resolve/" in request[1]] == []


def test_offline_uses_the_cache(hub: Hub, tmp_path: Path) -> None:
    first = fetch(hub, tmp_path)
    hub.requests.clear()
    assert fetch(hub, tmp_path, offline=True)["path"] == first["path"]
    assert hub.requests == []


def test_offline_without_cache(hub: Hub, tmp_path: Path) -> None:
    error = fetch(hub, tmp_path, offline=True)["error"]
    assert REPO in error
    assert "run once online" in error
    assert hub.requests == []


def test_a_pinned_commit(hub: Hub, tmp_path: Path) -> None:
    answer = fetch(hub, tmp_path, revision=OLD)
    assert answer["commit"] == OLD
    assert (Path(answer["path"]) / "chat_template.jinja").read_text(encoding="utf-8") != "new"
    hub.requests.clear()
    assert fetch(hub, tmp_path, revision=OLD)["path"] == answer["path"]
    assert hub.requests == []


def test_unknown_revision(hub: Hub, tmp_path: Path) -> None:
    assert "no revision 'v9'" in fetch(hub, tmp_path, revision="v9")["error"]


CHUNK = 10 << 20  # the library keeps whole chunks only


@pytest.fixture
def large(hub: Hub, tmp_path: Path) -> bytes:
    """Weights of more than a chunk, served as another repository."""
    folder = tmp_path / "large"
    folder.mkdir()
    data = random.Random(0).randbytes(CHUNK + (1 << 20))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(data)
    hub.repositories["someone/large"] = {NEW: folder}
    return data


def ranges(hub: Hub) -> list[str | None]:
    return [given for method, path, given in hub.requests if method == "GET" and path.endswith("model.safetensors")]


def test_a_cut_connection_is_continued(hub: Hub, large: bytes, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [CHUNK + 1000]
    answer = fetch(hub, tmp_path, repo_id="someone/large")
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == large
    assert ranges(hub)[1:] == [f"bytes={CHUNK}-"]
    fractions = [fraction for _, fraction in answer["told"]]
    assert fractions == sorted(fractions)


def test_a_download_that_failed_is_continued_by_the_next(hub: Hub, large: bytes, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [CHUNK + 1000, *[0] * 6]
    assert "run again, it continues" in fetch(hub, tmp_path, repo_id="someone/large")["error"]
    hub.cuts.clear()
    hub.requests.clear()
    answer = fetch(hub, tmp_path, repo_id="someone/large")
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == large
    assert ranges(hub) == [f"bytes={CHUNK}-"]
    assert answer["told"][1][1] == pytest.approx(CHUNK / len(large), rel=1e-3)
    assert answer["told"][-1][1] == 1.0
    assert not list(tmp_path.rglob("*.part"))


def test_a_part_that_was_damaged_is_not_used(hub: Hub, large: bytes, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [CHUNK + 1000, *[0] * 6]
    fetch(hub, tmp_path, repo_id="someone/large")
    hub.cuts.clear()
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(b"x" * CHUNK)
    assert "arrived damaged" in fetch(hub, tmp_path, repo_id="someone/large")["error"]
    answer = fetch(hub, tmp_path, repo_id="someone/large")
    assert (Path(answer["path"]) / "model.safetensors").read_bytes() == large


def test_a_refused_download_says_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    hub.status = 503
    error = fetch(hub, tmp_path)["error"]
    assert "broke off" in error
    assert "run again" in error


def test_no_hub_at_all(hub: Hub, tmp_path: Path) -> None:
    cached = fetch(hub, tmp_path)["path"]
    hub.url = "http://127.0.0.1:9"
    assert fetch(hub, tmp_path)["path"] == cached
    assert "check the connection" in fetch(hub, tmp_path / "empty")["error"]


def test_a_gated_repository_needs_its_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated, hub.token = {REPO}, "secret"
    error = fetch(hub, tmp_path)["error"]
    assert f"https://huggingface.co/{REPO}" in error
    assert "accept its terms" in error
    assert fetch(hub, tmp_path, token="secret")["commit"] == NEW


def test_a_private_or_absent_repository(hub: Hub, tmp_path: Path) -> None:
    assert "not on the Hub" in fetch(hub, tmp_path, repo_id="someone/absent")["error"]
    hub.token = "secret"
    error = fetch(hub, tmp_path, token="wrong")["error"]
    assert REPO in error
    assert "token" in error


def test_not_a_repository_name(hub: Hub, tmp_path: Path) -> None:
    assert "neither a directory nor a repository" in fetch(hub, tmp_path, repo_id="a/b/c")["error"]
    assert hub.requests == []


def test_not_a_checkpoint(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.onnx").write_bytes(b"onnx")
    hub.repositories["someone/onnx"] = {NEW: tmp_path / "files"}
    assert "no config.json" in fetch(hub, tmp_path / "home", repo_id="someone/onnx")["error"]


@pytest.fixture
def gguf(hub: Hub, tmp_path: Path) -> Path:
    """The files of a repository of GGUF files."""
    folder = tmp_path / "files"
    (folder / "MTP").mkdir(parents=True)
    for name in ("tune-Q4_0.gguf", "mmproj-tune.gguf", "README.md", "MTP/drafter.gguf"):
        (folder / name).write_text(name)
    hub.repositories["someone/gguf"] = {NEW: folder}
    return folder


def names(answer: dict[str, Any]) -> set[str]:
    folder = Path(answer["path"])
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_only_gguf_file_of_a_repository(hub: Hub, gguf: Path, tmp_path: Path) -> None:
    assert names(fetch(hub, tmp_path / "home", repo_id="someone/gguf")) == {"tune-Q4_0.gguf", "README.md"}


def test_a_gguf_file_by_its_name(hub: Hub, gguf: Path, tmp_path: Path) -> None:
    (gguf / "tune-Q8_0.gguf").write_text("another")
    home = tmp_path / "home"
    error = fetch(hub, home, repo_id="someone/gguf")["error"]
    assert "holds tune-Q4_0.gguf, tune-Q8_0.gguf: name one, as in someone/gguf/tune-Q4_0.gguf" in error
    error = fetch(hub, home, repo_id="someone/gguf", file="tune.gguf")["error"]
    assert "has no GGUF file tune.gguf: it has tune-Q4_0.gguf, tune-Q8_0.gguf" in error
    assert names(fetch(hub, home, repo_id="someone/gguf", file="tune-Q8_0.gguf")) == {"tune-Q8_0.gguf", "README.md"}
    pinned = fetch(hub, home, repo_id="someone/gguf", file="MTP/drafter.gguf", revision=NEW)
    assert "MTP/drafter.gguf" in names(pinned)
    hub.requests.clear()
    assert fetch(hub, home, repo_id="someone/gguf", file="MTP/drafter.gguf", revision=NEW)["path"] == pinned["path"]
    assert hub.requests == []
    error = fetch(hub, home, repo_id="someone/gguf", file="tune-Q4_0.gguf", offline=True)["error"]
    assert "is not complete in the Hub's cache" in error


def test_disk_too_small(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.hf_api import HfApi, ModelInfo

    from edge_mtp.errors import EdgeMtpError
    from edge_mtp.export import download

    listed = [{"rfilename": "config.json", "size": 10}, {"rfilename": "model.safetensors", "size": 10 << 30}]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: ModelInfo(id=REPO, sha=NEW, siblings=listed))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "absent"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1 << 20))
    with pytest.raises(EdgeMtpError, match=r"1 MiB free.*needs 10304 MiB.*HF_HOME"):
        download.fetch(REPO)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    import errno

    from edge_mtp.export.download import _refusal

    wrapped = RuntimeError("worker failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in str(_refusal(wrapped, REPO, None, False))


def test_the_hash_is_the_one_that_the_hub_recorded(hub: Hub, tmp_path: Path) -> None:
    from edge_mtp.export.checkpoint import _recorded_hash

    folder = Path(fetch(hub, tmp_path)["path"])
    weights = (folder / "model.safetensors").read_bytes()
    assert _recorded_hash(folder / "model.safetensors") == hashlib.sha256(weights).hexdigest()
    assert _recorded_hash(folder / "config.json") is None
