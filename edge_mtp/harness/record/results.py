"""The results of a run of `bench` or `eval`: a JSONL file, one record a line. Schema: docs/results.md.

The first line is the `run`; then come its `item`s, and what happened in the order in which it did: `answer`, `sample`
(sensors), `pause`. The file only grows, so that a run which was cut can go on; a last line that was cut is no record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.codec import Real, WrongError, check_depth, decode
from edge_mtp.formats.trace import Sensors
from edge_mtp.harness.ask.answer import Answer
from edge_mtp.harness.ask.arm import Arm
from edge_mtp.harness.ask.item import Item
from edge_mtp.json_file import read_text
from edge_mtp.safe_text import shown

SCHEMA = 1


@dataclass(frozen=True)
class Sample:
    """The sensors of a device at one moment of the run; `sensors.at_us` says nothing here."""

    device: str
    at_s: Real
    sensors: Sensors


@dataclass(frozen=True)
class Pause:
    """The run waited: `reason` says for what."""

    device: str
    at_s: Real
    seconds: Real
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
    simulated: Real | None = None

    @property
    def measures_speed(self) -> bool:
        """Whether its times say how fast arms are. An eval's do not: it computes margins and warms nothing up."""
        return self.kind == "bench"

    def arm(self, label: str) -> Arm:
        return next(arm for arm in self.arms if arm.label == label)

    def check(self) -> None:
        """Raises WrongError where it is no run that can be spoken of."""
        labels = [arm.label for arm in self.arms]
        if not labels:
            raise WrongError("run has no arms")
        if len(set(labels)) < len(labels):
            raise WrongError("run has two arms of one label")
        if self.baseline not in labels:
            raise WrongError("the run's baseline is none of its arms")


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

    @property
    def refused(self) -> dict[str, str]:
        """The arms that refused all that they were asked, with a reason of theirs: nothing else can be said of them."""
        asked: dict[str, list[Answer]] = {}
        for answer in self.answers:
            asked.setdefault(answer.arm, []).append(answer)
        return {
            arm: answers[-1].error or ""
            for arm, answers in asked.items()
            if all(answer.finish == "refused" and answer.error is not None for answer in answers)
        }


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
        try:
            left = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError:  # half a surrogate pair, of an item's text
            left = json.dumps(value, separators=(",", ":")).encode() + b"\n"
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
    """Reads a results file. Raises EdgeMtpError for one that is none, or of another schema, or damaged: then with the
    line. Unknown events and fields are ignored, and so is a last line that was cut."""
    where = f"results '{shown(str(path))}'"
    # Not splitlines: a reply may hold other line breaks. The last line has none, or was cut.
    lines = read_text(path, "results").removeprefix("\ufeff").split("\n")[:-1]
    reader: _Reader | None = None
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not isinstance(value.get("event"), str):
                raise WrongError("it is no record")
            if reader is None:
                reader = _Reader(value)
            else:
                reader.take(value)
        except RecursionError:
            raise EdgeMtpError(f"{where}, line {number}: it is nested too deeply; give the file whole") from None
        except (WrongError, EdgeMtpError) as error:
            raise EdgeMtpError(
                f"{where}, line {number}: {shown(str(error))}; give the file as it was written"
            ) from None
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number that is too long"
            raise EdgeMtpError(
                f"{where}, line {number}: not JSON ({reason}); give the file as it was written"
            ) from None
    if reader is None:
        raise EdgeMtpError(f"{where} hold no run; give a file that bench or eval wrote")
    reader.results.answers = list(reader.answers.values())
    return reader.results


class _Reader:
    """Records as they come, each checked. All methods raise WrongError for what no run has written."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        """`value` is the first record."""
        if value["event"] != "run":
            raise WrongError(f"the first record is no run, but '{shown(value['event'][:20])}'")
        if type(value.get("schema")) is not int or value["schema"] != SCHEMA:
            raise WrongError(f"it is of another schema than {SCHEMA}; read it with its own version")
        check_depth(value)
        run = decode(Run, value)
        run.check()
        self.results = Results(run, {})
        self.answers: dict[tuple[str, str, int, int], Answer] = {}
        self._labels = {arm.label for arm in run.arms}

    def take(self, value: Mapping[str, Any]) -> None:
        event = value["event"]
        if event == "run":
            raise WrongError("a second run begins here; give each run a file of its own")
        if event == "item":
            check_depth(value)
            try:
                item = Item.from_json({key: of for key, of in value.items() if key != "event"})
            except (TypeError, AttributeError, KeyError, RecursionError):  # of schemas and values that are none
                raise WrongError("its tools, messages or gold are none") from None
            if item.id in self.results.items:
                raise WrongError(f"item '{shown(item.id)}' is there twice")
            self.results.items[item.id] = item
        elif event == "answer":
            answer = self._answer(value)
            # Asked again, the later one counts.
            self.answers[(answer.arm, answer.item, answer.turn, answer.round)] = answer
        elif event == "sample":
            self.results.samples.append(decode(Sample, value))
        elif event == "pause":
            self.results.pauses.append(decode(Pause, value))

    def _answer(self, value: Mapping[str, Any]) -> Answer:
        answer = decode(Answer, value)
        if answer.arm not in self._labels:
            raise WrongError(f"arm '{shown(answer.arm)}' is none of the run's")
        item = self.results.items.get(answer.item)
        if item is None:
            raise WrongError(f"item '{shown(answer.item)}' is none of those above")
        if answer.turn >= len(item.turns):
            raise WrongError(f"turn {answer.turn} is none of the {len(item.turns)} of item '{shown(item.id)}'")
        if any(margin != margin for margin in answer.margins):  # infinite ones are: all but one token are forbidden
            raise WrongError("margins: NaN is no number")
        if any(step.accepted > len(step.source) for step in answer.steps):
            raise WrongError("steps: a step accepted more drafts than it verified")
        return answer
