"""A Vulkan driver in software, on which LiteRT's GPU accelerator runs without a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def find_driver(config: pytest.Config) -> Path:
    """The driver of VK_ICD_FILENAMES, else SwiftShader out of Debian's chromium-common package, kept in pytest's cache.

    Skips the test where there is none.
    """
    if named := os.environ.get("VK_ICD_FILENAMES"):
        return Path(named)
    assert config.cache is not None
    folder = config.cache.mkdir("vulkan")
    driver = folder / "usr/lib/chromium/vk_swiftshader_icd.json"
    if not driver.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.skip("no software Vulkan driver: set VK_ICD_FILENAMES, or run where apt-get knows chromium-common")
        download = subprocess.run(
            ["apt-get", "download", "chromium-common"], cwd=folder, timeout=300, capture_output=True, text=True
        )
        if download.returncode != 0:
            pytest.skip(f"no software Vulkan driver: apt-get download chromium-common: {download.stderr.strip()}")
        (package,) = folder.glob("chromium-common_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=120)
        package.unlink()
    return driver


def load(driver: Path) -> None:
    """Make this process use the driver, through the loader beside it or the system's; raises OSError without one."""
    loader = driver.parent / "libvulkan.so.1"
    ctypes.CDLL(str(loader) if loader.exists() else "libvulkan.so.1", mode=ctypes.RTLD_GLOBAL)
    os.environ["VK_ICD_FILENAMES"] = str(driver)
