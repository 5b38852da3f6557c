"""What `edge-mtp quality` measures: bundles of one family asked the same, and how far apart their logits are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.defaults import DEFAULT_DRAFT_LENGTH, DEFAULT_MAX_TOKENS
from edge_mtp.formats.family import differences
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.runner_engine import answerers_on
from edge_mtp.harness.record.bundle_answers import BundleAnswers, LogitDistance
from edge_mtp.harness.run.first_replies import first_replies
from edge_mtp.harness.run.logits import Logits, kl_divergence
from edge_mtp.harness.run.progress import CountProgress, StageProgress

MOST_DIFFERENCES = 4  # that a refusal names


def ask_bundles(
    bundles: Mapping[str, str | Path],
    items: Sequence[Item],
    *,
    draft_lengths: Sequence[int] = (DEFAULT_DRAFT_LENGTH,),
    max_tokens: int = DEFAULT_MAX_TOKENS,
    threads: int | None = None,
    progress: StageProgress = lambda stage, done, total: None,
) -> list[BundleAnswers]:
    """What each bundle answers, on this machine's CPU, and how far its logits are from those of the first.

    Bundles are asked one after the other; at most the reference and one other are loaded at a time.

    Args:
        bundles: label -> .litertlm file of one family, the reference first.
        items: at least one; of each the first turn is asked, and its prompt must fit the bundles' context.
        draft_lengths: the K to draft at; the text, and so the calls, are the same at each.
        max_tokens: most tokens of a reply.
        threads: CPU threads; None leaves the number to LiteRT.

    Raises:
        EdgeMtpError: the bundles are not of one family, lack what is needed, or a prompt does not fit.
    """
    if not items or not bundles or not draft_lengths:
        raise EdgeMtpError("nothing to measure: give at least one bundle, one prompt and one draft length")
    opened = {label: Bundle(path) for label, path in bundles.items()}
    _check_one_family(list(opened.values()))
    found: list[BundleAnswers] = []
    prompts: list[list[int]] = []
    for label, bundle in opened.items():
        of_bundle, answers = _replies(label, bundle, items, draft_lengths, max_tokens, threads, progress)
        distances, others = None, 0
        if not found:
            prompts, texts, reference = of_bundle, answers[min(answers)], bundle
        else:
            others = sum(ours != theirs for ours, theirs in zip(of_bundle, prompts, strict=True))
            replies = list(zip(prompts, [answer.tokens for answer in texts], strict=True))
            distances = _distances(reference, bundle, replies, threads, partial(progress, f"{label}: logits"))
        found.append(BundleAnswers(label, bundle, answers, distances, others))
    return found


def _check_one_family(bundles: Sequence[Bundle]) -> None:
    first = bundles[0]
    for bundle in bundles[1:]:
        if found := differences(bundle, first):
            raise EdgeMtpError(
                f"{bundle.path} is of another family than {first.path}: {', '.join(found[:MOST_DIFFERENCES])}; compare"
                f" their tool calls: edge-mtp eval --bundle {first.path} --bundle {bundle.path}"
            )


def _replies(
    label: str,
    bundle: Bundle,
    items: Sequence[Item],
    draft_lengths: Sequence[int],
    max_tokens: int,
    threads: int | None,
    progress: StageProgress,
) -> tuple[list[list[int]], dict[int, list[Answer]]]:
    """The ids of each prompt, and by K each reply."""
    with open_engine(bundle.path, threads=threads) as engine:
        # A lean bundle decodes plainly, and that is all there is to know of its drafts.
        lengths = sorted(set(draft_lengths)) if engine.max_draft_length else [0]
        if lengths[-1] > engine.max_draft_length:
            raise EdgeMtpError(
                f"{bundle.path} drafts at most {engine.max_draft_length} tokens a step, not {lengths[-1]}; choose fewer"
            )
        prompts = [engine.chat_format.encode(item.turns[0].messages, item.tools) for item in items]
        answers = {}
        for length in lengths:
            # Unconstrained: it is the model's own errors that a recipe may add to.
            arm = Arm(f"K = {length}", str(bundle.path), length or "off", constrained=False, threads=threads)
            stage = f"{label}: replies" + (f", K = {length}" if length else "")
            asked = first_replies(
                answerers_on(engine, [arm]), items, [max_tokens] * len(items), partial(progress, stage)
            )
            answers[length] = list(asked)
    return prompts, answers


def _distances(
    reference: Bundle,
    bundle: Bundle,
    replies: Sequence[tuple[Sequence[int], Sequence[int]]],
    threads: int | None,
    progress: CountProgress,
) -> list[LogitDistance]:
    """On the reference's `replies`: prompt and reply, token ids."""
    ours, theirs = Logits(bundle, threads), Logits(reference, threads)
    found = []
    for done, (prompt, reply) in enumerate(replies):
        progress(done, len(replies))
        p, q = theirs.of_reply(prompt, reply), ours.of_reply(prompt, reply)
        found.append(LogitDistance(kl_divergence(p, q), int((p.argmax(-1) == q.argmax(-1)).sum())))
    return found
