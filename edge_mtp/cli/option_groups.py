"""Options under headings, where a verb has too many for one list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option whose help stands under the heading `group`."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command that lists its options by group, in the order in which the groups first appear; others last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                listed = groups.setdefault(parameter.group, []) if isinstance(parameter, GroupedOption) else others
                listed.append(record)
        for name, records in {**groups, "Other": others}.items():
            with formatter.section(name):
                formatter.write_dl(records)


def option_group(group: str) -> Callable[..., Callable[[F], F]]:
    """`click.option` for the options of one group."""

    def option(*declarations: str, **attributes: Any) -> Callable[[F], F]:
        return click.option(*declarations, cls=GroupedOption, group=group, **attributes)

    return option
