"""`edge-mtp devices`, `devices clean`, and one prompt on several devices."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from adb_device import Adbd, adbd  # noqa: F401  # a fixture
from click.testing import CliRunner, Result
from fake_android import OLD, PIXEL, FakeAndroid

import edge_mtp.engine
from edge_mtp.cli import main, several
from edge_mtp.cli.devices import latest
from edge_mtp.cli.several import on_each
from edge_mtp.device import Device, HostDevice, find
from edge_mtp.device.find import Candidate
from edge_mtp.device.link import Link
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.put import Entry
from edge_mtp.device.remote import RemoteDevice
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.stats.figures import size
from edge_mtp.harness.tell.text_tables import aligned


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def table_with_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pixel, an older phone, and one that was not allowed yet."""
    kinds = {"A1": PIXEL, "B2": OLD}
    listed = [
        Candidate("A1", "adb server"),
        Candidate("B2", "USB"),
        Candidate("C3", "adb server", "offline: replug it"),
    ]

    def open_(candidate: Candidate, notice: object) -> Link:
        if candidate.trouble:
            raise EdgeMtpError(f"{candidate.name} is {candidate.trouble}")
        return FakeAndroid(tmp_path / candidate.name, kinds[candidate.name], candidate.name)

    monkeypatch.setattr(find, "candidates", lambda: (listed, ["USB needs libusb; install it"]))
    monkeypatch.setattr(Candidate, "open", open_)


def test_all_in_reach_are_listed(table_with_three: None) -> None:
    shown = command("devices")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "host", "A1", "B2", "C3:"]
    for word in ("Google Pixel 8", "Google Tensor G3", "Android 16", "arm64-v8a", "8.01 GB", "76%", "OpenCL"):
        assert word in lines[2]
    assert lines[4] == "C3: C3 is offline: replug it"
    assert shown.stderr == "not looked at: USB needs libusb; install it\n"


def test_the_list_for_machines(table_with_three: None) -> None:
    told = json.loads(command("devices", "--json").stdout)
    rows = {row["device"]: row for row in told["devices"]}
    assert list(rows) == ["host", "A1", "B2", "C3"]
    assert rows["A1"]["fingerprint"]["soc"] == "Google Tensor G3"
    assert rows["B2"]["way"] == "USB"
    assert rows["C3"]["fingerprint"] is None
    assert rows["C3"]["error"] == "C3 is offline: replug it"
    assert told["not_looked_at"] == ["USB needs libusb; install it"]


def test_named_devices_alone_are_asked_and_a_failure_is_a_failure(table_with_three: None) -> None:
    shown = command("devices", "--device", "B2", "--device", "C3")
    assert shown.exit_code == 1
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["device", "B2", "C3:"]


def test_options_of_the_group_are_not_swallowed_by_clean() -> None:
    assert command("devices", "--device", "host", "clean", "--device", "host").exit_code == 2


# --- clean -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine as if it were another one, with a folder that has seen some use."""
    folder = tmp_path / "there"
    for age, name in enumerate(
        ["cache/a.costs", "bundles/new.litertlm", "bin/new/edge_mtp_runner", "bundles/old.litertlm",
         "bin/old/libLiteRt.so", "bundles/cut.litertlm.part", "bundles/old.token_bytes"]
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (10**9 - age, 10**9 - age))
    (tmp_path / "beside").write_text("not ours")
    device = RemoteDevice(LocalLink(), folder=str(folder))
    monkeypatch.setattr(find, "find_device", lambda name, **told: device)
    return folder


def kept(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_old_versions_go_and_the_latest_stay(board: Path) -> None:
    before = kept(board)
    dry = command("devices", "clean", "--device", "board", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert kept(board) == before
    assert "3 kB would be freed on host" in dry.stdout
    told = json.loads(command("devices", "clean", "--device", "board", "--json").stdout)
    assert kept(board) == {
        "cache/a.costs", "bundles/new.litertlm", "bin/new/edge_mtp_runner", "bundles/old.token_bytes"
    }  # fmt: skip
    assert told["freed_bytes"] == 3000
    removed = {entry["name"] for entry in told["entries"] if entry["removed"]}
    assert removed == {"bundles/old.litertlm", "bin/old", "bundles/cut.litertlm.part"}
    assert (board.parent / "beside").read_text() == "not ours"
    assert "0 B freed" in command("devices", "clean", "--device", "board").stdout


def test_all_goes_when_asked(board: Path) -> None:
    shown = command("devices", "clean", "--device", "board", "--all")
    assert shown.exit_code == 0, shown.output
    assert kept(board) == set()
    assert (board.parent / "beside").exists()
    assert "nothing of edge-mtp's is there" in command("devices", "clean", "--device", "board").stdout


def test_the_host_keeps_its_cache() -> None:
    refused = command("devices", "clean", "--device", "host")
    assert refused.exit_code == 1
    assert "can be deleted" in refused.stderr


def test_latest_of_each_kind() -> None:
    entries = [Entry("bin/a", 1, 5), Entry("bin/b", 1, 7), Entry("bundles/x.litertlm", 1, 1), Entry("cache", 1, 0)]
    assert latest(entries) == {"bin/b", "bundles/x.litertlm", "cache"}
    assert latest([]) == set()


# --- one prompt on several devices -----------------------------------------------------------------------------------


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """`one` and `two` are this machine, `dead` is a link that broke."""

    def find_device(name: str, **told: object) -> Device:
        if name == "dead":
            raise EdgeMtpError("dead went\naway; plug it in")
        return HostDevice()

    monkeypatch.setattr(edge_mtp.engine, "find_device", find_device)


def test_several_devices_give_one_text_each(fleet: None, tiny_bundle: Path) -> None:
    arguments = ["run", "--bundle", str(tiny_bundle), "--max-tokens", "12", "--json", "Wake me at 6:40"]
    alone = json.loads(command(*arguments).stdout)
    ran = command(*arguments, "--device", "one", "--device", "dead", "--device", "two")
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)["devices"]
    assert [each["device"] for each in told] == ["one", "dead", "two"]
    assert told[0]["tokens"] == told[2]["tokens"] == alone["tokens"]
    assert told[1] == {"device": "dead", "error": "dead went away; plug it in"}
    assert told[0]["error"] is None
    assert ran.stderr == "dead: dead went away; plug it in\n"


def test_every_outcome_is_labelled(fleet: None, tiny_bundle: Path) -> None:
    arguments = ["run", "--bundle", str(tiny_bundle), "--max-tokens", "12", "Wake me at 6:40"]
    text = command(*arguments).stdout.splitlines()[0]
    ran = command(*arguments, "--device", "one", "--device", "two")
    assert ran.exit_code == 0, ran.output
    lines = ran.stdout.splitlines()
    assert sorted(lines[i] for i, line in enumerate(lines) if line.startswith("---")) == ["--- one", "--- two"]
    assert [after for line, after in itertools.pairwise(lines) if line.startswith("---")] == [text, text]


def test_a_chat_or_a_device_twice_is_refused(tiny_bundle: Path) -> None:
    several_ = ["--device", "host", "--device", "b"]
    assert "a chat is with one device" in command("run", "--bundle", str(tiny_bundle), *several_).stderr
    assert "given twice" in command("run", "--device", "host", "--device", "host", "hello").stderr


def test_sensors_stand_beside_the_trace(tiny_bundle: Path) -> None:
    told = json.loads(command("run", "--bundle", str(tiny_bundle), "--max-tokens", "4", "--json", "Hi").stdout)
    moments = [sample["at_us"] for sample in told["sensors"]]
    assert len(moments) >= 2
    assert moments[0] <= 0 < moments[-1]
    assert {sample["event"] for sample in told["sensors"]} == {"sensors"}
    assert all(sample["rss_bytes"] > 1 << 20 for sample in told["sensors"]), "of the runner"


# --- a real adbd at an address, as a device farm hands it out ---------------------------------------------------------


def test_a_farms_address_is_listed_examined_and_run(adbd: Adbd, tiny_bundle: Path) -> None:  # noqa: F811
    listed = json.loads(command("devices", "--device", adbd.name, "--json").stdout)["devices"][0]
    host = HostDevice().fingerprint()
    assert listed["error"] is None
    assert listed["fingerprint"]["name"] == adbd.name
    for field in ("abi", "cores", "memory_bytes", "system"):
        assert listed["fingerprint"][field] == getattr(host, field)

    examined = json.loads(command("doctor", "--device", adbd.name, "--bundle", str(tiny_bundle), "--json").stdout)
    assert examined["ok"], examined
    assert any("MB/s" in finding["value"] for finding in examined["findings"])

    arguments = ["run", "--bundle", str(tiny_bundle), "--max-tokens", "12", "--json", "Wake me at 6:40"]
    ran = command(*arguments, "--device", adbd.name, "--device", "host")
    assert ran.exit_code == 0, ran.stderr
    there, here = json.loads(ran.stdout)["devices"]
    assert there["tokens"] == here["tokens"]
    assert all(sample["rss_bytes"] > 1 << 20 for sample in there["sensors"])

    cleaned = json.loads(command("devices", "clean", "--device", adbd.name, "--all", "--json").stdout)
    assert cleaned["freed_bytes"] > tiny_bundle.stat().st_size
    assert [path for path in adbd.folder.rglob("*") if path.is_file()] == []


# --- on_each ---------------------------------------------------------------------------------------------------------


def test_jobs_run_at_once_and_results_keep_their_order() -> None:
    barrier = threading.Barrier(4, timeout=60)

    def job(device: str, stop: threading.Event) -> str:
        barrier.wait()  # passes only when all are in it
        time.sleep(0.02 * (4 - int(device)))
        return device * 2

    heard: list[str] = []
    results = on_each(list("0123"), job, lambda result: heard.append(result.device))
    assert [(result.device, result.value, result.error) for result in results] == [
        (device, device * 2, None) for device in "0123"
    ]
    assert sorted(heard) == list("0123")


def test_a_fault_of_ours_stops_the_others_and_is_raised() -> None:
    def job(device: str, stop: threading.Event) -> None:
        if device == "bad":
            raise ZeroDivisionError
        assert stop.wait(60)

    with pytest.raises(ZeroDivisionError):
        on_each(["good", "bad"], job)


def test_what_hangs_does_not_keep_the_others_faults_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "STOP_S", 0.1)
    over = threading.Event()

    def job(device: str, stop: threading.Event) -> None:
        if device == "bad":
            raise ZeroDivisionError
        over.wait(60)

    with pytest.raises(ZeroDivisionError):
        on_each(["hangs", "bad"], job)
    over.set()


def test_ctrl_c_stops_all() -> None:
    script = """
import os, signal, threading
from edge_mtp.cli.several import on_each
begun = threading.Barrier(3)
def job(device, stop):
    begun.wait()
    stop.wait(60)
    os.write(1, f"stopped {device}\\n".encode())
def interrupt():
    begun.wait()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    on_each(["a", "b"], job)
except KeyboardInterrupt:
    os.write(1, b"interrupted\\n")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd="/")
    assert sorted(ran.stdout.splitlines()) == ["interrupted", "stopped a", "stopped b"], ran.stderr


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2_694_000_000, "2.69 GB"), (999_600, "1 MB")],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


def test_columns_line_up() -> None:
    assert aligned([["a", "bbb"], ["cc", "d"]]) == ["a   bbb", "cc  d"]
