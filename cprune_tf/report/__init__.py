"""The report of a run: terminal tables, report.json, figures and one self-contained report.html."""

from __future__ import annotations

from cprune_tf.report.build import ReportError, build_report
from cprune_tf.report.types import Report
from cprune_tf.report.write import WrittenReport, write_report

__all__ = ["Report", "ReportError", "WrittenReport", "build_report", "write_report"]
