"""The CMake presets: that each configures what it promises, and that a runner built for another machine runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import emulated_board
import pytest

from edge_mtp.device import Request, Sampling
from edge_mtp.device.binaries import (
    RUNNER,
    TARGETS,
    add_libraries,
    add_runner,
    binaries_for,
    find_target,
    is_this_machine,
)
from edge_mtp.device.elf import read_elf
from edge_mtp.device.host import HostDevice
from edge_mtp.device.load_options import LoadOptions
from edge_mtp.device.process import LocalProcess
from edge_mtp.device.runner import Runner
from edge_mtp.errors import EdgeMtpError

ROOT = Path(__file__).parents[2]
PRESETS = {
    preset["name"]: preset for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
}
CROSS = shutil.which("aarch64-linux-gnu-g++")
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")  # of the cross compiler: what a board has anyway

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")


@pytest.fixture(scope="module")
def unpacked() -> list[str]:
    """xgrammar's sources from another build, if there is one; otherwise CMake downloads them."""
    found = sorted(ROOT.glob("build/**/_deps/xgrammar/xgrammar-*/.unpacked"))
    return [f"-DXGRAMMAR_SOURCE_DIR={found[-1].parent}"] if found else []


def configure(preset: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "--preset", preset, "-S", str(ROOT), "-B", str(folder), *options]
    variables = {name: value for name, value in os.environ.items() if name != "ANDROID_NDK_HOME"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


def link_line(folder: Path) -> str:
    return (folder / "device/native/CMakeFiles/edge_mtp_runner.dir/link.txt").read_text()


def test_every_target_has_a_preset() -> None:
    assert {target.preset for target in TARGETS} == {
        name for name, preset in PRESETS.items() if not preset.get("hidden")
    }
    done = subprocess.run(["cmake", "--list-presets"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r'"(.*?)"', done.stdout)) == {target.preset for target in TARGETS}
    for target in TARGETS:
        if target.kind == "android":
            assert PRESETS[target.preset]["cacheVariables"]["ANDROID_ABI"] == target.abi


@pytest.mark.parametrize("home", ["", "/absent/ndk"])
def test_without_an_ndk(tmp_path: Path, home: str) -> None:
    done = configure("android-arm64", tmp_path, ANDROID_NDK_HOME=home)
    assert done.returncode != 0
    assert re.search(
        rf"ANDROID_NDK_HOME\s+\('{home}'\)\s+is\s+not\s+the\s+folder\s+of\s+an\s+Android\s+NDK;", done.stderr
    )
    assert "sdkmanager" in done.stderr


@pytest.mark.parametrize("preset", ["android-arm64", "android-x86_64"])
def test_what_the_ndk_is_asked_for(tmp_path: Path, unpacked: list[str], preset: str) -> None:
    """With a stand-in for the NDK's toolchain file, which tells what it was given: variables before, options after."""
    toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.write_text(
        "get_property(trying GLOBAL PROPERTY IN_TRY_COMPILE)\n"
        "if(NOT trying)\n"
        f'  file(WRITE {tmp_path}/asked "${{ANDROID_ABI}} ${{ANDROID_PLATFORM}} ${{ANDROID_STL}}")\n'
        "endif()\n"
        "set(CMAKE_SYSTEM_NAME Linux)\n"
    )
    done = configure(preset, tmp_path / "out", *unpacked, ANDROID_NDK_HOME=str(tmp_path / "ndk"))
    assert done.returncode == 0, done.stderr
    abi = next(target.abi for target in TARGETS if target.preset == preset)
    assert (tmp_path / "asked").read_text() == f"{abi} android-24 c++_static"
    assert " -Wl,-z,max-page-size=16384 -s " in link_line(tmp_path / "out")


@pytest.mark.skipif(CROSS is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(sys.platform != "linux", reason="not Linux")
def test_a_runner_for_boards_brings_its_c_plus_plus(tmp_path: Path, unpacked: list[str]) -> None:
    done = configure("linux-aarch64", tmp_path, *unpacked)
    assert done.returncode == 0, done.stderr
    line = link_line(tmp_path)
    assert line.startswith(("/usr/bin/aarch64-linux-gnu-g++", str(CROSS)))
    assert "-static-libstdc++ -static-libgcc -s" in line


@pytest.mark.slow
@pytest.mark.skipif(CROSS is None or not LIBRARIES.is_dir(), reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(QEMU is None, reason="no qemu-aarch64 (qemu-user-static)")
@pytest.mark.skipif(is_this_machine(find_target("linux", "aarch64")), reason="this is an aarch64 machine")
def test_an_aarch64_runner_gives_the_tokens_of_this_machine(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built by the preset, checked and kept as `edge-mtp setup` does, and emulated, with LiteRT's aarch64 wheel."""
    runner = emulated_board.runner()
    assert set(read_elf(runner).needed) <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = add_runner(runner, "linux")
    assert target.abi == "aarch64"
    try:
        add_libraries([target])
    except EdgeMtpError as error:
        pytest.skip(str(error))
    files = binaries_for("linux", "aarch64").files

    # LiteRT's choice of kernels reads /proc/cpuinfo, where it would find this machine's.
    system = tmp_path / "system"
    (system / "proc").mkdir(parents=True)
    (system / "lib").symlink_to(LIBRARIES)
    (system / "proc" / "cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        "CPU part\t: 0xd03\nCPU revision\t: 4\n\n"
    )
    command = [str(QEMU), "-L", str(system), str(files[RUNNER]), "--bundle", str(tiny_bundle)]
    command += ["--litert", str(files["libLiteRt.so"]), "--threads", "1"]
    prompt = list(range(40, 90))
    requests = [
        Request(prompt, 40, draft_length=length, sampling=sampling)
        for length in (0, 1, 4, 7)
        for sampling in (Sampling(), Sampling(temperature=0.8, top_k=40, seed=11))
    ]
    with Runner(LocalProcess(command)) as emulated, HostDevice().start(tiny_bundle, LoadOptions(threads=1)) as host:
        accepted = 0
        for request in requests:
            (theirs, drafts), (ours, _) = tokens(emulated, request), tokens(host, request)
            assert theirs == ours, request
            assert len(theirs) == 40
            accepted += drafts
    assert accepted > 0


def tokens(runner: Runner, request: Request) -> tuple[list[int], int]:
    """What came, and how many of it were accepted drafts."""
    steps = list(runner.generate(request))[:-1]
    return [token for step in steps for token in step.tokens], sum(step.accepted for step in steps)
