"""What a device is, Android or Linux: its shell is asked in one round trip.

A value that the shell may not read, or does not know, is None; nothing is guessed. The commands are POSIX sh and use
only what toybox, busybox and coreutils have in common.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_mtp.device.device import Fingerprint
from edge_mtp.device.link import Link, quote
from edge_mtp.device.survey import ask, printable

_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.board.platform",
    "ro.build.version.release",
    "ro.build.fingerprint",
    "ro.product.cpu.abi",
)

# Libraries that LiteRT opens for each accelerator: litert/vendors/*/ in https://github.com/google-ai-edge/LiteRT, and
# the <uses-native-library> entries of its Android archives.
ACCELERATORS = {
    "OpenCL": ("libOpenCL.so", "libOpenCL-pixel.so", "libOpenCL-car.so", "libOpenCL.so.1"),
    "Google Tensor NPU": ("libedgetpu_litert.so",),
    "Qualcomm NPU": ("libcdsprpc.so",),
    "MediaTek NPU": ("libneuronusdk_adapter.mtk.so", "libneuronusdk_adapter.9.mtk.so", "libneuron_adapter_mgvi.so"),
}
_LIBRARY_FOLDERS = (
    "/vendor/lib64", "/system/vendor/lib64", "/odm/lib64", "/system_ext/lib64", "/system/lib64", "/usr/lib",
    "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/local/lib",
)  # fmt: skip
LIBRARY_PATHS = tuple(
    posixpath.join(folder, name) for names in ACCELERATORS.values() for name in names for folder in _LIBRARY_FOLDERS
)

# POWER_SUPPLY properties, because only Android has `dumpsys battery`.
POWER_SUPPLIES = "grep -Hs . " + " ".join(
    f"/sys/class/power_supply/*/{name}"
    for name in ("type", "scope", "status", "capacity", "current_now", "voltage_now")
)


def read_fingerprint(link: Link, folder: str) -> Fingerprint:
    """Asks the machine at the end of `link`. `folder` is where bundles go on that machine; it need not exist yet.

    Raises EdgeMtpError when the link breaks or no shell answers.
    """
    return parse_fingerprint(link.name, ask(link, _questions(folder)))


def _questions(folder: str) -> dict[str, str]:
    return {
        "properties": f'for p in {" ".join(_PROPERTIES)}; do echo "$p=$(getprop $p)"; done',
        "kernel": "uname -srm",
        "bits": "getconf LONG_BIT",
        "release": "cat /etc/os-release",
        # The nodes of a device tree end with a zero byte.
        "board": "tr '\\000' '\\n' </proc/device-tree/model || cat /sys/class/dmi/id/product_name",
        "compatible": "tr '\\000' '\\n' </proc/device-tree/compatible",
        "processors": "cat /sys/devices/system/cpu/present",
        "cpuinfo": "cat /proc/cpuinfo",
        "memory": "cat /proc/meminfo",
        "space": f'd={quote([folder])}; while [ -n "$d" ] && [ ! -d "$d" ]; do d=${{d%/*}}; done; df -Pk "${{d:-/}}"',
        "battery": "dumpsys battery",
        "supplies": POWER_SUPPLIES,
        "libraries": f'for f in {" ".join(LIBRARY_PATHS)}; do [ -e "$f" ] && echo "$f"; done',
    }


def parse_fingerprint(name: str, answers: Mapping[str, str]) -> Fingerprint:
    """Builds the fingerprint from the answers to `read_fingerprint`'s questions, any of which may be missing."""
    properties = pairs(answers.get("properties", "").splitlines(), "=")
    android = "ro.product.cpu.abi" in properties or "ro.build.fingerprint" in properties
    processors = answers.get("cpuinfo", "")
    kernel = answers.get("kernel", "").split()
    battery = parse_battery(answers.get("battery", ""), answers.get("supplies", ""))
    if android:
        model, soc, system = _android(properties)
        abi = _text(properties.get("ro.product.cpu.abi"))
    else:
        model = _text(answers.get("board"))
        soc = _soc(answers.get("compatible", ""), processors)
        pretty = pairs(answers.get("release", "").splitlines(), "=").get("PRETTY_NAME", "").strip("\"'")
        system = _text(", ".join(part for part in (pretty, " ".join(kernel[:2])) if part))
        abi = _text(_userland(kernel[-1], answers.get("bits")) if kernel else None)
    return Fingerprint(
        name=name,
        kind="android" if android else "linux",
        model=model,
        soc=soc,
        system=system,
        abi=abi,
        cores=_cores(answers.get("processors", ""), processors),
        memory_bytes=parse_meminfo(answers.get("memory", "")).get("MemTotal"),
        free_bytes=parse_free(answers.get("space", "")),
        battery_percent=battery.percent,
        accelerators=found_accelerators(answers.get("libraries", "").splitlines()),
    )


def found_accelerators(paths: Iterable[str]) -> list[str]:
    """The accelerators whose libraries are among these paths."""
    names = {posixpath.basename(path) for path in paths}
    return [accelerator for accelerator, libraries in ACCELERATORS.items() if names.intersection(libraries)]


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, from /proc/meminfo or /proc/PID/status."""
    return {name: int(kib) << 10 for name, kib in re.findall(r"^([\w()]+):\s+(\d{1,15}) kB$", text, re.M | re.A)}


def parse_free(text: str) -> int | None:
    """Bytes that `df -Pk` reports as available; None if it reports none."""
    lines = re.findall(r"\s\d{1,15}\s+-?\d{1,15}\s+(-?\d{1,15})\s+(?:\d+%|-)\s+/", text, re.A)
    return max(0, int(lines[-1])) << 10 if lines else None


@dataclass
class Battery:
    """A battery's state, None where unknown. `current_ua` is as reported: vendors differ in its sign."""

    percent: int | None = None
    charging: bool | None = None  # or full and on external power
    voltage_v: float | None = None
    current_ua: int | None = None


def parse_battery(dump: str, supplies: str = "") -> Battery:
    """Parses `dumpsys battery`, or sysfs (`POWER_SUPPLIES`) where that has no battery."""
    battery = Battery()
    told = pairs(dump.splitlines(), ":")
    if told.get("present", "true") != "false" and "level" in told:
        level, scale = number(told["level"]), number(told.get("scale", "100"))
        battery.percent = _percent(100 * level // scale if level is not None and scale else None)
        # BatteryManager: 2 charging, 3 discharging, 4 not charging, 5 full.
        battery.charging = {"2": True, "5": True, "3": False, "4": False}.get(told.get("status", ""))
        millivolts = number(told.get("voltage"))
        battery.voltage_v = millivolts / 1000 if millivolts and 1000 < millivolts < 100_000 else None
    for supply in _batteries(supplies):
        capacity, volts = number(supply.get("capacity")), number(supply.get("voltage_now"))
        if battery.percent is None:
            battery.percent = _percent(capacity)
        if battery.charging is None and supply.get("status") in ("Charging", "Full", "Discharging", "Not charging"):
            battery.charging = supply["status"] in ("Charging", "Full")
        if battery.voltage_v is None and volts and 10**6 < volts < 10**8:
            battery.voltage_v = volts / 1e6
        battery.current_ua = number(supply.get("current_now"))
        break
    return battery


def _batteries(supplies: str) -> list[dict[str, str]]:
    """The batteries that power the device itself, not those of a peripheral such as a mouse (scope Device)."""
    found: dict[str, dict[str, str]] = {}
    for line in supplies.splitlines():
        path, _, value = line.partition(":")
        found.setdefault(posixpath.dirname(path), {})[posixpath.basename(path)] = value.strip()
    return [supply for supply in found.values() if supply.get("type") == "Battery" and supply.get("scope") != "Device"]


def pairs(lines: Iterable[str], separator: str) -> dict[str, str]:
    """Parses lines of `name separator value`. Skips lines without a name or value; of equal names the first counts."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(separator)
        if name.strip() and value.strip():
            found.setdefault(name.strip(), value.strip())
    return found


def _android(properties: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    """Model, SoC and system."""
    maker, model = properties.get("ro.product.manufacturer", ""), properties.get("ro.product.model", "")
    if not model.lower().startswith(maker.lower()):
        model = f"{maker} {model}"
    # ro.soc.* came with Android 12; older versions have only the platform.
    soc = " ".join(properties.get(f"ro.soc.{part}", "") for part in ("manufacturer", "model"))
    release, build = properties.get("ro.build.version.release"), properties.get("ro.build.fingerprint")
    system = (f"Android {release}" if release else "Android") + (f" ({build})" if build else "")
    return _text(model), _text(soc) or _text(properties.get("ro.board.platform")), _text(system)


def _soc(compatible: str, cpuinfo: str) -> str | None:
    """The SoC: the last `compatible` entry of a device tree's root, since entries go from most to least specific
    (Devicetree Specification 2.3.1)."""
    names = compatible.split()
    if names:
        return _text(names[-1])
    return _text(pairs(cpuinfo.splitlines(), ":").get("model name"))


def _userland(machine: str, bits: str | None) -> str:
    """The ABI of programs. A 64-bit ARM kernel often runs 32-bit programs, which cannot load 64-bit libraries."""
    return "armhf" if machine == "aarch64" and bits == "32" else machine


def _cores(present: str, cpuinfo: str) -> int | None:
    """The number of cores, from `0-7` or `0,2-3`, else from the entries of /proc/cpuinfo (which omits offline ones)."""
    if re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", present, re.A):
        ranges = [[int(end) for end in part.split("-")] for part in present.split(",")]
        return sum(max(0, ends[-1] - ends[0] + 1) for ends in ranges) or None
    return len(re.findall(r"^processor\s*:", cpuinfo, re.M)) or None


def _text(text: str | None) -> str | None:
    return printable(text or "") or None


def number(text: str | None) -> int | None:
    """A 32-bit integer. None also for the smallest one, by which Android means that there is no value."""
    if text is None or not re.fullmatch(r"-?\d{1,10}", text, re.A):
        return None
    return value if abs(value := int(text)) < 1 << 31 else None


def _percent(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= 100 else None
