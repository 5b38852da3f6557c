"""Sending a file to a device beside `adb push`: a real adbd at the other end of a veth pair, both in one run.

    python benchmarks/push.py [--mib 1024] [--rounds 7]

Needs root for the network namespace, Debian's packages for adbd, and twice the file's size in memory (/dev/shm, so that
no disk is measured). A round runs every arm once; `adb` is the one that adbutils carries, with its server warm.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import adbutils
import click

from edge_mtp.device.adb_server import AdbServerLink
from edge_mtp.device.link import Link
from edge_mtp.device.put import Folder, file_digest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

ADB = Path(adbutils.__file__).parent / "binaries" / "adb"


@click.command()
@click.option("--mib", default=1024, show_default=True, help="Size of the file, random bytes.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures there.")
def main(mib: int, rounds: int, output: Path | None) -> None:
    from adb_device import Adbd

    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, socket.create_server(("127.0.0.1", 0)) as probe:
        os.environ["ANDROID_ADB_SERVER_PORT"] = str(probe.getsockname()[1])
        os.environ["HOME"] = scratch  # adb and we make our keys there
        probe.close()
        source, target = Path(scratch) / "file", Path(scratch) / "device"
        with source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
        digest = file_digest(source, lambda progress: None)
        adbd = Adbd(Path(scratch))
        try:
            subprocess.run([ADB, "connect", adbd.name], check=True, capture_output=True, timeout=60)
            with adbd.link() as link, AdbServerLink(adbd.name) as served:
                times = measure(arms(adbd.name, link, served, source, str(target), digest), target, rounds)
        finally:
            adbd.close()
            subprocess.run([ADB, "kill-server"], capture_output=True, timeout=60)
    size = mib << 20
    base = times["adb push"]
    click.echo("| way | MB/s, median | least | most | beside `adb push`, median of the rounds |\n|---|---|---|---|---|")
    figures = {}
    for name, seconds in times.items():
        rates = sorted(size / 1e6 / value for value in seconds)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(base, seconds, strict=True))
        figures[name] = {"mb_per_s": [round(rate, 1) for rate in rates], "ratio": round(ratio, 3)}
        click.echo(f"| {name} | {statistics.median(rates):.0f} | {rates[0]:.0f} | {rates[-1]:.0f} | {ratio:.2f} |")
    if output is not None:
        record = {"command": " ".join(["benchmarks/push.py", *sys.argv[1:]]), "bytes": size, "arms": figures}
        output.write_text(json.dumps(record, indent=1) + "\n")


def arms(name: str, link: Link, served: Link, source: Path, target: str, digest: str) -> dict[str, Callable[[], None]]:
    """What is timed, by name. Each leaves the file under `target` and its sha256 as it was."""

    def push(*options: str) -> None:
        command = [str(ADB), "-s", name, "push", *options, str(source), f"{target}/pushed"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)

    def put(over: Link) -> None:
        Folder(over, target, lambda progress: None).put(source, "bundles/x", digest=digest)

    def send() -> None:
        def chunks() -> Iterator[bytes]:
            with source.open("rb") as file:
                while data := file.read(4 << 20):
                    yield data

        link.append(chunks(), f"{target}/sent")

    return {
        "adb push": push,
        "adb push -Z (no compression)": lambda: push("-Z"),
        "bytes alone, directly": send,
        "put, directly (with both checks)": lambda: put(link),
        "put, through the adb server": lambda: put(served),
    }


def measure(timed: dict[str, Callable[[], None]], target: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        # Another order each time, so that no arm always follows the same one.
        names = list(timed)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            subprocess.run(["rm", "-rf", str(target)], check=True)
            target.mkdir()
            started = time.perf_counter()
            timed[name]()
            if number > 0:
                times[name].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
