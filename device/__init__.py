"""Where a bundle runs: on this machine, or on a device that this machine can reach."""

from __future__ import annotations

from edge_mtp.device.device import Device, Fingerprint
from edge_mtp.device.find import find_device
from edge_mtp.device.host import HostDevice
from edge_mtp.device.runner import Runner
from edge_mtp.formats.request import Request, Sampling, Thoughts
from edge_mtp.formats.trace import Outcome, Ready, Sensors, Step

__all__ = [
    "Device",
    "Fingerprint",
    "HostDevice",
    "Outcome",
    "Ready",
    "Request",
    "Runner",
    "Sampling",
    "Sensors",
    "Step",
    "Thoughts",
    "find_device",
]
