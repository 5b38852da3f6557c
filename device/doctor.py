"""Whether a device can run a bundle, and how well: findings, each with its remedy.

The checks try things rather than infer them where possible: they run a program from the folder that runners start in,
load libraries into it, and write and read storage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from edge_mtp.device.device import Device, Fingerprint
from edge_mtp.device.elf import HEXAGON, read_elf, read_machine
from edge_mtp.device.fingerprint import LIBRARY_PATHS, found_accelerators, parse_battery, parse_meminfo
from edge_mtp.device.host import HostDevice, litert_library, runner_path
from edge_mtp.device.link import quote
from edge_mtp.device.sensors import read_sensors
from edge_mtp.device.survey import ask, printable
from edge_mtp.device.verdict import Verdict, judge
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import ACCELERATORS, CPU, Accelerator
from edge_mtp.formats.bundle import Bundle

Level = Literal["ok", "warning", "problem"]

# Memory of a runner besides the graphs' weights and the KV cache: activations, tables, LiteRT itself.
RUNNER_BYTES = 200 << 20
# Bytes of each storage test: enough to measure a rate, and negligible wear on a phone's flash memory.
STORAGE_BYTES = 64 << 20
STORAGE_TIMEOUT_S = 120.0
SLOW_READ_BYTES_PER_S = 100e6
SLOW_WRITE_BYTES_PER_S = 20e6
LOW_BATTERY_PERCENT = 20
# Android's PowerManager.THERMAL_STATUS_*.
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SEVERE = 3

_BYTES_OF = {"f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2, "i8": 1, "u8": 1, "bool": 1}


@dataclass(frozen=True)
class Finding:
    """The result of one check and, unless it is ok, what to do about it."""

    name: str
    level: Level
    value: str
    cure: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(device: Device, bundle: Bundle | None = None) -> Iterator[Finding]:
    """Checks whether `device` can run `bundle` (None: any bundle), yielding findings as they come; ends within minutes.

    Writes `STORAGE_BYTES` into the tool's own folder on the device, and removes them. A bundle with graphs for
    accelerators is put there as to run it, and stays. Raises EdgeMtpError when the device does not answer at all.
    """
    link, folder, shown = device.link, device.folder, printable(device.folder)
    told = device.fingerprint()
    asked = ask(
        link,
        {
            "user": "id -u",
            "selinux": "getenforce",
            "page": "getconf PAGESIZE || getconf PAGE_SIZE",
            "memory": "cat /proc/meminfo",
            "battery": "dumpsys battery",
        },
    )
    yield from _binaries(device, told, _integer(asked.get("page")))
    if told.kind == "android" and asked.get("user") == "0":
        yield Finding("user", "warning", "root", "'adb unroot': apps and users will not have what root has")
    programs = ask(link, {"programs": _programs_script(folder)}, timeout_s=60).get("programs", "")
    yield folder_finding(programs, shown, asked.get("selinux"))
    yield from library_findings(programs)
    yield memory_finding(parse_meminfo(asked.get("memory", "")), bundle)
    yield space_finding(told.free_bytes, shown, bundle)
    yield from _storage(device, folder, told.free_bytes, bundle)
    sensors = read_sensors(link, 1)
    yield thermal_finding(sensors.thermal_status, sensors.temperatures_c)
    yield from battery_findings(asked.get("battery", ""), told.battery_percent)
    if bundle is not None:  # last, as it sends the bundle to the device
        yield from _accelerators(device, bundle)


# --- what runs there -------------------------------------------------------------------------------------------------


def _binaries(device: Device, told: Fingerprint, page_bytes: int | None) -> Iterator[Finding]:
    """Whether the device's ABI, LiteRT and page size fit together."""
    try:
        if isinstance(device, HostDevice):
            files = {"edge_mtp_runner": runner_path(), "libLiteRt.so": litert_library()}
            litert = _installed_litert()
        else:
            from edge_mtp.device.binaries import LITERT_VERSION, binaries_for

            binaries = binaries_for(told.kind, told.abi or "")
            files, litert = dict(binaries.files), LITERT_VERSION
    except EdgeMtpError as error:
        value, _, cure = str(error).partition("; ")
        yield Finding("ABI", "problem", f"{told.abi or 'unknown'}: {value}", cure or None)
        return
    yield Finding("ABI", "ok", f"{told.abi or 'unknown'}, {len(files)} files")
    yield Finding("LiteRT", "ok", litert)
    # A DSP has pages of its own.
    loaded = {name: path for name, path in files.items() if read_machine(path) != HEXAGON}
    yield page_finding(page_bytes, {name: read_elf(path).alignment for name, path in loaded.items()})


def _installed_litert() -> str:
    try:
        return version("ai-edge-litert")
    except PackageNotFoundError:
        return "unknown version"


def page_finding(page_bytes: int | None, alignments: Mapping[str, int]) -> Finding:
    """Whether the files load: their segments must be aligned to whole pages, which are 16 KB since Android 15."""
    if page_bytes is None:
        return Finding("page size", "ok", "not told")
    value = f"{page_bytes // 1024} KB"
    small = [name for name, alignment in alignments.items() if alignment < page_bytes]
    if small:
        cure = "use builds for 16 KB pages: 'edge-mtp setup android' fetches those"
        return Finding("page size", "problem", f"{value}, too large for {', '.join(sorted(small))}", cure)
    return Finding("page size", "ok", value)


def _programs_script(folder: str) -> str:
    """Copies `true` into the tool's folder and runs it there: alone, with a library that does not exist (to see whether
    the loader reports a failure), and with each library that an accelerator needs.

    Such a program stands for a runner: Android's linker chooses namespaces by the path of the program, and
    /data/local/tmp is `unrestricted` (system/linkerconfig, baseconfig.cc).
    """
    return f"""
set -f
d={quote([f"{folder}/doctor"])}
for true in /system/bin/true /bin/true /usr/bin/true; do [ -e "$true" ] && break; done
said=$( {{ mkdir -p "$d" && cp "$true" "$d/true" && chmod 755 "$d/true"; }} 2>&1) || echo "put $said"
said=$("$d/true" 2>&1); echo "ran $?" $said
said=$(LD_PRELOAD=/nonexistent/edge-mtp.so "$d/true" 2>&1); echo "control $?" $said
for f in {" ".join(LIBRARY_PATHS)}; do
  [ -e "$f" ] || continue
  said=$(LD_PRELOAD="$f" "$d/true" 2>&1); echo "load $f $?" $said
done
rm -f "$d/true"; rmdir "$d"
"""


def folder_finding(programs: str, folder: str, selinux: str | None) -> Finding:
    """Whether programs can be put into the folder and run there."""
    name = "programs"
    lines = programs.splitlines()
    put = next((line.removeprefix("put ") for line in lines if line.startswith("put ")), None)
    if put is not None:
        cure = "free space, or let the user that logs in write there"
        return Finding(name, "problem", printable(f"nothing can be put into {folder}: {put}"), cure)
    ran = next((line.removeprefix("ran ") for line in lines if line.startswith("ran ")), None)
    if ran is None:
        return Finding(name, "warning", f"not tried: no `true` to copy into {folder}", "look whether its shell works")
    code, _, said = ran.partition(" ")
    if code != "0":
        enforcing = ", SELinux enforcing" if (selinux or "").lower() == "enforcing" else ""
        return Finding(
            name, "problem", printable(f"cannot run from {folder}{enforcing}: {said or f'exit code {code}'}"),
            "the folder is mounted noexec, or SELinux forbids it; use a device that allows it, or mount it with exec",
        )  # fmt: skip
    state = f", SELinux {printable(selinux, 20).lower()}" if selinux else ""
    return Finding(name, "ok", f"run from {folder}{state}")


def library_findings(programs: str) -> Iterator[Finding]:
    """A finding for each accelerator whose library exists, or a single one that says there is none."""
    lines = programs.splitlines()
    control = next((line.removeprefix("control ") for line in lines if line.startswith("control ")), "0")
    telling = not re.fullmatch(r"0\s*", control)  # the loader reports it when it cannot preload
    outcomes: dict[str, list[tuple[str, str | None]]] = {}  # by accelerator: path, and why not
    for line in lines:
        match = re.fullmatch(r"load (/\S+) (\d{1,3})\s*(.*)", line, re.A)
        if match is None:
            continue
        for accelerator in found_accelerators([match[1]]):
            refused = match[2] != "0" or "cannot be preloaded" in match[3]
            reason = printable(match[3], 160) or f"exit code {match[2]}"
            outcomes.setdefault(accelerator, []).append((match[1], reason if refused else None))
    for accelerator, tried in outcomes.items():
        loaded = next((path for path, reason in tried if reason is None), None)
        if loaded is None:
            path, refusal = tried[0]
            cure = "the CPU serves; for the accelerator use a build of the system that opens it to the shell"
            yield Finding(accelerator, "warning", f"{path} cannot be loaded: {refusal}", cure)
        else:
            yield Finding(accelerator, "ok", f"{loaded} {'loads' if telling else 'is there; loading was not tried'}")
    if not outcomes:
        yield Finding("accelerators", "ok", "none found; runs use the CPU")


# --- accelerators ----------------------------------------------------------------------------------------------------


def _accelerators(device: Device, bundle: Bundle) -> Iterator[Finding]:
    """Tries each accelerator for which the bundle has graphs."""
    for accelerator in ACCELERATORS:
        if accelerator == CPU:
            continue
        if accelerator not in bundle.accelerators:
            value = f"not tried: the bundle has no graphs for it (export --accelerators cpu,{accelerator})"
            yield Finding(accelerator, "ok", value)
            continue
        try:
            verdict = judge(device.start_trial(Path(bundle.path), accelerator))
        except EdgeMtpError as error:
            value, _, cure = str(error).partition("; ")
            yield Finding(accelerator, "warning", f"not tried: {value}", cure or "see the problems above")
        else:
            yield trial_finding(accelerator, verdict)


def trial_finding(accelerator: Accelerator, verdict: Verdict) -> Finding:
    """What a trial says. An accelerator that is out is no problem: the CPU serves."""
    if verdict.faster is not None:
        use = "use it" if verdict.faster > 1 else "stay on the CPU"
        speed = f"right, at {verdict.faster:.3g} times the CPU's speed: {use}"
        return Finding(accelerator, "ok", speed)
    cure = "the CPU serves, and --accelerator auto takes it"
    if "cannot run this bundle's graphs" in verdict.fault:
        missing = "its driver" if accelerator == "gpu" else "the vendor's libraries: 'edge-mtp setup' has --library"
        cure += f"; where the device has such a chip, it lacks {missing}"
    elif "crashed" in verdict.fault:
        cure += "; try another version of the system or of the driver"
    return Finding(accelerator, "warning", f"out: {verdict.fault}", cure)


# --- memory and storage ----------------------------------------------------------------------------------------------


def needed_bytes(bundle: Bundle) -> int:
    """The memory to run `bundle`, in bytes: weights of decoder and drafter, the KV cache, and `RUNNER_BYTES`.

    Embedding tables stay in the file: a step reads only a few of their rows.
    """
    weights = sum(
        section.size for section in bundle.sections if section.model_type in ("prefill_decode", "mtp_drafter")
    )
    decoder = bundle.models.get("prefill_decode")
    decode = decoder.signatures.get("decode") if decoder is not None else None
    caches = (tensor for name, tensor in decode.inputs.items() if name.startswith("kv_cache_")) if decode else ()
    return weights + sum(math.prod(t.shape) * _BYTES_OF.get(t.dtype, 4) for t in caches) + RUNNER_BYTES


def memory_finding(memory: Mapping[str, int], bundle: Bundle | None) -> Finding:
    """Compares the device's memory with what `bundle` needs. The memory available now is an underestimate where the
    system can end apps."""
    total, available = memory.get("MemTotal"), memory.get("MemAvailable")
    if total is None or available is None:
        return Finding("memory", "warning", "not told", "watch whether runs are killed")
    value = f"{_gb(available)} available of {_gb(total)}"
    if bundle is None:
        return Finding("memory", "ok", value)
    need = needed_bytes(bundle)
    value += f", {_gb(need)} needed"
    if need > 0.9 * total:
        return Finding("memory", "problem", value, "export a smaller --recipe (mixed, int4), or a smaller model")
    if need > available:
        return Finding("memory", "warning", value, "close apps, or restart the device")
    return Finding("memory", "ok", value)


def space_finding(free_bytes: int | None, folder: str, bundle: Bundle | None) -> Finding:
    """Whether there is room for `bundle` and for the packed weights that runners keep."""
    if free_bytes is None:
        return Finding("free space", "warning", "not told", f"see that there is room in {folder}")
    value = f"{_gb(free_bytes)} in {folder}"
    if bundle is None:
        return Finding("free space", "ok", value)
    decoder = bundle.section("TFLiteModel", "prefill_decode")
    packed = decoder.size if decoder is not None else 0
    value += f", {_gb(bundle.size)} for the bundle and {_gb(packed)} for its packed weights"
    if bundle.size > free_bytes:
        return Finding("free space", "problem", value, "free some, for example with 'edge-mtp devices clean'")
    if bundle.size + packed > free_bytes:
        cure = "free some, or every start packs the weights anew"
        return Finding("free space", "warning", value, cure)
    return Finding("free space", "ok", value)


def _storage(device: Device, folder: str, free_bytes: int | None, bundle: Bundle | None) -> Iterator[Finding]:
    if free_bytes is not None and free_bytes < 2 * STORAGE_BYTES:
        yield Finding("storage speed", "warning", "not measured: too little free space", "free some")
        return
    try:
        answers = ask(device.link, {"storage": _storage_script(folder)}, timeout_s=STORAGE_TIMEOUT_S)
    except EdgeMtpError as error:
        ask(device.link, {"removed": f"rm -rf {quote([f'{folder}/doctor'])}"})
        yield Finding("storage speed", "problem", f"not measured: {error}", "use faster storage")
        return
    yield storage_finding(answers.get("storage", ""), bundle)


def _storage_script(folder: str) -> str:
    """A script that times storage with the device's own clock (hundredths of a second), past the page cache.

    Data just written would be read from memory, so the read is direct; where dd cannot do that, no read is measured.
    """
    mib = STORAGE_BYTES >> 20
    return f"""
d={quote([f"{folder}/doctor"])}
now() {{ read -r up idle </proc/uptime && echo "$1 $up"; }}
mkdir -p "$d" || exit 0
now begin
dd if=/dev/zero of="$d/speed" bs=1048576 count={mib} conv=fsync && now written
now again
dd if="$d/speed" of=/dev/null bs=1048576 iflag=direct && now read
rm -f "$d/speed"; rmdir "$d"
"""


def storage_finding(text: str, bundle: Bundle | None = None) -> Finding:
    """The rates, from the times that `_storage_script` prints."""
    moments = {name: float(s) for name, s in re.findall(r"^(\w+) (\d{1,12}\.\d{1,9})$", text, re.M | re.A)}

    def rate(begin: str, end: str) -> float | None:
        if begin not in moments or end not in moments or moments[end] < moments[begin]:
            return None
        return STORAGE_BYTES / max(moments[end] - moments[begin], 0.01)

    write, read = rate("begin", "written"), rate("again", "read")
    if write is None:
        return Finding("storage speed", "warning", "not measured: its dd refuses", "expect the first load to take long")
    value = f"writes {write / 1e6:.0f} MB/s, " + (
        "reads not measured" if read is None else f"reads {read / 1e6:.0f} MB/s"
    )
    if read is not None and bundle is not None:
        value += f" (the bundle in {bundle.size / read:.0f} s)"
    if (read is not None and read < SLOW_READ_BYTES_PER_S) or write < SLOW_WRITE_BYTES_PER_S:
        return Finding("storage speed", "warning", value, "slow to load; use internal storage rather than a card")
    return Finding("storage speed", "ok", value)


# --- state -----------------------------------------------------------------------------------------------------------


def thermal_finding(status: int | None, temperatures: Mapping[str, float]) -> Finding:
    """Throttling as Android reports it. Temperatures alone give no verdict: only the vendor knows their limits."""
    hottest = max(temperatures.items(), key=lambda item: item[1], default=None)
    heat = f"{hottest[0]} {hottest[1]:.0f} C" if hottest else ""
    if status is None:
        return Finding("thermal state", "ok", heat or "not told")
    value = f"throttling {THERMAL[status]}" + (f", hottest {heat}" if heat else "")
    if status >= SEVERE:
        return Finding("thermal state", "problem", value, "let it cool down, out of its case")
    if status > 0:
        return Finding("thermal state", "warning", value, "let it cool down before measuring")
    return Finding("thermal state", "ok", value)


def battery_findings(dump: str, percent: int | None) -> Iterator[Finding]:
    """Findings about the battery; none for a device without one."""
    if percent is None:
        return
    charging = parse_battery(dump).charging
    value = f"{percent}%" + ("" if charging is None else ", on external power" if charging else ", not charging")
    if percent < LOW_BATTERY_PERCENT and not charging:
        yield Finding("battery", "warning", value, "charge it: many devices slow down on a low battery")
    else:
        yield Finding("battery", "ok", value)


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text, re.A) else None


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
