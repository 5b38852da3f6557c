"""SoCs by name, and whether the SDK of their vendor is there."""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from ai_edge_litert.aot.vendors.intel_openvino import target as intel
from ai_edge_litert.aot.vendors.qualcomm import target as qualcomm

from edge_mtp.errors import EdgeMtpError
from edge_mtp.export import socs
from edge_mtp.export.socs import VENDORS, Vendor, find_soc, sdk_of

BY_NAME = {vendor.name: vendor for vendor in VENDORS}


@pytest.fixture(autouse=True)
def _x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def installed(folder: Path, package: str, *libraries: str) -> None:
    """A package in `folder` that must not be imported."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("raise RuntimeError('imported')")
    for library in libraries:
        path = folder / package / "data" / library
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_every_soc_of_litert_is_listed_once() -> None:
    names = [soc.name for soc in socs.socs()]
    assert len(names) == len(set(names))
    assert {soc.vendor.name for soc in socs.socs()} == {"Qualcomm", "MediaTek", "Google Tensor", "Samsung", "Intel"}
    for vendor, table in (("Qualcomm", qualcomm), ("Intel", intel)):
        listed = {soc.name for soc in socs.socs() if soc.vendor.name == vendor}
        assert listed == {model.value for model in table.SocModel} - {"ALL"}


@pytest.mark.parametrize(
    ("name", "soc", "vendor"),
    [
        ("SM8750", "SM8750", "Qualcomm"),
        ("mt6989", "MT6989", "MediaTek"),
        ("Tensor G5", "Tensor_G5", "Google Tensor"),  # Android's name for it
        ("E9965", "E9965", "Samsung"),
        ("lnl", "LNL", "Intel"),
    ],
)
def test_a_soc_is_found_by_its_name(name: str, soc: str, vendor: str) -> None:
    found = find_soc(name)
    assert (found.name, found.vendor.name) == (soc, vendor)
    assert found.target.soc_model == soc


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SM8751", "SM8750"),
        ("G5", "take Tensor_G5;"),
        ("MT698", "MT6989"),
        ("abacus", "no SoC 'abacus': `"),
        ("", "''"),
    ],
)
def test_an_unknown_soc_is_told_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(EdgeMtpError, match="--list-soc") as refusal:
        find_soc(name)
    assert nearest in str(refusal.value)


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_an_sdk_is_absent_empty_or_installed(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = {socs.OPENVINO}
    monkeypatch.setattr(socs, "find_spec", lambda name: find_spec(name) if name in present else None)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(tmp_path, socs.OPENVINO)
    assert sdk_of(vendor).state == "absent"
    assert f"pip install {vendor.distribution}" in sdk_of(vendor).cure

    installed(tmp_path, vendor.package, "LICENSE")
    present.add(vendor.package)
    empty = sdk_of(vendor)
    assert empty.state == "empty"
    assert vendor.host in empty.cure
    assert "--no-cache-dir" in empty.cure, "pip would install the empty wheel that it has kept"

    (tmp_path / vendor.package / "data" / "lib").mkdir()
    (tmp_path / vendor.package / "data" / "lib" / "libcompiler.so.2").touch()
    assert sdk_of(vendor) == socs.Sdk("installed")


def test_an_sdk_is_of_the_version_of_litert() -> None:
    assert BY_NAME["Qualcomm"].requirement == f"ai-edge-litert-sdk-qualcomm=={version('ai-edge-litert')}"
    assert BY_NAME["Samsung"].requirement == "ai-edge-litert-sdk-samsung-nightly"
    assert BY_NAME["Samsung"].package == "ai_edge_litert_sdk_samsung"


def test_intels_compiler_needs_openvino_and_its_sdk_for_the_npu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intel_vendor = BY_NAME["Intel"]
    monkeypatch.setattr(socs, "find_spec", lambda name: None)
    assert "OpenVINO is not installed" in sdk_of(intel_vendor, needs_npu=False).cure
    monkeypatch.setattr(socs, "find_spec", lambda name: object() if name == socs.OPENVINO else None)
    assert sdk_of(intel_vendor, needs_npu=False).state == "installed"
    assert sdk_of(intel_vendor).state == "absent"


def test_compilers_need_linux_on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for vendor in VENDORS:
        assert sdk_of(vendor).state == "unsupported"
        assert "Linux on x86-64" in sdk_of(vendor).cure
