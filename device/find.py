"""Lists the devices within reach, and resolves a name to one of them."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_mtp.device.device import Device
from edge_mtp.device.host import HostDevice
from edge_mtp.device.link import Link
from edge_mtp.device.survey import printable
from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.device.put import TransferProgress

NAMES = "host, pixel, emulator, SERIAL, HOST:PORT or ssh://user@board"

# adb's convention: an emulator's console has an even port, which its serial names; its adbd listens on the next port.
_EMULATOR_PORTS = range(5555, 5586, 2)

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A device that the user can ask for by `name`. `way` is how it is reached; `trouble` is why it cannot be used, and
    the remedy.
    """

    name: str
    way: str  # adb server, USB, TCP
    trouble: str | None = None
    address: tuple[str, int] | None = None  # host and port, for TCP

    def open(self, notice: Notice) -> Link:
        """Opens a link to it. Raises EdgeMtpError."""
        if self.trouble is not None:
            raise EdgeMtpError(f"{self.name} is {self.trouble}")
        if self.address is not None:
            from edge_mtp.device.adb_link import AdbLink

            return AdbLink.over_tcp(*self.address, notice)
        if self.way == "USB":
            from edge_mtp.device.adb_link import AdbLink

            return AdbLink.over_usb(self.name, notice)
        from edge_mtp.device.adb_server import AdbServerLink

        return AdbServerLink(self.name)


def find_device(name: str, *, notice: Notice | None = None, report: TransferProgress | None = None) -> Device:
    """The device that `name` means: one of `NAMES`.

    `pixel` is the one connected Pixel, `emulator` the one running emulator. `notice` is called with a line for a person
    when a device waits for something while connecting, and `report` with the progress of slow steps. Raises
    EdgeMtpError for a name that matches no device or several.
    """
    if name == HostDevice.name:
        return HostDevice()
    from edge_mtp.device.remote import RemoteDevice, silent

    return RemoteDevice(find_link(name, notice or _unheard), report=report or silent)


def _unheard(line: str) -> None:
    """A Notice that discards its line."""


def find_link(name: str, notice: Notice) -> Link:
    """Like `find_device`, for a device other than the host."""
    if "://" in name:
        return _ssh(name)
    address = parse_address(name)
    found, unseen = candidates()
    named = {candidate.name: candidate for candidate in found}
    if name in named and (address is None or named[name].trouble is None):
        return named[name].open(notice)
    if address is not None:
        return Candidate(name, "TCP", address=address).open(notice)
    if name == "emulator":
        emulators = [candidate for candidate in found if candidate.name.startswith("emulator-")]
        return _the_one(name, emulators, found, unseen).open(notice)
    if name == "pixel":
        return _the_one(name, _pixels(found, notice), found, unseen).open(notice)
    raise EdgeMtpError(f"unknown device '{printable(name)}'; use {NAMES}; {_reachable(found, unseen)}")


def candidates() -> tuple[list[Candidate], list[str]]:
    """The ADB devices within reach: those of a running adb server, on USB, and emulators on this machine. The second
    list has one line for each place that could not be searched, with the remedy.

    A running server claims the devices on USB, so its list comes first.
    """
    from edge_mtp.device.adb_server import STATES, held_devices
    from edge_mtp.device.adb_transport import usb_serials

    found: dict[str, Candidate] = {}
    unseen: list[str] = []
    try:
        for held in held_devices():
            trouble = None
            if held.state != "device":
                trouble = f"{printable(held.state)}: {STATES.get(held.state, 'boot it into Android and try again')}"
            found[held.serial] = Candidate(held.serial, "adb server", trouble)
    except EdgeMtpError as error:
        unseen.append(str(error))
    try:
        for serial in usb_serials():
            found.setdefault(serial, Candidate(serial, "USB"))
    except EdgeMtpError as error:
        unseen.append(str(error))
    for port in _EMULATOR_PORTS:
        serial = f"emulator-{port - 1}"
        if serial not in found and _listens(port):
            found[serial] = Candidate(serial, "TCP", address=("127.0.0.1", port))
    return sorted(found.values(), key=lambda candidate: candidate.name), unseen


def parse_address(name: str) -> tuple[str, int] | None:
    """(host, port) of `host:port` or `[v6]:port`; None for any other text."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})", name, re.A)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        return None
    return match[1] or match[2], int(match[3])


def _ssh(name: str) -> Link:
    # Not urlsplit: it lowercases hosts, and an alias in ssh's configuration may have capitals. ssh would take a word
    # that begins with a dash for an option.
    word = r"(?!-)[\w.%-]+"
    match = re.fullmatch(rf"ssh://((?:{word}@)?)(?:({word})|\[([0-9a-fA-F:.%\w]+)\])(?::(\d{{1,5}}))?/?", name, re.A)
    if match is None:
        raise EdgeMtpError(
            f"'{printable(name)}' is no address of a board; use ssh://user@board or ssh://user@board:port"
        )
    from edge_mtp.device.ssh_link import SshLink

    return SshLink(match[1] + (match[2] or match[3]), int(match[4]) if match[4] else None)


def _the_one(kind: str, matching: Sequence[Candidate], found: Sequence[Candidate], unseen: Sequence[str]) -> Candidate:
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(candidate.name for candidate in matching)
        raise EdgeMtpError(f"'{kind}' could be any of {names}; give --device one of these")
    cure = "start one" if kind == "emulator" else "connect one and allow USB debugging"
    raise EdgeMtpError(f"no {kind} is reachable; {cure}; {_reachable(found, unseen)}")


def _reachable(found: Sequence[Candidate], unseen: Sequence[str]) -> str:
    listed = [f"{c.name} ({c.trouble.partition(':')[0]})" if c.trouble else c.name for c in found]
    text = f"reachable now: {', '.join(['host', *listed])}"
    return text + (f" (not looked at: {'; '.join(unseen)})" if unseen else "")


def _pixels(found: Iterable[Candidate], notice: Notice) -> list[Candidate]:
    """The devices that report to be a Pixel. If there is none, the one device that could not be asked (for example one
    that is not authorized yet), so that the user sees what is wrong with it."""
    asked = [candidate for candidate in found if not candidate.name.startswith("emulator-")]

    def is_pixel(candidate: Candidate) -> bool | None:
        with contextlib.suppress(EdgeMtpError), candidate.open(notice) as link:
            model = link.run(["getprop", "ro.product.model"], timeout_s=10).output
            return model.strip().lower().startswith(b"pixel")
        return None

    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(asked, pool.map(is_pixel, asked), strict=True))
    pixels = [candidate for candidate, answer in answers.items() if answer]
    silent = [candidate for candidate, answer in answers.items() if answer is None]
    return pixels or (silent if len(silent) == 1 else [])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
