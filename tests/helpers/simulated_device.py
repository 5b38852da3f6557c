"""Devices and texts for the draft-length controller: device/native/tests/python/simulated_device.cc, and profiles.

docs/controller.md says where each profile's figures come from. Costs are shares of a plain step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from native_build import part

MOST_DRAFTS, SEGMENTS, POSITIONS = 31, 4, 8
PLAIN_US = 50_000.0
DRAFTER, LOOKUP, GRAMMAR = 0, 1, 2


class Device(ctypes.Structure):
    """`Device` of simulated_device.cc."""

    _fields_ = (
        ("length_count", ctypes.c_int32),
        ("width_count", ctypes.c_int32),
        ("lengths", ctypes.c_int32 * MOST_DRAFTS),
        ("widths", ctypes.c_int32 * MOST_DRAFTS),
        ("plain_us", ctypes.c_double),
        ("verify_us", ctypes.c_double * MOST_DRAFTS),
        ("draft_us", ctypes.c_double * MOST_DRAFTS),
        ("noise", ctypes.c_double),
        ("outlier_share", ctypes.c_double),
        ("outlier_factor", ctypes.c_double),
        ("cold", ctypes.c_double),
        ("hot_from", ctypes.c_double),
        ("hot_plain", ctypes.c_double),
        ("hot_verify", ctypes.c_double),
        ("growth_plain", ctypes.c_double),
        ("growth_verify", ctypes.c_double),
        ("slow", ctypes.c_double),
        ("slow_tokens", ctypes.c_double),
        ("first_position", ctypes.c_double),
        ("segment_count", ctypes.c_int32),
        ("segment_end", ctypes.c_double * SEGMENTS),
        ("difficulty", (ctypes.c_double * POSITIONS) * SEGMENTS),
        ("spread", ctypes.c_double),
        ("burst", ctypes.c_double),
        ("confidence_noise", ctypes.c_double),
        ("confidence_slope", ctypes.c_double),
    )


class Proposal(ctypes.Structure):
    """`edge_mtp::Proposal`."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("tokens", ctypes.c_int32 * MOST_DRAFTS),
        ("confidence", ctypes.c_float * MOST_DRAFTS),
        ("source", ctypes.c_uint8 * MOST_DRAFTS),
    )

    @classmethod
    def of(cls, confidences: Iterable[float], source: int = DRAFTER) -> Proposal:
        proposal = cls()
        for confidence in confidences:
            proposal.confidence[proposal.count] = confidence
            proposal.source[proposal.count] = source
            proposal.count += 1
        return proposal


class Timing(ctypes.Structure):
    """`edge_mtp::Controller::Timing`."""

    _fields_ = (("rows", ctypes.c_int32), ("k", ctypes.c_int32), ("us", ctypes.c_double))


class Plan(ctypes.Structure):
    """`edge_mtp::Plan`."""

    _fields_ = (
        ("drafts", ctypes.c_int32),
        ("explore", ctypes.c_bool),
        ("tokens_per_ms", ctypes.c_float),
        ("plain_tokens_per_ms", ctypes.c_float),
    )

    def values(self) -> tuple[int, bool, float, float]:
        return self.drafts, self.explore, self.tokens_per_ms, self.plain_tokens_per_ms


class Run(ctypes.Structure):
    """What a reply cost, and what was done for it."""

    _fields_ = (
        ("us", ctypes.c_double),
        ("steps", ctypes.c_int32),
        ("drafted", ctypes.c_int32),
        ("explored", ctypes.c_int32),
        ("verified_rows", ctypes.c_int32),
    )


class Drift(ctypes.Structure):
    """How far beliefs part from the truth over many replies, as logarithms."""

    _fields_ = (
        ("mean", ctypes.c_double),
        ("rms", ctypes.c_double),
        ("most", ctypes.c_double),
        ("seen", ctypes.c_int64),
    )


# Conditional acceptance by draft position.
FREEFORM = (0.58, 0.54, 0.50, 0.47, 0.44)
CHAT = (0.75, 0.70, 0.67, 0.64, 0.62)
CODE = (0.88, 0.86, 0.85, 0.84, 0.83)
CALLS = (0.92, 0.91, 0.90, 0.89, 0.89)
HOSTILE = (0.08, 0.05, 0.05, 0.05, 0.05)
DIFFICULT = (0.30, 0.25, 0.22, 0.20, 0.20)


@dataclass(frozen=True)
class Profile:
    """A device's costs in plain steps, and what is decoded on it."""

    drafts: Mapping[int, float]  # K -> cost
    verifies: Mapping[int, float]  # T -> cost
    acceptance: tuple[tuple[float, ...], ...] = (FREEFORM,)  # one row for each equal part of the text
    noise: float = 0.04
    outlier_share: float = 0.0
    cold: float = 1.0  # factor of a graph's first run after another one
    hot: tuple[float, float] = (1.0, 1.0)  # factors of plain and verify in the second half of the text
    slow: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factors of plain, verify and the drafter: a busy machine
    growth: tuple[float, float] = (0.0, 0.0)  # of plain and verify, a thousand positions
    first_position: int = 200
    spread: float = 2.0
    burst: float = 0.3
    confidence_noise: float = 0.5
    confidence_slope: float = 1.0

    def device(self) -> Device:
        device = Device(
            length_count=len(self.drafts),
            width_count=len(self.verifies),
            plain_us=self.slow[0] * PLAIN_US,
            noise=self.noise,
            outlier_share=self.outlier_share,
            cold=self.cold,
            outlier_factor=5.0,
            hot_from=0.5 if self.hot != (1.0, 1.0) else 2.0,
            hot_plain=self.hot[0],
            hot_verify=self.hot[1],
            growth_plain=self.growth[0],
            growth_verify=self.growth[1],
            slow=1.0,
            first_position=self.first_position,
            segment_count=len(self.acceptance),
            spread=self.spread,
            burst=self.burst,
            confidence_noise=self.confidence_noise,
            confidence_slope=self.confidence_slope,
        )
        for i, (k, cost) in enumerate(self.drafts.items()):
            device.lengths[i], device.draft_us[i] = k, self.slow[2] * cost * PLAIN_US
        for i, (rows, cost) in enumerate(self.verifies.items()):
            device.widths[i], device.verify_us[i] = rows, self.slow[1] * cost * PLAIN_US
        for segment, accept in enumerate(self.acceptance):
            device.segment_end[segment] = (segment + 1) / len(self.acceptance)
            for j in range(POSITIONS):
                device.difficulty[segment][j] = mean_logit(accept[min(j, len(accept) - 1)], self.spread)
        return device


@cache
def mean_logit(acceptance: float, spread: float) -> float:
    """The mean of a normal logit of standard deviation `spread` whose logistic has the mean `acceptance`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        mean = float((weights / (1 + np.exp(-middle - spread * nodes))).sum() / weights.sum())
        low, high = (middle, high) if mean < acceptance else (low, middle)
    return low


def lengths(each: float, fixed: float = 0.0, most: int = 5) -> dict[int, float]:
    return {k: fixed + each * k for k in range(1, most + 1)}


def widths(two: float, row: float, most: int = 6) -> dict[int, float]:
    return {rows: two + row * (rows - 2) for rows in range(2, most + 1)}


MIXED = Profile(
    drafts={1: 0.088, 2: 0.162, 3: 0.236, 4: 0.308, 5: 0.374},
    verifies={2: 1.33, 3: 1.41, 4: 1.486, 5: 1.563, 6: 1.643},
)
INT8 = Profile(
    drafts={1: 0.082, 2: 0.142, 3: 0.203, 4: 0.264, 5: 0.324},
    verifies={2: 1.05, 3: 1.08, 4: 1.102, 5: 1.127, 6: 1.364},
)
PHONE_GPU = Profile(drafts=lengths(0.06), verifies=widths(1.1, 0.04), acceptance=(CHAT,))
POWERVR = Profile(drafts=lengths(0.4, 0.1), verifies=widths(4.2, 0.4), acceptance=(CHAT,))
MOE = Profile(drafts=lengths(0.03), verifies=widths(1.8, 0.8), acceptance=(CHAT,))
TINY = Profile(
    drafts=lengths(0.25, 0.1), verifies={2: 1.78, 3: 1.85, 4: 2.25, 5: 2.3, 6: 2.68}, acceptance=(CALLS,), noise=0.1
)

# Of the built-in pair, as its steps' traces tell: what a graph costs that ran just before.
COLD_VERIFIES = {2: 1.4, 3: 1.5, 4: 1.6, 5: 1.9, 6: 2.2}

PROFILES = {
    "phone GPU, chat": PHONE_GPU,
    "phone GPU, freeform": replace(PHONE_GPU, acceptance=(FREEFORM,)),
    "PowerVR, chat": POWERVR,
    "PowerVR, code": replace(POWERVR, acceptance=(CODE,)),
    "E2B mixed CPU, freeform": MIXED,
    "E2B int8 CPU, freeform": INT8,
    "E2B mixed CPU, code": replace(MIXED, acceptance=(CODE,)),
    "E2B int8 CPU, code": replace(INT8, acceptance=(CODE,)),
    "MoE, chat": MOE,
    "MoE, calls": replace(MOE, acceptance=(CALLS,)),
    "throttling": replace(MIXED, acceptance=(CHAT,), hot=(2.2, 2.2)),
    "throttling, verify most": replace(MIXED, acceptance=(CHAT,), hot=(1.6, 2.6)),
    "prose, code, prose": replace(MIXED, acceptance=(DIFFICULT, CODE, DIFFICULT)),
    "tiny model": TINY,
    "tiny model, cold caches": replace(TINY, drafts=lengths(0.2, 0.2), verifies=COLD_VERIFIES, cold=1.9),
    "noisy costs": replace(INT8, noise=0.15, outlier_share=0.1),
    "long context": replace(INT8, acceptance=(CHAT,), growth=(0.3, 0.5), first_position=1500),
    "useless confidence": replace(MIXED, acceptance=(CHAT,), confidence_noise=-1.0),
    "useless confidence, freeform": replace(MIXED, confidence_noise=-1.0),
    "overconfident": replace(MIXED, confidence_slope=2.0),
    "difficult text": replace(MIXED, acceptance=(DIFFICULT,)),
    "hostile text": replace(MIXED, acceptance=(HOSTILE,)),
    "hostile text, int8": replace(INT8, acceptance=(HOSTILE,)),
    "hostile text, useless confidence": replace(MIXED, acceptance=(HOSTILE,), confidence_noise=-1.0),
    "K = 3 alone": replace(MIXED, drafts={3: 0.236}, verifies={4: 1.486}, acceptance=(CHAT,)),
    "K = 3 alone, freeform": replace(MIXED, drafts={3: 0.236}, verifies={4: 1.486}),
}


class Library:
    """The functions of simulated_device.cc."""

    def __init__(self, path: Path) -> None:
        c = ctypes.CDLL(str(path))
        p, i, d, n, b = ctypes.c_void_p, ctypes.c_int32, ctypes.c_double, ctypes.c_size_t, ctypes.c_bool
        seed = ctypes.c_uint64
        for name, result, *arguments in (
            ("controller_new", p, p),
            ("controller_copy", p, p),
            ("controller_free", None, p),
            ("controller_begin", None, p),
            ("controller_plan", None, p, i, i, p),
            ("controller_trim", i, p, i, p),
            ("controller_observe", None, p, i, i, i, p, i, d, d),
            ("controller_calibrate", None, p, i, i, i, d),
            ("controller_calibrated", b, p),
            ("controller_check", b, p, i, p, i),
            ("controller_first_drafts", ctypes.c_int64, p),
            ("controller_first_accepted", ctypes.c_int64, p),
            ("controller_add_first_drafts", b, ctypes.c_char_p, n, p),
            ("controller_save", n, p, ctypes.c_char_p, n),
            ("controller_restore", b, p, ctypes.c_char_p, n),
            ("allocations", n),
            ("device_calibrate", d, p, p, seed, i),
            ("device_reply", Run, p, p, i, seed, i, b, i),
            ("device_drift", Drift, p, p, seed, i, i, d),
            ("controller_believed_us", d, p, i, i, i),
        ):
            function = getattr(c, name)
            function.restype, function.argtypes = result, arguments
        self.c = c


@cache
def library(checked: bool = False) -> Library:
    """`checked`: with the undefined-behaviour sanitizer and the checks of the standard library."""
    return Library(part("simulated_device_checked" if checked else "simulated_device"))


def saved_first_drafts(text: bytes) -> tuple[int, int] | None:
    """What a controller's saved text says of first drafts, as `Controller.first_drafts`; None if it is no such text."""
    counts = (ctypes.c_int64 * 2)()
    known = library().c.controller_add_first_drafts(text, len(text), ctypes.byref(counts))
    return (int(counts[0]), int(counts[1])) if known else None


class Controller:
    """`edge_mtp::Controller` of a device."""

    def __init__(self, device: Device, handle: int | None = None, code: Library | None = None) -> None:
        self.device = device
        self._c = (code or library()).c
        self.handle = handle or self._c.controller_new(ctypes.byref(device))

    def __del__(self) -> None:
        self._c.controller_free(self.handle)

    def copy(self) -> Controller:
        return Controller(self.device, self._c.controller_copy(self.handle))

    def begin(self) -> None:
        self._c.controller_begin(self.handle)

    def plan(self, position: int, most: int) -> Plan:
        plan = Plan()
        self._c.controller_plan(self.handle, position, most, ctypes.byref(plan))
        return plan

    def trim(self, position: int, proposal: Proposal) -> int:
        return int(self._c.controller_trim(self.handle, position, ctypes.byref(proposal)))

    def observe(
        self, position: int, k: int, rows: int, proposal: Proposal, accepted: int, draft_us: float, rest_us: float
    ) -> None:
        self._c.controller_observe(self.handle, position, k, rows, ctypes.byref(proposal), accepted, draft_us, rest_us)

    def calibrate(self, position: int, rows: int, k: int, us: float) -> None:
        self._c.controller_calibrate(self.handle, position, rows, k, us)

    def check(self, timings: list[tuple[int, int, float]], position: int = 0) -> bool:
        """Rows, K and microseconds of each."""
        return bool(self._c.controller_check(self.handle, position, (Timing * len(timings))(*timings), len(timings)))

    @property
    def first_drafts(self) -> tuple[int, int]:
        """Judged, and right."""
        return int(self._c.controller_first_drafts(self.handle)), int(self._c.controller_first_accepted(self.handle))

    @property
    def calibrated(self) -> bool:
        return bool(self._c.controller_calibrated(self.handle))

    def save(self) -> bytes:
        text = ctypes.create_string_buffer(self._c.controller_save(self.handle, None, 0))
        self._c.controller_save(self.handle, text, len(text))
        return text.raw

    def restore(self, text: bytes) -> bool:
        return bool(self._c.controller_restore(self.handle, text, len(text)))

    @property
    def allocations(self) -> int:
        """Made by this code so far."""
        return int(self._c.allocations())

    def load(self, seed: int, times: int = 3) -> float:
        """Times invocations as a session does at load; returns their microseconds."""
        return float(self._c.device_calibrate(ctypes.byref(self.device), self.handle, seed, times))

    def believed_us(self, position: int, rows: int, k: int = 0) -> float:
        return float(self._c.controller_believed_us(self.handle, position, rows, k))

    def reply(self, seed: int, tokens: int, cut: bool = False, fixed: int | None = None, late: int = 0) -> Run:
        """Of its own choice, or looking on at `fixed` drafts. The time is that from token `late` on."""
        k = -1 if fixed is None else fixed
        run = self._c.device_reply(ctypes.byref(self.device), self.handle, k, seed, tokens, cut, late)
        assert isinstance(run, Run)
        return run

    def drift(self, seed: int, replies: int, tokens: int = 60, cold: float = 0.1) -> Drift:
        drift = self._c.device_drift(ctypes.byref(self.device), self.handle, seed, replies, tokens, cold)
        assert isinstance(drift, Drift)
        return drift


def fixed_reply(device: Device, k: int, seed: int, tokens: int, late: int = 0) -> Run:
    """The same reply with K drafts in every step."""
    run = library().c.device_reply(ctypes.byref(device), None, k, seed, tokens, False, late)
    assert isinstance(run, Run)
    return run


@dataclass(frozen=True)
class Comparison:
    """Mean microseconds of a reply over the same texts."""

    fixed: dict[int, float]  # by K
    cold: float
    remembered: float
    load: float
    drafts: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> int:
        return min(self.fixed, key=self.fixed.__getitem__)

    def to_best(self, us: float) -> float:
        return self.fixed[self.best] / us

    def to_plain(self, us: float) -> float:
        return self.fixed[0] / us


WARM_SEED, WARM_TEXTS, WARM_TOKENS, TEST_SEED = 10_000_000, 8, 256, 1


def remembered(profile: Profile) -> Controller:
    """What a first hour of use leaves on disk."""
    device = profile.device()
    used = Controller(device)
    used.load(WARM_SEED - 1)
    for seed in range(WARM_SEED, WARM_SEED + WARM_TEXTS):
        used.reply(seed, WARM_TOKENS)
    fresh = Controller(device)
    assert fresh.restore(used.save())
    return fresh


def compare(
    profile: Profile, tokens: int, texts: int, memory: Controller | None = None, cut: bool = False
) -> Comparison:
    """Every fixed draft length, and the controller cold and with what it remembers, each text from the same start."""
    device = profile.device()
    seeds = range(TEST_SEED, TEST_SEED + texts)
    fixed = {
        k: float(np.mean([fixed_reply(device, k, seed, tokens).us for seed in seeds])) for k in (0, *profile.drafts)
    }
    memory = memory or remembered(profile)
    load, cold, warm = [], [], []
    for seed in seeds:
        controller = Controller(device)
        load.append(controller.load(seed))
        cold.append(controller.reply(seed, tokens, cut).us)
        warm.append(memory.copy().reply(seed, tokens, cut).us)
    return Comparison(fixed, float(np.mean(cold)), float(np.mean(warm)), float(np.mean(load)))
