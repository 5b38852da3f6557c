"""Times of two arms as a machine under load gives them, with a speed-up that is known: for simulating experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return generator.normal(0.0, 0.05, shape)


def _heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return 0.05 * generator.standard_t(2, shape)


def _hiccups(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One answer in ten takes half as long again: something else ran."""
    return generator.normal(0.0, 0.03, shape) + np.log(1.5) * (generator.random(shape) < 0.1)


def _two_clusters(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One answer in three runs on slower cores."""
    return generator.normal(0.0, 0.03, shape) + np.log(1.6) * (generator.random(shape) < 1 / 3)


def _drifting(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """The machine's speed wanders as it warms up; `shape` is [experiments, answers in the order of the run]."""
    steps = generator.normal(0.0, 0.02, shape)
    return np.cumsum(steps, axis=-1) + generator.normal(0.0, 0.03, shape)


def _none(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.zeros(shape)


def _varied(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Each item's own speed-up, around the median."""
    return generator.normal(0.0, 0.15, shape)


def _two_kinds(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Half of the items gain, half lose: drafts of code are right, those of chat are not."""
    return np.where(generator.random(shape) < 0.5, 0.06, -0.06) + generator.normal(0.0, 0.03, shape)


def _far_apart(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Two kinds with hardly an item between them, where the median lies."""
    return np.where(generator.random(shape) < 0.5, 0.2, -0.2) + generator.normal(0.0, 0.03, shape)


# The logarithm of an answer's slowness, and of an item's own speed-up. All are symmetric in what a pair's difference
# is made of, so that the median of the items' figures is the speed-up itself.
NOISES: dict[str, Draw] = {
    "log-normal": _normal,
    "heavy tails": _heavy,
    "hiccups": _hiccups,
    "two clusters of cores": _two_clusters,
    "drift": _drifting,
}
EFFECTS: dict[str, Draw] = {
    "no item effect": _none,
    "varied items": _varied,
    "two kinds of items": _two_kinds,
    "two kinds far apart": _far_apart,
}


def draw(
    generator: np.random.Generator, experiments: int, items: int, rounds: int, noise: str, effect: str, faster: float
) -> tuple[Floats, Floats]:
    """Times of a base and of an arm that is so many times as fast: each [experiments, items, rounds].

    Items differ tenfold in length. The answers are given item by item, round by round, the arms in turn: base and arm,
    then arm and base.
    """
    length = generator.lognormal(0.0, 0.8, (experiments, items, 1))
    slowness = NOISES[noise](generator, (experiments, items * rounds * 2)).reshape(experiments, items, rounds, 2)
    slowness[:, :, 1::2] = slowness[:, :, 1::2, ::-1]
    gain = np.log(faster) + EFFECTS[effect](generator, (experiments, items, 1))
    times: Any = length * np.exp(slowness[..., 0]), length * np.exp(slowness[..., 1] - gain)
    return times
