"""The command line with reads that leave time for a signal: `READ ARGUMENTS`.

From the READ-th read of a weight on, all are slow, and standard output says when that is so.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

from edge_mtp.cli import main as command
from edge_mtp.export.weights import Weights

SLOW_S = 0.5


def main(read: str, *arguments: str) -> None:
    rows, numbers = Weights.read, itertools.count(1)

    def slow(self: Weights, name: str, start: int = 0, stop: int | None = None) -> Any:
        number = next(numbers)
        if number == int(read):
            print("slow", flush=True)
        if number >= int(read):
            time.sleep(SLOW_S)
        return rows(self, name, start, stop)

    Weights.read = slow  # type: ignore[method-assign]
    command(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
