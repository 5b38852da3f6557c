"""Silences libraries that print: on stdout, through logging, and from C++ directly to descriptor 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Let only Python's own sys.stderr reach the terminal, where the caller shows progress."""
    level, stderr = logging.root.manager.disable, sys.stderr
    logging.disable(logging.WARNING)
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        if stderr is not None and _is_descriptor(stderr, 2):
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
        os.dup2(null, 2)
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if sys.stderr is not stderr:
            sys.stderr.close()
            sys.stderr = stderr
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
        logging.disable(level)


def _is_descriptor(stream: Any, descriptor: int) -> bool:
    try:
        return bool(stream.fileno() == descriptor)
    except (OSError, ValueError, AttributeError):
        return False
