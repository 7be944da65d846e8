"""Renders the report as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import rich.box
import rich.console
import rich.panel
import rich.table
import rich.text

from cprune_tf.accuracy import Metric
from cprune_tf.report import formats, types
from cprune_tf.runs.events import ACCEPTED, REFUSED_ACCURACY, REFUSED_LATENCY

_STYLES = {ACCEPTED: "green", REFUSED_LATENCY: "yellow", REFUSED_ACCURACY: "magenta"}
_MAX_TARGETS = 5


def render(report: types.Report) -> rich.console.Group:
    """Renders the tables.

    Args:
        report: The report.

    Returns:
        The tables and notes, for a rich console to print.
    """
    parts: list[rich.console.RenderableType] = [_heading(report), _summary(report)]
    if report.shippable:
        parts.append(_shippable(report))
    if report.decisions:
        parts.append(_decisions(report))
    if report.ruled_out:
        parts.append(_ruled_out(report.ruled_out))
    if report.patterns is not None:
        parts += [_sparse_layers(report.patterns), _stored(report.patterns)]
    if report.cross_check is not None:
        parts.append(_cross_check(report.cross_check, report.judged_by))
    if report.files:
        parts.append(_files(report))
    notes = [*(report.cross_check.problems if report.cross_check else ()), *report.notes]
    parts.extend(rich.text.Text(f"! {note}", style="yellow") for note in notes)
    return rich.console.Group(*parts)


def _heading(report: types.Report) -> rich.panel.Panel:
    device = report.device.name or "not recorded"
    text = rich.text.Text()
    text.append(f"{report.verdict}\n", style="bold")
    text.append(f"{report.status}\n")
    text.append(f"Device: {device}{' (emulated)' if report.device.emulated else ''}", style="dim")
    border = "green" if report.finished else "yellow"
    return rich.panel.Panel(
        text, title=rich.text.Text(f"cprune_tf: {report.title}"), border_style=border
    )


def _table(title: str, *columns: str, numbers: int = 0) -> rich.table.Table:
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(columns):
        justify = "right" if i >= len(columns) - numbers else "left"
        table.add_column(rich.text.Text(column), justify=justify)  # type: ignore[arg-type]
    return table


def _value(value: float | None, format_value: Callable[[float], str]) -> str:
    return formats.MISSING if value is None else format_value(value)


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
    metric = report.judged_by
    for accuracy in report.accuracies:
        table.add_row(
            f"{metric.label}, {formats.runtime(accuracy.name, items=metric.items)}",
            _score(metric, accuracy.original),
            _score(metric, accuracy.pruned),
            _difference(metric, accuracy),
        )
    for size in report.sizes:
        table.add_row(
            size.name,
            formats.MISSING if size.original is None else formats.size(size.name, size.original),
            formats.MISSING if size.pruned is None else formats.size(size.name, size.pruned),
            "" if size.ratio is None else formats.change(size.ratio),
        )
    return table


def _score(metric: Metric, value: float | None) -> str:
    return formats.MISSING if value is None else formats.score(metric, value)


def _difference(metric: Metric, row: types.Comparison) -> str:
    if row.difference is None:
        return ""
    return formats.change_with_error(metric, row.difference, row.standard_error)


def _latency(latency: types.Latency | None) -> str:
    if latency is None:
        return formats.MISSING
    quartiles = formats.milliseconds_like(latency.median_ms, latency.q1_ms, latency.q3_ms)
    return f"{formats.milliseconds(latency.median_ms)} [{'–'.join(quartiles)}]"


def _decisions(report: types.Report) -> rich.table.Table:
    # Many candidates are refused for their latency; the page and the log list all of them.
    rows = [row for row in report.decisions if row.decision != REFUSED_LATENCY]
    num_hidden = len(report.decisions) - len(rows)
    title = "Decisions" + (f" ({num_hidden} latency refusals left out)" if num_hidden else "")
    metric = report.judged_by
    table = _table(title, "#", "decision", "task", "removed", "latency", metric.word, "why")
    for row in rows:
        channels = ", ".join(f"{count} of {group}" for group, count in row.removed.items())
        table.add_row(
            str(row.number),
            rich.text.Text(
                formats.decision(row.decision, metric), style=_STYLES.get(row.decision, "")
            ),
            rich.text.Text(row.task),
            rich.text.Text(channels),
            _candidate_latency(row),
            "" if row.accuracy is None else formats.score(metric, row.accuracy),
            rich.text.Text(row.reason),
        )
    return table


def _candidate_latency(row: types.Decision) -> str:
    # The ratio comes first, since it was measured side by side. Absolute times drift with the
    # machine.
    if row.measured is not None and row.latency_ratio is not None:
        milliseconds = formats.milliseconds(row.measured.median_ms)
        return f"{formats.ratio(row.latency_ratio)} of the current, {milliseconds}"
    if row.price_ms is not None and row.price_ratio is not None:
        milliseconds = formats.milliseconds(row.price_ms)
        return f"~{formats.ratio(row.price_ratio)} of the current, ~{milliseconds}"
    return ""


def _ruled_out(targets: Sequence[types.RuledOut]) -> rich.text.Text:
    number = sum(len(target.steps) for target in targets)
    descriptions = [
        f"{target.key}: {', '.join(map(str, target.steps))} removed "
        f"({formats.ratios(target.lowest_ratio, target.highest_ratio)} of the current latency)"
        for target in targets[:_MAX_TARGETS]
    ]
    if len(targets) > _MAX_TARGETS:
        descriptions.append(f"and {len(targets) - _MAX_TARGETS} more targets")
    text = f"Channel counts ruled out by their price: {number} ({'; '.join(descriptions)})"
    return rich.text.Text(text, style="dim")


def _shippable(report: types.Report) -> rich.table.Table:
    threads = [formats.threads(count) for count in report.shippable_threads]
    metric, numbers = report.judged_by, len(threads) + 2
    table = _table("What to ship", "", "file", *threads, metric.label, "size", numbers=numbers)
    for row in report.shippable:
        accuracy = _score(metric, row.accuracy)
        table.add_row(
            "→" if row.is_best else "",
            f"{row.deployment}, {formats.runtime(row.runtime)}",
            *(
                formats.MISSING if one is None else formats.milliseconds(one.median_ms)
                for one in row.latencies
            ),
            accuracy if row.suffices is not False else f"{accuracy}, {_too_bad(metric)}",
            formats.file_bytes(row.file_bytes),
            style="bold" if row.is_best else None,
        )
    return table


def _too_bad(metric: Metric) -> str:
    return "too high" if metric.is_minimized else "too low"


def _sparse_layers(patterns: types.Patterns) -> rich.table.Table:
    result = "" if patterns.is_delivered else ", which the result does not have"
    title = f"Patterns ({len(patterns.drawn)}, {patterns.method}{result})"
    columns = ("block", "kernels kept", "rate", "patterns", "density")
    table = _table(title, "layer", "kernel", *columns, numbers=len(columns))
    for row in patterns.layers:
        table.add_row(
            rich.text.Text(row.layer),
            row.kernel,
            formats.count(row.block_size),
            f"{formats.count(row.num_kept)} of {formats.count(row.num_kernels)}",
            formats.factor(row.rate),
            formats.count(row.num_patterns),
            formats.percent(row.density),
        )
    return table


def _stored(patterns: types.Patterns) -> rich.table.Table:
    table = _table("Bytes of weights", "form", "size", numbers=1)
    for row in patterns.storage:
        table.add_row(rich.text.Text(row.name), formats.file_bytes(row.bytes))
    return table


def _cross_check(check: types.CrossCheck, metric: Metric) -> rich.table.Table:
    table = _table(
        f"Cross-check against Keras ({formats.count(check.num_images)} {metric.items})",
        "model",
        "runtime",
        "max abs error",
        "max rel error",
        *(["agreement"] if metric.is_rank else []),
        numbers=3 if metric.is_rank else 2,
    )
    for row in check.checks:
        if row.runtime == "keras":
            continue
        table.add_row(
            row.deployment,
            formats.runtime(row.runtime),
            _value(row.max_abs_error, formats.error),
            _value(row.max_relative_error, formats.error),
            *([] if row.top1_agreement is None else [formats.percent(row.top1_agreement)]),
        )
    return table


def _files(report: types.Report) -> rich.table.Table:
    table = _table("Files", "what", "path", "size", numbers=1)
    for file in report.files:
        size = formats.file_bytes(file.bytes)
        table.add_row(rich.text.Text(file.name), rich.text.Text(file.path), size)
    return table
