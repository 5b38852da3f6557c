"""Our own engine as an answerer, on any device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from edge_mtp.chat.tokenizer import Tokenizer
from edge_mtp.device import Sampling, Step
from edge_mtp.device.find import Notice
from edge_mtp.device.fingerprint import parse_meminfo
from edge_mtp.device.host import HostDevice
from edge_mtp.device.put import TransferProgress
from edge_mtp.device.runner import SilentRunnerError
from edge_mtp.dialogue import Dialogue
from edge_mtp.engine import Engine, open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.tool_calls import CALL_CLOSE, CHANNEL_CLOSE, CHANNEL_OPEN
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item, Turn
from edge_mtp.harness.score.score import Finish
from edge_mtp.reply import Reply
from edge_mtp.reply_options import ReplyOptions

MEMORY_EVERY = 20  # answers, at most; reading it is a command on the device
PATIENCE_S = 60.0  # for a device whose link broke to be there again: Wi-Fi comes back, adbd restarts
RETRY_S = 2.0
_ANYTHING = Item("", "", "", (Turn(({"role": "user", "content": ""},)),))  # stands for any item when an arm is checked


class SharedEngine:
    """An engine that several arms use, and that can be started again when its runner has died.

    Where it does not start, `revive` tells `notice` and tries again for `patience_s`, because the device may come back.
    After that in vain, each later call tries once, until one succeeds.
    """

    def __init__(self, open_it: Callable[[], Engine], *, patience_s: float = 0.0, notice: Notice | None = None) -> None:
        self._open = open_it
        self._patience_s = patience_s
        self._notice = notice or (lambda line: None)
        self._in_vain = False
        self.engine = open_it()

    @property
    def is_alive(self) -> bool:
        return not self.engine.runner.has_ended

    def revive(self) -> None:
        """Raises EdgeMtpError if the engine does not start."""
        self.close()
        end, told = time.monotonic() + (0.0 if self._in_vain else self._patience_s), False
        while True:
            try:
                self.engine = self._open()
                self._in_vain = False
                return
            except EdgeMtpError as error:
                if time.monotonic() >= end:
                    self._in_vain = True
                    raise
                if not told:
                    self._notice(f"{error}; trying again for {self._patience_s:.0f} s")
                told = True
            time.sleep(RETRY_S)

    def close(self) -> None:
        with contextlib.suppress(EdgeMtpError):
            self.engine.close()


class RunnerEngine(Answerer):
    """Answers through edge-mtp's own runner.

    `margins`: answers carry each token's margin, which costs a pass over the logits. `draft_tapes`, by item and turn,
    replace what the drafter says (`edge_mtp.harness.ask.simulated_drafts`). `began` is the monotonic time that
    `Answer.at_s` counts from. Without `is_timed` a prompt uses what the cache still holds of earlier ones, and
    memory is not read.
    """

    def __init__(
        self,
        arm: Arm,
        shared: SharedEngine,
        *,
        margins: bool = False,
        began: float | None = None,
        is_timed: bool = True,
    ) -> None:
        self.arm = arm
        self.shared = shared
        self.draft_tapes: Mapping[tuple[str, int], Sequence[int]] = {}
        self._margins = margins
        self._is_timed = is_timed
        self._began = time.monotonic() if began is None else began
        self._answers = self._next_reading = 0
        self._memory: tuple[int | None, int | None] = None, None

    @property
    def engine(self) -> Engine:
        return self.shared.engine

    def check(self) -> None:
        """Raises EdgeMtpError, which names the arm, where the bundle can answer nothing as the arm asks."""
        try:
            self.engine.check(self._options(_ANYTHING, 0, 0, 1))
        except EdgeMtpError as error:
            raise EdgeMtpError(f"arm '{self.arm.label}': {error}") from None

    @property
    def is_alive(self) -> bool:
        return self.shared.is_alive

    def revive(self) -> None:
        self.shared.revive()

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        dialogue = Dialogue(self.engine, (), item.tools)
        for turn, asked in enumerate(item.turns):
            at_s = time.monotonic() - self._began
            blank = Answer(self.arm.label, item.id, turn, round, at_s, "", "refused")
            dialogue.messages.extend(asked.messages)
            reply: Reply | None = None
            try:
                reply = dialogue.reply(self._options(item, turn, round, max_tokens))
                answer = self._answer(blank, reply)
            except EdgeMtpError as error:
                yield replace(blank, finish=self._fate(error), error=str(error), text=reply.text if reply else "")
                return
            dialogue.add(reply)
            yield answer

    def _options(self, item: Item, turn: int, round: int, max_tokens: int) -> ReplyOptions:
        return ReplyOptions(
            max_tokens=item.max_tokens or max_tokens,
            draft_length=self.arm.draft_length,
            draft_sources=() if self.arm.mtp == "blank" else self.arm.draft_sources,
            draft_tape=self.draft_tapes.get((item.id, turn), ()),
            sampling=Sampling(temperature=self.arm.temperature, seed=round),
            constrained=bool(item.tools) and self.arm.constrained,
            parallel_calls=self.arm.parallel_calls or not item.tools,
            thinking=self.arm.thinking,
            logprobs=self._margins,
            fresh=self._is_timed and turn == 0,
        )

    def _answer(self, blank: Answer, reply: Reply) -> Answer:
        channels = [token.channel for token in reply]
        outcome, steps = reply.outcome, reply.steps
        assert outcome is not None
        ends = _ends(steps, outcome.prefill_us)
        of_answer = _of_answer(reply, channels, ends)
        rss, anonymous = self._known_memory()
        return replace(
            blank,
            text=reply.text,
            reasoning=reply.reasoning,
            in_thought=_ended_in_thought(reply, channels),
            finish="stop" if outcome.finish == "cancelled" else outcome.finish,
            prompt_tokens=outcome.prompt_tokens,
            reused_tokens=outcome.reused_tokens + outcome.restored_tokens,
            count=len(reply.tokens),
            first_token_us=ends[0] if ends else outcome.prefill_us,
            first_answer_us=of_answer[0][1] if of_answer else None,
            prefill_us=outcome.prefill_us,
            call_us=_call_us(reply.tokenizer, of_answer),
            total_us=ends[-1] if ends else outcome.prefill_us,
            tokens=reply.tokens,
            margins=[margin for step in steps for margin in step.margins],
            steps=[_figures(step) for step in steps],
            rss_bytes=rss,
            anonymous_bytes=anonymous,
        )

    def _known_memory(self) -> tuple[int | None, int | None]:
        """The memory as last read. It grows with the first answers, so those read it more often than later ones."""
        self._answers += 1
        device = self.engine.device if self._is_timed else None
        if self._answers >= self._next_reading and device is not None:
            self._next_reading = self._answers + min(self._answers, MEMORY_EVERY)
            with contextlib.suppress(EdgeMtpError):
                read = device.link.run(["cat", f"/proc/{self.engine.runner.pid}/status"], timeout_s=10)
                status = parse_meminfo(read.output.decode(errors="replace"))
                self._memory = status.get("VmHWM"), status.get("RssAnon")
        return self._memory

    def _fate(self, error: EdgeMtpError) -> Finish:
        if isinstance(error, SilentRunnerError):
            return "timeout"
        return "crash" if self.engine.runner.has_ended else "refused"


@contextlib.contextmanager
def open_runner_engines(
    arms: Sequence[Arm],
    *,
    margins: bool = False,
    began: float | None = None,
    notice: Callable[[str], Notice] | None = None,
    report: Callable[[str], TransferProgress] | None = None,
) -> Iterator[list[RunnerEngine]]:
    """An answerer for each arm of our engine, in their order; engines end with the context.

    Arms that differ only in their requests share an engine. An arm under the controller has its own, since a controller
    learns from all that its runner does. `notice` and `report`, by the device's name, are as `open_engine` takes them.

    Raises EdgeMtpError where an engine does not start, or its bundle cannot do what an arm asks.
    """
    with contextlib.ExitStack() as stack:
        engines: dict[tuple[object, ...], SharedEngine] = {}
        answerers = []
        for arm in arms:
            key = (arm.bundle, arm.device, arm.threads, arm.label if arm.mtp == "auto" else None)
            if key not in engines:
                engines[key] = SharedEngine(
                    _opener(arm, notice, report),
                    patience_s=0.0 if arm.device == HostDevice.name else PATIENCE_S,
                    notice=notice(arm.device) if notice else None,
                )
                stack.callback(engines[key].close)
            answerers.append(RunnerEngine(arm, engines[key], margins=margins, began=began))
            answerers[-1].check()
        yield answerers


def answerers_on(engine: Engine, arms: Sequence[Arm], *, margins: bool = False) -> list[RunnerEngine]:
    """An answerer for each arm on an engine that is open already and stays the caller's.

    Prompts use what the cache still holds of earlier ones, so these replies are not for timing.
    """
    shared = SharedEngine(lambda: engine)
    return [RunnerEngine(arm, shared, margins=margins, is_timed=False) for arm in arms]


def _opener(
    arm: Arm, notice: Callable[[str], Notice] | None, report: Callable[[str], TransferProgress] | None
) -> Callable[[], Engine]:
    return lambda: open_engine(
        arm.path,
        arm.device,
        threads=arm.threads,
        notice=notice(arm.device) if notice else None,
        report=report(arm.device) if report else None,
    )


def _ends(steps: Sequence[Step], prefill_us: float) -> list[float]:
    """When each step ended, in microseconds since the request."""
    ends, now = [], prefill_us
    for step in steps:
        now += step.total_us
        ends.append(now)
    return ends


def _of_answer(reply: Reply, channels: Sequence[str], ends: Sequence[float]) -> list[tuple[int, float]]:
    """The tokens outside of thoughts, and when each came."""
    of_token = [end for step, end in zip(reply.steps, ends, strict=True) for _ in step.tokens]
    told = zip(reply.tokens, channels, of_token, strict=True)
    return [(token, end) for token, channel, end in told if channel == "text"]


def _call_us(tokenizer: Tokenizer, of_answer: Sequence[tuple[int, float]]) -> float | None:
    with contextlib.suppress(EdgeMtpError):
        close = tokenizer.token_id(CALL_CLOSE)
        return next((end for token, end in of_answer if token == close), None)
    return None


def _ended_in_thought(reply: Reply, channels: Sequence[str]) -> bool:
    with contextlib.suppress(EdgeMtpError):
        opens, closes = (reply.tokenizer.token_id(mark) for mark in (CHANNEL_OPEN, CHANNEL_CLOSE))
        last = next((token for token in reversed(reply.tokens) if token in (opens, closes)), None)
        return channels[:1] == ["reasoning"] if last is None else last == opens
    return False


def _figures(step: Step) -> StepFigures:
    target_us = step.embed_us + step.verify_us + step.select_us
    return StepFigures(
        "v" if step.kind == "verify" else "p",
        len(step.tokens),
        step.source,
        step.accepted,
        step.planned,
        *(round(us, 1) for us in (step.draft_us, step.mask_us, target_us, step.total_us)),
    )
