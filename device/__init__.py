"""Where a bundle runs: this machine so far."""

from __future__ import annotations

from edge_mtp.device.host import HostDevice
from edge_mtp.device.request import Request, Sampling
from edge_mtp.device.runner import Runner
from edge_mtp.device.trace import Outcome, Ready, Step
from edge_mtp.errors import EdgeMtpError

__all__ = ["HostDevice", "Outcome", "Ready", "Request", "Runner", "Sampling", "Step", "find_device"]


def find_device(name: str) -> HostDevice:
    """The device of that name. Raises EdgeMtpError for a name that is none."""
    if name == HostDevice.name:
        return HostDevice()
    raise EdgeMtpError(f"unknown device '{name}'; this version runs on 'host'")
