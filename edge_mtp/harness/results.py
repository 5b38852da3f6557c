"""The results of a run of `bench` or `eval`: a JSONL file, one record a line. Schema: docs/results.md.

The first line is the `run`; then come its `item`s, and what happened in the order in which it did: `answer`, `sample`
(sensors), `pause`. The file only grows, so that a run which was cut can go on; a last line that was cut is no record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

from edge_mtp.device.trace import Sensors
from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.arm import Arm
from edge_mtp.harness.item import Item

SCHEMA = 1
Finish = Literal["stop", "length", "context", "crash", "timeout", "refused"]


class StepFigures(NamedTuple):
    """A step of an answer, in the order of the list that it is in the file. Times in microseconds.

    `kind` is "p" (plain) or "v" (verify); `tokens` given out; `source` a letter for each verified draft (d, l, g);
    `accepted` of the drafts; `planned`: K asked of the drafter. `verify_us` is the target: embedding, graph, selection.
    """

    kind: str
    tokens: int
    source: str
    accepted: int
    planned: int
    draft_us: float
    mask_us: float
    verify_us: float
    total_us: float


@dataclass(frozen=True)
class Answer:
    """What an arm said in one turn of an item. Times in microseconds on the runner's clock, `at_s` in seconds since
    the run began.

    `first_token_us`: from the request to its first token. `call_us`: to the token that closes the first tool call,
    None without one. `total_us`: to the last token. `tokens` are ids, the stop token included; empty, like `steps`
    and `margins`, where the engine does not tell them, and `count` is then what is known of their number. `margins`: of
    each token its logit less the runner-up's, where asked for. `error` says what became of a crash, a timeout or a
    refusal. Memory is the runner's, as last read: the largest that was ever resident, and what is not backed by a file;
    arms that share a runner share it.
    """

    arm: str
    item: str
    turn: int
    round: int
    at_s: float
    text: str
    finish: Finish
    prompt_tokens: int = 0
    reused_tokens: int = 0
    count: int = 0
    first_token_us: float = 0.0
    prefill_us: float = 0.0
    call_us: float | None = None
    total_us: float = 0.0
    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    steps: list[StepFigures] = field(default_factory=list)
    rss_bytes: int | None = None
    anonymous_bytes: int | None = None
    error: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is an answer at all, right or wrong."""
        return self.error is None


@dataclass(frozen=True)
class Sample:
    """The sensors of a device at one moment of the run; `sensors.at_us` says nothing here."""

    device: str
    at_s: float
    sensors: Sensors


@dataclass(frozen=True)
class Pause:
    """The run waited: `reason` says for what."""

    device: str
    at_s: float
    seconds: float
    reason: str


@dataclass(frozen=True)
class Run:
    """How a run was made. `command` repeats it. `baseline` is the label of the arm that others are held against.

    `devices` by name: fingerprints. `bundles` by path: bytes, recipe, source hashes. `settings` are those
    that answers depend on (most tokens, rounds, ...): a run is continued only under the same.
    `simulated` marks figures of drafts that no drafter made (`--simulate-acceptance`).
    """

    kind: Literal["bench", "eval"]
    command: str
    started: str
    versions: dict[str, str]
    arms: list[Arm]
    baseline: str
    devices: dict[str, dict[str, Any]]
    bundles: dict[str, dict[str, Any]]
    suite: str
    settings: dict[str, Any]
    simulated: float | None = None

    @property
    def measures_speed(self) -> bool:
        """Whether its times say how fast arms are. An eval's do not: it computes margins and warms nothing up."""
        return self.kind == "bench"

    def arm(self, label: str) -> Arm:
        return next(arm for arm in self.arms if arm.label == label)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Run:
        known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
        return cls(**{**known, "arms": [Arm.from_json(arm) for arm in value["arms"]]})


@dataclass
class Results:
    """A run's records, read back. `items` by id."""

    run: Run
    items: dict[str, Item]
    answers: list[Answer] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)

    def of(self, arm: str) -> list[Answer]:
        """The answers of an arm, in the order in which they were given."""
        return [answer for answer in self.answers if answer.arm == arm]


Record = Answer | Sample | Pause
_EVENTS: dict[type, str] = {Answer: "answer", Sample: "sample", Pause: "pause"}


class ResultsWriter:
    """Appends records to a results file, each whole or not at all. As a context manager that an error ends before the
    first record, it removes the file that it made: there is nothing to go on with.
    """

    def __init__(self, file: BinaryIO, *, is_new: bool = False) -> None:
        """`file` has no buffer: what could not be written must not be tried again when it is closed."""
        self._file = file
        self._is_empty = is_new

    @classmethod
    def create(cls, path: Path, run: Run, items: Mapping[str, Item]) -> ResultsWriter:
        """A new file, which must not exist. Raises EdgeMtpError if it cannot be written."""
        try:
            file = path.open("xb", buffering=0)
        except FileExistsError:
            raise EdgeMtpError(f"results '{path}' exist already; add --resume, or give another --output") from None
        except OSError as error:
            raise EdgeMtpError(f"cannot write results '{path}': {error.strerror}; give another --output") from None
        writer = cls(file, is_new=True)
        try:
            writer._line({"event": "run", "schema": SCHEMA, **asdict(run)})
            for item in items.values():
                writer._line({"event": "item", **item.to_json()})
        except BaseException:
            writer.close()
            path.unlink(missing_ok=True)
            raise
        return writer

    @classmethod
    def resume(cls, path: Path) -> ResultsWriter:
        """The end of a file that `read_results` can read; a last line that was cut is taken away.

        Raises EdgeMtpError if it cannot be written.
        """
        try:
            whole = path.read_bytes().rfind(b"\n") + 1
            file = path.open("r+b", buffering=0)
            file.truncate(whole)
            file.seek(whole)
        except OSError as error:
            raise EdgeMtpError(f"cannot write results '{path}': {error.strerror}; make the file writable") from None
        return cls(file)

    def write(self, record: Record) -> None:
        value: dict[str, Any] = {"event": _EVENTS[type(record)], **asdict(record)}
        if isinstance(record, Answer):
            value["steps"] = [list(step) for step in record.steps]  # without their names, which would fill the file
        self._line(value)
        self._is_empty = False

    def _line(self, value: Mapping[str, Any]) -> None:
        left = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        begin = self._file.tell()
        try:
            while left:  # a disk that fills up takes a part
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(begin)
                self._file.seek(begin)
            raise EdgeMtpError(f"cannot write results '{self._file.name}': {error.strerror}; make room") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None and self._is_empty:
            Path(self._file.name).unlink(missing_ok=True)


def read_results(path: str | Path) -> Results:
    """Reads a results file. Raises EdgeMtpError for one that is none, or of another schema; unknown events and fields
    are ignored, and so is a last line that was cut."""
    where = f"results '{path}'"
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EdgeMtpError(f"cannot read {where}: {reason}; give a file that bench or eval wrote") from None
    lines = text.split("\n")[:-1]  # not splitlines: a reply may hold other line breaks; the last one has none
    results: Results | None = None
    answers: dict[tuple[str, str, int, int], Answer] = {}
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            event = value.pop("event")
            if results is None:
                if event != "run":
                    raise KeyError("run")
                if value.pop("schema") != SCHEMA:
                    raise EdgeMtpError(f"{where} are of another schema than {SCHEMA}; read them with their own version")
                results = Results(Run.from_json(value), {})
            elif event == "item":
                item = Item.from_json(value)
                results.items[item.id] = item
            elif event == "answer":
                answer = _answer(value)
                answers[(answer.arm, answer.item, answer.turn, answer.round)] = answer  # asked again: the later one
            elif event == "sample":
                sensors = Sensors(**_known(Sensors, value["sensors"]))
                results.samples.append(Sample(value["device"], value["at_s"], sensors))
            elif event == "pause":
                results.pauses.append(Pause(**_known(Pause, value)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EdgeMtpError(f"{where}, line {number}: no record of a run ({error!r}); give the file whole") from None
    if results is None:
        raise EdgeMtpError(f"{where} hold no run; give a file that bench or eval wrote")
    results.answers = list(answers.values())
    return results


def _answer(value: dict[str, Any]) -> Answer:
    known = _known(Answer, value)
    known["steps"] = [StepFigures(*step) for step in known.get("steps", [])]
    return Answer(**known)


def _known(kind: type, value: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: value[each.name] for each in fields(kind) if each.name in value}
