"""A quality report as a plot: acceptance by position, and KL of each bundle."""

from __future__ import annotations

from pathlib import Path

from edge_mtp.errors import EdgeMtpError
from edge_mtp.harness.analyse.quality import QualityReport


def plot(report: QualityReport, path: Path) -> None:
    """Acceptance by position (largest K) and KL of each bundle, in the format of the file's suffix (.svg, .png).

    Raises EdgeMtpError: matplotlib is not installed, or the file cannot be written in that format.
    """
    try:
        from matplotlib import colormaps, rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeMtpError("a plot needs matplotlib, which is not installed: pip install 'edge-mtp[report]'") from error
    count = len(report.measurements)
    figure = Figure(figsize=(12, max(4.2, 0.3 * count)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {m.label: colormaps["tab20"](index % 20) for index, m in enumerate(report.measurements)}
    for index, m in enumerate(report.measurements):
        if not m.acceptance:
            continue
        positions = m.acceptance[-1].positions
        shares = [p.share for p in positions]
        left.errorbar(
            [p.position + 0.5 * (index - (count - 1) / 2) / count for p in positions],
            [s.value for s in shares],
            yerr=[[s.value - s.low for s in shares], [s.high - s.value for s in shares]],
            fmt="o", markersize=4, capsize=2, color=colours[m.label],
            label=f"{m.label}, K = {m.acceptance[-1].draft_length}",
        )  # fmt: skip
    left.set_xlabel("draft position")
    left.set_ylabel("accepted, of the steps that reached it")
    left.xaxis.get_major_locator().set_params(integer=True)
    if left.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", fontsize="small")
    measured = [(m.label, m.divergence.kl) for m in report.measurements if m.divergence]
    for row, (label, kl) in enumerate(measured):
        reach = [[kl.value - kl.low], [kl.high - kl.value]]
        right.errorbar(kl.value, row, xerr=reach, fmt="o", capsize=2, color=colours[label])
    if measured and all(kl.low > 0 for _, kl in measured):
        right.set_xscale("log")
    right.set_yticks(range(len(measured)), [label for label, _ in measured])
    right.invert_yaxis()
    right.set_xlabel(f"KL({report.reference.label} || bundle), nats a token")
    figure.suptitle(report.caption, fontsize="x-small", wrap=True)
    # Without date and random ids the same report gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        with rc_context({"svg.hashsalt": "edge-mtp"}):
            figure.savefig(path, metadata=metadata)
    except (OSError, ValueError) as error:
        raise EdgeMtpError(f"cannot write plot '{path}' ({error}); name a .svg or .png file") from error
