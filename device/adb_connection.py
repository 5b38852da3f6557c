"""A connection to a device's adbd: its handshake, and any number of streams over it.

The protocol is AOSP's (packages/modules/adb: protocol.txt, docs/dev/delayed_ack.md). adb-shell's own AdbDevice holds
one lock while it waits for a packet, so no stream can be written while another is read, and it sends one packet at a
time. Here one thread reads for all streams. Devices that offer delayed acknowledgements (Android 14) are sent many
packets without waiting for each acknowledgement, which a link with a long round trip needs.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from adb_shell import constants

from edge_mtp.device.adb_keys import Key
from edge_mtp.device.adb_transport import STALL_S, TcpTransport, UsbTransport
from edge_mtp.device.stream import Stream
from edge_mtp.errors import EdgeMtpError

VERSION = 0x01000001  # the first whose packets need no checksum
MAX_PACKET_BYTES = 1 << 20  # MAX_PAYLOAD of current devices; an older device announces less
WINDOW_BYTES = 4 << 20  # how far a device with delayed acknowledgements may run ahead of our reading
CONNECT_S = 10.0
AUTHORIZE_S = 60.0  # for a person to find the phone and its dialogue

HEADER = struct.Struct("<6I")  # command, arg0, arg1, bytes of data, their sum, command xor 0xffffffff
AUTH, CLSE, CNXN, OKAY, OPEN, WRTE = (
    constants.ID_TO_WIRE[name]
    for name in (constants.AUTH, constants.CLSE, constants.CNXN, constants.OKAY, constants.OPEN, constants.WRTE)
)
STLS = int.from_bytes(b"STLS", "little")  # adb-shell does not know it: "go on with TLS"
SYNC = constants.ID_TO_WIRE[constants.SYNC]
COMMANDS = frozenset((AUTH, CLSE, CNXN, OKAY, OPEN, WRTE, STLS, SYNC))


class NonsenseError(Exception):
    """The device sent bytes that do not follow the protocol."""


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The sum of all bytes. Devices before Android 9 require it with every packet."""
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint64)) & 0xFFFFFFFF


class AdbConnection:
    """An open connection. Raises EdgeMtpError when the device is out of reach, refuses, or speaks another protocol.

    `keys` may be empty. `notice` is called with one line for a person that says what the device waits for.
    """

    def __init__(
        self,
        transport: TcpTransport | UsbTransport,
        name: str,
        keys: Callable[[], Sequence[Key]],
        notice: Callable[[str], None],
        *,
        authorize_s: float = AUTHORIZE_S,
    ) -> None:
        self.name = name
        self._transport = transport
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._streams: dict[int, AdbStream] = {}
        self._ids = 0
        self._lost: str | None = None
        self._checked = True  # until both sides are known to need no checksum
        self._packet_bytes = 4096  # until the handshake settles it
        try:
            transport.connect(CONNECT_S)
            banner = self._handshake(keys, notice, authorize_s)
        except TimeoutError as error:
            transport.close()
            raise EdgeMtpError(
                f"{name} does not answer within {CONNECT_S:.0f} s; is it on, reachable, and debugging allowed?"
            ) from error
        except OSError as error:
            transport.close()
            raise EdgeMtpError(
                f"cannot connect to {name}: {error.strerror or error}; check the address and that debugging is on"
            ) from error
        except NonsenseError as error:
            transport.close()
            raise EdgeMtpError(f"{name} does not speak ADB ({error}); check the address and the port") from error
        except BaseException:
            transport.close()
            raise
        self.features = frozenset(banner.partition("features=")[2].split(";")[0].rstrip("\0").split(","))
        self.has_delayed_acks = "delayed_ack" in self.features
        self._reader = threading.Thread(target=self._read, name=f"adb {name}", daemon=True)
        self._reader.start()

    def open(self, service: str) -> AdbStream:
        """A stream to a service, e.g. `shell,v2,raw:ls`. Raises EdgeMtpError when the device does not offer it."""
        with self._lock:
            self._ids += 1
            stream = AdbStream(self, self._ids)
            self._streams[stream.id] = stream
        try:
            window = WINDOW_BYTES if self.has_delayed_acks else 0
            self.send(OPEN, stream.id, window, service.encode("utf-8", "surrogateescape") + b"\0")
            stream.await_opened(service)
        except BaseException:
            stream.close()
            raise
        return stream

    def close(self) -> None:
        self._fail("it was closed here")
        self._transport.close()
        if threading.current_thread() is not self._reader:
            self._reader.join(10)

    @property
    def packet_bytes(self) -> int:
        """The most data of one packet."""
        return self._packet_bytes

    @property
    def loss(self) -> EdgeMtpError | None:
        """Why the link broke; None while it is up."""
        if self._lost is None:
            return None
        return EdgeMtpError(f"the link to {self.name} broke: {self._lost}; reconnect it and run the command again")

    def send(self, command: int, arg0: int, arg1: int, *data: bytes | memoryview) -> None:
        """Sends one packet. Raises EdgeMtpError when the link breaks."""
        if self.loss:
            raise self.loss
        try:
            self._send(command, arg0, arg1, *data)
        except OSError as error:
            self._fail(_cause(error))
            self._transport.close()  # it may have taken half a packet
            assert self.loss is not None
            raise self.loss from error

    def forget(self, stream: AdbStream) -> None:
        with self._lock:
            self._streams.pop(stream.id, None)

    def _send(self, command: int, arg0: int, arg1: int, *data: bytes | memoryview) -> None:
        total = sum(map(checksum, data)) & 0xFFFFFFFF if self._checked else 0
        header = HEADER.pack(command, arg0, arg1, sum(map(len, data)), total, command ^ 0xFFFFFFFF)
        with self._sending:
            self._transport.write_packet(header, data)

    def _receive(self, timeout_s: float | None) -> tuple[int, int, int, bytearray]:
        """Receives one packet. Raises NonsenseError for bytes that are no packet, OSError when the link breaks, and
        TimeoutError."""
        header = self._transport.bulk_read(HEADER.size, timeout_s)
        command, arg0, arg1, length, total, inverse = HEADER.unpack(header)
        if command ^ 0xFFFFFFFF != inverse or command not in COMMANDS:
            raise NonsenseError(f"unknown packet {bytes(header[:8]).hex()}")
        if length > MAX_PACKET_BYTES:
            raise NonsenseError(f"packet of {length} bytes")
        # The data follows at once, so a device that stops inside a packet counts as lost.
        data = self._transport.bulk_read(length, timeout_s or STALL_S) if length else bytearray()
        if self._checked and total and total != checksum(data):
            raise NonsenseError("wrong checksum")
        return command, arg0, arg1, data

    def _handshake(self, keys: Callable[[], Sequence[Key]], notice: Callable[[str], None], authorize_s: float) -> str:
        """Identifies this host, and signs the device's token if asked to. Returns the device's banner."""
        self._send(
            CNXN, VERSION, MAX_PACKET_BYTES, b"host::features=shell_v2,delayed_ack"
        )  # no NUL at the end: the device would take it for part of the name
        waiting: list[Key] | None = None  # keys not yet tried
        offered: Key | None = None
        end = time.monotonic() + CONNECT_S
        while True:
            try:
                command, arg0, arg1, data = self._receive(max(0.0, end - time.monotonic()))
            except (TimeoutError, ConnectionError) as error:
                if offered is None:
                    raise
                raise EdgeMtpError(
                    f"{self.name} did not authorize this machine: unlock it and accept 'Allow USB debugging?' "
                    f"(key {offered.fingerprint}), then run the command again"
                ) from error
            if command == CNXN:
                self._checked = min(arg0, VERSION) < VERSION
                self._packet_bytes = max(256, min(arg1, MAX_PACKET_BYTES))
                return data.decode("utf-8", "replace")
            if command == STLS:
                raise EdgeMtpError(
                    f"{self.name} uses wireless debugging: pair with it once by 'adb pair HOST:PORT' and run "
                    f"'adb connect {self.name}'; the adb server is then used"
                )
            if command == AUTH and arg0 == constants.AUTH_TOKEN:
                if waiting is None:
                    waiting = list(keys())
                    offered_first = waiting[0] if waiting else None
                if waiting:
                    self._send(AUTH, constants.AUTH_SIGNATURE, 0, waiting.pop(0).sign(bytes(data)))
                elif offered is None and offered_first is not None:
                    offered = offered_first
                    notice(
                        f"{self.name} does not know this machine yet: unlock it and accept 'Allow USB debugging?', "
                        f"key {offered.fingerprint} ({offered.path})"
                    )
                    self._send(AUTH, constants.AUTH_RSAPUBLICKEY, 0, offered.public + b"\0")
                    end = time.monotonic() + authorize_s
                # Another token after the key was offered means that the dialogue is still open.
            # Any other packet was left behind by an earlier connection over the same cable.

    def _read(self) -> None:
        """Hands packets to their streams until the link breaks."""
        try:
            while True:
                command, arg0, arg1, data = self._receive(None)
                if command in (CNXN, AUTH, STLS):
                    raise ConnectionResetError("the device restarted the connection")
                with self._lock:
                    stream = self._streams.get(arg1)
                if command == OPEN:  # a reverse forward: nothing here listens
                    self._send(CLSE, 0, arg0)
                elif stream is None or stream.is_other(arg0):
                    if command == WRTE:
                        self._send(CLSE, arg1, arg0)
                else:
                    stream.take(command, arg0, data)
        except NonsenseError as error:
            self._fail(f"the device sent nonsense ({error})")
        except OSError as error:
            self._fail(_cause(error))
        finally:
            self._transport.close()

    def _fail(self, cause: str) -> None:
        with self._lock:
            self._lost = self._lost or cause
            streams = list(self._streams.values())
        for stream in streams:
            stream.wake()


class AdbStream(Stream):
    """One stream over an AdbConnection."""

    def __init__(self, connection: AdbConnection, number: int) -> None:
        self.id = number
        self._connection = connection
        self._changed = threading.Condition()
        self._remote = 0  # the device's number of this stream; 0 until it is open
        self._received: deque[bytearray] = deque()
        self._unread = 0
        self._credit = 0  # bytes that may be sent now; one packet's worth without delayed acknowledgements
        self._ended = False
        self._closed = False
        self.chunk_bytes = connection.packet_bytes

    def await_opened(self, service: str) -> None:
        with self._changed:
            opened = self._changed.wait_for(
                lambda: self._remote or self._ended or self._connection.loss or self._closed, STALL_S
            )
            if self._connection.loss:
                raise self._connection.loss
            if not opened:
                raise EdgeMtpError(f"{self._connection.name} opened no stream for {STALL_S:.0f} s; restart it")
            if not self._remote:
                kind = service.partition(":")[0]
                raise EdgeMtpError(f"{self._connection.name} does not offer '{kind}'; it needs Android 7 or later")

    def is_other(self, remote: int) -> bool:
        """Whether a packet from the device's stream `remote` belongs to another stream (0: opening it failed)."""
        return remote != 0 and self._remote not in (0, remote)

    def take(self, command: int, remote: int, data: bytearray) -> None:
        """Handles a packet from the device. Raises NonsenseError when the device breaks the protocol."""
        with self._changed:
            if command == OKAY:
                if self._connection.has_delayed_acks:
                    if len(data) != 4:
                        raise NonsenseError(f"an acknowledgement of {len(data)} bytes")
                    self._credit += int.from_bytes(data, "little", signed=True)
                else:
                    self._credit = self._connection.packet_bytes
                self._remote = remote
            elif command == WRTE:
                self._unread += len(data)
                if self._unread > WINDOW_BYTES + MAX_PACKET_BYTES:  # a sender may overdraw by its last packet
                    raise NonsenseError("more data than was asked for")
                if data:
                    self._received.append(data)
            elif command == CLSE:
                self._ended = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def read(self) -> bytearray:
        with self._changed:
            self._changed.wait_for(lambda: self._received or self._ended or self._closed or self._connection.loss)
            if not self._received:
                if not self._ended and not self._closed and self._connection.loss:
                    raise self._connection.loss
                return bytearray()
            data = self._received.popleft()
            self._unread -= len(data)
            acknowledge = not self._ended and not self._closed
        if acknowledge:
            count = struct.pack("<i", len(data)) if self._connection.has_delayed_acks else b""
            with contextlib.suppress(EdgeMtpError):  # the next read raises it, once the data received is handed out
                self._connection.send(OKAY, self.id, self._remote, count)
        return data

    def write(self, head: bytes, body: bytes | memoryview = b"") -> None:
        left = [memoryview(head), memoryview(body)]
        while any(left):
            with self._changed:
                ready = self._changed.wait_for(
                    lambda: self._credit > 0 or self._ended or self._closed or self._connection.loss, STALL_S
                )
                if self._ended or self._closed:
                    raise BrokenPipeError(f"{self._connection.name} ended the stream")
                if self._connection.loss:
                    raise self._connection.loss
                if not ready:
                    raise EdgeMtpError(
                        f"{self._connection.name} took nothing for {STALL_S:.0f} s; look at the device and try again"
                    )
                most = self._connection.packet_bytes
                parts = [left[0][:most], left[1][: max(0, most - len(left[0]))]]
                count = sum(map(len, parts))
                self._credit = self._credit - count if self._connection.has_delayed_acks else 0
            self._connection.send(WRTE, self.id, self._remote, *parts)
            left = [part[len(sent) :] for part, sent in zip(left, parts, strict=True)]

    def close(self) -> None:
        with self._changed:
            tell = self._remote and not self._closed
            self._closed = True
            self._changed.notify_all()
        self._connection.forget(self)
        if tell and not self._connection.loss:
            with contextlib.suppress(EdgeMtpError):
                self._connection.send(CLSE, self.id, self._remote)


def _cause(error: OSError) -> str:
    return str(error.strerror or error)[:200]
