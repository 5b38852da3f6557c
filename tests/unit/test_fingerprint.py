"""What devices say of themselves, by recorded shells of several kinds and by this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_android import BARE, BOARD, OLD, PIXEL, FakeAndroid, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.device import Fingerprint, HostDevice
from edge_mtp.device import fingerprint as module
from edge_mtp.device.fingerprint import parse_battery, parse_fingerprint, parse_free, parse_meminfo, read_fingerprint
from edge_mtp.device.link import Completed
from edge_mtp.device.local_link import LocalLink
from edge_mtp.device.survey import ask, printable
from edge_mtp.errors import EdgeMtpError

FOLDER = "/data/local/tmp/edge-mtp"
TMP = {"/data/local/tmp/.keep": ""}


def recorded(root: Path, phone: Recorded, folder: str = FOLDER) -> Fingerprint:
    files = {**phone.files, **(TMP if phone in (PIXEL, OLD) else {})}
    link = FakeAndroid(root, Recorded(phone.properties, files, moved(phone, root)))
    made = read_fingerprint(link, folder)
    assert len(link.runs) == 1, "one round trip"
    return made


def moved(phone: Recorded, root: Path) -> dict[str, str]:
    """The commands, with the paths in them where the folder has them."""
    return {words.replace("/data/", f"{root}/data/"): text for words, text in phone.commands.items()}


def test_a_pixel(tmp_path: Path) -> None:
    assert recorded(tmp_path, PIXEL) == Fingerprint(
        name="FAKE1",
        kind="android",
        model="Google Pixel 8",
        soc="Google Tensor G3",
        system="Android 16 (google/shiba/shiba:16/BP2A.250605.031/1:user/release-keys)",
        abi="arm64-v8a",
        cores=9,
        memory_bytes=7820000 * 1024,
        free_bytes=52_000_000 * 1024,
        battery_percent=76,
        accelerators=["OpenCL", "Google Tensor NPU"],
    )


def test_an_older_phone_tells_less_and_nothing_is_made_up(tmp_path: Path) -> None:
    assert recorded(tmp_path, OLD) == Fingerprint(
        name="FAKE1",
        kind="android",
        model="Xiaomi MI 9",
        soc="msmnile",
        system="Android 9",
        abi="arm64-v8a",
        cores=8,
        memory_bytes=5700000 * 1024,
        free_bytes=900_000 * 1024,
        battery_percent=12,
        accelerators=["OpenCL", "Qualcomm NPU"],
    )


def test_a_board_whose_system_is_32_bit(tmp_path: Path) -> None:
    assert recorded(tmp_path, BOARD, "/nowhere/edge-mtp") == Fingerprint(
        name="FAKE1",
        kind="linux",
        model="Raspberry Pi 5 Model B Rev 1.0",
        soc="brcm,bcm2712",
        system="Debian GNU/Linux 12 (bookworm), Linux 6.6.31-rpi",
        abi="armhf",
        cores=4,
        memory_bytes=8245000 * 1024,
        free_bytes=4_000_000 * 1024,
        battery_percent=None,
    )


def test_a_shell_that_knows_nothing_is_all_unknown(tmp_path: Path) -> None:
    assert recorded(tmp_path, BARE) == Fingerprint(name="FAKE1", kind="linux")


def test_this_machine_against_what_python_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not there yet"))
    told = HostDevice().fingerprint()
    assert (told.name, told.kind, told.abi) == ("host", "host", platform.machine())
    assert told.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(tmp_path).free
    assert told.free_bytes is not None
    assert abs(told.free_bytes - free) < 0.2 * free + (1 << 30)
    assert told.system is not None
    assert platform.release() in told.system
    assert told.cores is not None
    assert told.cores >= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh", "mksh"])
def test_the_questions_are_plain_sh(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"no {shell} here")

    class Other(LocalLink):
        def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
            assert isinstance(command, str)
            done = subprocess.run([*shell.split(), "-c", command], capture_output=True, timeout=timeout_s)
            return Completed(done.returncode, done.stdout, done.stderr)

    one, other = (read_fingerprint(link, str(tmp_path)) for link in (LocalLink(), Other()))
    assert (one.system, one.memory_bytes, one.cores) == (other.system, other.memory_bytes, other.cores)


@pytest.mark.parametrize("name", ["a b", "it's", "$(touch ran)", "`touch ran`", "a\nb", '";touch ran;"', "-x", "*"])
def test_no_folder_is_run_as_a_command(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for folder in (tmp_path / name, tmp_path / name / "deeper" / "still"):
        assert read_fingerprint(LocalLink(), str(folder)).free_bytes is not None
    assert [each.name for each in tmp_path.iterdir()] == [name]


ANSWERS = tuple(module._questions("/x"))
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            ["level: ", "scale: 0", "=", ":", "ro.product.cpu.abi=", "MemTotal: ", "9" * 30, "-", "%", " /", "0-", ",",
             "\n", "/sys/a/type:Battery", "/sys/a/capacity:", "processor\t:", "present: false", "\x1b[2J", "٣", "x86"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(ANSWERS), TEXTS))
def test_no_answer_breaks_the_parser_or_the_terminal(answers: dict[str, str]) -> None:
    told = parse_fingerprint("x", answers)
    for text in (told.model, told.soc, told.system, told.abi):
        assert text is None or (text == printable(text) and 0 < len(text) <= 200)
    assert told.battery_percent is None or 0 <= told.battery_percent <= 100
    for number in (told.cores, told.memory_bytes, told.free_bytes):
        assert number is None or number >= 0


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_meminfo_round_trips(total: int, available: int) -> None:
    text = f"MemTotal:       {total} kB\nHugePages_Total:       0\nMemAvailable: {available} kB\n"
    assert parse_meminfo(text) == {"MemTotal": total << 10, "MemAvailable": available << 10}


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 100 20 80 20% /data", 80 << 10),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\na very long name 100 20 80 20% /mnt/a b", 80 << 10),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 100 120 -20 120% /", 0),  # the reserve is in use
        ("Filesystem Size Used Free Blksize\n/data 12G 4G 8G 4096", None),  # Android 5
        ("df: not found", None),
        ("", None),
    ],
)
def test_free_space(text: str, free: int | None) -> None:
    assert parse_free(text) == free


@pytest.mark.parametrize(
    ("dump", "percent", "charging", "volts"),
    [
        ("  level: 50\n  scale: 200\n  status: 2\n  voltage: 4100", 25, True, 4.1),
        ("  present: false\n  level: 50\n  status: 2", None, None, None),  # a TV box
        ("  level: 150\n  scale: 100\n  status: 9\n  voltage: 4", None, None, None),
        ("  level: 5\n  scale: 0", None, None, None),
        ("Can't find service: battery", None, None, None),
    ],
)
def test_batteries(dump: str, percent: int | None, charging: bool | None, volts: float | None) -> None:
    battery = parse_battery(dump)
    assert (battery.percent, battery.charging, battery.voltage_v) == (percent, charging, volts)


def test_what_is_no_shell_is_one_line() -> None:
    class Menu(LocalLink):
        name = "router"

        def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
            return Completed(0, b"Welcome!\n1) Status\x1b[5m\n2) Quit\n", b"")

    with pytest.raises(EdgeMtpError, match=r"router: its shell does not answer \(Welcome! 1\) Status") as caught:
        ask(Menu(), {"a": "true"})
    assert str(caught.value).isprintable()


def test_a_question_can_neither_end_nor_disturb_the_others() -> None:
    questions = {
        "exit": "exit 3",
        "stdin": "cat",
        "error": "echo no >&2",
        "cut": "printf 'no end'",
        "last": "echo 'a\n\nb'",
    }
    assert ask(LocalLink(), questions) == {"cut": "no end", "last": "a\n\nb"}
