"""A device's sensors, read over its link during a run. Each sample is one shell command, so one round trip."""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType

from edge_mtp.device.fingerprint import POWER_SUPPLIES, number, parse_battery, parse_meminfo
from edge_mtp.device.link import Link
from edge_mtp.device.survey import ask, printable
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors

PERIOD_S = 1.0
MOST_SAMPLES = 3600  # the last hour
_GIVE_UP = 3  # samples in a row that failed
_TIMEOUT_S = 10.0


class Sampler:
    """A context manager that samples sensors once before its block, every second during it, and once after it.

    `samples` keeps the latest `MOST_SAMPLES`. A failed sample is left out. After three failures in a row sampling
    stops; the run itself will report why the link broke.
    """

    def __init__(self, link: Link, pid: int, *, period_s: float = PERIOD_S) -> None:
        """`pid` is the process, on the device, whose memory is measured."""
        self._link = link
        self._pid = pid
        self._period_s = period_s
        self._samples: deque[Sensors] = deque(maxlen=MOST_SAMPLES)
        self._begin = 0.0
        self._failures = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample_often, daemon=True)

    @property
    def samples(self) -> list[Sensors]:
        return list(self._samples)

    def __enter__(self) -> Sampler:
        asked = time.monotonic()
        self._sample(asked)
        self._begin = time.monotonic()
        self._samples = deque(
            (replace(each, at_us=each.at_us - (self._begin - asked) * 1e6) for each in self._samples), MOST_SAMPLES
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is None:
            self._thread.join()  # waits at most for the timeout of one sample
            self._sample(self._begin)

    def _sample_often(self) -> None:
        due = self._begin + self._period_s
        while not self._over.wait(max(0.0, due - time.monotonic())) and self._failures < _GIVE_UP:
            self._sample(self._begin)
            # After a sample that took longer than the period, the missed ones are not made up for.
            due = max(due + self._period_s, time.monotonic())

    def _sample(self, begin: float) -> None:
        if self._failures >= _GIVE_UP:
            return
        asked = time.monotonic()
        try:
            answers = ask(self._link, _questions(self._pid), timeout_s=_TIMEOUT_S)
        except EdgeMtpError:
            self._failures += 1
            return
        self._failures = 0
        middle = (asked + time.monotonic()) / 2
        self._samples.append(parse_sensors(answers, self._pid, at_us=(middle - begin) * 1e6))


def read_sensors(link: Link, pid: int) -> Sensors:
    """Takes one sample, with `at_us` 0. Raises EdgeMtpError when the link breaks or no shell answers."""
    return parse_sensors(ask(link, _questions(pid), timeout_s=_TIMEOUT_S), pid)


def _questions(pid: int) -> dict[str, str]:
    return {
        "thermal": "dumpsys thermalservice",
        # One grep reads all of them, since starting a process for each takes longer than reading it.
        "zones": "grep -Hs . /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp",
        "frequencies": "grep -Hs . /sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq"
        " /sys/class/kgsl/kgsl-3d0/gpuclk /sys/class/devfreq/*/cur_freq",
        "battery": "dumpsys battery",
        "current": "cmd battery get current_now",
        "supplies": POWER_SUPPLIES,
        "process": f"cat /proc/{pid}/status",
        "gpu": "dumpsys gpu --gpumem",
        "drm": f"grep -Hs ^drm- /proc/{pid}/fdinfo/*",
    }


def parse_sensors(answers: Mapping[str, str], pid: int, at_us: float = 0.0) -> Sensors:
    """Builds a sample from these answers, any of which may be missing."""
    thermal = answers.get("thermal", "")
    status = re.search(r"^Thermal Status: ([0-6])$", thermal, re.M)
    temperatures = parse_thermalservice(thermal)
    for name, celsius in parse_zones(answers.get("zones", "")).items():
        temperatures.setdefault(name, celsius)
    battery = parse_battery(answers.get("battery", ""), answers.get("supplies", ""))
    memory = parse_meminfo(answers.get("process", ""))
    read = Sensors(
        at_us=at_us,
        thermal_status=int(status[1]) if status else None,
        temperatures_c=temperatures,
        frequencies_mhz=parse_frequencies(answers.get("frequencies", "")),
        battery_current_ua=battery.current_ua if battery.current_ua is not None else number(answers.get("current")),
        battery_voltage_v=battery.voltage_v,
        battery_charging=battery.charging,
        rss_bytes=memory.get("VmRSS"),
        anonymous_bytes=memory.get("RssAnon"),
        gpu_bytes=parse_gpu_memory(answers.get("gpu", ""), answers.get("drm", ""), pid),
    )
    absent = [name for name, value in vars(read).items() if name != "absent" and (value is None or value == {})]
    return replace(read, absent=absent)


def parse_thermalservice(text: str) -> dict[str, float]:
    """Degrees Celsius by sensor from `dumpsys thermalservice`: the current ones, else the cached ones.

    The dump later lists thresholds in the same form; they are ignored.
    """
    lines = [line.strip() for line in text.splitlines()]
    for title in ("Current temperatures from HAL:", "Cached temperatures:"):
        section = lines[lines.index(title) + 1 :] if title in lines else []
        readings = [re.search(r"mValue=([-\d.]{1,12}).*?mName=([^,}]+)", line, re.A) for line in _leading(section)]
        temperatures = _plausible((printable(found[2], 60), found[1], 1) for found in readings if found)
        if temperatures:
            return temperatures
    return {}


def _leading(lines: Iterable[str]) -> Iterator[str]:
    return itertools.takewhile(lambda line: line.startswith("Temperature{"), lines)


def parse_zones(text: str) -> dict[str, float]:
    """Degrees Celsius by type, from /sys/class/thermal. When zones share a type, later ones get their number too."""
    types: dict[str, str] = {}
    readings: list[tuple[str, str]] = []
    for line in text.splitlines():
        path, _, value = line.partition(":")
        zone = posixpath.basename(posixpath.dirname(path))
        if path.endswith("/type"):
            name = printable(value, 60) or zone
            types[zone] = name if name not in types.values() else f"{name} {zone}"
        elif path.endswith("/temp"):
            readings.append((zone, value))
    return _plausible((types.get(zone, zone), value, 1000) for zone, value in readings)


def _plausible(readings: Iterable[tuple[str, str, int]]) -> dict[str, float]:
    """Celsius by name, from (name, digits, parts of a degree), without the values by which drivers mean that there is
    no reading: -99.9, -274."""
    found: dict[str, float] = {}
    for name, digits, unit in readings:
        with contextlib.suppress(ValueError):
            celsius = float(digits) / unit
            if -60 < celsius < 200:
                found.setdefault(name, celsius)
    return found


def parse_frequencies(text: str) -> dict[str, float]:
    """MHz by cpufreq policy, and of the GPU if its driver reports Hz."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        path, _, value = line.partition(":")
        frequency = number(value)
        if frequency is None or frequency <= 0:
            continue
        parent = posixpath.basename(posixpath.dirname(path))
        if path.endswith("/scaling_cur_freq"):
            found[parent] = frequency / 1e3  # kHz
        elif re.search("kgsl|mali|gpu", parent) and frequency >= 10**7:
            found.setdefault("gpu", frequency / 1e6)
    return found


def parse_gpu_memory(dump: str, drm: str, pid: int) -> int | None:
    """Bytes of GPU memory that a process holds, from `dumpsys gpu --gpumem` (Android 12 and later) or from the DRM
    driver's fdinfo (kernel, Documentation/gpu/drm-usage-stats.rst). None if neither has it.
    """
    if "Memory snapshot for GPU" in dump:
        return sum(int(size) for size in re.findall(rf"^Proc {pid} total: (\d{{1,15}})", dump, re.M | re.A))
    files: dict[str, dict[str, str]] = {}
    for line in drm.splitlines():
        path, name, value = (*line.split(":", 2), "", "")[:3]
        files.setdefault(path, {})[name] = value.strip()
    clients = {(told.get("drm-pdev"), told.get("drm-client-id")): told for told in files.values()}
    sizes = [
        int(match[1]) << {"": 0, "KiB": 10, "MiB": 20}[match[2]]
        for told in clients.values()
        for name, value in told.items()
        if name.startswith(("drm-resident-", "drm-memory-"))
        and (match := re.fullmatch(r"(\d{1,12})\s*(|KiB|MiB)", value, re.A))
    ]
    return sum(sizes) if sizes else None
