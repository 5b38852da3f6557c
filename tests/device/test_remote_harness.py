"""`bench`, `eval`, `plan` and `check` on devices that are not this machine, and what a user does to them meanwhile.

The devices: a real adbd in a network namespace, an adbd in Python that also plays a phone's sensors, and sshd. All run
this machine's own runner.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from adb_device import Adbd, UnavailableError, adbd  # noqa: F401  # a fixture
from click.testing import CliRunner, Result
from fake_adbd import FakeAdbd
from fake_android import battery, thermalservice
from fault_proxy import FaultProxy
from remote_device import host_files
from ssh_board import SSHD, Board
from terminal import Terminal
from waiting import until

from edge_mtp.cli import main
from edge_mtp.device import adb_server, adb_transport, find, remote
from edge_mtp.device.link import Completed
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.process import LocalProcess
from edge_mtp.device.runner import Runner
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.request import Request
from edge_mtp.formats.trace import Outcome, Step
from edge_mtp.harness.ask import runner_engine
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.record.results import Results, read_results
from edge_mtp.harness.run import cool_down
from edge_mtp.harness.run.sensor_log import SensorLog, reader

BOUND_S = 120.0  # of every wait
Command = Callable[..., Result]

# The command line in a process of its own, with devices as the fixture below makes them.
COMMAND = """
import sys
from edge_mtp.cli import main
from edge_mtp.device import remote
from edge_mtp.device.binaries import LITERT, RUNNER, Binaries
from edge_mtp.device.host import litert_library, runner_path
remote.FOLDER = sys.argv.pop(1)
remote.binaries_for = lambda kind, abi: Binaries({RUNNER: runner_path(), LITERT: litert_library()}, "host")
main()
"""


def folder_script(tmp_path: Path) -> str:
    return f"echo '{tmp_path}/device'"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices run this machine's binaries, and keep them in a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "FOLDER", folder_script(tmp_path))
    monkeypatch.setattr(remote, "binaries_for", lambda kind, abi: host_files())


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A copy of its own, so that the runners of the test are known by it."""
    return Path(shutil.copy(tiny_bundle, tmp_path / "tiny.litertlm"))


@pytest.fixture
def prompts(tmp_path: Path, tiny_split: list[dict[str, Any]]) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in tiny_split[:60]))
    return path


@pytest.fixture
def command(bundle: Path) -> Command:
    """A verb of the command line, on the test's bundle, where it does not name another."""

    def run(verb: str, *words: str | Path | float) -> Result:
        return CliRunner().invoke(main, [verb, "--bundle", str(bundle), "--threads", "1", *map(str, words)])

    return run


@pytest.fixture
def fake() -> Iterator[FakeAdbd]:
    device = FakeAdbd()
    yield device
    device.close()


def address(device: Any) -> str:
    return f"{device.host}:{device.port}"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    if SSHD is None or (ssh := shutil.which("ssh")) is None:
        pytest.skip("OpenSSH's server or client is missing")
    (folder := tmp_path / "board").mkdir()
    board = Board(folder)
    # A user's configuration names the key and the known host; here a word before all others does.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {board.config()} "$@"\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield board
    board.close()


@pytest.fixture(params=["adbd", "fake", "board"])
def device(request: pytest.FixtureRequest) -> str:
    """What --device calls it."""
    device = request.getfixturevalue(request.param)
    return f"ssh://127.0.0.1:{device.port}" if isinstance(device, Board) else address(device)


def runners(tmp_path: Path) -> list[int]:
    """Processes that have to do with a bundle of the test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"edge_mtp_runner") and str(tmp_path).encode() in b"\0".join(words):
                found.append(int(path.parent.name))
    return found


def leaves_no_runner(tmp_path: Path) -> None:
    until(lambda: not runners(tmp_path), within_s=BOUND_S, every_s=0.02)


def texts(results: Results, arm: str) -> dict[tuple[str, int, int], str]:
    """Of what was answered."""
    answers = [answer for answer in results.of(arm) if answer.is_complete]
    return {(answer.item, answer.turn, answer.round): answer.text for answer in answers}


def one_line(result: Result) -> str:
    """The last line on standard error, which is the refusal; nothing on standard output."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    return line


# --- every verb on every kind of device ------------------------------------------------------------------------------


def test_bench_on_a_device_and_here_gives_the_same_texts(
    command: Command, device: str, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    words = ["--device", "host", "--device", device, "--mtp", "off,3", "--workload", prompts, "--limit", 3]
    result = command("bench", *words, "--rounds", 2, "--warm-up", 0, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    found = read_results(output)
    assert [(arm.device, arm.mtp) for arm in found.run.arms] == [
        ("host", "off"), ("host", 3), (device, "off"), (device, 3)
    ]  # fmt: skip
    assert all(answer.is_complete for answer in found.answers)
    told = [texts(found, arm.label) for arm in found.run.arms]
    assert len(told[0]) == 6
    assert told == [told[0]] * 4
    assert found.run.devices.keys() == {"host", device}
    assert found.run.devices[device]["name"] == device
    assert found.run.devices[device]["abi"] == found.run.devices["host"]["abi"]
    assert {sample.device for sample in found.samples} == {"host", device}
    assert all(sample.sensors.rss_bytes for sample in found.samples)
    whole = [each for each in json.loads(result.stdout)["latencies"] if each["kind"] is None]
    assert len(whole) == 4
    assert all(each["peak_rss_bytes"] > each["peak_anonymous_bytes"] > 0 for each in whole)
    leaves_no_runner(tmp_path)


def test_eval_on_a_device_and_here_gives_the_same_texts(
    command: Command, device: str, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    words = ["--device", "host", "--device", device, "--mtp", "off,auto", "--suite", prompts, "--limit", 4]
    result = command("eval", *words, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    found = read_results(output)
    told = [texts(found, arm.label) for arm in found.run.arms]
    assert len(told[0]) == 4
    assert told == [told[0]] * 4
    assert all(answer.margins for answer in found.answers)
    assert found.run.devices.keys() == {"host", device}
    again = command("eval", *words, "-o", output, "--resume")  # which has nothing left to ask
    assert again.exit_code == 0, again.output
    assert len(read_results(output).answers) == len(found.answers)
    leaves_no_runner(tmp_path)


def test_plan_and_check_on_a_device(command: Command, device: str, prompts: Path, tmp_path: Path) -> None:
    words = ["--context", 48, "--draft-length", 2, "--rounds", 6, "--prompts", prompts, "--limit", 2]
    result = command("plan", "--device", device, *words, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["device"]["name"] == device
    (costs,) = shown["contexts"]
    assert costs["context"] == 48
    assert costs["plain_us"]["value"] > 0
    assert [step["draft_length"] for step in costs["steps"]] == [2]
    assert costs["gains"][-1]["label"] == "prompts.jsonl"
    checked = command("check", "--device", device, "--numerics", prompts, "--limit", 2, "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["device"] == device
    leaves_no_runner(tmp_path)


# --- sensors ---------------------------------------------------------------------------------------------------------


class Phone:
    """The commands of Android's that tell sensors, for the shell of the adbd in Python; `tell` changes what they say.

    `thermal` are shell commands that print one of Android's thermal statuses.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def tell(self, *, thermal: str = "echo 0", battery_status: int = 3, current: str | None = None) -> None:
        service = thermalservice(0, {}, {"VIRTUAL-SKIN": 36.5}).replace("Thermal Status: 0", "Thermal Status: $status")
        self._write(
            "dumpsys",
            f"""case "$1" in
battery) cat <<'END'
{battery(76, battery_status, 4000)}
END
;;
thermalservice) status=$({thermal}); cat <<END
{service}
END
;;
*) exit 1;; esac""",
        )
        self._write("cmd", f'[ "$*" = "battery get current_now" ] && echo {current}' if current else "exit 1")

    def _write(self, name: str, text: str) -> None:
        part = self.folder / f".{name}"
        part.write_text(f"#!/bin/sh\n{text}\n")
        part.chmod(0o755)
        part.replace(self.folder / name)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """Read as often as it can be, and looked at as soon."""
    assert SensorLog.__init__.__kwdefaults__
    monkeypatch.setitem(SensorLog.__init__.__kwdefaults__, "period_s", 0.01)
    monkeypatch.setattr(cool_down, "LOOK_EVERY_S", 0.01)
    return Phone(tmp_path / "phone", monkeypatch)


def test_a_hot_phone_is_waited_for_until_it_has_cooled(
    command: Command, fake: FakeAdbd, phone: Phone, prompts: Path, tmp_path: Path
) -> None:
    """It is hot while its first reading and the next ones are taken, as many as there are letters in a file."""
    (tmp_path / "count").write_text("")
    phone.tell(thermal=f"printf x >> {tmp_path}/count; [ $(wc -c < {tmp_path}/count) -le 5 ] && echo 2 || echo 0")
    name, output = address(fake), tmp_path / "results.jsonl"
    words = ["--device", name, "--mtp", "off", "--workload", prompts, "--limit", 2, "--rounds", 1, "--warm-up", 0]
    result = command("bench", *words, "-o", output)
    assert result.exit_code == 0, result.output
    found = read_results(output)
    (pause,) = found.pauses
    assert (pause.device, pause.reason) == (name, "thermal status moderate")
    assert f"{name}: thermal status moderate" in result.stderr
    assert pause.seconds > 0
    assert min(answer.at_s for answer in found.answers) >= pause.at_s + pause.seconds
    statuses = [sample.sensors.thermal_status for sample in found.samples]
    assert statuses == [2] * 5 + [0] * (len(statuses) - 5)
    assert [sample.sensors.temperatures_c["VIRTUAL-SKIN"] for sample in found.samples] == [36.5] * len(statuses)


@pytest.mark.parametrize(
    ("thermal", "options"), [("moderate", ["--thermal", "severe"]), ("severe", ["--thermal", "off"])]
)
def test_a_limit_above_what_the_phone_says_is_not_waited_for(
    command: Command, fake: FakeAdbd, phone: Phone, prompts: Path, thermal: str, options: list[str]
) -> None:
    phone.tell(thermal=f"echo {cool_down.STATUSES.index(thermal)}")
    words = ["--device", address(fake), "--mtp", "off", "--workload", prompts, "--limit", 1, "--rounds", 1]
    result = command("bench", *words, *options, "-o", "results.jsonl")
    assert result.exit_code == 0, result.output
    assert read_results("results.jsonl").pauses == []


def test_a_battery_tells_the_energy_of_a_token(
    command: Command, fake: FakeAdbd, phone: Phone, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an ampere at four volts: two watts, whatever the time that answers take."""
    monkeypatch.setattr("edge_mtp.harness.analyse.energy.LEAST_SPANS", 1)
    slow_down(monkeypatch)
    phone.tell(current="-500000")
    words = ["--device", address(fake), "--mtp", "off", "--workload", prompts, "--limit", 2, "--rounds", 1]
    result = command("bench", *words, "--warm-up", 0, "--max-tokens", 12, "-o", "results.jsonl", "--json")
    assert result.exit_code == 0, result.output
    answers = read_results("results.jsonl").answers
    told = next(each for each in json.loads(result.stdout)["latencies"] if each["kind"] is None)
    joules = 2.0 * sum(answer.total_us for answer in answers) / 1e6
    assert told["energy_mj_per_token"] == pytest.approx(1e3 * joules / sum(len(a.tokens) for a in answers), rel=1e-6)
    assert told["energy_note"].startswith("2 W of the whole device")


def test_a_battery_that_charges_tells_nothing_of_a_run(
    command: Command, fake: FakeAdbd, phone: Phone, prompts: Path
) -> None:
    phone.tell(battery_status=2, current="500000")
    words = ["--device", address(fake), "--mtp", "off", "--workload", prompts, "--limit", 1, "--rounds", 1]
    result = command("bench", *words, "-o", "results.jsonl", "--json")
    assert result.exit_code == 0, result.output
    told = next(each for each in json.loads(result.stdout)["latencies"] if each["kind"] is None)
    assert told["energy_mj_per_token"] is None
    assert "charging" in told["energy_note"]


def test_sensors_are_read_by_whichever_engine_lives() -> None:
    """An arm that was given up leaves a link that is gone, and the others' devices are the same."""

    def answerer(*, lives: bool) -> runner_engine.RunnerEngine:
        link = LocalLink() if lives else FakeLost()
        engine = SimpleNamespace(device=SimpleNamespace(link=link), runner=SimpleNamespace(pid=os.getpid()))
        return runner_engine.RunnerEngine(
            Arm("a", "a.litertlm"), cast(runner_engine.SharedEngine, SimpleNamespace(engine=engine, is_alive=lives))
        )

    dead, alive = answerer(lives=False), answerer(lives=True)
    assert reader([dead, alive])().rss_bytes
    assert reader([alive, dead])().rss_bytes
    with pytest.raises(EdgeMtpError, match="the link broke"):
        reader([dead])()


class FakeLost(LocalLink):
    def run(self, *words: Any, **options: Any) -> Completed:
        raise EdgeMtpError("the link broke")


def slow_down(patch: pytest.MonkeyPatch) -> None:
    """Every token takes as long as several readings of the sensors, by the runner's own clock too."""
    from dataclasses import replace

    generate = Runner.generate

    def slow(runner: Runner, request: Request) -> Generator[Step | Outcome, None, None]:
        for event in generate(runner, request):
            begun = time.monotonic()
            time.sleep(0.3)
            slept_us = (time.monotonic() - begun) * 1e6
            yield replace(event, total_us=event.total_us + slept_us)

    patch.setattr(Runner, "generate", slow)


# --- links that break ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["adbd", "fake", "board"])
def breakable(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], None]]]:
    """What --device calls it, and what cuts the connections that it has now."""
    device = request.getfixturevalue(request.param)
    if isinstance(device, Board):
        yield f"ssh://127.0.0.1:{device.port}", device.cut
        return
    with FaultProxy((device.host, device.port)) as proxy:
        yield address(proxy), proxy.cut


def cut_in_reply(number: int, cut: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Cuts the link while the device owes that reply, counted from 1. The runner is held, lest it be faster."""
    generate, replies = Runner.generate, itertools.count(1)

    def cut_and_let_go(pid: int) -> None:
        cut()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def generate_and_cut(runner: Runner, request: Request) -> Generator[Step | Outcome, None, None]:
        if not isinstance(runner._process, LocalProcess) and next(replies) == number:
            os.kill(runner.pid, signal.SIGSTOP)
            threading.Timer(0.3, cut_and_let_go, [runner.pid]).start()
        yield from generate(runner, request)

    patch.setattr(Runner, "generate", generate_and_cut)


def lose(proxy: FaultProxy) -> None:
    """Its device goes away, and does not come back by itself."""
    proxy.target = (proxy.host, closed_port())
    proxy.cut()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


ITEMS_OF = {"bench": "--workload", "eval": "--suite"}
# So that both ask each item once.
MORE: dict[str, list[str | float]] = {"bench": ["--warm-up", 0, "--rounds", 1], "eval": []}


def broken(results: Results) -> list[Answer]:
    return [answer for answer in results.answers if not answer.is_complete]


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_link_that_breaks_costs_one_answer(
    command: Command, verb: str, breakable: tuple[str, Callable[[], None]], prompts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name, cut = breakable
    cut_in_reply(3, cut, monkeypatch)
    words = ["--device", name, "--mtp", "off,3", ITEMS_OF[verb], prompts, "--limit", 4, *MORE[verb]]
    result = command(verb, *words, "-o", "results.jsonl")
    assert result.exit_code == 0, result.output
    found = read_results("results.jsonl")
    assert Counter(answer.arm for answer in found.answers) == {"mtp off": 4, "mtp 3": 4}
    (lost,) = broken(found)
    assert lost.finish == "crash"
    assert re.match(rf"the (link|connection) to {name} broke.*; (reconnect it|check the board)", lost.error or "")
    one, other = (texts(found, arm) for arm in ("mtp off", "mtp 3"))
    assert len(one | other) == 4
    assert len(one.items() & other.items()) == 3
    again = command(verb, *words, "-o", "results.jsonl", "--resume")
    assert again.exit_code == 0, again.output
    assert read_results("results.jsonl").answers == found.answers
    leaves_no_runner(tmp_path)


def after_failures(count: int, back: Callable[[], None], patch: pytest.MonkeyPatch) -> list[str]:
    """Calls `back` when an engine has failed to open so often; the failures, as they come."""
    failures: list[str] = []

    def opening(*words: Any, **options: Any) -> Engine:
        try:
            return open_engine(*words, **options)
        except EdgeMtpError as error:
            failures.append(str(error))
            if len(failures) == count:
                back()
            raise

    patch.setattr(runner_engine, "open_engine", opening)
    return failures


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_device_that_is_away_for_a_while_is_waited_for(
    command: Command, verb: str, fake: FakeAdbd, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_engine, "RETRY_S", 0.01)
    with FaultProxy((fake.host, fake.port)) as proxy:
        failures = after_failures(3, lambda: setattr(proxy, "target", (fake.host, fake.port)), monkeypatch)
        cut_in_reply(2, partial(lose, proxy), monkeypatch)
        words = ["--device", address(proxy), "--mtp", "off", ITEMS_OF[verb], prompts, "--limit", 4, *MORE[verb]]
        result = command(verb, *words, "-o", "results.jsonl")
    assert result.exit_code == 0, result.output
    assert len(failures) == 3
    assert result.stderr.count("trying again for 60 s") == 1
    assert len(broken(read_results("results.jsonl"))) == 1
    assert len(read_results("results.jsonl").answers) == 4


def test_a_device_that_vanishes_without_a_word_is_found_again_and_its_runner_ended(
    command: Command,
    adbd: Adbd,  # noqa: F811
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_engine, "RETRY_S", 0.01)
    monkeypatch.setattr("edge_mtp.device.adb_transport.LOST_S", 4)
    monkeypatch.setattr("edge_mtp.device.adb_connection.CONNECT_S", 1.0)
    after_failures(1, adbd.mend, monkeypatch)
    cut_in_reply(2, adbd.cut, monkeypatch)
    words = ["--device", adbd.name, "--mtp", "off", "--workload", prompts, "--limit", 3, *MORE["bench"]]
    try:
        result = command("bench", *words, "-o", "results.jsonl")
    finally:
        adbd.mend()
    assert result.exit_code == 0, result.output
    answers = read_results("results.jsonl").answers
    assert [answer.is_complete for answer in answers] == [True, False, True]
    assert f"the link to {adbd.name} broke: " in (answers[1].error or "")
    leaves_no_runner(tmp_path)


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_device_that_stays_away_ends_the_run_in_a_line_and_it_can_be_gone_on_with(
    command: Command, verb: str, fake: FakeAdbd, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_engine, "RETRY_S", 0.01)
    monkeypatch.setattr(runner_engine, "PATIENCE_S", 0.05)
    with FaultProxy((fake.host, fake.port)) as proxy:
        cut_in_reply(2, partial(lose, proxy), monkeypatch)
        words = ["--device", address(proxy), "--mtp", "off", ITEMS_OF[verb], prompts, "--limit", 8, *MORE[verb]]
        line = one_line(command(verb, *words, "-o", "results.jsonl"))
        assert f"cannot connect to {address(proxy)}" in line
        assert line.endswith("results.jsonl holds what was answered: go on with --resume -o results.jsonl")
        before = read_results("results.jsonl").answers
        assert before[0].is_complete
        assert not before[1].is_complete
        assert "the link to" in (before[1].error or "")
        # Here again, before it goes on.
        proxy.target = (fake.host, fake.port)
        result = command(verb, *words, "-o", "results.jsonl", "--resume")
    assert result.exit_code == 0, result.output
    answers = read_results("results.jsonl").answers
    assert answers[: len(before)] == before
    assert len({answer.item for answer in answers}) == len(answers) == 8
    assert all(answer.is_complete for answer in answers[len(before) :])


def test_where_one_device_is_gone_the_other_goes_on(
    command: Command, fake: FakeAdbd, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_engine, "PATIENCE_S", 0.0)
    with FaultProxy((fake.host, fake.port)) as proxy:
        cut_in_reply(2, partial(lose, proxy), monkeypatch)
        name = address(proxy)
        words = ["--device", "host", "--device", name, "--mtp", "off", "--workload", prompts, "--limit", 8]
        words += ["--warm-up", 0, "--rounds", 1, "-o", "results.jsonl"]
        result = command("bench", *words)
        assert result.exit_code == 0, result.output
        assert f"{name} ended 3 times in a row, and is not asked any more" in result.stderr
        found = read_results("results.jsonl")
        assert len(found.of("host")) == 8
        assert all(answer.is_complete for answer in found.of("host"))
        assert [answer.is_complete for answer in found.of(name)] == [True, False]  # it was never asked the others
        proxy.target = (fake.host, fake.port)
        result = command("bench", *words, "--resume")
    assert result.exit_code == 0, result.output
    after = read_results("results.jsonl")
    assert after.of("host") == found.of("host")
    assert [answer.is_complete for answer in after.of(name)] == [True, False, True, True, True, True, True, True]
    assert texts(after, name).items() <= texts(after, "host").items()


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_device_that_asks_who_we_are_is_waited_for_aloud(
    command: Command, verb: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # one without keys
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    device = FakeAdbd(authorize=True, accepts=True)
    try:
        words = ["--device", address(device), "--mtp", "off", ITEMS_OF[verb], prompts, "--limit", 1, *MORE[verb]]
        result = command(verb, *words, "-o", "results.jsonl")
    finally:
        device.close()
    assert result.exit_code == 0, result.output
    assert result.stderr.count("unlock it and accept 'Allow USB debugging?'") == 1


# --- what a user does to a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["bench", "eval"])
@pytest.mark.parametrize("where", ["host", "fake"])
def test_ctrl_c_at_a_terminal_ends_the_runners_and_the_rest_can_be_asked(
    command: Command, verb: str, where: str, bundle: Path, prompts: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    device = "host" if where == "host" else address(request.getfixturevalue(where))
    words: list[str | Path | float] = ["--device", device, "--mtp", "off,3", ITEMS_OF[verb], prompts]
    words += [*MORE[verb], "-o", "my results.jsonl"]
    output = tmp_path / "my results.jsonl"
    started = Terminal(in_a_process(tmp_path, verb, "--bundle", bundle, "--threads", 1, *words))
    try:
        while not (output.exists() and output.read_bytes().count(b'"event":"answer"') > 2):
            started.expect("(?s).+")
        started.type("\x03")
        assert started.wait() == 130
    finally:
        started.close()
    said = "my results.jsonl holds what was answered: go on with --resume -o 'my results.jsonl'"
    assert f"Interrupted; {said}\r\n" in started.text
    assert "Traceback" not in started.text
    leaves_no_runner(tmp_path)
    before = read_results(output).answers
    assert 2 < len(before) < 120
    assert all(answer.is_complete for answer in before)
    result = command(verb, *words, "--resume")
    assert result.exit_code == 0, result.output
    answers = read_results(output).answers
    assert answers[: len(before)] == before
    assert Counter(answer.arm for answer in answers) == {"mtp off": 60, "mtp 3": 60}


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_ctrl_c_before_the_first_answer_leaves_nothing(
    command: Command, verb: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: Any, **options: Any) -> Engine:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner_engine, "open_engine", interrupted)
    result = command(verb, ITEMS_OF[verb], prompts, "-o", "results.jsonl")
    assert (result.exit_code, result.stderr) == (130, "Interrupted before anything was measured.\n")
    assert not (tmp_path / "results.jsonl").exists()


def in_a_process(tmp_path: Path, *words: str | Path | float) -> list[str]:
    return [sys.executable, "-c", COMMAND, folder_script(tmp_path), *map(str, words)]


class Disk:
    """A folder with room for so many bytes; `grow` makes room for more."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")

    def grow(self, kilobytes: int) -> None:
        self._mount("-o", f"remount,size={kilobytes}k")

    def lock(self) -> None:
        self._mount("-o", "remount,ro")

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True, timeout=30)

    def _mount(self, *words: str) -> None:
        done = subprocess.run(["mount", *words, self.folder], capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise UnavailableError(done.stderr.strip())


class FullFile(io.FileIO):
    """One on a disk that fills up: it takes what fits, then nothing."""

    most_bytes = 0

    def write(self, data: Any) -> int:
        room = FullFile.most_bytes - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:room])


class FakeDisk:
    """As `Disk`, where nothing can be mounted."""

    def __init__(self, folder: Path, kilobytes: int, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        self.grow(kilobytes)
        open_file = Path.open

        def opened(path: Path, mode: str = "r", *words: Any, **options: Any) -> Any:
            here = path.parent == folder and "b" in mode and set(mode) & set("xaw+")
            return FullFile(path, mode.replace("b", "")) if here else open_file(path, mode, *words, **options)

        patch.setattr(Path, "open", opened)

    def grow(self, kilobytes: int) -> None:
        FullFile.most_bytes = kilobytes << 10


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    disks: list[Disk] = []

    def make(kilobytes: int) -> Disk:
        try:
            disks.append(Disk(tmp_path / f"disk{len(disks)}", kilobytes))
        except (UnavailableError, OSError) as reason:
            pytest.skip(f"no small file system: {reason}")
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


@pytest.fixture(params=["mounted", "fake"])
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Disk | FakeDisk]:
    if request.param == "mounted":
        made: Callable[[int], Disk] = request.getfixturevalue("mounted")
        return made
    return lambda kilobytes: FakeDisk(tmp_path / "disk", kilobytes, monkeypatch)


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_disk_that_fills_up_ends_the_run_in_a_line_and_keeps_whole_records(
    command: Command, verb: str, disk: Callable[[int], Disk | FakeDisk], prompts: Path
) -> None:
    small = disk((prompts.stat().st_size >> 10) + 24)  # the items are in the file too
    output = small.folder / "results.jsonl"
    words = ["--mtp", "off,3", ITEMS_OF[verb], prompts, *(["--rounds", 2] if verb == "bench" else []), "-o", output]
    line = one_line(command(verb, *words))
    assert f"cannot write results '{output}': No space left on device; make room; " in line
    assert line.endswith(f"go on with --resume -o {output}")
    assert output.read_bytes().endswith(b"\n")
    before = read_results(output).answers
    assert 0 < len(before) < 120
    assert "No space left on device" in one_line(command(verb, *words, "--resume"))
    assert len(read_results(output).answers) - len(before) in (0, 1, 2)  # what else fits where one record did not
    before = read_results(output).answers
    small.grow(4 << 10)
    result = command(verb, *words, "--resume")
    assert result.exit_code == 0, result.output
    answers = read_results(output).answers
    assert answers[: len(before)] == before
    rounds = 2 if verb == "bench" else 1
    assert Counter(answer.arm for answer in answers) == {"mtp off": 60 * rounds, "mtp 3": 60 * rounds}


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_disk_without_room_for_the_head_of_the_results_keeps_no_file(
    command: Command, verb: str, disk: Callable[[int], Disk | FakeDisk], prompts: Path
) -> None:
    small = disk(4)
    line = one_line(command(verb, ITEMS_OF[verb], prompts, "-o", small.folder / "results.jsonl"))
    assert line.endswith("No space left on device; make room")
    assert not list(small.folder.iterdir())


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_results_in_a_folder_that_cannot_be_written_are_refused(
    command: Command, verb: str, mounted: Callable[[int], Disk], prompts: Path
) -> None:
    locked = mounted(1024)
    output = locked.folder / "results.jsonl"
    words = [ITEMS_OF[verb], prompts, "--limit", 1, "--mtp", "off", *MORE[verb]]
    assert command(verb, *words, "-o", output).exit_code == 0
    locked.lock()
    line = one_line(command(verb, *words, "-o", output.with_name("others.jsonl")))
    assert line.endswith("others.jsonl': Read-only file system; give another --output")
    line = one_line(command(verb, *words, "-o", output, "--resume"))
    assert line.endswith("Read-only file system; make the file writable")
    absent = locked.folder / "absent" / "results.jsonl"
    assert "No such file or directory; give another --output" in one_line(command(verb, *words, "-o", absent))
    assert "check the path" in one_line(command(verb, *words, "-o", locked.folder, "--resume"))


ITEM_OPTIONS = {**ITEMS_OF, "plan": "--prompts", "check": "--numerics"}


@pytest.mark.parametrize("verb", ITEM_OPTIONS)
@pytest.mark.parametrize(
    "line", ["not JSON", "[]", "{}", '{"prompt": 3}', '{"prompt": "Hi", "promt": ""}', '{"prompt": "Hi", "tools": 1}']
)
def test_a_wrong_line_is_named(command: Command, verb: str, line: str, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(f'{{"prompt": "Hi"}}\n\n{line}\n')
    before = set(tmp_path.iterdir())
    assert f"{items}, line 3: " in one_line(command(verb, ITEM_OPTIONS[verb], items))
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ITEM_OPTIONS)
def test_without_a_pixel_a_line_says_so(
    command: Command, verb: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_server, "held_devices", list)
    monkeypatch.setattr(adb_transport, "usb_serials", list)
    monkeypatch.setattr(find, "_listens", lambda port: False)
    before = set(tmp_path.iterdir())
    line = one_line(command(verb, "--device", "pixel", ITEM_OPTIONS[verb], prompts))
    assert line == ("Error: no pixel is reachable; connect one and allow USB debugging; reachable now: host")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_another_device_of_the_same_name_does_not_go_on(command: Command, verb: str, prompts: Path) -> None:
    words = ["--mtp", "off", ITEMS_OF[verb], prompts, "--limit", 1, *MORE[verb], "-o", "results.jsonl"]
    assert command(verb, *words).exit_code == 0
    first, rest = Path("results.jsonl").read_text().split("\n", 1)
    header = json.loads(first)
    header["devices"]["host"] |= {"model": "a telephone", "battery_percent": 3}
    Path("results.jsonl").write_text(json.dumps(header) + "\n" + rest)
    line = one_line(command(verb, *words, "--resume"))
    assert "device host: model was 'a telephone' and is " in line
    header["devices"] = {}  # of a run that did not say
    Path("results.jsonl").write_text(json.dumps(header) + "\n" + rest)
    assert command(verb, *words, "--resume").exit_code == 0


def test_other_items_are_not_gone_on_with(command: Command, prompts: Path) -> None:
    words = ["--mtp", "off", "--suite", prompts, "--limit", 2, "-o", "results.jsonl"]
    assert command("eval", *words).exit_code == 0
    first, second, *_ = prompts.read_text().splitlines(keepends=True)
    prompts.write_text(first + second.replace('"content": "', '"content": "Please: '))
    assert "are of other prompts" in one_line(command("eval", *words, "--resume"))


# --- what is sent to a device ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ITEM_OPTIONS)
def test_what_a_device_is_sent_is_told(
    command: Command, verb: str, fake: FakeAdbd, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mtp.cli.device_progress.LINE_EVERY_S", 0.0)
    words = ["--device", address(fake), ITEM_OPTIONS[verb], prompts, "--limit", 1]
    words += {"bench": ["--rounds", 1], "plan": ["--rounds", 6, "--context", 32, "--draft-length", 1]}.get(verb, [])
    result = command(verb, *words)
    assert result.exit_code == 0, result.output
    assert f"[{address(fake)}] sending tiny.litertlm 100%" in result.stderr
    assert "sending" not in result.stdout


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_at_a_terminal_a_bar_shows_it_and_goes(
    verb: str, fake: FakeAdbd, bundle: Path, prompts: Path, tmp_path: Path
) -> None:
    words: list[str | Path | float] = ["--device", address(fake), "--bundle", bundle, ITEM_OPTIONS[verb], prompts]
    words += ["--limit", 1]
    words += ["--context", 32, "--draft-length", 1, "--rounds", 6] if verb == "plan" else []
    started = Terminal(in_a_process(tmp_path, verb, *words))
    try:
        started.expect(r"sending tiny\.litertlm")
        after = started.expect({"check": "three arms", "plan": "warm-up"}[verb])
        assert after.endswith(("three arms", "warm-up"))
        assert started.wait() == 0
        assert "sending" not in started.text
    finally:
        started.close()
    leaves_no_runner(tmp_path)
