"""Boards over ssh, against a real sshd on this machine with keys and a configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ssh_board import SSHD, Board
from waiting import is_running, until

from edge_mtp.device import Request, ssh_link
from edge_mtp.device.binaries import binaries_for
from edge_mtp.device.host import HostDevice
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.remote import RemoteDevice
from edge_mtp.device.ssh_link import SshLink
from edge_mtp.errors import EdgeMtpError

pytestmark = [
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="OpenSSH's server or client is missing"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = Board(tmp_path_factory.mktemp("board"))
    yield board
    board.close()


@pytest.fixture(scope="module")
def link(board: Board) -> Iterator[SshLink]:
    with board.link() as link:
        assert isinstance(link, SshLink)
        yield link


@pytest.fixture
def own_board(tmp_path: Path) -> Iterator[Board]:
    """One whose connections a test may cut."""
    (folder := tmp_path / "board").mkdir()
    board = Board(folder)
    yield board
    board.close()


many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
ugly = st.sampled_from(
    ["two  words", "it's", 'say "so"', "$(touch /tmp/x)", "`id`", "line\nline", "-n", "~", "*", "\\", ""]
)


@many
@given(st.lists(words | ugly, min_size=1, max_size=6))
def test_words_arrive_as_they_are(link: SshLink, arguments: list[str]) -> None:
    done = link.run(["printf", "%s\\0", *arguments])
    assert done.output == b"".join(word.encode() + b"\0" for word in arguments)
    assert (done.exit_code, done.errors) == (0, b"")


@many
@given(st.binary(max_size=300_000), st.binary(max_size=2000))
def test_streams_are_apart_and_binary(link: SshLink, data: bytes, more: bytes) -> None:
    done = link.run(f"cat; printf %s {more.hex()} >&2", input=data)
    assert (done.exit_code, done.output, done.errors) == (0, data, more.hex().encode())


def test_large_streams_both_ways(link: SshLink) -> None:
    data = os.urandom(6 << 20)
    assert link.run(["cat"], input=data).output == data


def test_input_that_nobody_reads(link: SshLink) -> None:
    assert link.run(["true"], input=bytes(6 << 20)).exit_code == 0


@pytest.mark.parametrize("code", [0, 1, 3, 127, 128, 254, 255])
def test_exit_codes(link: SshLink, code: int) -> None:
    done = link.run(f"echo out; echo err >&2; exit {code}")
    assert (done.exit_code, done.output, done.errors) == (code, b"out\n", b"err\n")


def test_a_signal_is_told_as_the_shell_tells_it(link: SshLink) -> None:
    assert link.run("kill -SEGV $$").exit_code == 128 + signal.SIGSEGV


def test_a_string_is_for_the_shell(link: SshLink) -> None:
    assert link.run('x=4; echo "$((x + 1))"').output == b"5\n"


def test_a_silent_command_is_stopped(link: SshLink, tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"said nothing for 1 s and was stopped"):
        link.run(f"echo $$ > {tmp_path}/pid; sleep 1000; true", timeout_s=1)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not is_running(pid))
    assert link.run(["echo", "on"]).output == b"on\n"


def test_a_command_that_speaks_is_not_silent(link: SshLink) -> None:
    assert link.run("for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done", timeout_s=1.5).output == b"1\n2\n3\n4\n5\n6\n"


def test_a_login_that_speaks_is_not_the_program(tmp_path: Path) -> None:
    """Start-up files that print break much that runs over ssh (openssh-portable's FAQ 2.9)."""
    noisy = Board(tmp_path, "echo 17; printf 'last login: 4'; echo 99 >&2; printf 'rm: 7' >&2")
    try:
        with contextlib.closing(noisy.link()) as link:
            done = link.run("printf '1\\n2'; echo no >&2; exit 3")
            assert (done.exit_code, done.output, done.errors) == (3, b"1\n2", b"no\n")
            process = link.spawn(["sh", "-c", "echo here >&2; exec cat"], {})
            try:
                assert is_running(process.pid)
                process.send(b"one\n")
                process.close_input()
                assert list(process.lines()) == [b"one\n"]
                assert process.wait(60) == 0
                assert process.diagnostics() == "here\n"
            finally:
                process.close()
            link.append(iter([b"abc"]), str(tmp_path / "file"))
            assert (tmp_path / "file").read_bytes() == b"abc"
    finally:
        noisy.close()


def test_many_threads(link: SshLink) -> None:
    """More at once than sshd allows on a connection, beside programs that stay."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.callback(link.spawn(["cat"], {}).close)
        with ThreadPoolExecutor(24) as pool:
            done = list(pool.map(lambda n: link.run(f"sleep 0.1; echo {n}").output, range(48)))
    assert done == [b"%d\n" % n for n in range(48)]


def test_a_spawned_program(link: SshLink) -> None:
    value = "a 'b' $(c)\nd"
    process = link.spawn(["sh", "-c", 'echo "$NAME" >&2; exec cat'], {"NAME": value})
    try:
        assert is_running(process.pid)  # the board is this machine
        lines = process.lines()
        for text in (b"one\n", b"two\n"):
            process.send(text)
            assert next(lines) == text
        with pytest.raises(TimeoutError):
            process.wait(0)
        process.close_input()
        assert list(lines) == []
        assert process.wait(60) == 0
        assert process.diagnostics() == value + "\n"
        with pytest.raises(BrokenPipeError):
            process.send(b"late\n")
        process.kill()  # harmless
    finally:
        process.close()


@pytest.mark.parametrize("code", [0, 7, 255])
def test_how_a_spawned_program_ends(link: SshLink, code: int) -> None:
    process = link.spawn(["sh", "-c", f"echo last words >&2; exit {code}"], {})
    assert process.wait(60) == code
    assert process.diagnostics() == "last words\n"
    process.close()


def test_killing_a_spawned_program(link: SshLink) -> None:
    process = link.spawn(["sleep", "1000"], {})
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not is_running(process.pid)
    process.close()


def test_a_program_that_is_not_there(link: SshLink) -> None:
    process = link.spawn(["/absent/runner"], {})
    assert process.wait(60) == 127
    assert "/absent/runner" in process.diagnostics()
    process.close()


def test_only_names_of_variables(link: SshLink) -> None:
    with pytest.raises(EdgeMtpError, match="'A=1; B' is no name"):
        link.spawn(["true"], {"A=1; B": ""})


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", 'say "so"', "$(touch x)", "line\nline", "-rf", "ümlaut"]
)
def test_appending(link: SshLink, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = os.urandom(3 << 20)
    link.append(iter([data[:10], data[10 : 1 << 20]]), str(path))
    link.append(iter([data[1 << 20 :]]), str(path))
    link.append(iter([]), str(path))
    assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_appending_where_there_is_no_folder(link: SshLink, tmp_path: Path) -> None:
    with pytest.raises(EdgeMtpError, match=r"^ssh://\S+ cannot write '.*/absent/file': .*(No such file|nonexistent)"):
        link.append(iter([b"x"]), str(tmp_path / "absent" / "file"))


def test_appending_to_a_full_disk(link: SshLink) -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot write '/dev/full': .*No space left"):
        link.append(iter([bytes(1 << 16)] * 200), "/dev/full")


def test_a_chunk_that_cannot_be_made(link: SshLink, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.append(chunks(), str(tmp_path / "file"))
    assert link.run(["echo", "on"]).output == b"on\n"


def test_a_cut_connection(own_board: Board, tmp_path: Path) -> None:
    """Who waits is told, what runs there ends, what arrived stays, and nothing opens a connection by itself."""
    link = own_board.link()
    process = link.spawn(["sh", "-c", "trap '' HUP PIPE TERM; while :; do sleep 1; done"], {})
    path = tmp_path / "file"

    def chunks() -> Iterator[bytes]:
        yield bytes(1 << 20)
        until(lambda: path.exists() and path.stat().st_size == 1 << 20)
        own_board.cut()
        while True:
            yield bytes(1 << 20)

    with pytest.raises(EdgeMtpError, match=r"^the connection to ssh://\S+ broke"):
        link.append(chunks(), str(path))
    assert path.stat().st_size >= 1 << 20
    assert list(process.lines()) == []
    with pytest.raises(EdgeMtpError, match=r"^the connection to ssh://\S+ broke"):
        process.wait(60)
    until(lambda: not is_running(process.pid))
    for use in (lambda: link.run(["true"]), lambda: link.spawn(["true"], {}), lambda: link.append(iter([]), "/x")):
        with pytest.raises(EdgeMtpError, match=r"^the connection to ssh://\S+ broke"):
            use()
    process.kill()
    process.close()
    link.close()
    link.close()
    with own_board.link() as again:  # a later one is unharmed
        assert again.run(["true"]).exit_code == 0


def test_a_board_that_falls_silent(own_board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_link, "ALIVE_S", 1)
    with own_board.link() as link:
        process = link.spawn(["cat"], {})
        own_board.freeze()
        assert list(process.lines()) == []
        with pytest.raises(EdgeMtpError, match=r"^the connection to ssh://\S+ broke"):
            process.wait(60)
        process.close()


def test_closing_ends_what_runs(board: Board) -> None:
    with board.link() as link:
        process = link.spawn(["sleep", "1000"], {})
    until(lambda: not is_running(process.pid))
    process.close()


def test_interrupting_this_program_spares_the_connection(board: Board) -> None:
    """Ctrl-C goes to the whole process group; the runner is then stopped over this very connection."""
    script = f"""
import os, signal, sys
from pathlib import Path
from edge_mtp.device.ssh_link import SshLink
link = SshLink("127.0.0.1", {board.port}, config=Path({str(board.config())!r}))
process = link.spawn(["sleep", "1000"], {{}})
try:
    os.killpg(0, signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    process.kill()
    print(process.wait(60), link.run(["echo", "on"]).output)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, start_new_session=True, cwd="/"
    )
    assert done.stdout == f"{-signal.SIGKILL} b'on\\n'\n", done.stderr


def test_a_bundle_runs_there_as_here(board: Board, tiny_bundle: Path, tmp_path: Path) -> None:
    """The board is this machine, so that what is installed here is what it gets."""
    folder = tmp_path / "it's a board"
    request = Request(list(range(40, 80)), 32, draft_length=4)
    device = RemoteDevice(board.link(), folder=str(folder), binaries=lambda its: binaries_for(its.kind, its.abi or ""))
    with (
        device,
        device.start(tiny_bundle, LoadOptions(threads=1)) as there,
        HostDevice().start(tiny_bundle, LoadOptions(threads=1)) as here,
    ):
        assert str(there.pid) in os.listdir("/proc")
        ours, theirs = (list(runner.generate(request)) for runner in (here, there))
    assert [step.tokens for step in theirs[:-1]] == [step.tokens for step in ours[:-1]]
    assert sum(step.accepted for step in theirs[:-1]) > 0
    assert {path.name for path in folder.iterdir()} >= {"bin", "bundles"}


def refusal(destination: str, port: int | None, config: Path) -> str:
    with pytest.raises(EdgeMtpError) as caught:
        SshLink(destination, port, config=config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_key_that_is_refused(board: Board) -> None:
    text = refusal("127.0.0.1", board.port, board.config(key="stranger"))
    assert "refuses the login" in text
    assert "Permission denied (publickey" in text
    assert f"ssh-copy-id 127.0.0.1 -p {board.port}" in text


def test_a_board_that_is_not_known(board: Board) -> None:
    text = refusal("127.0.0.1", board.port, board.config(known="/dev/null"))
    assert "is not known, or not the machine that it was" in text
    assert f"'ssh 127.0.0.1 -p {board.port}'" in text


def test_a_board_that_is_another_one(board: Board) -> None:
    other = board.folder / "other"
    key = " ".join((board.folder / "stranger.pub").read_text().split()[:2])
    other.write_text(f"[127.0.0.1]:{board.port} {key}\n")
    assert "not the machine that it was" in refusal("127.0.0.1", board.port, board.config(known=str(other)))


def test_a_board_that_is_off(board: Board) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        text = refusal("127.0.0.1", unused.getsockname()[1], board.config())
    assert text.startswith("cannot connect to ssh://127.0.0.1:")
    assert "Connection refused" in text


def test_a_name_that_nobody_has(board: Board) -> None:
    text = refusal("someone@board.invalid", None, board.config())
    assert "ssh://someone@board.invalid" in text
    assert "check the name" in text


def test_a_port_where_something_else_answers(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_link, "CONNECT_S", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert "cannot connect" in refusal("127.0.0.1", mute.getsockname()[1], board.config())


def test_no_ssh(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(board.folder))
    assert "install OpenSSH's client" in refusal("127.0.0.1", board.port, board.config())


@pytest.mark.parametrize("destination", ["-oProxyCommand=touch x", "a b", "", "a/b"])
def test_an_address_is_never_an_option(destination: str, tmp_path: Path) -> None:
    assert "is no address of a board" in refusal(destination, None, tmp_path)


def test_nothing_is_left_behind(board: Board) -> None:
    before = set(Path("/tmp").glob("edge-mtp-*"))
    with contextlib.suppress(EdgeMtpError):
        SshLink("127.0.0.1", board.port, config=board.config(key="stranger"))
    with board.link() as link:
        during = set(Path("/tmp").glob("edge-mtp-*")) - before
        assert any(path.stat().st_mode & 0o777 == 0o700 and link.name for path in during)
        mine = [path for path in during if (path / "s").exists()]
    assert not any(path.exists() for path in mine)
