"""Renders the comparison of strategies for the terminal, within 80 columns."""

from __future__ import annotations

import rich.box
import rich.console
import rich.panel
import rich.table
import rich.text

from cprune_tf.accuracy import Metric
from cprune_tf.report import formats
from cprune_tf.report.compared import types

_STATES = {
    types.MISSED: ("{word} missed", "magenta"),
    types.UNPRUNED: ("not pruned", "yellow"),
    types.FAILED: ("failed", "red"),
}


def render(comparison: types.Comparison) -> rich.console.Group:
    """Renders the verdict, the table and the notes.

    Args:
        comparison: The comparison.

    Returns:
        What a rich console prints.
    """
    text = rich.text.Text()
    text.append(f"{comparison.verdict}\n", style="bold")
    emulated = " (emulated)" if comparison.emulated else ""
    text.append(f"Device: {comparison.device_name or 'not recorded'}{emulated}", style="dim")
    panel = rich.panel.Panel(
        text, title=rich.text.Text(f"cprune_tf: strategies for {comparison.title}")
    )
    notes = [rich.text.Text(f"! {note}", style="yellow") for note in comparison.notes]
    return rich.console.Group(panel, _table(comparison), *notes)


def _table(comparison: types.Comparison) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("strategy")
    metric = comparison.judged_by
    accuracy = metric.label.removesuffix(" accuracy")
    for heading in (
        "speed-up\n[quartiles]",
        f"{accuracy},\ntest",
        f"{accuracy},\ndeciding",
        "search\ntime",
        "candidates\n(trained)",
    ):
        table.add_column(rich.text.Text(heading), justify="right")
    original = comparison.original
    table.add_row(
        types.ORIGINAL,
        "",
        _score(metric, original.test_accuracy),
        _score(metric, original.deciding_accuracy),
    )
    for row in comparison.rows:
        table.add_row(
            _name(row, metric),
            _speedup(row),
            _score(metric, row.test_accuracy),
            _score(metric, row.deciding_accuracy),
            "" if row.cost is None else formats.duration(row.cost.search_sec),
            "" if row.cost is None else f"{row.cost.num_candidates} ({row.cost.num_trained})",
        )
    return table


def _name(row: types.Row, metric: Metric) -> rich.text.Text:
    text = rich.text.Text(row.strategy)
    if row.state in _STATES:
        state, style = _STATES[row.state]
        text.append(f"\n{state.format(word=metric.word)}", style=style)
    return text


def _speedup(row: types.Row) -> str:
    if row.speedup is None:
        return formats.milliseconds(row.latency.median_ms) if row.latency else ""
    median, low, high = row.speedup.median, row.speedup.low, row.speedup.high
    return f"{formats.factor(median)}\n[{low:.2f}–{high:.2f}]"


def _score(metric: Metric, value: float | None) -> str:
    return "" if value is None else formats.score(metric, value)
