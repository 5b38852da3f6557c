"""The stock LiteRT-LM engine as an answerer."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from edge_mtp.chat.bundle_chat import chat_format_of
from edge_mtp.chat.chat_format import Written
from edge_mtp.chat.messages import Message
from edge_mtp.chat.thoughts import is_opened, thoughts_in
from edge_mtp.dialogue import model_message
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.tool_calls import CALL_CLOSE, CHANNEL_CLOSE, CHANNEL_OPEN, split_thoughts
from edge_mtp.harness.ask.answer import Answer, StepFigures
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.litert_lm_process import DeadStockError, SilentStockError, StockEngine, StockMtp, StockReply
from edge_mtp.harness.score.score import Finish
from edge_mtp.reply_options import ReplyOptions


class LitertLmEngine(Answerer):
    """Answers through `litert_lm`, with the prompts that our own engine gets.

    The stream tells what the engine does not: a chunk is a step, and its tokens are those that the bundle's tokenizer
    makes of the text so far. So `steps` have times and, with drafts, about how many were accepted; `tokens` stay empty.
    Every turn computes its whole prompt. A reply with drafts may exceed `max_tokens` by their number; it is left as it
    is. Where MTP adapts, a chunk of one token counts as a plain step, since a step whose drafts all failed looks the
    same.
    """

    def __init__(self, arm: Arm, *, began: float | None = None) -> None:
        """`began`: the monotonic time that `Answer.at_s` counts from; now, by default.

        Raises EdgeMtpError for an arm that the engine does not serve, or says that it does and does not.
        """
        if arm.mtp != "off" and arm.temperature > 0:
            raise EdgeMtpError(
                f"arm '{arm.label}': litert-lm ignores the temperature once it drafts (LiteRT-LM issue 3017);"
                " use temperature=0, or mtp=off"
            )
        bundle = Bundle(arm.path)
        if arm.mtp != "off" and bundle.mtp.missing:
            raise EdgeMtpError(f"arm '{arm.label}': litert-lm cannot draft with {arm.bundle}: {bundle.mtp.missing[0]}")
        self.arm = arm
        self._began = time.monotonic() if began is None else began
        self.chat = chat_format_of(bundle)
        self._variables = ReplyOptions(thinking=arm.thinking).variables
        if arm.thinking and self._rendered(True) == self._rendered(False):
            raise EdgeMtpError(
                f"arm '{arm.label}': the chat template of {arm.bundle} has no thinking to switch on; use thinking=auto"
            )
        self._marks = thoughts_in(self.chat.tokenizer)
        self._draft_length = (bundle.mtp.draft_length or 0) if arm.mtp != "off" else 0
        self._context = bundle.metadata.max_num_tokens
        self._engine = self._open()

    def _rendered(self, thinking: bool) -> str:
        return self.chat.render([{"role": "user", "content": "Hi"}], (), enable_thinking=thinking)

    def _open(self) -> StockEngine:
        arm = self.arm
        mtp: StockMtp = "off" if arm.mtp == "off" else "adaptive" if arm.mtp == "adaptive" else "on"
        return StockEngine(arm.path, mtp=mtp, accelerator=arm.accelerator, threads=arm.threads)

    @property
    def pid(self) -> int:
        return self._engine.pid

    @property
    def is_alive(self) -> bool:
        return not self._engine.has_ended

    def revive(self) -> None:
        self.close()
        self._engine = self._open()

    def close(self) -> float | None:
        """Ends the engine; the share of drafts that it says to have accepted, as `StockEngine.close`."""
        return self._engine.close()

    def answer(self, item: Item, round: int, *, max_tokens: int) -> Generator[Answer, None, None]:
        messages: list[Message] = []
        written: dict[int, Written] = {}
        for turn, asked in enumerate(item.turns):
            at_s = time.monotonic() - self._began
            blank = Answer(self.arm.label, item.id, turn, round, at_s, "", "refused")
            messages.extend(asked.messages)
            most = item.max_tokens or max_tokens
            try:
                # As a dialogue of ours, whose prompts hold the replies as they were written.
                composed = self.chat.compose(messages, item.tools, written, **self._variables)
                prompt = self.chat.tokenizer.decode(composed.ids)
                reply = self._engine.reply(
                    prompt.removeprefix(self.chat.bos_token), most, temperature=self.arm.temperature, seed=round
                )
            except SilentStockError as error:
                yield replace(blank, finish="timeout", error=str(error))
                return
            except DeadStockError as error:
                yield replace(blank, finish="crash", error=str(error))
                return
            except EdgeMtpError as error:
                yield replace(blank, error=str(error))
                return
            ids = composed.ids
            opened = self._marks is not None and is_opened(ids, self._marks, self.chat.tokenizer)
            answer = self.read(blank, len(ids), reply, most, opened=opened)
            tokens, place = self.chat.tokenizer.encode(reply.text), len(messages)
            thinks = {place} if any(self.chat.thought_spans(ids, tokens)) else set()
            written[place] = Written(ids, tokens, composed.context, composed.thoughts | thinks)
            calls = sum(len(message.get("tool_calls") or ()) for message in messages)
            messages.append(model_message(answer.text, answer.reasoning, calls, item.tools or None))
            yield answer

    def read(self, blank: Answer, prompt_tokens: int, reply: StockReply, most: int, *, opened: bool = False) -> Answer:
        """`blank` filled from a reply to a prompt of `prompt_tokens` tokens; `most` is the limit that the reply had.

        `opened`: the prompt ended inside a thought.
        """
        encode = self.chat.tokenizer.encode
        texts = list(itertools.accumulate(text for text, _ in reply.chunks))
        split = [split_thoughts(text, opened=opened) for text in texts]
        ends = [at_us for _, at_us in reply.chunks]
        steps = self._steps([len(encode(text)) for text in texts], ends, reply.prefill_us)
        count = sum(step.tokens for step in steps)
        finish: Finish = "stop"
        if count >= most:
            finish = "length"
            if steps[-1].tokens == 1:  # what the target added to the step before
                steps[-1] = self._step(1, steps[-1].total_us, drafted=False)
        elif self._context is not None and prompt_tokens + count >= self._context:
            finish = "context"
        else:  # the stop token, which is in no text
            count += 1
            rest_us = reply.total_us - (ends[-1] if ends else reply.prefill_us)
            if steps and steps[-1].planned and steps[-1].tokens <= self._draft_length:
                last = steps.pop()
                steps.append(self._step(last.tokens + 1, last.total_us + rest_us))
            else:
                steps.append(self._step(1, rest_us, drafted=False))
        return replace(
            blank,
            text=split[-1][1] if split else "",
            reasoning=split[-1][0] if split else "",
            in_thought=_is_in_thought(reply.text, opened),
            finish=finish,
            prompt_tokens=prompt_tokens,
            count=count,
            first_token_us=ends[0] if ends else reply.total_us,
            prefill_us=reply.prefill_us,
            first_answer_us=next((end for (_, rest), end in zip(split, ends, strict=True) if rest), None),
            call_us=next((end for (_, rest), end in zip(split, ends, strict=True) if CALL_CLOSE in rest), None),
            total_us=reply.total_us,
            steps=steps,
            rss_bytes=reply.rss_bytes,
            anonymous_bytes=reply.anonymous_bytes,
        )

    def _steps(self, counts: Sequence[int], ends: Sequence[float], begin_us: float) -> list[StepFigures]:
        """A step for each chunk, of the number of tokens up to it and when it came.

        A chunk is the token that the target added to the step before, and the drafts that the step accepted.
        """
        steps = []
        before, begun = 0, begin_us
        for count, end in zip(counts, ends, strict=True):
            if count > before:  # else the tokenizer makes one token of several pieces
                drafted = count - before > 1 or self.arm.mtp != "adaptive"
                steps.append(self._step(count - before, end - begun, drafted=drafted))
                before, begun = count, end
        return steps

    def _step(self, tokens: int, total_us: float, *, drafted: bool = True) -> StepFigures:
        drafts = self._draft_length if drafted else 0
        return StepFigures(
            kind="v" if drafts else "p",
            tokens=tokens,
            source="d" * drafts,
            accepted=min(tokens - 1, drafts),
            planned=drafts,
            draft_us=0.0,
            mask_us=0.0,
            verify_us=0.0,
            total_us=total_us,
        )


def _is_in_thought(text: str, opened: bool) -> bool:
    """Whether a reply's text ends inside a thought."""
    begun, ended = text.rfind(CHANNEL_OPEN), text.rfind(CHANNEL_CLOSE)
    return opened if begun == ended == -1 else begun > ended


@contextlib.contextmanager
def open_litert_lm_engines(arms: Sequence[Arm], *, began: float | None = None) -> Iterator[list[LitertLmEngine]]:
    """An answerer for each arm, in their order, each with an engine of its own; engines end with the context."""
    with contextlib.ExitStack() as stack:
        answerers = []
        for arm in arms:
            answerers.append(LitertLmEngine(arm, began=began))
            stack.callback(answerers[-1].close)
        yield answerers
