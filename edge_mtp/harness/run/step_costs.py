"""How long a device's steps take, with each number of drafts: what `edge-mtp plan` measures."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Sequence
from statistics import mean, median
from typing import Protocol

from edge_mtp.device import Outcome, Request, Step
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.trace import Ready
from edge_mtp.harness.record.step_times import StepTime, StepTimes
from edge_mtp.harness.run.progress import StageProgress
from edge_mtp.harness.stats.figures import count_of

STEPS = 6  # of a request that count
WARM_UP = 2  # steps at the start of a request: the first cannot draft, the next finds the caches of another graph
CONTEXTS = (128, 1024)
# What contexts are filled with where there are no prompts; what it says matters to no cost but that of experts.
FILLER = (
    "The ferry leaves at a quarter past seven, and again at noon when the wind allows it. Buy the tickets the day"
    " before: the office by the harbour closes early, and the machine takes no notes. On the island a bus waits for"
    " every boat; it goes by the village and the old lighthouse to the northern beach, where there is shade, fresh"
    " water and a kiosk that sells bread, fruit and postcards. Write down whom to call if the last boat is full."
)


class Generates(Protocol):
    """What of a runner is needed here."""

    @property
    def ready(self) -> Ready: ...
    def generate(self, request: Request) -> Generator[Step | Outcome, None, None]: ...


def tokens_needed(draft_length: int) -> int:
    """Context that measuring up to `draft_length` drafts takes up behind the prompt."""
    return (WARM_UP + STEPS) * (draft_length + 1)


def check_drafter(ready: Ready, bundle: str, draft_lengths: Sequence[int]) -> None:
    """Raises EdgeMtpError where the bundle cannot draft, or not so much."""
    if ready.max_draft_length == 0:
        raise EdgeMtpError(f"{bundle}: no verify graph, so there is nothing to plan; export it again")
    if not ready.has_drafter:
        raise EdgeMtpError(f"{bundle}: no drafter, so there is nothing to plan; export the checkpoint with its drafter")
    beyond = next((k for k in draft_lengths if k > ready.max_draft_length), None)
    if beyond is not None:
        raise EdgeMtpError(
            f"draft length {beyond} is beyond the {ready.max_draft_length} that this bundle verifies; use 1 to"
            f" {ready.max_draft_length}"
        )


def chosen_contexts(ready: Ready, wanted: Sequence[int] | None, draft_length: int) -> list[int]:
    """The prompt lengths to measure at, ascending: `wanted`; else the `CONTEXTS` that fit; else the longest that fits.

    Raises EdgeMtpError where one does not fit.
    """
    room = ready.context_length - tokens_needed(draft_length)
    if room < 1:
        raise EdgeMtpError(
            f"the bundle's context of {ready.context_length} tokens is too short to measure {draft_length} drafts in;"
            " choose fewer with --draft-length"
        )
    if wanted is None:
        return [context for context in CONTEXTS if context <= room] or [room]
    beyond = next((context for context in wanted if context > room), None)
    if beyond is not None:
        raise EdgeMtpError(
            f"context {beyond} and the {tokens_needed(draft_length)} tokens of the steps to be measured do not fit the"
            f" bundle's {ready.context_length}; use 1 to {room}"
        )
    return sorted(set(wanted))


def measure_steps(
    runner: Generates,
    text: Sequence[int],
    context: int,
    draft_lengths: Sequence[int] | None = None,
    *,
    rounds: int,
    progress: StageProgress = lambda what, done, total: None,
) -> StepTimes:
    """The times of steps behind a prompt of `context` tokens, which repeats `text`.

    A round measures plain steps, the steps of every K, and all of them once more in reverse order, so that a steady
    slowdown changes all means equally. `draft_lengths` None or empty: every K that the bundle drafts.

    Raises EdgeMtpError where the drafter gives fewer drafts.
    """
    prompt = list(itertools.islice(itertools.cycle(text), context))
    wanted = sorted(set(draft_lengths)) if draft_lengths else range(1, runner.ready.max_draft_length + 1)
    what = f"steps at {context} tokens of context"
    lengths = [0]
    progress(f"{what}: warm-up", 0, len(wanted))
    _steps(runner, prompt, 0)  # for nobody's figures, like all of the warm-up: the prompt is cached, graphs are ready
    for done, k in enumerate(wanted, 1):
        if _steps(runner, prompt, k):
            lengths.append(k)
        elif draft_lengths:
            raise EdgeMtpError(
                f"the drafter of this bundle does not give {count_of(k, 'draft')}; choose another --draft-length"
            )
        progress(f"{what}: warm-up", done, len(wanted))
    if len(lengths) == 1:
        raise EdgeMtpError(
            "the drafter of this bundle proposes nothing; see 'edge-mtp check --numerics', or export again"
        )
    times: dict[int, list[StepTime]] = {k: [] for k in lengths}
    for number in range(rounds):
        progress(what, number, rounds)
        passes = [(k, _steps(runner, prompt, k)) for k in (*lengths, *reversed(lengths))]
        for k in lengths:
            times[k].append(_round([steps for of, steps in passes if of == k]))
    progress(what, rounds, rounds)
    return StepTimes(context, times)


def _round(passes: Sequence[Sequence[Step]]) -> StepTime:
    """The mean of the passes' medians."""
    return StepTime(
        mean(median(step.draft_us for step in steps) for steps in passes),
        mean(median(step.total_us for step in steps) for steps in passes),
    )


def _steps(runner: Generates, prompt: Sequence[int], draft_length: int) -> list[Step]:
    """`STEPS` warm steps with `draft_length` drafts, whatever the text; none where the drafter gives fewer."""
    request = Request(prompt, tokens_needed(draft_length), draft_length=draft_length, draft_sources=("drafter",))
    found: list[Step] = []
    with contextlib.closing(runner.generate(request)) as events:
        for event in events:
            if isinstance(event, Step) and event.step >= WARM_UP and len(event.draft) == draft_length:
                found.append(event)
                if len(found) == STEPS:
                    break
    return found
