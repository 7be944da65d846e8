"""Writes all forms of a run's report into its directory."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from cprune_tf.report import figures, html, types
from cprune_tf.report.build import build_report
from cprune_tf.storage import files

JSON_NAME = "report.json"
HTML_NAME = "report.html"


@dataclasses.dataclass(frozen=True)
class WrittenReport:
    """A report and where it is.

    Attributes:
        report: What it says.
        json_path: The machine-readable form.
        html_path: The page.
        figure_names: Names of the plots in `figures/`.
    """

    report: types.Report
    json_path: pathlib.Path
    html_path: pathlib.Path
    figure_names: tuple[str, ...]


def write_report(run_dir: str | os.PathLike[str]) -> WrittenReport:
    """Makes report.json, report.html and figures/*.png of a run directory, finished or not.

    Args:
        run_dir: The directory.

    Returns:
        The report and its files' paths.

    Raises:
        ReportError: Where there is no journal.
        JournalError: Where the journal is damaged.
        StorageError: Where the file system refuses.
    """
    root = pathlib.Path(run_dir)
    report = build_report(root)
    plots = figures.write_figures(report, root / "figures")
    files.write_json(root / JSON_NAME, report)
    page = html.render(report, plots)
    files.write_bytes(root / HTML_NAME, page.encode("utf-8"))
    names = tuple(f"{plot.name}.png" for plot in plots)
    return WrittenReport(report, root / JSON_NAME, root / HTML_NAME, names)
