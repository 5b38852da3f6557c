"""An edge Linux board, reached through the system's `ssh`, which uses the user's keys, host aliases and jump hosts.

All programs share one connection (ControlMaster, in a private folder). The board needs a POSIX login shell and /proc.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from edge_mtp.device.link import Completed, Link, quote
from edge_mtp.device.process import DIAGNOSTICS_BYTES, Process
from edge_mtp.errors import EdgeMtpError

CONNECT_S = 15  # for the connection, and again for the login
ALIVE_S = 5  # between keepalive messages; three unanswered ones end the connection
SESSIONS = 6  # at once; sshd allows 10 by default (MaxSessions), and spawned programs need some too
OUTPUT_BYTES = 64 << 20  # most output of a program that is run to its end

_LOST = 255  # ssh's own exit code when the connection fails
# If the program itself ends with 255, this is the last line of its standard error.
_OWN_255 = b"edge-mtp: it was the program that ended with 255\n"

# The board's start-up files may make the login shell print something. Each program therefore starts with these lines,
# one on standard output and one with its process number on standard error; anything before them is ignored.
_BEGINS = b"edge-mtp: the program begins\n"
_NUMBER = re.compile(rb"^edge-mtp: process ([0-9]+)\n", re.MULTILINE)
_SAY_BOTH = f"printf '\\n{_BEGINS.decode().strip()}\\n'; printf '\\nedge-mtp: process %s\\n' $$ >&2"

# Runs the program next to a watcher that kills it when the session's server process ends, which happens when the
# connection does; sshd itself leaves programs running. The watcher keeps no stream open, or the session would wait.
_SPAWN = """exec 3<&0 </dev/null
sh -c {program} <&3 3<&- &
p=$!
exec 3<&-
(while kill -0 $PPID; do sleep 1; done; kill -KILL $p) >/dev/null 2>&1 &
w=$!
wait $p
s=$?
kill $w
"""


class SshLink(Link):
    """A connection to `destination` (board, user@board, or an alias in the user's configuration).

    `config` replaces the user's own configuration. Raises EdgeMtpError when ssh is missing, when the board cannot be
    reached, when its host key has changed, or when it refuses the login. Never asks for a password.
    """

    def __init__(self, destination: str, port: int | None = None, *, config: Path | None = None) -> None:
        if not re.fullmatch(r"(?!-)[^\s/]+", destination):
            raise EdgeMtpError(f"'{destination}' is no address of a board; use user@board")
        self.name = f"ssh://{destination}" + (f":{port}" if port is not None else "")
        self._folder = Path(tempfile.mkdtemp(prefix="edge-mtp-", dir="/tmp"))  # short: socket paths end at 100 bytes
        self._socket = self._folder / "s"
        self._login = f"ssh {destination}" + (f" -p {port}" if port is not None else "")
        self._words = ["ssh", "-T", "-S", str(self._socket), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
                       "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes"]  # fmt: skip
        if config is not None:
            self._words += ["-F", str(config)]
        if port is not None:
            self._words += ["-p", str(port)]
        self._destination = destination
        self._errors = self._folder / "errors"
        self._sessions = threading.BoundedSemaphore(SESSIONS)
        try:
            self._master = self._connect()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        script = command if isinstance(command, str) else quote(command)
        output, errors = bytearray(), bytearray()
        silent = False
        with self._sessions:
            child = self._start(f"{_SAY_BOTH}\nsh -c {quote([script])}\ns=$?\n")
            try:
                _communicate(child, input, output, errors, timeout_s)
            except TimeoutError:
                silent = True
            finally:
                _end(child)
        number = _NUMBER.search(errors)
        if silent:
            if number:  # sshd makes the shell lead a process group
                with contextlib.suppress(EdgeMtpError):
                    self.run(["kill", "-KILL", f"-{int(number[1])}"])
            raise EdgeMtpError(
                f"a command on {self.name} said nothing for {timeout_s:.0f} s and was stopped; look at the board"
            )
        code = self._exit_code(child.returncode, errors)
        if number is None:
            raise self._no_shell(errors)
        said = bytes(errors[number.end() :]).removesuffix(_OWN_255)
        return Completed(code, bytes(output.partition(_BEGINS)[2]), said)

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise EdgeMtpError(f"'{name}' is no name of an environment variable; use letters, digits and _")
        exports = "".join(f"export {name}={quote([value])}; " for name, value in environment.items())
        program = f"{_SAY_BOTH}; {exports}exec {quote(command)}"
        return SshProcess(self, self._start(_SPAWN.format(program=quote([program]))))

    def append(self, chunks: Iterator[bytes], path: str) -> None:
        with self._sessions:
            child = self._start(f"cat >> {quote([path])}\ns=$?\n")
            assert child.stdin is not None
            assert child.stderr is not None
            try:
                # A lost connection ends the child, and with it the writing.
                with contextlib.suppress(BrokenPipeError):
                    for chunk in chunks:
                        child.stdin.write(chunk)
                    child.stdin.flush()
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
                errors = child.stderr.read()
                code = self._exit_code(child.wait(), errors)
            finally:
                _end(child)
        if code != 0:
            lines = errors.removesuffix(_OWN_255).decode(errors="replace").strip().splitlines()
            cause = lines[-1] if lines else f"exit code {code}"
            raise EdgeMtpError(f"{self.name} cannot write '{path}': {cause}")

    def close(self) -> None:
        if self._master.poll() is None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self) -> subprocess.Popen[bytes]:
        options = ["-M", "-N", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ControlPersist=no",
                   "-o", f"ServerAliveInterval={ALIVE_S}", "-o", "ServerAliveCountMax=3"]  # fmt: skip
        command = [*self._words, *options, "--", self._destination]
        try:
            with self._errors.open("wb") as errors:
                # Its own session: Ctrl-C must reach only this program, which needs the connection to clean up.
                master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                          start_new_session=True)  # fmt: skip
        except OSError as error:
            raise EdgeMtpError(f"cannot start 'ssh': {error.strerror}; install OpenSSH's client") from error
        end = time.monotonic() + 2 * CONNECT_S
        try:
            while not self._socket.exists():  # it appears after the login
                if master.poll() is not None:
                    raise EdgeMtpError(self._refusal())
                if time.monotonic() > end:
                    raise EdgeMtpError(f"{self.name} does not finish the login; try '{self._login}'")
                time.sleep(0.02)
        except BaseException:
            master.kill()
            master.wait()
            raise
        return master

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        """Runs a shell script that ends by setting $s to the exit code."""
        if self._master.poll() is not None:
            raise EdgeMtpError(self._lost())
        script += f"[ $s -ne {_LOST} ] || printf '%s\\n' {quote([_OWN_255.decode().strip()])} >&2\nexit $s"
        # The login shell reads only one quoted word.
        script = f"exec sh -c {quote([script])}"
        # Only over the shared connection: when that is gone, ssh would open another one by default.
        command = [*self._words, "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "--", self._destination, script]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def _exit_code(self, code: int, errors: bytes | bytearray) -> int:
        """The program's exit code; `code` is ssh's."""
        if code < 0 or (code == _LOST and not errors.endswith(_OWN_255)):
            raise EdgeMtpError(self._lost())
        return code

    def _no_shell(self, errors: bytes | bytearray) -> EdgeMtpError:
        lines = errors.decode(errors="replace").strip().splitlines()
        answer = lines[-1] if lines else "no answer"
        return EdgeMtpError(f"{self.name} starts no programs ({answer}); give the user a POSIX login shell such as sh")

    def _lost(self) -> str:
        return f"the connection to {self.name} broke{self._cause()}; check the board and its network, and run again"

    def _cause(self) -> str:
        lines = self._errors.read_text("utf-8", "replace").strip().splitlines() if self._errors.exists() else []
        return f" ({lines[-1]})" if lines else ""

    def _refusal(self) -> str:
        text = self._cause()
        if "Permission denied" in text or "Too many authentication failures" in text:
            return f"{self.name} refuses the login{text}; put your key there: 'ssh-copy-id {self._login[4:]}'"
        if "Host key verification failed" in text or "REMOTE HOST IDENTIFICATION" in text:
            return f"{self.name} is not known, or not the machine that it was{text}; see what '{self._login}' asks"
        if "resolve hostname" in text:
            return f"no machine is called as in {self.name}{text}; check the name"
        return f"cannot connect to {self.name}{text}; check that the board is on and runs sshd"


class SshProcess(Process):
    """A program on a board. `child` is the local ssh process that carries its streams."""

    def __init__(self, link: SshLink, child: subprocess.Popen[bytes]) -> None:
        self._link = link
        self._child = child
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._input: IO[bytes] = child.stdin
        self._output: IO[bytes] = child.stdout
        self._begun = False  # whether the login shell's own output has been skipped
        self._pid: int | None = None
        self._started = threading.Event()
        self._tail = bytearray()
        self._reader = threading.Thread(target=self._read_errors, args=(child.stderr,), daemon=True)
        self._reader.start()
        self._started.wait(2 * CONNECT_S)
        if self._pid is None:
            _end(child)
            self._reader.join(10)
            link._exit_code(child.returncode, self._tail)
            raise link._no_shell(self._tail)

    @property
    def pid(self) -> int:
        assert self._pid is not None
        return self._pid

    def send(self, data: bytes) -> None:
        try:
            self._input.write(data)
            self._input.flush()
        except ValueError as error:  # already closed on this side
            raise BrokenPipeError(str(error)) from error

    def close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def lines(self) -> Iterator[bytes]:
        if not self._begun:
            self._begun = any(line == _BEGINS for line in self._output)
        yield from self._output

    def wait(self, timeout_s: float) -> int:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s:.0f} s") from error
        self._reader.join(10)
        code = self._link._exit_code(code, self._tail)
        return code if code <= 128 or code == _LOST else 128 - code

    def kill(self) -> None:
        if self._child.poll() is None:
            with contextlib.suppress(EdgeMtpError):  # a broken connection ends it as well
                self._link.run(["kill", "-KILL", str(self.pid)])

    def diagnostics(self) -> str:
        return self._tail.removesuffix(_OWN_255).decode(errors="replace")

    def close(self) -> None:
        _end(self._child)
        self._reader.join(10)

    def _read_errors(self, errors: IO[bytes]) -> None:
        assert isinstance(errors, io.BufferedReader)
        with contextlib.suppress(ValueError, OSError):  # closed while reading
            try:
                for line in errors:
                    if number := _NUMBER.match(line):
                        self._pid = int(number[1])
                        self._tail.clear()
                        break
                    self._tail = (self._tail + line)[-DIAGNOSTICS_BYTES:]
            finally:
                self._started.set()
            while data := errors.read1(1 << 16):
                self._tail = (self._tail + data)[-DIAGNOSTICS_BYTES:]


def _communicate(
    child: subprocess.Popen[bytes], data: bytes, output: bytearray, errors: bytearray, silence_s: float
) -> None:
    """Reads both streams to their ends while writing `data`. Raises TimeoutError after `silence_s` of no progress."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    left = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, output)
        selector.register(child.stderr, selectors.EVENT_READ, errors)
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(silence_s)
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    try:
                        left = left[os.write(key.fd, left[: 1 << 16]) :] if left else left
                    except BrokenPipeError:  # the program did not read all of it
                        left = left[:0]
                    if not left:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                elif chunk := os.read(key.fd, 1 << 16):
                    key.data.extend(chunk)
                    if len(output) + len(errors) > OUTPUT_BYTES:
                        raise EdgeMtpError(f"the board sent more than {OUTPUT_BYTES >> 20} MiB in one answer")
                else:
                    selector.unregister(key.fileobj)
    try:
        child.wait(silence_s)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the local ssh process, and with it the streams."""
    if child.poll() is None:
        child.kill()
        child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
