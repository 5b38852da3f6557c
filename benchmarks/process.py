"""What a command takes: time, anonymous memory, disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 3600


def measured(command: Sequence[str], scratch: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command; wall seconds, peaks of its anonymous memory and of the disk's use, bytes in `scratch` at the end.

    The disk's use is that of all its file system, so nothing else should write there. A command that fails gives its
    last line of stderr as `failed`.
    """
    before, peaks = shutil.disk_usage(scratch).used, {"anonymous": 0, "disk": 0}
    with tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=scratch, env=environment)

        def watch() -> None:
            while process.poll() is None:
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
                    peaks["anonymous"] = max(peaks["anonymous"], kib << 10)
                except (OSError, StopIteration):
                    pass
                peaks["disk"] = max(peaks["disk"], shutil.disk_usage(scratch).used - before)
                time.sleep(0.1)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()
            thread.join()
        seconds = time.monotonic() - started
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        return {"failed": lines[-1] if lines else f"exit status {process.returncode}"}
    written = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    return {
        "seconds": round(seconds, 1),
        "anonymous_bytes": peaks["anonymous"],
        "disk_bytes": peaks["disk"],
        "bytes": written,
    }
