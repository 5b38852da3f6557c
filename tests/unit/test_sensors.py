"""Sensors: what recorded devices tell, what they do not, and sampling while something runs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_android import BARE, BOARD, OLD, PIXEL, FakeAndroid
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

from edge_mtp.device import sensors as module
from edge_mtp.device.link import Completed
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.sensors import Sampler, parse_sensors, parse_thermalservice, read_sensors
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors, to_json

NAMES = {name for name in Sensors.__dataclass_fields__ if name not in ("at_us", "absent")}


def test_a_pixel_in_one_round_trip(tmp_path: Path) -> None:
    link = FakeAndroid(tmp_path, PIXEL)
    assert read_sensors(link, 4321) == Sensors(
        at_us=0.0,
        thermal_status=1,
        temperatures_c={"VIRTUAL-SKIN": 36.5, "BIG": 61.0},
        frequencies_mhz={"policy0": 1704.0, "policy8": 2914.0, "gpu": 471.0},
        battery_current_ua=-512000,
        battery_voltage_v=4.012,
        battery_charging=False,
        rss_bytes=1500000 << 10,
        anonymous_bytes=260000 << 10,
        gpu_bytes=73400320,
    )
    assert len(link.runs) == 1


def test_an_older_phone(tmp_path: Path) -> None:
    read = read_sensors(FakeAndroid(tmp_path, OLD), 4321)
    assert read.temperatures_c == {"cpu-0-0": 45.3, "battery": 31.0, "cpu-0-0 thermal_zone2": 46.1}
    assert read.frequencies_mhz == {"gpu": 585.0}
    # The battery of the device, not what the cable could give; dumpsys knows no voltage here and sysfs does.
    assert (read.battery_current_ua, read.battery_voltage_v) == (731000, 3.961)
    assert sorted(read.absent) == ["anonymous_bytes", "gpu_bytes", "rss_bytes", "thermal_status"]


def test_a_board(tmp_path: Path) -> None:
    read = read_sensors(FakeAndroid(tmp_path, BOARD), 77)
    assert read.temperatures_c == {"cpu-thermal": 52.0}
    assert read.gpu_bytes == (2 << 20) + (512 << 10), "one client counts once, however many files it has open"
    assert read.rss_bytes == 900 << 10


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    read = read_sensors(FakeAndroid(tmp_path, BARE), 1)
    assert set(read.absent) == NAMES
    assert to_json(read) == {"event": "sensors", **vars(read)}


def test_the_memory_of_a_process_here() -> None:
    held = bytearray(os.urandom(1 << 20)) * 64
    with_it = read_sensors(LocalLink(), os.getpid())
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    now = int(status["VmRSS"].split()[0]) << 10
    assert with_it.rss_bytes is not None
    assert abs(with_it.rss_bytes - now) < 32 << 20
    assert with_it.anonymous_bytes is not None
    assert len(held) < with_it.anonymous_bytes <= with_it.rss_bytes


def test_thresholds_and_missing_sensors_are_no_temperatures() -> None:
    text = """Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=99.0, mType=3, mName=skin, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=-99.9, mType=6, mName=PA, mStatus=0}
\tTemperature{mValue=NaN, mType=6, mName=NPU, mStatus=0}
\tTemperature{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
\tTemperature{mValue=70.0, mType=4, mName=limit, mStatus=0}
"""
    assert parse_thermalservice(text) == {"TYPE_SKIN": 25.3}
    assert parse_thermalservice(text.partition("Current")[0]) == {"skin": 99.0}


QUESTIONS = tuple(module._questions(1))
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            ["Thermal Status: ", "7", "3", "Current temperatures from HAL:\n", "Temperature{mValue=", "mName=", "}",
             "\n", "-.-", "1e9", "/sys/class/thermal/thermal_zone0/temp:", "/a/policy0/scaling_cur_freq:", "9" * 40,
             "/x/gpu0/cur_freq:", "Memory snapshot for GPU", "Proc 1 total: ", "/proc/1/fdinfo/3:drm-resident-x:",
             " KiB", ":", "\N{SUPERSCRIPT TWO}"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(QUESTIONS), TEXTS))
def test_no_answer_breaks_the_parser(answers: dict[str, str]) -> None:
    read = parse_sensors(answers, 1)
    for name in NAMES:
        value = getattr(read, name)
        assert (name in read.absent) == (value is None or value == {})
    assert all(-60 < celsius < 200 for celsius in read.temperatures_c.values())
    assert all(mhz > 0 for mhz in read.frequencies_mhz.values())
    assert read.thermal_status is None or 0 <= read.thermal_status <= 6


class Scripted(LocalLink):
    """Answers nothing but that it is a shell, `takes_s` long, and breaks after `most` answers."""

    def __init__(self, takes_s: float = 0.0, most: int = 10**9) -> None:
        self.calls = 0
        self._takes_s = takes_s
        self._most = most

    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        self.calls += 1
        time.sleep(self._takes_s)
        if self.calls > self._most:
            raise EdgeMtpError("the link broke; plug it in")
        return Completed(0, b"=== edge-mtp process\nVmRSS:\t7 kB\n", b"")


def test_samples_lie_before_during_and_after_in_order() -> None:
    link = Scripted()
    with Sampler(link, 1, period_s=0.02) as sampler:
        assert len(sampler.samples) == 1
        until(lambda: link.calls >= 4)
    moments = [sample.at_us for sample in sampler.samples]
    assert moments == sorted(moments)
    assert moments[0] <= 0 < moments[1]
    assert len(moments) == link.calls >= 5
    assert sampler.samples[0].rss_bytes == 7 << 10
    calls = link.calls
    time.sleep(0.1)
    assert link.calls == calls, "nothing is asked afterwards"


def test_a_slow_device_is_not_asked_faster_than_it_answers() -> None:
    """Whatever a sample takes, the next one is a full period after the one before was due, never at once."""
    link = Scripted(takes_s=0.1)
    begin = time.monotonic()
    with Sampler(link, 1, period_s=0.05):
        until(lambda: link.calls >= 5)
    assert link.calls <= 2 + (time.monotonic() - begin) / 0.1


def test_a_broken_link_ends_the_sampling_and_nothing_else() -> None:
    link = Scripted(most=2)
    with Sampler(link, 1, period_s=0.01) as sampler:
        until(lambda: link.calls >= 5)
        time.sleep(0.1)
    assert link.calls == 5, "three failures in a row are enough"
    assert len(sampler.samples) == 2


def test_a_failed_run_is_not_kept_waiting() -> None:
    link = Scripted()
    with pytest.raises(ZeroDivisionError), Sampler(link, 1, period_s=100) as sampler:
        raise ZeroDivisionError
    assert len(sampler.samples) == 1


def test_only_the_latest_samples_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SAMPLES", 3)
    link = Scripted()
    with Sampler(link, 1, period_s=0.001) as sampler:
        until(lambda: link.calls >= 9)
    assert len(sampler.samples) == 3
    assert sampler.samples[0].at_us > 0
