"""Puts files onto a device over any Link: verified by hash, resumed after any interruption, sent only once.

A file grows as `NAME.part`, and becomes `NAME` once the sha256 that the device computes is right. `NAME.verified` then
records its size, inode, mtime and ctime (to the nanosecond). As long as these are unchanged, the file counts as
verified and is not read again. Everything lies in one folder; nothing outside it is written or removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edge_mtp.cache import cache_folder, keep, kept
from edge_mtp.device.fingerprint import parse_free
from edge_mtp.device.link import Completed, Link
from edge_mtp.errors import EdgeMtpError

CHUNK_BYTES = 4 << 20
# Space left free on the device: on a full disk Android gets slow and refuses to install anything.
RESERVE_BYTES = 64 << 20
REPORT_S = 0.2
SETTLED_S = 2.0  # a file may change twice within one tick of the file system's clock
# A device that hashes more slowly than this counts as stopped: today's slowest flash reads 50 MB/s.
SLOWEST_BYTES_PER_S = 8 << 20

# These commands get their values as arguments, never inside their text.
SURVEY = """
mkdir -p "${1%/*}" || exit 1
if [ -e "$1.part" ]; then  # what still writes to it, since its link broke unseen, would garble what follows
  for f in /proc/[0-9]*/fd/1; do
    if [ "$f" -ef "$1.part" ]; then p=${f%/fd/1}; kill -KILL "${p#/proc/}"; fi
  done 2> /dev/null
fi
[ -d "$1" ] && { echo "'$1' is a folder" >&2; exit 1; }
echo "is $(stat -c '%s %i %y %z' "$1" 2> /dev/null)"
echo "was $(cat "$1.verified" 2> /dev/null)"
echo "part $(stat -c %s "$1.part" 2> /dev/null)"
df -Pk "${1%/*}"
"""
DIGEST = 'sha256sum < "$1"'
REMEMBER = 'stat -c "%s %i %y %z" "$1" > "$1.verified"'
# Renames only after a sync: after a crash, a file may otherwise have its full size and none of its contents.
FINISH = 'chmod "$2" "$1.part" && { sync "$1.part" 2> /dev/null || sync; } && mv -f "$1.part" "$1" && ' + REMEMBER
LIST = 'cd "$1" 2> /dev/null || exit 0; find bundles bin cache -type f -exec stat -c "%s %Y %n" {} + 2> /dev/null; :'
REMOVE = 'cd "$1" && shift && rm -rf -- "$@"'
ENTRY = re.compile(r"bundles/[^/]+|bin/[^/]+|cache")


@dataclass(frozen=True)
class Transfer:
    """How much of a file is sent, or read for its hash. `bytes_per_s` is 0 until it is known."""

    what: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0

    @property
    def fraction(self) -> float:
        return self.done_bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def seconds_left(self) -> float | None:
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s if self.bytes_per_s else None


TransferProgress: TypeAlias = Callable[[Transfer], None]


@dataclass(frozen=True)
class Entry:
    """Something stored on a device: a bundle (perhaps incomplete), a set of binaries, or the runner's cache."""

    name: str
    bytes: int
    changed_s: int  # seconds since 1970, by the device's clock


class Folder:
    """The tool's own folder on the machine at the end of `link`. It is created when a file is first put there."""

    def __init__(self, link: Link, path: str, report: TransferProgress) -> None:
        if not path.startswith("/") or path.rstrip("/") == "":
            raise EdgeMtpError(f"'{path}' cannot be the folder on {link.name}; give an absolute path")
        self.link = link
        self.path = path.rstrip("/")
        self._report = report

    def put(self, source: Path, name: str, *, digest: str, mode: str = "644") -> str:
        """Puts `source`, whose sha256 is `digest`, under `name` and returns its path on the device.

        A verified file is not sent again, and an interrupted transfer resumes. Raises EdgeMtpError when the file does
        not fit (nothing is written), when the link breaks or the disk fills (the data that arrived is kept for the next
        attempt), or when the hash on the device differs (the file is removed).
        """
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", name) or ".." in name:
            raise EdgeMtpError(f"'{name}' is no name for a file on a device; use letters, digits, '.', '_' and '-'")
        target, size = f"{self.path}/{name}", source.stat().st_size
        survey = self._sh(SURVEY, target).output.decode(errors="replace")
        found = {kind: values for kind, *values in (line.split() for line in survey.splitlines() if line.strip())}
        present = found.get("is", [])
        if present and present == found.get("was"):
            return target
        if present[:1] == [str(size)] and self._digest(target, size, source.name) == digest:
            self._sh(REMEMBER, target)
            return target
        part = f"{target}.part"
        told = " ".join(found.get("part", []))
        start = int(told) if re.fullmatch(r"\d{1,18}", told, re.A) else 0
        free = parse_free(survey)
        if start > size or (start and self._digest(part, start, source.name) != self._prefix(source, start)):
            self._remove(f"{name}.part")
            free = None if free is None else free + start
            start = 0
        if free is not None and size - start + RESERVE_BYTES > free:
            raise EdgeMtpError(
                f"{self.link.name} has {_gb(free)} free in {self.path}, and {source.name} needs {_gb(size - start)} "
                f"more and {_gb(RESERVE_BYTES)} to spare; free some, e.g. with 'edge-mtp devices clean'"
            )
        try:
            self.link.append(self._chunks(source, start, size), part)
        except EdgeMtpError as error:
            raise EdgeMtpError(
                f"{error} (what arrived of {source.name} is kept: the next time goes on from there)"
            ) from error
        if self._digest(part, size, source.name) != digest:
            self._remove(f"{name}.part")
            raise EdgeMtpError(
                f"{source.name} changed while it was sent, or on the way to {self.link.name}; what arrived was "
                f"removed, run the command again"
            )
        self._sh(FINISH, target, mode, timeout_s=_patience(size))
        return target

    def entries(self) -> list[Entry]:
        """The entries in the folder, by name."""
        found: dict[str, Entry] = {}
        for line in self._sh(LIST, self.path).output.decode(errors="replace").splitlines():
            match = re.fullmatch(r"(\d+) (\d+) ((?:bundles|bin|cache)/.+)", line, re.A)
            if match is None:  # a name with a line break, which this tool never writes
                continue
            size, changed, path = match.groups()
            name = "cache" if path.startswith("cache/") else "/".join(path.split("/")[:2])
            name = name.removesuffix(".verified") if name.startswith("bundles/") else name
            last = found.get(name, Entry(name, 0, 0))
            found[name] = Entry(name, last.bytes + int(size), max(last.changed_s, int(changed)))
        return sorted(found.values(), key=lambda entry: entry.name)

    def clean(self, keep: Collection[str] = ()) -> list[Entry]:
        """Removes and returns the entries whose names are not in `keep`. Running programs go on with removed files."""
        removed = [entry for entry in self.entries() if entry.name not in keep and ENTRY.fullmatch(entry.name)]
        self._remove(*(entry.name for entry in removed), *(f"{entry.name}.verified" for entry in removed))
        return removed

    def _remove(self, *names: str) -> None:
        for start in range(0, len(names), 100):  # a command's length is limited
            self._sh(REMOVE, self.path, *(f"./{name}" for name in names[start : start + 100]))

    def _sh(self, script: str, *arguments: str, timeout_s: float = 60.0) -> Completed:
        done = self.link.run(["sh", "-c", script, "edge-mtp", *arguments], timeout_s=timeout_s)
        if done.exit_code != 0:
            lines = done.errors.decode(errors="replace").strip().splitlines()
            cause = lines[-1] if lines else f"exit code {done.exit_code}"
            raise EdgeMtpError(f"{self.link.name} refuses in '{self.path}': {cause}")
        return done

    def _digest(self, path: str, size: int, what: str) -> str:
        """The sha256, computed on the device, of a file of `size` bytes."""
        self._report(Transfer(f"checking {what}", 0, size))
        output = self._sh(DIGEST, path, timeout_s=_patience(size)).output.split()
        self._report(Transfer(f"checking {what}", size, size))
        return output[0].decode(errors="replace") if output else ""

    def _prefix(self, source: Path, size: int) -> str:
        """The sha256 of the first `size` bytes of the local file."""
        digest = hashlib.sha256()
        with source.open("rb") as file:
            while size and (data := file.read(min(size, CHUNK_BYTES))):
                digest.update(data)
                size -= len(data)
        return digest.hexdigest()

    def _chunks(self, source: Path, start: int, size: int) -> Iterator[bytes]:
        """Yields the rest of the file, and reports progress."""
        began, next_report, done = time.monotonic(), 0.0, start
        with source.open("rb") as file:
            file.seek(start)
            while data := file.read(CHUNK_BYTES):
                now = time.monotonic()
                if now >= next_report:
                    rate = (done - start) / (now - began) if now > began else 0.0
                    self._report(Transfer(f"sending {source.name}", done, size, rate))
                    next_report = now + REPORT_S
                yield data
                done += len(data)
        rate = (done - start) / max(1e-6, time.monotonic() - began)
        self._report(Transfer(f"sending {source.name}", done, size, rate))


def file_digest(path: Path, report: TransferProgress) -> str:
    """The sha256 of a file, in hexadecimal. Raises EdgeMtpError when it cannot be read.

    Hashing 2.6 GB takes seconds, so the hash is cached in `cache_folder()` as long as the file's size, inode, mtime and
    ctime stay the same. No program can set ctime back.
    """
    try:
        status = path.stat()
        key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0"
        key += f"{status.st_dev}\0{status.st_ino}"
        entry = cache_folder() / "digests" / hashlib.sha256(os.fsencode(key)).hexdigest()
        if (known := kept(entry)) is not None:
            return known.decode("ascii")
        digest, done, next_report = hashlib.sha256(), 0, 0.0
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
                done += len(data)
                if time.monotonic() >= next_report:
                    report(Transfer(f"hashing {path.name}", done, status.st_size))
                    next_report = time.monotonic() + REPORT_S
    except OSError as error:
        raise EdgeMtpError(f"cannot read '{path}': {error.strerror}; check the path") from error
    # A file that changed a moment ago may change again without new timestamps.
    settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    if settled and path.stat().st_ctime_ns == status.st_ctime_ns:
        keep(entry, digest.hexdigest().encode("ascii"))
    return digest.hexdigest()


def _patience(size: int) -> float:
    """The time limit in seconds for a device to read `size` bytes."""
    return 60.0 + size / SLOWEST_BYTES_PER_S


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.0f} MB"
