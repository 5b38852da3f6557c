"""`edge-mtp report`: results as one HTML file, with CSV and JSON beside it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_mtp.errors import EdgeMtpError
from edge_mtp.output_file import refuse_inputs
from edge_mtp.safe_text import shown


@click.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RESULTS.jsonl...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
    metavar="FILE.html", help="The page to write; the CSV and JSON files take its name.",
)  # fmt: skip
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write charts as SVG files to this folder.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the files and findings as one JSON object instead of text."
)
def report(results: tuple[Path, ...], output: Path, pictures: Path | None, as_json: bool) -> None:
    """Turn the results of bench or eval into one HTML file, CSV and JSON.

    The page needs no network and no scripts. Beside it, the command writes a .csv with one row for each answer and a
    .json with all figures, which `edge-mtp compare` reads. Several results make one page and a .N.json for each.

    \b
    edge-mtp report bench.jsonl
    edge-mtp report bench.jsonl eval.jsonl -o report.html --pictures charts/
    """
    from edge_mtp.harness.analyse.analysis import analyse
    from edge_mtp.harness.record.results import read_results
    from edge_mtp.harness.tell.headline import headlines
    from edge_mtp.harness.tell.report import Source, beside, write_report
    from edge_mtp.json_file import finite

    if output.suffix not in (".html", ".htm"):
        raise EdgeMtpError(f"'{output}' is no name of a page; name a .html file")
    table, analyses = beside(output, len(results))
    refuse_inputs((output, table, *analyses), results)
    sources = []
    for path in results:
        read = read_results(path)
        sources.append(Source(path.name, read, analyse(read)))
    written = write_report(sources, output, pictures, inputs=results)
    if as_json:
        value = {
            "page": str(written.page),
            "table": str(written.table),
            "analyses": [str(path) for path in written.analyses],
            "pictures": [str(path) for path in written.pictures],
            "results": [
                {
                    "file": source.name,
                    "simulated": source.analysis.run.simulated,
                    "findings": [each.to_json() for each in headlines(source.analysis)],
                }
                for source in sources
            ],
        }
        click.echo(json.dumps(finite(value)))
        return
    from edge_mtp.harness.tell.summary_table import show

    for source in sources:
        if len(sources) > 1:
            click.echo(shown(source.name))
        show(source.analysis)
    names = [written.page, written.table, *written.analyses, *written.pictures]
    click.echo()
    click.echo(shown(f"written: {', '.join(map(str, names))}"))
