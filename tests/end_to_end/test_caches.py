"""What is kept of a file is used for that file alone, and a strange entry is no error: every kind of cache."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mtp.cache import exclusive
from edge_mtp.device.host import HostDevice
from edge_mtp.device.runner import Runner
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.request import Request
from edge_mtp.formats.trace import Outcome, Step

PROMPT = [2, *range(40, 110)]
REQUEST = Request(PROMPT, 24, draft_length=3, keep_prefix=50)
KINDS = (".xnnpack", ".seal", ".prefix", ".costs", ".prefill", ".identity")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(tmp_path / "cache", monkeypatch)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "edge-mtp" / "weights"


def other_weights(source: Path, target: Path) -> Path:
    """A bundle of the same shapes, size and times with other weights: what a fine-tune is."""
    shutil.copy2(source, target)
    section = Bundle(source).section("TFLiteModel", "prefill_decode")
    assert section is not None
    content = np.memmap(target, np.uint8, "r+")
    content[(section.begin + section.size // 2) // 4 * 4 + 3 : section.end : 4] ^= 0x80  # signs, behind the graphs
    content.flush()
    del content
    like(source, target)
    return target


def like(source: Path, target: Path) -> None:
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert target.stat().st_size == status.st_size
    assert target.stat().st_mtime_ns == status.st_mtime_ns


def answer(bundle: Path) -> tuple[list[int], Outcome]:
    with HostDevice().start(bundle) as runner:
        return generated(runner)


def generated(runner: Runner) -> tuple[list[int], Outcome]:
    *steps, outcome = runner.generate(REQUEST)
    assert isinstance(outcome, Outcome)
    return [token for step in steps if isinstance(step, Step) for token in step.tokens], outcome


@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_a_bundle_replaced_by_one_of_equal_size_and_time_shares_nothing(
    how: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_weights(tiny_bundle, tmp_path / "other.litertlm")
    use_cache(tmp_path / "alone", monkeypatch)
    expected = answer(other)[0]

    use_cache(tmp_path / "shared", monkeypatch)
    bundle = tmp_path / "model.litertlm"
    shutil.copy2(tiny_bundle, bundle)
    first = answer(bundle)[0]
    assert first != expected
    assert answer(bundle)[1].restored_tokens == 50
    if how == "renamed":
        shutil.copy2(other, tmp_path / "new")
        (tmp_path / "new").replace(bundle)
    else:
        bundle.write_bytes(other.read_bytes())
        like(other, bundle)
    tokens, outcome = answer(bundle)
    assert (tokens, outcome.restored_tokens) == (expected, 0)


def test_a_copy_of_a_bundle_shares_everything(tiny_bundle: Path, cache: Path, tmp_path: Path) -> None:
    tokens, _ = answer(tiny_bundle)
    kept = {path.name for path in cache.iterdir() if path.suffix != ".identity"}
    copy = tmp_path / "copy.litertlm"
    shutil.copyfile(tiny_bundle, copy)
    again, outcome = answer(copy)
    assert (again, outcome.restored_tokens) == (tokens, 50)
    assert {path.name for path in cache.iterdir() if path.suffix != ".identity"} == kept


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)
    (path / "inside" / "file").write_text("x")


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def link_elsewhere(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    elsewhere.write_bytes(b"mine")
    path.unlink()
    path.symlink_to(elsewhere)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def middle_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "folder": folder_in_its_place,
    "link to nothing": link_to_nothing,
    "link elsewhere": link_elsewhere,
    "pipe": pipe,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(random.Random(1).randbytes(path.stat().st_size)),
    "flipped": middle_flipped,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_strange_entry_is_ignored_and_replaced(kind: str, harm: str, tiny_bundle: Path, cache: Path) -> None:
    expected, _ = answer(tiny_bundle)
    entries = [path for path in cache.iterdir() if path.suffix == kind]
    assert entries
    for path in entries:
        HARMS[harm](path)
    assert answer(tiny_bundle)[0] == expected
    for path in entries:
        assert path.is_file(), path.name
        assert not path.is_symlink(), path.name
    if harm == "link elsewhere":
        assert (cache.parents[1] / "elsewhere").read_bytes() == b"mine"
    assert answer(tiny_bundle)[0] == expected


def test_packed_weights_with_a_changed_bit_are_packed_again(tiny_bundle: Path, cache: Path) -> None:
    expected, _ = answer(tiny_bundle)
    packed = {path: path.read_bytes() for path in cache.glob("*.xnnpack")}
    for path, data in packed.items():
        harmed = bytearray(data)
        for at in range(len(harmed) // 2, len(harmed) // 2 + 4000, 4):
            harmed[at + 3] ^= 0x80
        path.write_bytes(harmed)
        os.utime(path, (0, 0))
    assert answer(tiny_bundle)[0] == expected
    assert all(path.stat().st_mtime > 0 for path in packed)


def test_the_identity_of_a_settled_file_is_remembered_until_it_changes(tiny_bundle: Path, cache: Path) -> None:
    answer(tiny_bundle)
    remembered = {path: path.stat().st_ino for path in cache.glob("*.identity")}
    assert len(remembered) >= 2  # the bundle and LiteRT; what is packed is too young
    answer(tiny_bundle)
    assert {path: path.stat().st_ino for path in remembered} == remembered


@pytest.mark.parametrize("strange", ["file", "link to nothing"])
def test_a_cache_folder_that_is_none_is_done_without(strange: str, tiny_bundle: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    if strange == "file":
        cache.write_text("mine")
    else:
        cache.symlink_to(cache.parent / "nowhere")
    assert len(answer(tiny_bundle)[0]) > 0


def test_a_folder_is_held_against_other_processes(tmp_path: Path) -> None:
    holder = """
import sys
from pathlib import Path
from edge_mtp.cache import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told = []

        def waiting() -> None:
            told.append(other.poll())
            other.stdin.close()

        with exclusive(tmp_path, waiting):
            assert told == [None]  # the other had it
            assert other.wait(60) == 0
