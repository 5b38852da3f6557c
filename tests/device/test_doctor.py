"""Findings: on this machine, on recorded devices, and at every threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_android import BARE, OLD, PIXEL, FakeAndroid, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.cli import main
from edge_mtp.device import HostDevice, binaries, doctor
from edge_mtp.device.doctor import Finding, examine, needed_bytes
from edge_mtp.device.host import runner_path
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.remote import RemoteDevice
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle


@pytest.fixture(autouse=True)
def _small_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "STORAGE_BYTES", 1 << 20)


def of(findings: Iterator[Finding]) -> dict[str, Finding]:
    found = {finding.name: finding for finding in findings}
    for finding in found.values():
        assert (finding.cure is None) == (finding.level == "ok"), finding
        assert finding.value.isprintable()
    return found


class OneBuild:
    """The binaries that there would be: this machine's runner."""

    files: Mapping[str, Path] = {"edge_mtp_runner": runner_path()}
    digest = "0" * 64


@pytest.fixture
def any_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "binaries_for", lambda kind, abi: OneBuild())


def phone(root: Path, recorded: Recorded, files: Mapping[str, str | bytes] = {}) -> RemoteDevice:
    folder = root / "data/local/tmp/edge-mtp"
    folder.mkdir(parents=True)
    commands = {words.replace("/data/local/tmp", str(folder)): text for words, text in recorded.commands.items()}
    link = FakeAndroid(root, Recorded(recorded.properties, {**recorded.files, **files}, commands))
    return RemoteDevice(link, folder=str(folder))


def test_this_machine_for_real(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = of(examine(HostDevice(), Bundle(tiny_bundle)))
    assert {finding.level for finding in found.values()} <= {"ok", "warning"}
    assert found["programs"].level == "ok"
    assert found["programs"].value.startswith(f"run from {tmp_path}/edge-mtp")
    assert found["page size"].level == "ok"
    assert "MB/s" in found["storage speed"].value
    assert list((tmp_path / "edge-mtp").iterdir()) == [], "nothing is left behind"


def test_a_pixel(tmp_path: Path, any_build: None, tiny_bundle: Path) -> None:
    library = next(
        path for path in map(Path, ("/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/libm.so.6")) if path.exists()
    )
    lies = {"/vendor/lib64/libOpenCL.so": library.read_bytes()}
    found = of(examine(phone(tmp_path, PIXEL, lies), Bundle(tiny_bundle)))
    assert found["page size"].value.startswith("16 KB")
    assert found["programs"].value.endswith("SELinux enforcing")
    assert found["OpenCL"] == Finding("OpenCL", "ok", "/vendor/lib64/libOpenCL.so loads")
    npu = found["Google Tensor NPU"]
    assert npu.level == "warning"
    assert npu.value.startswith("/vendor/lib64/libedgetpu_litert.so cannot be loaded: ")
    assert (found["thermal state"].level, found["thermal state"].value) == (
        "warning",
        "throttling light, hottest BIG 61 C",
    )
    assert found["battery"] == Finding("battery", "ok", "76%, not charging")
    assert "Qualcomm NPU" not in found
    assert "user" not in found


def test_an_older_phone_with_little_left(tmp_path: Path, any_build: None) -> None:
    found = of(examine(phone(tmp_path, OLD)))
    assert found["battery"].level == "warning"
    assert found["thermal state"] == Finding("thermal state", "ok", "cpu-0-0 thermal_zone2 46 C")
    assert found["Qualcomm NPU"].level == "warning"


def test_a_device_that_tells_nothing_is_examined_to_the_end(tmp_path: Path, any_build: None) -> None:
    found = of(examine(phone(tmp_path, BARE)))
    assert found["memory"].level == found["free space"].level == "warning"
    assert found["programs"].level == "ok"
    assert "battery" not in found


def test_no_build_for_the_abi_is_a_problem_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: str, abi: str) -> None:
        raise EdgeMtpError(f"nothing runs on {kind} with ABI '{abi}'; run 'edge-mtp setup android'")

    monkeypatch.setattr(binaries, "binaries_for", none)
    found = of(examine(phone(tmp_path, PIXEL)))
    assert found["ABI"].level == "problem"
    assert found["ABI"].cure == "run 'edge-mtp setup android'"
    assert found["memory"].level == "ok", "what else there is to find is found"


def test_a_device_that_runs_as_root_is_noted(tmp_path: Path, any_build: None) -> None:
    rooted = Recorded(PIXEL.properties, PIXEL.files, {**PIXEL.commands, "id -u": "0"})
    assert of(examine(phone(tmp_path, rooted)))["user"].level == "warning"


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = of(examine(HostDevice()))
    assert found["programs"].level == "problem"
    assert "nothing can be put into" in found["programs"].value
    assert found["storage speed"].level == "warning"


@pytest.mark.parametrize("name", ["a b", "it's", "$(touch ran)", 'q"; touch ran; "', "a\nb"])
def test_no_folder_is_run_as_a_command(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    assert of(examine(HostDevice()))["programs"].level == "ok"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_folder_without_the_right_to_execute() -> None:
    script = "put_nothing\nran 126 sh: /x/doctor/true: Permission denied\ncontrol 126 x\n"
    found = doctor.folder_finding(script, "/x", "Enforcing")
    assert found.level == "problem"
    assert found.value == "cannot run from /x, SELinux enforcing: sh: /x/doctor/true: Permission denied"
    assert "noexec" in (found.cure or "")


def test_what_androids_linker_says() -> None:
    refusal = 'CANNOT LINK EXECUTABLE "/x/true": library "libvndksupport.so" not found'
    text = (
        f"ran 0\ncontrol 1 CANNOT LINK\nload /vendor/lib64/libOpenCL.so 1 {refusal}\nload /odm/lib64/libOpenCL.so 139"
    )
    (found,) = doctor.library_findings(text)
    assert (found.name, found.level) == ("OpenCL", "warning")
    assert refusal in found.value
    (found,) = doctor.library_findings(text + "\nload /system/lib64/libOpenCL.so 0")
    assert found == Finding("OpenCL", "ok", "/system/lib64/libOpenCL.so loads")
    silent = "ran 0\ncontrol 0\nload /usr/lib/libOpenCL.so.1 0"  # a static `true` loads nothing
    (found,) = doctor.library_findings(silent)
    assert found.value.endswith("loading was not tried")


def test_memory_is_what_the_parts_of_the_bundle_say(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    weights = sum(s.size for s in bundle.sections if s.model_type in ("prefill_decode", "mtp_drafter"))
    decode = bundle.models["prefill_decode"].signatures["decode"]
    caches = [tensor for name, tensor in decode.inputs.items() if name.startswith("kv_cache")]
    assert caches
    assert {tensor.dtype for tensor in caches} == {"f32"}
    assert needed_bytes(bundle) == weights + 4 * sum(math.prod(t.shape) for t in caches) + (200 << 20)


def test_memory_and_space_at_their_thresholds(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    need, mib = needed_bytes(bundle), 1 << 20

    def memory(total: int, available: int) -> str:
        return doctor.memory_finding({"MemTotal": total, "MemAvailable": available}, bundle).level

    assert memory(10 * need, need) == "ok"
    assert memory(10 * need, need - 1) == "warning"
    assert memory(need + mib, need + mib) == "problem"
    decoder = bundle.section("TFLiteModel", "prefill_decode")
    assert decoder is not None
    assert doctor.space_finding(bundle.size + decoder.size, "/x", bundle).level == "ok"
    assert doctor.space_finding(bundle.size + decoder.size - 1, "/x", bundle).level == "warning"
    assert doctor.space_finding(bundle.size - 1, "/x", bundle).level == "problem"
    assert doctor.space_finding(0, "/x", None).level == "ok"


@pytest.mark.parametrize(("page", "level"), [(4096, "ok"), (16384, "ok"), (32768, "problem"), (None, "ok")])
def test_pages_larger_than_the_alignment(page: int | None, level: str) -> None:
    found = doctor.page_finding(page, {"a": 16384, "b": 65536})
    assert found.level == level
    assert ("b" in found.value) is False


@pytest.mark.parametrize(
    ("status", "level"), [(0, "ok"), (1, "warning"), (2, "warning"), (3, "problem"), (6, "problem")]
)
def test_heat(status: int, level: str) -> None:
    assert doctor.thermal_finding(status, {}).level == level


def test_storage_rates_come_from_the_devices_own_clock() -> None:
    def rates(write_s: float, read_s: float | None) -> Finding:
        text = f"begin 100.00\nwritten {100 + write_s:.2f}\nagain 200.00\n"
        return doctor.storage_finding(text + (f"read {200 + read_s:.2f}" if read_s else "dd: bad flag"))

    mb = doctor.STORAGE_BYTES / 1e6
    assert rates(0.01, 0.01).value == f"writes {mb / 0.01:.0f} MB/s, reads {mb / 0.01:.0f} MB/s"
    assert rates(0.01, 1.0).level == "warning"
    assert rates(1.0, 0.01).level == "warning"
    assert rates(0.01, None).value.endswith("reads not measured")
    assert doctor.storage_finding("").value.startswith("not measured")
    assert doctor.storage_finding("begin 5.00\nwritten 4.00").value.startswith("not measured"), "a clock that went back"


@settings(deadline=None)
@given(st.text(), st.text())
def test_no_answer_breaks_a_finding(text: str, other: str) -> None:
    lines = f"{text}\nload /vendor/lib64/libOpenCL.so {other}\nran {other}"
    findings = of(iter([doctor.folder_finding(lines, "/x", other), doctor.storage_finding(text)]))
    assert len(findings) == 2
    assert of(doctor.library_findings(lines))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown = CliRunner().invoke(main, ["doctor", "--bundle", str(tiny_bundle)])
    assert shown.exit_code == 0, shown.output
    told = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert told["ok"] is True
    assert all(finding["name"] in shown.output for finding in told["findings"])
    (tmp_path / "edge-mtp").rmdir()
    (tmp_path / "edge-mtp").write_text("")
    failed = CliRunner().invoke(main, ["doctor", "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["ok"] is False


def test_a_link_that_breaks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise EdgeMtpError("the cable is out; plug it in")

    monkeypatch.setattr(LocalLink, "run", broken)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr == "Error: the cable is out; plug it in\n"
