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
    """A report and the paths of its files.

    Attributes:
        report: The report.
        json_path: Path of the machine-readable form.
        html_path: Path of the page.
        figure_names: File names of the plots in `figures/`.
    """

    report: types.Report
    json_path: pathlib.Path
    html_path: pathlib.Path
    figure_names: tuple[str, ...]


def write_report(run_dir: str | os.PathLike[str]) -> WrittenReport:
    """Writes report.json, report.html and figures/*.png of a finished or unfinished run.

    Args:
        run_dir: The run directory.

    Returns:
        The report and the paths of its files.

    Raises:
        ReportError: If the directory holds no journal, or a JSON file in it cannot be read.
        JournalError: If the journal is damaged or has another format.
        StorageError: If a file cannot be written.
    """
    root = pathlib.Path(run_dir)
    report = build_report(root)
    plots = figures.write_figures(report, root / "figures")
    files.write_json(root / JSON_NAME, report)
    page = html.render(report, plots)
    files.write_bytes(root / HTML_NAME, page.encode("utf-8"))
    names = tuple(f"{plot.name}.png" for plot in plots)
    return WrittenReport(report, root / JSON_NAME, root / HTML_NAME, names)
