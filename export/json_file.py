"""Reading the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        EdgeMtpError: the file is missing, unreadable, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EdgeMtpError(f"{path} cannot be read ({error.strerror}): give a checkpoint directory") from error
    except RecursionError:
        raise EdgeMtpError(f"{path} is nested too deeply to be read: copy the checkpoint again") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise EdgeMtpError(f"{path} is not JSON ({reason}): copy the checkpoint again") from error
    if not isinstance(value, dict):
        raise EdgeMtpError(f"{path} holds {type(value).__name__}, not an object: copy the checkpoint again")
    return value
