"""`edge-mtp setup`: what other devices need beside a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.device.binaries import Target

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("kind", type=click.Choice(["android", "linux"]))
@click.option(
    "--abi",
    "abis",
    multiple=True,
    metavar="ABI",
    help="arm64-v8a or x86_64 for android; aarch64 or x86_64 for linux. May be repeated. Default: all.",
)
@click.option(
    "--runner",
    "runners",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A runner that you have built. May be repeated.",
)
@click.option(
    "--library",
    "libraries",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A library of an NPU's vendor that the device lacks. May be repeated.",
)
@click.option(
    "--forget", multiple=True, metavar="NAME", help="Remove a library that --library has stored. May be repeated."
)
@click.option(
    "--from", "folder", type=_FILE, metavar="FOLDER", help="Take the downloads from this folder, without a network."
)
@click.option(
    "--lock", type=_FILE, metavar="FILE", help="The lock file for the hashes; default: one in the cache folder."
)
@click.option("--maven", metavar="URL", help="A mirror of Google's Maven repository.")
@click.option("--json", "as_json", is_flag=True, help="Print the stored files as one JSON object.")
def setup(
    kind: str,
    abis: tuple[str, ...],
    runners: tuple[Path, ...],
    libraries: tuple[Path, ...],
    forget: tuple[str, ...],
    folder: Path | None,
    lock: Path | None,
    maven: str | None,
    as_json: bool,
) -> None:
    """Fetch LiteRT for devices of KIND, android or linux, and store the runners built for them.

    The command takes LiteRT's libraries from Google's Maven repository (android) or the Python package index (linux),
    in the release that this edge-mtp needs, and checks them against the published checksum. It records their sha256 in
    a lock file, and refuses a file that differs from the record.

    No runners are published yet: build one with a CMake preset and pass it with --runner. The command reads the ABI
    from the file, and refuses a runner that some device of that kind could not load.

    LiteRT has no libraries for NPUs in these downloads. Take them from the NPU's vendor, for example
    libLiteRtDispatch_Qualcomm.so and QNN's libraries, and pass each with --library. They go to devices beside the
    runner.
    """
    from edge_mtp.cli.progress import export_progress
    from edge_mtp.device import binaries
    from edge_mtp.device.maven import GOOGLE

    if maven is not None and (folder is not None or kind != "android"):
        raise click.UsageError("--maven is for android, and without --from; drop one.")
    if folder is not None and not folder.is_dir():
        raise EdgeMtpError(f"'{folder}' is not a folder; name the one with the downloads")
    known = [target for target in binaries.TARGETS if target.kind == kind and not binaries.is_this_machine(target)]
    wanted = [binaries.find_target(kind, abi) for abi in abis] or known
    every = [target for target in binaries.TARGETS if target.kind == kind]
    for name in forget:
        if not binaries.forget_vendor_library(name, [target for target in every if not abis or target.abi in abis]):
            raise EdgeMtpError(f"no library '{name}' is stored; 'edge-mtp setup {kind} --json' lists them")
    served = {path: binaries.vendor_targets(path, kind) for path in libraries}
    for runner in runners:
        wanted.append(binaries.add_runner(runner, kind))
    for targets in served.values():
        wanted += targets
    wanted = list(dict.fromkeys(wanted))
    with export_progress() as progress:
        binaries.add_libraries(wanted, lock=lock, folder=folder, repository=maven or GOOGLE, progress=progress)
    for path, targets in served.items():
        for target in targets:
            binaries.add_vendor_library(path, target)
    found = [_state(target) for target in wanted]
    if as_json:
        click.echo(json.dumps({"lock": str(lock or binaries.lock_file()), "targets": found}))
        return
    for state in found:
        click.echo(f"{state['kind']} {state['abi']}: {', '.join(state['files'])}")
        for name, digest in state["vendor"].items():
            click.echo(f"  from --library: {name}, sha256 {digest}")
        if state["missing"] is not None:
            click.echo(f"  {state['missing']}")


def _state(target: Target) -> dict[str, Any]:
    """`missing` is what has to be done before bundles run on the target; None: nothing."""
    from edge_mtp.device import binaries

    state: dict[str, Any] = {"kind": target.kind, "abi": target.abi, "files": {}, "digest": None, "missing": None}
    state["vendor"] = binaries.vendor_record(target)  # sha256 of what --library has stored
    try:
        complete = binaries.binaries_for(target.kind, target.abi)
        state |= {"files": {name: str(path) for name, path in complete.files.items()}, "digest": complete.digest}
    except EdgeMtpError as error:
        state["files"] = {name: str(path) for name, path in binaries.installed_libraries(target).items()}
        state["missing"] = str(error)
    return state
