"""Replies that overlap on one engine: threads, tasks, early exits, exceptions, cancels and close at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import queue
import random
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from edge_mtp import turns
from edge_mtp.chat.detokenizer import Detokenizer
from edge_mtp.device import Request, Runner
from edge_mtp.device.host import litert_library, runner_path
from edge_mtp.device.process import Process
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.reply import Reply

TOLD = "the reply was cancelled, because another one began"
CLOSED = (
    "the engine was closed before the reply was complete; read it to its end first",
    "the engine is closed; open the bundle again",
)
LIMIT_S = 60.0  # no wait in these tests lasts so long unless something hangs


class Served(Process):
    """A runner in this process: what it replies depends on the prompt alone, and it cancels as the real one does."""

    pid = 0

    def __init__(self, pause_s: float = 0.0) -> None:
        self.cancelled = False
        self.most_waiting = 0  # requests that came while another ran and nobody had cancelled it
        self._pause_s = pause_s
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._over = threading.Event()
        self._open = True
        self.busy = False
        ready = {"protocol": 2, "context_length": 400, "vocabulary": 768, "max_draft_length": 7, "has_drafter": True}
        self._say(event="ready", load_us=1.0, **ready)
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def reply_to(prompt: list[int]) -> list[int]:
        chance = random.Random(zlib.crc32(str(prompt).encode()))
        return [chance.randrange(300, 700) for _ in range(chance.randrange(1, 40))]

    def send(self, data: bytes) -> None:
        if not self._open:
            raise BrokenPipeError("closed")
        record = json.loads(data)
        if record["op"] == "cancel":
            self.cancelled = True
            return
        if self.busy and not self.cancelled:
            self.most_waiting += 1
        self._requests.put(record)

    def close_input(self) -> None:
        if self._open:
            self._open = False
            self._requests.put(None)

    def lines(self) -> Iterator[bytes]:
        while (line := self._lines.get()) is not None:
            yield line

    def wait(self, timeout_s: float) -> int:
        if not self._over.wait(timeout_s):
            raise TimeoutError
        return 0

    def kill(self) -> None:
        self.close_input()

    def diagnostics(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            self.busy, self.cancelled = True, False
            self._answer(request)
            self.busy = False
        self._over.set()
        self._lines.put(None)

    def _answer(self, request: dict[str, Any]) -> None:
        name, tokens, finish, given = request["request"], self.reply_to(request["prompt"]), "stop", 0
        while given < len(tokens):
            time.sleep(self._pause_s)
            if self.cancelled:
                finish = "cancelled"
                break
            step = tokens[given : given + 3]
            self._say(
                event="step", request=name, step=given // 3, kind="verify", position=given, tokens=step,
                draft=step[1:], confidence=[0.5] * len(step[1:]), source="d" * len(step[1:]), accepted=len(step) - 1,
                planned=2, explore=False, draft_us=1.0, mask_us=0.0, embed_us=1.0, verify_us=1.0, select_us=0.0,
                total_us=5.0, logprobs=[],
            )  # fmt: skip
            given += len(step)
        self.busy = False
        self._say(
            event="done", request=name, finish=finish, prompt_tokens=1, reused_tokens=0, restored_tokens=0,
            tokens=given, prefill_us=1.0, total_us=5.0,
        )  # fmt: skip

    def _say(self, **record: Any) -> None:
        self._lines.put(json.dumps(record).encode())


class Asked:
    """An engine on `Served`, and what its replies must be."""

    def __init__(self, bundle: Bundle, pause_s: float = 0.0) -> None:
        self.process = Served(pause_s)
        self.runner = Runner(self.process, silence_s=LIMIT_S)
        self.engine = Engine(bundle, self.runner)

    def ask(self, number: int) -> Reply:
        return self.engine.generate(Request([2, number], 100))

    @staticmethod
    def long(least: int = 20) -> int:
        """A number whose reply has so many tokens."""
        return next(n for n in range(1000) if len(Served.reply_to([2, n])) >= least)

    def check(self, reply: Reply) -> None:
        """A complete reply is whole, and any other a beginning."""
        expected = Served.reply_to(list(reply.prompt))
        if reply.outcome is None:
            assert reply.tokens == expected[: len(reply.tokens)]
            return
        assert reply.tokens == expected
        text = Detokenizer(self.engine.chat_format.tokenizer)
        assert reply.text == "".join(map(text.push, expected)) + text.finish()

    def is_well(self) -> None:
        reply = self.ask(7).wait()
        assert reply.outcome is not None
        self.check(reply)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle(tiny_bundle)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a thread may not come to read for seconds; tests of giving way set what they need."""
    monkeypatch.setattr(turns, "PATIENCE_S", LIMIT_S * 10)


@pytest.fixture
def asked(bundle: Bundle) -> Iterator[Asked]:
    made = Asked(bundle)
    yield made
    made.engine.close()


@pytest.fixture
def slow(bundle: Bundle) -> Iterator[Asked]:
    made = Asked(bundle, pause_s=0.01)
    yield made
    made.engine.close()


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` in so many threads; raises what any of them raised, or that one hangs."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, n) for n in range(count)]:
            done.result(LIMIT_S)


# --- one thread ------------------------------------------------------------------------------------------------------


def test_an_unfinished_reply_gives_way_at_once_and_is_told(asked: Asked) -> None:
    for begun in range(1, 4):
        first = asked.ask(asked.long())
        tokens = iter(first)
        for _ in range(begun):
            next(tokens)
        asked.is_well()
        had = list(first.tokens)
        assert had
        for _ in range(2):  # as often as it is asked
            with pytest.raises(EdgeMtpError, match=TOLD):
                first.wait()
        with pytest.raises(EdgeMtpError, match=TOLD):
            next(tokens)
        assert (first.outcome, first.tokens) == (None, had)
        assert first.tool_calls == []
        asked.check(first)
    assert asked.process.most_waiting == 0


def test_a_reply_that_was_answered_is_read_to_its_end_later(asked: Asked) -> None:
    """The text of the last token waits for what follows it, and nothing does."""
    asked.process.reply_to = lambda prompt: asked.engine.chat_format.tokenizer.encode("a stop")  # type: ignore[method-assign]
    reply = asked.engine.generate(Request([2, 5], 100, stop_texts=["stopped"]))
    tokens = iter(reply)
    while reply.outcome is None:
        next(tokens)
    asked.engine.generate(Request([2, 6], 100)).wait()
    list(tokens)
    assert reply.wait().text == "a stop"


def test_a_reply_that_left_early_says_nothing_more(asked: Asked) -> None:
    reply = asked.ask(asked.long())
    for _ in reply:
        break
    had = list(reply.tokens)
    assert reply.wait().tokens == had
    asked.is_well()


def test_cancel_before_the_first_token_and_after_the_last(asked: Asked) -> None:
    reply = asked.ask(3)
    reply.cancel()
    assert (reply.wait().tokens, reply.outcome) == ([], None)
    done = asked.ask(3).wait()
    done.cancel()
    assert done.wait().outcome is not None
    asked.check(done)
    asked.is_well()


def test_what_the_runner_refuses_is_told_as_often_as_it_is_asked(asked: Asked) -> None:
    def refuse(request: dict[str, Any]) -> None:
        asked.process._say(event="error", request=request["request"], message="the prompt is empty")

    answer, asked.process._answer = asked.process._answer, refuse  # type: ignore[method-assign]
    reply = asked.ask(3)
    for _ in range(2):
        with pytest.raises(EdgeMtpError, match="the prompt is empty"):
            reply.wait()
    asked.process._answer = answer  # type: ignore[method-assign]
    asked.is_well()


def test_an_iterator_in_a_cycle_is_given_up_by_whoever_collects_it(slow: Asked) -> None:
    reply = slow.ask(slow.long())
    cycle: list[Any] = [iter(reply)]
    cycle.append(cycle)
    next(cycle[0])
    del cycle
    in_threads(1, lambda _: gc.collect() and None)
    in_threads(1, lambda _: slow.is_well())
    slow.check(reply)
    assert reply.outcome is None


# --- threads ---------------------------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_asking(slow: Asked) -> None:
    ended: list[int] = []

    def work(n: int) -> None:
        slow.check(slow.ask(slow.long(36)).wait())
        ended.append(n)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, 0)]
        until(lambda: slow.process.busy)
        for n in range(1, 4):
            done.append(pool.submit(work, n))
            until(lambda n=n: len(slow.engine._turns._line) == n)  # type: ignore[misc]
        for each in done:
            each.result(LIMIT_S)
    assert ended == [0, 1, 2, 3]


def test_a_reply_that_is_read_is_waited_for_however_slow_it_is(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.5)
    asked = Asked(bundle, pause_s=0.8)  # a step takes longer than that
    number = next(n for n in range(1000) if len(Served.reply_to([2, n])) == 6)

    def work(_: int) -> None:
        reply = asked.ask(number).wait()
        assert reply.outcome is not None
        asked.check(reply)

    in_threads(2, work)
    asked.engine.close()


def test_a_reply_that_nobody_reads_blocks_nobody(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.1)
    first = asked.ask(asked.long())
    tokens = iter(first)
    next(tokens)
    in_threads(4, lambda _: asked.is_well())
    with pytest.raises(EdgeMtpError, match=TOLD):
        list(tokens)
    asked.check(first)


def test_a_pools_thread_that_reads_for_several_cancels_none(asked: Asked) -> None:
    """As web servers stream: every `next` in whatever thread is free."""
    with ThreadPoolExecutor(1) as pool:
        first, second = asked.ask(asked.long()), asked.ask(asked.long(30))
        begun = iter(first)
        pool.submit(next, begun).result(LIMIT_S)
        other = ThreadPoolExecutor(1)
        waiting = pool.submit(second.wait)  # in the thread that has read the first
        until(lambda: len(asked.engine._turns._line) == 1)
        other.submit(list, begun).result(LIMIT_S)
        waiting.result(LIMIT_S)
        other.shutdown()
    for reply in (first, second):
        assert reply.outcome is not None
        asked.check(reply)


def test_cancel_reaches_a_reply_that_is_read_or_waits(bundle: Bundle) -> None:
    asked = Asked(bundle, pause_s=0.05)
    running, waiting = asked.ask(asked.long(36)), asked.ask(3)
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(running.wait)]
        until(lambda: bool(running.tokens))
        work.append(pool.submit(waiting.wait))
        until(lambda: len(asked.engine._turns._line) == 1)
        waiting.cancel()
        assert work[1].result(LIMIT_S).tokens == []
        running.cancel()
        assert work[0].result(LIMIT_S).outcome is None
    asked.check(running)
    assert asked.process.cancelled
    asked.is_well()
    asked.engine.close()


class LeftError(Exception):
    pass


def some_use(asked: Asked, chance: random.Random) -> None:
    """One way to ask and read, at random; what was read is right."""
    reply = asked.ask(chance.randrange(100))
    stop = chance.randrange(1, 12)
    kind = chance.choice(["whole", "leave", "raise", "cancel", "close"] * 4 + ["forget"])
    if kind == "whole":
        assert reply.wait().outcome is not None
    elif kind == "leave":
        for n, _ in enumerate(reply, 1):
            if n == stop:
                break
    elif kind == "raise":
        with contextlib.suppress(LeftError):
            for n, _ in enumerate(reply, 1):
                if n == stop:
                    raise LeftError
    elif kind == "cancel":
        timer = threading.Timer(chance.random() * 0.01, reply.cancel)
        timer.start()
        reply.wait()
        timer.join(LIMIT_S)
    elif kind == "close":
        with contextlib.closing(iter(reply)) as tokens:
            next(tokens)
    else:  # an iterator that is still there when the next reply begins
        tokens = iter(reply)
        next(tokens)
        assert asked.ask(chance.randrange(100)).wait().outcome is not None
        with contextlib.suppress(EdgeMtpError):
            list(tokens)
    asked.check(reply)


@pytest.mark.parametrize("seed", range(4))
def test_any_use_from_many_threads_leaves_every_reply_whole(
    asked: Asked, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.25)  # what "forget" waits for in a thread that may be a pool's
    told: list[str] = []

    def work(thread: int) -> None:
        chance = random.Random(seed * 100 + thread)
        for _ in range(40):
            try:
                some_use(asked, chance)
            except EdgeMtpError as error:  # a machine that lets a thread wait for longer than that
                told.append(str(error))

    in_threads((4, 8)[seed % 2], work)
    assert all(each.startswith(TOLD) for each in told)
    assert len(told) < 40
    asked.is_well()
    assert asked.process.most_waiting == 0


# --- close -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_close_at_any_moment(bundle: Bundle, seed: int) -> None:
    asked = Asked(bundle, pause_s=0.001 * (seed % 3))
    chance = random.Random(seed)
    ends: list[str] = []

    def work(thread: int) -> None:
        if thread == 0:
            time.sleep(chance.random() * 0.1)
            asked.engine.close()
            return
        for n in range(500):
            reply = asked.ask(n)
            try:
                reply.wait()
            except EdgeMtpError as error:
                ends.append(str(error))
                asked.check(reply)
                return
            asked.check(reply)

    in_threads(5, work)
    asked.engine.close()
    assert len(ends) == 4
    assert all(end in CLOSED for end in ends)
    assert asked.runner.has_ended
    with pytest.raises(EdgeMtpError, match="the engine is closed; open the bundle again"):
        asked.engine.chat("Hi").wait()


def test_close_ends_what_is_idle_and_what_waits(asked: Asked) -> None:
    first = asked.ask(asked.long())
    tokens = iter(first)
    next(tokens)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(asked.ask(3).wait)
        until(lambda: len(asked.engine._turns._line) == 1)
        asked.engine.close()
        with pytest.raises(EdgeMtpError, match="the engine is closed; open the bundle again"):
            waits.result(LIMIT_S)
    with pytest.raises(EdgeMtpError, match="the engine was closed before the reply was complete"):
        next(tokens)
    asked.check(first)


# --- asyncio ---------------------------------------------------------------------------------------------------------


def run(work: Any) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, LIMIT_S)

    return asyncio.run(limited())


def test_many_tasks_take_turns_and_the_loop_goes_on(slow: Asked) -> None:
    async def stream(number: int) -> Reply:
        reply = slow.ask(number)
        assert [token.id async for token in reply] == reply.tokens
        return reply

    async def main() -> tuple[list[Reply], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        # More than the threads that asyncio shares on small machines.
        waits = [slow.ask(n).wait_async() for n in range(20)]
        replies = await asyncio.gather(*waits, *(stream(n) for n in range(20)))
        ticking.cancel()
        return replies, ticks

    replies, ticks = run(main())
    for reply in replies:
        assert reply.outcome is not None
        slow.check(reply)
    assert ticks > len(replies)


def test_a_task_that_is_cancelled_cancels_its_reply(bundle: Bundle) -> None:
    asked = Asked(bundle, pause_s=0.02)

    async def read(reply: Reply, wait: bool) -> None:
        if wait:
            await reply.wait_async()
        else:
            async for _ in reply:
                pass

    async def main() -> None:
        for wait in (True, False):
            reply, after = asked.ask(asked.long(36)), asked.ask(3)
            running, waiting = asyncio.create_task(read(reply, wait)), asyncio.create_task(read(after, wait))
            while not reply.tokens:
                await asyncio.sleep(0.001)
            waiting.cancel()
            running.cancel()
            done = await asyncio.gather(running, waiting, return_exceptions=True)
            assert [type(each) for each in done] == [asyncio.CancelledError] * 2
            await asked.ask(5).wait_async()
            for each in (reply, after):
                assert each.outcome is None
                asked.check(each)

    run(main())
    asked.is_well()
    asked.engine.close()


def test_an_unfinished_async_iterator_gives_way_to_its_task(asked: Asked) -> None:
    async def main() -> None:
        first = asked.ask(asked.long())
        tokens = aiter(first)
        await anext(tokens)
        second = await asked.ask(3).wait_async()
        assert second.outcome is not None
        with pytest.raises(EdgeMtpError, match=TOLD):
            await anext(tokens)
        third = asked.ask(asked.long())
        async for _ in third:
            break
        assert (await asked.ask(4).wait_async()).outcome is not None
        asked.check(third)

    run(main())


def test_any_use_from_many_tasks_leaves_every_reply_whole(asked: Asked) -> None:
    async def work(task: int) -> None:
        chance = random.Random(task)
        for _ in range(15):
            reply = asked.ask(chance.randrange(100))
            kind, stop = chance.choice(["whole", "stream", "leave", "raise", "cancel"]), chance.randrange(1, 12)
            if kind == "whole":
                assert (await reply.wait_async()).outcome is not None
            elif kind == "cancel":
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reply.wait_async(), chance.random() * 0.01)
            else:
                n = 0
                with contextlib.suppress(LeftError):
                    async for _ in reply:
                        n += 1
                        if kind != "stream" and n == stop:
                            if kind == "raise":
                                raise LeftError
                            break
                if kind == "stream":
                    assert reply.outcome is not None
            asked.check(reply)

    async def main() -> None:
        await asyncio.gather(*(work(task) for task in range(8)))

    run(main())
    asked.is_well()
    assert asked.process.most_waiting == 0


# --- the real runner -------------------------------------------------------------------------------------------------

QUESTIONS = ["hi", "Wake me at 6:40", "What can you do?", "Set the brightness to 40 percent"]


def test_overlapping_replies_of_a_real_bundle_are_those_of_each_alone(tiny_bundle: Path) -> None:
    with open_engine(tiny_bundle, threads=1) as engine:
        alone = {question: engine.chat(question, max_tokens=24).wait().text for question in QUESTIONS}

        def work(thread: int) -> None:
            chance = random.Random(thread)
            for _ in range(8):
                question, kind = chance.choice(QUESTIONS), chance.choice(["whole", "whole", "leave", "raise", "cancel"])
                reply = engine.chat(question, max_tokens=24)
                if kind == "cancel":
                    threading.Timer(chance.random() * 0.02, reply.cancel).start()
                with contextlib.suppress(LeftError):
                    for n, _ in enumerate(reply):
                        if kind == "leave" and n == 2:
                            break
                        if kind == "raise" and n == 2:
                            raise LeftError
                assert alone[question].startswith(reply.text)
                assert kind != "whole" or reply.text == alone[question]

        in_threads(6, work)

        async def gathered() -> list[Reply]:
            return await asyncio.gather(*(engine.chat(each, max_tokens=24).wait_async() for each in QUESTIONS))

        assert [reply.text for reply in run(gathered())] == list(alone.values())
        first = engine.chat("hi", max_tokens=24)
        tokens = iter(first)
        next(tokens)
        for question in QUESTIONS:
            assert engine.chat(question, max_tokens=24).wait().text == alone[question]
        with pytest.raises(EdgeMtpError, match=TOLD):
            next(tokens)


def test_close_ends_a_long_reply_of_a_real_bundle(tiny_bundle: Path) -> None:
    engine = open_engine(tiny_bundle, threads=1)
    prompt = engine.chat_format.encode([{"role": "user", "content": "hi"}])
    reply = engine.generate(Request(prompt, 480))
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(reply.wait)
        until(lambda: bool(reply.tokens))
        engine.close()
        with pytest.raises(EdgeMtpError, match="the engine was closed before the reply was complete"):
            work.result(LIMIT_S)
    assert engine.runner._process.wait(0) == 0  # it was not killed
    assert reply.outcome is None


def test_a_cancel_that_comes_before_its_request_has_begun_counts(tiny_bundle: Path) -> None:
    """And one that comes late ends no request but its own."""
    with open_engine(tiny_bundle, threads=1) as engine:
        prompt = engine.chat_format.encode([{"role": "user", "content": "hi"}])
    long = [{**Request(prompt, 400).to_json(f"r{n}")} for n in range(3)]
    lines = [long[0], {"op": "cancel"}, long[1], {"op": "cancel"}, long[2]]
    command = [str(runner_path()), "--bundle", str(tiny_bundle), "--litert", str(litert_library()), "--threads", "1"]
    sent = "".join(json.dumps(line) + "\n" for line in lines)
    out = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=LIMIT_S).stdout
    done = [record for record in map(json.loads, out.splitlines()) if record["event"] == "done"]
    assert [(record["request"], record["finish"]) for record in done] == [
        ("r0", "cancelled"),
        ("r1", "cancelled"),  # it waited behind the first one
        ("r2", "length"),
    ]
    assert all(record["tokens"] < 20 for record in done[:2])
