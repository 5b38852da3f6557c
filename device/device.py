"""A device: somewhere that a bundle runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_mtp.device.link import Link
from edge_mtp.device.runner import Runner


@dataclass(frozen=True)
class Fingerprint:
    """What a measurement needs to know of the device that made it. None or empty: the device does not tell."""

    name: str
    kind: str  # host, android or linux
    model: str | None = None
    soc: str | None = None
    system: str | None = None  # Android 16 (build fingerprint), or the Linux distribution and kernel
    abi: str | None = None  # arm64-v8a, x86_64, aarch64, ...
    cores: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None  # where bundles would go
    battery_percent: int | None = None
    accelerators: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Device(ABC):
    """Runs bundles. Raises EdgeMtpError with one line that names the value and the cure."""

    name: str
    link: Link  # to its shell
    folder: str  # there, absolute: all that is ever put, kept or removed lies in it

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Asks the device what it is."""

    @abstractmethod
    def start(
        self, bundle: Path, *, threads: int | None = None, token_bytes: Path | None = None, stepwise: bool = False
    ) -> Runner:
        """A runner with `bundle` loaded, after whatever has to be put there first. `threads` None leaves the number to
        LiteRT; `token_bytes` is a file with the table of a bundle that has none; `stepwise` drafts with the stock
        one-step drafter even where the bundle has folded drafts."""

    def close(self) -> None:
        """Closes the link. What still runs on a device that is not this machine ends with it."""
        self.link.close()
