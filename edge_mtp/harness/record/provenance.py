"""What a run's file says of how it was made: versions, bundles, devices."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from edge_mtp.device.find import Notice, find_device
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.record.results import Run

# Of a fingerprint, what one device keeps: `pixel` may mean another one tomorrow.
SAME_DEVICE = ("kind", "model", "soc", "abi", "cores")
PACKAGES = ("edge-mtp", "ai-edge-litert", "litert-lm", "tokenizers", "numpy")


def new_run(
    kind: Literal["bench", "eval"],
    arms: Sequence[Arm],
    baseline: str,
    *,
    command: str,
    suite: str,
    settings: Mapping[str, Any],
    simulated: float | None = None,
    notice: Callable[[str], Notice] | None = None,
) -> Run:
    """The header of a run that begins now. `notice` by the device's name: as `find_device` takes it.

    Raises EdgeMtpError for a bundle that cannot be read or a device that is not there.
    """
    return Run(
        kind=kind,
        command=command,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        arms=list(arms),
        baseline=baseline,
        devices={
            name: fingerprint(name, notice(name) if notice else None) for name in _distinct(arm.device for arm in arms)
        },
        bundles={path: bundle(path, arms) for path in _distinct(arm.bundle for arm in arms)},
        suite=suite,
        settings=dict(settings),
        simulated=simulated,
    )


def versions() -> dict[str, str]:
    """Of Python, and of the installed packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(name: str, notice: Notice | None = None) -> dict[str, Any]:
    """What the device says of itself; its free space changes and is no part of it."""
    device = find_device(name, notice=notice)
    try:
        told = device.fingerprint().to_json()
    finally:
        device.close()
    return {key: value for key, value in told.items() if key != "free_bytes"}


def bundle(path: str, arms: Sequence[Arm]) -> dict[str, Any]:
    opened = Bundle(next(arm for arm in arms if arm.bundle == path).path)
    manifest = opened.manifest or {}
    return {"bytes": opened.size, "recipe": manifest.get("recipe"), "source": manifest.get("source")}


def differences(old: Run, new: Run) -> list[str]:
    """What keeps `new` from going on with the results of `old`, each in words; empty where nothing does."""
    found = [
        f"{name} was {getattr(old, name)!r} and is {getattr(new, name)!r}"
        for name in ("kind", "suite", "baseline", "simulated")
        if getattr(old, name) != getattr(new, name)
    ]
    if old.arms != new.arms:
        labels = [", ".join(arm.label for arm in run.arms) for run in (old, new)]
        found.append(f"the arms were {labels[0]} and are {labels[1]}" if labels[0] != labels[1] else "the arms changed")
    found += [
        f"{name} was {old.settings.get(name)!r} and is {new.settings.get(name)!r}"
        for name in sorted(old.settings.keys() | new.settings.keys())
        if old.settings.get(name) != new.settings.get(name)
    ]
    found += [
        f"device {name}: {key} was {told[key]!r} and is {now[key]!r}"
        for name, told in old.devices.items()
        for key in SAME_DEVICE
        if key in told and key in (now := new.devices.get(name, {})) and told[key] != now[key]
    ]
    found += [f"bundle {path} changed" for path, told in new.bundles.items() if old.bundles.get(path, told) != told]
    return found


def check_resumable(old: Run, new: Run, path: str) -> None:
    """Raises EdgeMtpError where the results at `path` cannot be gone on with."""
    if found := differences(old, new):
        raise EdgeMtpError(f"results '{path}' are of another run: {found[0]}; give another --output")


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
