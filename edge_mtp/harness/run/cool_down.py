"""The wait before a measurement until a device has cooled down."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.record.results import Pause
from edge_mtp.harness.run.sensor_log import Clock

STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")  # Android's, by number
MARGIN_C = 2.0  # below the limit when the wait ends, so that the next one does not begin at once
LOOK_EVERY_S = 2.0
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Limits:
    """A device is too hot from `status` (Android's thermal status) on, and above `celsius`; None is no limit.

    `sensor` names the sensor that counts, by its name or a part of it. Without it the skin sensor counts where the
    device has one, since throttling goes by it; else the hottest of the processor's sensors; else the hottest of all.
    """

    status: int | None = 1
    celsius: float | None = None
    sensor: str | None = None


class CoolDown:
    """Waits for one device. `latest` gives its last reading; without a reading (None) there is no wait.

    A wait lasts `patience_s` at most. After a wait in vain there is no other until the device has been cool once: else
    every prompt would wait as long.
    """

    def __init__(
        self,
        device: str,
        limits: Limits,
        latest: Callable[[], Sensors | None],
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._device = device
        self._limits = limits
        self._latest = latest
        self._clock = clock
        self._patience_s = patience_s
        self._given_up = False

    def wait(self, waiting: Callable[[str], None] = lambda reason: None) -> Pause | None:
        """Returns when the device is cool enough, or patience is over: the pause that this took, None for none.

        `waiting` is told at once why there is a wait.
        """
        reason = self._reason(0.0)
        if reason is None:
            self._given_up = False
            return None
        if self._given_up:
            return None
        begun = self._clock.now()
        waiting(f"{self._device}: {reason}")
        while self._reason(MARGIN_C) is not None and self._clock.now() - begun < self._patience_s:
            self._clock.sleep(LOOK_EVERY_S)
        seconds = self._clock.now() - begun
        if self._reason(MARGIN_C) is not None:
            self._given_up = True
            reason += "; it did not cool down, and was measured as it is"
        return Pause(self._device, begun, seconds, reason)

    def _reason(self, margin_c: float) -> str | None:
        """Why the device is too hot, or None."""
        sensors, limits = self._latest(), self._limits
        if sensors is None:
            return None
        status = sensors.thermal_status
        if limits.status is not None and status is not None and status >= limits.status:
            return f"thermal status {STATUSES[status]}"
        found = None if limits.celsius is None else temperature(sensors, limits.sensor)
        if found is not None and limits.celsius is not None and found[1] > limits.celsius - margin_c:
            return f"{found[0]} at {found[1]:.1f} °C, above {limits.celsius:g} °C"
        return None


def temperature(sensors: Sensors, name: str | None = None) -> tuple[str, float] | None:
    """The sensor that counts (see `Limits`) and its degrees Celsius; None where there is none of that name."""
    for pattern in [re.escape(name)] if name is not None else ["skin", "cpu|core|soc_|x86_pkg|big|little", ""]:
        matching = {each: c for each, c in sensors.temperatures_c.items() if re.search(pattern, each, re.I)}
        if matching:
            return max(matching.items(), key=lambda item: item[1])
    return None
