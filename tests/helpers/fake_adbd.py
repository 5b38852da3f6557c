"""An adbd in Python for what Debian's does not do: authorization, TLS, the protocol of before Android 9; on loopback.

It shows itself as a client sees one: CNXN, AUTH, and the service `shell,v2,raw`, whose commands run on this machine.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import subprocess
import threading
from base64 import b64decode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

SYNTAX = struct.Struct("<4sIIIII")


def packet(command: bytes, arg0: int, arg1: int, data: bytes = b"") -> bytes:
    inverse = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return SYNTAX.pack(command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, inverse) + data


def public_key(text: bytes) -> rsa.RSAPublicKey:
    """Of Android's format: words, n0inv, modulus, r squared, exponent (libcrypto_utils/android_pubkey.cpp)."""
    blob = b64decode(text.split(b" ")[0])
    words, n0inv, modulus, _, exponent = struct.unpack("<II256s256sI", blob)
    number = int.from_bytes(modulus, "little")
    assert words == 64
    assert (n0inv * number + 1) % (1 << 32) == 0
    return rsa.RSAPublicNumbers(exponent, number).public_key()


class FakeAdbd:
    """Serves until `close`. `known` are public keys; `accepts` is what the person at the dialogue does with a new one:
    True, False, or None for nobody there."""

    def __init__(
        self,
        *,
        version: int = 0x01000001,
        packet_bytes: int = 1 << 20,
        features: str = "shell_v2,cmd",
        authorize: bool = False,
        accepts: bool | None = None,
        tls: bool = False,
    ) -> None:
        self.version, self.packet_bytes, self.features = version, packet_bytes, features
        self.authorize, self.accepts, self.tls = authorize, accepts, tls
        self.known: list[bytes] = []
        self.dialogues = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Closing alone would leave accept() waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as adbd does
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            _Session(self, connection).serve()


class _Session:
    def __init__(self, device: FakeAdbd, connection: socket.socket) -> None:
        self.device, self.connection = device, connection
        self.checked = True
        self.sending = threading.Lock()
        self.streams: dict[int, _Shell] = {}

    def receive(self) -> tuple[bytes, int, int, bytes]:
        command, arg0, arg1, length, total, _ = SYNTAX.unpack(self._exactly(SYNTAX.size))
        assert length <= max(4096, self.device.packet_bytes)
        data = self._exactly(length)
        assert not self.checked or total == sum(data) & 0xFFFFFFFF, "wrong checksum"
        return command, arg0, arg1, data

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        with self.sending:
            self.connection.sendall(packet(command, arg0, arg1, data))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def serve(self) -> None:
        command, version, _, _ = self.receive()
        assert command == b"CNXN"
        if self.device.tls:
            self.send(b"STLS", 0x01000000, 0)
            self.receive()
        if self.device.authorize:
            self._authorize()
        self.checked = min(version, self.device.version) < 0x01000001
        banner = f"device::ro.product.model=fake;features={self.device.features}"
        self.send(b"CNXN", self.device.version, self.device.packet_bytes, banner.encode())
        try:
            while True:
                command, arg0, arg1, data = self.receive()
                if command == b"OPEN":
                    self._open(arg0, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
                elif (shell := self.streams.get(arg1)) is not None:
                    shell.take(command, data)
        finally:
            for shell in list(self.streams.values()):
                shell.end()

    def _authorize(self) -> None:
        while True:
            token = os.urandom(20)
            self.send(b"AUTH", 1, 0, token)
            command, kind, _, data = self.receive()
            assert command == b"AUTH"
            if kind == 2:
                for key in self.device.known:
                    with contextlib.suppress(InvalidSignature):
                        public_key(key).verify(data, token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))
                        return
            elif kind == 3:
                self.device.dialogues += 1
                if self.device.accepts is None:
                    self.receive()
                if not self.device.accepts:
                    raise EOFError
                self.device.known.append(data.rstrip(b"\0"))
                return

    def _open(self, remote: int, service: str) -> None:
        kind, _, script = service.partition(":")
        if kind != "shell,v2,raw" or "shell_v2" not in self.device.features:
            self.send(b"CLSE", 0, remote)
            return
        number = remote + 1000
        shell = self.streams[number] = _Shell(self, number, remote, script)
        self.send(b"OKAY", number, remote)
        for work in (shell.give, shell.feed):
            threading.Thread(target=work, daemon=True).start()


class _Shell:
    def __init__(self, session: _Session, number: int, remote: int, script: str) -> None:
        self.session, self.number, self.remote = session, number, remote
        self.acknowledged = threading.Semaphore(1)
        self.input: queue.Queue[bytes | None] = queue.Queue()
        self.child = subprocess.Popen(
            ["/bin/sh", "-c", os.fsencode(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def take(self, command: bytes, data: bytes) -> None:
        if command == b"OKAY":
            self.acknowledged.release()
        elif command == b"CLSE":
            self.end()
        elif command == b"WRTE":
            self.input.put(data)

    def feed(self) -> None:
        """What the client writes, to the child; acknowledged when it is there."""
        assert self.child.stdin is not None
        received = b""
        while (data := self.input.get()) is not None:
            received += data
            while len(received) >= 5:
                kind, length = struct.unpack_from("<BI", received)
                if len(received) < 5 + length:
                    break
                body, received = received[5 : 5 + length], received[5 + length :]
                with contextlib.suppress(OSError, ValueError):
                    if kind == 0:
                        self.child.stdin.write(body)
                        self.child.stdin.flush()
                    elif kind == 4:
                        self.child.stdin.close()
            with contextlib.suppress(OSError):
                self.session.send(b"OKAY", self.number, self.remote)

    def give(self) -> None:
        """What the child writes, and its end, to the client; stop and wait."""
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        files = {self.child.stdout.fileno(): 1, self.child.stderr.fileno(): 2}
        is_gone = True  # the client, until it has been told everything
        with contextlib.suppress(OSError):
            while files:
                for file in select.select(list(files), [], [])[0]:
                    data = os.read(file, self.session.device.packet_bytes - 5)
                    if data:
                        self._frame(files[file], data)
                    else:
                        del files[file]
            code = self.child.wait()
            self._frame(3, bytes([code if code >= 0 else 128 - code]))
            self.session.send(b"CLSE", self.number, self.remote)
            is_gone = False
        self.session.streams.pop(self.number, None)
        if is_gone:  # seen here before the session sees it, which then does not know this shell any more
            self.end()
        self.input.put(None)

    def _frame(self, kind: int, data: bytes) -> None:
        self.acknowledged.acquire()
        self.session.send(b"WRTE", self.number, self.remote, struct.pack("<BI", kind, len(data)) + data)

    def end(self) -> None:
        """The client is gone: nobody reads or writes any more."""
        self.acknowledged.release()
        self.input.put(None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, 9)
