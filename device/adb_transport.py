"""adb-shell's transports over TCP and USB, with their faults corrected.

adb-shell 0.4.4 writes to a socket once and drops what did not fit (its issue #205), and takes the end of a connection
for an empty answer. On USB it neither repeats a short write nor marks the end of a transfer that fills its last packet.
Here a read returns all the bytes asked for and a write sends all of its bytes; otherwise they raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

from adb_shell import exceptions
from adb_shell.transport.base_transport import BaseTransport
from adb_shell.transport.tcp_transport import TcpTransport as AdbShellTcp

from edge_mtp.errors import EdgeMtpError

# A peer that acknowledges nothing for this long is gone. Long enough for a phone to change its access point.
LOST_S = 20
STALL_S = 60.0  # for one write to a peer that still acknowledges
UDEV_CURE = "add a udev rule for it (Debian: apt install android-sdk-platform-tools-common)"
LIBUSB_TIMEOUT = -7  # LIBUSB_ERROR_TIMEOUT


class TcpTransport(AdbShellTcp):  # type: ignore[misc]  # adb-shell has no type information
    """One TCP connection. One thread may read while another writes; `close` wakes both."""

    _connection: socket.socket | None

    def connect(self, transport_timeout_s: float | None) -> None:
        try:
            super().connect(transport_timeout_s)
        except UnicodeError as error:  # IDNA cannot encode a name with an empty or overlong part
            raise OSError(errno.EINVAL, "no host can have that name") from error
        connection = self._open_connection()
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Reader and writer both notice after LOST_S when the link vanishes without being closed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", LOST_S // 4),
            ("TCP_KEEPINTVL", LOST_S // 4),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", LOST_S * 1000),
        ):
            if hasattr(socket, option):  # Linux has all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        # settimeout() would make the reader time out too.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(STALL_S), 0))

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytearray:
        """Reads exactly `numbytes` bytes. Raises TimeoutError after `transport_timeout_s` (None: never), or OSError."""
        connection = self._open_connection()
        data = bytearray(numbytes)
        view, end = memoryview(data), None
        if transport_timeout_s is not None:
            end = time.monotonic() + transport_timeout_s
            poll = select.poll()
            poll.register(connection, select.POLLIN)
        while view:
            if end is not None and not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise TimeoutError(f"no answer within {transport_timeout_s:.0f} s")
            count = connection.recv_into(view)
            if count == 0:
                raise ConnectionResetError("the device closed the connection")
            view = view[count:]
        return data

    def bulk_write(self, data: bytes | memoryview, transport_timeout_s: float | None) -> int:
        """Sends all of `data`. Raises OSError, after which the connection cannot be used."""
        self.write_packet(data, ())
        return len(data)

    def write_packet(self, header: bytes | memoryview, parts: Sequence[bytes | memoryview]) -> None:
        """Sends a packet whose data is `parts`, without joining them first. Raises OSError like bulk_write."""
        connection, left = self._open_connection(), [memoryview(part) for part in (header, *parts) if part]
        try:
            while left:
                sent = connection.sendmsg(left)
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]
        except BlockingIOError as error:
            raise TimeoutError(f"took nothing for {STALL_S:.0f} s") from error

    def close(self) -> None:
        connection, self._connection = self._connection, None  # closed once, even if several threads call
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _open_connection(self) -> socket.socket:
        connection = self._connection  # another thread may close it at any time
        if connection is None:
            raise ConnectionAbortedError("closed here")
        return connection


class UsbTransport(BaseTransport):  # type: ignore[misc]
    """One USB connection over adb-shell's. `inner` is adb-shell's UsbTransport, or a test's stand-in."""

    POLL_S = 0.5  # how soon a reader notices that another thread has closed the connection

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._closed = threading.Event()
        self._reading = threading.Lock()  # held while libusb uses the handle that close() frees
        self._packet_bytes = 0

    def connect(self, transport_timeout_s: float | None) -> None:
        try:
            self._inner.connect(transport_timeout_s)
        except Exception as error:  # without libusb, usb1's errors have no common base class
            kind = type(error).__name__
            if kind == "USBErrorBusy":
                raise EdgeMtpError(
                    "the USB device is held by another program, mostly an adb server; stop it with 'adb kill-server'"
                ) from error
            if kind == "USBErrorAccess":
                raise EdgeMtpError(f"no permission to open the USB device; {UDEV_CURE}") from error
            raise ConnectionError(str(error) or kind) from error
        self._packet_bytes = next(
            endpoint.getMaxPacketSize()
            for endpoint in self._inner._setting.iterEndpoints()
            if not endpoint.getAddress() & 0x80  # towards the device
        )

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytearray:
        """Like TcpTransport's. An empty transfer only marks the end of the one before it."""
        data = bytearray()
        end = None if transport_timeout_s is None else time.monotonic() + transport_timeout_s
        while len(data) < numbytes:
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"no answer within {transport_timeout_s:.0f} s")
            with self._reading:
                if self._closed.is_set():
                    raise ConnectionAbortedError("closed here")
                try:
                    data += self._inner.bulk_read(numbytes - len(data), self.POLL_S)
                except exceptions.UsbReadFailedError as error:
                    if getattr(error.usb_error, "value", None) != LIBUSB_TIMEOUT:
                        raise ConnectionResetError("the USB device is gone") from error
                    data += getattr(error.usb_error, "received", b"")  # received before the timeout
        return data

    def bulk_write(self, data: bytes | memoryview, transport_timeout_s: float | None) -> int:
        """Like TcpTransport's. Ends a transfer whose last packet is full with an empty packet, as adb does."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._inner.bulk_write(bytes(view), STALL_S) :]
            if data and len(data) % self._packet_bytes == 0:
                self._inner.bulk_write(b"", STALL_S)
        except exceptions.UsbWriteFailedError as error:
            if getattr(error.usb_error, "value", None) == LIBUSB_TIMEOUT:
                raise TimeoutError(f"took nothing for {STALL_S:.0f} s") from error
            raise ConnectionResetError("the USB device is gone") from error
        return len(data)

    def write_packet(self, header: bytes | memoryview, parts: Sequence[bytes | memoryview]) -> None:
        """Like TcpTransport's. Sends header and data as one transfer each."""
        self.bulk_write(header, STALL_S)
        data = b"".join(parts)
        if data:
            self.bulk_write(data, STALL_S)

    def close(self) -> None:
        self._closed.set()
        with self._reading, contextlib.suppress(Exception):  # unplugged: nothing is left to release
            self._inner.close()


def usb_transport(serial: str) -> UsbTransport:
    """The USB device with this serial. Raises EdgeMtpError when the device or libusb is missing."""
    device = _usb_devices().get(serial)
    if device is not None:
        return UsbTransport(device)
    raise EdgeMtpError(f"no USB device '{serial}' in debugging mode; connect it and allow USB debugging")


def usb_serials() -> list[str]:
    """Serials of the USB devices that offer ADB. Raises EdgeMtpError without libusb or the permission to ask."""
    return sorted(_usb_devices())


def _usb_devices() -> dict[str, Any]:
    try:
        from adb_shell.transport.usb_transport import UsbTransport as AdbShellUsb
    except (ImportError, OSError) as error:
        raise EdgeMtpError(
            "USB needs libusb: pip install 'edge-mtp[usb]', or start an adb server, which is used where one runs"
        ) from error
    found, refused = {}, 0
    for device in AdbShellUsb.find_all_adb_devices():
        try:
            found[device.serial_number] = device
        except Exception:  # usb1's errors, as above
            refused += 1
    if refused and not found:
        raise EdgeMtpError(f"no permission to open {refused} USB device(s) in debugging mode; {UDEV_CURE}")
    return found
