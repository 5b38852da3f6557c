"""What a reader must know of two results that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_mtp.harness.analyse.analysis import NO_SPEED, incompletion, refusal
from edge_mtp.harness.analyse.compare import Versus
from edge_mtp.harness.analyse.matching import listed, shared_items


def notes(versus: Versus) -> list[str]:
    """What a reader of the figures must know, a line each."""
    found = [] if versus.measures_speed else [NO_SPEED]
    a, b = versus.a, versus.b
    for side in dict.fromkeys((a, b)):
        found += [refusal(arm, reason) for arm, reason in side.refused.items()]
        cut = None if side.results is None else incompletion(side.results)
        found += [f"'{side.name}': {cut}"] if cut else []
    if versus.is_one_run:
        return found
    if versus.is_paired and versus.measures_speed:
        found.append(
            "The two runs were not interleaved: a drift of the machine between them is in speed, decode and all "
            "times. The change of speedup, MTP over plain within each run, is free of it."
        )
    elif not versus.is_paired:
        found.append("Figures are compared unpaired, from the estimates and intervals of each run.")
    found += _item_notes(versus)
    left = [arm for arm in a.labels if arm not in {pair.a for pair in versus.pairs}]
    right = [arm for arm in b.labels if arm not in {pair.b for pair in versus.pairs}]
    found += [f"Only in {name}: {listed(arms)}." for name, arms in (("A", left), ("B", right)) if arms]
    marks = [{"suite": run.suite, "simulated acceptance": run.simulated} for run in (a.run, b.run)]
    told: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("", marks[0], marks[1]),
        ("", a.run.settings, b.run.settings),
        ("version of ", a.run.versions, b.run.versions),
    ]
    for what, old, new in told:
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                found.append(f"The runs differ in {what}{key}: {old.get(key)} in A, {new.get(key)} in B.")
    for name in a.run.devices.keys() & b.run.devices.keys():
        if _lasting(a.run.devices[name]) != _lasting(b.run.devices[name]):
            found.append(f"The runs differ in what {name} is: another device, or another system on it.")
    return found


def _item_notes(versus: Versus) -> list[str]:
    if versus.a.results is None or versus.b.results is None:
        return []
    ours, theirs = versus.a.results.items, versus.b.results.items
    shared = shared_items(versus.a.results, versus.b.results)
    if len(shared) == len(ours) == len(theirs):
        return []
    renewed = sum(1 for name in ours.keys() & theirs.keys() if name not in shared)
    other = f" {renewed} more have the same name but other content." if renewed else ""
    what = "changes are of those alone" if shared else "nothing can be paired"
    return [f"{len(shared)} items are shared, of {len(ours)} in A and {len(theirs)} in B; {what}.{other}"]


def _lasting(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fingerprint.items() if key not in ("battery_percent", "free_bytes")}
