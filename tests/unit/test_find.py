"""Names of devices: what each means, and what is said where it means nothing, or too much."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from fake_android import OLD, PIXEL, FakeAndroid, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mtp.device import adb_server, adb_transport, find, find_device
from edge_mtp.device.adb_server import Held
from edge_mtp.device.find import Candidate, candidates, find_link, parse_address
from edge_mtp.device.host import HostDevice
from edge_mtp.device.link import Link
from edge_mtp.errors import EdgeMtpError


class Bench:
    """A table with devices on it: `server` holds some, `usb` others."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.server: list[Held] = []
        self.usb: list[str] = []
        self.kinds: dict[str, Recorded] = {}
        self.listening: set[int] = set()
        self.opened: list[tuple[str, str]] = []
        self._folder = folder
        patch.setattr(adb_server, "held_devices", lambda: self.server)
        patch.setattr(adb_transport, "usb_serials", lambda: self.usb)
        patch.setattr(find, "_listens", lambda port: port in self.listening)
        patch.setattr(Candidate, "open", lambda candidate, notice: self._open(candidate))

    def _open(self, candidate: Candidate) -> Link:
        if candidate.trouble is not None:
            raise EdgeMtpError(f"{candidate.name} is {candidate.trouble}")
        self.opened.append((candidate.name, candidate.way))
        root = self._folder / f"{len(self.opened)}"
        return FakeAndroid(root, self.kinds.get(candidate.name, OLD), candidate.name)

    def says(self, name: str) -> str:
        with pytest.raises(EdgeMtpError) as caught:
            find_link(name, lambda line: None)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def finds(self, name: str) -> tuple[str, str]:
        link = find_link(name, lambda line: None)
        return next(each for each in reversed(self.opened) if each[0] == link.name)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_host() -> None:
    assert isinstance(find_device("host"), HostDevice)


def test_a_serial_by_whoever_holds_it(bench: Bench) -> None:
    bench.server, bench.usb = [Held("A1", "device")], ["A1", "B2"]
    assert bench.finds("A1") == ("A1", "adb server"), "a running server keeps others from the USB device"
    assert bench.finds("B2") == ("B2", "USB")


def test_pixel_is_the_one_pixel(bench: Bench) -> None:
    bench.server = [Held("A1", "device"), Held("B2", "device"), Held("C3", "offline")]
    bench.kinds = {"B2": PIXEL}
    assert bench.finds("pixel") == ("B2", "adb server")


def test_two_pixels_or_none_are_listed(bench: Bench) -> None:
    assert "no pixel is reachable; connect one" in bench.says("pixel")
    assert bench.says("pixel").endswith("reachable now: host")
    bench.server = [Held("A1", "device"), Held("B2", "device")]
    assert "no pixel" in bench.says("pixel")
    assert "host, A1, B2" in bench.says("pixel")
    bench.kinds = {"A1": PIXEL, "B2": PIXEL}
    assert bench.says("pixel") == "'pixel' could be any of A1, B2; give --device one of these"


def test_the_only_device_that_does_not_answer_may_be_the_pixel(bench: Bench) -> None:
    bench.server = [Held("A1", "unauthorized")]
    assert bench.says("pixel").startswith("A1 is unauthorized: ")
    assert "Allow USB debugging" in bench.says("pixel")


def test_emulators(bench: Bench) -> None:
    assert "no emulator is reachable; start one" in bench.says("emulator")
    bench.listening = {5557}
    assert bench.finds("emulator") == ("emulator-5556", "TCP")
    bench.server = [Held("emulator-5554", "device")]
    assert "emulator-5554, emulator-5556" in bench.says("emulator")
    assert bench.finds("emulator-5554") == ("emulator-5554", "adb server")


@pytest.mark.parametrize("state", [*adb_server.STATES, "recovery", "host", "\x1b[31mbroken"])
def test_every_state_has_its_cure(bench: Bench, state: str) -> None:
    bench.server = [Held("A1", state)]
    said = bench.says("A1")
    assert said.isprintable()
    assert said.startswith("A1 is ")
    assert len(said.partition(": ")[2]) > 20


def test_an_address_goes_through_the_server_that_has_it(bench: Bench) -> None:
    bench.server = [Held("10.0.0.5:5555", "device"), Held("10.0.0.6:5555", "offline")]
    assert bench.finds("10.0.0.5:5555") == ("10.0.0.5:5555", "adb server")
    assert bench.finds("10.0.0.6:5555") == ("10.0.0.6:5555", "TCP"), "what the server lost may still answer"
    assert bench.finds("[fe80::1%eth0]:5555")[1] == "TCP"


def test_an_unknown_name_lists_what_there_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_libusb() -> list[str]:
        raise EdgeMtpError("USB needs libusb: pip install it")

    monkeypatch.setattr(adb_transport, "usb_serials", without_libusb)
    bench.server = [Held("A1", "device"), Held("B2", "unauthorized")]
    said = bench.says("toaster\x1b[31m")
    assert said.startswith("unknown device 'toaster [31m'; use host, pixel, emulator, SERIAL")
    assert "reachable now: host, A1, B2 (unauthorized) (not looked at: USB needs libusb: pip install it)" in said


def test_a_server_that_is_none_does_not_hide_the_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd() -> list[Held]:
        raise EdgeMtpError("the adb server does not answer as one")

    monkeypatch.setattr(adb_server, "held_devices", odd)
    bench.usb = ["B2"]
    found, unseen = candidates()
    assert [candidate.name for candidate in found] == ["B2"]
    assert unseen == ["the adb server does not answer as one"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("10.0.0.5:5555", ("10.0.0.5", 5555)),
        ("farm.example-1.org:41234", ("farm.example-1.org", 41234)),
        ("[::1]:5555", ("::1", 5555)),
        ("host", None),
        ("R5CT:0", None),
        ("a:65536", None),
        ("::1:5555", None),
        (":5555", None),
        ("a b:5", None),
        ("ssh://a:22", None),
        ("a:\N{ARABIC-INDIC DIGIT FIVE}", None),
    ],
)
def test_addresses(name: str, address: tuple[str, int] | None) -> None:
    assert parse_address(name) == address


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_name_is_misread_as_an_address(name: str) -> None:
    address = parse_address(name)
    if address is not None:
        host, port = address
        assert 0 < port < 65536
        assert name in (f"{host}:{name.rpartition(':')[2]}", f"[{host}]:{name.rpartition(':')[2]}")
        assert not set(host) & set(" \t\n/[]")


@pytest.mark.parametrize(
    "name",
    ["ssh://", "ssh://-oProxyCommand=touch x", "ssh://-a@b", "ssh://a:secret@b", "ssh://a@b/path", "ssh://a@b?x", "http://a",
     "ssh://a@b:port", "ssh://a@[::1", "ssh://a b"],
)  # fmt: skip
def test_what_is_no_board_is_not_given_to_ssh(name: str) -> None:
    with pytest.raises(EdgeMtpError, match="is no address of a board; use ssh://user@board"):
        find_device(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ssh://me@board", ("me@board", None)),
        ("ssh://me@board:2222", ("me@board", 2222)),
        ("ssh://board.local", ("board.local", None)),
        ("ssh://MyBoard/", ("MyBoard", None)),
        ("ssh://me@[fe80::1%eth0]:22", ("me@fe80::1%eth0", 22)),
    ],
)
def test_boards(name: str, wanted: tuple[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mtp.device import ssh_link

    given: list[object] = []
    monkeypatch.setattr(ssh_link, "SshLink", lambda destination, port=None: given.append((destination, port)))
    find_link(name, lambda line: None)
    assert given == [wanted]


def test_an_emulator_is_looked_for_where_it_would_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert find._listens(port)
    assert not find._listens(port)


@pytest.mark.parametrize("name", ["a..b:5555", f"{'a' * 70}.example:5555", "\udcff:5555", ".:1"])
def test_a_name_that_no_host_can_have_is_one_line(name: str) -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot connect to"):
        find_link(name, lambda line: None)
