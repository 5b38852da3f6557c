"""`bench`, `eval`, `plan` and `check` on devices that are not this machine, and what a user does to them meanwhile.

The devices: a real adbd in a network namespace, an adbd in Python that also plays a phone's sensors, and sshd. All run
this machine's own runner.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from adb_device import UnavailableError, adbd  # noqa: F401  # a fixture
from click.testing import CliRunner, Result
from fake_adbd import FakeAdbd
from fake_android import battery, thermalservice
from test_remote import host_files
from test_ssh import SSHD, Board

from edge_mtp.cli import main
from edge_mtp.device import remote
from edge_mtp.device.request import Request
from edge_mtp.device.runner import Runner
from edge_mtp.device.trace import Outcome, Step
from edge_mtp.harness import gate
from edge_mtp.harness.results import Results, read_results
from edge_mtp.harness.watch import Watch

BOUND_S = 120.0  # of every wait
Command = Callable[..., Result]

# A command line in a process of its own, whose devices keep everything in a folder of the test's.
COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
from test_remote_harness import host_files, main, remote
remote.FOLDER = sys.argv[2]
remote.binaries_for = lambda kind, abi: host_files()
del sys.argv[1:3]
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


@pytest.fixture(params=["adbd", "fake", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What --device calls it."""
    if request.param != "ssh":
        yield address(request.getfixturevalue(request.param))
        return
    if SSHD is None or (ssh := shutil.which("ssh")) is None:
        pytest.skip("OpenSSH's server or client is missing")
    (folder := tmp_path / "board").mkdir()
    board = Board(folder)
    # A user's configuration names the key and the known host; here a word before all others does.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {board.config()} "$@"\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield f"ssh://127.0.0.1:{board.port}"
    board.close()


def runners(tmp_path: Path) -> list[int]:
    """Processes that have to do with a bundle of the test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"edge_mtp_runner") and str(tmp_path).encode() in b"\0".join(words):
                found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def leaves_no_runner(tmp_path: Path) -> None:
    until(lambda: not runners(tmp_path))


def texts(results: Results, arm: str) -> dict[tuple[str, int, int], str]:
    return {(answer.item, answer.turn, answer.round): answer.text for answer in results.of(arm)}


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
    monkeypatch.setitem(Watch.__init__.__kwdefaults__, "period_s", 0.01)
    monkeypatch.setattr(gate, "LOOK_EVERY_S", 0.01)
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
    phone.tell(thermal=f"echo {gate.STATUSES.index(thermal)}")
    words = ["--device", address(fake), "--mtp", "off", "--workload", prompts, "--limit", 1, "--rounds", 1]
    result = command("bench", *words, *options, "-o", "results.jsonl")
    assert result.exit_code == 0, result.output
    assert read_results("results.jsonl").pauses == []


def test_a_battery_tells_the_energy_of_a_token(
    command: Command, fake: FakeAdbd, phone: Phone, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an ampere at four volts: two watts, whatever the time that answers take."""
    monkeypatch.setattr("edge_mtp.harness.energy.LEAST_SPANS", 1)
    slow_down(monkeypatch)
    phone.tell(current="-500000")
    words = ["--device", address(fake), "--mtp", "off", "--workload", prompts, "--limit", 3, "--rounds", 1]
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
