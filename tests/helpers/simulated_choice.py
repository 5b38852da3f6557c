"""The choice between a device's CPU and GPU, and the controller on the one that was chosen, on simulated devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from native_parts import PassCosts, take
from simulated_device import PLAIN_US, Controller, Profile, fixed_reply, lengths, widths

TEXTS, TOKENS, STARTS = 6, 384, 3
LENGTHS = range(1, 6)
LATER = 0.96  # of a draft's acceptance, the next one's: as of CHAT


@dataclass(frozen=True)
class Sides:
    """What runs a bundle on one device. A step's first draft is right with `acceptance`, later ones less often."""

    cpu: Profile
    gpu: Profile
    acceptance: float

    def __getitem__(self, gpu: bool) -> Profile:
        falling = tuple(self.acceptance * LATER**i for i in range(len(LENGTHS)))
        return replace(self.gpu if gpu else self.cpu, acceptance=(falling,))


def side(plain: float, two: float, row: float, each: float, fixed: float) -> Profile:
    """`plain` in units of PLAIN_US, the other costs in plain steps: verifying two rows, and each row more; drafting."""
    return Profile(drafts=lengths(each, fixed), verifies=widths(two, row), slow=(plain, plain, plain))


def trial(profile: Profile, rng: np.random.Generator) -> PassCosts:
    """What a trial measures, in one moment of the machine."""

    def us(share: float) -> float:
        return float(profile.slow[0] * PLAIN_US * share * rng.lognormal(0, profile.noise))

    return PassCosts(us(1), {k: (us(profile.drafts[k]), us(profile.verifies[k + 1])) for k in LENGTHS})


def to_best(sides: Sides, seed: int = 1, *, learns: bool = True) -> float:
    """The time of the best combination beside that of what the runner does: it chooses, decodes a few texts, chooses
    again with what they have taught, and so on, and decodes others. `learns`: else it chooses as at first."""
    rng = np.random.default_rng(seed)
    trials = [trial(sides[gpu], rng) for gpu in (False, True)]
    controllers: dict[bool, Controller] = {}
    for start in range(STARTS):
        judged, right = (sum(each.first_drafts[i] for each in controllers.values()) for i in range(2))
        gpu, _ = take(*trials, judged, right, decoded=start > 0) if learns else take(*trials, 0, 0, decoded=False)
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


def random_sides(rng: np.random.Generator) -> Sides:
    """A plain step of each side within a factor of 10, any other costs that were published, and texts of any kind."""

    def one() -> Profile:
        plain = float(np.exp(rng.uniform(np.log(0.3), np.log(3))))
        return side(plain, *(float(rng.uniform(*bounds)) for bounds in ((1, 4.5), (0, 0.6), (0.02, 0.4), (0, 0.1))))

    return Sides(one(), one(), float(rng.uniform(0.3, 0.95)))
