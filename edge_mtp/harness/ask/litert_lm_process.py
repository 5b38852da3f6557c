"""The stock LiteRT-LM engine (pip `litert-lm`) on a bundle, in a process of its own.

So a crash of it is not ours, its memory can be told, and what it logs stays off the terminal. The process runs
`serve`: its argument and its lines on standard input are JSON, and so is what it writes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from edge_mtp.device.fingerprint import parse_meminfo
from edge_mtp.device.process import LocalProcess
from edge_mtp.errors import EdgeMtpError

# With this process's own search path: a working folder may hold another edge_mtp, such as its sources.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edge_mtp.harness.ask.litert_lm_process import serve;"
    " serve(json.loads(sys.argv[2]))"
)
_LAST_WORDS = 3  # lines of its log that an error quotes
_NO_CACHE = ":nocache"
_EVERY_TOKEN = 1 << 30  # as top-k: it reads 0 as one


StockMtp: TypeAlias = Literal["off", "on", "adaptive"]


class SilentStockError(EdgeMtpError):
    """The engine said nothing for too long and was stopped."""


class DeadStockError(EdgeMtpError):
    """The engine's process has ended."""


@dataclass(frozen=True)
class StockReply:
    """One reply. `chunks` are pieces of its text as they were streamed, each with its time since the request.

    With drafts a chunk is what one step gave out. Times in microseconds. Memory is the whole process's, with the
    Python in it: the largest that was ever resident, and what of it is now not backed by a file. `decoded` tokens are
    those that a counting engine counts: with the stop token when it decodes plainly, without it when it drafts.
    """

    prefill_us: float
    total_us: float
    chunks: list[tuple[str, float]]
    rss_bytes: int | None
    anonymous_bytes: int | None
    decoded: int | None

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.chunks)


class StockEngine:
    """`litert_lm.Engine` on one bundle, plain or with speculative decoding, whose length the bundle's verify fixes.

    `mtp`: off, on (in every step), or adaptive (while the engine finds it faster, which litert-lm knows from 0.19 on).

    `silence_s` bounds every wait: an engine that says nothing for so long counts as hung and is killed. `cache` is a
    folder for packed weights; they are packed anew without one, since its files are not told apart by the bundle.
    `counts`: it counts tokens, which costs it a little.

    Raises EdgeMtpError when litert-lm is not installed, refuses the bundle or a request, hangs or dies.
    """

    def __init__(
        self,
        bundle: Path,
        *,
        mtp: StockMtp,
        accelerator: str = "cpu",
        threads: int | None = None,
        cache: Path | None = None,
        counts: bool = False,
        silence_s: float = 900.0,
    ) -> None:
        if importlib.util.find_spec("litert_lm") is None:
            raise EdgeMtpError("engine litert-lm is not installed; pip install litert-lm")
        settings = {
            "bundle": str(bundle),
            "mtp": mtp,
            "accelerator": accelerator,
            "threads": threads,
            "cache": _NO_CACHE if cache is None else str(cache),
            "counts": counts,
        }
        self._what = f"litert-lm on {accelerator}, MTP {mtp}"
        self.silence_s = silence_s
        self._process = LocalProcess([sys.executable, "-c", _START, json.dumps(sys.path), json.dumps(settings)])
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._closed = False
        try:
            self.load_us = float(self._next()["load_us"])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        try:
            self._process.wait(0)
        except TimeoutError:
            return False
        return True

    def reply(self, prompt: str, max_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> StockReply:
        """The reply to a rendered prompt without its start token, which the engine puts there itself.

        Each begins with an empty cache. With drafts it may be up to their number longer than `max_tokens`.
        """
        request = {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        try:
            self._process.send(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None
        answer = self._next()
        return StockReply(**{**answer, "chunks": [(text, at_us) for text, at_us in answer["chunks"]]})

    def close(self) -> float | None:
        """Ends the engine. The share of its drafts that were accepted, which it tells only then and in its log; None
        where it drafted none, or has been closed before."""
        if self._closed:
            return None
        self._closed = True
        self._process.close_input()
        try:
            self._process.wait(30)
        except TimeoutError:
            self._kill()
        self._reader.join(timeout=10)
        rates = re.findall(r"Success rate: ([0-9.eE+-]+)", self._process.diagnostics())
        self._process.close()
        return float(rates[-1]) if rates else None

    def __enter__(self) -> StockEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.lines():
                self._lines.put(line)
        self._lines.put(None)

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self.silence_s)
        except queue.Empty:
            self._kill()
            raise SilentStockError(f"{self._what}: no word for {self.silence_s:.0f} s; it was stopped") from None
        if line is None:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgeMtpError(f"{self._what}: {answer['error']}{self._last_words()}")
        return answer

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _death(self) -> EdgeMtpError:
        try:
            code = self._process.wait(10)
        except TimeoutError:
            self._kill()
            return DeadStockError(f"{self._what}: it closed its output and went on; it was stopped")
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return DeadStockError(f"{self._what}: it ended with {end}{self._last_words()}")

    def _last_words(self) -> str:
        """The last error in its log, for the end of a message; empty if there is none."""
        lines = [line.strip() for line in self._process.diagnostics().splitlines()]
        begins = [n for n, line in enumerate(lines) if re.match(r"[EF]\d{4} |\w*Error: ", line)]
        if not begins:
            return ""
        first, *others = lines[begins[-1] :]
        found = [re.sub(r"^[EF]\d{4} .*?\] ", "", first), *itertools.takewhile(lambda line: line[:1] == "└", others)]
        return f": {' '.join(found[:_LAST_WORDS])}"


def serve(settings: Mapping[str, Any]) -> None:
    """The program: says when the engine is there, then answers each line of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    litert_lm: Any = importlib.import_module("litert_lm")  # it tells no types
    # The level at which the acceptance is told; it says nothing while a reply is written.
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
    begun = time.perf_counter()
    try:
        engine = litert_lm.Engine(
            settings["bundle"],
            backend=(
                litert_lm.Backend.CPU(thread_count=settings["threads"])
                if settings["accelerator"] == "cpu"
                else litert_lm.Backend.GPU()
            ),
            **speculation(litert_lm, settings["mtp"]),
            cache_dir=settings["cache"],
            enable_benchmark=settings["counts"],
        )
    except (RuntimeError, NoSuchModeError) as error:
        say({"error": str(error)})
        return
    say({"load_us": (time.perf_counter() - begun) * 1e6})
    for line in sys.stdin:
        try:
            say(_reply(litert_lm, engine, settings["counts"], **json.loads(line)))
        except RuntimeError as error:
            say({"error": str(error)})
    engine.close()


class NoSuchModeError(Exception):
    """What the installed litert-lm cannot be asked for."""


def speculation(litert_lm: Any, mtp: StockMtp) -> dict[str, Any]:
    """The arguments that tell litert_lm.Engine how to draft: a mode from 0.19 on, a switch before.

    Raises NoSuchModeError for a mode that the installed one does not know.
    """
    if hasattr(litert_lm, "SpeculativeDecodingMode"):
        mode = litert_lm.SpeculativeDecodingMode[mtp.upper()]
        return {"speculative_decoding_config": litert_lm.SpeculativeDecodingConfig(mode=mode)}
    if mtp == "adaptive":
        raise NoSuchModeError("the installed litert-lm has no adaptive MTP; install 0.19 or later")
    return {"enable_speculative_decoding": mtp == "on"}


def _reply(
    litert_lm: Any, engine: Any, counts: bool, *, prompt: str, max_tokens: int, temperature: float, seed: int
) -> dict[str, Any]:
    sampler = (
        litert_lm.SamplerConfig(top_k=_EVERY_TOKEN, top_p=1.0, temperature=temperature, seed=seed)
        if temperature > 0
        else litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
    )
    chunks: list[tuple[str, float]] = []
    with engine.create_session(
        max_output_tokens=max_tokens, apply_prompt_template=False, sampler_config=sampler
    ) as session:
        begun = time.perf_counter()
        session.run_prefill([prompt])
        prefill_us = (time.perf_counter() - begun) * 1e6
        for response in session.run_decode_async():
            chunks.append((response.texts[0], (time.perf_counter() - begun) * 1e6))
        total_us = (time.perf_counter() - begun) * 1e6
        decoded = session.get_benchmark_info().last_decode_token_count if counts else None
    memory = {}
    with contextlib.suppress(OSError):  # no /proc here
        memory = parse_meminfo(Path("/proc/self/status").read_text())
    return {
        "prefill_us": prefill_us,
        "total_us": total_us,
        "chunks": chunks,
        "rss_bytes": memory.get("VmHWM"),
        "anonymous_bytes": memory.get("RssAnon"),
        "decoded": decoded,
    }
