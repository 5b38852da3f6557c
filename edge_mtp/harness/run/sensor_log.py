"""A device's sensors while a run goes on, and the run's clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.sensors import read_sensors
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.litert_lm_engine import LitertLmEngine
from edge_mtp.harness.ask.runner_engine import RunnerEngine
from edge_mtp.harness.record.results import Sample

PERIOD_S = 2.0
GIVE_UP = 60  # readings in a row that failed; waiting for a device to come back takes some of them


class Clock:
    """Seconds since a run began. A resumed run begins at `offset_s`."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.began = time.monotonic() - offset_s

    def now(self) -> float:
        return time.monotonic() - self.began

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def reader(answerers: Sequence[Answerer]) -> Callable[[], Sensors]:
    """Reads the sensors of a device through the first of its answerers whose engine lives, and that engine's memory.

    Raises as `read_sensors`.
    """
    here = LocalLink()

    def read() -> Sensors:
        answerer = next((each for each in answerers if each.is_alive), answerers[0])
        if isinstance(answerer, LitertLmEngine):
            return read_sensors(here, answerer.pid)
        assert isinstance(answerer, RunnerEngine)
        engine = answerer.engine
        assert engine.device is not None
        return read_sensors(engine.device.link, engine.runner.pid)

    return read


class SensorLog:
    """Reads a device's sensors every `period_s` in the background, as a context manager.

    A reading that fails is left out. After `GIVE_UP` failures in a row the log ends and `latest` is None; the run
    itself reports a broken link.
    """

    def __init__(self, device: str, read: Callable[[], Sensors], clock: Clock, *, period_s: float = PERIOD_S) -> None:
        self.device = device
        self._latest: Sensors | None = None
        self._read = read
        self._clock = clock
        self._period_s = period_s
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def latest(self) -> Sensors | None:
        return self._latest

    def take(self) -> list[Sample]:
        """The samples since the last time, in order."""
        with self._lock:
            taken, self._samples = self._samples, []
        return taken

    def __enter__(self) -> SensorLog:
        self._sample()  # for the first wait until the device is cool
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=15)  # a reading is bounded by less

    def _watch(self) -> None:
        failures = 0 if self._latest is not None else 1
        while failures < GIVE_UP and not self._over.wait(self._period_s):
            failures = 0 if self._sample() else failures + 1
        self._latest = None

    def _sample(self) -> bool:
        at_s = self._clock.now()
        try:
            sensors = self._read()
        except (EdgeMtpError, OSError):  # of a link that is just being closed too
            return False
        self._latest = sensors
        with self._lock:
            self._samples.append(Sample(self.device, at_s, sensors))
        return True
