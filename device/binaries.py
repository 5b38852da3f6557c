"""The binaries that a device needs to run bundles: the runner, the LiteRT library and its accelerators, for one ABI."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mtp.cache import cache_folder
from edge_mtp.device import host, maven
from edge_mtp.device.elf import HEXAGON, Elf, read_elf, read_machine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.file_hash import sha256
from edge_mtp.json_file import read_json, write_json
from edge_mtp.progress import Progress

RUNNER, LITERT = "edge_mtp_runner", "libLiteRt.so"
# The release that device/native/litert_api.h is written against. The Android archive includes the GPU accelerator;
# litert-gpu of the same version belongs to the older interpreter (LiteRT's documentation: "do not add").
LITERT_VERSION = "2.3.0"
ARCHIVE = maven.Artifact("com.google.ai.edge.litert", "litert", LITERT_VERSION)
PAGE_16K = 16 << 10
LARGEST_LIBRARY = 512 << 20  # bytes, unpacked

_RECORD = "libraries.json"  # lists the libraries in a target's folder and their origin; written last
_LIBRARY = re.compile(r"libLiteRt\w*\.so")
# Libraries of an accelerator's vendor: a folder inside a target's, so that none replaces one of LiteRT's, and the file
# that says where each is from.
_VENDOR, _VENDOR_RECORD = "vendor", "vendor.json"
_VENDOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.so(\.[0-9]+)*")


@dataclass(frozen=True)
class Target:
    """A kind of device. `kind` and `abi` are those of its Fingerprint. `allowed` are the libraries that every such
    device has, and `versions` their symbol versions; a runner may need no others.
    """

    kind: str  # android, linux
    abi: str
    machine: str
    preset: str
    page_bytes: int  # the largest in use
    allowed: frozenset[str]
    versions: re.Pattern[str]

    def __str__(self) -> str:
        return f"{self.kind} {self.abi}"

    @property
    def folder(self) -> Path:
        """Where its binaries are kept; see `cache_folder`."""
        return cache_folder() / "binaries" / f"{self.kind}-{self.abi}"


# Bionic's symbols up to API 24, the oldest that LiteRT runs on; LIBC_O came with 26 (bionic/libc/libc.map.txt).
_BIONIC = (frozenset({"libc.so", "libm.so", "libdl.so"}), re.compile(r"LIBC|LIBC_N"))
_GLIBC = re.compile(r"GLIBC_[0-9.]+")
_GLIBC_LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
TARGETS = (
    Target("android", "arm64-v8a", "aarch64", "android-arm64", PAGE_16K, *_BIONIC),
    Target("android", "x86_64", "x86_64", "android-x86_64", PAGE_16K, *_BIONIC),
    Target("linux", "aarch64", "aarch64", "linux-aarch64", 64 << 10,
           frozenset(_GLIBC_LIBRARIES | {"ld-linux-aarch64.so.1"}), _GLIBC),
    Target("linux", "x86_64", "x86_64", "linux-x86_64", 4 << 10,
           frozenset(_GLIBC_LIBRARIES | {"ld-linux-x86-64.so.2"}), _GLIBC),
)  # fmt: skip


@dataclass(frozen=True)
class Binaries:
    """`files` by their names on the device, where they share one folder. `digest` identifies the set."""

    files: dict[str, Path]
    digest: str


def find_target(kind: str, abi: str) -> Target:
    """The target for a device of `kind` and `abi`. Raises EdgeMtpError when LiteRT does not support such a device."""
    for target in TARGETS:
        if (target.kind, target.abi) == (kind, abi):
            return target
    known = ", ".join(target.abi for target in TARGETS if target.kind == kind)
    raise EdgeMtpError(f"nothing runs on {kind} with ABI '{abi}'; LiteRT is made for {known or 'android and linux'}")


def binaries_for(kind: str, abi: str) -> Binaries:
    """The binaries for a device with this `kind` (android or linux) and `abi`, both as in its Fingerprint.

    They are the ones that `edge-mtp setup` put in the cache folder. A Linux device of the same kind as this machine
    gets the installed ones, unless setup was given a runner for it.

    Raises EdgeMtpError, with the command to run, for an unknown ABI or a missing file.
    """
    target = find_target(kind, abi)
    runner = target.folder / RUNNER
    if is_this_machine(target):
        files = {
            RUNNER: runner if runner.is_file() else host.runner_path(),
            **_libraries(host.litert_library().parent),
        }
    else:
        files = {RUNNER: runner, **installed_libraries(target)}
        if LITERT not in files:
            raise EdgeMtpError(f"no LiteRT library for {target} yet; run 'edge-mtp setup {kind} --abi {abi}'")
        if not runner.is_file():
            raise EdgeMtpError(f"no runner for {target} yet; {how_to_build(target)}")
    files = {**vendor_libraries(target), **files}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {sha256(path)}\n".encode())
    return Binaries(files, digest.hexdigest())


def is_this_machine(target: Target) -> bool:
    """Whether the binaries installed on this machine run on the target."""
    return target.kind == "linux" == sys.platform and target.machine == platform.machine()


def how_to_build(target: Target) -> str:
    preset = target.preset
    return (
        f"in a checkout of edge-mtp run 'cmake --preset {preset}', 'cmake --build --preset {preset}' and"
        f" 'edge-mtp setup {target.kind} --runner build/{preset}/device/native/{RUNNER}' (docs/building.md)"
    )


def installed_libraries(target: Target) -> dict[str, Path]:
    """The libraries that `add_libraries` put in the target's folder; empty if it has not run or a file is missing."""
    record = _record(target)
    files = {name: target.folder / name for name in record.get("files", {})}
    return files if all(path.is_file() for path in files.values()) else {}


def faults(elf: Elf, target: Target) -> list[str]:
    """Why a runner would not start on some device of the target, in a few words each; empty if it starts on all."""
    found = []
    if elf.machine != target.machine:
        found.append(f"it is for {elf.machine}")
    if not elf.is_program:
        found.append("it is no program")
    elif target.kind == "android" and not elf.position_independent:
        found.append("it is not position-independent")
    if elf.alignment < target.page_bytes:
        found.append(f"its segments are aligned to {elf.alignment} bytes, and pages may have {target.page_bytes}")
    if elf.text_relocations:
        found.append("it has text relocations")
    if elf.executable_stack:
        found.append("its stack is executable")
    found += [f"it needs {name}" for name in elf.needed if name not in target.allowed]
    for symbol in elf.undefined:
        # A version comes with a library's list of symbols, so no library promises an unversioned symbol.
        if symbol.library not in target.allowed or not target.versions.fullmatch(symbol.version or ""):
            found.append(f"it needs {symbol.name}" + (f"@{symbol.version}" if symbol.version else ""))
    return found


def add_runner(path: Path, kind: str) -> Target:
    """Checks a runner built for a kind of device, and stores it. Raises EdgeMtpError when it would not run there."""
    elf = read_elf(path)
    target = next((each for each in TARGETS if (each.kind, each.machine) == (kind, elf.machine)), None)
    if target is None:
        raise EdgeMtpError(f"'{path}' is for {elf.machine}, on which no LiteRT for {kind} runs; build another preset")
    found = faults(elf, target)
    if found:
        raise EdgeMtpError(f"'{path}' would not run on every {target}: {'; '.join(found[:4])}; {how_to_build(target)}")
    with _writing(target.folder / RUNNER) as part:
        shutil.copyfile(path, part)
        part.chmod(0o755)
    return target


def add_libraries(
    targets: list[Target],
    *,
    lock: Path | None = None,
    folder: Path | None = None,
    repository: str = maven.GOOGLE,
    progress: Progress = lambda what, done: None,
) -> None:
    """Puts LiteRT's libraries for `targets` in their folders, unless they are there already.

    Android's come from Google's Maven repository, Linux's from the Python package index, or both from `folder`. Each
    file's sha256 is recorded in `lock` (by default in the cache folder) and must match an earlier record. Raises
    EdgeMtpError, and changes nothing, when a file cannot be fetched or its hash differs.
    """
    lock = lock_file() if lock is None else lock
    _locked(lock)  # a damaged file is refused before the download
    with tempfile.TemporaryDirectory(prefix="edge-mtp-setup-") as work:
        for target in targets:
            if is_this_machine(target) or _is_complete(target, lock):
                continue
            archive, name = _archive(target, folder, repository, Path(work), progress)
            digest = sha256(archive)
            _compare(lock, name, digest)
            _unpack(archive, target, name, digest)
            # Recorded only now, so that later files are not compared with one that contained no libraries.
            write_json(lock, {**_locked(lock), name: digest})


def vendor_targets(path: Path, kind: str) -> list[Target]:
    """The targets of `kind` that can use a library of an accelerator's vendor, by its ELF header.

    A library for the CPU serves one ABI; one for Qualcomm's DSP serves the CPUs that have such a DSP beside them, which
    are ARM's. Raises EdgeMtpError for a file that no device of this kind can load.
    """
    if not _VENDOR_NAME.fullmatch(path.name):
        raise EdgeMtpError(f"'{path.name}' is no name of a library; keep its vendor's, such as libQnnHtp.so")
    if path.name in (RUNNER, LITERT):
        raise EdgeMtpError(f"'{path}' has the name of LiteRT's own library, which setup fetches; leave it out")
    machine = "aarch64" if read_machine(path) == HEXAGON else _library_machine(path)
    found = [target for target in TARGETS if (target.kind, target.machine) == (kind, machine)]
    if not found:
        raise EdgeMtpError(f"'{path}' is for {machine}, on which no LiteRT for {kind} runs; take another build of it")
    return found


def _library_machine(path: Path) -> str:
    elf = read_elf(path)
    if elf.is_program:
        raise EdgeMtpError(f"'{path}' is a program; name a library")
    return elf.machine


def add_vendor_library(path: Path, target: Target) -> None:
    """Stores a library that an accelerator of the target needs; it goes to devices beside the runner. Its sha256 is
    recorded. Raises EdgeMtpError when LiteRT has one of this name."""
    if path.name in _record(target).get("files", {}):
        raise EdgeMtpError(f"LiteRT {LITERT_VERSION} for {target} has its own {path.name}; leave it out")
    with _writing(target.folder / _VENDOR / path.name) as part:
        shutil.copyfile(path, part)
        digest = sha256(part)
    write_json(target.folder / _VENDOR_RECORD, {**vendor_record(target), path.name: digest})


def forget_vendor_library(name: str, targets: list[Target]) -> list[Target]:
    """Removes a library that `add_vendor_library` stored, and returns the targets that had it."""
    found = [target for target in targets if name in vendor_record(target)]
    for target in found:
        others = {kept: digest for kept, digest in vendor_record(target).items() if kept != name}
        write_json(target.folder / _VENDOR_RECORD, others)
        with contextlib.suppress(OSError):  # what is not recorded goes to no device
            (target.folder / _VENDOR / name).unlink()
    return found


def vendor_libraries(target: Target) -> dict[str, Path]:
    """The libraries that `add_vendor_library` stored. Raises EdgeMtpError when one is gone or was changed."""
    found = {}
    for name, digest in vendor_record(target).items():
        path = target.folder / _VENDOR / name
        if not path.is_file() or sha256(path) != digest:
            raise EdgeMtpError(
                f"'{path}' is gone or was changed; run 'edge-mtp setup {target.kind} --library' with {name} again, or"
                f" with --forget {name}"
            )
        found[name] = path
    return found


def vendor_record(target: Target) -> dict[str, str]:
    """The sha256 of each vendor's library by its name."""
    path = target.folder / _VENDOR_RECORD
    value = read_json(path, "record of libraries") if path.is_file() else {}
    if not isinstance(value, dict) or not all(
        isinstance(digest, str) and _VENDOR_NAME.fullmatch(name) for name, digest in value.items()
    ):
        raise EdgeMtpError(f"'{path}' is damaged; delete it and give the libraries to 'edge-mtp setup' again")
    return value


def lock_file() -> Path:
    """The default file in which hashes are recorded."""
    return cache_folder() / "binaries" / "lock.json"


def _archive(target: Target, folder: Path | None, repository: str, work: Path, progress: Progress) -> tuple[Path, str]:
    """A zip file with the target's libraries, and the name under which the lock file records it."""
    if target.kind == "android":
        if folder is not None:
            return maven.offline(ARCHIVE, folder), str(ARCHIVE)
        archive = work / ARCHIVE.file
        if not archive.is_file():  # another ABI of this run may have fetched it
            maven.download(ARCHIVE, archive, repository, progress)
        return archive, str(ARCHIVE)
    wheel = _wheel_in(folder, target) if folder is not None else _download_wheel(target, work, progress)
    return wheel, wheel.name


def _download_wheel(target: Target, work: Path, progress: Progress) -> Path:
    """Downloads with pip, which knows the user's index, proxy and certificates, and checks the index's hash."""
    progress(f"download ai-edge-litert {LITERT_VERSION} for {target}", 0.0)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
               "--no-deps", "--only-binary=:all:", f"--platform=manylinux_2_27_{target.machine}", f"--dest={work}",
               f"ai-edge-litert=={LITERT_VERSION}"]  # fmt: skip
    if importlib.util.find_spec("pip") is None:
        raise EdgeMtpError(f"{sys.executable} has no pip to fetch ai-edge-litert with; install pip, or give --from")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        cause = lines[-1] if lines else f"exit code {done.returncode}"
        raise EdgeMtpError(f"pip cannot download ai-edge-litert for {target}: {cause}; give --from FOLDER")
    return _wheel_in(work, target)


def _wheel_in(folder: Path, target: Target) -> Path:
    pattern = f"ai_edge_litert-{LITERT_VERSION}-*manylinux*_{target.machine}.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        raise EdgeMtpError(f"'{folder}' holds no {pattern}; get one from pypi.org, or name another folder")
    return found[-1]


def _unpack(archive: Path, target: Target, name: str, digest: str) -> None:
    inside = f"jni/{target.abi}/" if target.kind == "android" else "ai_edge_litert/"
    try:
        with zipfile.ZipFile(archive) as file, contextlib.ExitStack() as parts:
            members = {
                info.filename.removeprefix(inside): info
                for info in file.infolist()
                if info.filename.startswith(inside) and _LIBRARY.fullmatch(info.filename.removeprefix(inside))
            }
            if LITERT not in members:
                raise EdgeMtpError(f"{name} holds no {inside}{LITERT}; get the file of release {LITERT_VERSION}")
            hashes = {}
            for library, info in members.items():
                if info.file_size > LARGEST_LIBRARY:
                    raise EdgeMtpError(f"{library} in {name} is larger than {LARGEST_LIBRARY >> 20} MiB; not used")
                part = parts.enter_context(_writing(target.folder / library))
                with file.open(info) as source, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                elf = read_elf(part)
                if elf.machine != target.machine or elf.is_program:
                    raise EdgeMtpError(f"{library} in {name} is no library for {target.machine}; not used")
                hashes[library] = sha256(part)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise EdgeMtpError(f"{name} is no whole archive ({error}); fetch it again") from error
    write_json(target.folder / _RECORD, {"archive": name, "sha256": digest, "files": hashes})


def _is_complete(target: Target, lock: Path) -> bool:
    record = _record(target)
    if not record or _locked(lock).get(str(record.get("archive"))) != record.get("sha256"):
        return False
    files = {target.folder / name: digest for name, digest in record["files"].items()}
    current = LITERT_VERSION in str(record["archive"])
    return current and all(path.is_file() and sha256(path) == digest for path, digest in files.items())


def _record(target: Target) -> dict[str, Any]:
    path = target.folder / _RECORD
    value = read_json(path, "record of libraries") if path.is_file() else {}
    if not isinstance(value, dict) or not isinstance(value.get("files", {}), dict):
        raise EdgeMtpError(f"'{path}' is damaged; delete it and run 'edge-mtp setup {target.kind}'")
    return value


def _locked(lock: Path) -> dict[str, Any]:
    value = read_json(lock, "lock file") if lock.is_file() else {}
    if not isinstance(value, dict):
        raise EdgeMtpError(f"lock file '{lock}' is damaged; restore it")
    return value


def _compare(lock: Path, name: str, digest: str) -> None:
    recorded = _locked(lock).get(name)
    if recorded is not None and recorded != digest:
        raise EdgeMtpError(
            f"{name} has sha256 {digest}, and '{lock}' says {recorded}; a published file does not change, so find out"
            " why before you remove that line"
        )


def _libraries(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if _LIBRARY.fullmatch(path.name)}


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` at the end, or is deleted on an error. Raises EdgeMtpError when it cannot
    be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise EdgeMtpError(
            f"cannot write '{path}': {error.strerror or error}; make room, or mend the folder"
        ) from error
