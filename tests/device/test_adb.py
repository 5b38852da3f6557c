"""Links over ADB: to a real adbd, directly and through a real adb server; to one that is older, or asks who we are."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from adb_device import Adbd, adbd  # noqa: F401  # a fixture
from adb_shell import exceptions
from fake_adbd import FakeAdbd, packet
from fault_proxy import FaultProxy, Faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import ends, is_running

from edge_mtp.device import adb_connection, adb_keys, adb_transport
from edge_mtp.device.adb_connection import AdbConnection, checksum
from edge_mtp.device.adb_link import AdbLink
from edge_mtp.device.adb_server import AdbServerLink, held_devices
from edge_mtp.device.adb_transport import UsbTransport
from edge_mtp.device.link import Link
from edge_mtp.errors import EdgeMtpError

KINDS = ["adbd", "server", "fake", "old"]


@pytest.fixture(scope="module")
def adb_server() -> Iterator[Path]:
    """A real adb server on a port of its own, and the adb that talks to it."""
    import adbutils

    adb = Path(adbutils.__file__).parent / "binaries" / "adb"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_MDNS", "0")
        patch.delenv("ANDROID_ADB_SERVER_HOST", raising=False)
        subprocess.run([adb, "start-server"], check=True, capture_output=True, timeout=60)
        yield adb
        subprocess.run([adb, "kill-server"], capture_output=True, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home without keys."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(folder))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        yield folder


@pytest.fixture(scope="module", params=KINDS)
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    """A device, whichever way it is reached. `old` speaks the protocol of before Android 9."""
    if request.param in ("fake", "old"):
        device = FakeAdbd() if request.param == "fake" else FakeAdbd(version=0x01000000, packet_bytes=4096)
        with AdbLink.over_tcp(device.host, device.port, pytest.fail) as link:
            yield link
        device.close()
        return
    device = request.getfixturevalue("adbd")
    if request.param == "adbd":
        with device.link() as link:
            yield link
    else:
        adb = request.getfixturevalue("adb_server")
        subprocess.run([adb, "connect", device.name], check=True, capture_output=True, timeout=60)
        with AdbServerLink(device.name) as link:
            yield link
        subprocess.run([adb, "disconnect", device.name], capture_output=True, timeout=60)


def test_a_program_ends_with_its_exit_code_and_both_streams(link: Link) -> None:
    done = link.run("printf out; printf err >&2; exit 7")
    assert (done.exit_code, done.output, done.errors) == (7, b"out", b"err")


def test_output_of_any_bytes_and_any_length_arrives_as_it_is(link: Link, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000 + os.urandom(1234)
    (tmp_path / "data").write_bytes(data)
    assert link.run(["cat", str(tmp_path / "data")]).output == data


def test_input_reaches_the_program_while_it_answers(link: Link) -> None:
    data = os.urandom(3_000_000)  # more than every buffer on the way
    assert link.run(["cat"], input=data).output == data


def test_a_program_that_wants_no_input_is_no_error(link: Link) -> None:
    assert link.run("exit 3", input=b"x" * 3_000_000).exit_code == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4)
)
def test_every_word_reaches_the_program_unchanged(link: Link, words: list[str]) -> None:
    done = link.run(["printf", "%s\\0", *words])
    assert done.output.decode() == "".join(f"{word}\0" for word in words)


NASTY = [
    "a b",
    "it's",
    '"',
    "$(touch owned)",
    "`id`",
    "new\nline",
    "-n",
    "*",
    "\\",
    "; exit 9",
    "ü—🙂",
    "~",
    "$HOME",
    "!!",
]


@pytest.mark.parametrize("word", NASTY)
def test_words_and_values_are_no_commands(
    link: Link, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = link.spawn(["sh", "-c", 'printf "%s\\n%s\\n" "$1" "$VALUE"; cat', "sh", word], {"VALUE": word})
    process.close_input()
    assert b"".join(process.lines()).decode() == f"{word}\n{word}\n"
    assert process.wait(20) == 0
    process.close()
    path = tmp_path / f"x{word.replace('/', '_')}"
    link.append(iter([b"1", b"23"]), str(path))
    link.append(iter([b"4"]), str(path))
    assert path.read_bytes() == b"1234"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_name_of_an_environment_variable_must_be_one(link: Link) -> None:
    with pytest.raises(EdgeMtpError, match=r"no name of an environment variable"):
        link.spawn(["true"], {"A=1; touch x; B": "1"})


def test_a_silent_program_may_run_longer_than_any_connection_timeout(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_connection, "CONNECT_S", 0.2)
    monkeypatch.setattr(adb_connection, "STALL_S", 0.2)
    assert link.run("sleep 1.5; echo woke").output == b"woke\n"


def test_a_program_silent_for_too_long_is_stopped_with_its_children(link: Link, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(EdgeMtpError, match=r"said nothing for 1 s and was stopped"):
        link.run(f"sleep 1000 & echo $! > {pid_file}; wait", timeout_s=0.7)
    assert ends(int(pid_file.read_text()))


def test_a_program_with_signs_of_life_is_not_stopped(link: Link) -> None:
    done = link.run("for i in 1 2 3 4 5 6; do sleep 0.3; echo $i; done", timeout_s=1)
    assert done.output.split() == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_a_process_talks_both_ways_until_its_input_ends(link: Link) -> None:
    process = link.spawn(["sh", "-c", 'while read line; do echo "got $line"; done; echo end >&2; exit 5'], {})
    lines = process.lines()
    for word in (b"one", b"two"):
        process.send(word + b"\n")
        assert next(lines) == b"got " + word + b"\n"
    with pytest.raises(TimeoutError):
        process.wait(0)
    process.close_input()
    process.close_input()
    assert list(lines) == []
    assert list(process.lines()) == []
    assert process.wait(20) == 5
    assert process.diagnostics() == "end\n"
    with pytest.raises(BrokenPipeError):
        process.send(b"more\n")
    process.kill()
    process.close()


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "ABRT"])
def test_the_end_by_a_signal_tells_which(link: Link, name: str) -> None:
    import signal

    process = link.spawn(["sh", "-c", f"kill -{name} $$"], {})
    assert process.wait(20) == -signal.Signals[f"SIG{name}"]
    process.close()


@pytest.mark.parametrize("code", [0, 1, 126, 127, 128, 193, 255])
def test_an_exit_code_is_not_taken_for_a_signal(link: Link, code: int) -> None:
    process = link.spawn(["sh", "-c", f"exit {code}"], {})
    assert process.wait(20) == code
    process.close()


def test_kill_ends_the_process_where_it_runs(link: Link) -> None:
    process = link.spawn(["sleep", "1000"], {})
    assert is_running(process.pid)  # the devices here share this machine's processes
    process.kill()
    assert process.wait(20) == -9
    assert not is_running(process.pid)
    process.close()


def test_closing_a_process_that_runs_leaves_none_behind(link: Link) -> None:
    process = link.spawn(["cat"], {})
    process.close()
    assert ends(process.pid)


def test_a_program_that_is_not_there_says_so(link: Link) -> None:
    process = link.spawn(["/nonexistent/runner"], {})
    assert process.wait(20) == 127
    assert "nonexistent" in process.diagnostics()
    process.close()


def test_a_long_line_is_one_line(link: Link) -> None:
    process = link.spawn(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"], {})
    assert [len(line) for line in process.lines()] == [3_000_001, 4]
    process.close()


def test_several_threads_share_a_link(link: Link) -> None:
    process = link.spawn(["sh", "-c", "while :; do echo x; sleep 0.01; done"], {})
    reader = threading.Thread(target=lambda: list(process.lines()))
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda i: link.run(["echo", str(i)]).output, range(40)))
    assert outputs == [f"{i}\n".encode() for i in range(40)]
    process.kill()
    reader.join(20)
    assert not reader.is_alive()
    process.close()


def test_a_command_has_room_and_an_end(link: Link) -> None:
    limit = 4000 if link.name.startswith("127.") else 59_000  # the old one takes 4,096 bytes
    assert link.run(["printf", "%s", "x" * limit]).output == b"x" * limit
    with pytest.raises(EdgeMtpError, match=r"a command of \d+ bytes is too long for"):
        link.run(["printf", "%s", "x" * 60_000])


def test_a_large_file_arrives_whole(link: Link, tmp_path: Path) -> None:
    chunks = [os.urandom(3_333_333) for _ in range(6)] + [b"", b"end"]
    link.append(iter(chunks), str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)


def test_a_file_that_cannot_be_written_says_why(link: Link, tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot write '.*/none/file'.*(nonexistent|No such|Directory)"):
        link.append(iter([b"x"] * 10), str(tmp_path / "none" / "file"))


def test_a_full_disk_says_so_at_once(link: Link) -> None:
    endless = (bytes(1 << 20) for _ in iter(int, 1))
    with pytest.raises(EdgeMtpError, match=r"cannot write '/dev/full'.*No space left on device"):
        link.append(endless, "/dev/full")


# Connecting.


def connect(device: FakeAdbd | FaultProxy, notice: Callable[[str], None] = pytest.fail) -> AdbLink:
    return AdbLink.over_tcp(device.host, device.port, notice)


def test_a_new_machine_is_explained_and_let_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    device, notices = FakeAdbd(authorize=True, accepts=True), []
    with connect(device, notices.append) as link:
        assert link.run(["echo", "in"]).output == b"in\n"
    key = tmp_path / ".config" / "edge-mtp" / "adbkey"
    assert len(notices) == 1
    assert "accept 'Allow USB debugging?'" in notices[0]
    assert str(key) in notices[0]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with connect(device) as link:  # the fake fails on a notice: it knows us now
        assert link.run(["echo", "again"]).output == b"again\n"
    assert device.dialogues == 1
    device.close()


@pytest.mark.parametrize("accepts", [False, None])
def test_a_machine_that_is_not_let_in_is_told_what_to_do(accepts: bool | None) -> None:
    device = FakeAdbd(authorize=True, accepts=accepts)
    transport = adb_transport.TcpTransport(device.host, device.port)
    notices: list[str] = []
    with pytest.raises(EdgeMtpError, match=r"did not authorize this machine: unlock it and accept"):
        AdbConnection(transport, "phone", adb_keys.keys, notices.append, authorize_s=0.5)
    assert len(notices) == 1
    device.close()


def test_the_key_that_adb_has_is_used_and_its_folder_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adb_shell.auth.keygen import keygen

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".android").mkdir()
    keygen(str(tmp_path / ".android" / "adbkey"))
    device = FakeAdbd(authorize=True)
    device.known.append((tmp_path / ".android" / "adbkey.pub").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    connect(device).close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    device.close()


def test_two_processes_that_need_a_key_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        made = {key.public for keys in pool.map(lambda _: adb_keys.keys(), range(4)) for key in keys}
    assert len(made) == 1
    assert [path.name for path in (tmp_path / ".config" / "edge-mtp").iterdir()] == ["adbkey"]


def test_a_key_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".android").mkdir()
    (tmp_path / ".android" / "adbkey").write_text("no key")
    with pytest.raises(EdgeMtpError, match=r"cannot read the ADB key .*/\.android/adbkey"):
        adb_keys.keys()


def test_wireless_debugging_is_sent_to_the_adb_server() -> None:
    device = FakeAdbd(tls=True)
    with pytest.raises(EdgeMtpError, match=r"wireless debugging: pair with it once by 'adb pair"):
        connect(device)
    device.close()


def test_a_device_without_shell_v2_is_too_old() -> None:
    device = FakeAdbd(features="cmd")
    with connect(device) as link, pytest.raises(EdgeMtpError, match=r"does not offer 'shell,v2,raw'.*Android 7"):
        link.run(["true"])
    device.close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(EdgeMtpError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
        AdbLink.over_tcp("127.0.0.1", port, pytest.fail)


def test_something_that_accepts_and_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_connection, "CONNECT_S", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(EdgeMtpError, match=r"does not answer within"),
    ):
        AdbLink.over_tcp("127.0.0.1", listener.getsockname()[1], pytest.fail)


def test_something_else_than_adb() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
            connection.recv(1000)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(EdgeMtpError, match=r"does not speak ADB"):
            AdbLink.over_tcp("127.0.0.1", listener.getsockname()[1], pytest.fail)


# Through the adb server.


def test_no_server_is_started_where_none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    assert held_devices() == []
    with pytest.raises(EdgeMtpError, match=r"holds no device 'X'"):
        AdbServerLink("X")
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", port)) != 0


def test_the_server_tells_what_it_holds(adbd: Adbd, adb_server: Path) -> None:  # noqa: F811
    subprocess.run([adb_server, "connect", adbd.name], check=True, capture_output=True, timeout=60)
    assert [(device.serial, device.state) for device in held_devices()] == [(adbd.name, "device")]
    with pytest.raises(EdgeMtpError, match=f"holds no device 'other' .it holds: {adbd.name}"):
        AdbServerLink("other")
    link = AdbServerLink(adbd.name)
    subprocess.run([adb_server, "disconnect", adbd.name], check=True, capture_output=True, timeout=60)
    with pytest.raises(EdgeMtpError, match=r"through the adb server.*not found"):
        link.run(["true"])


def test_a_device_that_the_server_loses_is_one_line(adbd: Adbd, adb_server: Path, tmp_path: Path) -> None:  # noqa: F811
    subprocess.run([adb_server, "connect", adbd.name], check=True, capture_output=True, timeout=60)
    link = AdbServerLink(adbd.name)
    process = link.spawn(["cat"], {})
    adbd.kill()
    try:
        with pytest.raises(EdgeMtpError, match=r"ended the stream of process \d+ without an exit code|let go of"):
            process.wait(20)
        with pytest.raises((BrokenPipeError, EdgeMtpError)):
            process.send(b"x")
        process.close()
        with pytest.raises(EdgeMtpError, match=r"through the adb server"):
            link.append(iter([b"x"]), str(tmp_path / "file"))
    finally:
        adbd.start()
        subprocess.run([adb_server, "disconnect", adbd.name], capture_output=True, timeout=60)


def test_what_answers_in_the_servers_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
        with pytest.raises(EdgeMtpError, match=r"the adb server at .* does not answer as one"):
            held_devices()


# Links that break.


class one_line_at_most:  # noqa: N801  # reads as what it is
    """Any other exception than EdgeMtpError passes, and fails the test."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, EdgeMtpError) and len(str(error).splitlines()) == 1


@pytest.fixture(params=["adbd", "fake"])
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """A proxy before a device."""
    device = request.getfixturevalue("adbd") if request.param == "adbd" else FakeAdbd()
    with FaultProxy((device.host, device.port)) as proxy:
        yield proxy
    if isinstance(device, FakeAdbd):
        device.close()


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_link_ends_the_program_on_both_sides(proxy: FaultProxy, reset: bool) -> None:
    proxy.faults = Faults(reset=reset)
    link = connect(proxy)
    process = link.spawn(["sh", "-c", "echo started; exec cat"], {})
    lines = process.lines()
    assert next(lines) == b"started\n"
    proxy.cut()
    assert list(lines) == []
    with pytest.raises(EdgeMtpError, match=r"the link to .* broke: "):
        process.wait(20)
    with pytest.raises(EdgeMtpError, match=r"the link to .* broke: "):
        link.run(["true"])
    process.kill()
    process.close()
    link.close()
    assert ends(process.pid)


def test_a_device_that_vanishes_without_a_word_is_missed(adbd: Adbd, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(adb_transport, "LOST_S", 4)
    with adbd.link() as link:
        process = link.spawn(["cat"], {})
        adbd.cut()
        try:
            with pytest.raises(EdgeMtpError, match=r"the link to .* broke: Connection timed out"):
                process.wait(30)
        finally:
            adbd.mend()
        process.close()


def test_a_killed_adbd_is_a_broken_link(adbd: Adbd) -> None:  # noqa: F811
    link = adbd.link()
    process = link.spawn(["cat"], {})
    adbd.kill()
    try:
        with pytest.raises(EdgeMtpError, match=r"the link to .* broke: "):
            process.wait(20)
        process.close()
        link.close()
        assert ends(process.pid)
        with pytest.raises(EdgeMtpError, match=r"Connection refused"):
            adbd.link()
    finally:
        adbd.start()
    with adbd.link() as link:
        assert link.run(["echo", "back"]).output == b"back\n"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(up=st.integers(1, 5000), down=st.integers(1, 800), first=st.booleans(), reset=st.booleans())
def test_a_cut_at_any_byte_is_one_line(proxy: FaultProxy, up: int, down: int, first: bool, reset: bool) -> None:
    proxy.faults = Faults(cut_up=up, reset=reset) if first else Faults(cut_down=down, reset=reset)
    with one_line_at_most(), connect(proxy) as link:
        done = link.run(["sh", "-c", "cat; echo end"], input=b"x" * 3000)
        assert done.output == b"x" * 3000 + b"end\n"  # the cut came later


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1500))
def test_a_garbled_byte_does_not_hang(proxy: FaultProxy, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECT_S", "STALL_S"):
            patch.setattr(adb_connection, name, 0.5)
        patch.setattr("edge_mtp.device.shell_v2.START_S", 0.5)
        proxy.faults = Faults(garble_down=at)
        with one_line_at_most(), connect(proxy, lambda line: None) as link:
            link.run(["echo", "x" * 1000], timeout_s=0.5)
    proxy.faults = Faults()
    with connect(proxy) as link:  # the device is there for the next one
        assert link.run(["echo", "again"]).output == b"again\n"


def test_a_slow_link_in_small_pieces_loses_nothing(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.faults = Faults(piece_bytes=997, bytes_per_s=2e6)
    data = os.urandom(500_000)
    with connect(proxy) as link:
        link.append(iter([data]), str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == data


# A device made of bytes.


class Script(adb_transport.TcpTransport):
    """A transport whose device says the first of `answers` at once, and each further one when a stream is opened.

    After the last it hangs up, or `stays` and is silent.
    """

    def __init__(self, *answers: bytes, stays: bool = False) -> None:
        super().__init__("nowhere", 0)
        self._waiting, self._stays = list(answers), stays
        self._said = self._waiting.pop(0)
        self._closed = False
        self._changed = threading.Condition()
        self.sent = bytearray()

    def connect(self, transport_timeout_s: float | None) -> None:
        pass

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytearray:
        with self._changed:
            over = self._changed.wait_for(
                lambda: len(self._said) >= numbytes or self._closed or not (self._waiting or self._stays),
                transport_timeout_s,
            )
            if not over:
                raise TimeoutError
            if len(self._said) < numbytes:
                raise ConnectionResetError("the device closed the connection")
            data, self._said = self._said[:numbytes], self._said[numbytes:]
        return bytearray(data)

    def write_packet(self, header: bytes, parts: Sequence[bytes | memoryview]) -> None:
        with self._changed:
            if header[:4] == b"OPEN" and self._waiting:
                self._said += self._waiting.pop(0)
                self._changed.notify_all()
            self.sent += b"".join([header, *parts])

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def hello(features: str = "shell_v2,delayed_ack", version: int = 0x01000001, packet_bytes: int = 1 << 20) -> bytes:
    return packet(b"CNXN", version, packet_bytes, f"device::features={features}".encode())


def frames(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<BI", kind, len(body)) + body for kind, body in parts)


def link_to(*answers: bytes, stays: bool = False) -> AdbLink:
    return AdbLink(Script(*answers, stays=stays), "device", lambda line: None)


def sent_packets(sent: bytes) -> list[tuple[bytes, bytes]]:
    packets = []
    while sent:
        command, _, _, length, _, _ = struct.unpack_from("<4s5I", sent)
        packets.append((command, bytes(sent[24 : 24 + length])))
        sent = sent[24 + length :]
    return packets


@pytest.mark.parametrize(("granted", "expected"), [(5 << 20, 5), ((4 << 20) + 1, 5), (1, 1)])
def test_as_many_packets_are_on_the_way_as_the_device_grants(granted: int, expected: int) -> None:
    script = Script(hello(), packet(b"OKAY", 7, 1, struct.pack("<i", granted)), stays=True)
    connection = AdbConnection(script, "device", list, pytest.fail)
    stream = connection.open("x:")
    writer = threading.Thread(target=_write, args=(stream, 9 << 20))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    assert sum(command == b"WRTE" for command, _ in sent_packets(bytes(script.sent))) == expected
    stream.close()
    writer.join(20)
    assert not writer.is_alive()
    connection.close()


def _write(stream: Any, size: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        stream.write(bytes(size))


def test_the_banner_names_features_without_a_zero_byte() -> None:
    """adbd splits it at commas and takes what is between for a name."""
    script = Script(hello(), stays=True)
    AdbConnection(script, "device", list, pytest.fail).close()
    assert sent_packets(bytes(script.sent))[0] == (b"CNXN", b"host::features=shell_v2,delayed_ack")


@given(st.binary(max_size=5000))
def test_the_checksum_is_the_sum_of_the_bytes(data: bytes) -> None:
    assert checksum(data) == sum(data)


def outcome(*answers: bytes) -> None:
    """A command on a device that says this ends, well or in one line, and leaves no thread."""
    before = threading.active_count()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("adb_connection.CONNECT_S", "adb_connection.STALL_S", "shell_v2.START_S"):
            patch.setattr(f"edge_mtp.device.{name}", 0.02)
        with one_line_at_most(), contextlib.suppress(TimeoutError), link_to(*answers) as link:
            link.run(["x"], input=b"data", timeout_s=0.02)
            process = link.spawn(["x"], {})
            process.wait(0.02)
            list(process.lines())
    assert threading.active_count() <= before


COMMANDS = [b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE", b"STLS", b"SYNC", b"????"]
bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(-(1 << 31), (1 << 31) - 1).map(lambda count: struct.pack("<i", count)),
    st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=12)), max_size=4).map(lambda parts: frames(*parts)),
    st.sampled_from([frames((1, b"123\n")), frames((3, b"\0")), struct.pack("<BI", 1, 0xFFFFFFFF)]),
)
packets = st.builds(packet, st.sampled_from(COMMANDS), st.integers(0, 3), st.integers(0, 3), bodies)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_bytes_that_are_nothing_are_one_line(answers: bytes) -> None:
    outcome(answers)


@settings(max_examples=600, deadline=None)
@given(said_hello=st.booleans(), parts=st.lists(st.lists(packets, max_size=6), max_size=3), rest=st.binary(max_size=30))
def test_packets_in_any_order_are_one_line(said_hello: bool, parts: list[list[bytes]], rest: bytes) -> None:
    outcome(hello() if said_hello else b"", *(b"".join(part) for part in parts), rest)


@settings(max_examples=600, deadline=None)
@given(data=st.data(), features=st.sampled_from(["shell_v2,delayed_ack", "shell_v2", ""]))
def test_a_session_with_any_bytes_changed_is_one_line(data: st.DataObject, features: str) -> None:
    count = struct.pack("<i", 1 << 20) if "delayed_ack" in features else b""
    session = [bytearray(hello(features))]
    for stream in (1, 2):
        good = bytearray()
        session.append(good)
        good += packet(b"OKAY", 50 + stream, stream, count)
        good += packet(b"WRTE", 50 + stream, stream, frames((1, b"123\n"), (2, b"oops\n"), (1, b"out")))
        good += packet(b"OKAY", 50 + stream, stream, count)
        good += packet(b"WRTE", 50 + stream, stream, frames((3, b"\0")))
        good += packet(b"CLSE", 50 + stream, stream)
    for _ in range(data.draw(st.integers(0, 3))):
        part = data.draw(st.sampled_from(session))
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    last = data.draw(st.sampled_from(session))
    del last[data.draw(st.integers(0, len(last))) :]
    outcome(*map(bytes, session))


def test_that_session_unchanged_is_a_good_one() -> None:
    count = struct.pack("<i", 1 << 20)
    good = packet(b"OKAY", 51, 1, count)
    good += packet(b"WRTE", 51, 1, frames((1, b"123\n"), (2, b"oops\n"), (1, b"out"))[:17])
    good += packet(b"WRTE", 51, 1, frames((1, b"123\n"), (2, b"oops\n"), (1, b"out"))[17:])
    good += packet(b"WRTE", 51, 1, frames((3, b"\7")))
    with link_to(hello(), good, stays=True) as link:
        done = link.run(["x"])
    assert (done.exit_code, done.output, done.errors) == (7, b"out", b"oops\n")


def test_an_answer_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_mtp.device.shell_v2.OUTPUT_BYTES", 1 << 20)
    answers = packet(b"OKAY", 51, 1) + packet(b"WRTE", 51, 1, frames((1, b"1\n")))
    endless = packet(b"WRTE", 51, 1, frames((1, b"x" * 60_000))) * 30
    with (
        link_to(hello("shell_v2"), answers + endless, stays=True) as link,
        pytest.raises(EdgeMtpError, match=r"sent more than 1 MiB"),
    ):
        link.run(["yes"])


def test_a_device_that_ignores_flow_control_is_cut_off() -> None:
    flood = packet(b"WRTE", 51, 1, bytes(1 << 20)) * 9
    connection = AdbConnection(Script(hello(), packet(b"OKAY", 51, 1, bytes(4)) + flood), "device", list, pytest.fail)
    with contextlib.suppress(EdgeMtpError):
        connection.open("x:")
    connection._reader.join(20)
    assert "more data than was asked for" in str(connection.loss)
    connection.close()


# USB: no device here, so libusb's part is played.


class UsbError(Exception):
    def __init__(self, value: int, received: bytes = b"") -> None:
        self.value, self.received = value, received


class Endpoint:
    def __init__(self, address: int) -> None:
        self._address = address

    def getAddress(self) -> int:  # noqa: N802  # libusb1's name
        return self._address

    def getMaxPacketSize(self) -> int:  # noqa: N802
        return 512


class Usb:
    """adb-shell's UsbTransport, as far as it goes. `transfers` are what the device sends; a short write takes 1000."""

    def __init__(self, transfers: list[bytes | Exception]) -> None:
        self.transfers, self.written, self.closed = transfers, list[bytes](), False
        self._setting = self

    def iterEndpoints(self) -> list[Endpoint]:  # noqa: N802
        return [Endpoint(0x81), Endpoint(0x02)]

    def connect(self, timeout_s: float) -> None:
        pass

    def bulk_read(self, numbytes: int, timeout_s: float) -> bytes:
        transfer = self.transfers.pop(0)
        if isinstance(transfer, Exception):
            raise transfer
        assert len(transfer) <= numbytes
        return transfer

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        self.written.append(data[:1000])
        return len(data[:1000])

    def close(self) -> None:
        self.closed = True


def usb(transfers: list[bytes | Exception]) -> tuple[Usb, UsbTransport]:
    inner = Usb(transfers)
    transport = UsbTransport(inner)
    transport.connect(1)
    return inner, transport


def test_usb_reads_on_after_short_and_empty_transfers_and_time_outs() -> None:
    late = exceptions.UsbReadFailedError("late", UsbError(-7, b"cd"))
    _, transport = usb([b"", b"ab", late, b"ef"])
    assert transport.bulk_read(6, None) == b"abcdef"


def test_usb_that_is_unplugged_is_a_lost_connection() -> None:
    _, transport = usb([exceptions.UsbReadFailedError("gone", UsbError(-4))])
    with pytest.raises(ConnectionResetError, match=r"USB device is gone"):
        transport.bulk_read(6, None)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 999, 1000, 1024, 2048, 5000])
def test_usb_writes_all_and_ends_a_full_packet_with_an_empty_one(size: int) -> None:
    inner, transport = usb([])
    data = os.urandom(size)
    assert transport.bulk_write(data, 1) == size
    assert b"".join(inner.written) == data
    assert (inner.written[-1] == b"") == (size % 512 == 0)


def test_usb_closes_while_another_thread_reads() -> None:
    late = exceptions.UsbReadFailedError("late", UsbError(-7))
    inner, transport = usb([late] * 100_000)
    caught: list[BaseException] = []

    def read() -> None:
        try:
            transport.bulk_read(24, None)
        except OSError as error:
            caught.append(error)

    inner_read = inner.bulk_read
    inner.bulk_read = lambda *a: time.sleep(0.005) or inner_read(*a)  # type: ignore[method-assign,func-returns-value]
    reader = threading.Thread(target=read)
    reader.start()
    transport.close()
    reader.join(20)
    assert inner.closed
    assert isinstance(caught[0], ConnectionAbortedError)
