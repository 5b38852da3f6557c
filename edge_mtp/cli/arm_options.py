"""The options that say which arms are compared, for every verb that compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_mtp.cli.option_groups import option_group
from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.harness.ask.arm import Arm

F = TypeVar("F", bound=Callable[..., Any])

# Of both engines where they are compared and the caller names no number: what LiteRT takes on a phone.
MOST_THREADS = 4

_arms = option_group("Arms: every combination of these is one")


def words(value: str) -> list[str]:
    """The parts of a comma list, at least one. Raises click.BadParameter where one is empty."""
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise click.BadParameter(f"'{value}' has an empty part; separate values by single commas")
    return parts


def _list(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else words(value)


def arm_options(mtp: str) -> Callable[[F], F]:
    """The options of `ArmChoice`; `mtp` is the default of --mtp."""

    def add(function: F) -> F:
        options = [
            _arms("--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
                  help="A .litertlm file. May be repeated. Default: the built-in tiny model."),
            _arms("--recipe", "recipes", callback=_list, metavar="LIST",
                  help="Recipes of the built-in tiny model, such as fp32,int8,int4; not with --bundle."),
            _arms("--mtp", "mtps", callback=_list, default=mtp, show_default=True, metavar="LIST",
                  help="off, auto, a number of drafts, adaptive (litert-lm's own) or blank (the verify graph"
                       " without drafts)."),
            _arms("--constrained", "constraints", callback=_list, default="on", show_default=False, metavar="LIST",
                  help="Whether calls must fit the tools' schemas: on, off or on,off. Default: on, but off beside"
                  " litert-lm, which constrains nothing."),
            _arms("--draft-sources", "draft_sources", callback=_list, metavar="LIST",
                  help="Sources of drafts: drafter, lookup and grammar, joined by +:"
                  " drafter+grammar,lookup+grammar. Default: the drafter and the grammar."),
            _arms("--calls", "calls", callback=_list, default="parallel", show_default=True, metavar="LIST",
                  help="parallel (any number of calls in a reply), single (one at most) or both."),
            _arms("--thinking", "thoughts", callback=_list, default="auto", show_default=True, metavar="LIST",
                  help="Whether the model thinks first: auto (the template decides), on, off or several of them."),
            _arms("--temperature", "temperatures", callback=_list, default="0", show_default=True, metavar="LIST",
                  help="Sampling temperatures; 0 is greedy. The arms of one round draw the same random numbers."),
            _arms("--engine", "engines", callback=_list, default="ours", show_default=True, metavar="LIST",
                  help="ours, litert-lm (the stock runtime, on host) or both."),
            _arms("--accelerator", "accelerators", callback=_list, default="cpu", show_default=True, metavar="LIST",
                  help="What runs the graphs: cpu, gpu, npu or auto; for litert-lm cpu or gpu."),
            _arms("--device", "devices", multiple=True, default=("host",), show_default=False, metavar="NAME",
                  help="Where to run: host, pixel, emulator, SERIAL, HOST:PORT or ssh://user@board. May be repeated."
                  " Default: host."),
            _arms("--threads", type=click.IntRange(1), metavar="N",
                  help="CPU threads. Default: LiteRT chooses; beside litert-lm as many as there are cores, at most 4."),
            _arms("--arm", "arms", multiple=True, metavar="KEY=VALUE,...",
                  help="One more arm; without other options of arms it replaces the combinations. Keys: label,"
                  " bundle, mtp, engine, device, accelerator, temperature, constrained, threads, draft_sources,"
                  " thinking, calls, half_precision."),
            _arms("--baseline", metavar="LABEL", help="The arm that the others are compared with; default: the first."),
        ]  # fmt: skip
        for option in reversed(options):
            function = option(function)
        return function

    return add


@dataclass(frozen=True)
class ArmChoice:
    """What the options said."""

    bundles: Sequence[Path]
    recipes: Sequence[str] | None
    mtps: Sequence[str]
    constraints: Sequence[str]
    draft_sources: Sequence[str] | None
    calls: Sequence[str]
    thoughts: Sequence[str]
    temperatures: Sequence[str]
    engines: Sequence[str]
    accelerators: Sequence[str]
    devices: Sequence[str]
    threads: int | None
    arms: Sequence[str]
    baseline: str | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> ArmChoice:
        """Takes the options of `arm_options` out of a verb's keyword arguments."""
        return cls(**{name: options.pop(name) for name in cls.__dataclass_fields__})

    def resolve(self) -> tuple[list[Arm], str]:
        """The arms and the baseline's label; the tiny model is exported where it is meant.

        Raises EdgeMtpError for arms that cannot be.
        """
        from edge_mtp.harness.ask.arm import distinct, parse_arm

        if self.bundles and self.recipes:
            raise EdgeMtpError("--recipe is for the built-in tiny model; export your own with it, and give --bundle")
        names = self._bundles()
        combined = [] if self.arms and not self._combines() else self._combinations(names)
        defaults: dict[str, Any] = {"device": self.devices[0], "threads": self.threads}
        if len(names) == 1:
            [defaults["bundle"]] = names
        arms = _alike(distinct([*combined, *(parse_arm(text, defaults) for text in self.arms)]))
        baseline = arms[0].label if self.baseline is None else self.baseline
        if baseline not in [arm.label for arm in arms]:
            labels = ", ".join(f"'{arm.label}'" for arm in arms)
            raise EdgeMtpError(f"no arm is called '{baseline}'; give --baseline one of {labels}")
        return arms, baseline

    def _combines(self) -> bool:
        """Whether combinations were asked for, and not only the arms of --arm on one bundle and device."""
        axes = (
            "mtps", "constraints", "draft_sources", "calls", "thoughts", "temperatures", "engines", "accelerators",
        )  # fmt: skip
        return any(map(_is_given, axes))

    def _bundles(self) -> dict[str, str]:
        """Paths of the bundles, and what those of the tiny model are called; others are called by their files."""
        if self.bundles:
            return dict.fromkeys(map(str, self.bundles), "")
        if self.arms and all("bundle=" in arm for arm in self.arms) and not (self.recipes or self._combines()):
            return {}
        recipes = self.recipes or ("fp32",)
        return dict(zip(map(homely, tiny_bundles(recipes)), recipes, strict=True))

    def _combinations(self, names: Mapping[str, str]) -> list[Arm]:
        from edge_mtp.harness.ask.arm import CALLS, SWITCHES, THINKING, cross, parse_mtp, parse_sources

        constraints = self.constraints
        if "litert-lm" in self.engines and not _is_given("constraints"):
            constraints = ["off"]  # as litert-lm answers, so that both are asked the same
        axes: dict[str, Sequence[Any]] = {
            "constrained": [_choice("--constrained", value, SWITCHES) for value in constraints],
            "parallel_calls": [_choice("--calls", value, CALLS) for value in self.calls],
            "thinking": [_choice("--thinking", value, THINKING) for value in self.thoughts],
            "engine": list(self.engines),
            "accelerator": list(self.accelerators),
            "device": list(self.devices),
            "temperature": [_number(value) for value in self.temperatures],
            "draft_sources": [parse_sources(value) for value in self.draft_sources or ()] or [None],
            "mtp": [parse_mtp(value) for value in self.mtps],
        }
        bases = [{"bundle": bundle, "threads": self.threads} for bundle in names]
        return cross(bases, axes, {} if self.bundles else names)


def _is_given(name: str) -> bool:
    """Whether the command line has the option with this parameter."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _alike(arms: Sequence[Arm]) -> list[Arm]:
    """With as many threads for this machine's arms of every engine: each would choose a number of its own."""
    from edge_mtp.harness.ask.arm import ENGINES

    if {arm.engine for arm in arms} != set(ENGINES):
        return list(arms)
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    return [replace(arm, threads=threads) if arm.threads is None and arm.device == "host" else arm for arm in arms]


def tiny_bundles(recipes: Sequence[str]) -> list[Path]:
    """The built-in tiny model in these recipes, exported now where they are not there yet."""
    from edge_mtp.cli.progress import export_progress
    from edge_mtp.export.defaults import VERIFY_WIDTHS
    from edge_mtp.export.tiny.bundle import cached_bundle

    with export_progress() as progress:
        return [cached_bundle(recipe, widths=VERIFY_WIDTHS, progress=progress) for recipe in recipes]


def homely(path: Path) -> str:
    """The path with `~` for the home folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _choice(option: str, value: str, choices: Mapping[str, bool | None]) -> bool | None:
    if value not in choices:
        raise EdgeMtpError(f"{option} '{value}' is none of {', '.join(choices)}; use one of them, or several")
    return choices[value]


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise EdgeMtpError(f"--temperature '{value}' is not a number; use one from 0 on") from None
