"""A device's sensors while a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.sensors import read_sensors
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.ask.answerer import Contender
from edge_mtp.harness.ask.litert_lm_engine import Stock
from edge_mtp.harness.ask.runner_engine import Ours
from edge_mtp.harness.record.results import Sample
from edge_mtp.harness.run.clock import Clock

PERIOD_S = 2.0
GIVE_UP = 60  # readings in a row that failed; waiting for a device to come back takes some of them


def reader(contenders: Sequence[Contender]) -> Callable[[], Sensors]:
    """Reads the sensors of a device by the first of its contenders whose engine lives, and that engine's memory.

    Raises as `read_sensors`.
    """
    here = LocalLink()

    def read() -> Sensors:
        contender = next((each for each in contenders if each.is_alive), contenders[0])
        if isinstance(contender, Stock):
            return read_sensors(here, contender.pid)
        assert isinstance(contender, Ours)
        engine = contender.engine
        assert engine.device is not None
        return read_sensors(engine.device.link, engine.runner.pid)

    return read


class Watch:
    """Reads a device's sensors every `period_s` in the background, as a context manager.

    A reading that fails is left out. After `GIVE_UP` in a row there are no more, and nothing is the `latest`: what
    broke the link the run itself will tell.
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

    def __enter__(self) -> Watch:
        self._sample()  # so that the first gate knows
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
