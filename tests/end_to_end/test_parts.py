"""Exports that are cut short: what stays, what the next call does with it, and what it says."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import slow_export
import tiny_checkpoints
from tiny_checkpoints import CONTEXT, PREFILL

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edge_mtp.export import identity as identities
from edge_mtp.export import pipeline, store
from edge_mtp.export.checkpoint import open_pair, random_pair, tiny_pair
from edge_mtp.export.options import Options
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.export.recipes import RECIPES
from edge_mtp.export.resources import disk_room
from edge_mtp.export.unfinished import Parts
from edge_mtp.export.weights import Weights

SMALL: dict[str, Any] = {"context": CONTEXT, "prefill": (PREFILL,), "lean": True, "recipe": "int8"}
OLD = b"an older bundle"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    output = tmp_path / "out" / "x.litertlm"
    output.parent.mkdir()
    output.write_bytes(OLD)
    return output


def parts_of(output: Path) -> Path:
    return output.parent / f".{output.name}.parts"


# ---- the folder -------------------------------------------------------------------------------------------


def leave(output: Path, error: BaseException | None, identity: str = "a", finished: bytes = b"done") -> None:
    with Parts(output, identity, 0) as parts:
        (parts.folder / "section").write_bytes(finished)
        (parts.scratch / "half").write_bytes(b"half")
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "kept", "raised"),
    [
        (None, False, None),
        (EdgeMtpError("refused"), False, "^refused$"),
        (RuntimeError("a fault"), False, "^a fault$"),
        (
            KeyboardInterrupt(),
            True,
            "interrupted: the same command goes on where it was; remove .*parts to start",
        ),
        (OSError(errno.ENOSPC, "No space left"), True, "No space left, make room in .*: the same command goes on"),
        (OSError(errno.EIO, "Input/output error"), True, "Input/output error, see that it can be written: the same"),
        (MemoryError(), True, "memory ran out, close other programs: the same command goes on"),
    ],
)
def test_what_stays(output: Path, error: BaseException | None, kept: bool, raised: str | None) -> None:
    if raised is None:
        leave(output, error)
    else:
        with pytest.raises(BaseException, match=raised) as caught:
            leave(output, error)
        assert "\n" not in str(caught.value)
        if isinstance(error, OSError | MemoryError):
            assert isinstance(caught.value, EdgeMtpError)
    assert parts_of(output).exists() == kept
    if kept:
        assert not list(parts_of(output).rglob("half"))
        assert (parts_of(output) / "section").read_bytes() == b"done"
    assert output.read_bytes() == OLD


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_without_finished_work_nothing_stays(output: Path, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, EdgeMtpError), match=r"nothing was finished$"):
        leave(output, error, finished=b"")
    assert list(output.parent.iterdir()) == [output]


def test_the_same_work_goes_on_and_another_starts_afresh(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        leave(output, KeyboardInterrupt())
    with Parts(output, "a", 0) as parts:
        assert (parts.folder / "section").read_bytes() == b"done"
        assert list(parts.scratch.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        leave(output, KeyboardInterrupt())
    with Parts(output, "b", 0) as parts:
        assert not (parts.folder / "section").exists()


def test_one_at_a_time(output: Path) -> None:
    with Parts(output, "a", 0) as parts:
        (parts.folder / "section").write_bytes(b"done")
        with pytest.raises(EdgeMtpError, match="another export is writing"), Parts(output, "b", 0):
            pass
        assert (parts.folder / "section").read_bytes() == b"done"
    with Parts(output, "b", 0):
        pass


def test_a_folder_that_went_while_waiting_for_it(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other export ends, and removes the folder, between our opening and locking its lock."""
    lock, calls = fcntl.flock, []

    def flock(file: Any, flags: int) -> None:
        if not calls:
            shutil.rmtree(parts_of(output))
        calls.append(flags)
        lock(file, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Parts(output, "a", 0) as parts:
        assert (parts.folder / "lock").exists()
    assert len(calls) == 2


def test_a_small_export_asks_for_little_room() -> None:
    pair = open_pair(*tiny_pair())
    weights = 3 << 20
    assert 2 * weights < disk_room(pair, weights) < 2 * weights + (16 << 20)
    assert disk_room(pair, 2 * weights) == disk_room(pair, weights) + 2 * weights


def test_the_disk_must_have_room_for_what_is_missing(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        leave(output, KeyboardInterrupt(), finished=bytes(3 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 << 20, 8 << 20, 2 << 20))
    with pytest.raises(EdgeMtpError, match="2 MiB free, the export needs 3 MiB"), Parts(output, "a", 6 << 20):
        pass
    assert (parts_of(output) / "section").stat().st_size == 3 << 20
    with Parts(output, "a", 5 << 20) as parts:
        assert (parts.folder / "section").exists()
    with pytest.raises(EdgeMtpError, match="2 MiB free, the export needs 5 MiB"), Parts(output, "b", 5 << 20):
        pass
    assert list(output.parent.iterdir()) == [output]


def test_the_output_takes_its_place_whole(output: Path) -> None:
    with Parts(output, "a", 0) as parts:
        (parts.scratch / "bundle").write_bytes(b"new")
        assert output.read_bytes() == OLD
        parts.publish(parts.scratch / "bundle")
    assert output.read_bytes() == b"new"


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match="is a directory"), Parts(tmp_path, "a", 0):
        pass
    with pytest.raises(EdgeMtpError, match="cannot be written"), Parts(tmp_path / "absent" / "x", "a", 0):
        pass


# ---- what an export is known by ---------------------------------------------------------------------------


def identity(target: Path, drafter: Path, **options: Any) -> str:
    chosen: dict[str, Any] = {
        "context": 64,
        "prefill": (4,),
        "widths": (),
        "accelerators": (),
        "kv": "fp32",
        "recipe": RECIPES["fp32"],
    }
    return identities.identity(open_pair(target, drafter), Options(**(chosen | options)))


def test_changes_make_another_export(tmp_path: Path) -> None:
    pair = tiny_checkpoints.write_pair(tmp_path)
    first = identity(*pair)
    assert identity(*pair) == first
    changes: list[dict[str, Any]] = [
        {"context": 65},
        {"prefill": (8,)},
        {"widths": (2,)},
        {"accelerators": ("cpu", "gpu")},
        {"kv": "int8"},
        {"recipe": RECIPES["int8"]},
    ]
    for change in changes:
        assert identity(*pair, **change) != first
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        path = pair[0] / name
        if path.suffix == ".safetensors":
            path.write_bytes(path.read_bytes())  # the same size, another time
        elif name == "tokenizer.json":
            path.write_text(path.read_text() + "\n")  # it has to load
        elif path.suffix == ".json":
            value = json.loads(path.read_text())
            value["another"] = 1
            path.write_text(json.dumps(value))
        else:
            path.write_text("another")
        second = identity(*pair)
        assert second != first, name
        first = second


def test_random_weights_are_known_by_their_seed(tmp_path: Path) -> None:
    options = Options(64, (4,), (), (), "fp32", RECIPES["fp32"])
    one, same, other = (
        identities.identity(random_pair("E2B", seed, tmp_path / name), options)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == same != other


def test_a_download_is_known_by_its_commit(tmp_path: Path) -> None:
    def cached(cache: str, commit: str) -> str:
        folders = []
        for folder, repository in zip(tiny_checkpoints.random_pair(), ("target", "drafter"), strict=True):
            place = tmp_path / cache / f"models--someone--{repository}" / "snapshots" / commit
            shutil.copytree(folder, place)
            folders.append(place)
        return identity(*folders)

    first = cached("one", "a" * 40)
    assert cached("two", "a" * 40) == first  # files of other times at another place
    assert cached("one", "b" * 40) != first


# ---- whole exports ----------------------------------------------------------------------------------------


class Interruptible:
    """A pair's export, lean and small, which shows what it reads and how far it is."""

    def __init__(self, folder: Path) -> None:
        self.pair = tiny_checkpoints.random_pair()
        self.reads: Counter[tuple[str, int]] = Counter()
        self.steps: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            self.whole = self.sections(self.export(patch, folder / "whole.litertlm"))
        self.whole_reads, self.whole_steps = Counter(self.reads), list(self.steps)

    def export(
        self, patch: pytest.MonkeyPatch, output: Path, step: Callable[[int], None] = lambda step: None, **options: Any
    ) -> Path:
        """Export; `step` is called with the number of the progress call."""
        self.reads.clear()
        self.steps.clear()
        read = Weights.read

        def counted(weights: Weights, name: str, start: int = 0, stop: int | None = None) -> Any:
            # Rows of a matrix. Constants are read each time, and single rows, which tell whether it lies on a lattice.
            if stop is not None and stop - start > 1:
                self.reads[name, start] += 1
            return read(weights, name, start, stop)

        def progress(what: str, share: float) -> None:
            self.steps.append(what)
            step(len(self.steps) - 1)

        with patch.context() as inner:
            inner.setattr(store, "CHUNK", 8 << 10)
            inner.setattr(Weights, "read", counted)
            origins = {
                role: folder.resolve().name for role, folder in zip(("target", "drafter"), self.pair, strict=True)
            }
            export_bundle(*self.pair, output, origins=origins, progress=progress, **(SMALL | options))
        return output

    @staticmethod
    def sections(path: Path) -> list[tuple[str, bytes]]:
        return [(str(section), bytes(section.data)) for section in Bundle(path).sections]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Interruptible:
    return Interruptible(tmp_path_factory.mktemp("small"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 MiB, in the mount namespace of a process that does nothing else."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=300m none "$0" && echo mounted && exec sleep 600'
    try:
        holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no unshare: it comes with util-linux")
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("this system lets users mount nothing")
        yield Path(f"/proc/{holder.pid}/root{folder}")
    finally:
        holder.kill()
        holder.communicate()


def raising(at: int, error: BaseException) -> Callable[[int], None]:
    def step(number: int) -> None:
        if number == at:
            raise error

    return step


@pytest.mark.slow
class TestInterrupted:
    def test_again_and_again(self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each run makes 60 steps; a matrix is read once, but for one a run that was cut in its middle."""
        reads, runs = Counter[tuple[str, int]](), 0
        while output.read_bytes() == OLD:
            runs += 1
            with suppress(KeyboardInterrupt):
                small.export(monkeypatch, output, raising(60, KeyboardInterrupt()))
            assert set(output.parent.iterdir()) <= {output, parts_of(output)}
            reads += small.reads
        assert 2 < runs < 20
        assert small.sections(output) == small.whole
        assert list(output.parent.iterdir()) == [output]
        assert len({name for name, _ in reads - small.whole_reads}) < runs
        assert not small.whole_reads - reads

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
    def test_in_the_middle_of_the_weights(
        self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        steps = [i for i, what in enumerate(small.whole_steps) if what == "weights of prefill_decode"]
        at = steps[int(share * (len(steps) - 1))]
        with pytest.raises(KeyboardInterrupt, match="goes on where it was"):
            small.export(monkeypatch, output, raising(at, KeyboardInterrupt()))
        assert output.read_bytes() == OLD
        first = Counter(small.reads)
        small.export(monkeypatch, output)
        assert small.sections(output) == small.whole
        # The embedder was finished; of this section no more than the matrix that was cut is read again.
        assert len({name for name, _ in first + small.reads - small.whole_reads}) <= 1

    @pytest.mark.parametrize("what", ["load the converter", "trace embedder", "trace target"])
    def test_during_tracing(
        self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        with pytest.raises(KeyboardInterrupt, match="interrupted: "):
            small.export(monkeypatch, output, raising(small.whole_steps.index(what), KeyboardInterrupt()))
        assert output.read_bytes() == OLD
        # Nothing was finished before the embedder.
        assert parts_of(output).exists() == (what == "trace target")
        small.export(monkeypatch, output)
        assert small.sections(output) == small.whole

    def test_before_the_bundle_is_put_together(
        self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "write_bundle", interrupt)
            with pytest.raises(KeyboardInterrupt, match="goes on where it was"):
                small.export(monkeypatch, output)
        assert output.read_bytes() == OLD
        small.export(monkeypatch, output)
        assert small.reads == {}
        assert small.sections(output) == small.whole

    @pytest.mark.parametrize("change", [{"kv": "int8"}, {"context": CONTEXT + 1}, {"recipe": "fp32"}])
    def test_another_export_starts_afresh(
        self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        at = small.whole_steps.index("trace target")
        with pytest.raises(KeyboardInterrupt):
            small.export(monkeypatch, output, raising(at, KeyboardInterrupt()))
        first = Counter(small.reads)
        assert first
        with pytest.raises(KeyboardInterrupt):
            small.export(monkeypatch, output, raising(at - 1, KeyboardInterrupt()), **change)
        assert first.keys() & small.reads.keys()

    def test_a_refusal_in_the_middle_leaves_nothing(
        self, small: Interruptible, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at = small.whole_steps.index("trace target")
        with pytest.raises(EdgeMtpError, match=r"^refused$"):
            small.export(monkeypatch, output, raising(at, EdgeMtpError("refused")))
        assert list(output.parent.iterdir()) == [output]
        assert output.read_bytes() == OLD

    def test_disk_full(self, small: Interruptible, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        output, filler = small_disk / "x.litertlm", small_disk / "filler"
        output.write_bytes(OLD)
        at = small.whole_steps.index("weights of prefill_decode") + 3

        def fill(number: int) -> None:
            if number == at:
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1 << 16))

        with pytest.raises(EdgeMtpError, match=r"No space left on device, make room in .*goes on where it was"):
            small.export(monkeypatch, output, fill)
        assert output.read_bytes() == OLD
        first = Counter(small.reads)
        with pytest.raises(EdgeMtpError, match="0 MiB free, the export needs"):
            small.export(monkeypatch, output)
        assert parts_of(output).exists()
        filler.unlink()
        small.export(monkeypatch, output)
        assert small.sections(output) == small.whole
        assert len({name for name, _ in first + small.reads - small.whole_reads}) <= 1


class Process:
    """The command line in a process of its own, whose reads are slow from the `read`-th on."""

    def __init__(self, small: Interruptible, output: Path, read: int = 1 << 30, **environment: str) -> None:
        target, drafter = small.pair
        options = ["--context", str(CONTEXT), "--prefill", str(PREFILL), "--lean", "--recipe", "int8"]
        self.process = subprocess.Popen(
            [
                *(sys.executable, slow_export.__file__, str(read)),
                *("export", "--model", str(target), "--drafter", str(drafter), "-o", str(output), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def wait_until_slow(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "slow\n", self.process.communicate()[1]

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


@pytest.mark.slow
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_in_the_middle_of_the_weights(self, small: Interruptible, output: Path, number: int) -> None:
        first = Process(small, output, 60)
        first.wait_until_slow()
        first.process.send_signal(number)
        status, errors = first.wait()
        assert output.read_bytes() == OLD
        assert set(output.parent.iterdir()) == {output, parts_of(output)}
        assert "Traceback" not in errors
        if number == signal.SIGINT:
            assert status == 130
            told = [line for line in errors.splitlines() if not line.startswith("[")]
            assert told == [
                f"interrupted: the same command goes on where it was; remove {parts_of(output)} to start afresh"
            ]
        second = Process(small, output)
        assert second.wait()[0] == 0
        assert small.sections(output) == small.whole
        assert list(output.parent.iterdir()) == [output]

    def test_while_the_converter_works(self, small: Interruptible, output: Path, tmp_path: Path) -> None:
        process = Process(small, output, XDG_CACHE_HOME=str(tmp_path / "empty"))
        assert process.process.stderr is not None
        while "trace target" not in process.process.stderr.readline():
            assert process.process.poll() is None
        time.sleep(3)  # into the conversion, where other libraries might take an interrupt for an error
        process.process.send_signal(signal.SIGINT)
        status, errors = process.wait()
        assert status == 130
        assert [line for line in errors.splitlines() if not line.startswith("[")] == [
            f"interrupted: the same command goes on where it was; remove {parts_of(output)} to start afresh"
        ]
        assert {path.name for path in parts_of(output).iterdir() if path.suffix} == {
            f"{section}{suffix}"
            for section in ("embedder", "per_layer_embedder")
            for suffix in (".tflite", ".inventory")
        }
        assert output.read_bytes() == OLD

    def test_a_second_export_to_the_same_file(self, small: Interruptible, output: Path) -> None:
        first = Process(small, output, 60)
        first.wait_until_slow()
        status, errors = Process(small, output).wait()
        assert status == 1
        assert f"Error: another export is writing {output}" in errors.splitlines()[-1]
        first.process.kill()
        first.wait()
        assert Process(small, output).wait()[0] == 0
