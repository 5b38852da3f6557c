"""Programs on an Android device, through the shell protocol of its adbd (AOSP: shell_protocol.h, "shell v2").

A stream of the service `shell,v2,raw` carries frames in both directions: a kind, a length and that many bytes. Unlike
plain `adb shell`, it separates standard output from standard error, can end standard input, and gives the exit code.
"""

from __future__ import annotations

import contextlib
import queue
import re
import struct
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from edge_mtp.device.link import Completed, Link, quote
from edge_mtp.device.process import DIAGNOSTICS_BYTES, Process
from edge_mtp.device.stream import Stream
from edge_mtp.errors import EdgeMtpError

FRAME = struct.Struct("<BI")  # kind, bytes that follow
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
KILLED = range(129, 193)  # exit codes after a signal: 128 + its number, which is at most 64
COMMAND_BYTES = 60_000  # the adb server accepts 65,535, and devices since Android 7 more
START_S = 30.0  # for a program to start
OUTPUT_BYTES = 64 << 20  # most output of a program that is run to its end, and the longest line


class ShellLink(Link):
    """A link whose programs are streams of `shell,v2,raw`."""

    @abstractmethod
    def _open(self, service: str) -> Stream:
        """Opens a stream to a service of adbd. Raises EdgeMtpError."""

    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        script = command if isinstance(command, str) else quote(command)
        process = ShellProcess(self, self._open, script, whole=True)
        try:
            with contextlib.suppress(BrokenPipeError):  # the program did not read all of it
                process.send(input)
            process.close_input()
            return process.completed(timeout_s)
        finally:
            process.close()

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise EdgeMtpError(f"'{name}' is no name of an environment variable; use letters, digits and _")
        exports = "".join(f"export {name}={quote([value])}; " for name, value in environment.items())
        return ShellProcess(self, self._open, f"{exports}exec {quote(command)}")

    def append(self, chunks: Iterator[bytes], path: str) -> None:
        # Not the sync protocol: it can only replace files, so everything would be written twice, and it hides why a
        # write failed.
        process = ShellProcess(self, self._open, f"exec cat >> {quote([path])}")
        try:
            with contextlib.suppress(BrokenPipeError):  # the exit code and the message say why
                for chunk in chunks:
                    process.send(chunk)
            process.close_input()
            code = process.wait(120)  # for a slow disk to write the data in flight
            if code != 0:
                lines = process.diagnostics().strip().splitlines()
                cause = lines[-1] if lines else f"exit code {code}"
                raise EdgeMtpError(f"{self.name} cannot write '{path}': {cause}")
        except TimeoutError as error:
            process.kill()
            raise EdgeMtpError(f"{self.name} does not finish writing '{path}'; look at the device") from error
        finally:
            process.close()


class ShellProcess(Process):
    """A program on the device: its shell runs `script`, after printing its own process number.

    The shell leads a process group, so `kill` also reaches what it started. With `exec` in the script, the program
    replaces the shell. `whole` keeps all of standard error, and an unfinished last line of output. Raises EdgeMtpError
    when the shell does not start.
    """

    def __init__(
        self, link: ShellLink, open_stream: Callable[[str], Stream], script: str, *, whole: bool = False
    ) -> None:
        self._link = link
        self._whole = whole
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors = bytearray()
        self._changed = threading.Condition()
        self._code: int | None = None
        self._lost: EdgeMtpError | None = None
        self._over = False
        self._closed = False
        self._sign = time.monotonic()  # of the last sign of life
        self._writing = threading.Lock()
        self._input_closed = False
        size = len(script.encode("utf-8", "surrogateescape"))
        if size > COMMAND_BYTES:
            raise EdgeMtpError(f"a command of {size} bytes is too long for {link.name}; {COMMAND_BYTES} fit")
        self._stream = open_stream(f"shell,v2,raw:echo $$; {script}")
        self._reader = threading.Thread(target=self._read, name=f"shell on {link.name}", daemon=True)
        self._reader.start()
        try:
            first = self._lines.get(timeout=START_S)
        except queue.Empty:
            self.close()
            raise EdgeMtpError(f"{link.name} does not start a shell within {START_S:.0f} s; restart it") from None
        if first is None or not first.strip().isdigit():
            self.close()
            raise self._lost or EdgeMtpError(
                f"the shell of {link.name} sent {(first or b'')[:80]!r} instead of its number; restart the device"
            )
        self._pid = int(first)

    @property
    def pid(self) -> int:
        return self._pid

    def send(self, data: bytes) -> None:
        most = max(1, self._stream.chunk_bytes - FRAME.size)
        with self._writing:
            view = memoryview(data)
            for start in range(0, len(data), most):
                if self._over or self._input_closed:
                    raise self._lost or BrokenPipeError("the program has ended")
                piece = view[start : start + most]
                self._stream.write(FRAME.pack(STDIN, len(piece)), piece)

    def close_input(self) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError, EdgeMtpError):
            if not self._input_closed:
                self._input_closed = True
                self._stream.write(FRAME.pack(CLOSE_STDIN, 0))

    def lines(self) -> Iterator[bytes]:
        while (line := self._lines.get()) is not None:
            yield line
        self._lines.put(None)  # for the next call

    def wait(self, timeout_s: float) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout_s):
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s:.0f} s")
        if self._code is None:
            raise self._lost or EdgeMtpError(f"{self._link.name} did not tell how process {self.pid} ended")
        return 128 - self._code if self._code in KILLED else self._code

    def completed(self, silence_s: float) -> Completed:
        """Waits for a short program to end. Kills it and raises EdgeMtpError after `silence_s` seconds of silence."""
        output = bytearray()
        while not self._over:
            with self._changed:
                left = self._sign + silence_s - time.monotonic()
                if self._changed.wait_for(lambda: self._over, left):
                    break
                silent = time.monotonic() - self._sign >= silence_s
            if silent:
                self.kill()
                raise EdgeMtpError(f"a command on {self._link.name} said nothing for {silence_s:.0f} s and was stopped")
        self.wait(0)
        for line in self.lines():
            output += line
        assert self._code is not None
        return Completed(self._code, bytes(output), bytes(self._errors))

    def kill(self) -> None:
        if not self._over:
            # Kills the group, or only the process if the shell leads no group.
            script = f"kill -KILL -{self.pid} 2> /dev/null || kill -KILL {self.pid} 2> /dev/null"
            with contextlib.suppress(EdgeMtpError):  # a broken link ends it as well
                self._link.run(script)

    def diagnostics(self) -> str:
        with self._changed:
            return self._errors[-DIAGNOSTICS_BYTES:].decode(errors="replace")

    def close(self) -> None:
        self._closed = True
        self._stream.close()
        self._reader.join(10)

    def _read(self) -> None:
        """Sorts frames until the stream ends."""
        line, received, ended = bytearray(), bytearray(), False
        kind, left, total = -1, 0, 0
        try:
            while not ended and (data := self._stream.read()):
                received += data
                while not ended:
                    if left == 0:
                        if len(received) < FRAME.size:
                            break
                        kind, left = FRAME.unpack_from(received)
                        del received[: FRAME.size]
                        if kind not in (STDOUT, STDERR, EXIT) or (kind == EXIT and left != 1):
                            raise EdgeMtpError(f"{self._link.name} sent nonsense (frame {kind} of {left} bytes)")
                    if not received:
                        break
                    piece = received[:left]
                    del received[: len(piece)]
                    left -= len(piece)
                    ended = kind == EXIT
                    total += len(piece) if self._whole else 0
                    if max(total, len(line)) > OUTPUT_BYTES:
                        raise EdgeMtpError(f"{self._link.name} sent more than {OUTPUT_BYTES >> 20} MiB in one answer")
                    if kind == STDOUT:
                        line = self._put_lines(line + piece if line else piece)
                    with self._changed:
                        self._sign = time.monotonic()
                        if kind == STDERR:
                            self._errors += piece
                            if not self._whole:
                                del self._errors[:-DIAGNOSTICS_BYTES]
                        elif ended:
                            self._code = piece[0]
        except EdgeMtpError as error:
            self._lost = error
        if not ended and self._lost is None and not self._closed:
            self._lost = EdgeMtpError(
                f"{self._link.name} ended the stream of process {self._pid_text()} without an exit code; it restarted?"
            )
        # Output that a signal or a broken link cut off is not a line.
        if line and self._lost is None and (self._whole or self._code not in KILLED):
            self._lines.put(bytes(line))
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._lines.put(None)
        self._stream.close()  # wakes a writer, and releases the device's side

    def _put_lines(self, data: bytearray) -> bytearray:
        """Puts whole lines into the queue and returns the rest."""
        end = data.rfind(b"\n") + 1
        if end:
            for text in bytes(data[:end]).splitlines(keepends=True):
                self._lines.put(text)
        return data[end:]

    def _pid_text(self) -> str:
        return str(getattr(self, "_pid", "that was starting"))
