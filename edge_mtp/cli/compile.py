"""`edge-mtp compile`: a bundle's graphs for the NPU of one SoC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_mtp.cli.progress import export_progress
from edge_mtp.harness.stats.figures import size
from edge_mtp.safe_text import shown

if TYPE_CHECKING:
    from edge_mtp.export.socs import Soc

_FILE = click.Path(path_type=Path)


def _options(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"'{each}' is not KEY=VALUE.")
        options[name] = value
    return options


@click.command("compile")
@click.argument("bundle", type=_FILE, required=False)
@click.option("--soc", metavar="NAME", help="The SoC to compile for, such as SM8750; --list-soc lists them.")
@click.option("--list-soc", is_flag=True, help="List the SoCs, and whether the SDK of their vendor is installed.")
@click.option(
    "-o", "--output", type=_FILE, help="The bundle to write; default: BUNDLE-SOC.litertlm in the current directory."
)
@click.option(
    "--vendor-option", "options", multiple=True, callback=_options, metavar="KEY=VALUE",
    help="An option of the vendor's compiler, under LiteRT's name for it. May be repeated.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def compile_command(
    bundle: Path | None, soc: str | None, list_soc: bool, output: Path | None, options: dict[str, str], as_json: bool
) -> None:
    """Compile the NPU graphs of BUNDLE for one SoC, ahead of time.

    The compilers are those of Qualcomm, MediaTek, Google Tensor, Samsung and Intel, in LiteRT's plug-ins; each needs
    its vendor's SDK. The new bundle has the compiled graphs in place of the others, and all other sections as they
    were. The command refuses a bundle if the NPU cannot run every operator of its graphs.

    \b
    edge-mtp export --model tiny --accelerators cpu,npu
    edge-mtp compile --soc SM8750 tiny-int8.litertlm
    edge-mtp compile --list-soc
    """
    if list_soc:
        if bundle is not None or soc is not None:
            raise click.UsageError("--list-soc compiles nothing; drop it, or --soc and BUNDLE.")
        _list(as_json)
        return
    if soc is None or bundle is None:
        raise click.UsageError("give --soc NAME and BUNDLE, or --list-soc.")
    from edge_mtp.export.compiled import compile_bundle
    from edge_mtp.export.socs import find_soc

    path = output or Path(f"{bundle.stem}-{find_soc(soc).name}.litertlm")
    with export_progress() as progress:
        made = compile_bundle(bundle, soc, path, options=options, progress=progress)
    if as_json:
        told = {
            "path": str(made.path),
            "bytes": made.bytes,
            "soc": made.soc.name,
            "vendor": made.soc.vendor.name,
            "section_bytes": made.section_bytes,
            "operators": made.operators,
            "seconds": round(made.seconds, 2),
        }
        click.echo(json.dumps(told))
        return
    for name, count in made.operators.items():
        click.echo(shown(f"{name:>20} {count:6} operators, all on the NPU"))
    target = f"{made.soc.vendor.name} {made.soc.name}"
    click.echo(shown(f"{made.path}: {size(made.bytes)} for {target} in {made.seconds:.0f} s"))


def _list(as_json: bool) -> None:
    from edge_mtp.export.socs import sdk_of, socs

    found: dict[str, list[Soc]] = {}
    for soc in socs():
        found.setdefault(soc.vendor.name, []).append(soc)
    sdks = {name: sdk_of(each[0].vendor) for name, each in found.items()}
    if as_json:
        vendors = [
            {"vendor": name, "sdk": sdks[name].state, "cure": sdks[name].cure or None, "socs": [s.name for s in each]}
            for name, each in found.items()
        ]
        click.echo(json.dumps({"vendors": vendors}))
        return
    for name, each in found.items():
        click.echo(f"{name}: {', '.join(soc.name for soc in each)}")
        click.echo(f"  SDK: {sdks[name].cure or 'installed'}")
