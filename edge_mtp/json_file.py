"""Text and JSON files: refused in one line, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.output_file import destination


def read_text(path: str | Path, what: str) -> str:
    """The text of a UTF-8 file. If it cannot be read, raises an EdgeMtpError that calls the file `what`."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except OSError as error:
        raise EdgeMtpError(f"cannot read {what} '{path}': {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise EdgeMtpError(f"{what} '{path}' is not UTF-8 text; give another file") from None


def read_json(path: str | Path, what: str) -> Any:
    """The value in a JSON file. If it cannot be read, raises an EdgeMtpError that calls the file `what`."""
    text = read_text(path, what)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise EdgeMtpError(
            f"{what} '{path}' is not JSON: {error.msg} in line {error.lineno}; correct that line"
        ) from None
    except ValueError:  # a number with more digits than Python accepts
        raise EdgeMtpError(f"{what} '{path}' has a number that is too long to be read; correct it") from None
    except RecursionError:
        raise EdgeMtpError(f"{what} '{path}' is nested too deeply to be read; give another file") from None


def read_checkpoint_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises EdgeMtpError, which sends to the checkpoint for a better file, if it cannot be read or holds no object.
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


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON. On failure, raises EdgeMtpError and leaves the file as it was."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 file, with lone surrogates as escapes.

    On failure, raises EdgeMtpError and leaves the file as it was.
    """
    target = destination(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():  # a terminal, a pipe, /dev/null: renaming would replace it
            target.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        try:
            part.unlink(missing_ok=True)  # left by a killed process; does not follow a link
            with part.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise EdgeMtpError(f"cannot write '{path}': {error.strerror}; name another file") from None


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON lacks, such as the bounds of an unbounded interval."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
