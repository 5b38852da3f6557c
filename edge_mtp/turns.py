"""Replies of one engine take turns, because a runner answers one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from edge_mtp.errors import EdgeMtpError

# How long a reply that nobody reads keeps others waiting. A terminal, a socket or a screen takes a token in less; who
# does more between two tokens has left, or can read to the end first.
PATIENCE_S = 1.0
_GAVE_WAY = (
    "the reply was cancelled, because another one began before it was read to its end; read it first, or open a second"
    " engine"
)
_CLOSED = "the engine was closed before the reply was complete; read it to its end first"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Turns:
    """Whose turn it is on one runner.

    A stream takes its turn when its reader asks for the first item, in the order of asking. It gives the turn up at its
    end, when its reader leaves it, when it is cancelled, and after an error. Others wait while somebody reads it. A
    stream that nobody reads gives way after `PATIENCE_S`. It gives way at once to the asyncio task or the main thread
    that read it last, since nobody else would read on; other threads may belong to a pool and read for several.
    """

    def __init__(self, interrupt: Callable[[], None] | None = None) -> None:
        """`interrupt` makes the runner end its request soon; any thread may call it, and it does not wait."""
        self._interrupt = interrupt
        # Its lock is reentrant: a stream that the garbage collector finds is given up in whatever thread that happens.
        self._changed = threading.Condition()
        self._line: deque[Stream[Any]] = deque()
        self._running: Stream[Any] | None = None
        self._closed = False

    def take(self, stream: Stream[Any]) -> bool:
        """Waits for the turn of `stream`; False if it is cancelled meanwhile. Raises EdgeMtpError after `close`."""
        since = time.monotonic()
        with self._changed:
            self._line.append(stream)
        try:
            while True:
                with self._changed:
                    if self._closed:
                        raise EdgeMtpError("the engine is closed; open the bundle again")
                    if stream.cancelled:
                        return False
                    running = self._running
                    if running is None and self._line[0] is stream:
                        self._running = stream
                        return True
                    left = PATIENCE_S if running is None else running.patience_left(stream.reader, since)
                    if left > 0:
                        self._changed.wait(left)
                        continue
                assert running is not None
                running.give_way(stream.reader, since)
        finally:
            with self._changed:
                self._line.remove(stream)
                self._changed.notify_all()

    def give_up(self, stream: Stream[Any]) -> None:
        """Ends the turn of `stream`, if it has it."""
        with self._changed:
            if self._running is stream:
                self._running = None
                self._changed.notify_all()

    def hurry(self, stream: Stream[Any]) -> None:
        """Makes a cancelled stream end soon that is still being read, whether it runs or waits."""
        with self._changed:
            if self._running is stream and self._interrupt is not None:
                self._interrupt()
            self._changed.notify_all()

    def close(self) -> None:
        """Cancels the running stream, and refuses those that wait and that come."""
        with self._changed:
            self._closed = True
            running = self._running
            self._changed.notify_all()
        if running is not None:
            running.cancel(EdgeMtpError(_CLOSED))


class Stream(Generic[Item]):
    """The items of a generator, read in turn with other streams. Any thread or task may read or cancel it.

    `reader` is the thread or task that read last; `over`: there are no more items.
    """

    def __init__(self, turns: Turns, items: Generator[Item, None, None]) -> None:
        """`items` is closed, from whatever thread, to cancel it; that must not wait."""
        self._turns = turns
        self._items = items
        self._reading = threading.Lock()  # held while the generator runs, which nobody else can close then
        self._begun = False
        self._complete = False
        self._idle_since = 0.0
        # Why it was cancelled, the first reason first; None: its reader left. A list, because appending is atomic: the
        # garbage collector may cancel in the midst of anything.
        self._reasons: list[EdgeMtpError | None] = []
        self.reader: object = None
        self.over = False

    def __iter__(self) -> Generator[Item, None, None]:
        try:
            while (item := self._read(threading.current_thread())) is not None:
                yield item
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[Item, None]:
        with self._worker() as worker:
            while (item := await _in(worker, partial(self._read, asyncio.current_task()))) is not None:
                yield item

    async def drain(self) -> None:
        """Reads to the end in a thread, without blocking the event loop."""
        task = asyncio.current_task()

        def read() -> None:
            while self._read(task) is not None:
                pass

        with self._worker() as worker:
            await _in(worker, read)

    def cancel(self, reason: EdgeMtpError | None = None) -> None:
        """Ends it, from any thread and without waiting. Who reads on gets `reason`, or without one just the end."""
        if self.over or self._reasons:
            return
        self._reasons.append(reason)
        self._settle()
        if not self.over:  # it is being read; the reader ends it when the runner answers
            self._turns.hurry(self)

    @property
    def cancelled(self) -> bool:
        return bool(self._reasons)

    def complete(self) -> None:
        """Ends the turn early, as the runner has answered: the next stream need not wait for readers of this one."""
        self._complete = True
        self._turns.give_up(self)

    def patience_left(self, reader: object, since: float) -> float:
        """Seconds after which it gives way to `reader`, who waits `since`; 0 or less: now."""
        return PATIENCE_S if self._reading.locked() else self._idle_left(reader, since)

    def give_way(self, reader: object, since: float) -> None:
        """Cancels it for `reader`, unless somebody reads it again."""
        if self._reading.acquire(blocking=False):
            try:
                if self._idle_left(reader, since) <= 0:
                    self._reasons.append(EdgeMtpError(_GAVE_WAY))
                    self._close()
            finally:
                self._reading.release()

    def _idle_left(self, reader: object, since: float) -> float:
        if reader is self.reader and (reader is threading.main_thread() or not isinstance(reader, threading.Thread)):
            return 0.0
        return max(self._idle_since, since) + PATIENCE_S - time.monotonic()

    def _read(self, reader: object) -> Item | None:
        """The next item, None at the end. Raises what ended it, as often as it is asked."""
        with self._reading:
            self.reader = reader
            try:
                item = self._advance()
            finally:
                self._idle_since = time.monotonic()
        self._settle()  # whoever cancelled meanwhile could not
        if item is None and not self._complete and self._reasons and self._reasons[0] is not None:
            raise self._reasons[0]
        return item

    def _advance(self) -> Item | None:
        if self.over:
            return None
        ended = True
        try:
            if not self._begun:
                self._begun = True
                if not self._turns.take(self):
                    return None
            item = next(self._items, None)
            ended = item is None
            return item
        except EdgeMtpError as error:
            self._reasons.append(error)
            return None
        finally:
            if ended:
                self._end()

    def _settle(self) -> None:
        """Closes the stream if it is cancelled; a reader that is inside does so on its way out."""
        if self._reasons and not self.over and self._reading.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._reading.release()

    def _close(self) -> None:
        if self._complete and self._reasons[0] is not None:
            return  # nothing is left to cancel, and its last items are its reader's
        try:
            self._items.close()
        finally:
            self._end()

    def _end(self) -> None:
        self.over = True
        self._turns.give_up(self)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[ThreadPoolExecutor]:
        """A thread for a reader that must not be blocked. One each: where replies that wait take all threads of a
        shared pool, nobody can read the one that they wait for.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="edge-mtp-reply")
        try:
            yield worker
        finally:
            self.cancel()
            worker.shutdown(wait=False)


async def _in(worker: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(worker, work)
