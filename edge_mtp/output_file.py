"""Files that a command writes: never one that it reads, and where a link points rather than in the link's place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edge_mtp.errors import EdgeMtpError


def refuse_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path | str | None]) -> None:
    """Raises EdgeMtpError where one of `outputs` is one of `inputs`, by whatever name, or one of the files in them.

    None, and what does not exist, is no file. Of an input that is a folder, its own files count, not those of folders
    inside it.
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
    """What is written by the name `path`: where a link points, also where nothing is yet.

    A file that is put in place by renaming would otherwise replace the link, and leave what it points to as it was.
    Folders stay as they are named: `/proc/PID/root` is a link that leads elsewhere once its name is spelled out.
    """
    path = Path(path)
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    return path  # a link in a circle, which whoever writes there is told of


_MOST_LINKS = 40  # as Linux follows


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
