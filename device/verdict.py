"""The trial of an accelerator on a device: whether it computes what the CPU does, and how fast.

The runner makes it, with --try, in a process for nothing else: an accelerator that cannot run a graph often ends it.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from edge_mtp.device.process import Process
from edge_mtp.device.runner import LAST_WORDS, signal_name
from edge_mtp.device.survey import printable
from edge_mtp.errors import EdgeMtpError

# To compile a model's shaders can take a minute on a phone, and the CPU computes the same before.
TRIAL_S = 300.0


@dataclass(frozen=True)
class Verdict:
    """`faster`: how many times as fast as the CPU, at an acceptance of 0.7. None: `fault` tells why it cannot serve."""

    faster: float | None
    fault: str = ""


def judge(process: Process, timeout_s: float = TRIAL_S) -> Verdict:
    """Waits for the runner that tries an accelerator, and kills it after `timeout_s` seconds. Raises EdgeMtpError when
    the link breaks."""
    process.close_input()
    try:
        code = process.wait(timeout_s)
        return _verdict(b"".join(process.lines()).decode(errors="replace"), code, process.diagnostics())
    except TimeoutError:
        return Verdict(None, f"it took more than {timeout_s:.0f} s")
    finally:
        process.kill()
        with contextlib.suppress(TimeoutError, EdgeMtpError):
            process.wait(10)
        process.close()


def _verdict(output: str, code: int, errors: str) -> Verdict:
    """From what the runner wrote and how it ended."""
    wrong = re.search(r"^wrong (.+)$", output, re.M)
    if wrong:
        return Verdict(None, printable(wrong[1]))
    faster = re.search(r"^faster (\d{1,9}(?:\.\d{1,9})?(?:e[+-]\d\d)?)( |$)", output, re.M | re.A)
    if code == 0:
        return Verdict(float(faster[1])) if faster else Verdict(None, "its trial told nothing")
    end = f"it crashed (signal {-code}, {signal_name(-code)})" if code < 0 else f"it ended with exit code {code}"
    words = printable(" | ".join(errors.strip().splitlines()[-LAST_WORDS:]))
    return Verdict(None, end + (f": {words}" if words else ""))
