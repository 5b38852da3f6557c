"""A board over ssh: a real sshd on this machine, with keys and a configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from waiting import children, until

from edge_mtp.device.ssh_link import SshLink

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass
class Board:
    """A running sshd. `link` opens a connection with the key that it knows, unless another is named."""

    folder: Path
    login: str = ""  # a command that every login runs first
    port: int = 0
    server: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {key}\n")
        (self.folder / "sshd_config").write_text(
            f"""ListenAddress 127.0.0.1:{self.port}
HostKey {self.folder}/host
AuthorizedKeysFile {self.folder}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""
        )
        if self.login:
            with (self.folder / "sshd_config").open("a") as config:
                config.write(f'ForceCommand {self.login}; exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where it locks itself up before the login
        assert SSHD is not None
        with (self.folder / "sshd.log").open("wb") as log:
            command = [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"]
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._listens)

    def _listens(self) -> bool:
        assert self.server.poll() is None, (self.folder / "sshd.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def config(self, *, key: str = "user", known: str | None = None) -> Path:
        path = self.folder / f"config-{key}-{Path(known).name if known else ''}"
        path.write_text(
            f"""Host *
  IdentityFile {self.folder}/{key}
  IdentitiesOnly yes
  UserKnownHostsFile {known or self.folder / "known"}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""
        )
        return path

    def link(self) -> SshLink:
        return SshLink("127.0.0.1", self.port, config=self.config())

    def cut(self) -> None:
        """Ends every connection, as a network that goes away does, and none of the programs."""
        for pid in children(self.server.pid):
            with contextlib.suppress(OSError):
                if b"sshd" in Path(f"/proc/{pid}/comm").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stops answering, without a word."""
        for pid in children(self.server.pid):
            with contextlib.suppress(OSError):
                if b"sshd" in Path(f"/proc/{pid}/comm").read_bytes():
                    os.kill(pid, signal.SIGSTOP)

    def close(self) -> None:
        pids = children(self.server.pid)
        self.server.kill()
        self.server.wait()
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
