"""The stock LiteRT-LM engine (pip `litert-lm`) as an oracle: what it writes, and how often its drafts were right."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Replies:
    """`success_rate` is the share of drafts that were accepted, as the engine logs it when it closes; None if it
    drafted none."""

    texts: list[str]
    success_rate: float | None


def replies(bundle: Path, prompts: Sequence[str], max_tokens: int, *, drafting: bool) -> Replies:
    """Its greedy text after each of `prompts`, given as they are but for the start token, which it puts itself.

    With `drafting` it may write up to G tokens more than `max_tokens`.

    Raises:
        RuntimeError: the engine refuses the bundle.
    """
    import litert_lm

    with _standard_error() as log:
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
        engine = litert_lm.Engine(
            str(bundle),
            backend=litert_lm.Backend.CPU(thread_count=1),
            enable_speculative_decoding=drafting,
            cache_dir=":nocache",
        )
        texts = []
        for prompt in prompts:
            with engine.create_session(max_output_tokens=max_tokens, apply_prompt_template=False) as session:
                session.run_prefill([prompt.removeprefix("<bos>")])
                texts.append(session.run_decode().texts[0])
        engine.close()
    rates = re.findall(r"Success rate: ([0-9.eE+-]+)", "\n".join(log))
    return Replies(texts, float(rates[-1]) if rates else None)


@contextmanager
def _standard_error() -> Iterator[list[str]]:
    """What native code wrote to file descriptor 2 inside, once it is left."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            lines += log.read().decode(errors="replace").splitlines()
