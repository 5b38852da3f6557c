"""The SoCs that LiteRT's vendor plug-ins compile graphs for, and the SDKs that their compilers need.

An SDK package has no SDK in it: its build downloads one from the vendor. Where the download fails, the build of most
packages goes on, and pip installs (and keeps in its cache) a package without the SDK.
"""

from __future__ import annotations

import difflib
import importlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from edge_mtp.errors import EdgeMtpError

NEAREST = 3  # names that a refusal suggests

State = Literal["installed", "empty", "absent", "unsupported"]


@dataclass(frozen=True)
class Vendor:
    """A vendor of NPUs. `module` is its package in `ai_edge_litert.aot.vendors`; `host` is where its SDK comes from.

    The SDK of a vendor is on the index as `distribution`, in the version of LiteRT unless it `has_nightlies_only`.
    """

    name: str
    module: str
    distribution: str
    host: str
    has_nightlies_only: bool = False

    @property
    def package(self) -> str:
        """The SDK's Python package."""
        return self.distribution.removesuffix("-nightly").replace("-", "_")

    @property
    def requirement(self) -> str:
        """The SDK's distribution as pip takes it."""
        return self.distribution if self.has_nightlies_only else f"{self.distribution}=={version('ai-edge-litert')}"


VENDORS = (
    Vendor("Qualcomm", "qualcomm", "ai-edge-litert-sdk-qualcomm", "softwarecenter.qualcomm.com"),
    Vendor("MediaTek", "mediatek", "ai-edge-litert-sdk-mediatek", "s3.ap-southeast-1.amazonaws.com"),
    Vendor("Google Tensor", "google_tensor", "ai-edge-litert-sdk-google-tensor", "redirector.gvt1.com"),
    Vendor("Samsung", "samsung", "ai-edge-litert-sdk-samsung-nightly", "soc-developer.semiconductor.samsung.com", True),
    Vendor("Intel", "intel_openvino", "ai-edge-litert-sdk-intel", "storage.openvinotoolkit.org"),
)
OPENVINO = "openvino"  # Intel's compiler, which its SDK adds the NPU to


@dataclass(frozen=True)
class Soc:
    """A SoC by LiteRT's name for it."""

    name: str
    vendor: Vendor

    @property
    def target(self) -> Any:
        """LiteRT's own description of the SoC (`aot_types.Target`)."""
        targets = _targets(self.vendor)
        return targets.Target(targets.SocModel(self.name))


@dataclass(frozen=True)
class Sdk:
    """Whether the SDK of a vendor is there. `cure` says in words what to do about it; "" where it is installed."""

    state: State
    cure: str = ""


@cache
def socs() -> tuple[Soc, ...]:
    """Every SoC that the installed LiteRT names, by vendor."""
    return tuple(
        Soc(str(model.value), vendor)
        for vendor in VENDORS
        for model in _targets(vendor).SocModel
        if model.value != "ALL"
    )


def find_soc(name: str) -> Soc:
    """The SoC of a name, in any case, and with spaces for "_". Raises EdgeMtpError for an unknown one."""
    known = {soc.name.lower(): soc for soc in socs()}
    wanted = name.lower().replace(" ", "_")
    if wanted in known:
        return known[wanted]
    near = [each for each in known if wanted and wanted in each] or difflib.get_close_matches(wanted, known, NEAREST)
    nearest = f"take {' or '.join(known[each].name for each in near[:NEAREST])}; " if near else ""
    raise EdgeMtpError(f"no SoC {name!r}: {nearest}`edge-mtp compile --list-soc` lists all {len(known)}")


def sdk_of(vendor: Vendor, *, needs_npu: bool = True) -> Sdk:
    """Whether the compiler of a vendor can run here. Nothing is imported.

    Args:
        needs_npu: the code is for the vendor's NPU; Intel's compiler can do without its SDK for other devices.
    """
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return Sdk("unsupported", f"{vendor.name}'s compiler needs Linux on x86-64: compile there, and copy the bundle")
    if vendor.module == "intel_openvino":
        if find_spec(OPENVINO) is None:
            return Sdk("absent", f"OpenVINO is not installed: pip install {vendor.requirement}")
        if not needs_npu:
            return Sdk("installed")
    found = find_spec(vendor.package)
    if found is None:
        return Sdk("absent", f"{vendor.name}'s SDK is not installed: pip install {vendor.requirement}")
    if not _has_libraries(found.submodule_search_locations or ()):
        return Sdk(
            "empty",
            f"the package {vendor.distribution} is installed without the SDK, because it could not be downloaded from"
            f" {vendor.host}: pip install --force-reinstall --no-deps --no-cache-dir {vendor.requirement}",
        )
    return Sdk("installed")


def _has_libraries(folders: Sequence[str]) -> bool:
    return any(next(Path(folder, "data").rglob("*.so*"), None) is not None for folder in folders)


def _targets(vendor: Vendor) -> Any:
    return importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor.module}.target")
