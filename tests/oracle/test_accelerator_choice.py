"""The choice among accelerators and the draft length on the one that was chosen, together, on simulated devices.

A device is a CPU and a GPU, each with costs of its own. The bar: what is used after a few texts takes no more than 5 %
longer than the best of {CPU, GPU} x {K}, K = 0 to 5, whatever the acceptance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from native_parts import PassCosts, expected_acceptance, speed_up
from simulated_device import PLAIN_US, Controller, Profile, fixed_reply, lengths, widths

TEXTS, TOKENS, TO_BEST = 6, 384, 0.95
LENGTHS = range(1, 6)


@dataclass(frozen=True)
class Sides:
    """What runs a bundle on one device. The drafts of a step are right with `acceptance`, later ones a bit less often."""

    cpu: Profile
    gpu: Profile
    acceptance: float

    def __getitem__(self, gpu: bool) -> Profile:
        falling = tuple(self.acceptance * 0.98**i for i in LENGTHS)
        return replace(self.gpu if gpu else self.cpu, acceptance=(falling,))


def side(plain: float, two: float, row: float, each: float, fixed: float) -> Profile:
    """`plain` in units of PLAIN_US, the other costs in plain steps: verifying two rows, and each row more; drafting."""
    return Profile(drafts=lengths(each, fixed), verifies=widths(two, row), slow=(plain, plain, plain))


def trial(profile: Profile, rng: np.random.Generator) -> PassCosts:
    """What a trial measures, in one moment of the machine."""

    def us(share: float) -> float:
        return float(profile.slow[0] * PLAIN_US * share * rng.lognormal(0, profile.noise))

    return PassCosts(us(1), {k: (us(profile.drafts[k]), us(profile.verifies[k + 1])) for k in LENGTHS})


def to_best(sides: Sides, seed: int = 1) -> float:
    """The time of the best combination beside that of what the runner does: it chooses, decodes a few texts, chooses
    again with what they have taught, and decodes others."""
    rng = np.random.default_rng(seed)
    trials = [trial(sides[gpu], rng) for gpu in (False, True)]
    controllers: dict[bool, Controller] = {}
    for start in range(3):
        judged, right = (sum(counts) for counts in zip((0, 0), *(c.first_drafts for c in controllers.values())))
        gpu = speed_up(*trials, expected_acceptance(judged, right)) > 1
        if gpu not in controllers:
            controllers[gpu] = Controller(sides[gpu].device())
            controllers[gpu].load(seed)
        for text in range(TEXTS):
            controllers[gpu].reply(1000 * start + text, TOKENS)
    seeds = range(5000, 5000 + TEXTS)
    ours = sum(controllers[gpu].reply(text, TOKENS).us for text in seeds)
    fixed = [
        sum(fixed_reply(sides[each].device(), k, text, TOKENS).us for text in seeds)
        for each in (False, True)
        for k in (0, *LENGTHS)
    ]
    return min(fixed) / ours


SIDES = st.builds(
    side,
    plain=st.floats(math.log(0.3), math.log(3)).map(math.exp),
    two=st.floats(1, 4.5),
    row=st.floats(0, 0.6),
    each=st.floats(0.02, 0.4),
    fixed=st.floats(0, 0.1),
)
