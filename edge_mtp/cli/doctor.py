"""`edge-mtp doctor`: whether a device can run a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.option("--device", default="host", show_default=True, metavar="NAME", help="The device to check.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE", help="Check the device for this bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def doctor(ctx: click.Context, device: str, bundle: Path | None, as_json: bool) -> None:
    """Check whether a device can run a bundle, and how well.

    The checks cover the binaries for the device, whether programs run from edge-mtp's folder there, accelerators that a
    shell may load, memory, space, storage speed (with a file of 64 MB), heat and battery. With a bundle the command
    also puts it on the device, and tries there each accelerator for which it has graphs: whether it computes what the
    CPU does, and how fast. Each finding is ok, a warning or a problem, and says what to do; the exit status is 1 if
    there is a problem.
    """
    from contextlib import closing

    from edge_mtp.cli.device_progress import notice_for, transfer_lines
    from edge_mtp.device.doctor import examine
    from edge_mtp.device.find import find_device
    from edge_mtp.formats.bundle import Bundle

    needed = Bundle(bundle) if bundle is not None else None
    findings = []
    # Lines, not bars: findings are printed meanwhile.
    with closing(find_device(device, notice=notice_for(device), report=transfer_lines(device))) as target:
        for finding in examine(target, needed):
            findings.append(finding)
            if not as_json:
                level = click.style(f"{finding.level:<8}", fg=COLOURS[finding.level])
                click.echo(f"{level} {finding.name:<18} {finding.value}")
                if finding.cure is not None:
                    click.echo(f"{'':27} -> {finding.cure}")
    failed = any(finding.level == "problem" for finding in findings)
    if as_json:
        shown = [finding.to_json() for finding in findings]
        click.echo(json.dumps({"device": target.name, "ok": not failed, "findings": shown}))
    if failed:
        ctx.exit(1)
