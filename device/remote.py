"""A device at the other end of a Link."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from edge_mtp.device.binaries import LITERT, RUNNER, Binaries, binaries_for
from edge_mtp.device.device import Device, Fingerprint
from edge_mtp.device.elf import read_machine
from edge_mtp.device.fingerprint import read_fingerprint
from edge_mtp.device.link import Link
from edge_mtp.device.load_options import DEFAULT_LOADING, LoadOptions
from edge_mtp.device.process import Process
from edge_mtp.device.put import Folder, Transfer, TransferProgress, file_digest
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import Accelerator

# On Android, the only folder whose files the shell may execute; elsewhere the user's cache.
FOLDER = """
if [ -d /data/local/tmp ]; then echo /data/local/tmp/edge-mtp
else echo "${XDG_CACHE_HOME:-$HOME/.cache}/edge-mtp/device"
fi
"""
# Marks a runner with its owner, so that _end_leftovers can find one that outlived its link.
OWNER = "EDGE_MTP_OWNER"
OWNED = f"""
for f in $(grep -las '{OWNER}=' /proc/[0-9]*/environ); do
  p=${{f#/proc/}}; echo "${{p%/environ}} $(tr '\\000' '\\n' < "$f" | grep '^{OWNER}=')"
done 2> /dev/null; :
"""
# e_machine of the ELF header, by the names that Android and uname use.
MACHINES = {
    3: ("x86", "i686"),
    40: ("armeabi-v7a", "armhf"),
    62: ("x86_64",),
    183: ("arm64-v8a", "aarch64"),
    243: ("riscv64",),
}


_numbers = itertools.count()
_starting: set[str] = set()
# This process's, by owner.
_runners: weakref.WeakValueDictionary[str, Runner] = weakref.WeakValueDictionary()
_trials: weakref.WeakValueDictionary[str, Process] = weakref.WeakValueDictionary()


def silent(transfer: Transfer) -> None:
    """A TransferProgress that tells nobody."""


class RemoteDevice(Device):
    """Runs bundles on the machine at the other end of `link`. `close` also closes the link.

    `folder` is where all files go on that machine; None means the default. `report` gets the progress of long steps.
    """

    def __init__(
        self,
        link: Link,
        *,
        folder: str | None = None,
        binaries: Callable[[Fingerprint], Binaries] = lambda told: binaries_for(told.kind, told.abi or "of no name"),
        report: TransferProgress = silent,
    ) -> None:
        self.name = link.name
        self.link = link
        self._binaries = binaries
        self._report = report
        self.store = Folder(link, _folder_of(link) if folder is None else folder, report)
        self.folder = self.store.path

    def fingerprint(self) -> Fingerprint:
        return read_fingerprint(self.link, self.folder)

    def start(self, bundle: Path, options: LoadOptions = DEFAULT_LOADING) -> Runner:
        """Puts the files that the device lacks there, and returns a runner with `bundle` loaded."""
        home = self._put_binaries()
        token_bytes = None if options.token_bytes is None else self._put_data(options.token_bytes)
        with self._spawned(home, bundle, options.flags(token_bytes)) as (process, owner):
            runner = Runner(process)
            _runners[owner] = runner
        return runner

    def start_trial(self, bundle: Path, accelerator: Accelerator) -> Process:
        with self._spawned(self._put_binaries(), bundle, ["--try", accelerator]) as (process, owner):
            _trials[owner] = process
        return process

    def close(self) -> None:
        """Closes the link, which ends any runner that still runs."""
        self.link.close()

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put_binaries(self) -> str:
        """Puts the binaries on the device, all into one folder; returns its path."""
        binaries = self._fitting(self.fingerprint())
        home = f"bin/{binaries.digest}"
        for name, path in sorted(binaries.files.items()):
            self.store.put(path, f"{home}/{name}", digest=file_digest(path, self._report), mode="755")
        return f"{self.folder}/{home}"

    @contextlib.contextmanager
    def _spawned(self, home: str, bundle: Path, flags: list[str]) -> Iterator[tuple[Process, str]]:
        """Puts `bundle` on the device and starts the runner in `home`; yields it and its owner, to be noted inside."""
        # Bundle last: it takes longest, and by then everything else that can fail has succeeded.
        put = self._put_data(bundle)
        cache = f"{self.folder}/cache"
        done = self.link.run(["mkdir", "-p", cache])
        if done.exit_code != 0:
            raise EdgeMtpError(f"{self.name} cannot make '{cache}': {done.errors.decode(errors='replace').strip()}")
        command = [f"{home}/{RUNNER}", "--bundle", put, "--litert", f"{home}/{LITERT}", "--cache-dir", cache, *flags]
        self._end_leftovers()
        owner = f"{_this_machine()}:{os.getpid()}:{next(_numbers)}"
        _starting.add(owner)
        try:
            yield self.link.spawn(command, {**_environment(home), OWNER: owner}), owner
        finally:
            _starting.discard(owner)

    def _end_leftovers(self) -> None:
        """Kills runners that this machine started and lost contact with.

        Closing a link ends its runner. When a link just vanishes, as over Wi-Fi, the device may take hours to notice,
        and the runner keeps a bundle in memory all that time.
        """
        for line in self.link.run(OWNED).output.decode(errors="replace").splitlines():
            pid, _, value = line.partition(" ")
            owner = value.removeprefix(f"{OWNER}=")
            machine, _, rest = owner.rpartition(":")[0].rpartition(":")
            if machine != _this_machine() or not pid.isdigit() or not rest.isdigit():
                continue
            if int(rest) == os.getpid():
                runner = _runners.get(owner)
                lives = owner in _starting or owner in _trials or (runner is not None and not runner.has_ended)
            else:
                lives = _is_alive(int(rest))
            if not lives:
                self.link.run(["kill", "-KILL", pid])

    def _put_data(self, path: Path) -> str:
        digest = file_digest(path, self._report)
        return self.store.put(path, f"bundles/{digest}{path.suffix}", digest=digest)

    def _fitting(self, fingerprint: Fingerprint) -> Binaries:
        """The binaries for the device. Raises EdgeMtpError when they are missing or built for another machine."""
        binaries = self._binaries(fingerprint)
        for name in (RUNNER, LITERT):
            machine = read_machine(binaries.files[name])
            if fingerprint.abi is not None and fingerprint.abi not in MACHINES.get(machine, ()):
                kind = MACHINES.get(machine, (f"ELF machine {machine}",))[0]
                raise EdgeMtpError(
                    f"{binaries.files[name]} is for {kind}, and {self.name} is {fingerprint.abi}; build that one"
                )
        return binaries


def _environment(home: str) -> dict[str, str]:
    """The variables by which accelerators find what they load by name."""
    return {
        "LD_LIBRARY_PATH": home,
        # Folders, with semicolons between them, where Qualcomm's loader looks for what runs on the DSP. It appends the
        # system's own (get_dirlist_from_env in src/apps_std_imp.c of https://github.com/qualcomm/fastrpc).
        "ADSP_LIBRARY_PATH": home,
    }


def _folder_of(link: Link) -> str:
    done = link.run(FOLDER)
    path = done.output.decode(errors="surrogateescape").removesuffix("\n")
    if done.exit_code != 0 or not path.startswith("/"):
        raise EdgeMtpError(f"{link.name} answers {path[:80]!r} where a folder was due; check its login shell")
    return path


def _this_machine() -> str:
    return f"{platform.node()}:{uuid.getnode():012x}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
