"""A program at a terminal of its own, as a person starts it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time

BOUND_S = 120.0


class Terminal:
    """A process at a terminal of its own, so that Ctrl-C and Ctrl-D do what they do for a person."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(command[0], command)
        self.text = ""

    def press(self, keys: str) -> None:
        """Types keys that the terminal acts on, once the program has written all it has to and waits for them."""
        while select.select([self._master], [], [], 0.5)[0]:
            self.text += os.read(self._master, 4096).decode()
        self.type(keys)

    def expect(self, pattern: str) -> str:
        """Reads until `pattern` matches what came since the last match; returns all up to its end."""
        deadline = time.monotonic() + BOUND_S
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            try:
                data = os.read(self._master, 4096)
            except OSError:  # the process has closed the terminal
                data = b""
            assert data, f"ended without {pattern!r}: {self.text!r}"
            self.text += data.decode()
        seen, self.text = self.text[: found.end()], self.text[found.end() :]
        return seen

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """The exit status, once the process has ended."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self._master, 4096).decode()
                except OSError:
                    time.sleep(0.05)
        raise AssertionError(f"still running: {self.text!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)
