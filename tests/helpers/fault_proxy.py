"""A TCP proxy that does what networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass


@dataclass
class Faults:
    """Of one connection. Counts are of bytes that have passed in that direction."""

    cut_up: int | None = None  # towards the device: the connection ends after so many
    cut_down: int | None = None
    reset: bool = False  # by RST, not FIN
    garble_down: int | None = None  # this byte is inverted
    piece_bytes: int = 1 << 16  # passed on at a time
    bytes_per_s: float | None = None  # upwards
    delay_s: float = 0.0  # for each piece upwards


class FaultProxy:
    """Listens on `host`:`port`, 127.0.0.1, and passes on to `target`; `faults` and `target` are for connections to
    come. Where nobody listens at `target`, a connection ends at once.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.faults = Faults()
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._sockets: list[socket.socket] = []
        self.passed_up = 0  # of the last connection
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends what is connected now."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target, 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets = [near, far]
            self.passed_up = 0
            faults = self.faults
            threading.Thread(target=self._pass, args=(near, far, faults, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, faults, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, faults: Faults, up: bool) -> None:
        limit, passed = faults.cut_up if up else faults.cut_down, 0
        try:
            while limit is None or passed < limit:
                data = source.recv(faults.piece_bytes if limit is None else min(faults.piece_bytes, limit - passed))
                if not data:
                    break
                if not up and faults.garble_down is not None and 0 <= (at := faults.garble_down - passed) < len(data):
                    data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
                if up and (faults.delay_s or faults.bytes_per_s):
                    time.sleep(faults.delay_s + (len(data) / faults.bytes_per_s if faults.bytes_per_s else 0.0))
                sink.sendall(data)
                passed += len(data)
                if up:
                    self.passed_up = passed
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                if faults.reset:  # close() then sends RST
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)  # wakes who reads it, without a word to the other side
                    end.close()
                else:
                    end.shutdown(socket.SHUT_RDWR)
