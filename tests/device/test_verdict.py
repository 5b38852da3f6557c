"""The trial of an accelerator, as a device's link tells of it: on this machine, and on a device."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_adbd import FakeAdbd
from hypothesis import given
from hypothesis import strategies as st
from remote_device import device_on
from waiting import ends

from edge_mtp.device import remote, verdict
from edge_mtp.device.adb_link import AdbLink
from edge_mtp.device.binaries import Binaries
from edge_mtp.device.doctor import Finding, trial_finding
from edge_mtp.device.link import Link
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.verdict import Verdict, judge
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import Accelerator


@pytest.fixture(params=["here", "device"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    if request.param == "here":
        yield LocalLink()
        return
    device = FakeAdbd()
    with AdbLink.over_tcp(device.host, device.port, pytest.fail) as link:
        yield link
    device.close()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo noise; echo faster 1.25 1 2 3", Verdict(1.25)),
        ("echo faster 0.00641", Verdict(0.00641)),
        ("echo faster 1e-05 1", Verdict(1e-05)),
        ("echo 'wrong the logits of decode are not finite'", Verdict(None, "the logits of decode are not finite")),
        ("echo faster 2; kill -SEGV $$", Verdict(None, "it crashed (signal 11, SIGSEGV)")),
        ("echo no driver >&2; kill -ABRT $$", Verdict(None, "it crashed (signal 6, SIGABRT): no driver")),
        ("echo a >&2; exit 3", Verdict(None, "it ended with exit code 3: a")),
        ("cat", Verdict(None, "its trial told nothing")),
        ("echo faster than light", Verdict(None, "its trial told nothing")),
    ],
)
def test_what_a_trial_tells(link: Link, script: str, expected: Verdict) -> None:
    assert judge(link.spawn(["sh", "-c", script], {})) == expected


def test_a_trial_that_hangs_is_ended(link: Link) -> None:
    process = link.spawn(["sleep", "300"], {})
    began = time.monotonic()
    assert judge(process, 0.5) == Verdict(None, "it took more than 0 s")
    assert time.monotonic() - began < 60
    assert ends(process.pid)


@given(st.text(), st.integers(-64, 255), st.text())
def test_nothing_that_a_device_says_breaks_it(output: str, code: int, errors: str) -> None:
    told = verdict._verdict(output, code, errors)
    assert (told.faster is None) == bool(told.fault)
    assert told.fault.isprintable()


def test_a_device_gets_the_files_and_the_flags(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner is a script, which a device cannot tell from one."""
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)
    runner, skel = tmp_path / "scripted", tmp_path / "libQnnHtpV79Skel.so"
    runner.write_text(
        '#!/bin/sh\ntest -e "${ADSP_LIBRARY_PATH%%;*}/libQnnHtpV79Skel.so" && test -e "$2" || exit 4\n'
        'echo "$LD_LIBRARY_PATH $*" > "$0.told"; echo faster 2\n'
    )
    skel.write_bytes(b"skel")
    files = {remote.RUNNER: runner, remote.LITERT: runner, skel.name: skel}
    device = device_on(LocalLink(), tmp_path, lambda told: Binaries(files, "a-digest"))
    assert judge(device.start_trial(tiny_bundle, "npu")) == Verdict(2.0)
    home = f"{tmp_path}/edge mtp's/bin/a-digest"
    told = Path(f"{home}/{remote.RUNNER}.told").read_text()
    assert told.startswith(f"{home} --bundle ")
    assert told.endswith("--try npu\n")
    assert {path.name for path in Path(home).iterdir()} >= set(files), "all in one folder"
    assert all(os.access(f"{home}/{name}", os.X_OK) for name in files)


def test_a_trial_at_work_is_no_leftover(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "read_machine", lambda path: 62)
    runner = tmp_path / "scripted"
    runner.write_text("#!/bin/sh\nread line; echo faster 2\n")
    device = device_on(
        LocalLink(), tmp_path, lambda told: Binaries({remote.RUNNER: runner, remote.LITERT: runner}, "x")
    )
    first = device.start_trial(tiny_bundle, "gpu")
    second = device.start_trial(tiny_bundle, "gpu")
    assert judge(second) == Verdict(2.0)
    assert judge(first) == Verdict(2.0)


def test_a_link_that_breaks_is_no_verdict() -> None:
    device = FakeAdbd()
    link = AdbLink.over_tcp(device.host, device.port, pytest.fail)
    process = link.spawn(["sleep", "300"], {})
    link.close()
    with pytest.raises(EdgeMtpError, match=r"the link to .* broke"):
        judge(process)
    device.close()


@pytest.mark.parametrize(
    ("accelerator", "told", "level", "words"),
    [
        ("gpu", Verdict(2.345), "ok", "right, at 2.35 times the CPU's speed: use it"),
        ("gpu", Verdict(0.34), "ok", "right, at 0.34 times the CPU's speed: stay on the CPU"),
        ("gpu", Verdict(None, "it crashed (signal 11, SIGSEGV)"), "warning", "out: it crashed"),
        ("npu", Verdict(None, "the logits of decode are not finite"), "warning", "out: the logits of decode"),
        (
            "npu",
            Verdict(None, "LiteRT cannot run this bundle's graphs on the npu (status 504)"),
            "warning",
            "out: LiteRT cannot run this bundle's graphs on the npu (status 504)",
        ),
    ],
)
def test_what_doctor_says(accelerator: Accelerator, told: Verdict, level: str, words: str) -> None:
    found = trial_finding(accelerator, told)
    assert (found.name, found.level) == (accelerator, level)
    assert found.value.startswith(words)
    assert (found.cure is None) == (level == "ok")
    if "status" in words:
        assert "--library" in (found.cure or "")
    assert isinstance(found, Finding)
