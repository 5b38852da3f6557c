"""A quality report as tables, for a terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mtp.harness.analyse.quality import QualityReport
from edge_mtp.harness.stats.figures import size
from edge_mtp.harness.stats.statistics import Estimate
from edge_mtp.harness.tell import text_tables
from edge_mtp.safe_text import shown


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]


def tables(report: QualityReport) -> list[Table]:
    """What `edge-mtp quality` shows: sizes, quality, then acceptance at each K."""
    lengths = sorted({a.draft_length for m in report.measurements for a in m.acceptance})
    return [_size_table(report), _quality_table(report), *(_acceptance_table(report, length) for length in lengths)]


def markdown(report: QualityReport) -> str:
    """The tables as Markdown, after the caption."""
    parts = [report.caption]
    for table in tables(report):
        lines = text_tables.markdown([table.header, *table.rows])
        parts.append(f"**{table.title}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _number(estimate: Estimate, digits: str) -> str:
    value, low, high = (format(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _size_table(report: QualityReport) -> Table:
    rows = [
        [
            m.label,
            m.relation if m is not report.reference else m.checkpoint or "",
            f"{m.bytes / 1e6:.2f} ({m.bytes / report.reference.bytes:.0%})",
            size(m.read),
            size(m.draft_read) if m.draft_read else "",
        ]
        for m in report.measurements
    ]
    return Table("Size", ["bundle", "checkpoint", "MB", "read a step", "read a draft"], rows)


def _quality_table(report: QualityReport) -> Table:
    rows = []
    for m in report.measurements:
        d, c = m.divergence, m.calls
        rows.append(
            [
                m.label,
                _number(d.kl, ".2g") if d else "",
                _percent(d.agreement) if d else "",
                _percent(c.share) if c else "",
                f"-{c.lost} +{c.gained}, p={c.p_value:.2g}" if c and m is not report.reference else "",
                str(m.unfinished),
            ]
        )
    header = ["bundle", "KL, nats a token", "same argmax", "exact calls", "calls to reference", "no end"]
    return Table("Distributions and tool calls", header, rows)


def _acceptance_table(report: QualityReport, length: int) -> Table:
    rows = []
    for m in report.measurements:
        for a in m.acceptance:
            if a.draft_length != length:
                continue
            per_verify, change = _number(a.tokens_per_verify, ".2f"), a.change
            loss = f"{_number(change.difference, '+.2f')}: {change.verdict}" if change else ""
            rows.append([m.label, "tokens per verify", per_verify, loss])
            for p in a.positions:
                loss = f"{_number(p.change.difference.scaled(100), '+.1f')}: {p.change.verdict}" if p.change else ""
                rows.append(["", f"draft {p.position}", _percent(p.share), loss])
    return Table(f"Drafts accepted at K = {length}", ["bundle", "", "value", "less reference"], rows)


def show(report: QualityReport) -> None:
    """The tables on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for table in tables(report):
        # As Text: the names of files and prompts are no markup.
        grid = Table(title=Text(shown(table.title)), title_justify="left", title_style="bold")
        for column in table.header:
            grid.add_column(Text(shown(column)), overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(shown(cell)) for cell in row))
        console.print(grid)
    console.print(Text(shown(report.caption)), highlight=False)
