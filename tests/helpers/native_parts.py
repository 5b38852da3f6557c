"""Native parts that work on the host alone (processors, stop strings, look-up, trials), through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from native_build import part
from numpy.typing import NDArray
from synthetic_bundle import token_bytes

REFUSED = -2


class Refused(Exception):  # noqa: N818
    """The native side threw edge_mtp::Error with this message."""


@cache
def library() -> ctypes.CDLL:
    """The parts behind the C functions of device/native/tests/python/native_parts.cc."""
    loaded = ctypes.CDLL(str(part("native_parts")))
    for name in ("processors_create", "stops_create", "lookup_create"):
        getattr(loaded, name).restype = ctypes.c_void_p
    for name in ("parts_error", "trial_difference", "child_ask"):
        getattr(loaded, name).restype = ctypes.c_char_p
    for name in ("trial_best_rate", "trial_speed_up", "trial_expected_acceptance"):
        getattr(loaded, name).restype = ctypes.c_double
    return loaded


class _Part:
    """An object of the native side; calls its functions by their names' second halves."""

    def __init__(self, prefix: str, *arguments: Any) -> None:
        self._prefix, self._library = prefix, library()
        handle = getattr(self._library, f"{prefix}_create")(*arguments)
        if handle is None:
            raise Refused(self._library.parts_error().decode())
        self._handle = ctypes.c_void_p(handle)

    def call(self, name: str, *arguments: Any) -> int:
        result = getattr(self._library, f"{self._prefix}_{name}")(self._handle, *arguments)
        if result == REFUSED:
            raise Refused(self._library.parts_error().decode())
        return int(result)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            getattr(self._library, f"{self._prefix}_destroy")(self._handle)


class Processors(_Part):
    def __init__(self, vocabulary: int) -> None:
        super().__init__("processors", vocabulary)

    def begin(
        self,
        prompt: Sequence[int] = (),
        *,
        bias: Mapping[int, float] | None = None,
        suppress: Sequence[int] = (),
        repetition: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
    ) -> None:
        bias = bias or {}
        biased, values = _ints(list(bias)), np.array(list(bias.values()), np.float32)
        penalties = np.array([repetition, presence, frequency], np.float32)
        suppressed, prompted = _ints(suppress), _ints(prompt)
        self.call(
            "begin", _pointer(biased), _pointer(values), len(bias), _pointer(suppressed), len(suppressed),
            _pointer(penalties), _pointer(prompted), len(prompted),
        )  # fmt: skip

    def push(self, token: int) -> None:
        self.call("push", ctypes.c_int32(token))

    def pop(self, count: int) -> None:
        self.call("pop", count)

    def applied(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of `logits` [vocabulary] with the processors applied."""
        row: NDArray[np.float32] = logits.copy()
        library().processors_apply(self._handle, _pointer(row))
        return row


def describe_choice(logits: NDArray[np.float32], token: int) -> tuple[float, float]:
    """Log-probability and margin of `token` in a row of logits."""
    out = np.zeros(2, np.float32)
    library().choice_describe(_pointer(logits), len(logits), token, _pointer(out))
    return float(out[0]), float(out[1])


class StopText(_Part):
    def __init__(self, texts: Sequence[bytes], strings: Sequence[bytes]) -> None:
        """`texts`: the bytes of each token id."""
        table = token_bytes(list(texts), special=set())
        joined = b"".join(strings)
        sizes = _ints([len(string) for string in strings])
        super().__init__("stops", table, ctypes.c_size_t(len(table)), joined, _pointer(sizes), len(strings))
        self.push: Callable[[int], int] = lambda token: self.call("push", token)


class Lookup(_Part):
    def __init__(self, capacity: int) -> None:
        super().__init__("lookup")
        self.begin(capacity)

    @staticmethod
    def longest() -> int:
        return int(library().lookup_longest())

    def begin(self, capacity: int) -> None:
        library().lookup_begin(self._handle, capacity)

    def push(self, token: int) -> None:
        self.call("push", token)

    def truncate(self, length: int) -> None:
        library().lookup_truncate(self._handle, length)

    def __len__(self) -> int:
        return self.call("length")

    def propose(self, least: int, most: int) -> tuple[list[int], list[float]]:
        """Proposed tokens, and a confidence for each."""
        tokens, confidences = np.zeros(31, np.int32), np.zeros(31, np.float32)
        count = self.call("propose", least, most, _pointer(tokens), _pointer(confidences))
        assert count >= 0, "a proposal of another source"
        return tokens[:count].tolist(), confidences[:count].tolist()


def _ints(values: Sequence[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def difference(reference: NDArray[np.float32], found: NDArray[np.float32], *, logits: bool = False) -> str:
    """What a trial says of an output; rows of `logits` are the last axis."""
    vocabulary = reference.shape[-1] if logits else 0
    arrays = [np.ascontiguousarray(each, np.float32) for each in (reference, found)]
    pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in arrays]
    answer: bytes = library().trial_difference(*pointers, reference.size, vocabulary)
    return answer.decode()


def best_rate(plain_us: float, steps: Mapping[int, tuple[float, float]], acceptance: float) -> float:
    """Tokens a millisecond; `steps` has the costs of drafting and of verifying, by the draft's length."""
    count = len(steps)
    lengths = (ctypes.c_int32 * count)(*steps)
    drafts, verifies = ((ctypes.c_double * count)(*(step[i] for step in steps.values())) for i in range(2))
    rate: float = library().trial_best_rate(
        ctypes.c_double(plain_us), lengths, drafts, verifies, count, ctypes.c_double(acceptance)
    )
    return rate


@dataclass(frozen=True)
class PassCosts:
    """Microseconds of a device's passes; `steps` has the costs of drafting and of verifying, by the draft's length."""

    plain: float
    steps: Mapping[int, tuple[float, float]]

    def rate(self, acceptance: float) -> float:
        return best_rate(self.plain, self.steps, acceptance)


def _costs(reference: PassCosts, found: PassCosts) -> tuple[Any, ...]:
    lengths = (ctypes.c_int32 * len(found.steps))(*found.steps)
    costs = []
    for each in (reference, found):
        values = [each.plain, *(step[i] for i in range(2) for step in each.steps.values())]
        costs.append((ctypes.c_double * len(values))(*values))
    return lengths, len(lengths), *costs


def speed_up(reference: PassCosts, found: PassCosts, acceptance: float) -> float:
    """How many times as fast as `reference` a device is, as the choice of an accelerator remembers it."""
    return float(library().trial_speed_up(*_costs(reference, found), ctypes.c_double(acceptance)))


def take(reference: PassCosts, found: PassCosts, judged: int, right: int, decoded: bool) -> tuple[bool, bool]:
    """Whether `found` is taken rather than `reference`, and whether to learn what drafts are worth. `decoded`: there
    were texts before, of which so many first drafts were judged."""
    counts = (ctypes.c_int64(judged), ctypes.c_int64(right), ctypes.c_bool(decoded))
    taken = int(library().trial_take(*_costs(reference, found), *counts))
    return taken % 2 == 1, taken >= 2


def reads(line: str) -> bool:
    """Whether a line is one that a trial prints, without its first two words."""
    return bool(library().trial_reads(line.encode()) & 0xFF)


def expected_acceptance(judged: int, right: int) -> float:
    """What the choice of an accelerator expects of drafts, after so many first drafts."""
    return float(library().trial_expected_acceptance(ctypes.c_int64(judged), ctypes.c_int64(right)))


def ask(script: str, seconds: int) -> tuple[str, str]:
    """The output and the fault of a shell script in a child process."""
    fault: bytes = library().child_ask(script.encode(), seconds)
    return library().parts_error().decode(), fault.decode()
