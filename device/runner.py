"""A running edge_mtp_runner: requests in, trace records out."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Generator
from types import TracebackType

from edge_mtp.device.request import Request
from edge_mtp.device.trace import PROTOCOL, Failure, Outcome, Ready, Record, Step, parse_record
from edge_mtp.errors import EdgeMtpError


class Runner:
    """One runner process. `ready` tells what it loaded; one request runs at a time.

    `silence_s` bounds every wait: a runner that reports nothing for so long counts as hung and is killed.
    Raises EdgeMtpError when the runner cannot start, refuses a request, hangs or dies.
    """

    def __init__(self, command: list[str], *, silence_s: float = 600.0) -> None:
        self._silence_s = silence_s
        self._requests = 0
        # The runner's stderr, read only to explain its death; closed with the runner.
        self._diagnostics = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._diagnostics
            )
        except OSError as error:
            raise EdgeMtpError(f"cannot start '{command[0]}': {error.strerror}; reinstall edge-mtp") from error
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            first = self._next()
            if not isinstance(first, Ready) or first.protocol != PROTOCOL:
                raise EdgeMtpError(f"the runner speaks another protocol than {PROTOCOL}; reinstall edge-mtp")
        except BaseException:
            self.close()
            raise
        self.ready = first

    def generate(self, request: Request) -> Generator[Step | Outcome]:
        """Runs `request`, yielding each Step as it happens and the Outcome last.

        Leaving the iterator early cancels the request; the runner stays usable.
        """
        self._requests += 1
        name = f"r{self._requests}"
        self._send(request.to_json(name))
        ended = False
        try:
            while not ended:
                record = self._next()
                if isinstance(record, Failure):
                    raise EdgeMtpError(record.message)
                if isinstance(record, Ready) or record.request != name:
                    raise EdgeMtpError(f"the runner answered out of turn: {record}")
                ended = isinstance(record, Outcome)
                yield record
        except (GeneratorExit, KeyboardInterrupt):  # left early: the next request must not wait
            if not ended:
                self._send({"op": "cancel"})
                while isinstance(self._next(), Step):
                    pass
            raise

    def close(self) -> None:
        """Ends the process; harmless when it has already ended."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._diagnostics.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The process's exit code; None while it runs."""
        return self._process.poll()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _send(self, record: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._death() from error

    def _next(self) -> Record:
        try:
            line = self._lines.get(timeout=self._silence_s)
        except queue.Empty:
            self._process.kill()
            raise EdgeMtpError(f"the runner said nothing for {self._silence_s:.0f} s and was stopped") from None
        if line is None:
            raise self._death()
        try:
            record = parse_record(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise EdgeMtpError(f"the runner wrote an unreadable record: {line[:200]!r}") from error
        if isinstance(record, Failure) and record.request is None:
            raise EdgeMtpError(record.message)
        return record

    def _death(self) -> EdgeMtpError:
        try:
            code: int | None = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = None
        self._diagnostics.seek(0)
        lines = self._diagnostics.read().decode(errors="replace").strip().splitlines()
        detail = f": {lines[-1]}" if lines else ""
        return EdgeMtpError(f"the runner ended with exit code {code}{detail}")
