"""An arm: one configuration of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edge_mtp.engine import DEFAULT_DRAFT_LENGTH
from edge_mtp.errors import EdgeMtpError

Mtp: TypeAlias = 'Literal["off", "auto", "blank"] | int'
EngineName = Literal["ours", "litert-lm"]
ENGINES: tuple[EngineName, ...] = ("ours", "litert-lm")
ACCELERATORS = ("cpu", "gpu")
SWITCHES = {"on": True, "off": False}


@dataclass(frozen=True)
class Arm:
    """What answers, and how. `label` names it in records, tables and rules; it is unique in a run.

    `mtp`: off (plain decoding), K drafts every step, auto (the controller), or blank: the verify graph at the default
    K with nothing to verify, which tells rounding from wrongly kept drafts. `constrained`: calls are held to the
    tools' schemas. `engine` litert-lm is the stock runtime, on the host only; its MTP is on, at a length of its own, or
    off, and it constrains nothing: `mtp` is auto or off there, `constrained` False. `threads` None is LiteRT's choice.
    """

    label: str
    bundle: str
    mtp: Mtp = "auto"
    engine: EngineName = "ours"
    device: str = "host"
    accelerator: str = "cpu"
    temperature: float = 0.0
    constrained: bool = True
    threads: int | None = None

    @property
    def path(self) -> Path:
        """The bundle's; `bundle` may begin with `~`, so that results do not tell whose machine they come from."""
        return Path(self.bundle).expanduser()

    @property
    def draft_length(self) -> int | None:
        """As `ReplyOptions` has it: None leaves it to the controller."""
        if self.mtp == "auto":
            return None
        if self.mtp == "off":
            return 0
        return DEFAULT_DRAFT_LENGTH if self.mtp == "blank" else int(self.mtp)

    def is_sibling(self, other: Arm) -> bool:
        """Whether the two differ in MTP alone."""
        return replace(self, label="", mtp="off") == replace(other, label="", mtp="off")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Arm:
        known = {field.name for field in fields(cls)}
        return cls(**{name: item for name, item in value.items() if name in known})


def parse_mtp(text: str) -> Mtp:
    """Raises EdgeMtpError for what is neither off, auto, blank nor a number from 1 on."""
    if text in ("off", "auto", "blank"):
        return text  # type: ignore[return-value]  # one of the literals
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise EdgeMtpError(f"'{text}' is no way to draft; use off, auto, blank or a number from 1 on")


def parse_arm(text: str, defaults: Mapping[str, Any]) -> Arm:
    """An arm from `KEY=VALUE,...`, the fields of `Arm`; `bundle` and others may come from `defaults`.

    Without `label` the text itself is the label. Raises EdgeMtpError naming what is wrong.
    """
    values: dict[str, Any] = dict(defaults)
    for part in text.split(","):
        key, found, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not found or not value or key not in {field.name for field in fields(Arm)}:
            names = ", ".join(field.name for field in fields(Arm))
            raise EdgeMtpError(f"arm '{text}': '{part}' is not KEY=VALUE with one of {names}")
        values[key] = _parsed(key, value, text)
    if "bundle" not in values:
        raise EdgeMtpError(f"arm '{text}' names no bundle; add bundle=FILE")
    return checked(Arm(**{"label": text, **_as_stock_can(values)}))


def cross(
    bases: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]], names: Mapping[str, str] | None = None
) -> list[Arm]:
    """The arms of all combinations: each of `bases` (fields, bundle included) with each value of every axis.

    The label says what differs between the arms: `int8, mtp auto`. `names` of bundles stand there for their files'.
    """
    combined: list[dict[str, Any]] = []
    for base, *values in itertools.product(bases, *axes.values()):
        each = _as_stock_can({**base, **dict(zip(axes, values, strict=True))})
        if each not in combined:
            combined.append(each)
    differing = [name for name in ("bundle", *axes) if len({str(value) for value in _choices(name, combined)}) > 1]
    arms = []
    for each in combined:
        parts = [_spoken(name, each[name], combined, names or {}) for name in differing]
        arms.append(checked(Arm(**{**each, "label": ", ".join(parts) or f"mtp {each['mtp']}"})))
    return arms


def checked(arm: Arm) -> Arm:
    """The arm, or EdgeMtpError for a combination that cannot run."""
    if arm.engine not in ENGINES:
        raise EdgeMtpError(f"arm '{arm.label}': engine '{arm.engine}' is unknown; use {' or '.join(ENGINES)}")
    if arm.accelerator not in ACCELERATORS:
        raise EdgeMtpError(f"arm '{arm.label}': accelerator '{arm.accelerator}' is unknown; use cpu or gpu")
    if arm.engine == "ours" and arm.accelerator != "cpu":
        raise EdgeMtpError(
            f"arm '{arm.label}': our runner has no accelerator {arm.accelerator}; use cpu, or engine=litert-lm"
        )
    if arm.engine == "litert-lm" and arm.device != "host":
        raise EdgeMtpError(f"arm '{arm.label}': litert-lm runs on host only, not on {arm.device}; use engine=ours")
    if not 0 <= arm.temperature < float("inf"):
        raise EdgeMtpError(f"arm '{arm.label}': temperature {arm.temperature} is not 0 or more; use 0 for greedy")
    return arm


def distinct(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, at least one; raises EdgeMtpError where two have one label."""
    labels = [arm.label for arm in arms]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise EdgeMtpError(f"two arms are called '{twice}'; give one of them label=NAME")
    return list(arms)


def baseline_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The arm that differs from `arm` in decoding plainly alone; None where there is none, or `arm` is it."""
    if arm.mtp == "off":
        return None
    return next((other for other in arms if other.mtp == "off" and other.is_sibling(arm)), None)


def _as_stock_can(values: dict[str, Any]) -> dict[str, Any]:
    """What asks for something that litert-lm does in one way only, in that way."""
    if values.get("engine") != "litert-lm":
        return values
    mtp = "off" if values.get("mtp") == "off" else "auto"
    return {**values, "mtp": mtp, "constrained": False}


def _parsed(key: str, value: str, text: str) -> Any:
    try:
        if key == "mtp":
            return parse_mtp(value)
        if key == "temperature":
            return float(value)
        if key == "threads":
            return int(value)
        if key == "constrained":
            return SWITCHES[value]
    except KeyError:
        raise EdgeMtpError(f"arm '{text}': {key} is '{value}'; use on or off") from None
    except ValueError:
        raise EdgeMtpError(f"arm '{text}': {key} '{value}' is not a number; correct it") from None
    return value


def _choices(name: str, combined: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values of a field among which there was a choice."""
    return [each.get(name) for each in combined if name != "constrained" or each.get("engine") != "litert-lm"]


def _spoken(name: str, value: Any, others: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    if name == "bundle":
        if value in names:
            return names[value]
        stems = {Path(each["bundle"]).stem for each in others}
        return Path(value).stem if len(stems) == len({each["bundle"] for each in others}) else str(value)
    if name == "constrained":
        return "constrained" if value else "free"
    if name in ("engine", "device", "accelerator"):
        return str(value)
    return f"{name} {value}"
