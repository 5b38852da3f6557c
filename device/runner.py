"""A running edge_mtp_runner: requests in, trace records out."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
from collections.abc import Generator
from types import TracebackType

from edge_mtp.device.process import Process
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.request import Request
from edge_mtp.formats.trace import PROTOCOL, Failure, Outcome, Ready, Record, Step, parse_record

_CLOSED = "the engine is closed; open the bundle again"
LAST_WORDS = 3  # lines of a dead runner's standard error that the error message quotes


class SilentRunnerError(EdgeMtpError):
    """The runner reported nothing for too long and was stopped."""


class Runner:
    """One runner process. `ready` describes what it loaded. One request runs at a time.

    `silence_s` bounds every wait: a runner that reports nothing for this long counts as hung and is killed.
    Raises EdgeMtpError when the runner cannot start, refuses a request, hangs or dies.
    """

    def __init__(self, process: Process, *, silence_s: float = 600.0) -> None:
        self._process = process
        self._silence_s = silence_s
        self._closed = False
        self._requests = 0
        self._left: set[str] = set()  # requests whose caller left early; records of them may still arrive
        self._sending = threading.Lock()
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

        Leaving the iterator early cancels the request without waiting, and the runner stays usable.
        """
        self._requests += 1
        name = f"r{self._requests}"
        self._send(request.to_json(name))
        ended = False
        try:
            while not ended:
                record = self._next()
                if not isinstance(record, Ready) and record.request in self._left:
                    if not isinstance(record, Step):
                        self._left.discard(record.request)
                    continue
                if isinstance(record, Ready) or record.request != name:
                    raise EdgeMtpError(f"the runner answered out of turn: {record}")
                ended = not isinstance(record, Step)
                if isinstance(record, Failure):
                    raise EdgeMtpError(record.message)
                yield record
        finally:
            if not ended:  # left early, or an error: the next request must not wait
                self._left.add(name)
                self.cancel()

    def cancel(self) -> None:
        """Ends the running request, if any, at its next step. Callable from any thread; does not wait."""
        with contextlib.suppress(BrokenPipeError, EdgeMtpError):  # a runner that has ended needs no cancel
            self._write({"op": "cancel"})

    def close(self) -> None:
        """Ends the process, even during a request and from any thread; harmless when it has already ended."""
        self._closed = True
        self.cancel()
        self._process.close_input()
        with contextlib.suppress(EdgeMtpError):
            try:
                self._process.wait(10)
            except TimeoutError:
                self._process.kill()
                self._process.wait(10)
        self._reader.join(timeout=10)
        self._process.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """Whether the runner's process has ended."""
        try:
            self._process.wait(0)
        except TimeoutError:
            return False
        except EdgeMtpError:  # out of reach
            pass
        return True

    @property
    def pid(self) -> int:
        """The process's number on its device."""
        return self._process.pid

    def _read(self) -> None:
        with contextlib.suppress(EdgeMtpError, OSError, ValueError):  # wait() reports why a link broke
            for line in self._process.lines():
                self._lines.put(line)
        self._lines.put(None)

    def _send(self, record: dict[str, object]) -> None:
        if self._closed:
            raise EdgeMtpError(_CLOSED)
        try:
            self._write(record)
        except BrokenPipeError as error:
            raise self._death() from error

    def _write(self, record: dict[str, object]) -> None:
        with self._sending:  # a line stays whole
            self._process.send(json.dumps(record).encode() + b"\n")

    def _next(self) -> Record:
        try:
            line = self._lines.get(timeout=self._silence_s)
        except queue.Empty:
            self._process.kill()
            with contextlib.suppress(TimeoutError, EdgeMtpError):  # the next caller must still learn that it has ended
                self._process.wait(10)
            raise SilentRunnerError(f"the runner said nothing for {self._silence_s:.0f} s and was stopped") from None
        if line is None:
            self._lines.put(None)  # for the next call
            raise self._death()
        try:
            record = parse_record(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise EdgeMtpError(f"the runner wrote an unreadable record: {line[:200]!r}") from error
        if isinstance(record, Failure) and record.request is None:
            raise EdgeMtpError(record.message)
        return record

    def _death(self) -> EdgeMtpError:
        if self._closed:
            return EdgeMtpError(_CLOSED)
        try:
            code = self._process.wait(10)
        except TimeoutError:
            self._process.kill()
            return EdgeMtpError("the runner closed its output and went on; it was stopped")
        except EdgeMtpError as error:  # the link to the device broke
            return error
        end = f"signal {-code} ({signal_name(-code)})" if code < 0 else f"exit code {code}"
        lines = self._process.diagnostics().strip().splitlines()[-LAST_WORDS:]
        return EdgeMtpError(f"the runner ended with {end}" + (f": {' | '.join(lines)}" if lines else ""))


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
