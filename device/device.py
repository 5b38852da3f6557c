"""A device: a machine that bundles run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_mtp.device.link import Link
from edge_mtp.device.load_options import DEFAULT_LOADING, LoadOptions
from edge_mtp.device.process import Process
from edge_mtp.device.runner import Runner
from edge_mtp.formats.accelerator import Accelerator


@dataclass(frozen=True)
class Fingerprint:
    """The facts about a device that a measurement records. None or empty: the device does not report it."""

    name: str
    kind: str  # host, android or linux
    model: str | None = None
    soc: str | None = None
    system: str | None = None  # Android 16 (build fingerprint), or the Linux distribution and kernel
    abi: str | None = None  # arm64-v8a, x86_64, aarch64, ...
    cores: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None  # on the file system that bundles are put on
    battery_percent: int | None = None
    accelerators: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Device(ABC):
    """Runs bundles. Raises EdgeMtpError with one line that names the wrong value and the remedy."""

    name: str
    link: Link  # to its shell
    folder: str  # absolute, on the device; nothing outside it is ever written or removed

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Asks the device what it is."""

    @abstractmethod
    def start(self, bundle: Path, options: LoadOptions = DEFAULT_LOADING) -> Runner:
        """Puts the files that the device lacks there, and returns a runner with `bundle` loaded."""

    @abstractmethod
    def start_trial(self, bundle: Path, accelerator: Accelerator) -> Process:
        """Puts files there as `start` does, and returns a program that tries `accelerator` on `bundle` (verdict.py)."""

    def close(self) -> None:
        """Closes the link. On a device other than this machine, that ends the programs still running over it."""
        self.link.close()
