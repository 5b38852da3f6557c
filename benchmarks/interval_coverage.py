"""How often the 95 % intervals of `edge_mtp.harness.statistics` hold the truth, beside bootstraps over prompts.

    python benchmarks/interval_coverage.py [--rounds N]

Simulated prompts: 1 to about 15 trials each, whose chance of success varies between prompts (intra-cluster correlation
0.15). Differences: the second arm is the first but for a share of the prompts, which it draws anew, 5 points worse.
Means: 5 to about 35 figures a prompt, times a lognormal factor of the prompt. Coverage, and mean width in brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import numpy as np

from edge_mtp.harness import statistics
from edge_mtp.harness.statistics import Estimate

RESAMPLES = 1000
PROMPTS = (20, 50, 200)

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
    return -0.05 * redrawn, statistics.share_difference(*columns), bootstraps(generator, difference, *columns)


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


@click.command()
@click.option("--rounds", default=1000, show_default=True, help="Simulated measurements of each case.")
def main(rounds: int) -> None:
    click.echo("| figure | prompts | edge_mtp.harness.statistics | percentile | BCa |\n|---|---|---|---|---|")
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


if __name__ == "__main__":
    main()
