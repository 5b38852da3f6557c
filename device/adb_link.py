"""An Android device, spoken to directly over TCP or USB."""

from __future__ import annotations

from collections.abc import Callable

from edge_mtp.device.adb_connection import AdbConnection
from edge_mtp.device.adb_keys import keys
from edge_mtp.device.adb_transport import TcpTransport, UsbTransport, usb_transport
from edge_mtp.device.shell_v2 import ShellLink
from edge_mtp.device.stream import Stream

PORT = 5555  # where adbd listens after `adb tcpip` by custom


class AdbLink(ShellLink):
    """An open connection to a device's adbd. `notice` is called with one line that tells a person what it waits for."""

    def __init__(self, transport: TcpTransport | UsbTransport, name: str, notice: Callable[[str], None]) -> None:
        self.name = name
        self._connection = AdbConnection(transport, name, keys, notice)

    @classmethod
    def over_tcp(cls, host: str, port: int, notice: Callable[[str], None]) -> AdbLink:
        """Connects to the device at an address. Raises EdgeMtpError."""
        return cls(TcpTransport(host, port), f"{host}:{port}", notice)

    @classmethod
    def over_usb(cls, serial: str, notice: Callable[[str], None]) -> AdbLink:
        """Connects to the device on a USB cable (`usb_serials()` lists them). Raises EdgeMtpError."""
        return cls(usb_transport(serial), serial, notice)

    def _open(self, service: str) -> Stream:
        return self._connection.open(service)

    def close(self) -> None:
        self._connection.close()
