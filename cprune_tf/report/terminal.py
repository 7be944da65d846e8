"""The report as tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import rich.box
import rich.console
import rich.panel
import rich.table
import rich.text

from cprune_tf.report import formats, types

_TOO_SLOW = "refused_latency"
_STYLES = {
    "accepted": "green",
    _TOO_SLOW: "yellow",
    "refused_accuracy": "magenta",
    "infeasible": "dim",
}


def render(report: types.Report) -> rich.console.Group:
    """Makes the tables.

    Args:
        report: What they say.

    Returns:
        Something a rich console prints.
    """
    parts: list[rich.console.RenderableType] = [_heading(report), _summary(report)]
    if report.decisions:
        parts.append(_decisions(report))
    if report.cross_check is not None:
        parts.append(_cross_check(report.cross_check))
    if report.files:
        parts.append(_files(report))
    notes = [*(report.cross_check.problems if report.cross_check else ()), *report.notes]
    parts.extend(rich.text.Text(f"! {note}", style="yellow") for note in notes)
    return rich.console.Group(*parts)


def _heading(report: types.Report) -> rich.panel.Panel:
    where = report.device.name or "device not recorded"
    text = rich.text.Text()
    text.append(f"{report.verdict}\n", style="bold")
    text.append(f"{report.status}\n")
    text.append(f"Device: {where}{' (emulated)' if report.device.emulated else ''}", style="dim")
    border = "green" if report.finished else "yellow"
    return rich.panel.Panel(text, title=f"cprune_tf: {report.title}", border_style=border)


def _table(title: str, *columns: str, numbers: int = 0) -> rich.table.Table:
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(columns):
        justify = "right" if i >= len(columns) - numbers else "left"
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    return table


def _value(value: float | None, written: Callable[[float], str]) -> str:
    return formats.MISSING if value is None else written(value)


def _summary(report: types.Report) -> rich.table.Table:
    after = "pruned" if report.finished else "so far"
    table = _table("Before and after", "", "original", after, "change", numbers=3)
    emulated = ", emulated" if report.device.emulated else ""
    for row in report.latencies:
        runtime = formats.runtime(row.runtime, row.processor)
        name = f"latency, {runtime}, {formats.threads(row.num_threads)}"
        speed = "" if row.speedup is None else f"{formats.factor(row.speedup)} speed"
        if row.is_clear is False:
            speed += ", not clear"
        table.add_row(name + emulated, _latency(row.original), _latency(row.pruned), speed)
    for accuracy in report.accuracies:
        table.add_row(
            f"{formats.metric(report.metric)}, {formats.runtime(accuracy.name)}",
            _value(accuracy.original, formats.percent),
            _value(accuracy.pruned, formats.percent),
            "" if accuracy.difference is None else formats.points(accuracy.difference),
        )
    for size in report.sizes:
        table.add_row(
            size.name,
            formats.MISSING if size.original is None else formats.size(size.name, size.original),
            formats.MISSING if size.pruned is None else formats.size(size.name, size.pruned),
            "" if size.ratio is None else formats.change(size.ratio),
        )
    return table


def _latency(latency: types.Latency | None) -> str:
    if latency is None:
        return formats.MISSING
    if latency.q1_ms is None or latency.q3_ms is None:
        return formats.milliseconds(latency.median_ms)
    low, high = (formats.significant(q) for q in (latency.q1_ms, latency.q3_ms))
    return f"{formats.milliseconds(latency.median_ms)} [{low}–{high}]"


def _decisions(report: types.Report) -> rich.table.Table:
    # Latency refusals are many and cheap; the page and the log have them all.
    shown = [row for row in report.decisions if row.decision != _TOO_SLOW]
    left_out = len(report.decisions) - len(shown)
    title = "Decisions" + (f" ({left_out} latency refusals left out)" if left_out else "")
    table = _table(title, "#", "decision", "task", "removed", "latency", "accuracy", "why")
    for row in shown:
        removed = ", ".join(f"{count} of {group}" for group, count in row.removed.items())
        measured = row.measured.median_ms if row.measured else None
        predicted = "" if row.price_ms is None else f"~{formats.milliseconds(row.price_ms)}"
        table.add_row(
            str(row.number),
            rich.text.Text(formats.decision(row.decision), style=_STYLES.get(row.decision, "")),
            rich.text.Text(row.task or ""),
            rich.text.Text(removed),
            predicted if measured is None else formats.milliseconds(measured),
            "" if row.accuracy is None else formats.percent(row.accuracy),
            rich.text.Text(row.reason or ""),
        )
    return table


def _cross_check(check: types.CrossCheck) -> rich.table.Table:
    images = _value(check.num_images, formats.count)
    table = _table(
        f"Cross-check against Keras ({images} images)",
        "model",
        "runtime",
        "max abs error",
        "max rel error",
        "agreement",
        numbers=3,
    )
    for row in check.checks:
        if row.runtime == "keras":
            continue
        table.add_row(
            row.deployment,
            formats.runtime(row.runtime),
            _value(row.max_abs_error, formats.error),
            _value(row.max_relative_error, formats.error),
            _value(row.top1_agreement, formats.percent),
        )
    return table


def _files(report: types.Report) -> rich.table.Table:
    table = _table("Files", "what", "path", "size", numbers=1)
    for file in report.files:
        size = _value(file.bytes, formats.file_bytes)
        table.add_row(rich.text.Text(file.name), rich.text.Text(file.path), size)
    return table
