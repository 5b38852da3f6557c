"""Files onto a device: whole or not there, whatever happens on the way, and nothing else touched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adb_device import Adbd, adbd  # noqa: F401  # a fixture
from fake_adbd import FakeAdbd
from fault_proxy import FaultProxy, Faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_mtp.device import put
from edge_mtp.device.adb_link import AdbLink
from edge_mtp.device.link import Completed, Link
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.put import Folder, Transfer, file_digest
from edge_mtp.errors import EdgeMtpError

SIZE = 5_000_000


def silent(progress: Transfer) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("XDG_CACHE_HOME", raising=False)
        yield


@pytest.fixture(scope="module", params=["adbd", "fake", "local"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    if request.param == "local":
        yield LocalLink()
    elif request.param == "adbd":
        with request.getfixturevalue("adbd").link() as link:
            yield link
    else:
        device = FakeAdbd()
        with AdbLink.over_tcp(device.host, device.port, pytest.fail) as link:
            yield link
        device.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "a bundle.litertlm"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Counting(Link):
    """Counts what passes through another link."""

    def __init__(self, link: Link) -> None:
        self.name, self._link = link.name, link
        self.appended, self.commands = 0, list[str]()

    def run(self, command, *, timeout_s=30.0, input=b""):  # type: ignore[no-untyped-def]
        self.commands.append(command if isinstance(command, str) else " ".join(command))
        return self._link.run(command, timeout_s=timeout_s, input=input)

    def spawn(self, command, environment):  # type: ignore[no-untyped-def]
        return self._link.spawn(command, environment)

    def append(self, chunks: Iterator[bytes], path: str) -> None:
        def counted() -> Iterator[bytes]:
            for chunk in chunks:
                self.appended += len(chunk)
                yield chunk

        self._link.append(counted(), path)

    def close(self) -> None:
        self._link.close()


NAMES = ["plain", "with space", "it's", '"$(touch owned)"', "new\nline", "`id`", "*", "ü—🙂", "-rf"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_put_once_in_a_folder_of_any_name(
    link: Link, name: str, tmp_path: Path, source: Path, digest: str
) -> None:
    (tmp_path / "neighbour").write_text("stays")
    folder = Folder(Counting(link), str(tmp_path / name / "edge-mtp"), silent)
    paths = {folder.put(source, f"bundles/{digest}.litertlm", digest=digest) for _ in range(3)}
    assert paths == {f"{tmp_path}/{name}/edge-mtp/bundles/{digest}.litertlm"}
    assert Path(paths.pop()).read_bytes() == source.read_bytes()
    assert folder.link.appended == SIZE  # type: ignore[attr-defined]
    assert (tmp_path / "neighbour").read_text() == "stays"
    assert sorted(path.name for path in (tmp_path / name).rglob("*") if path.is_file()) == [
        f"{digest}.litertlm",
        f"{digest}.litertlm.verified",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["neighbour", name])


def test_what_is_verified_is_not_hashed_again(link: Link, tmp_path: Path, source: Path, digest: str) -> None:
    folder = Folder(Counting(link), str(tmp_path / "d"), silent)
    folder.put(source, "bundles/x", digest=digest)
    folder.link.commands.clear()  # type: ignore[attr-defined]
    folder.put(source, "bundles/x", digest=digest)
    assert len(folder.link.commands) == 1  # type: ignore[attr-defined]
    assert "sha256sum" not in folder.link.commands[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(
            b"\0" * SIZE
        ),  # as after a loss of power: the size is there, the contents are not
        lambda path: os.truncate(path, 1000),
        lambda path: path.unlink(),
    ],
)
def test_what_has_changed_on_the_device_is_put_again(
    link: Link, tmp_path: Path, source: Path, digest: str, damage: Callable[[Path], None]
) -> None:
    folder = Folder(link, str(tmp_path / "d"), silent)
    path = Path(folder.put(source, "bundles/x", digest=digest))
    os.utime(path, (1, 1))
    damage(path)
    folder.put(source, "bundles/x", digest=digest)
    assert path.read_bytes() == source.read_bytes()


def test_a_good_file_without_its_mark_is_hashed_and_kept(link: Link, tmp_path: Path, source: Path, digest: str) -> None:
    (tmp_path / "bundles").mkdir()
    shutil.copy(source, tmp_path / "bundles" / "x")
    folder = Folder(Counting(link), str(tmp_path), silent)
    folder.put(source, "bundles/x", digest=digest)
    assert folder.link.appended == 0  # type: ignore[attr-defined]
    assert (tmp_path / "bundles" / "x.verified").is_file()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(0, SIZE))
def test_it_goes_on_at_any_byte(link: Link, tmp_path: Path, source: Path, digest: str, kept: int) -> None:
    folder = Folder(Counting(link), str(tmp_path / "d"), silent)
    shutil.rmtree(tmp_path / "d", ignore_errors=True)
    (tmp_path / "d" / "bundles").mkdir(parents=True)
    (tmp_path / "d" / "bundles" / "x.part").write_bytes(source.read_bytes()[:kept])
    path = folder.put(source, "bundles/x", digest=digest)
    assert Path(path).read_bytes() == source.read_bytes()
    assert folder.link.appended == SIZE - kept  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", [b"another beginning", bytes(SIZE), bytes(SIZE + 1)])
def test_a_wrong_beginning_is_not_continued(link: Link, tmp_path: Path, source: Path, digest: str, part: bytes) -> None:
    folder = Folder(link, str(tmp_path), silent)
    (tmp_path / "bundles").mkdir(parents=True)
    (tmp_path / "bundles" / "x.part").write_bytes(part)
    assert Path(folder.put(source, "bundles/x", digest=digest)).read_bytes() == source.read_bytes()


def test_a_writer_left_from_a_lost_link_is_ended_first(link: Link, tmp_path: Path, source: Path, digest: str) -> None:
    (tmp_path / "bundles").mkdir()
    part = tmp_path / "bundles" / "x.part"
    command = ["sh", "-c", 'exec cat >> "$0"', str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(source.read_bytes()[:100_000])
        writer.stdin.flush()
        while not part.exists() or part.stat().st_size < 100_000:
            assert writer.poll() is None
        folder = Folder(Counting(link), str(tmp_path), silent)
        assert Path(folder.put(source, "bundles/x", digest=digest)).read_bytes() == source.read_bytes()
        assert writer.wait(20) == -9
        assert folder.link.appended == SIZE - 100_000  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()


def test_a_source_that_changes_on_the_way_leaves_nothing(link: Link, tmp_path: Path, source: Path) -> None:
    folder = Folder(link, str(tmp_path), silent)
    with pytest.raises(EdgeMtpError, match=r"changed while it was sent.*what arrived was removed"):
        folder.put(source, "bundles/x", digest="0" * 64)
    assert tree(tmp_path) == {}


def test_no_room_is_told_with_the_numbers_before_anything_is_sent(
    link: Link, tmp_path: Path, source: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put, "RESERVE_BYTES", 1 << 60)
    folder = Folder(Counting(link), str(tmp_path), silent)
    with pytest.raises(
        EdgeMtpError, match=r"has [\d.]+ GB free in .*, and a bundle.litertlm needs 5 MB more and .*clean"
    ):
        folder.put(source, "bundles/x", digest=digest)
    assert folder.link.appended == 0  # type: ignore[attr-defined]
    assert tree(tmp_path) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_says_so_and_the_rest_follows_when_there_is_room(
    link: Link, small_disk: Path, source: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(Counting(link), str(small_disk / "d"), silent)
    with pytest.raises(EdgeMtpError, match=r"has 3 MB free .* needs 5 MB more"):
        folder.put(source, "bundles/x", digest=digest)
    # Another program takes the room after it was looked at.
    monkeypatch.setattr(put, "parse_free", lambda text: None)
    with pytest.raises(EdgeMtpError, match=r"No space left on device.*what arrived of a bundle.litertlm is kept"):
        folder.put(source, "bundles/x", digest=digest)
    kept = tree(small_disk)
    assert list(kept) == ["d/bundles/x.part"]
    assert source.read_bytes().startswith(kept["d/bundles/x.part"])
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    folder.link.appended = 0  # type: ignore[attr-defined]
    path = folder.put(source, "bundles/x", digest=digest)
    assert Path(path).read_bytes() == source.read_bytes()
    assert folder.link.appended == SIZE - len(kept["d/bundles/x.part"])  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_made_says_why(link: Link, tmp_path: Path, source: Path, digest: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgeMtpError, match=r"refuses in '.*/file': .*(Not a directory|File exists)"):
        Folder(link, str(tmp_path / "file"), silent).put(source, "bundles/x", digest=digest)
    assert tree(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize("path", ["relative", "", "/", "//"])
def test_a_folder_must_be_one_of_its_own(link: Link, path: str) -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot be the folder"):
        Folder(link, path, silent)


@pytest.mark.parametrize("name", ["../x", "bundles/../../x", "a b", "$(id)", "", "x\n"])
def test_a_name_cannot_lead_outside(link: Link, tmp_path: Path, source: Path, name: str) -> None:
    with pytest.raises(EdgeMtpError, match=r"is no name for a file on a device"):
        Folder(link, str(tmp_path), silent).put(source, name, digest="0" * 64)


def test_entries_are_listed_and_cleaned_and_nothing_else_is(
    link: Link, tmp_path: Path, source: Path, digest: str
) -> None:
    home = tmp_path / "edge mtp"
    folder = Folder(link, str(home), silent)
    assert folder.entries() == []
    assert folder.clean() == []
    small = tmp_path / "small"
    small.write_bytes(b"12345")
    five = hashlib.sha256(b"12345").hexdigest()
    folder.put(source, "bundles/old.litertlm", digest=digest)
    folder.put(source, "bundles/new.litertlm", digest=digest)
    for name in ("edge_mtp_runner", "libLiteRt.so"):
        folder.put(small, f"bin/set/{name}", digest=five, mode="755")
    assert os.access(home / "bin" / "set" / "edge_mtp_runner", os.X_OK)
    (home / "cache").mkdir()
    (home / "cache" / "x.costs").write_text("1")
    (home / "bundles" / "odd name\n$(touch owned).part").write_text("")
    (home / "mine").write_text("not the tool's")
    (tmp_path / "outside").write_text("stays")
    os.symlink(tmp_path / "outside", home / "bundles" / "link")
    entries = {entry.name: entry.bytes for entry in folder.entries()}
    assert entries["bundles/old.litertlm"] >= SIZE
    assert 10 <= entries["bin/set"] < 200
    assert entries["cache"] == 1
    removed = folder.clean(keep=["bundles/new.litertlm", "bin/set"])
    assert {"bundles/old.litertlm", "cache"} <= {entry.name for entry in removed}
    left = tree(tmp_path)
    assert {"small", "outside", "edge mtp/mine", "edge mtp/bundles/new.litertlm"} <= set(left)
    assert not [path for path in left if "old" in path or "cache" in path or "owned" in Path(path).name[:5]]
    assert folder.link.run(["test", "-e", f"{home}/bundles/new.litertlm.verified"]).exit_code == 0


def test_progress_tells_rate_and_time_left(link: Link, tmp_path: Path, source: Path, digest: str) -> None:
    seen: list[Transfer] = []
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(put, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setattr(put, "REPORT_S", 0.0)
    Folder(link, str(tmp_path), seen.append).put(source, "bundles/x", digest=digest)
    monkeypatch.undo()
    sending = [progress for progress in seen if progress.what == "sending a bundle.litertlm"]
    assert [progress.done_bytes for progress in sending] == sorted(progress.done_bytes for progress in sending)
    assert (sending[0].fraction, sending[-1].fraction) == (0.0, 1.0)
    assert sending[0].seconds_left is None
    half = sending[len(sending) // 2]
    assert half.bytes_per_s > 0
    assert half.seconds_left == pytest.approx((SIZE - half.done_bytes) / half.bytes_per_s)
    assert seen[-1] == Transfer("checking a bundle.litertlm", SIZE, SIZE)


# The link breaks.


@pytest.fixture(params=["adbd", "fake"])
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    device = request.getfixturevalue("adbd") if request.param == "adbd" else FakeAdbd()
    with FaultProxy((device.host, device.port)) as proxy:
        yield proxy
    if isinstance(device, FakeAdbd):
        device.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 2_500_000), min_size=1, max_size=4), reset=st.booleans())
def test_cut_anywhere_and_again_it_arrives_whole(
    proxy: FaultProxy, tmp_path: Path, source: Path, digest: str, cuts: list[int], reset: bool
) -> None:
    shutil.rmtree(tmp_path / "d", ignore_errors=True)
    final = tmp_path / "d" / "bundles" / "x"
    for cut in [*cuts, None]:
        proxy.faults = Faults(cut_up=cut, reset=reset)
        with (
            contextlib.nullcontext() if cut is None else contextlib.suppress(EdgeMtpError),
            AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail) as link,
        ):
            Folder(link, str(tmp_path / "d"), silent).put(source, "bundles/x", digest=digest)
        if final.exists():
            assert final.read_bytes() == source.read_bytes()
    assert final.exists()
    assert sorted(path.name for path in final.parent.iterdir()) == ["x", "x.verified"]


def test_adbd_is_killed_while_it_takes_a_file_and_what_arrived_counts(
    adbd: Adbd,  # noqa: F811
    tmp_path: Path,
) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(60 << 20))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    part = tmp_path / "d" / "bundles" / "x.part"

    def kill() -> None:
        while not part.exists() or part.stat().st_size < 5 << 20:
            pass
        adbd.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with (
        adbd.link() as link,
        pytest.raises(EdgeMtpError, match=r"the link to .* broke: .*what arrived of big is kept"),
    ):
        Folder(link, str(tmp_path / "d"), silent).put(source, "bundles/x", digest=digest)
    killer.join(20)
    adbd.start()
    with adbd.link() as link:
        kept = part.stat().st_size
        counting = Counting(link)
        Folder(counting, str(tmp_path / "d"), silent).put(source, "bundles/x", digest=digest)
        assert kept >= 5 << 20
        assert counting.appended <= (60 << 20) - (5 << 20)
    assert (tmp_path / "d" / "bundles" / "x").read_bytes() == source.read_bytes()


words = st.sampled_from(
    [b"is ", b"was ", b"part ", b"5000000 ", b"7 ", b"-1 ", b"\n", b"/", b"99999999999999999999 ", b"\xff"]
)
answers = st.builds(
    Completed,
    st.sampled_from([0, 0, 0, 1, 127, 255]),
    st.one_of(st.binary(max_size=30), st.lists(words, max_size=12).map(b"".join)),
    st.binary(max_size=10),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(answers, min_size=1, max_size=8))
def test_a_shell_that_answers_nonsense_is_one_line(source: Path, digest: str, answers: list[Completed]) -> None:
    class Nonsense(Counting):
        def run(self, command, *, timeout_s=30.0, input=b""):  # type: ignore[no-untyped-def]
            return answers.pop(0) if answers else Completed(0, b"", b"")

        def append(self, chunks: Iterator[bytes], path: str) -> None:
            for _ in chunks:
                pass

    folder = Folder(Nonsense(LocalLink()), "/nowhere", silent)
    for work in (lambda: folder.put(source, "bundles/x", digest=digest), folder.entries, folder.clean):
        try:
            work()
        except EdgeMtpError as error:
            assert len(str(error).splitlines()) <= 1  # noqa: PT017


def test_only_the_folder_is_touched_even_when_all_fails(
    proxy: FaultProxy, tmp_path: Path, source: Path, digest: str
) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "x").write_text("a neighbour's")
    before = tree(tmp_path)
    for cut in range(400, 3000, 300):
        proxy.faults = Faults(cut_up=cut)
        with contextlib.suppress(EdgeMtpError), AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail) as link:
            folder = Folder(link, str(tmp_path / "edge-mtp"), silent)
            folder.put(source, "bundles/x", digest=digest)
            folder.clean()
    shutil.rmtree(tmp_path / "edge-mtp", ignore_errors=True)
    assert tree(tmp_path) == before


# Here.


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "file"
    read: list[Transfer] = []
    monkeypatch.setattr(put, "REPORT_S", 0.0)
    for settled_s, content in ((2.0, b"one"), (-1.0, b"one"), (-1.0, b"two"), (-1.0, b"six")):
        monkeypatch.setattr(put, "SETTLED_S", settled_s)
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))  # what `cp -p` does: equal sizes, equal times
        for _ in range(2):
            assert file_digest(path, read.append) == hashlib.sha256(content).hexdigest()
    assert len(read) == 5  # twice what has just been written, then each once


@pytest.mark.parametrize("harm", ["folder", "link", "cut", "random"])
def test_a_strange_digest_is_ignored_and_replaced(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(put, "SETTLED_S", -1.0)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    expected = file_digest(path, silent)
    (entry,) = (tmp_path / "cache" / "edge-mtp" / "digests").iterdir()
    good = entry.read_bytes()
    if harm in ("cut", "random"):
        entry.write_bytes(good[:-1] if harm == "cut" else os.urandom(len(good)))
    else:
        entry.unlink()
        (entry / "inside").mkdir(parents=True) if harm == "folder" else entry.symlink_to(path)
    assert file_digest(path, silent) == expected
    assert entry.read_bytes() == good
    assert path.read_bytes() == b"one"
    assert not entry.is_symlink()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot read '.*/none': No such file"):
        file_digest(tmp_path / "none", silent)
