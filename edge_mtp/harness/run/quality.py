"""What a quantization recipe costs: bundles of one pair against a reference, on the same conversations.

Of each bundle: its size; how far its next-token distributions are from the reference's; its exact tool calls; and how
many of its drafts it accepts. Conclusions are about the pair and the conversations measured.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edge_mtp
from edge_mtp import summary
from edge_mtp.device import Step
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.file_hash import sha256
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.defaults import DEFAULT_DRAFT_LENGTH, DEFAULT_MAX_TOKENS
from edge_mtp.formats.manifest import Recipe
from edge_mtp.formats.tool_calls import ToolCallSyntaxError, parse_calls
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.run.logits import Logits
from edge_mtp.harness.score.gold import Gold
from edge_mtp.harness.stats import statistics
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.json_file import finite
from edge_mtp.reply import Reply

SCHEMA = 1
TINY = Path(edge_mtp.__file__).parent / "tiny"
# A loss smaller than this is called none: of a share of accepted drafts, and relative to the tokens per verify.
MARGIN = 0.02
# With fewer prompts nothing is said to hold: a failure on one prompt in twenty is likelier than not to be missed by 13,
# and missed by 50 once in thirteen times.
LEAST_PROMPTS = 50

# Called before each item of a stage: the stage's name, items done, items in all.
Progress = Callable[[str, int, int], None]
Array = npt.NDArray[Any]


# -- the report -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Divergence:
    """Next-token distributions on the reference's replies, at every token of them, given the same tokens before.

    `kl`: mean KL(reference || bundle) in nats a token; `kl_p99` its 99th percentile over tokens. `agreement`: share of
    tokens whose likeliest choice is the reference's. Intervals over prompts.
    """

    tokens: int
    kl: Estimate
    kl_p99: float
    agreement: Estimate


@dataclass(frozen=True)
class Calls:
    """Replies that make exactly the gold calls and stop. `lost` are right in the reference alone, `gained` here alone;
    `p_value` McNemar's, exact, that losing is as likely as gaining."""

    exact: int
    prompts: int
    share: Estimate
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class Change:
    """This bundle less the reference, on the same prompts, and that in words."""

    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class Position:
    """Drafts at one position, from 1: of the steps that `reached` it (all drafts before it accepted, the text not yet
    over), the share that accepted it too. `change` is None in the reference, and where the reference never got."""

    position: int
    reached: int
    accepted: int
    share: Estimate
    change: Change | None


@dataclass(frozen=True)
class Acceptance:
    """Drafting at one K. Only tokens given out count: what the drafter says beyond a text's end is neither right nor
    wrong. `tokens_per_verify` is their number over the `verify_steps`, 1 to K + 1."""

    draft_length: int
    verify_steps: int
    positions: list[Position]
    tokens_per_verify: Estimate
    change: Change | None


@dataclass(frozen=True)
class Measurement:
    """One bundle. Sizes in bytes; `recipe` as its manifest has it; `divergence` is None in the reference, `calls`
    where no item has gold, `acceptance` empty where the bundle cannot draft or no reply was long enough.
    `unfinished` replies met no stop token: one that goes round in circles weighs as many usual ones in acceptance."""

    label: str
    file: str
    recipe: Recipe | None
    bytes: int
    sections: dict[str, int]
    unfinished: int
    divergence: Divergence | None
    calls: Calls | None
    acceptance: list[Acceptance]


@dataclass(frozen=True)
class Report:
    """Bundles of one pair, the first being the reference. `to_json` is schema `SCHEMA`; an infinite bound is null."""

    pair: str
    prompts: int
    source: str
    max_tokens: int
    versions: dict[str, str]
    measurements: list[Measurement]

    @property
    def reference(self) -> Measurement:
        return self.measurements[0]

    @property
    def caption(self) -> str:
        """What the figures are about: it stands with every table and plot."""
        return (
            f"{self.pair}; {self.prompts} prompts ({self.source}), greedy, at most {self.max_tokens} tokens each;"
            f" reference {self.reference.label}. 95% intervals over prompts; {MARGIN:.0%} is the margin of 'holds'."
            f" Conclusions are about this pair and these prompts."
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = finite({"schema": SCHEMA, **asdict(self), "caption": self.caption})
        return value

    def tables(self) -> list[Table]:
        """What `edge-mtp quality` shows: sizes and quality, then acceptance at each K."""
        lengths = sorted({a.draft_length for m in self.measurements for a in m.acceptance})
        return [_quality_table(self), *(_acceptance_table(self, length) for length in lengths)]

    def markdown(self) -> str:
        """The tables as Markdown, after the caption."""
        parts = [self.caption]
        for table in self.tables():
            rows = [table.header, ["---"] * len(table.header), *table.rows]
            parts.append(f"**{table.title}**\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
        return "\n\n".join(parts) + "\n"

    def plot(self, path: str | Path) -> None:
        """Acceptance by position (largest K) and KL of each bundle, in the format of the file's suffix (.svg, .png).

        Raises EdgeMtpError: matplotlib is not installed, or the file cannot be written in that format.
        """
        _plot(self, Path(path))


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]


# -- measuring ------------------------------------------------------------------------------------------------------


def measure(
    bundles: Mapping[str, str | Path],
    items: Sequence[Item],
    *,
    source: str = "given",
    pair: str | None = None,
    draft_lengths: Sequence[int] = (DEFAULT_DRAFT_LENGTH,),
    max_tokens: int = DEFAULT_MAX_TOKENS,
    threads: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """The quality of each bundle against the first, on this machine's CPU.

    Bundles are measured one after the other; at most the reference and one other are loaded at a time.

    Args:
        bundles: label -> .litertlm file of one pair, the reference first.
        items: at least one; of each the first turn is asked, and its prompt must fit the bundles' context.
        source: what the report calls the items.
        pair: what it calls the pair; None takes it from the bundles' manifest.
        draft_lengths: the K to draft at; the text, and so the calls, are the same at each.
        max_tokens: most tokens of a reply.
        threads: CPU threads; None leaves the number to LiteRT.

    Raises:
        EdgeMtpError: the bundles are not of one pair, lack what is needed, or a prompt does not fit.
    """
    if not items or not bundles or not draft_lengths:
        raise EdgeMtpError("nothing to measure: give at least one bundle, one prompt and one draft length")
    opened = {label: Bundle(path) for label, path in bundles.items()}
    _check_one_pair(list(opened.values()))
    measurements: list[Measurement] = []
    reference: _Replies | None = None
    for label, bundle in opened.items():
        replies = _replies(label, bundle, items, draft_lengths, max_tokens, threads, progress)
        divergence = None
        if reference is None:
            reference, reference_bundle = replies, bundle
        else:
            stage = f"{label}: logits"
            divergence = _divergence(reference_bundle, bundle, reference, threads, stage, progress)
        measurements.append(_measurement(label, bundle, replies, reference, divergence))
    return Report(
        pair=pair or pair_name(next(iter(opened.values()))),
        prompts=len(items),
        source=source,
        max_tokens=max_tokens,
        versions={name: importlib.metadata.version(name) for name in ("edge-mtp", "ai-edge-litert")},
        measurements=measurements,
    )


def pair_name(bundle: Bundle) -> str:
    """The pair that a bundle was exported from: the tiny one by name, others by the hashes of their weights."""
    source = _source(bundle)
    if source is None:
        return "a pair that the bundles do not name"
    if is_tiny(bundle):
        return "the tiny pair that comes with edge-mtp"
    hashes = [hashlib.sha256(json.dumps(source[role], sort_keys=True).encode()) for role in ("target", "drafter")]
    return "the pair of target {} and drafter {} (hashes of their files)".format(*(h.hexdigest()[:12] for h in hashes))


def is_tiny(bundle: Bundle) -> bool:
    """Whether the bundle was exported from the tiny pair that comes with edge-mtp."""
    source, name = _source(bundle), "model.safetensors"
    return source is not None and all(source[role].get(name) == sha256(TINY / role / name) for role in source)


def _source(bundle: Bundle) -> dict[str, dict[str, str]] | None:
    source = (bundle.manifest or {}).get("source")
    return {role: source[role] for role in ("target", "drafter")} if source else None


def _check_one_pair(bundles: Sequence[Bundle]) -> None:
    first = bundles[0]
    for bundle in bundles[1:]:
        if bundle.tokenizer_json != first.tokenizer_json or _source(bundle) != _source(first):
            raise EdgeMtpError(
                f"{bundle.path} and {first.path} are not of one pair; compare exports of the same checkpoints"
            )


@dataclass(frozen=True)
class Drafts:
    """Per prompt, at one K: `reached` and `accepted` [prompts,K] by position; `tokens` given out in `steps` verify
    steps [prompts]."""

    draft_length: int
    reached: Array
    accepted: Array
    tokens: Array
    steps: Array


@dataclass(frozen=True)
class _Replies:
    """Per prompt: its ids, the reply's, and whether its calls are exact (None: no gold); how many replies met no stop
    token; drafting at each K."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    exact: list[bool | None]
    unfinished: int
    drafts: list[Drafts]


def _replies(
    label: str,
    bundle: Bundle,
    items: Sequence[Item],
    draft_lengths: Sequence[int],
    max_tokens: int,
    threads: int | None,
    progress: Progress,
) -> _Replies:
    with open_engine(bundle.path, threads=threads) as engine:
        # A lean bundle decodes plainly, and that is all there is to know of its drafts.
        lengths = sorted(set(draft_lengths)) if engine.max_draft_length else [0]
        if lengths[-1] > engine.max_draft_length:
            raise EdgeMtpError(
                f"{bundle.path} drafts at most {engine.max_draft_length} tokens a step, not {lengths[-1]}; choose fewer"
            )
        prompts = [engine.chat_format.encode(item.turns[0].messages, item.tools) for item in items]
        tokens: list[list[int]] = []
        exact: list[bool | None] = []
        unfinished = 0
        drafts: list[Drafts] = []
        for length in lengths:
            steps = []
            for done, item in enumerate(items):
                progress(f"{label}: replies" + (f", K = {length}" if length else ""), done, len(items))
                # Unconstrained: it is the model's own errors that a recipe may add to.
                reply = engine.chat(
                    item.turns[0].messages,
                    tools=item.tools,
                    max_tokens=max_tokens,
                    draft_length=length,
                    constrained=False,
                ).wait()
                steps.append(reply.steps)
                if length == lengths[0]:
                    tokens.append(reply.tokens)
                    exact.append(_is_exact(reply, item.turns[0].gold))
                    unfinished += not _finished(reply)
            if length:
                drafts.append(count_drafts(steps, length))
    return _Replies(prompts, tokens, exact, unfinished, drafts)


def _is_exact(reply: Reply, gold: Gold | None) -> bool | None:
    if gold is None:
        return None
    try:
        return _finished(reply) and gold.matches(parse_calls(reply.text))
    except ToolCallSyntaxError:
        return False


def _finished(reply: Reply) -> bool:
    return reply.outcome is not None and reply.outcome.finish == "stop"


def count_drafts(replies: Sequence[Sequence[Step]], draft_length: int) -> Drafts:
    """The drafts of each reply's steps, as `Acceptance` counts them."""
    reached, accepted = (np.zeros((len(replies), draft_length), int) for _ in range(2))
    tokens, verifies = (np.zeros(len(replies), int) for _ in range(2))
    for row, steps in enumerate(replies):
        for step in steps:
            if step.kind != "verify":
                continue
            counts = summary.count_drafts(len(step.tokens), len(step.draft), step.accepted)
            tokens[row] += len(step.tokens)
            verifies[row] += 1
            reached[row, : counts.reached] += 1
            accepted[row, : counts.accepted] += 1
    return Drafts(draft_length, reached, accepted, tokens, verifies)


def _divergence(
    reference: Bundle, bundle: Bundle, replies: _Replies, threads: int | None, stage: str, progress: Progress
) -> Divergence:
    ours, theirs = Logits(bundle, threads), Logits(reference, threads)
    kl: list[Array] = []
    agreed: list[int] = []
    for done, (prompt, reply) in enumerate(zip(replies.prompts, replies.tokens, strict=True)):
        progress(stage, done, len(replies.prompts))
        p, q = theirs.of_reply(prompt, reply), ours.of_reply(prompt, reply)
        kl.append(kl_divergence(p, q))
        agreed.append(int((p.argmax(-1) == q.argmax(-1)).sum()))
    counts = [len(values) for values in kl]
    return Divergence(
        tokens=sum(counts),
        kl=statistics.mean([values.sum() for values in kl], counts),
        kl_p99=float(np.quantile(np.concatenate(kl), 0.99)),
        agreement=statistics.share(agreed, counts),
    )


def kl_divergence(p: Array, q: Array) -> npt.NDArray[np.float64]:
    """KL(softmax(p) || softmax(q)) in nats, of each row of two arrays of logits [rows,V]."""
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    divergence: npt.NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return np.maximum(divergence, 0.0)  # rounding leaves equal rows a hair below


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _measurement(
    label: str, bundle: Bundle, replies: _Replies, reference: _Replies, divergence: Divergence | None
) -> Measurement:
    base = {drafts.draft_length: drafts for drafts in reference.drafts}
    is_reference = replies is reference
    accepted = [
        acceptance(drafts, None if is_reference else base.get(drafts.draft_length))
        for drafts in replies.drafts
        if drafts.steps.sum()
    ]
    sections: dict[str, int] = {}
    for section in bundle.sections:
        name = section.model_type or section.type
        sections[name] = sections.get(name, 0) + section.size
    return Measurement(
        label=label,
        file=Path(bundle.path).name,
        recipe=(bundle.manifest or {}).get("recipe"),
        bytes=bundle.size,
        sections=sections,
        unfinished=replies.unfinished,
        divergence=divergence,
        calls=_calls(replies, reference),
        acceptance=accepted,
    )


def _calls(replies: _Replies, reference: _Replies) -> Calls | None:
    pairs = [(ours, theirs) for ours, theirs in zip(replies.exact, reference.exact, strict=True) if ours is not None]
    if not pairs:
        return None
    exact = sum(bool(ours) for ours, _ in pairs)
    lost = sum(bool(theirs) and not ours for ours, theirs in pairs)
    gained = sum(bool(ours) and not theirs for ours, theirs in pairs)
    return Calls(
        exact, len(pairs), statistics.wilson(exact, len(pairs)), lost, gained, statistics.mcnemar(lost, gained)
    )


def acceptance(drafts: Drafts, base: Drafts | None) -> Acceptance:
    """The figures of some drafts (at least one verify step), and their change from `base`, of the same prompts."""
    length = drafts.draft_length
    positions = []
    for j in range(length):
        reached, accepted = drafts.reached[:, j], drafts.accepted[:, j]
        if not reached.sum():
            break
        change = None
        if base is not None and base.reached[:, j].sum():
            change = compare(
                statistics.share_difference(accepted, reached, base.accepted[:, j], base.reached[:, j]),
                MARGIN,
                int(((reached > 0) & (base.reached[:, j] > 0)).sum()),
                percent=True,
            )
        share = statistics.share(accepted, reached)
        positions.append(Position(j + 1, int(reached.sum()), int(accepted.sum()), share, change))

    # Of the K tokens that a step can give out beyond the first, the share that it did: a mean of clustered shares.
    def beyond(d: Drafts) -> tuple[Array, Array]:
        return d.tokens - d.steps, length * d.steps

    per_verify = statistics.share(*beyond(drafts)).scaled(length, 1.0)
    change = None
    if base is not None and base.steps.sum():
        difference = statistics.share_difference(*beyond(drafts), *beyond(base)).scaled(length)
        was = float(base.tokens.sum() / base.steps.sum())
        change = compare(difference, MARGIN * was, int(((drafts.steps > 0) & (base.steps > 0)).sum()))
    return Acceptance(length, int(drafts.steps.sum()), positions, per_verify, change)


def compare(difference: Estimate, margin: float, prompts: int, *, percent: bool = False) -> Change:
    """A difference in words. It holds where the whole interval lies above a loss of `margin`, with `LEAST_PROMPTS` or
    more; else it drops where all of it lies below 0; else so many `prompts` cannot tell.

    A loss of exactly the margin is said to hold about 2 % of the time, up to 8 % where it gathers in one prompt in 20.
    """

    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.2f}"

    if difference.low >= -margin and prompts >= LEAST_PROMPTS:
        verdict = "holds"
    elif difference.high < 0:
        verdict = f"drops by {shown(-difference.high)}..{shown(-difference.low)}" + (" points" if percent else "")
    else:
        verdict = f"cannot tell at n={prompts}"
    return Change(difference, verdict)


# -- tables and plot ------------------------------------------------------------------------------------------------


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _number(estimate: Estimate, digits: str) -> str:
    value, low, high = (format(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _quality_table(report: Report) -> Table:
    rows = []
    for m in report.measurements:
        d, c = m.divergence, m.calls
        rows.append(
            [
                m.label,
                f"{m.bytes / 1e6:.2f} ({m.bytes / report.reference.bytes:.0%})",
                _number(d.kl, ".2g") if d else "",
                _percent(d.agreement) if d else "",
                _percent(c.share) if c else "",
                f"-{c.lost} +{c.gained}, p={c.p_value:.2g}" if c and m is not report.reference else "",
                str(m.unfinished),
            ]
        )
    header = ["bundle", "MB", "KL, nats a token", "same argmax", "exact calls", "calls to reference", "no end"]
    return Table("Size, distributions and tool calls", header, rows)


def _acceptance_table(report: Report, length: int) -> Table:
    rows = []
    for m in report.measurements:
        for a in m.acceptance:
            if a.draft_length != length:
                continue
            per_verify, change = _number(a.tokens_per_verify, ".2f"), a.change
            loss = f"{_number(change.difference, '+.2f')}: {change.verdict}" if change else ""
            rows.append([m.label, "tokens per verify", per_verify, loss])
            for p in a.positions:
                loss = f"{_number(p.change.difference.scaled(100), '+.1f')}: {p.change.verdict}" if p.change else ""
                rows.append(["", f"draft {p.position}", _percent(p.share), loss])
    return Table(f"Drafts accepted at K = {length}", ["bundle", "", "value", "less reference"], rows)


def _plot(report: Report, path: Path) -> None:
    try:
        from matplotlib import colormaps, rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeMtpError("a plot needs matplotlib, which is not installed: pip install 'edge-mtp[report]'") from error
    count = len(report.measurements)
    figure = Figure(figsize=(12, max(4.2, 0.3 * count)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {m.label: colormaps["tab20"](index % 20) for index, m in enumerate(report.measurements)}
    for index, m in enumerate(report.measurements):
        if not m.acceptance:
            continue
        positions = m.acceptance[-1].positions
        shares = [p.share for p in positions]
        left.errorbar(
            [p.position + 0.5 * (index - (count - 1) / 2) / count for p in positions],
            [s.value for s in shares],
            yerr=[[s.value - s.low for s in shares], [s.high - s.value for s in shares]],
            fmt="o", markersize=4, capsize=2, color=colours[m.label],
            label=f"{m.label}, K = {m.acceptance[-1].draft_length}",
        )  # fmt: skip
    left.set_xlabel("draft position")
    left.set_ylabel("accepted, of the steps that reached it")
    left.xaxis.get_major_locator().set_params(integer=True)
    if left.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", fontsize="small")
    measured = [(m.label, m.divergence.kl) for m in report.measurements if m.divergence]
    for row, (label, kl) in enumerate(measured):
        reach = [[kl.value - kl.low], [kl.high - kl.value]]
        right.errorbar(kl.value, row, xerr=reach, fmt="o", capsize=2, color=colours[label])
    if measured and all(kl.low > 0 for _, kl in measured):
        right.set_xscale("log")
    right.set_yticks(range(len(measured)), [label for label, _ in measured])
    right.invert_yaxis()
    right.set_xlabel(f"KL({report.reference.label} || bundle), nats a token")
    figure.suptitle(report.caption, fontsize="x-small", wrap=True)
    # Without date and random ids the same report gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        with rc_context({"svg.hashsalt": "edge-mtp"}):
            figure.savefig(path, metadata=metadata)
    except (OSError, ValueError) as error:
        raise EdgeMtpError(f"cannot write plot '{path}' ({error}); name a .svg or .png file") from error
