"""Devices that are a folder of recorded answers, behind a real shell.

The scripts run for real, in this machine's `sh`, with the absolute paths in them moved into the folder, and with the
commands that only Android has (or that would tell of this machine) in front of the path. What they answer has the form
that AOSP's sources print (BatteryService, ThermalManagerService, GpuMem, toybox); the values are made up.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_mtp.device.link import Completed, quote
from edge_mtp.device.local_link import LocalLink

_ROOTS = r"(?<![\w./*}-])(?=/(?:proc|sys|vendor|system|system_ext|odm|etc|data|usr/lib|usr/lib64|usr/local)/)"


@dataclass(frozen=True)
class Recorded:
    """`files` by absolute path; None is one that may not be read. `commands` by their words; others of the same program
    fail as they do on a device without the service.
    """

    properties: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    # Answered by this machine if nothing is recorded, which would be a lie.
    absent: Sequence[str] = ("getprop", "dumpsys", "cmd", "getenforce", "uname", "df", "getconf", "id")


class FakeAndroid(LocalLink):
    """`runs` are the scripts that came."""

    def __init__(self, root: Path, recorded: Recorded, name: str = "FAKE1") -> None:
        self.name = name
        self.runs: list[str] = []
        self._root = root
        for path, content in recorded.files.items():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is None:  # root reads everything, but not a folder
                target.mkdir()
            else:
                target.write_bytes(content.encode() if isinstance(content, str) else content)
        self._bin = root / "stubs"
        self._bin.mkdir(parents=True)
        answers = dict(recorded.commands)
        answers |= {f"getprop {name}": value for name, value in recorded.properties.items()}
        programs = {words.split()[0] for words in answers} | set(recorded.absent)
        for program in programs:
            cases = "".join(
                f"{shlex.quote(words.partition(' ')[2])}) printf '%s\\n' {shlex.quote(text)}; exit 0;;\n"
                for words, text in answers.items()
                if words.split()[0] == program
            )
            # getprop answers an empty line for a property that is not set.
            otherwise = "echo; exit 0" if program == "getprop" and cases else "echo not found >&2; exit 127"
            script = self._bin / program
            script.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) {otherwise};;\nesac\n')
            script.chmod(0o755)

    def run(self, command: Sequence[str] | str, *, timeout_s: float = 30.0, input: bytes = b"") -> Completed:
        script = command if isinstance(command, str) else quote(command)
        self.runs.append(script)
        moved = re.sub(_ROOTS, str(self._root), script)
        path = quote([f"{self._bin}{os.pathsep}{os.environ['PATH']}"])
        done = super().run(f"PATH={path}\n{moved}", timeout_s=timeout_s, input=input)
        root = str(self._root).encode()
        return Completed(done.exit_code, done.output.replace(root, b""), done.errors.replace(root, b""))


def battery(level: int, status: int, millivolts: int, **more: object) -> str:
    lines = {"AC powered": "false", "USB powered": "true", "status": status, "health": 2, "present": "true"}
    lines |= {"level": level, "scale": 100, "voltage": millivolts, "temperature": 285, "technology": "Li-ion", **more}
    return "Current Battery Service state:\n" + "\n".join(f"  {name}: {value}" for name, value in lines.items())


def thermalservice(status: int, cached: Mapping[str, float], current: Mapping[str, float]) -> str:
    def block(readings: Mapping[str, float]) -> str:
        return "".join(
            f"\tTemperature{{mValue={value}, mType=0, mName={name}, mStatus=0}}\n" for name, value in readings.items()
        )

    return (
        f"IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 2\nThermal Status: {status}\n"
        f"Cached temperatures:\n{block(cached)}HAL Ready: true\nHAL connection:\n\tThermal HAL AIDL 2 connected: yes\n"
        f"Current temperatures from HAL:\n{block(current)}Current cooling devices from HAL:\n"
        "\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}\n"
        "Temperature static thresholds from HAL:\n\tTemperatureThreshold{mType=0, mName=cpu, mValue=1}\n"
    )


def df(available_kib: int) -> str:
    return (
        "Filesystem      1024-blocks     Used Available Capacity Mounted on\n"
        f"/dev/block/dm-5   112345678  1234567 {available_kib}      12% /data/user/0"
    )


_ANDROID = {"getenforce": "Enforcing", "id -u": "2000", "uname -srm": "Linux 6.1.99-android14 aarch64"}

PIXEL = Recorded(
    properties={
        "ro.product.manufacturer": "Google",
        "ro.product.model": "Pixel 8",
        "ro.soc.manufacturer": "Google",
        "ro.soc.model": "Tensor G3",
        "ro.build.version.release": "16",
        "ro.build.fingerprint": "google/shiba/shiba:16/BP2A.250605.031/1:user/release-keys",
        "ro.product.cpu.abi": "arm64-v8a",
    },
    files={
        "/proc/meminfo": "MemTotal:        7820000 kB\nMemFree:          200000 kB\nMemAvailable:    3400000 kB\n",
        "/sys/devices/system/cpu/present": "0-8\n",
        "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1704000\n",
        "/sys/devices/system/cpu/cpufreq/policy8/scaling_cur_freq": "2914000\n",
        "/sys/class/devfreq/1f000000.mali/cur_freq": "471000000\n",
        "/sys/class/power_supply/battery/type": None,  # sysfs is closed to the shell
        "/vendor/lib64/libOpenCL-pixel.so": "not a library",
        "/vendor/lib64/libedgetpu_litert.so": "not a library",
        "/proc/4321/status": "Name:\tedge_mtp_runner\nVmRSS:\t 1500000 kB\nRssAnon:\t  260000 kB\n",
    },
    commands={
        **_ANDROID,
        "df -Pk /data/local/tmp": df(52_000_000),
        "getconf PAGESIZE": "16384",
        "dumpsys battery": battery(76, 3, 4012),
        "cmd battery get current_now": "-512000",
        "dumpsys thermalservice": thermalservice(1, {"skin": 20.0}, {"VIRTUAL-SKIN": 36.5, "BIG": 61.0}),
        "dumpsys gpu --gpumem": "Memory snapshot for GPU 0:\nGlobal total: 2291724288\nProc 1203 total: 104857600\n"
        "Proc 4321 total: 73400320, imported: 0\n",
    },
)

# An older phone: no ro.soc.*, no thermalservice, no GPU memory, sysfs open, and an absent battery reading.
OLD = Recorded(
    properties={
        "ro.product.manufacturer": "Xiaomi",
        "ro.product.model": "MI 9",
        "ro.board.platform": "msmnile",
        "ro.build.version.release": "9",
        "ro.product.cpu.abi": "arm64-v8a",
    },
    files={
        "/proc/meminfo": "MemTotal:        5700000 kB\nMemAvailable:    2100000 kB\n",
        "/proc/cpuinfo": "".join(f"processor\t: {n}\nBogoMIPS\t: 38.40\n" for n in range(8)),
        "/sys/class/thermal/thermal_zone0/type": "cpu-0-0\n",
        "/sys/class/thermal/thermal_zone0/temp": "45300\n",
        "/sys/class/thermal/thermal_zone1/type": "battery\n",
        "/sys/class/thermal/thermal_zone1/temp": "31000\n",
        "/sys/class/thermal/thermal_zone2/type": "cpu-0-0\n",
        "/sys/class/thermal/thermal_zone2/temp": "46100\n",
        "/sys/class/thermal/thermal_zone3/type": "off\n",
        "/sys/class/thermal/thermal_zone3/temp": "-274000\n",
        "/sys/class/thermal/thermal_zone4/type": "closed\n",
        "/sys/class/thermal/thermal_zone4/temp": None,
        "/sys/class/kgsl/kgsl-3d0/gpuclk": "585000000\n",
        "/sys/class/power_supply/battery/type": "Battery\n",
        "/sys/class/power_supply/battery/status": "Charging\n",
        "/sys/class/power_supply/battery/current_now": "731000\n",
        "/sys/class/power_supply/battery/voltage_now": "3961000\n",
        "/sys/class/power_supply/usb/type": "USB\n",
        "/sys/class/power_supply/usb/current_now": "900000\n",
        "/vendor/lib64/libcdsprpc.so": "not a library",
        "/system/vendor/lib64/libOpenCL.so": "not a library",
    },
    commands={
        **_ANDROID,
        "df -Pk /data/local/tmp": df(900_000),
        "dumpsys battery": battery(12, 3, 0),
        "getconf PAGESIZE": "4096",
    },
)

# A board: Linux, device tree, no battery but that of its mouse, a 32-bit system on a 64-bit kernel.
BOARD = Recorded(
    files={
        "/proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
        "/proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0",
        "/etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "/proc/meminfo": "MemTotal:        8245000 kB\nMemAvailable:    7000000 kB\n",
        "/sys/devices/system/cpu/present": "0-3\n",
        "/sys/class/power_supply/mouse/type": "Battery\n",
        "/sys/class/power_supply/mouse/scope": "Device\n",
        "/sys/class/power_supply/mouse/capacity": "55\n",
        "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "/sys/class/thermal/thermal_zone0/temp": "52000\n",
        "/proc/77/status": "VmRSS:\t     900 kB\n",
        "/proc/77/fdinfo/4": "pos:\t0\ndrm-pdev:\t0000:00:02.0\ndrm-client-id:\t9\ndrm-resident-vram:\t2 MiB\n",
        "/proc/77/fdinfo/5": "pos:\t0\ndrm-pdev:\t0000:00:02.0\ndrm-client-id:\t9\ndrm-resident-vram:\t2 MiB\n",
        "/proc/77/fdinfo/6": "drm-pdev:\t0000:00:02.0\ndrm-client-id:\t10\ndrm-resident-system0:\t512 KiB\n",
    },
    commands={
        "uname -srm": "Linux 6.6.31-rpi aarch64",
        "getconf LONG_BIT": "32",
        "getconf PAGESIZE": "16384",
        "id -u": "1000",
        "df -Pk /": "Filesystem 1024-blocks Used Available Capacity Mounted on\nudev overlay 9 9 4000000 1% /",
    },
)

# A shell that has nothing.
BARE = Recorded()
