"""The stock LiteRT-LM engine as a peer: the same bundle, the same prompts, one CPU thread."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class StockRun:
    """One reply: its text, and seconds from the prefilled prompt to the last token."""

    text: str
    decode_s: float


class StockEngine:
    """`litert_lm.Engine` on one bundle, plain or with speculative decoding (whose length the bundle's verify fixes)."""

    def __init__(self, bundle: Path, *, mtp: bool, threads: int = 1) -> None:
        import litert_lm

        litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO if mtp else litert_lm.LogSeverity.ERROR)
        self._engine: Any = litert_lm.Engine(
            str(bundle),
            backend=litert_lm.Backend.CPU(thread_count=threads),
            enable_speculative_decoding=mtp,
            cache_dir=tempfile.mkdtemp(prefix="stock-"),
        )

    def run(self, prompt: str, max_tokens: int) -> StockRun:
        """The greedy reply to a rendered prompt."""
        with self._engine.create_session(max_output_tokens=max_tokens, apply_prompt_template=False) as session:
            session.run_prefill([prompt])
            start = time.perf_counter()
            text = session.run_decode().texts[0]
            return StockRun(text, time.perf_counter() - start)

    def close(self) -> None:
        self._engine.close()


@contextmanager
def success_rate() -> Iterator[list[float]]:
    """Collects what the engine logs of its drafts when it is closed inside: accepted over drafted, in 0..1.

    The engine tells it nowhere but in a line of its log on file descriptor 2.
    """
    found: list[float] = []
    with tempfile.TemporaryFile() as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            text = log.read().decode(errors="replace")
            found += [float(rate) for rate in re.findall(r"Success rate: ([0-9.eE+-]+)", text)]
