"""How often the 95 % intervals of `edge_mtp.harness` hold the truth, beside other ways to make them.

    python benchmarks/interval_coverage.py [--rounds N] > benchmarks/results/interval_coverage.md

Shares and means (`statistics`). Simulated prompts: 1 to about 15 trials each, whose chance of success varies between
prompts (intra-cluster correlation 0.15). Differences: the second arm is the first but for a share of the prompts, which
it draws anew, 5 points worse. Means: 5 to about 35 figures a prompt, times a lognormal factor of the prompt. Coverage,
and mean width in brackets.

Ratios (`ratios`): the median speed-up of items whose times tests/helpers/simulated_times.py draws, by what slows single
answers and by how the items' own speed-ups vary. The bootstraps draw items; the smoothed one adds normal noise as wide
as Silverman's rule has it. Then: how often equal arms are said to differ, and how often an arm 3 % slower is found.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.stats

from edge_mtp.harness.stats import changes, ratios, statistics
from edge_mtp.harness.stats.statistics import Estimate

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import simulated_times

RESAMPLES = 1000
PROMPTS = (20, 50, 200)
ITEMS = ((8, 3), (10, 3), (20, 3), (50, 3), (200, 2))  # and rounds

Intervals = dict[str, tuple[float, float]]
Statistic = Callable[..., Any]


def bootstraps(generator: Any, statistic: Statistic, *columns: Any) -> Intervals:
    """Percentile and BCa intervals of a statistic of the columns' sums over clusters."""
    data = np.stack(columns)
    clusters = data.shape[1]
    weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)
    resampled = statistic(*(data @ weights.T))
    value, left_out = statistic(*data.sum(1)), statistic(*(data.sum(1)[:, None] - data))
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum()
    acceleration = (deviation**3).sum() / (6 * spread**1.5) if spread else 0.0
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = statistics.NORMAL.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    levels = [
        statistics.NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        for z in (-statistics.Z, statistics.Z)
    ]
    return {
        "percentile": tuple(np.quantile(resampled, [0.025, 0.975])),
        "BCa": tuple(np.quantile(resampled, levels)),
    }


def clustered(generator: Any, prompts: int, p: float) -> tuple[Any, Any]:
    sizes = generator.poisson(6, prompts) + 1
    return generator.binomial(sizes, generator.beta(p * 0.85 / 0.15, (1 - p) * 0.85 / 0.15, prompts)), sizes


def ratio(top: Any, bottom: Any) -> Any:
    return top / bottom


def difference(top: Any, bottom: Any, base_top: Any, base_bottom: Any) -> Any:
    return top / bottom - base_top / base_bottom


def shares(generator: Any, prompts: int, p: float) -> tuple[float, Estimate, Intervals]:
    columns = clustered(generator, prompts, p)
    return p, statistics.share(*columns), bootstraps(generator, ratio, *columns)


def differences(generator: Any, prompts: int, p: float, redrawn: float) -> tuple[float, Estimate, Intervals]:
    base, other = clustered(generator, prompts, p), clustered(generator, prompts, p - 0.05)
    new = generator.random(prompts) < redrawn
    columns = [*(np.where(new, b, a) for a, b in zip(base, other, strict=True)), *base]
    return -0.05 * redrawn, changes.share_difference(*columns), bootstraps(generator, difference, *columns)


def means(generator: Any, prompts: int, sigma: float) -> tuple[float, Estimate, Intervals]:
    counts = generator.poisson(20, prompts) + 5
    columns = (counts * generator.lognormal(0, sigma, prompts), counts)
    return float(np.exp(sigma**2 / 2)), statistics.mean(*columns), bootstraps(generator, ratio, *columns)


def cases() -> Iterator[tuple[str, Callable[..., tuple[float, Estimate, Intervals]], tuple[float, ...]]]:
    for p in (0.8, 0.95, 0.99):
        yield f"share {p}", shares, (p,)
    for p in (0.8, 0.95, 0.99):
        for redrawn in (0.1, 0.3):
            yield f"difference of {p}, {redrawn:.0%} redrawn", differences, (p, redrawn)
    for sigma in (1.0, 1.5):
        yield f"mean, sigma {sigma}", means, (sigma,)


# -- ratios ---------------------------------------------------------------------------------------------------------


def level(items: int, depth: int) -> float:
    """How often the order statistics of that depth, from 1, hold the median."""
    return 1 - 2 * float(scipy.stats.binom.cdf(depth - 1, items, 0.5))


def between(figures: Any, depth: int, inwards: float) -> tuple[Any, Any]:
    ordered, items = np.sort(figures), figures.shape[-1]
    low = (1 - inwards) * ordered[:, depth - 1] + inwards * ordered[:, depth]
    high = (1 - inwards) * ordered[:, items - depth] + inwards * ordered[:, items - depth - 1]
    return low, high


def exact(figures: Any) -> tuple[Any, Any]:
    """The narrowest pair of order statistics that holds the median in 95 % or more."""
    items = figures.shape[-1]
    return between(figures, max(d for d in range(1, items // 2 + 1) if level(items, d) >= 0.95), 0.0)


def hettmansperger_sheather(figures: Any) -> tuple[Any, Any]:
    items = figures.shape[-1]
    depth = max(d for d in range(1, items // 2 + 1) if level(items, d) >= 0.95)
    share = (level(items, depth) - 0.95) / (level(items, depth) - level(items, depth + 1))
    return between(figures, depth, (items - depth) * share / (depth + (items - 2 * depth) * share))


def resampled(figures: Any, smooth: bool) -> tuple[Any, Any]:
    """Percentiles of the medians of resamples, the same for all experiments."""
    experiments, items = figures.shape
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, items, (RESAMPLES, items))
    spread = np.minimum(figures.std(axis=-1), np.subtract(*np.quantile(figures, [0.75, 0.25], axis=-1)) / 1.349)
    noise = generator.standard_normal((RESAMPLES, items)) * 0.9 * items**-0.2 * smooth
    ends = [
        np.quantile(np.median(figures[i][drawn] + spread[i] * noise, axis=-1), [0.025, 0.975])
        for i in range(experiments)
    ]
    low, high = np.transpose(ends)
    return low, high


def ratio_coverage(rounds: int) -> Iterator[str]:
    methods = ("interpolated (ours)", "order statistics", "Hettmansperger-Sheather", "percentile", "smoothed")
    yield f"| single answers | items' speed-ups | items | {' | '.join(methods)} |"
    yield "|---|---|---|---|---|---|---|---|"
    truth = math.log(1.25)
    for noise in simulated_times.NOISES:
        for effect in simulated_times.EFFECTS:
            for items, times in ITEMS:
                drawn = simulated_times.draw(np.random.default_rng(0), 10 * rounds, items, times, noise, effect, 1.25)
                figures = ratios.item_figures(*drawn)
                intervals = [
                    ratios.medians(figures)[1:],
                    exact(figures),
                    hettmansperger_sheather(figures),
                    resampled(figures[:rounds], smooth=False),
                    resampled(figures[:rounds], smooth=True),
                ]
                cells = [
                    f"{((low <= truth) & (truth <= high)).mean():.1%} ({(high - low).mean():.3g})"
                    for low, high in intervals
                ]
                yield f"| {noise} | {effect} | {items} | {' | '.join(cells)} |"


def verdicts(rounds: int) -> Iterator[str]:
    yield "| single answers | items | rounds | equal: said to differ | 3 % slower: found | said to be faster |"
    yield "|---|---|---|---|---|---|"
    for noise in simulated_times.NOISES:
        for items, times in ((8, 3), (30, 3), (60, 2), (60, 3), (60, 6), (200, 3)):
            said = []
            for faster in (1.0, 1 / 1.03):
                drawn = simulated_times.draw(
                    np.random.default_rng(0), 10 * rounds, items, times, noise, "no item effect", faster
                )
                _, low, high = ratios.medians(ratios.item_figures(*drawn))
                said.append((float((high < 0).mean()), float((low > 0).mean())))
            (slower, faster), (found, wrong) = said
            yield f"| {noise} | {items} | {times} | {slower + faster:.1%} | {found:.1%} | {wrong:.2%} |"


@click.command()
@click.option("--rounds", default=1000, show_default=True, help="Simulated measurements of each case.")
def main(rounds: int) -> None:
    click.echo(f"# Coverage of 95 % intervals\n\n## Shares and means, {rounds} experiments each\n")
    click.echo("| figure | prompts | edge_mtp.harness.stats.statistics | percentile | BCa |\n|---|---|---|---|---|")
    for name, draw, arguments in cases():
        for prompts in PROMPTS:
            generator = np.random.default_rng(0)
            held: dict[str, list[tuple[bool, float]]] = {}
            for _ in range(rounds):
                truth, ours, others = draw(generator, prompts, *arguments)
                for method, (low, high) in {"ours": (ours.low, ours.high), **others}.items():
                    held.setdefault(method, []).append((low <= truth <= high, high - low))
            cells = [f"{100 * c:.1f} % ({w:.3g})" for c, w in (np.mean(v, axis=0) for v in held.values())]
            click.echo(f"| {name} | {prompts} | {' | '.join(cells)} |")
    for title, lines in (
        (f"Ratios, {10 * rounds} experiments each (bootstraps: {rounds})", ratio_coverage(rounds)),
        (f"Verdicts, {10 * rounds} experiments each", verdicts(rounds)),
    ):
        click.echo(f"\n## {title}\n")
        for line in lines:
            click.echo(line)


if __name__ == "__main__":
    main()
