"""Gates wait while a device is too hot, and never for ever; a watch reads its sensors meanwhile."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.run.cool_down import LOOK_EVERY_S, MARGIN_C, CoolDown, Limits, temperature
from edge_mtp.harness.run.sensor_log import GIVE_UP, Clock, SensorLog


class FakeClock(Clock):
    def __init__(self) -> None:
        self.at_s = 0.0

    def now(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


def warm(status: int | None = None, **temperatures: float) -> Sensors:
    return Sensors(0.0, thermal_status=status, temperatures_c=temperatures)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 4), st.floats(0, 60), st.integers(1, 5))
def test_it_waits_while_the_status_is_bad_and_no_longer_than_its_patience(
    course: list[int], limit: int, patience_s: float, waits: int
) -> None:
    """`course`: the status, a value a second, the last one for ever."""
    clock = FakeClock()

    def latest() -> Sensors:
        return warm(course[min(int(clock.now()), len(course) - 1)])

    gate = CoolDown("pixel", Limits(status=limit), latest, clock, patience_s=patience_s)
    for _ in range(waits):
        begun, hot = clock.now(), (latest().thermal_status or 0) >= limit
        reasons: list[str] = []
        pause = gate.wait(reasons.append)
        assert clock.now() - begun <= patience_s + LOOK_EVERY_S
        if not hot:
            assert pause is None
            assert clock.now() == begun
        if pause is not None:
            assert (pause.device, pause.at_s, pause.seconds) == ("pixel", begun, clock.now() - begun)
            assert pause.reason.startswith("thermal status ")
            assert reasons == [f"pixel: {pause.reason.split(';')[0]}"]
            still = (latest().thermal_status or 0) >= limit
            assert ("did not cool down" in pause.reason) == still
            assert not still or pause.seconds >= patience_s
        clock.sleep(1)


def test_a_device_that_does_not_cool_down_is_waited_for_once() -> None:
    clock, now = FakeClock(), [warm(2)]
    gate = CoolDown("pixel", Limits(), lambda: now[0], clock, patience_s=60)
    pause = gate.wait()
    assert pause is not None
    assert "did not cool down" in pause.reason
    after = clock.now()
    assert [gate.wait() for _ in range(5)] == [None] * 5
    assert clock.now() == after
    now[0] = warm(0)
    assert gate.wait() is None
    now[0] = warm(2)
    assert gate.wait() is not None  # it has been cool: this is another time


def test_it_opens_a_little_below_the_temperature_at_which_it_closed() -> None:
    clock, limit = FakeClock(), 40.0
    gate = CoolDown(
        "pixel", Limits(status=None, celsius=limit), lambda: warm(5, skin=41 - clock.now() / 100), clock, patience_s=999
    )
    pause = gate.wait()
    assert pause is not None
    assert pause.reason == "skin at 41.0 °C, above 40 °C"
    opened_at = 41 - clock.now() / 100
    assert limit - MARGIN_C - LOOK_EVERY_S / 100 < opened_at <= limit - MARGIN_C
    assert gate.wait() is None


@pytest.mark.parametrize(
    ("limits", "sensors"),
    [
        (Limits(), None),
        (Limits(), warm()),
        (Limits(status=2), warm(1)),
        (Limits(status=None), warm(6)),
        (Limits(celsius=40), warm(0)),
        (Limits(celsius=40), warm(0, skin=40.0, cpu=95.0)),
        (Limits(celsius=40, sensor="battery"), warm(0, skin=50.0)),
    ],
)
def test_what_is_not_told_or_not_asked_for_closes_nothing(limits: Limits, sensors: Sensors | None) -> None:
    assert CoolDown("pixel", limits, lambda: sensors, FakeClock()).wait() is None


def test_which_sensor_counts() -> None:
    sensors = warm(cpu0=60.0, cpu7=70.0, battery=31.0, **{"VIRTUAL-SKIN": 38.0, "soc": 99.0})
    assert temperature(sensors) == ("VIRTUAL-SKIN", 38.0)
    assert temperature(sensors, "battery") == ("battery", 31.0)
    assert temperature(sensors, "CPU") == ("cpu7", 70.0)
    assert temperature(sensors, "gpu") is None
    assert temperature(warm(cpu0=60.0, cpu7=70.0, acpitz=80.0)) == ("cpu7", 70.0)
    assert temperature(warm(acpitz=44.0, other=33.0)) == ("acpitz", 44.0)
    assert temperature(warm()) is None


def test_a_watch_samples_in_order_from_the_first_moment() -> None:
    count = 0

    def read() -> Sensors:
        nonlocal count
        count += 1
        return warm(count)

    with SensorLog("pixel", read, Clock(), period_s=0.01) as watch:
        first = watch.latest()
        until(lambda: count > 3)
        taken = watch.take()
        until(lambda: count > 6)
    assert first is not None
    assert first.thermal_status == 1
    samples = [*taken, *watch.take()]
    assert [sample.sensors.thermal_status for sample in samples] == list(range(1, count + 1))
    assert [sample.at_s for sample in samples] == sorted(sample.at_s for sample in samples)
    assert {sample.device for sample in samples} == {"pixel"}
    assert watch.take() == []


@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_watch_gives_up_a_link_that_broke(good: int) -> None:
    readings = iter([*([True] * good), False])
    tries = 0

    def read() -> Sensors:
        nonlocal tries
        tries += 1
        if next(readings, False):
            return warm(0)
        raise EdgeMtpError("the link broke")

    before = threading.active_count()
    with SensorLog("pixel", read, Clock(), period_s=0.01) as watch:
        until(lambda: threading.active_count() == before)
        assert watch.latest() is None
        assert tries == good + GIVE_UP
        assert len(watch.take()) == good
