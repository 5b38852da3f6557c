"""`edge-mtp devices`: what is within reach, and what is kept on a device."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edge_mtp.errors import EdgeMtpError

if TYPE_CHECKING:
    from edge_mtp.device.device import Fingerprint
    from edge_mtp.device.put import Entry


@click.group(invoke_without_command=True)
@click.option(
    "--device", "names", multiple=True, metavar="NAME",
    help="List only this device: an address, a board or any other name. May be repeated. Default: all within reach.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def devices(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """List the devices within reach and describe each of them.

    The list holds this machine, the devices of a running adb server, USB devices and emulators. Name a device at an
    address or over ssh with --device. If a device cannot be used, the list says why and what to do.

    \b
    edge-mtp devices --device 192.168.1.7:5555 --device ssh://me@board
    edge-mtp devices clean --device pixel
    """
    if ctx.invoked_subcommand is not None:
        if names or as_json:
            raise click.UsageError(f"give --device and --json behind {ctx.invoked_subcommand}.")
        return
    rows, unseen = _named(names) if names else _all()
    if as_json:
        click.echo(json.dumps({"devices": rows, "not_looked_at": unseen}))
    else:
        _show(rows)
        for line in unseen:
            click.echo(f"not looked at: {line}", err=True)
    if names and any(row["error"] for row in rows):
        ctx.exit(1)


def _all() -> tuple[list[dict[str, Any]], list[str]]:
    from edge_mtp.cli.several import on_each
    from edge_mtp.device.find import candidates
    from edge_mtp.device.host import HostDevice
    from edge_mtp.device.remote import RemoteDevice

    found, unseen = candidates()
    by_name = {candidate.name: candidate for candidate in found}

    def read(name: str) -> Fingerprint:
        if name == HostDevice.name:
            return HostDevice().fingerprint()
        with RemoteDevice(by_name[name].open(_notice)) as device:
            return device.fingerprint()

    rows = _rows(on_each([HostDevice.name, *by_name], lambda name, stop: read(name)))
    for row in rows[1:]:
        row["way"] = by_name[row["device"]].way
    return rows, unseen


def _named(names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    from contextlib import closing

    from edge_mtp.cli.several import on_each
    from edge_mtp.device.find import find_device

    def read(name: str) -> Fingerprint:
        with closing(find_device(name, notice=_notice)) as device:
            return device.fingerprint()

    return _rows(on_each(names, lambda name, stop: read(name))), []


def _rows(results: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "device": result.device,
            "way": None,
            "fingerprint": result.value.to_json() if result.value is not None else None,
            "error": result.error,
        }
        for result in results
    ]


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from edge_mtp.harness.stats.figures import size
    from edge_mtp.harness.tell.text_tables import aligned

    shown = [["device", "model", "SoC", "system", "ABI", "free", "memory", "battery", "accelerators"]]
    for row in rows:
        told = row["fingerprint"]
        if told is not None:
            percent = told["battery_percent"]
            system = (told["system"] or "-").partition(" (")[0]
            shown.append([
                row["device"], told["model"] or "-", told["soc"] or "-", system, told["abi"] or "-",
                size(told["free_bytes"]), size(told["memory_bytes"]), "-" if percent is None else f"{percent}%",
                ", ".join(told["accelerators"]) or "-",
            ])  # fmt: skip
    if len(shown) > 1:
        click.echo("\n".join(aligned(shown)))
    for row in rows:
        if row["error"]:
            click.echo(f"{row['device']}: {row['error']}")


@devices.command()
@click.option("--device", "name", required=True, metavar="NAME", help="The device to clean up.")
@click.option("--all", "everything", is_flag=True, help="Remove everything that edge-mtp has stored there.")
@click.option("--dry-run", is_flag=True, help="Only list what the command would remove.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def clean(name: str, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove old versions from edge-mtp's own folder on a device.

    The command keeps the latest bundle, the latest runner and the cache of runners; --all removes those too. It removes
    nothing outside that folder. A later run stores again what it needs.
    """
    from edge_mtp.device.find import find_device
    from edge_mtp.device.remote import RemoteDevice
    from edge_mtp.harness.stats.figures import size
    from edge_mtp.harness.tell.text_tables import aligned

    device = find_device(name, notice=_notice)
    if not isinstance(device, RemoteDevice):
        from edge_mtp.cache import cache_folder

        raise EdgeMtpError(f"nothing is ever put on '{name}'; what it caches is in {cache_folder()} and can be deleted")
    with device:
        entries = device.store.entries()
        kept = set() if everything else latest(entries)
        removed = {entry.name for entry in entries} - kept
        if not dry_run:
            removed = {entry.name for entry in device.store.clean(kept)}
    freed = sum(entry.bytes for entry in entries if entry.name in removed)
    if as_json:
        listed = [
            {"name": e.name, "bytes": e.bytes, "changed_s": e.changed_s, "removed": e.name in removed} for e in entries
        ]
        click.echo(json.dumps({"device": device.name, "dry_run": dry_run, "freed_bytes": freed, "entries": listed}))
        return
    gone = "would go" if dry_run else "removed"
    rows = [["", "size", "last changed", "name"]]
    for e in entries:
        changed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(e.changed_s))
        rows.append([gone if e.name in removed else "kept", size(e.bytes), changed, e.name])
    click.echo("\n".join(aligned(rows)) if entries else "nothing of edge-mtp's is there")
    click.echo(f"{size(freed)} {'would be ' if dry_run else ''}freed on {device.name}")


def latest(entries: Sequence[Entry]) -> set[str]:
    """The names of what a run is likely to need again: the newest of each kind, and the cache. Unfinished uploads are
    no kind.
    """
    newest: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.changed_s):
        folder, _, file = entry.name.partition("/")
        suffix = file.rpartition(".")[2] if folder == "bundles" and "." in file else ""
        if suffix != "part":
            newest[f"{folder}/{suffix}"] = entry
    return {entry.name for entry in newest.values()}


def _notice(line: str) -> None:
    click.echo(line, err=True)
