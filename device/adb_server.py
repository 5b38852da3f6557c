"""An Android device reached through a running adb server: on a cable, paired for wireless debugging, or an emulator.

This module never starts a server.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Any

import adbutils

from edge_mtp.device.adb_transport import STALL_S, UDEV_CURE
from edge_mtp.device.shell_v2 import ShellLink
from edge_mtp.device.stream import Stream
from edge_mtp.errors import EdgeMtpError

STATES = {
    "unauthorized": "it does not know this machine; unlock it and accept 'Allow USB debugging?'",
    "authorizing": "it waits for an answer; unlock it and accept 'Allow USB debugging?'",
    "offline": "it does not answer; reconnect it, or run 'adb reconnect offline'",
    "no permissions": f"this user may not open it; {UDEV_CURE}",
}


class _Connection(adbutils.AdbConnection):  # type: ignore[misc]
    """adbutils' connection, except that it does not start a server where none answers."""

    def _safe_connect(self) -> socket.socket:
        connection: socket.socket = self._create_socket()
        return connection


class _Client(adbutils.AdbClient):  # type: ignore[misc]
    def make_connection(self, timeout: float | None = None) -> _Connection:
        connection = _Connection(self.host, self.port)
        connection.conn.settimeout(timeout or 10)
        return connection


@dataclass(frozen=True)
class Held:
    """A device that the server knows. `state` is `device` when it can be used."""

    serial: str
    state: str


def held_devices() -> list[Held]:
    """The devices that a running adb server lists; empty when no server runs. `ANDROID_ADB_SERVER_HOST` and `_PORT`
    mean the same as for adb. Raises EdgeMtpError when something other than an adb server answers."""
    client = _Client()
    try:
        with client.make_connection() as connection:
            connection.send_command("host:devices")
            connection.check_okay()
            text = connection.read_string_block()
    except adbutils.errors.AdbConnectionError:
        return []
    except (adbutils.AdbError, OSError, ValueError) as error:
        raise EdgeMtpError(_at(client, f"does not answer as one: {error}")) from error
    lines = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
    # adb appends an explanation to `no permissions`.
    return [
        Held(serial, state if state in STATES else state.partition(" (")[0].partition(";")[0])
        for serial, state in lines
    ]


class AdbServerLink(ShellLink):
    """A device by its serial. Raises EdgeMtpError when no server runs, or the server does not list the device."""

    def __init__(self, serial: str) -> None:
        self.name = serial
        self._client: Any = _Client()
        held = {device.serial: device.state for device in held_devices()}
        if serial not in held:
            known = ", ".join(sorted(held)) or "none"
            raise EdgeMtpError(
                f"the adb server holds no device '{serial}' (it holds: {known}); run 'adb connect' or plug it in"
            )
        if held[serial] != "device":
            raise EdgeMtpError(f"{serial} is {held[serial]}: {STATES.get(held[serial], 'bring it up and try again')}")

    def _open(self, service: str) -> Stream:
        try:
            # The server and adb's own client exchange data in pieces of 64 KiB.
            connection = self._client.device(serial=self.name).open_transport()
            connection.send_command(service)
            connection.check_okay()
        except (adbutils.AdbError, OSError, ValueError) as error:
            raise EdgeMtpError(f"{self.name} through the adb server: {error}; reconnect it") from error
        return ServerStream(connection, self.name)

    def close(self) -> None:
        """Does nothing: each stream holds its own connection."""


class ServerStream(Stream):
    """A service of the device, over a socket of the server."""

    chunk_bytes = 1 << 20

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name
        self._socket: socket.socket = connection.conn
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(STALL_S), 0))

    def read(self) -> bytes:
        try:
            return self._socket.recv(1 << 18)
        except OSError as error:
            if self._socket.fileno() < 0:
                return b""
            raise EdgeMtpError(f"the adb server let go of {self._name}: {error.strerror}; reconnect it") from error

    def write(self, head: bytes, body: bytes | memoryview = b"") -> None:
        try:
            self._socket.sendall(head)
            self._socket.sendall(body)
        except BlockingIOError as error:
            raise EdgeMtpError(
                f"{self._name} took nothing for {STALL_S:.0f} s; look at the device and try again"
            ) from error
        except OSError as error:
            raise BrokenPipeError(str(error)) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _at(client: Any, what: str) -> str:
    return f"the adb server at {client.host}:{client.port} {what}; run 'adb kill-server' and 'adb start-server'"
