"""Binaries for other devices: what is fetched, checked, kept and refused, with a Maven repository on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_mtp.cli import main
from edge_mtp.device import binaries, maven
from edge_mtp.device.binaries import ARCHIVE, LITERT, RUNNER, binaries_for, faults, find_target
from edge_mtp.device.elf import Elf, read_elf
from edge_mtp.device.host import litert_library
from edge_mtp.errors import EdgeMtpError

CC = shutil.which("cc") or shutil.which("gcc")
PHONE, EMULATOR = find_target("android", "arm64-v8a"), find_target("android", "x86_64")
BOARD, PC = find_target("linux", "aarch64"), find_target("linux", "x86_64")
HERE = next((target for target in (PC, BOARD) if binaries.is_this_machine(target)), None)
VERSIONS = f"/{ARCHIVE.folder}/maven-metadata.xml"
AAR = f"/{ARCHIVE.folder}/{ARCHIVE.version}/{ARCHIVE.file}"

needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler")


# What is compiled here: programs and libraries for this machine, and, so that both ABIs of Android occur, copies that
# claim to be for the other one.


def build(folder: Path, name: str, source: str, *flags: str) -> Path:
    assert CC is not None
    path = folder / name
    subprocess.run([CC, "-x", "c", "-", "-x", "none", "-o", path, *flags], input=source.encode(), check=True)
    return path


def claiming(path: Path, machine: str) -> bytes:
    """The file, said to be for another machine."""
    number = {"x86_64": 62, "aarch64": 183}[machine]
    data = path.read_bytes()
    return data[:18] + number.to_bytes(2, "little") + data[20:]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library that needs nothing."""
    return build(tmp_path_factory.mktemp("library"), LITERT, "int f(void) { return 1; }", "-shared", "-nostdlib")


@pytest.fixture(scope="session")
def bionic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libc.so whose symbols have Bionic's versions, as the NDK's stubs do."""
    folder = tmp_path_factory.mktemp("bionic")
    script = folder / "versions"
    script.write_text(
        "LIBC { global: old; local: *; }; LIBC_N { global: new; } LIBC; LIBC_O { global: later; } LIBC_N;"
    )
    source = "void old(void) {} void new(void) {} void later(void) {} "
    flags = ["-shared", "-nostdlib", "-Wl,-soname,libc.so"]
    build(folder, "libc.so", source, *flags, f"-Wl,--version-script={script}")
    (folder / "unversioned").mkdir()
    build(folder / "unversioned", "libc.so", source, *flags)
    return folder


def android_program(folder: Path, bionic: Path, body: str, *flags: str) -> Path:
    source = f"void old(void); void new(void); void later(void); void _start(void) {{ {body} }}"
    page = [] if any("max-page-size" in flag for flag in flags) else ["-Wl,-z,max-page-size=16384"]
    return build(folder, "runner", source, "-nostdlib", "-fPIE", "-pie", *page, *flags, str(bionic / "libc.so"))


@pytest.fixture
def runners(tmp_path: Path, bionic: Path) -> dict[str, Path]:
    """By machine, a runner for Android."""
    made = android_program(tmp_path, bionic, "old(); new();")
    found = {}
    for machine in ("x86_64", "aarch64"):
        found[machine] = tmp_path / f"runner-{machine}"
        found[machine].write_bytes(claiming(made, machine))
    return found


# A Maven repository.


@dataclass
class Repository:
    """Files by path, and how they are served: `status` by path, a redirect, or a connection that breaks half-way."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def publish(self, aar: bytes, *algorithms: str) -> None:
        self.files = {AAR: aar, VERSIONS: b"<metadata><versions><version>2.1.0</version></versions></metadata>"}
        for algorithm in algorithms:
            self.files[f"{AAR}.{algorithm}"] = hashlib.new(algorithm, aar).hexdigest().encode()

    def __enter__(self) -> Repository:
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                repository.requests.append(self.path)
                target = repository.redirects.get(self.path)
                status = (
                    302 if target else repository.status.get(self.path, 200 if self.path in repository.files else 404)
                )
                body = repository.files[self.path] if status == 200 else b""
                self.send_response(status)
                if target:
                    self.send_header("Location", target)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if repository.cut and self.path == AAR else body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository() as repository:
        yield repository


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-mtp" / "binaries"


def archive(library: Path, folder: Path, **changes: bytes | None) -> bytes:
    """An AAR as Google's: libraries for four ABIs, Java, and what is for apps only."""
    members: dict[str, bytes | None] = {"AndroidManifest.xml": b"<manifest/>", "classes.jar": b"PK"}
    for abi, machine in (("arm64-v8a", "aarch64"), ("x86_64", "x86_64")):
        data = claiming(library, machine)
        for name in (LITERT, "libLiteRtClGlAccelerator.so", "liblitert_jni.so"):
            members[f"jni/{abi}/{name}"] = data + name.encode()
    members["jni/armeabi-v7a/libLiteRt.so"] = b"\x7fELF\x01"
    members |= {name.replace("__", "/").replace("_so", ".so"): data for name, data in changes.items()}
    path = folder / "made.aar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)
    return path.read_bytes()


def setup(*arguments: str | Path) -> Any:
    """What `edge-mtp setup ... --json` prints."""
    result = CliRunner().invoke(main, ["setup", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, ["setup", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("[")]  # without progress
    assert len(lines) == 1
    return lines[0]


def half_written(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".part")]


@needs_cc
def test_from_nothing_to_binaries(
    repository: Repository, library: Path, runners: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(
        EdgeMtpError, match=r"^no LiteRT library for android arm64-v8a yet; run 'edge-mtp setup android"
    ):
        binaries_for("android", "arm64-v8a")
    aar = archive(library, tmp_path)
    repository.publish(aar, "sha1", "sha256")
    told = setup("android", "--maven", repository.url)
    assert [(state["abi"], sorted(state["files"])) for state in told["targets"]] == [
        (abi, [LITERT, "libLiteRtClGlAccelerator.so"]) for abi in ("arm64-v8a", "x86_64")
    ]
    for state in told["targets"]:
        assert re.search(r"^no runner for android .*cmake --preset android-.*--runner", state["missing"])
    with pytest.raises(EdgeMtpError, match="no runner for android x86_64 yet"):
        binaries_for("android", "x86_64")

    told = setup("android", "--maven", repository.url, "--runner", runners["aarch64"], "--runner", runners["x86_64"])
    digests = set()
    for state in told["targets"]:
        found = binaries_for("android", state["abi"])
        assert state["missing"] is None
        assert state["digest"] == found.digest
        assert {name: str(path) for name, path in found.files.items()} == state["files"]
        machine = find_target("android", state["abi"]).machine
        assert sorted(found.files) == sorted([RUNNER, LITERT, "libLiteRtClGlAccelerator.so"])
        assert found.files[RUNNER].read_bytes() == runners[machine].read_bytes()
        assert os.access(found.files[RUNNER], os.X_OK)
        assert found.files[LITERT].read_bytes() == claiming(library, machine) + LITERT.encode()
        digests.add(found.digest)
    assert len(digests) == 2
    assert json.loads((cache / "lock.json").read_text()) == {str(ARCHIVE): hashlib.sha256(aar).hexdigest()}
    assert half_written(cache) == []


@needs_cc
def test_the_digest_tells_sets_apart(
    repository: Repository, library: Path, runners: dict[str, Path], tmp_path: Path
) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    setup("android", "--maven", repository.url, "--abi", "x86_64", "--runner", runners["x86_64"])
    found = binaries_for("android", "x86_64")
    assert binaries_for("android", "x86_64") == found
    for path in found.files.values():
        before = path.read_bytes()
        path.write_bytes(before + b"\0")
        assert binaries_for("android", "x86_64").digest != found.digest
        path.write_bytes(before)
    assert binaries_for("android", "x86_64") == found


HEXAGON_SKEL = b"\x7fELF\x01\x01" + bytes(12) + (164).to_bytes(2, "little") + bytes(100)  # 32 bits


@pytest.fixture
def vendor(tmp_path: Path, library: Path) -> dict[str, Path]:
    """Libraries as an NPU's vendor gives them: a dispatch library for each ABI, and one for the DSP."""
    folders = {machine: tmp_path / machine for machine in ("aarch64", "x86_64")}
    found = {}
    for machine, folder in folders.items():
        folder.mkdir()
        found[machine] = folder / "libLiteRtDispatch_Qualcomm.so"
        found[machine].write_bytes(claiming(library, machine))
    found["skel"] = tmp_path / "libQnnHtpV79Skel.so"
    found["skel"].write_bytes(HEXAGON_SKEL)
    return found


@needs_cc
def test_libraries_of_a_vendor_go_to_the_devices_that_can_load_them(
    repository: Repository,
    library: Path,
    runners: dict[str, Path],
    vendor: dict[str, Path],
    tmp_path: Path,
    cache: Path,
) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    fetch = ("android", "--maven", repository.url)
    setup(*fetch, "--runner", runners["aarch64"], "--runner", runners["x86_64"])
    before = {abi: binaries_for("android", abi) for abi in ("arm64-v8a", "x86_64")}
    told = setup(*fetch, "--library", vendor["aarch64"], "--library", vendor["skel"])
    states = {state["abi"]: state for state in told["targets"]}
    names = {"libLiteRtDispatch_Qualcomm.so", "libQnnHtpV79Skel.so"}
    assert states["arm64-v8a"]["vendor"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (vendor["aarch64"], vendor["skel"])
    }
    assert states["x86_64"]["vendor"] == {}
    assert binaries_for("android", "x86_64") == before["x86_64"]
    found = binaries_for("android", "arm64-v8a")
    assert set(found.files) - set(before["arm64-v8a"].files) == names
    assert found.digest != before["arm64-v8a"].digest
    assert found.files["libQnnHtpV79Skel.so"].read_bytes() == HEXAGON_SKEL

    shown = CliRunner().invoke(main, ["setup", *fetch, "--library", str(vendor["x86_64"])])
    assert f"from --library: {vendor['x86_64'].name}, sha256 " in shown.output
    assert set(binaries_for("android", "x86_64").files) - set(before["x86_64"].files) == {vendor["x86_64"].name}

    for name in names:
        setup(*fetch, "--forget", name)
    assert {abi: binaries_for("android", abi) for abi in before} == before
    assert refused(*fetch, "--forget", "libQnnHtp.so").startswith("Error: no library 'libQnnHtp.so' is stored")
    assert half_written(cache) == []


@needs_cc
def test_a_vendors_library_survives_another_setup_and_never_replaces_one_of_litert(
    repository: Repository,
    library: Path,
    runners: dict[str, Path],
    vendor: dict[str, Path],
    tmp_path: Path,
    cache: Path,
) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    fetch = ("android", "--maven", repository.url, "--abi", "arm64-v8a")
    setup(*fetch, "--runner", runners["aarch64"], "--library", vendor["aarch64"])
    (cache / "android-arm64-v8a" / LITERT).unlink()
    setup(*fetch)
    assert vendor["aarch64"].name in binaries_for("android", "arm64-v8a").files
    for name in (LITERT, "libLiteRtClGlAccelerator.so"):
        own = vendor["aarch64"].with_name(name)
        own.write_bytes(vendor["aarch64"].read_bytes())
        assert "leave it out" in refused(*fetch, "--library", own)
    kept = cache / "android-arm64-v8a" / "vendor" / vendor["aarch64"].name
    kept.write_bytes(b"something else")
    with pytest.raises(EdgeMtpError, match="is gone or was changed; run 'edge-mtp setup android --library' with"):
        binaries_for("android", "arm64-v8a")
    setup(*fetch, "--library", vendor["aarch64"])
    assert binaries_for("android", "arm64-v8a").files[kept.name] == kept


@needs_cc
@pytest.mark.parametrize(
    ("kind", "name", "content", "words"),
    [
        ("android", "libQnn.so", b"no library", "is no 64-bit ELF file"),
        ("android", "lib Qnn.so", HEXAGON_SKEL, "is no name of a library"),
        ("android", "..so", HEXAGON_SKEL, "is no name of a library"),
        ("android", "qnn.bin", HEXAGON_SKEL, "is no name of a library"),
        ("android", "libQnn.so", None, "cannot read"),
        ("android", "libQnn.so", "riscv64", "on which no LiteRT for android runs"),
        ("linux", "libQnn.so", "a program", "is a program; name a library"),
    ],
)
def test_what_no_device_could_load_is_refused(
    library: Path,
    bionic: Path,
    tmp_path: Path,
    cache: Path,
    kind: str,
    name: str,
    content: bytes | str | None,
    words: str,
) -> None:
    path = tmp_path / name
    if content == "a program":
        path.write_bytes(android_program(tmp_path, bionic, "old();").read_bytes())
    elif content == "riscv64":
        data = library.read_bytes()
        path.write_bytes(data[:18] + (243).to_bytes(2, "little") + data[20:])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert words in refused(kind, "--library", path)
    assert not cache.exists()


@needs_cc
def test_fetched_once(repository: Repository, library: Path, tmp_path: Path, cache: Path) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    setup("android", "--maven", repository.url)
    assert repository.requests.count(AAR) == 1  # for both ABIs
    repository.requests.clear()
    setup("android", "--maven", repository.url)
    assert repository.requests == []
    for spoil in ("unlink", "damage"):
        path = cache / "android-x86_64" / LITERT
        good = path.read_bytes()
        path.unlink() if spoil == "unlink" else path.write_bytes(good[:-1] + b"?")
        setup("android", "--maven", repository.url)
        assert path.read_bytes() == good
        assert AAR in repository.requests
        repository.requests.clear()


@needs_cc
@pytest.mark.parametrize("algorithms", [("sha1",), ("md5", "sha256"), ("sha1", "sha256", "sha512")])
def test_the_strongest_checksum_decides(
    repository: Repository, library: Path, tmp_path: Path, cache: Path, algorithms: tuple[str, ...]
) -> None:
    repository.publish(archive(library, tmp_path), *algorithms)
    good = dict(repository.files)
    strongest = f"{AAR}.{algorithms[-1]}"
    repository.files[strongest] = b"0" * len(good[strongest])
    line = refused("android", "--maven", repository.url)
    assert f"has {algorithms[-1]} {good[strongest].decode()}, and its repository publishes 000" in line
    assert not list(cache.glob("*/lib*"))
    assert not (cache / "lock.json").exists()
    repository.files[strongest] = good[strongest].upper() + b"  " + ARCHIVE.file.encode() + b"\n"
    for weaker in algorithms[:-1]:
        repository.files[f"{AAR}.{weaker}"] = b"0" * 40
    setup("android", "--maven", repository.url)


@needs_cc
def test_a_file_that_changed_after_it_was_recorded(
    repository: Repository, library: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own repository vouches for it, the lock file does not: here, and on another machine with the same lock."""
    lock = tmp_path / "shared.json"
    first = archive(library, tmp_path)
    repository.publish(first, "sha256")
    assert setup("android", "--maven", repository.url, "--lock", lock)["lock"] == str(lock)
    kept = lock.read_text()
    repository.publish(archive(library, tmp_path, classes_jar=b"other"), "sha256")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    line = refused("android", "--maven", repository.url, "--lock", lock)
    assert str(lock) in line
    assert hashlib.sha256(first).hexdigest() in line
    assert hashlib.sha256(repository.files[AAR]).hexdigest() in line
    assert lock.read_text() == kept
    assert not list((tmp_path / "another machine").rglob("lib*"))
    repository.publish(first, "sha256")
    setup("android", "--maven", repository.url, "--lock", lock)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("cut", r"broke off after \d+ of \d+ bytes; run again"),
        ("version", r"has no com\.google\.ai\.edge\.litert:litert:2\.3\.0, only 2\.1\.0"),
        ("artifact", r"has no com\.google\.ai\.edge\.litert:litert; name another repository"),
        ("no checksum", r"has no checksum beside it, so it is not used"),
        ("a page instead of a checksum", r"holds no sha1 checksum: b'<html>'; run again"),
        ("500", r"answers 503 .* try later, or give --from FOLDER"),
        ("redirect", r"'http://example\.com/litert\.aar' is not https"),
        ("off", r"cannot reach 127\.0\.0\.1:\d+: .*refused.*--from FOLDER"),
    ],
)
def test_a_repository_that_fails(repository: Repository, cache: Path, fault: str, expected: str) -> None:
    repository.publish(b"x" * 100_000, "sha1")
    url = repository.url
    if fault == "cut":
        repository.cut = True
    elif fault == "version":
        repository.files = {VERSIONS: repository.files[VERSIONS]}
    elif fault == "artifact":
        repository.files = {}
    elif fault == "no checksum":
        del repository.files[f"{AAR}.sha1"]
        repository.files[VERSIONS] = b"<version>2.1.0</version>\n<version> 2.3.0 </version>"
    elif fault == "a page instead of a checksum":
        repository.files[f"{AAR}.sha1"] = b"<html>"
    elif fault == "500":
        repository.status[AAR] = 503
    elif fault == "redirect":
        repository.redirects[AAR] = "http://example.com/litert.aar"
    else:
        url = "http://127.0.0.1:1"
    assert re.search(expected, refused("android", "--maven", url))
    assert not list(cache.rglob("*"))


@pytest.mark.parametrize("url", ["http://example.com/maven2", "file:///etc", "ftp://127.0.0.1/"])
def test_only_safe_addresses(url: str) -> None:
    assert "is not https; give the https address of a repository" in refused("android", "--maven", url)


@needs_cc
def test_a_repository_that_moved(repository: Repository, library: Path, tmp_path: Path) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    repository.files["/moved"] = repository.files[AAR]
    repository.redirects[AAR] = f"{repository.url}/moved"
    told = setup("android", "--maven", repository.url)
    assert all(LITERT in state["files"] for state in told["targets"])
    assert repository.requests.count("/moved") == 1


@needs_cc
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"jni__arm64-v8a__libLiteRt_so": None}, "holds no jni/arm64-v8a/libLiteRt.so"),
        ({"jni__arm64-v8a__libLiteRt_so": b"text"}, "is no 64-bit ELF file"),
        ({"jni__arm64-v8a__libLiteRtClGlAccelerator_so": b"\x7fELF\x02\x01"}, "is damaged or cut short"),
        ("x86_64", "libLiteRt.so in com.google.ai.edge.litert:litert:2.3.0@aar is no library for aarch64"),
        ("no archive", "is no whole archive"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be(
    repository: Repository, library: Path, tmp_path: Path, cache: Path, changes: Any, expected: str
) -> None:
    if changes == "x86_64":
        changes = {"jni__arm64-v8a__libLiteRt_so": claiming(library, "x86_64")}
    repository.publish(b"PK nonsense" if changes == "no archive" else archive(library, tmp_path, **changes), "sha1")
    assert expected in refused("android", "--maven", repository.url)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@needs_cc
def test_a_failure_leaves_what_was_there(repository: Repository, library: Path, tmp_path: Path, cache: Path) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    setup("android", "--maven", repository.url)
    (cache / "lock.json").unlink()  # so that all is fetched again
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    repository.publish(archive(library, tmp_path, **{"jni__arm64-v8a__libLiteRtClGlAccelerator_so": b"text"}), "sha1")
    refused("android", "--maven", repository.url)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before


@needs_cc
@pytest.mark.parametrize("layout", ["files", "repository"])
def test_a_folder_instead_of_a_network(library: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "downloads"
    place = folder / f".{AAR}" if layout == "repository" else folder / ARCHIVE.file
    place.parent.mkdir(parents=True)
    assert f"holds no {ARCHIVE.file}" in refused("android", "--from", folder)
    place.write_bytes(archive(library, tmp_path))
    beside = place.with_name(place.name + ".sha1")
    beside.write_text("0" * 40)
    assert f"does not have the sha1 in {beside.name}" in refused("android", "--from", folder)
    beside.write_text(hashlib.sha1(place.read_bytes()).hexdigest())
    assert {LITERT, "libLiteRtClGlAccelerator.so"} == set(setup("android", "--from", folder)["targets"][0]["files"])
    assert "is not a folder" in refused("android", "--from", folder / "absent")


def test_wheels_for_boards(tmp_path: Path, library: Path) -> None:
    other = BOARD if HERE is PC else PC
    wheel = tmp_path / f"ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_{other.machine}.whl"
    assert f"manylinux*_{other.machine}.whl" in refused("linux", "--abi", other.abi, "--from", tmp_path)
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"ai_edge_litert/{LITERT}", claiming(library, other.machine))
        file.writestr("ai_edge_litert/libLiteRtWebGpuAccelerator.so", claiming(library, other.machine))
        file.writestr("ai_edge_litert/libpywrap_litert_common.so", b"for Python")
    told = setup("linux", "--from", tmp_path)
    assert [(state["abi"], sorted(state["files"])) for state in told["targets"]] == [
        (other.abi, [LITERT, "libLiteRtWebGpuAccelerator.so"])
    ]


@needs_cc
def test_wheels_by_pip(tmp_path: Path, library: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's pip is configured: here for a folder and no index."""
    pytest.importorskip("pip")
    other = BOARD if HERE is PC else PC
    (folder := tmp_path / "index").mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    line = refused("linux", "--abi", other.abi)
    assert re.search(rf"pip cannot download ai-edge-litert for {other}: ERROR: .*; give --from FOLDER$", line)
    assert not list(cache.rglob("*"))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = folder / f"ai_edge_litert-2.3.0-{python}-{python}-manylinux_2_27_{other.machine}.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"ai_edge_litert/{LITERT}", claiming(library, other.machine))
        file.writestr(
            "ai_edge_litert-2.3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: 2.3.0\n"
        )
        file.writestr("ai_edge_litert-2.3.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {python}-{python}-any\n")
        file.writestr("ai_edge_litert-2.3.0.dist-info/RECORD", "")
    assert set(setup("linux", "--abi", other.abi)["targets"][0]["files"]) == {LITERT}
    assert json.loads((cache / "lock.json").read_text()) == {wheel.name: hashlib.sha256(wheel.read_bytes()).hexdigest()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(repository: Repository, tmp_path: Path) -> None:
    repository.publish(bytes(1 << 20), "sha1")
    (tmp_path / "target").symlink_to("/dev/full")
    with pytest.raises(EdgeMtpError, match=f"^the disk of '{tmp_path}' is full; make room and run again$"):
        maven.download(ARCHIVE, tmp_path / "target", repository.url, lambda what, done: None)


def test_progress_counts_bytes(repository: Repository, tmp_path: Path) -> None:
    repository.publish(bytes(1 << 20), "sha1")
    told: list[tuple[str, float]] = []
    maven.download(ARCHIVE, tmp_path / "aar", repository.url, lambda what, done: told.append((what, done)))
    assert {what for what, _ in told} == {f"download {ARCHIVE.file}"}
    fractions = [done for _, done in told]
    assert fractions == sorted(fractions)
    assert len(fractions) > 2
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_a_damaged_lock_file(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text(content)
    other = BOARD if HERE is PC else PC
    assert str(lock) in refused("linux", "--abi", other.abi, "--from", tmp_path, "--lock", lock)
    assert lock.read_text() == content


@pytest.mark.skipif(HERE is None, reason="neither x86_64 nor aarch64 Linux")
def test_a_board_like_this_machine_gets_what_is_installed() -> None:
    assert HERE is not None
    found = binaries_for("linux", HERE.abi)
    assert found.files[LITERT] == litert_library()
    assert os.access(found.files[RUNNER], os.X_OK)
    assert read_elf(found.files[RUNNER]).machine == HERE.machine


@needs_cc
@pytest.mark.skipif(HERE is None, reason="neither x86_64 nor aarch64 Linux")
def test_a_board_like_this_machine_but_older(tmp_path: Path) -> None:
    """Its runner may have to be another one than this machine's."""
    assert HERE is not None
    before = binaries_for("linux", HERE.abi)
    program = build(tmp_path, "older", "int main(void) { return 0; }")
    (state,) = setup("linux", "--abi", HERE.abi, "--runner", program)["targets"]
    after = binaries_for("linux", HERE.abi)
    assert after.files[RUNNER].read_bytes() == program.read_bytes()
    assert after.files[LITERT] == before.files[LITERT]
    assert after.digest == state["digest"] != before.digest


@needs_cc
def test_what_a_person_is_shown(
    repository: Repository, library: Path, runners: dict[str, Path], tmp_path: Path
) -> None:
    repository.publish(archive(library, tmp_path), "sha1")
    result = CliRunner().invoke(
        main, ["setup", "android", "--maven", repository.url, "--runner", str(runners["aarch64"])]
    )
    assert result.stdout.splitlines()[0] == f"android arm64-v8a: {RUNNER}, {LITERT}, libLiteRtClGlAccelerator.so"
    assert result.stdout.splitlines()[1] == f"android x86_64: {LITERT}, libLiteRtClGlAccelerator.so"
    assert result.stdout.splitlines()[2].startswith("  no runner for android x86_64 yet; in a checkout of edge-mtp run")
    assert "download litert-2.3.0.aar" in result.stderr


@pytest.mark.parametrize(
    ("abi", "kind"), [("armeabi-v7a", "android"), ("riscv64", "linux"), ("", "linux"), ("x86_64", "os")]
)
def test_an_abi_without_litert(abi: str, kind: str) -> None:
    with pytest.raises(EdgeMtpError, match=f"nothing runs on {kind} with ABI '{abi}'; LiteRT is made for "):
        binaries_for(kind, abi)


@needs_cc
def test_runners_that_are_refused(tmp_path: Path, library: Path, bionic: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    assert "is no 64-bit ELF file" in refused("android", "--runner", text)
    assert "cannot read" in refused("android", "--runner", tmp_path / "absent")
    assert "it is no program" in refused("android", "--runner", library)
    program = android_program(tmp_path, bionic, "old();", "-Wl,-z,max-page-size=4096")
    assert "aligned to 4096 bytes, and pages may have 16384" in refused("android", "--runner", program)
    riscv = tmp_path / "riscv"
    riscv.write_bytes(program.read_bytes()[:18] + b"\xf3\0" + program.read_bytes()[20:])
    assert "is for ELF machine 243, on which no LiteRT for android runs" in refused("android", "--runner", riscv)
    assert not list((tmp_path / "cache").rglob(RUNNER))


@needs_cc
@pytest.mark.skipif(HERE is None, reason="neither x86_64 nor aarch64 Linux")
def test_what_keeps_an_android_runner_from_starting(tmp_path: Path, bionic: Path) -> None:
    assert HERE is not None
    target = EMULATOR if HERE is PC else PHONE

    def found(body: str, *flags: str, stubs: Path = bionic) -> list[str]:
        return faults(read_elf(android_program(tmp_path, stubs, body, *flags)), target)

    assert found("old(); new();") == []
    assert found("later();") == ["it needs later@LIBC_O"]  # of API 26
    assert found("old();", stubs=bionic / "unversioned") == ["it needs old"]
    assert found("old();", "-Wl,-z,execstack") == ["its stack is executable"]
    assert found("old();", "-Wl,-z,max-page-size=65536") == []
    other = build(tmp_path, "libother.so", "void f(void) {}", "-shared", "-nostdlib", "-Wl,-soname,libother.so")
    assert found("extern void f(void); f();", str(other)) == ["it needs libother.so", "it needs f"]
    fixed = faults(read_elf(android_program(tmp_path, bionic, "old();", "-no-pie")), target)
    assert "it is not position-independent" in fixed
    wrong = EMULATOR if target is PHONE else PHONE
    assert faults(read_elf(android_program(tmp_path, bionic, "old();")), wrong) == [f"it is for {target.machine}"]


@needs_cc
@pytest.mark.skipif(HERE is not PC, reason="a text relocation of x86_64")
def test_text_relocations_are_seen(tmp_path: Path) -> None:
    source = '__asm__(".text\\n.globl f\\nf: .quad f\\n");'
    path = build(tmp_path, "libtext.so", source, "-shared", "-nostdlib", "-Wl,-z,notext")
    assert read_elf(path).text_relocations
    assert "it has text relocations" in faults(read_elf(path), PC)


@needs_cc
@pytest.mark.skipif(HERE is None, reason="neither x86_64 nor aarch64 Linux")
def test_what_keeps_a_linux_runner_from_starting(tmp_path: Path) -> None:
    assert HERE is not None
    source = (
        '#include <math.h>\n#include <stdio.h>\nint main(int n, char **v) { return printf("%f", sin(n)) + (v != 0); }'
    )
    assert faults(read_elf(build(tmp_path, "good", source, "-lm")), HERE) == []
    cpp = tmp_path / "cpp"
    subprocess.run(
        [shutil.which("c++") or "g++", "-x", "c++", "-", "-o", cpp],
        input=b"#include <iostream>\nint main() { std::cout << 1; }",
        check=True,
    )
    assert "it needs libstdc++.so.6" in faults(read_elf(cpp), HERE)


# The reader, against readelf.


def readelf(path: Path) -> Elf:
    def lines(*options: str) -> list[str]:
        command = ["readelf", "-W", *options, str(path)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
        ).stdout.splitlines()

    header, segments, dynamic = lines("-h"), lines("-l"), lines("-d")
    rows = [line.split() for line in lines("--dyn-syms") if re.match(r" +\d+: ", line)]
    symbols = [(row[7].partition("@")[0], row[4], row[6]) for row in rows if len(row) > 7]
    stack = next((line.split()[6] for line in segments if "GNU_STACK" in line), "E")
    machine = next(line for line in header if "Machine:" in line)
    return Elf(
        machine="aarch64" if "AArch64" in machine else "x86_64" if "X86-64" in machine else machine,
        is_program=any("INTERP" in line for line in segments),
        position_independent=any("Type:" in line and "DYN" in line for line in header),
        alignment=min(int(line.split()[-1], 16) for line in segments if re.match(r" +LOAD ", line)),
        needed=tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", "\n".join(dynamic))),
        undefined=tuple(name for name, bind, at in symbols if at == "UND" and bind != "WEAK"),  # type: ignore[arg-type]
        exported=frozenset(name for name, _, at in symbols if at != "UND"),
        text_relocations=any("TEXTREL" in line for line in dynamic),
        executable_stack="E" in stack,
    )


def installed_files() -> list[Path]:
    found = [litert_library(), *litert_library().parent.glob("*.so")]
    found += [Path(path).resolve() for name in ("ls", "sh", "git", "python3") if (path := shutil.which(name))]
    return sorted({path for path in found if path.read_bytes()[:4] == b"\x7fELF"})


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
@pytest.mark.parametrize("path", installed_files(), ids=lambda path: path.name)
def test_what_readelf_reads(path: Path) -> None:
    ours, theirs = read_elf(path), readelf(path)
    assert [symbol.name for symbol in ours.undefined] == list(theirs.undefined)
    for name in ("machine", "is_program", "position_independent", "alignment", "needed", "exported"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.text_relocations, ours.executable_stack) == (theirs.text_relocations, theirs.executable_stack)
    text = subprocess.run(["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True, check=True).stdout
    versions = set(re.findall(r" UND (\S+)@(\S+)", text))
    assert {(symbol.name, symbol.version) for symbol in ours.undefined if symbol.version} <= versions


@needs_cc
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_in_one_line(library: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(library.read_bytes())
    del content[data.draw(st.integers(64, len(content))) :]
    # Most of what matters lies in the first KiB.
    places = st.integers(6, len(content) - 1) | st.integers(6, min(1023, len(content) - 1))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.so"
    path.write_bytes(content)
    try:
        refusal = ""
        assert isinstance(read_elf(path), Elf)
    except EdgeMtpError as error:
        refusal = str(error)
    assert not refusal or re.fullmatch(r"'.*' is damaged or cut short; build or fetch it again", refusal)
