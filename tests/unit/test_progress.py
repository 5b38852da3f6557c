"""Progress at a terminal and in lines: what is written, how often, and that no name steers the terminal."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr
from types import SimpleNamespace
from typing import Any

import pytest

from edge_mtp.cli import device_progress as device_module
from edge_mtp.cli import progress as module
from edge_mtp.cli.device_progress import device_progress, notice_for
from edge_mtp.cli.progress import count_progress, export_progress, stage_progress
from edge_mtp.device.put import Transfer

STEERING = "name\x1b[2J\u202e"
CONTROL = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|\r")  # what a bar itself writes


class Clock:
    """Stands still until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for place in (module, device_module):
            monkeypatch.setattr(place, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class TtyText(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> TtyText:
    """A terminal, 100 columns wide."""
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return TtyText()


def seen(terminal: TtyText) -> str:
    """What was written, without what moves the cursor and colours; nothing else may be in it."""
    text = CONTROL.sub("", terminal.getvalue())
    assert "\x1b" not in text
    assert "\u202e" not in text
    return text


def lines_of(capsys: Any) -> list[str]:
    told = capsys.readouterr()
    assert told.out == "", "standard output is the verb's"
    lines: list[str] = told.err.splitlines()
    assert all(line.isprintable() for line in lines)
    return lines


def test_an_export_tells_each_stage_and_then_every_ten_seconds(clock: Clock, capsys: Any) -> None:
    with export_progress() as tell:
        for after, what, done in [(0, "trace", 0.0), (3, "trace", 0.01), (6, "trace", 0.2), (2, "trace", 0.25),
                                  (4, "weights", 0.5), (9, "weights", 0.6), (1, "weights", 0.75)]:  # fmt: skip
            clock.now += after
            tell(what, done)
    assert lines_of(capsys) == [
        "[  0%] trace (0 s)",
        "[ 25%] trace (11 s, 33 s left)",
        "[ 50%] weights (15 s, 15 s left)",
        "[ 75%] weights (25 s, 8 s left)",
    ]


def test_a_count_tells_every_tenth_and_the_end(capsys: Any) -> None:
    with count_progress("answers") as tell:
        for done in range(1, 36):
            tell(done, 35)
    tenths = [f"answers: {done} of 35" for done in range(3, 34, 3)]
    assert lines_of(capsys) == [*tenths, "answers: 35 of 35"]
    with count_progress("few") as tell:
        for done in (1, 2, 3):
            tell(done, 3)
    assert lines_of(capsys) == ["few: 1 of 3", "few: 2 of 3", "few: 3 of 3"]


def test_a_stage_tells_its_beginning(capsys: Any) -> None:
    with stage_progress() as tell:
        for stage in ("costs", "acceptance"):
            for done in range(4):
                tell(stage, done, 4)
    assert lines_of(capsys) == ["costs: 0 of 4", "acceptance: 0 of 4"]


def test_files_on_their_way_are_told_if_they_take_long(clock: Clock, capsys: Any) -> None:
    with device_progress(2) as reports:
        one, other = reports("one"), reports("other")
        one(Transfer("push m", 0, 1000))
        clock.now += 9.9
        one(Transfer("push m", 100, 1000, 10.0))
        other(Transfer("push m", 0, 1000))
        clock.now += 0.2
        one(Transfer("push m", 500, 1000, 50.0))
        one(Transfer("push m", 600, 1000, 50.0))
        other(Transfer("push m", 10, 1000))
        clock.now += 10
        other(Transfer("push m", 1000, 1000))
    first, second = lines_of(capsys)
    assert first.startswith("[one] push m 50%, ")
    assert first.endswith("/s, 10 s left")
    assert second == "[other] push m 100%"


def test_lines_of_names_steer_nothing(clock: Clock, capsys: Any) -> None:
    with export_progress() as tell:
        tell(STEERING, 0.0)
    with stage_progress() as stages:
        stages(STEERING, 0, 1)
    with device_progress(2) as reports:
        report = reports(STEERING)
        report(Transfer(STEERING, 0, 10))
        clock.now += 11
        report(Transfer(STEERING, 5, 10))
    notice_for("board")(f"waits for {STEERING}")
    assert len(lines_of(capsys)) == 4


def test_a_notice_names_its_device_once(capsys: Any) -> None:
    notice_for("board")("allow this computer")
    notice_for("board")("board is offline")
    assert lines_of(capsys) == ["[board] allow this computer", "board is offline"]


def test_an_export_is_a_bar_at_a_terminal(terminal: TtyText) -> None:
    with redirect_stderr(terminal), export_progress() as tell:
        tell("trace", 0.25)
        tell(STEERING, 0.5)
    text = seen(terminal)
    assert "50%" in text
    assert "name\\x1b[2J" in text
    assert "trace (0 s)" not in text


def test_counts_and_stages_are_bars_at_a_terminal(terminal: TtyText) -> None:
    with redirect_stderr(terminal), count_progress("answers") as tell:
        tell(3, 8)
    with redirect_stderr(terminal), stage_progress() as stages:
        stages("costs", 0, 6)
        stages("costs", 6, 6)
        stages(STEERING, 1, 7)
    text = seen(terminal)
    assert "3/8" in text
    assert "1/7" in text
    last = terminal.getvalue().split("\x1b[2K")[-2]
    assert "1/7" in last
    assert "costs" not in last, "a stage that is over is shown no more"


def test_one_device_is_a_bar_at_a_terminal_and_nothing_before_there_is_something(terminal: TtyText) -> None:
    with redirect_stderr(terminal), device_progress(1) as reports:
        reports("board")
    assert terminal.getvalue() == ""
    with redirect_stderr(terminal), device_progress(1) as reports:
        reports("board")(Transfer(STEERING, 5_000_000, 10_000_000))
    text = seen(terminal)
    assert "5.0/10.0 MB" in text
    assert "name\\x1b[2J" in text


def test_several_devices_are_lines_at_a_terminal(clock: Clock, terminal: TtyText) -> None:
    with redirect_stderr(terminal), device_progress(2) as reports:
        report = reports("board")
        report(Transfer("push", 0, 10))
        clock.now += 11
        report(Transfer("push", 5, 10))
    assert terminal.getvalue() == "[board] push 50%\n"
