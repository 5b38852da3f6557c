"""Bundles on a device: the host's tokens, and one line for whatever goes wrong."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import emulated_board
import pytest
import remote_device
from adb_device import Adbd, UnavailableError, adbd  # noqa: F401  # a fixture
from fake_adbd import FakeAdbd
from fault_proxy import FaultProxy, Faults
from remote_device import LONG, device_on, host_files
from waiting import ends, is_running

from edge_mtp.device import remote
from edge_mtp.device.adb_link import AdbLink
from edge_mtp.device.binaries import Binaries
from edge_mtp.device.device import Fingerprint
from edge_mtp.device.elf import read_machine
from edge_mtp.device.host import HostDevice
from edge_mtp.device.link import Link, quote
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.put import Transfer
from edge_mtp.device.remote import RemoteDevice
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.request import Request, Sampling
from edge_mtp.formats.trace import Outcome, Step

REQUEST = Request(prompt=[2, 105, 9, 33, 7], max_tokens=40, draft_length=3)


def script(tmp_path: Path, text: str) -> Callable[[Fingerprint], Binaries]:
    """Binaries whose runner is a shell script; it counts as one for any machine."""
    runner = tmp_path / "scripted_runner"
    runner.write_text(f"#!/bin/sh\n{text}\n")
    return lambda fingerprint: Binaries({remote.RUNNER: runner, remote.LITERT: runner}, str(abs(hash(text))))


@pytest.fixture(params=["adbd", "fake"])
def target(request: pytest.FixtureRequest) -> Iterator[Adbd | FakeAdbd]:
    if request.param == "adbd":
        yield request.getfixturevalue("adbd")
    else:
        device = FakeAdbd()
        yield device
        device.close()


@pytest.fixture
def link(target: Adbd | FakeAdbd) -> Iterator[Link]:
    with AdbLink.over_tcp(target.host, target.port, pytest.fail) as link:
        yield link


def tokens(runner: Runner, request: Request = REQUEST) -> list[int]:
    records = list(runner.generate(request))
    assert isinstance(records[-1], Outcome)
    return [token for record in records if isinstance(record, Step) for token in record.tokens]


def test_the_tokens_are_the_hosts(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    with HostDevice().start(tiny_bundle, LoadOptions(threads=1)) as runner:
        expected = tokens(runner)
    device = device_on(link, tmp_path)
    before = set(tmp_path.rglob("*"))
    with device.start(tiny_bundle, LoadOptions(threads=1)) as runner:
        assert tokens(runner) == expected
        assert tokens(runner, REQUEST) == expected
        pid = runner.pid
    assert not is_running(pid)
    assert len(expected) == REQUEST.max_tokens
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"edge mtp's"}
    kinds = {entry.name.split("/")[0] for entry in device.store.entries()}
    assert kinds == {"bundles", "bin", "cache"}


@pytest.mark.slow
def test_an_aarch64_board_gives_the_tokens_of_this_machine(
    link: Link, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runner is pushed and started as any, but for QEMU before it."""
    try:
        emulator, runner, litert = emulated_board.emulator(), emulated_board.runner(), emulated_board.litert()
    except UnavailableError as reason:
        pytest.skip(f"no emulated board: {reason}")
    assert read_machine(runner) == read_machine(litert) == 183
    start = tmp_path / "start"
    start.write_text(f'#!/bin/sh\nexec {quote(emulator)} "$0.aarch64" "$@"\n')
    files = {remote.RUNNER: start, f"{remote.RUNNER}.aarch64": runner, remote.LITERT: litert}
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)  # what the device has to run is QEMU
    device = device_on(link, tmp_path, lambda told: Binaries(files, "aarch64"))
    requests = [REQUEST, LONG, Request(prompt=[5, 6, 7], max_tokens=40, draft_length=3, sampling=Sampling(0.8, seed=3))]
    with (
        device.start(tiny_bundle, LoadOptions(threads=1)) as emulated,
        HostDevice().start(tiny_bundle, LoadOptions(threads=1)) as host,
    ):
        for request in requests:
            assert tokens(emulated, request) == tokens(host, request)
        assert emulated.pid != host.pid


def test_the_second_start_sends_nothing(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    seen: list[Transfer] = []
    device = RemoteDevice(link, folder=str(tmp_path / "d"), binaries=host_files, report=seen.append)
    device.start(tiny_bundle, LoadOptions(threads=1)).close()
    assert {progress.what for progress in seen} >= {f"sending {tiny_bundle.name}", f"sending {remote.RUNNER}"}
    seen.clear()
    device.start(tiny_bundle, LoadOptions(threads=1)).close()
    assert not [progress for progress in seen if progress.what.startswith(("sending", "checking"))]


def test_options_reach_the_runner(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    table = tmp_path / "its table"
    table.write_bytes(b"table")
    binaries = script(tmp_path, 'for word; do echo "[$word]" >&2; done; echo "$LD_LIBRARY_PATH" >&2; exit 1')
    device = device_on(link, tmp_path, binaries)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)
    started: list[list[str]] = []
    spawn = link.spawn

    def spawn_and_keep(command: list[str], environment: Mapping[str, str]):  # type: ignore[no-untyped-def]
        started.append([*command, environment["ADSP_LIBRARY_PATH"], environment["LD_LIBRARY_PATH"]])
        return spawn(command, environment)

    monkeypatch.setattr(link, "spawn", spawn_and_keep)
    options = LoadOptions(threads=3, token_bytes=table, stepwise=True, accelerator="auto", half_precision=True)
    with pytest.raises(EdgeMtpError, match=r"exit code 1: .*/bin/"):
        device.start(tiny_bundle, options)
    monkeypatch.undo()
    (command,) = started
    home = f"{tmp_path}/edge mtp's"
    assert command[0].startswith(f"{home}/bin/")
    assert command[-1] == command[-2] == os.path.dirname(command[0])
    given = dict(itertools.pairwise(command[:-2]))
    assert given["--threads"] == "3"
    assert given["--cache-dir"] == f"{home}/cache"
    assert Path(given["--token-bytes"]).read_bytes() == b"table"
    assert Path(given["--bundle"]).read_bytes() == tiny_bundle.read_bytes()
    assert given["--accelerator"] == "auto"
    assert {"--stepwise", "--half"} <= set(command)


def test_what_trials_found_stays_on_the_device_until_its_cache_is_cleaned(
    link: Link, tmp_path: Path, tiny_bundle: Path
) -> None:
    device = device_on(link, tmp_path)
    device.start(tiny_bundle, LoadOptions(threads=1)).close()
    found = Path(device.folder) / "cache" / "0-0.threads-0.-1.accelerator"
    found.write_text("edge-mtp-trials-1\n")
    device.start(tiny_bundle, LoadOptions(threads=1)).close()
    assert found.exists()
    (cache,) = (entry for entry in device.store.entries() if entry.name == "cache")
    assert cache.bytes == sum(path.stat().st_size for path in found.parent.iterdir())
    assert cache in device.store.clean()
    assert not found.parent.exists()


# What goes wrong on the device.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'out of memory' >&2; kill -KILL $$", r"ended with signal 9 \(SIGKILL\): out of memory"),
        (
            "echo loading >&2; echo 'bad instruction' >&2; kill -ILL $$",
            r"signal 4 \(SIGILL\): loading \| bad instruction",
        ),
        ("kill -SEGV $$", r"signal 11 \(SIGSEGV\)"),
        ("echo 'cannot open libOpenCL.so' >&2; exit 3", "exit code 3: cannot open libOpenCL.so"),
        ("exit 0", "exit code 0"),
        ("echo garbage; cat", "unreadable record"),
    ],
)
def test_a_runner_that_crashes_says_how(
    link: Link, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)
    with pytest.raises(EdgeMtpError, match=message) as caught:
        device_on(link, tmp_path, script(tmp_path, text)).start(tiny_bundle)
    assert len(str(caught.value).splitlines()) == 1


def test_a_runner_killed_in_the_middle_says_so_and_the_next_one_runs(
    link: Link, tmp_path: Path, tiny_bundle: Path
) -> None:
    device = device_on(link, tmp_path)
    runner = device.start(tiny_bundle, LoadOptions(threads=1))
    steps = runner.generate(LONG)
    next(steps)
    os.kill(runner.pid, signal.SIGKILL)
    with pytest.raises(EdgeMtpError, match=r"the runner ended with signal 9 \(SIGKILL\)"):
        list(steps)
    assert runner.has_ended
    runner.close()
    with device.start(tiny_bundle, LoadOptions(threads=1)) as runner:
        assert len(tokens(runner)) == REQUEST.max_tokens


def test_a_runner_for_another_machine_is_not_sent(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    other = tmp_path / "runner"
    head = bytearray(host_files().files[remote.RUNNER].read_bytes()[:64])
    head[18:20] = (183).to_bytes(2, "little")
    other.write_bytes(head)
    device = device_on(link, tmp_path, lambda fingerprint: Binaries({remote.RUNNER: other, remote.LITERT: other}, "x"))
    with pytest.raises(EdgeMtpError, match=r"is for arm64-v8a, and .* is x86_64"):
        device.start(tiny_bundle)
    assert not (tmp_path / "edge mtp's").exists()


def test_a_runner_that_the_device_cannot_execute_says_so(
    link: Link, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)
    runner = tmp_path / "runner"
    runner.write_bytes(b"\x7fELF" + bytes(60))
    device = device_on(
        link, tmp_path, lambda fingerprint: Binaries({remote.RUNNER: runner, remote.LITERT: runner}, "x")
    )
    with pytest.raises(EdgeMtpError, match=r"exit code 12[67]: .*(Exec format error|not executable|not found)"):
        device.start(tiny_bundle)


def test_a_bundle_that_is_none_is_refused_by_the_runner(link: Link, tmp_path: Path) -> None:
    bundle = tmp_path / "broken.litertlm"
    bundle.write_bytes(b"no bundle")
    with pytest.raises(EdgeMtpError, match=r"litertlm"):
        device_on(link, tmp_path).start(bundle)


# Links that break.


def test_a_request_left_early_leaves_the_runner_usable(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    with device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)) as runner:
        steps = runner.generate(LONG)
        next(steps)
        steps.close()
        assert len(tokens(runner)) == REQUEST.max_tokens


@pytest.mark.parametrize("reset", [False, True])
def test_a_link_cut_in_the_middle_is_one_line_and_leaves_no_runner(
    target: Adbd | FakeAdbd, tmp_path: Path, tiny_bundle: Path, reset: bool
) -> None:
    with FaultProxy((target.host, target.port)) as proxy:
        proxy.faults = Faults(reset=reset)
        link = AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail)
        runner = device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1))
        steps = runner.generate(LONG)
        next(steps)
        proxy.cut()
        with pytest.raises(EdgeMtpError, match=r"the link to .* broke: .*; reconnect it"):
            list(steps)
        assert ends(runner.pid)
        runner.close()
        link.close()
        # Reconnected, all is as it was.
        with (
            RemoteDevice(
                AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail),
                folder=str(tmp_path / "edge mtp's"),
                binaries=host_files,
            ) as device,
            device.start(tiny_bundle, LoadOptions(threads=1)) as runner,
        ):
            assert len(tokens(runner)) == REQUEST.max_tokens


def test_a_runner_that_waits_ends_with_the_link(target: Adbd | FakeAdbd, tmp_path: Path, tiny_bundle: Path) -> None:
    link = AdbLink.over_tcp(target.host, target.port, pytest.fail)
    runner = device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1))
    link.close()
    assert ends(runner.pid)
    with pytest.raises(EdgeMtpError, match=r"the link to .* broke: it was closed here"):
        list(runner.generate(REQUEST))
    runner.close()


def test_a_killed_adbd_leaves_no_runner(adbd: Adbd, tmp_path: Path, tiny_bundle: Path) -> None:  # noqa: F811
    with adbd.link() as link:
        runner = device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1))
        steps = runner.generate(LONG)
        next(steps)
        adbd.kill()
        try:
            with pytest.raises(EdgeMtpError, match=r"the link to .* broke"):
                list(steps)
            assert ends(runner.pid)
            runner.close()
        finally:
            adbd.start()


def test_a_device_that_vanishes_without_a_word_keeps_no_runner_either(
    adbd: Adbd,  # noqa: F811
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own end notices late: the next connection ends what the last one left."""
    monkeypatch.setattr("edge_mtp.device.adb_transport.LOST_S", 4)
    with adbd.link() as lost:
        runner = device_on(lost, tmp_path).start(tiny_bundle, LoadOptions(threads=1))
        adbd.cut()
        try:
            with pytest.raises(EdgeMtpError, match=r"the link to .* broke: Connection timed out"):
                list(runner.generate(LONG))
        finally:
            adbd.mend()
        runner.close()
        # Two runners that are not to be touched: another client's, and one of this process that is at work.
        with adbd.link() as link, device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)) as other:
            assert ends(runner.pid)
            with device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)) as second:
                assert len(tokens(second)) == len(tokens(other))
            foreign = link.spawn(["cat"], {remote.OWNER: f"elsewhere:0:{os.getpid()}:0"})
            gone = link.spawn(["cat"], {remote.OWNER: f"{remote._this_machine()}:{(1 << 22) + 1}:0"})
            device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)).close()
            assert is_running(foreign.pid)
            assert ends(gone.pid)
            foreign.close()
            gone.close()


CLIENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from remote_device import LONG, device_on
from edge_mtp.device.adb_link import AdbLink
from edge_mtp.device.load_options import LoadOptions
host, port, folder, bundle = sys.argv[2:6]
device = device_on(AdbLink.over_tcp(host, int(port), print), Path(folder))
with device, device.start(Path(bundle), LoadOptions(threads=1)) as runner:
    print(runner.pid, flush=True)
    while True:
        for record in runner.generate(LONG):
            pass
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_when_the_program_here_ends_the_one_there_does(
    target: Adbd | FakeAdbd, tmp_path: Path, tiny_bundle: Path, sent: signal.Signals
) -> None:
    arguments = [
        str(Path(remote_device.__file__).parent),
        target.host,
        str(target.port),
        str(tmp_path),
        str(tiny_bundle),
    ]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    assert is_running(pid)
    time.sleep(0.2)  # into a request
    client.send_signal(sent)
    client.communicate(timeout=30)
    assert client.returncode != 0
    assert ends(pid)


def test_a_slow_link_carries_a_run(target: Adbd | FakeAdbd, tmp_path: Path, tiny_bundle: Path) -> None:
    with FaultProxy((target.host, target.port)) as proxy:
        with AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail) as link:
            device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)).close()  # what is large goes fast
        proxy.faults = Faults(piece_bytes=50, bytes_per_s=20_000, delay_s=0.002)
        with (
            AdbLink.over_tcp(proxy.host, proxy.port, pytest.fail) as link,
            device_on(link, tmp_path).start(tiny_bundle, LoadOptions(threads=1)) as runner,
        ):
            assert len(tokens(runner)) == REQUEST.max_tokens


def test_two_devices_run_at_once(link: Link, tmp_path: Path, tiny_bundle: Path) -> None:
    results: list[list[int]] = []

    def run(folder: Path) -> None:
        with device_on(link, folder).start(tiny_bundle, LoadOptions(threads=1)) as runner:
            results.append(tokens(runner))

    threads = [threading.Thread(target=run, args=(tmp_path / name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2
    assert results[0] == results[1]


def test_the_usual_folder_is_the_users_cache_where_there_is_no_android(link: Link) -> None:
    if Path("/data/local/tmp").is_dir():
        pytest.skip("this machine has /data/local/tmp")
    home = link.run('echo "${XDG_CACHE_HOME:-$HOME/.cache}"').output.decode().strip()
    assert RemoteDevice(link).folder == f"{home}/edge-mtp/device"


def test_a_shell_that_chatters_is_no_folder(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FOLDER", "echo Welcome")
    with pytest.raises(EdgeMtpError, match=r"answers 'Welcome' where a folder was due"):
        RemoteDevice(link)
