"""A real adbd (Debian's build of AOSP's) as a device: in a network namespace, at the other end of a veth pair.

It has no authorization and listens on every address, so it runs nowhere else. Over a veth pair, not loopback, whose
buffers never fill, the faults of a client show.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mtp.cache import cache_folder
from edge_mtp.device.adb_link import AdbLink

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PORT = 5599
CACHE = cache_folder() / "debian"  # now: some tests move the home


class UnavailableError(Exception):
    """Why there is no adbd here."""


def packages(names: list[str], architecture: str, *, suite: str = "trixie", only: str | None = None) -> Path:
    """A folder with Debian packages and what they depend on, unpacked; nothing of this machine's own is touched.

    `only` is the one file that is wanted of them. Kept in the user's cache folder. Raises UnavailableError.
    """
    root = CACHE / f"{suite}-{architecture}-{'-'.join(names)}"
    if root.is_dir():
        return root
    if not KEYRING.is_file() or not shutil.which("apt-get"):
        raise UnavailableError("needs apt-get and debian-archive-keyring")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        apt = Path(folder)
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "root"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n")
        (apt / "apt.conf").write_text(
            f'Dir "{apt}"; Dir::State "{apt}/state"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";'
            f'Dir::Etc "{apt}/etc"; Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "-";'
            f'Dir::Etc::trustedparts "{KEYRING.parent}"; APT::Architecture "{architecture}";'
            f'APT::Architectures {{ "{architecture}"; }}; Acquire::Languages "none"; APT::Sandbox::User "";'
        )
        environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        install = ["apt-get", "install", "-qq", "-y", "--download-only", "--no-install-recommends", *names]
        for command in (["apt-get", "update", "-qq"], install):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise UnavailableError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            unpack = f'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" {"--wildcards " + only if only else ""}'
            unpacked = subprocess.run(["sh", "-c", unpack, package, apt / "root"], capture_output=True, timeout=60)
            assert only or unpacked.returncode == 0, unpacked.stderr  # most packages do not have that file
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(apt / "root", root)
    return root


def machine_architecture() -> str:
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


class Adbd:
    """An adbd that runs until `close`. `folder` is its home, an empty folder; raises UnavailableError."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare", "setpriv"))):
            raise UnavailableError("a network namespace needs root, iproute2 and util-linux")
        try:
            root = packages(["adbd"], machine_architecture())
        except (OSError, subprocess.SubprocessError) as error:
            raise UnavailableError(str(error)) from error
        self.folder = folder
        # One of the /30 networks of 198.18.0.0/15, which RFC 2544 keeps for benchmarks.
        number = os.getpid() % (1 << 15)
        base = f"198.{18 + (number >> 14)}.{(number >> 6) & 255}"
        self._here, self.host = (f"{base}.{((number & 63) << 2) + end}" for end in (1, 2))
        self.port = PORT
        self._outer, inner = f"edg{number}a", f"edg{number}b"
        # All of it goes with this process, however that ends: the namespace with its holder, its end of the pair with
        # the namespace, the other end with that one.
        bound = ["setpriv", "--pdeathsig", "KILL"]
        self._holder = subprocess.Popen([*bound, "unshare", "--net", "sleep", "infinity"])
        space = f"/proc/{self._holder.pid}/ns/net"
        # Not `ip netns exec`, which hides from adbd what is mounted later.
        inside = ["nsenter", f"--net={space}"]
        loader = next(root.rglob("ld-linux-*.so.*"))
        libraries = sorted({str(path.parent) for path in (root / "usr/lib").rglob("*.so*")})
        adbd = str(next(root.rglob("platform-tools/adbd")))
        self._command = [*bound, *inside, str(loader), "--library-path", ":".join(libraries), adbd]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            while os.readlink(space) == os.readlink("/proc/self/ns/net"):
                if self._holder.poll() is not None:
                    raise UnavailableError("no network namespaces here: unshare --net is refused")
                time.sleep(0.01)
            pair = ["ip", "link", "add", self._outer, "type", "veth", "peer", "name", inner]
            self._do(*pair, "netns", str(self._holder.pid))
            self._do("ip", "addr", "add", f"{self._here}/30", "dev", self._outer)
            self._do("ip", "link", "set", self._outer, "up")
            self._do(*inside, "ip", "addr", "add", f"{self.host}/30", "dev", inner)
            self._do(*inside, "ip", "link", "set", "lo", "up")
            self._do(*inside, "ip", "link", "set", inner, "up")
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts adbd, and returns when it listens."""
        environment = {**os.environ, "ADBD_PORT": str(self.port), "HOME": str(self.folder)}
        self._process = subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise UnavailableError("adbd does not listen")

    def kill(self) -> None:
        """Ends adbd at once, and nothing that it has started."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def cut(self) -> None:
        """From here on no packet passes, either way, without a word to either side."""
        self._do("ip", "link", "set", self._outer, "down")

    def mend(self) -> None:
        self._do("ip", "link", "set", self._outer, "up")

    def link(self) -> AdbLink:
        return AdbLink.over_tcp(self.host, self.port, pytest.fail)

    def close(self) -> None:
        self.kill()
        self._holder.kill()
        self._holder.wait(10)

    def _do(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise UnavailableError(f"no network namespaces here: {' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def adbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adbd]:
    try:
        device = Adbd(tmp_path_factory.mktemp("adbd"))
    except UnavailableError as reason:
        pytest.skip(f"no real adbd: {reason}")
    yield device
    device.close()
