"""Defects put into real bundles and real runners, which eval must find and call by their names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16  # noqa: F401  # numpy reads the tiny pair's weights with it
from safetensors.numpy import load_file, save_file

from edge_mtp.chat.chat_format import ChatFormat
from edge_mtp.device import Outcome, Request, Step
from edge_mtp.engine import Engine, open_engine
from edge_mtp.export.defaults import VERIFY_WIDTHS
from edge_mtp.export.pipeline import export_bundle
from edge_mtp.export.tiny import CONTEXT
from edge_mtp.formats.tool_calls import QUOTE
from edge_mtp.harness.analyse.analysis import Analysis, analyse
from edge_mtp.harness.analyse.pairwise import Comparison
from edge_mtp.harness.ask.answerer import Answerer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.runner_engine import RunnerEngine, SharedEngine, open_runner_engines
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.record.provenance import new_run
from edge_mtp.harness.record.results import ResultsWriter, read_results
from edge_mtp.harness.run.evaluate import evaluate

ITEMS = {item.id: item for item in read_items(TINY / "splits" / "iid.jsonl", 150)}
MAX_TOKENS = 128
LIKE_TINY_BUNDLE: dict[str, Any] = {"recipe": "fp32", "context": CONTEXT, "widths": VERIFY_WIDTHS}
EMBEDDING = "model.embed_tokens.weight"
Weights = dict[str, np.ndarray]  # type: ignore[type-arg]


def evaluated(path: Path, answerers: Sequence[Answerer], items: dict[str, Item] = ITEMS) -> Analysis:
    arms = [answerer.arm for answerer in answerers]
    run = new_run("eval", arms, arms[0].label, command="", suite="iid", settings={})
    with ResultsWriter.create(path, run, items) as writer:
        evaluate(answerers, items, writer, max_tokens=MAX_TOKENS)
    return analyse(read_results(path))


def comparison(analysis: Analysis, arm: str, base: str) -> Comparison:
    return next(each for each in analysis.comparisons if (each.arm, each.base) == (arm, base))


def errors(analysis: Analysis, arm: str) -> dict[str, int]:
    calls = next(each for each in analysis.calls if each.arm == arm)
    return {each.label: each.primary for each in calls.errors if each.primary}


def damaged(folder: Path, role: str, damage: Callable[[Weights], None]) -> Path:
    """A copy of the tiny pair's target or drafter, with damaged weights."""
    checkpoint = folder / role
    shutil.copytree(TINY / role, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    damage(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


def shuffled(weights: Weights) -> None:
    generator = np.random.default_rng(0)
    for name, matrix in weights.items():
        if matrix.ndim == 2:
            weights[name] = generator.permutation(matrix.reshape(-1)).reshape(matrix.shape)


def digits_merged(weights: Weights) -> None:
    """3 and 8, 1 and 7, ... share one row of the embedding, which is the head as well: the model cannot tell them."""
    tokenizer = ChatFormat.from_directory(TINY / "target").tokenizer
    rows = weights[EMBEDDING].astype(np.float32)
    for pair in ("38", "17", "56", "29", "04"):
        one, other = (tokenizer.token_id(digit) for digit in pair)
        rows[[one, other]] = (rows[one] + rows[other]) / 2
    weights[EMBEDDING] = rows.astype(weights[EMBEDDING].dtype)


def test_a_corrupted_drafter_costs_drafts_and_no_text(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "drafter.litertlm"
    export_bundle(TINY / "target", damaged(tmp_path, "drafter", shuffled), bundle, **LIKE_TINY_BUNDLE)
    free = Arm("plain", str(tiny_bundle), mtp="off", threads=1, constrained=False)
    arms = [free, replace(free, label="good", mtp=4), replace(free, label="bad", bundle=str(bundle), mtp=4)]
    with open_runner_engines(arms, margins=True) as answerers:
        analysis = evaluated(tmp_path / "r.jsonl", answerers)
    for label in ("good", "bad"):
        found = comparison(analysis, label, "plain")
        assert (found.partings, found.verdict) == ([], "same")
    good, bad = (
        next(each for each in analysis.latencies if (each.arm, each.kind) == (label, None)) for label in ("good", "bad")
    )
    assert good.tokens_per_verify is not None
    assert bad.tokens_per_verify is not None
    assert bad.tokens_per_verify.high < good.tokens_per_verify.low
    assert bad.acceptance[0].share.high < good.acceptance[0].share.low


def test_a_model_that_confuses_digits_is_worse_and_for_that_reason(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "digits.litertlm"
    export_bundle(damaged(tmp_path, "target", digits_merged), TINY / "drafter", bundle, **LIKE_TINY_BUNDLE)
    fp32 = Arm("fp32", str(tiny_bundle), mtp=4, threads=1)
    numeric = {name: item for name, item in ITEMS.items() if any(map(str.isdigit, str(item.turns[0].messages)))}
    with open_runner_engines([fp32, replace(fp32, label="damaged", bundle=str(bundle))], margins=True) as answerers:
        analysis = evaluated(tmp_path / "r.jsonl", answerers, numeric)
    found = comparison(analysis, "damaged", "fp32")
    assert found.verdict == "worse"
    assert found.p_adjusted < 0.001
    by_label = errors(analysis, "damaged")
    assert max(by_label, key=lambda label: by_label[label]) == "digit_corruption"
    assert by_label["digit_corruption"] > errors(analysis, "fp32").get("digit_corruption", 0) + 10


class DroppingRunner:
    """A runner that loses the last token of every third step in which a draft was rejected."""

    def __init__(self, engine: Engine) -> None:
        self._runner = engine.runner
        self._rejections = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def generate(self, request: Request) -> Iterator[Step | Outcome]:
        for event in self._runner.generate(request):
            if isinstance(event, Step) and event.kind == "verify" and event.accepted < len(event.draft):
                self._rejections += 1
                if self._rejections % 3 == 0:
                    event = replace(event, tokens=event.tokens[:-1], margins=event.margins[:-1])
            yield event


def test_a_token_lost_at_rollback_is_no_matter_of_rounding(tiny_bundle: Path, tmp_path: Path) -> None:
    def opener() -> Engine:
        engine = open_engine(tiny_bundle, threads=1)
        engine.runner = DroppingRunner(engine)  # type: ignore[assignment]
        return engine

    plain = Arm("plain", str(tiny_bundle), mtp="off", threads=1)
    broken = SharedEngine(opener)
    try:
        with open_runner_engines([plain, replace(plain, label="blank", mtp="blank")], margins=True) as whole:
            lossy = RunnerEngine(replace(plain, label="lossy", mtp=4), broken, margins=True)
            analysis = evaluated(tmp_path / "r.jsonl", [*whole, lossy])
    finally:
        broken.close()
    found = comparison(analysis, "lossy", "plain")
    assert found.cause == "accept or rollback"
    assert found.partings
    assert found.verdict == "worse"
    assert comparison(analysis, "blank", "plain").cause in (None, "numerics")


class Requoting(Answerer):
    """Puts plain quotation marks where Gemma's stand, as a detokenizer does that does not know them."""

    def __init__(self, inner: RunnerEngine) -> None:
        self.inner, self.arm = inner, replace(inner.arm, label="requoted", mtp="off")

    @property
    def is_alive(self) -> bool:
        return self.inner.is_alive

    def revive(self) -> None:
        self.inner.revive()

    def answer(self, item, round, *, max_tokens):  # type: ignore[no-untyped-def]
        for answer in self.inner.answer(item, round, max_tokens=max_tokens):
            yield replace(answer, arm=self.arm.label, text=answer.text.replace(QUOTE, '"'), tokens=[])


def test_a_quote_that_breaks_parsers_is_syntax_and_readable_all_the_same(tiny_bundle: Path, tmp_path: Path) -> None:
    with open_runner_engines([Arm("plain", str(tiny_bundle), mtp="off", threads=1)], margins=True) as [plain]:
        analysis = evaluated(tmp_path / "r.jsonl", [plain, Requoting(plain)])
    by_label = errors(analysis, "requoted")
    quoted = sum(QUOTE in answer.text for answer in read_results(tmp_path / "r.jsonl").of("plain"))
    assert quoted > 30
    assert by_label["wrong_quote"] >= 0.9 * quoted
    whole, requoted = (next(each for each in analysis.calls if each.arm == arm) for arm in ("plain", "requoted"))
    assert requoted.right < 0.75 * whole.right
    assert requoted.lenient > 0.95 * whole.lenient
    assert comparison(analysis, "requoted", "plain").verdict == "worse"


@pytest.mark.parametrize("mtp", ["off", 4])
def test_two_arms_that_are_one_are_the_same(tiny_bundle: Path, tmp_path: Path, mtp: str | int) -> None:
    arms = [Arm(label, str(tiny_bundle), mtp=mtp, threads=1) for label in ("one", "other")]  # type: ignore[arg-type]
    with open_runner_engines(arms, margins=True) as answerers:
        analysis = evaluated(tmp_path / "r.jsonl", answerers)
    found = comparison(analysis, "other", "one")
    assert (found.verdict, found.partings, found.lost, found.gained) == ("same", [], 0, 0)
    assert found.p_value == 1
