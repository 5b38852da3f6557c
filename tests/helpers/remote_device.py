"""Remote devices that are this machine: they get its own runner and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_mtp.device import remote
from edge_mtp.device.binaries import Binaries
from edge_mtp.device.device import Fingerprint
from edge_mtp.device.host import litert_library
from edge_mtp.device.link import Link
from edge_mtp.device.remote import RemoteDevice
from edge_mtp.formats.request import Request

LONG = Request(prompt=[2, 105, 9, 33, 7], max_tokens=400)


def host_files(fingerprint: Fingerprint | None = None) -> Binaries:
    """This machine's own: its adbds run what it runs."""
    import importlib.util

    package = importlib.util.find_spec("edge_mtp.device")
    assert package is not None
    folders = [Path(folder) / "bin" / remote.RUNNER for folder in package.submodule_search_locations or []]
    runner = next(path for path in folders if path.is_file())
    return Binaries({remote.RUNNER: runner, remote.LITERT: litert_library()}, "host")


def device_on(link: Link, folder: Path, binaries: Callable[[Fingerprint], Binaries] = host_files) -> RemoteDevice:
    return RemoteDevice(link, folder=str(folder / "edge mtp's"), binaries=binaries)
