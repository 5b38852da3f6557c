"""The words for what runs a bundle's graphs."""

from __future__ import annotations

from typing import Literal, get_args

Accelerator = Literal["cpu", "gpu", "npu"]
# auto: the fastest that computes what the CPU computes, found by trying each in a process of its own.
AcceleratorChoice = Literal["cpu", "gpu", "npu", "auto"]

CPU: Accelerator = "cpu"
GPU: Accelerator = "gpu"
NPU: Accelerator = "npu"

ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)
ACCELERATOR_CHOICES: tuple[AcceleratorChoice, ...] = get_args(AcceleratorChoice)
