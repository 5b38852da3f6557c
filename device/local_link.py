"""The shell of this machine as a Link, so that the questions for a device can also be put to the host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from edge_mtp.device.link import Completed, Link
from edge_mtp.device.process import LocalProcess, Process
from edge_mtp.errors import EdgeMtpError


class LocalLink(Link):
    """Runs programs here. `name` is `host`."""

    name = "host"

    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        try:
            # Its own process group: after a timeout, everything that the shell started must end with it.
            child = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise EdgeMtpError(f"cannot run '{words[0]}' here: {error.strerror}; install it") from error
        with child:
            try:
                output, errors = child.communicate(input, timeout_s)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise EdgeMtpError(
                        f"'{words[-1][:60]}' still ran after {timeout_s:.0f} s here and was stopped; free this machine"
                    ) from None
                raise
        code = child.returncode
        return Completed(code if code >= 0 else 128 - code, output, errors)

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        return LocalProcess(["env", *(f"{name}={value}" for name, value in environment.items()), *command])

    def append(self, chunks: Iterator[bytes], path: str) -> None:
        try:
            with open(path, "ab") as file:
                for chunk in chunks:
                    file.write(chunk)
        except OSError as error:
            raise EdgeMtpError(f"cannot write {path}: {error.strerror}; free space, or mend the folder") from error

    def close(self) -> None:
        pass
