"""What the tests share."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The repository root stays off the path: tests see the installed code.
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import longest_first  # after the path

# Machines are shared: how long an example takes says nothing.
settings.register_profile("edge-mtp", deadline=None)
settings.load_profile("edge-mtp")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sanitized-runner",
        type=lambda path: Path(path).resolve(),
        help="an edge_mtp_runner built with EDGE_MTP_SANITIZE=ON",
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # pytest-xdist's: the process that started this one has done the rest
        # Where torch's threads outnumber the cores they wait for each other, and take six times as long.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return
    folder = tempfile.mkdtemp(prefix="edge-mtp-tests-")
    os.environ["EDGE_MTP_TESTS_WORKSPACE"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # several share the work
        longest_first.sort(items)


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests start would find the repository's edge_mtp in its root, which lacks export and device."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def vulkan(pytestconfig: pytest.Config) -> Path:
    """A Vulkan driver for LiteRT's GPU accelerator (`vulkan.load`)."""
    from vulkan import find_driver

    return find_driver(pytestconfig)


@pytest.fixture(scope="session")
def synthetic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle without weights: to be read, not run."""
    from synthetic_bundle import Parts

    return Parts().write(tmp_path_factory.mktemp("synthetic") / "synthetic.litertlm")


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """The tiny pair in fp32, exported now unless the cache folder has it already."""
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    return cached_bundle("fp32", widths=VERIFY_WIDTHS)


@pytest.fixture(scope="session")
def tiny_int8_bundle() -> Path:
    """The tiny pair in int8."""
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    return cached_bundle("int8", widths=VERIFY_WIDTHS)


@pytest.fixture(scope="session")
def tiny_split() -> list[dict[str, Any]]:
    """The tiny pair's first frozen split: messages, tools and gold calls."""
    from edge_mtp.export.checkpoint import tiny_pair

    split = tiny_pair()[0].parent / "splits" / "iid.jsonl"
    return [json.loads(line) for line in split.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def tiny_target() -> Any:
    """The tiny target as transformers loads it: float32, eager attention."""
    from transformers import Gemma4ForCausalLM

    from edge_mtp.export.checkpoint import tiny_pair

    target, _ = tiny_pair()
    return Gemma4ForCausalLM.from_pretrained(target, dtype="float32", attn_implementation="eager").eval()
