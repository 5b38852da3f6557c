"""One job on several devices at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge_mtp.errors import EdgeMtpError

T = TypeVar("T")
STOP_S = 10.0  # for jobs to notice that they should stop


@dataclass(frozen=True)
class Result(Generic[T]):
    """The result of the job on `device`: its `value`, or the `error` that ended it, one line."""

    device: str
    value: T | None
    error: str | None


def on_each(
    devices: Sequence[str],
    job: Callable[[str, threading.Event], T],
    done: Callable[[Result[T]], None] = lambda result: None,
) -> list[Result[T]]:
    """Runs `job(device, stop)` for all of `devices`, each in a thread of its own; results in the order of `devices`.

    An EdgeMtpError ends the job on its device only. `done` gets each result as it comes, one at a time. After an
    interrupt, or another failure of a job, `stop` is set, the jobs have `STOP_S` to end, and the exception is raised.
    """
    stop = threading.Event()
    telling = threading.Lock()
    results: dict[int, Result[T]] = {}
    faults: list[BaseException] = []

    def work(index: int, device: str) -> None:
        try:
            try:
                result = Result(device, job(device, stop), None)
            except EdgeMtpError as error:
                result = Result[T](device, None, " ".join(str(error).split()))
            with telling:
                if not stop.is_set():
                    done(result)
                results[index] = result
        except BaseException as error:
            faults.append(error)
            stop.set()

    # Daemons: what hangs in a device must not keep this program from ending.
    threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(devices)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not stop.is_set():
                thread.join(0.2)  # in pieces, so that Ctrl-C is seen everywhere
    except BaseException:
        stop.set()
        raise
    finally:
        deadline = time.monotonic() + STOP_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
    if faults:
        raise faults[0]
    return [results[index] for index in range(len(devices))]
