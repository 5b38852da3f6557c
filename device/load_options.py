"""How a runner loads a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.accelerator import CPU, GPU, AcceleratorChoice


@dataclass(frozen=True)
class LoadOptions:
    """`threads` None leaves the number to LiteRT. `token_bytes` is a file with the token table, for a bundle without.

    `stepwise` drafts with the stock one-step drafter even where the bundle has folded drafts. `half_precision` is for a
    GPU: faster, and other rounding than the CPU's, so the text may differ from the CPU's.
    """

    threads: int | None = None
    token_bytes: Path | None = None
    stepwise: bool = False
    accelerator: AcceleratorChoice = CPU
    half_precision: bool = False

    def __post_init__(self) -> None:
        """Raises EdgeMtpError for half precision where no GPU may run."""
        if self.half_precision and self.accelerator not in (GPU, "auto"):
            raise EdgeMtpError(
                f"half precision is for a GPU, not the {self.accelerator}; take --accelerator gpu or auto, or drop it"
            )

    def flags(self, token_bytes: str | None) -> list[str]:
        """The runner's flags; `token_bytes` is that file's path on the device."""
        flags = []
        if self.threads is not None:
            flags += ["--threads", str(self.threads)]
        if token_bytes is not None:
            flags += ["--token-bytes", token_bytes]
        if self.stepwise:
            flags.append("--stepwise")
        if self.accelerator != CPU:
            flags += ["--accelerator", self.accelerator]
        if self.half_precision:
            flags.append("--half")
        return flags


DEFAULT_LOADING = LoadOptions()
