"""The comparison of strategies: built from their runs; terminal table, JSON, plot and HTML page."""

from __future__ import annotations

from cprune_tf.report.compared.build import build_comparison
from cprune_tf.report.compared.types import ORIGINAL, Comparison, TimedModel, Timing
from cprune_tf.report.compared.write import WrittenComparison, read_timing, write_comparison

__all__ = [
    "ORIGINAL",
    "Comparison",
    "TimedModel",
    "Timing",
    "WrittenComparison",
    "build_comparison",
    "read_timing",
    "write_comparison",
]
