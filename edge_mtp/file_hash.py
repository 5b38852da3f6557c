"""The SHA-256 of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_mtp.errors import EdgeMtpError


def sha256(path: Path) -> str:
    """The SHA-256 of the whole file, in hexadecimal. Raises EdgeMtpError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise EdgeMtpError(f"{path} cannot be read ({error.strerror}): check the file and its disk") from error
    return digest.hexdigest()
