"""An arm: one configuration of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats import drafting
from edge_mtp.formats.accelerator import ACCELERATOR_CHOICES, CPU, GPU, AcceleratorChoice
from edge_mtp.formats.codec import Integer, Real
from edge_mtp.formats.defaults import DEFAULT_DRAFT_LENGTH
from edge_mtp.formats.drafting import DRAFT_SOURCES, DraftSource

Mtp: TypeAlias = Literal["off", "auto", "adaptive", "blank"] | Integer
EngineName = Literal["ours", "litert-lm"]
ENGINES: tuple[EngineName, ...] = ("ours", "litert-lm")
SWITCHES = {"on": True, "off": False}
THINKING: dict[str, bool | None] = {"auto": None, **SWITCHES}
CALLS = {"parallel": True, "single": False}
CHOICES: dict[str, Mapping[str, bool | None]] = {
    "constrained": SWITCHES,
    "thinking": THINKING,
    "calls": CALLS,
    "half_precision": SWITCHES,
}
# What `KEY=VALUE` calls a field, where that is another name.
KEYS = {"parallel_calls": "calls"}


@dataclass(frozen=True)
class Arm:
    """What answers, and how. `label` names it in records, tables and rules; it is unique in a run.

    `mtp`: off (plain decoding), a number K (K drafts in every step), auto (the controller), or blank: the verify graph
    at the default K with nothing to verify, which tells rounding from wrongly kept drafts. `constrained`: calls must
    fit the tools' schemas. `threads` None is LiteRT's choice.

    `engine` litert-lm is the stock runtime, on the host only. It drafts at a length of its own and constrains nothing:
    its `mtp` is off, auto (drafts in every step) or adaptive (drafts while that is faster), and `constrained` is False.
    """

    label: str
    bundle: str
    mtp: Mtp = "auto"
    engine: EngineName = "ours"
    device: str = "host"
    accelerator: AcceleratorChoice = CPU
    temperature: Real = 0.0
    constrained: bool = True
    threads: Integer | None = None
    draft_sources: tuple[DraftSource, ...] | None = None
    thinking: bool | None = None
    parallel_calls: bool = True
    half_precision: bool = False

    @property
    def path(self) -> Path:
        """The bundle's; `bundle` may begin with `~`, so that results do not tell whose machine they come from."""
        return Path(self.bundle).expanduser()

    @property
    def draft_length(self) -> int | None:
        """As `ReplyOptions` has it: None leaves it to the controller."""
        if self.mtp in ("auto", "adaptive"):
            return None
        if self.mtp == "off":
            return 0
        return DEFAULT_DRAFT_LENGTH if self.mtp == "blank" else int(self.mtp)

    def is_sibling(self, other: Arm) -> bool:
        """Whether the two differ in how they draft alone, which never changes the text."""
        plain = {"label": "", "mtp": "off", "draft_sources": None}
        return replace(self, **plain) == replace(other, **plain)  # type: ignore[arg-type]  # each of its field's type

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_mtp(text: str) -> Mtp:
    """Raises EdgeMtpError for what is neither off, auto, adaptive, blank nor a number from 1 on."""
    words: dict[str, Mtp] = {"off": "off", "auto": "auto", "adaptive": "adaptive", "blank": "blank"}
    return drafting.parse_mtp(text, words, "off, auto, adaptive, blank or a number from 1 on")


def parse_sources(text: str) -> tuple[DraftSource, ...]:
    """Sources of drafts joined by `+`. Raises EdgeMtpError for one that there is not, or that is there twice."""
    names = [part.strip() for part in text.split("+")]
    found = tuple(source for name in names for source in DRAFT_SOURCES if source == name)
    if len(found) != len(names) or len(set(found)) != len(found):
        known = ", ".join(DRAFT_SOURCES)
        raise EdgeMtpError(f"'{text}' are no sources of drafts; use some of {known}, each once, joined by +")
    return found


def parse_arm(text: str, defaults: Mapping[str, Any]) -> Arm:
    """An arm from `KEY=VALUE,...`, the fields of `Arm`; `bundle` and others may come from `defaults`.

    Without `label` the text itself is the label. Raises EdgeMtpError naming what is wrong.
    """
    values: dict[str, Any] = dict(defaults)
    names = {KEYS.get(field.name, field.name): field.name for field in fields(Arm)}
    for part in text.split(","):
        key, found, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not found or not value or key not in names:
            raise EdgeMtpError(f"arm '{text}': '{part}' is not KEY=VALUE with one of {', '.join(names)}")
        values[names[key]] = _parsed(key, value, text)
    if "bundle" not in values:
        raise EdgeMtpError(f"arm '{text}' names no bundle; add bundle=FILE")
    arm = {"label": text, **values}
    if arm.get("engine") == "litert-lm":
        arm = {"constrained": False, **arm}  # what is not asked for, it does as it can
    return checked(Arm(**arm))


def cross(
    bases: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]], names: Mapping[str, str] | None = None
) -> list[Arm]:
    """The arms of all combinations: each of `bases` (fields, bundle included) with each value of every axis.

    What draws no distinction is one arm: an arm that drafts nothing has no sources of drafts, and litert-lm does some
    things in one way only (`Arm`). Its label says so where arms differ in that. Raises EdgeMtpError for a value that no
    arm is left to have.

    The label says what differs between the arms: `int8, mtp auto`. `names` of bundles stand there for their files'.
    """
    combined: list[dict[str, Any]] = []
    for base, *values in itertools.product(bases, *axes.values()):
        each = _as_it_can({**base, **dict(zip(axes, values, strict=True))})
        if each not in combined:
            combined.append(each)
    _check_held(axes, combined)
    differing = [name for name in ("bundle", *axes) if len({str(value) for value in _choices(name, combined)}) > 1]
    arms = []
    for each in combined:
        parts = [_spoken(name, each[name], combined, names or {}) for name in differing if _has(name, each)]
        arms.append(checked(Arm(**{**each, "label": ", ".join(parts) or f"mtp {each['mtp']}"})))
    return arms


def _check_held(axes: Mapping[str, Sequence[Any]], combined: Sequence[Mapping[str, Any]]) -> None:
    """Raises EdgeMtpError where no arm has a value that was asked for. What calls are constrained by is no matter
    here: they are by default, and litert-lm has no other way."""
    for name, values in axes.items():
        for value in values if name != "constrained" else ():
            if value is None or any(each[name] == value for each in combined):
                continue
            said = _spoken(name, value, combined, {})
            if value == "adaptive":
                raise EdgeMtpError(f"no arm can have {said}: it is litert-lm's; use auto, or add --engine litert-lm")
            if name == "draft_sources" and all(not _has(name, each) for each in combined):
                raise EdgeMtpError(f"no arm drafts, so none drafts from {said}; drop --draft-sources, or change --mtp")
            raise EdgeMtpError(f"no arm can have {said}: litert-lm {_STOCK_WAYS[name][0]}; add --engine ours")


def checked(arm: Arm) -> Arm:
    """The arm, or EdgeMtpError for a combination that cannot run."""
    if arm.engine not in ENGINES:
        raise EdgeMtpError(f"arm '{arm.label}': engine '{arm.engine}' is unknown; use {' or '.join(ENGINES)}")
    if arm.accelerator not in ACCELERATOR_CHOICES:
        known = ", ".join(ACCELERATOR_CHOICES)
        raise EdgeMtpError(f"arm '{arm.label}': accelerator '{arm.accelerator}' is unknown; use one of {known}")
    if arm.engine == "litert-lm" and arm.accelerator not in (CPU, GPU):
        raise EdgeMtpError(f"arm '{arm.label}': litert-lm runs on cpu or gpu; use one of them, or engine=ours")
    if arm.half_precision and arm.accelerator not in (GPU, "auto"):
        raise EdgeMtpError(f"arm '{arm.label}': half precision is for a GPU; use accelerator=gpu or auto, or drop it")
    if arm.half_precision and arm.engine == "litert-lm":
        raise EdgeMtpError(f"arm '{arm.label}': litert-lm chooses its own precision; drop half_precision")
    if arm.engine == "litert-lm" and arm.device != "host":
        raise EdgeMtpError(f"arm '{arm.label}': litert-lm runs on host only, not on {arm.device}; use engine=ours")
    if arm.engine == "litert-lm":
        _check_stock(arm)
    elif arm.mtp == "adaptive":
        raise EdgeMtpError(f"arm '{arm.label}': mtp adaptive is litert-lm's; use auto, or engine=litert-lm")
    if arm.draft_sources is not None and arm.mtp in ("off", "blank"):
        raise EdgeMtpError(f"arm '{arm.label}': mtp {arm.mtp} drafts from no source; drop draft_sources, or change mtp")
    if not arm.parallel_calls and not arm.constrained and arm.engine == "ours":
        raise EdgeMtpError(f"arm '{arm.label}': single calls hold by the tools' grammar; use constrained=on")
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


def held_against(arm: Arm, baseline: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The arm of `arms` that `arm` is compared with beside its plain sibling: the run's baseline.

    Engines are compared on one task: for an arm of another engine than the baseline's, it is the arm that differs from
    the baseline at most in what calls are constrained by, and is constrained as `arm` is. None where there is none, and
    for the baseline itself.
    """
    if arm.label == baseline.label:
        return None
    if arm.engine == baseline.engine:
        return baseline
    asked = replace(baseline, label="", constrained=arm.constrained, parallel_calls=arm.parallel_calls)
    alike = [each for each in arms if each.threads == arm.threads and replace(each, label="") == asked]
    return next(iter(alike), None)


# How litert-lm does what it does in one way only, and what an arm is to ask for.
_STOCK_WAYS = {
    "mtp": ("drafts at a length of its own", "use mtp=auto, mtp=adaptive or mtp=off"),
    "draft_sources": ("drafts from the drafter alone", "drop draft_sources"),
    "constrained": ("constrains nothing", "use constrained=off"),
    "parallel_calls": ("cannot be held to single calls", "use calls=parallel"),
}


def _check_stock(arm: Arm) -> None:
    """Raises EdgeMtpError for what litert-lm cannot do."""
    could = _as_it_can(asdict(arm))
    for name, (way, cure) in _STOCK_WAYS.items():
        if could[name] != getattr(arm, name):
            raise EdgeMtpError(f"arm '{arm.label}': litert-lm {way}; {cure}")


def _as_it_can(values: dict[str, Any]) -> dict[str, Any]:
    """Without the sources of drafts of an arm that has none; and what asks for something that litert-lm does in one way
    only, in that way."""
    drafts = values.get("mtp", "auto") not in ("off", "blank")
    if not drafts and values.get("draft_sources") is not None:
        values = {**values, "draft_sources": None}
    if values.get("engine") != "litert-lm":
        return {**values, "mtp": "auto"} if values.get("mtp") == "adaptive" else values  # ours adapts in no other way
    changed: dict[str, Any] = {"constrained": False}
    changed["mtp"] = values.get("mtp") if values.get("mtp") in ("off", "adaptive") else "auto"
    if "parallel_calls" in values:
        changed["parallel_calls"] = True
    if values.get("draft_sources") is not None:
        changed["draft_sources"] = ("drafter",)
    return {**values, **changed}


def _parsed(key: str, value: str, text: str) -> Any:
    try:
        if key == "mtp":
            return parse_mtp(value)
        if key == "temperature":
            return float(value)
        if key == "threads":
            return int(value)
        if key == "draft_sources":
            return parse_sources(value)
        if key in CHOICES:
            return CHOICES[key][value]
    except KeyError:
        raise EdgeMtpError(f"arm '{text}': {key} is '{value}'; use {' or '.join(CHOICES[key])}") from None
    except ValueError:
        raise EdgeMtpError(f"arm '{text}': {key} '{value}' is not a number; correct it") from None
    return value


def _choices(name: str, combined: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values of a field that arms have."""
    return [each.get(name) for each in combined if _has(name, each)]


def _has(name: str, each: Mapping[str, Any]) -> bool:
    """Whether a field says anything of an arm: one that drafts nothing has no sources of drafts."""
    return name != "draft_sources" or each.get("mtp") not in ("off", "blank")


def _spoken(name: str, value: Any, others: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    if name == "bundle":
        if value in names:
            return names[value]
        stems = {Path(each["bundle"]).stem for each in others}
        return Path(value).stem if len(stems) == len({each["bundle"] for each in others}) else str(value)
    if name == "constrained":
        return "constrained" if value else "free"
    if name == "draft_sources":
        return "default drafts" if value is None else f"{'+'.join(value)} drafts"
    if name == "thinking":
        return "thinking" if value else "thinking by default" if value is None else "no thinking"
    if name == "parallel_calls":
        return "parallel calls" if value else "single calls"
    if name in ("engine", "device", "accelerator"):
        return str(value)
    return f"{name} {value}"
