"""One HTML file of a run's results, to be read offline, with CSV and JSON beside it. For users: docs/report.md."""

from edge_mtp.harness.tell.report.facts import Source
from edge_mtp.harness.tell.report.write import Written, beside, write_report

__all__ = ["Source", "Written", "beside", "write_report"]
