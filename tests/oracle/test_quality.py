"""The quality report and its statistics, against scipy, simulation and transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from official_bundle import Variant, write
from synthetic_bundle import Graph, Parts

from edge_mtp.cli import main
from edge_mtp.device import Request
from edge_mtp.engine import open_engine
from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.bundle import Bundle
from edge_mtp.formats.family import differences, relation
from edge_mtp.harness.analyse import quality
from edge_mtp.harness.analyse.drafts import Drafts, counted
from edge_mtp.harness.ask.answer import StepFigures
from edge_mtp.harness.ask.item import Item
from edge_mtp.harness.ask.suites import read_items
from edge_mtp.harness.ask.tiny_pair import TINY
from edge_mtp.harness.run.logits import Logits, kl_divergence
from edge_mtp.harness.run.quality import ask_bundles
from edge_mtp.harness.stats import changes, statistics
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell.quality_plot import plot
from edge_mtp.harness.tell.quality_tables import markdown, tables

PROMPTS = 30


# -- statistics -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    ours, theirs = statistics.wilson(*counts), scipy.stats.binomtest(*counts).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    expected = scipy.stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert statistics.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("degrees", [2, 3, 5, 10, 30, 200])
def test_t_quantile_is_scipys(degrees: int) -> None:
    assert statistics.t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_mean_has_scipys_bca_interval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = generator.poisson(20, 60) + 1.0
    total = count * generator.lognormal(0, 1, 60)
    ours = statistics.mean(total, count)
    theirs = scipy.stats.bootstrap(
        (total, count), lambda t, c, axis: t.sum(axis) / c.sum(axis), paired=True, n_resamples=8000, rng=seed
    ).confidence_interval
    assert ours.value == pytest.approx(total.sum() / count.sum())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.08 * (theirs.high - theirs.low))


def test_mean_of_equal_clusters_is_certain_and_of_one_cluster_is_not() -> None:
    assert statistics.mean([3.0, 6.0], [1, 2]) == Estimate(3.0, 3.0, 3.0)
    assert statistics.mean([3.0, 0.0], [1, 0]) == Estimate(3.0, 0.0, math.inf)


def clustered(generator: Any, clusters: int, p: float) -> tuple[Any, Any]:
    """Trials by cluster whose chance varies: beta with mean p and an intra-cluster correlation of 0.15."""
    sizes = generator.poisson(6, clusters) + 1
    chance = generator.beta(p * 0.85 / 0.15, (1 - p) * 0.85 / 0.15, clusters)
    return generator.binomial(sizes, chance), sizes


@pytest.mark.parametrize(("clusters", "p"), [(20, 0.8), (20, 0.97), (50, 0.95), (200, 0.8), (200, 0.97)])
def test_share_covers_where_tokens_cluster(clusters: int, p: float) -> None:
    generator = np.random.default_rng(0)
    found = [statistics.share(*clustered(generator, clusters, p)) for _ in range(1500)]
    assert 0.925 <= np.mean([e.low <= p <= e.high for e in found]) <= 0.985
    # And not by being wide: about as wide as the normal interval of the estimates' true spread.
    assert np.median([e.high - e.low for e in found]) < 1.35 * 2 * 1.96 * np.std([e.value for e in found])


def test_share_of_independent_trials_is_wilson() -> None:
    ones = np.arange(3000) < 2700
    ours, theirs = statistics.share(ones, np.ones(3000)), statistics.wilson(2700, 3000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_share_without_disagreement_counts_clusters() -> None:
    ours = statistics.share([10] * 50, [10] * 50)
    assert ours.value == ours.high == 1
    assert ours.low == pytest.approx(statistics.wilson(50, 50).low, abs=0.01)
    assert statistics.share([9], [10]) == Estimate(0.9, 0.0, 1.0)


@pytest.mark.parametrize("clusters", [50, 200])
@pytest.mark.parametrize(("p", "redrawn", "drop"), [(0.8, 0.3, 0.05), (0.95, 0.3, 0.05), (0.95, 0.1, 0.0)])
def test_difference_covers_where_arms_share_their_prompts(clusters: int, p: float, redrawn: float, drop: float) -> None:
    """The second arm is the first but for a share of the clusters, which it draws anew."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(1200):
        (base, sizes), (other, other_sizes) = (
            clustered(generator, clusters, p),
            clustered(generator, clusters, p - drop),
        )
        new = generator.random(clusters) < redrawn
        found.append(
            changes.share_difference(np.where(new, other, base), np.where(new, other_sizes, sizes), base, sizes)
        )
    assert np.mean([e.low <= -redrawn * drop <= e.high for e in found]) >= 0.93
    assert np.median([e.high - e.low for e in found]) < 2 * 2 * 1.96 * np.std([e.value for e in found])


def test_difference_of_unpaired_arms_is_wider() -> None:
    generator = np.random.default_rng(2)
    base, sizes = clustered(generator, 100, 0.9)
    other = np.clip(base - (generator.random(100) < 0.1), 0, None)
    paired = changes.share_difference(other, sizes, base, sizes)
    order = generator.permutation(100)
    unpaired = changes.share_difference(other[order], sizes[order], base, sizes)
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


# -- drafts ---------------------------------------------------------------------------------------------------------


def step(kind: str, tokens: int, drafts: int = 0, accepted: int = 0) -> StepFigures:
    return StepFigures(kind, tokens, "d" * drafts, accepted, drafts, 0.0, 0.0, 0.0, 0.0)


def test_drafts_past_the_end_of_a_text_do_not_count() -> None:
    reply = [
        step("p", 1),
        step("v", 3, 3, 2),  # two accepted, the third refused
        step("v", 1, 3, 0),
        step("v", 2, 3, 3),  # the text ended with the second of three accepted
    ]
    drafts = counted([reply, [step("p", 1)]], 3)
    assert drafts.reached.tolist() == [[3, 2, 1], [0, 0, 0]]
    assert drafts.accepted.tolist() == [[2, 2, 0], [0, 0, 0]]
    assert (drafts.tokens.tolist(), drafts.steps.tolist()) == ([6, 0], [3, 0])
    figures = quality.acceptance(drafts, None)
    assert [(p.position, p.reached, p.accepted) for p in figures.positions] == [(1, 3, 2), (2, 2, 2), (3, 1, 0)]
    assert figures.tokens_per_verify.value == 2


def drafted(chance: float, prompts: int, seed: int, redrawn: float = 1.0) -> Drafts:
    """Replies of eight full steps at K = 4 whose drafts are each accepted with `chance`; those of all seeds alike but
    for the share of the prompts that is redrawn."""
    generator, same = np.random.default_rng(seed), np.random.default_rng(99)
    replies = []
    for _ in range(prompts):
        steps = []
        for _ in range(8):
            own, common = generator.random(4), same.random(4)
            drawn = own if same.random() < redrawn else common
            accepted = int(np.cumprod(drawn < chance).sum())
            steps.append(step("v", accepted + 1, 4, accepted))
        replies.append(steps)
    return counted(replies, 4)


def test_a_drafter_that_lost_is_said_to_drop_and_an_equal_one_to_hold() -> None:
    base = drafted(0.9, 200, 1)
    worse = quality.acceptance(drafted(0.75, 200, 2), base)
    assert worse.change is not None
    assert worse.change.verdict.startswith("drops by 1.0")
    first = worse.positions[0].change
    assert first is not None
    assert -0.25 < first.difference.low < first.difference.high < -0.1
    assert first.verdict == f"drops by {-100 * first.difference.high:.1f}..{-100 * first.difference.low:.1f} points"
    assert quality.acceptance(base, base).change is not None
    assert quality.acceptance(base, base).change.verdict == "holds"  # type: ignore[union-attr]
    few = quality.acceptance(drafted(0.9, 10, 3), drafted(0.9, 10, 4)).change
    assert few is not None
    assert few.verdict == "cannot tell at n=10"


@pytest.mark.parametrize(
    ("low", "high", "prompts", "verdict"),
    [
        (-0.01, 0.01, 50, "holds"),
        (-0.01, -0.005, 50, "holds"),  # a loss, and smaller than the margin
        (0.01, 0.02, 50, "holds"),
        (-0.01, 0.01, 49, "cannot tell at n=49"),
        (-0.05, -0.01, 10, "drops by 1.0..5.0 points"),
        (-0.05, 0.01, 500, "cannot tell at n=500"),
    ],
)
def test_verdicts(low: float, high: float, prompts: int, verdict: str) -> None:
    assert quality.compare(Estimate((low + high) / 2, low, high), 0.02, prompts, percent=True).verdict == verdict


@pytest.mark.parametrize(("failing", "loss", "rate"), [(0.05, 0.4, 0.1), (0.2, 0.1, 0.05), (1.0, 0.02, 0.04)])
def test_a_loss_of_the_margin_is_seldom_said_to_hold(failing: float, loss: float, rate: float) -> None:
    """Spread over all prompts, or gathered in a few that fail badly: 2 points in all of these."""
    generator, found = np.random.default_rng(5), []
    for _ in range(800):
        base, sizes = clustered(generator, 100, 0.9)
        lost = np.minimum(generator.binomial(sizes, loss) * (generator.random(100) < failing), base)
        found.append(changes.share_difference(base - lost, sizes, base, sizes))
    margin = -np.mean([e.value for e in found])
    assert margin == pytest.approx(0.02, abs=0.001)
    assert np.mean([quality.compare(e, margin, 100).verdict == "holds" for e in found]) <= rate


# -- logits ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_kl_is_scipys(seed: int, scale: float) -> None:
    p, q = scale * np.random.default_rng(seed).standard_normal((2, 3, 50)).astype(np.float32)
    soft = scipy.special.softmax([p.astype(float), q.astype(float)], axis=-1)
    expected = scipy.special.rel_entr(*soft).sum(-1)
    assert kl_divergence(p, q) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert (kl_divergence(p, p) == 0).all()


@pytest.mark.parametrize(("prompt", "reply"), [(1, 1), (1, 30), (128, 9), (129, 17), (240, 25), (500, 12), (385, 128)])
def test_logits_are_those_of_transformers(prompt: int, reply: int, tiny_bundle: Path, tiny_target: Any) -> None:
    """Up to the last position of the cache, where no wide graph fits any more."""
    import torch

    logits = Logits(Bundle(tiny_bundle), threads=1)
    for seed in range(2):  # the second text finds the first one in the cache
        tokens = np.random.default_rng(seed).integers(1024, size=prompt + reply).tolist()
        with torch.no_grad():
            expected = tiny_target(torch.tensor([tokens])).logits[0, prompt - 1 : -1].numpy()
        actual = logits.of_reply(tokens[:prompt], tokens[prompt:])
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() < 2e-3


def test_a_text_longer_than_the_cache_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(EdgeMtpError, match="513 tokens do not fit its context of 512"):
        Logits(Bundle(tiny_bundle), threads=1).of_reply([1] * 500, [1] * 14)


# -- the report -----------------------------------------------------------------------------------------------------


def measure(
    bundles: dict[str, Path], items: Sequence[Item], *, source: str = "given", max_tokens: int = 256, **options: Any
) -> quality.QualityReport:
    answers = ask_bundles(bundles, items, max_tokens=max_tokens, **options)
    return quality.quality_of(answers, items, source=source, max_tokens=max_tokens)


@pytest.fixture(scope="module")
def damaged_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle with half of its embedding table one number further on."""
    data = bytearray(tiny_bundle.read_bytes())
    section = Bundle(tiny_bundle).section("TFLiteModel", "embedder")
    assert section is not None
    begin, end = section.begin + section.size // 4 // 4 * 4, section.begin + section.size * 3 // 4 // 4 * 4
    data[begin:end] = np.roll(np.frombuffer(data[begin:end], "<f4"), 1).tobytes()
    path = tmp_path_factory.mktemp("damaged") / "damaged.litertlm"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return read_items(TINY / "splits" / "iid.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tiny_int8_bundle: Path, damaged_bundle: Path, items: list[Item]) -> quality.QualityReport:
    bundles = {"fp32": tiny_bundle, "again": tiny_bundle, "int8": tiny_int8_bundle, "damaged": damaged_bundle}
    return measure(bundles, items, source="iid", draft_lengths=(3, 5), threads=1)


def test_the_reference_equals_itself(report: quality.QualityReport) -> None:
    first, again = report.measurements[:2]
    assert first.divergence is None
    assert again.divergence is not None
    assert again.divergence.kl == Estimate(0, 0, 0)
    assert (again.divergence.agreement.value, again.calls) == (1, first.calls)
    for ours, theirs in zip(again.acceptance, first.acceptance, strict=True):
        assert (ours.tokens_per_verify, theirs.change) == (theirs.tokens_per_verify, None)
        assert ours.change is not None
        assert ours.change.difference.value == 0
        assert "drops" not in ours.change.verdict


def test_int8_is_smaller_and_a_little_different(report: quality.QualityReport, tiny_int8_bundle: Path) -> None:
    int8 = report.measurements[2]
    assert int8.divergence is not None
    assert 0 < int8.divergence.kl.low < int8.divergence.kl.value < 0.01
    assert int8.divergence.agreement.value > 0.98
    assert int8.bytes == tiny_int8_bundle.stat().st_size < 0.5 * report.reference.bytes
    assert int8.sections.keys() == report.reference.sections.keys()
    assert 0 <= int8.bytes - sum(int8.sections.values()) < (len(int8.sections) + 2) * 16384


def test_damage_shows(report: quality.QualityReport) -> None:
    damaged, int8 = report.measurements[3], report.measurements[2]
    assert damaged.divergence is not None
    assert int8.divergence is not None
    assert damaged.divergence.kl.low > 10 * int8.divergence.kl.high
    assert damaged.divergence.agreement.high < 1
    assert damaged.calls is not None
    assert damaged.calls.lost > 5 * (1 + damaged.calls.gained)
    assert damaged.calls.p_value < 0.01


def test_divergence_is_that_of_both_bundles_logits(
    report: quality.QualityReport, items: list[Item], tiny_bundle: Path, damaged_bundle: Path
) -> None:
    """By scipy, one call of each graph a prompt, on replies that are generated plainly here."""
    logits = [Logits(Bundle(path), threads=1) for path in (tiny_bundle, damaged_bundle)]
    kl, agreed = [], []
    with open_engine(tiny_bundle, threads=1) as engine:
        for item in items:
            prompt = engine.chat_format.encode(item.turns[0].messages, item.tools)
            stops = sorted(engine.chat_format.stop_token_ids)
            reply = engine.generate(Request(prompt, report.max_tokens, stops)).wait().tokens
            p, q = (model.of_reply(prompt, reply) for model in logits)
            assert p.argmax(-1).tolist() == reply  # greedy replies are their own likeliest tokens
            kl += scipy.special.rel_entr(*scipy.special.softmax([p, q], axis=-1)).sum(-1).tolist()
            agreed += (p.argmax(-1) == q.argmax(-1)).tolist()
    divergence = report.measurements[3].divergence
    assert divergence is not None
    assert divergence.tokens == len(kl)
    assert divergence.kl.value == pytest.approx(np.mean(kl), rel=1e-3)
    assert divergence.agreement.value == pytest.approx(np.mean(agreed))


def test_calls_are_those_of_the_tiny_pairs_own_evaluation(
    report: quality.QualityReport, tiny_bundle: Path, tiny_split: list[dict[str, Any]]
) -> None:
    evaluate = pytest.importorskip("edge_mtp.export.tiny.evaluate")
    exact = 0
    with open_engine(tiny_bundle, threads=1) as engine:
        for item in tiny_split[:PROMPTS]:
            reply = engine.chat(item["messages"], tools=item["tools"], draft_length=0, constrained=False).wait()
            exact += evaluate.is_exact(engine.chat_format, item, reply.tokens)
    assert report.reference.calls is not None
    assert (report.reference.calls.exact, report.reference.calls.prompts) == (exact, PROMPTS)
    assert report.reference.calls.share == statistics.wilson(exact, PROMPTS)


def test_replies_that_are_cut_off_are_counted_and_wrong(tiny_bundle: Path, items: list[Item]) -> None:
    cut = measure({"a": tiny_bundle}, items[:5], max_tokens=6, threads=1).reference
    assert (cut.unfinished, cut.calls and cut.calls.exact) == (5, 0)


def test_acceptance_is_that_of_the_trace(report: quality.QualityReport, items: list[Item], tiny_bundle: Path) -> None:
    tokens = steps = first = 0
    with open_engine(tiny_bundle, threads=1) as engine:
        for item in items:
            reply = engine.chat(item.turns[0].messages, tools=item.tools, draft_length=3, constrained=False).wait()
            for s in reply.steps[1:]:
                tokens, steps, first = tokens + len(s.tokens), steps + 1, first + (s.accepted > 0)
    figures = report.reference.acceptance[0]
    assert (figures.draft_length, figures.verify_steps) == (3, steps)
    assert figures.tokens_per_verify.value == pytest.approx(tokens / steps)
    assert (figures.positions[0].reached, figures.positions[0].accepted) == (steps, first)


def test_every_form_of_the_report_says_what_it_is_about(report: quality.QualityReport, tmp_path: Path) -> None:
    caption = report.caption
    assert [m.relation for m in report.measurements] == ["same pair"] * 4
    assert "another" not in caption
    reads = {m.label: m.read for m in report.measurements}
    assert reads["int8"] < 0.35 * reads["fp32"]
    for part in ("the tiny pair", f"{PROMPTS} prompts (iid)", "reference fp32", "Conclusions are about this pair"):
        assert part in caption
    assert caption in markdown(report)
    value = json.loads(json.dumps(report.to_json()))
    assert (value["schema"], value["caption"]) == (quality.SCHEMA, caption)
    assert [m["label"] for m in value["measurements"]] == ["fp32", "again", "int8", "damaged"]
    for table in tables(report):
        assert all(len(row) == len(table.header) for row in table.rows)


def test_plots_are_drawn_alike_each_time(report: quality.QualityReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        plot(report, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "Conclusions are about this pair" in (tmp_path / "a.svg").read_text("utf-8").replace("\n", " ")
    with pytest.raises(EdgeMtpError, match="cannot write plot"):
        plot(report, tmp_path / "plot.nonsense")


def test_one_prompt_says_how_little_it_says(
    tiny_bundle: Path, tiny_int8_bundle: Path, items: list[Item], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    bundles = {"fp32": tiny_bundle, "int8": tiny_int8_bundle}
    report = measure(bundles, items[:1], threads=1)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    divergence = value["measurements"][1]["divergence"]
    assert (divergence["kl"]["low"], divergence["kl"]["high"]) == (0, None)
    assert (divergence["agreement"]["low"], divergence["agreement"]["high"]) == (0, 1)
    assert report.measurements[1].acceptance[0].change is not None
    assert report.measurements[1].acceptance[0].change.verdict == "cannot tell at n=1"
    plot(report, tmp_path / "plot.svg")
    assert "cannot tell at n=1" in markdown(report)


def test_bundles_of_different_families_are_refused(
    tiny_bundle: Path, synthetic_bundle: Path, items: list[Item]
) -> None:
    with pytest.raises(EdgeMtpError, match="another family") as refusal:
        measure({"a": tiny_bundle, "b": synthetic_bundle}, items)
    said = str(refusal.value)
    assert "vocabulary 40 against 1024, hidden size 8 against 128" in said
    assert said.endswith(f"edge-mtp eval --bundle {tiny_bundle} --bundle {synthetic_bundle}")
    assert "\n" not in said


def test_a_family_is_one_vocabulary_and_the_same_sizes(tmp_path: Path) -> None:
    """Settings of a tokenizer, the context and the manifest's absence do not part a family; a token's text does."""
    first = Bundle(Parts().write(tmp_path / "first.litertlm"))
    tokens = Parts().tokens
    longer = Parts(manifest=None)
    longer.prefill_decode = {
        name: Graph({k: v.replace("64", "128") for k, v in g.inputs.items()}, g.outputs, g.composites)
        for name, g in longer.prefill_decode.items()
    }
    assert differences(Bundle(longer.write(tmp_path / "longer.litertlm")), first) == []
    swapped = Parts(tokens=tokens | {"!": tokens['"'], '"': tokens["!"]})
    (told,) = differences(Bundle(swapped.write(tmp_path / "swapped.litertlm")), first)
    assert told == """token 0 '"' against '!'"""
    fewer = Parts()
    fewer.prefill_decode["decode"] = Graph(
        {k: v for k, v in fewer.prefill_decode["decode"].inputs.items() if not k.endswith("_2")},
        fewer.prefill_decode["decode"].outputs,
    )
    told, *_ = differences(Bundle(fewer.write(tmp_path / "fewer.litertlm")), first)
    assert told.endswith("of layer 2 in one of them")


@given(st.permutations(["target", "drafter"]), st.booleans(), st.booleans())
def test_relations_follow_from_hashes(order: list[str], other_target: bool, other_drafter: bool) -> None:
    def bundle(target: str, drafter: str) -> Any:
        hashes = {"target": {"w": target}, "drafter": {"w": drafter}}
        return SimpleNamespace(manifest={"source": {role: hashes[role] for role in order}})

    found = relation(bundle("b" if other_target else "a", "d" if other_drafter else "c"), bundle("a", "c"))
    if other_target:
        assert found == "another checkpoint"
    else:
        assert found == ("same target, another drafter" if other_drafter else "same pair")
    for without in (None, {}, {"source": None}, {"source": {"target": {}}}):
        assert relation(SimpleNamespace(manifest=without), bundle("a", "c")) == "not known"  # type: ignore[arg-type]


def test_a_bundle_without_a_manifest_is_measured_and_its_source_not_known(
    tiny_bundle: Path, items: list[Item], tmp_path: Path
) -> None:
    official = write(Variant("fp32", param_tensor=False), tmp_path / "official.litertlm")
    report = measure({"fp32": tiny_bundle, "official": official}, items[:3], draft_lengths=(3,), threads=1)
    first, other = report.measurements
    assert (first.relation, other.relation, other.checkpoint) == ("same pair", "not known", None)
    assert other.divergence is not None
    assert other.divergence.kl.value < 1e-6  # the same weights
    assert (other.read, other.draft_read) == (first.read, first.draft_read)
    assert "official: from files that it does not name" in report.caption
    assert "Conclusions are about these checkpoints" in report.caption


def test_a_draft_length_that_the_bundle_lacks_is_refused(tiny_bundle: Path, items: list[Item]) -> None:
    with pytest.raises(EdgeMtpError, match="drafts at most 7 tokens a step, not 9"):
        measure({"a": tiny_bundle}, items, draft_lengths=(9,))


# -- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_prints_json_and_draws(tiny_bundle: Path, tiny_int8_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    arguments = ["quality", str(tiny_bundle), str(tiny_int8_bundle), "--limit", "4", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--json", "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["prompts"] == 4
    assert [m["file"] for m in value["measurements"]] == [tiny_bundle.name, tiny_int8_bundle.name]
    assert plot.stat().st_size > 0
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Drafts accepted at K = 4" in result.stdout
    assert "Conclusions are about this pair" in " ".join(result.stdout.split())


def test_the_verb_refuses_what_it_cannot_compare(tiny_bundle: Path, synthetic_bundle: Path) -> None:
    for arguments, status, reason in (
        ([str(tiny_bundle)], 2, "reference first"),
        ([str(tiny_bundle), str(tiny_bundle)], 1, "given twice"),
        ([str(synthetic_bundle), str(tiny_bundle)], 1, "give --prompts"),
    ):
        result = CliRunner().invoke(main, ["quality", *arguments])
        assert result.exit_code == status
        assert reason in result.stderr
