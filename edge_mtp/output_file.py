"""Checks for a command's output files: none may be an input, and a link is written through, not replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edge_mtp.errors import EdgeMtpError


def refuse_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path | str | None]) -> None:
    """Raises EdgeMtpError if one of `outputs` is the same file as one of `inputs`, under any name.

    Ignores None and paths that do not exist. For an input folder, the files directly inside it count as inputs.
    """
    written = {(status.st_dev, status.st_ino): path for path in outputs if path and (status := _status(path))}
    if not written:
        return
    for each in inputs:
        given = Path(each) if each else None
        for path in _files(given) if given else ():
            status = _status(path)
            if status and (status.st_dev, status.st_ino) in written:
                output = written[status.st_dev, status.st_ino]
                raise EdgeMtpError(f"'{output}' is an input ('{path}') and would be overwritten; name another output")


def destination(path: str | Path) -> Path:
    """The file to write for `path`: the target of a link, even if the target does not exist yet.

    Otherwise, renaming a file to `path` would replace the link, and leave its target as it was. Links among the parent
    folders are not resolved: `/proc/PID/root`, once resolved, leads elsewhere.
    """
    path = Path(path)
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    return path  # a cycle of links; opening the file will report it


_MOST_LINKS = 40  # Linux's limit


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return (path,)
    try:
        return [each for each in path.iterdir() if not each.is_dir()]
    except OSError:
        return ()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None
