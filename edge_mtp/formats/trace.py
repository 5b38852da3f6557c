"""The trace: a runner's report of every step. Schema and versions: docs/trace.md."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from edge_mtp.formats.accelerator import CPU, Accelerator
from edge_mtp.formats.codec import Integer, Real, WrongError, decode

PROTOCOL = 2


@dataclass(frozen=True)
class Ready:
    """First record of a runner: the bundle is loaded. Lengths in tokens, `load_us` in microseconds.

    `max_draft_length` is 0 for a bundle without verify graphs. Without `has_drafter` only the other sources draft.
    `accelerator` runs the graphs; where it was chosen by trial, `accelerator_reason` tells why in one line.
    """

    protocol: int
    context_length: int
    vocabulary: int
    max_draft_length: int
    has_drafter: bool
    load_us: float
    accelerator: Accelerator = CPU
    accelerator_reason: str = ""


@dataclass(frozen=True)
class Step:
    """One step: a plain decode, or one draft and its verification. Times in microseconds.

    `tokens` are the tokens that the step gave out, the first at context position `position`. The first `accepted` of
    them were drafted (all of them, when the text ended inside the step). `draft` and `confidence` are the drafts that
    the step verified, `source` their origins, a letter each: d(rafter), l(ook-up), g(rammar). A verify step without
    drafts ran blank rows. `planned` is the K asked of the drafter, `explore` whether the controller tried it to learn
    its worth; `expected_per_ms` and `plain_per_ms` are the tokens that it expected of this K and of plain decoding (0
    where it did not choose). `waits` counts how often the host waited for an accelerator, and the bytes are what
    crossed between them; all are 0 on the CPU. `logprobs` and `margins` (largest logit minus the second largest) belong
    to `tokens`, and are there if the request asked for them.
    """

    request: str
    step: int
    kind: Literal["plain", "verify"]
    position: int
    tokens: list[int]
    draft: list[int]
    confidence: list[float]
    source: str
    accepted: int
    planned: int
    explore: bool
    draft_us: float
    mask_us: float
    embed_us: float
    verify_us: float
    select_us: float
    total_us: float
    expected_per_ms: float = 0.0
    plain_per_ms: float = 0.0
    waits: int = 0
    bytes_to_accelerator: int = 0
    bytes_from_accelerator: int = 0
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Last record of a request. `total_us` is prefill, all steps, and the writing of their records.

    `reused_tokens` of the prompt were in the cache already, `restored_tokens` were read from a kept prefix.
    `first_drafts` counts the drafter's first drafts that a text judged, in this and all remembered requests, and
    `first_accepted` those that were right; both are 0 where drafts came from a tape.
    """

    request: str
    finish: Literal["stop", "length", "context", "cancelled"]
    prompt_tokens: int
    reused_tokens: int
    restored_tokens: int
    tokens: int
    prefill_us: float
    total_us: float
    first_drafts: int = 0
    first_accepted: int = 0


@dataclass(frozen=True)
class Sensors:
    """The device's state at one moment of a request. The host reads it over the link, not the runner.

    `at_us`: host clock since the request was sent, negative before. `thermal_status`: Android's, 0 (none) to 6
    (shutdown). `temperatures_c` by the sensor's name, `frequencies_mhz` by cpufreq policy or `gpu`. The battery's
    current is as reported (microampere by the kernel's contract; the vendor chooses the sign) and says little of the
    run while `battery_charging`. `rss_bytes` counts mapped files, `anonymous_bytes` does not. Where the device does not
    tell a figure, it is None or empty, and `absent` names it.
    """

    at_us: Real
    thermal_status: Integer | None = None
    temperatures_c: dict[str, Real] = field(default_factory=dict)
    frequencies_mhz: dict[str, Real] = field(default_factory=dict)
    battery_current_ua: Integer | None = None
    battery_voltage_v: Real | None = None
    battery_charging: bool | None = None
    rss_bytes: Integer | None = None
    anonymous_bytes: Integer | None = None
    gpu_bytes: Integer | None = None
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """The runner refused a request, or (`request` None) could not start; `message` is one line for a person."""

    request: str | None
    message: str


Record = Ready | Step | Outcome | Failure

_KINDS: dict[str, type[Ready] | type[Step] | type[Outcome] | type[Failure]] = {
    "ready": Ready,
    "step": Step,
    "done": Outcome,
    "error": Failure,
}
_EVENTS: dict[type, str] = {kind: event for event, kind in _KINDS.items()} | {Sensors: "sensors"}


def parse_record(record: dict[str, Any]) -> Record:
    """The typed form of one JSON record; fields this version does not know are ignored.

    Raises ValueError for an event that is unknown, and for a field that is missing or of another type.
    """
    kind = _KINDS.get(record["event"])
    if kind is None:
        raise WrongError("event: no such event is known")
    return decode(kind, record)


def to_json(record: Record | Sensors) -> dict[str, Any]:
    """The JSON form of a record, as docs/trace.md gives it."""
    return {"event": _EVENTS[type(record)], **{f.name: getattr(record, f.name) for f in fields(record)}}
